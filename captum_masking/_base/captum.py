"""Captum's private names, imported here and nowhere else, so that a move breaks in one place."""

from captum._utils.common import _format_additional_forward_args, _is_tuple, _select_targets
from captum._utils.progress import progress
from captum._utils.typing import TargetType, TensorOrTupleOfTensorsGeneric
from captum.log import log_usage

__all__ = [
    "TargetType",
    "TensorOrTupleOfTensorsGeneric",
    "_format_additional_forward_args",
    "_is_tuple",
    "_select_targets",
    "log_usage",
    "progress",
]
