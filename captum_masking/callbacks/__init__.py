"""What watches a training and may steer it."""

from captum_masking.callbacks.adaptive_area import AdaptiveArea
from captum_masking.callbacks.contract import Callback
from captum_masking.callbacks.early_stopping import EarlyStopping
from captum_masking.callbacks.pictures import Pictures, stretch
from captum_masking.callbacks.restart import forget, zero_last_layer
from captum_masking.callbacks.saliency_metric import saliency_metric_figure
from captum_masking.callbacks.tensorboard import TensorBoard

__all__ = [
    "AdaptiveArea",
    "Callback",
    "EarlyStopping",
    "Pictures",
    "TensorBoard",
    "forget",
    "saliency_metric_figure",
    "stretch",
    "zero_last_layer",
]
