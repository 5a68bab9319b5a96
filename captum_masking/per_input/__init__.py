"""A mask optimised for each input, for classifiers and callables that have no masker."""

from captum_masking.per_input.jitter import shift
from captum_masking.per_input.optimizer import PerInput, optimize_mask
from captum_masking.per_input.several import optimize_each
from captum_masking.per_input.size import of_area

__all__ = ["PerInput", "of_area", "optimize_each", "optimize_mask", "shift"]
