"""Captum's private names, imported here and nowhere else, so that a move breaks in one place."""

from captum._utils.common import (
    _format_additional_forward_args as _format_additional_forward_args,
)
from captum._utils.common import _is_tuple as _is_tuple
from captum._utils.common import _select_targets as _select_targets
from captum._utils.progress import progress as progress
from captum._utils.typing import TargetType as TargetType
from captum._utils.typing import TensorOrTupleOfTensorsGeneric as TensorOrTupleOfTensorsGeneric
from captum.log import log_usage as log_usage
