"""What the classifier says of masked images, to a loss: ``objective(judgement) -> scalar``."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from captum_masking.objective.asked import Believe, Vanish, target_aware
from captum_masking.objective.belief import AnyOf, Belief, OneOf
from captum_masking.objective.criterion import Classification, Entropy, Hinge, entropy
from captum_masking.objective.dual import Dual
from captum_masking.objective.joint import KeepRecognizing
from captum_masking.objective.judgement import Judgement
from captum_masking.objective.prior import KLToPrior, class_prior

__all__ = [
    "AnyOf",
    "Belief",
    "Believe",
    "Classification",
    "Criterion",
    "Dual",
    "Entropy",
    "Hinge",
    "Judgement",
    "KLToPrior",
    "KeepRecognizing",
    "Objective",
    "OneOf",
    "Vanish",
    "class_prior",
    "entropy",
    "target_aware",
]

#: Called as ``objective(judgement)``; returns a scalar, lower is better.
Objective = Callable[[Judgement], Tensor]

#: Called as ``criterion(logits, judgement)`` with the logits ``(B, classes)`` of one side's masked
#: images; returns a loss for each image, ``(B,)``, lower is better.
Criterion = Callable[[Tensor, Judgement], Tensor]
