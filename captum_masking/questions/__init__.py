"""Training questions for target-aware maskers: which class is asked for, of which image."""

from captum_masking.questions.absent import absent_classes, absent_to_present
from captum_masking.questions.compositions import Composition, Halves, Pasted, Quarters
from captum_masking.questions.labels import as_labeled, one_label
from captum_masking.questions.questions import Posed, Questions
from captum_masking.questions.tiled import Tiled

__all__ = [
    "Composition",
    "Halves",
    "Pasted",
    "Posed",
    "Questions",
    "Quarters",
    "Tiled",
    "absent_classes",
    "absent_to_present",
    "as_labeled",
    "one_label",
]
