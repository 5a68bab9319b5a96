"""Which classifier feature maps the masker reads: taps on named modules, checked every time."""

from captum_masking.encoder.find import NoMapsError, find_joint_layers, find_layers
from captum_masking.encoder.layouts import layouts_of
from captum_masking.encoder.taps import Taps, check_tappable, tappable

__all__ = [
    "NoMapsError",
    "Taps",
    "check_tappable",
    "find_joint_layers",
    "find_layers",
    "layouts_of",
    "tappable",
]
