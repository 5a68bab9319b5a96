"""The wording of every user error: what was expected, what came, and the way out."""

from captum_masking.checks.answers import (
    TargetError,
    check_labels,
    check_logits,
    check_output,
)
from captum_masking.checks.baselines import baseline_of_each
from captum_masking.checks.inputs import (
    ChannelsError,
    InputsError,
    channels_in_words,
    check_inputs,
    check_number_of_inputs,
    check_same_batch,
    check_same_device,
)
from captum_masking.checks.training import (
    check_examples,
    check_loader,
    length_of,
)
from captum_masking.checks.values import (
    check_area,
    check_finite,
    check_mask_shape,
)

__all__ = [
    "ChannelsError",
    "InputsError",
    "TargetError",
    "baseline_of_each",
    "channels_in_words",
    "check_area",
    "check_examples",
    "check_finite",
    "check_inputs",
    "check_labels",
    "check_loader",
    "check_logits",
    "check_mask_shape",
    "check_number_of_inputs",
    "check_output",
    "length_of",
    "check_same_batch",
    "check_same_device",
]
