"""Pictures with boxes: your own from a CSV or folders, and digits on textures for the demo."""

from captum_masking.data.boxed import BoxedImages
from captum_masking.data.digits import DigitsOnTextures
from captum_masking.data.few_shot import LabeledSubset, few_shot, labels_of, of_classes
from captum_masking.data.segmented import SegmentedImages

__all__ = [
    "BoxedImages",
    "DigitsOnTextures",
    "LabeledSubset",
    "SegmentedImages",
    "few_shot",
    "labels_of",
    "of_classes",
]
