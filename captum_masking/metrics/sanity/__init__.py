"""Does a map depend on the model at all? Random weights and random labels must change it.

A map that stays the same when the weights are drawn anew shows edges, or the middle of the frame,
and explains nothing (Adebayo et al. 2018).
"""

from captum_masking.metrics.sanity.accumulator import MapSimilarity
from captum_masking.metrics.sanity.hog import hog_features
from captum_masking.metrics.sanity.labels import Relabeled, shuffled_labels
from captum_masking.metrics.sanity.layers import (
    Layers,
    classifier_layers,
    layers_of,
    masker_layers,
)
from captum_masking.metrics.sanity.reset import Rule, published_reset, randomize, reset
from captum_masking.metrics.sanity.similarity import (
    SIMILARITIES,
    Similarity,
    absolute_spearman,
    compare_maps,
    hog_similarity,
    spearman,
    ssim,
)
from captum_masking.metrics.sanity.weights import cascading, independent

__all__ = [
    "Layers",
    "MapSimilarity",
    "Relabeled",
    "Rule",
    "SIMILARITIES",
    "Similarity",
    "absolute_spearman",
    "cascading",
    "classifier_layers",
    "compare_maps",
    "hog_features",
    "hog_similarity",
    "independent",
    "layers_of",
    "masker_layers",
    "published_reset",
    "randomize",
    "reset",
    "shuffled_labels",
    "spearman",
    "ssim",
]
