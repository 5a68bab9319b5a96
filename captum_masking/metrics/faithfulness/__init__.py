"""Is the map faithful to the classifier? What becomes of its answer when the map is obeyed.

Every function is called as ``function(classifier, inputs, masks, target)``, for any classifier
and the maps of any method, and returns one value per image; `infidelity` and `max_sensitivity`
take the method itself in place of its maps. Every class is the mean of its function over images,
and takes the same arguments in ``update``.

The classifier runs in eval mode and without gradients, and is given back as it was.
"""

from captum_masking.metrics.faithfulness.certificate import (
    Completeness,
    Soundness,
    completeness,
    completeness_and_soundness,
    soundness,
)
from captum_masking.metrics.faithfulness.confidence import (
    AverageDrop,
    AverageGain,
    AverageIncrease,
    FaithfulnessDrop,
    average_drop,
    average_gain,
    average_increase,
    faithfulness_drop,
)
from captum_masking.metrics.faithfulness.crop import (
    SaliencyMetric,
    saliency_metric,
    saliency_metric_of_boxes,
    salient_boxes,
)
from captum_masking.metrics.faithfulness.curve import Curve, deletion_curve, insertion_curve
from captum_masking.metrics.faithfulness.masked import MaskedMean
from captum_masking.metrics.faithfulness.means import MeanScore
from captum_masking.metrics.faithfulness.perturbation import (
    NormalNoise,
    Perturbation,
    SquareRemoval,
    UniformNoise,
)
from captum_masking.metrics.faithfulness.recognition import (
    FidIn,
    MaskedInAccuracy,
    MaskedOutAccuracy,
    MaskedOutEntropy,
    fid_in,
    masked_in_accuracy,
    masked_out_accuracy,
    masked_out_entropy,
)
from captum_masking.metrics.faithfulness.removal import (
    RISE_DELETION,
    RISE_INSERTION,
    Deletion,
    Insertion,
    RiseBlur,
    deletion,
    insertion,
)
from captum_masking.metrics.faithfulness.robustness import (
    Infidelity,
    MaxSensitivity,
    MethodMean,
    infidelity,
    max_sensitivity,
)
from captum_masking.metrics.faithfulness.scores import MaskedScores, masked_scores

__all__ = [
    "AverageDrop",
    "AverageGain",
    "AverageIncrease",
    "Completeness",
    "Curve",
    "Deletion",
    "FaithfulnessDrop",
    "FidIn",
    "Infidelity",
    "Insertion",
    "MaskedInAccuracy",
    "MaskedMean",
    "MaskedOutAccuracy",
    "MaskedOutEntropy",
    "MaskedScores",
    "MaxSensitivity",
    "MeanScore",
    "MethodMean",
    "NormalNoise",
    "Perturbation",
    "RISE_DELETION",
    "RISE_INSERTION",
    "RiseBlur",
    "SaliencyMetric",
    "Soundness",
    "SquareRemoval",
    "UniformNoise",
    "average_drop",
    "average_gain",
    "average_increase",
    "completeness",
    "completeness_and_soundness",
    "deletion",
    "deletion_curve",
    "faithfulness_drop",
    "fid_in",
    "infidelity",
    "insertion",
    "insertion_curve",
    "masked_in_accuracy",
    "masked_out_accuracy",
    "masked_out_entropy",
    "masked_scores",
    "max_sensitivity",
    "saliency_metric",
    "saliency_metric_of_boxes",
    "salient_boxes",
    "soundness",
]
