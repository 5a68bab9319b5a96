"""Learned saliency masks for Captum: one forward pass, one heat map."""

from typing import TYPE_CHECKING

from captum_masking._base import lazily

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

__getattr__, __dir__ = lazily(__name__, _HOMES)
