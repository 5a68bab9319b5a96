"""Images for training: with boxes from a CSV or folders, few or balanced, augmented, streamed."""

from captum_masking.data.batches import Readable, read_batch
from captum_masking.data.digits import DigitsOnTextures
from captum_masking.data.images import BoxedImages, SegmentedImages
from captum_masking.data.seeded import Seeded
from captum_masking.data.subsets import (
    BalancedSampler,
    LabeledSubset,
    few_shot,
    labels_of,
    of_classes,
)

__all__ = [
    "BalancedSampler",
    "BoxedImages",
    "DigitsOnTextures",
    "LabeledSubset",
    "Readable",
    "Seeded",
    "SegmentedImages",
    "few_shot",
    "labels_of",
    "of_classes",
    "read_batch",
]
