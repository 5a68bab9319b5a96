"""Saliency maps that are learned, fast and honest, inside Captum."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captum_masking.model.model import MaskingModel
    from captum_masking.saliency.saliency import MaskingSaliency
    from captum_masking.training.classifier import FineTune, FromScratch
    from captum_masking.training.trainer import MaskingTrainer

__version__ = "0.1.0"
__all__ = [
    "FineTune",
    "FromScratch",
    "MaskingModel",
    "MaskingSaliency",
    "MaskingTrainer",
    "__version__",
]

_HOMES = {
    "FineTune": "training.classifier",
    "FromScratch": "training.classifier",
    "MaskingModel": "model.model",
    "MaskingSaliency": "saliency.saliency",
    "MaskingTrainer": "training.trainer",
}


def __getattr__(name: str) -> Any:
    """Import a class when it is first asked for: ``captum-masking --help`` needs none of them."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """List what there is, whether it has been imported or not."""
    return sorted({*globals(), *__all__})
