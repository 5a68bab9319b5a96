"""Saliency maps that are learned, fast and honest, inside Captum."""

from captum_masking.model import MaskingModel
from captum_masking.saliency import MaskingSaliency
from captum_masking.schedule import FineTune, FromScratch
from captum_masking.trainer import MaskingTrainer

__version__ = "0.1.0"
__all__ = [
    "FineTune",
    "FromScratch",
    "MaskingModel",
    "MaskingSaliency",
    "MaskingTrainer",
    "__version__",
]
