"""Images for training: with boxes from a CSV or folders, few or balanced, augmented, streamed."""

from captum_masking.data.balanced import BalancedSampler
from captum_masking.data.batches import read_batch
from captum_masking.data.boxed import BoxedImages
from captum_masking.data.digits import DigitsOnTextures
from captum_masking.data.few_shot import LabeledSubset, few_shot, labels_of, of_classes
from captum_masking.data.readable import Readable
from captum_masking.data.seeded import Seeded
from captum_masking.data.segmented import SegmentedImages

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
