"""The mean over images of any function that scores maps by what a classifier says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor

from captum_masking._captum_compat import TargetType
from captum_masking.metrics.faithfulness.asking import Classifier
from captum_masking.metrics.mean import MeanOverImages


class MeanScore(MeanOverImages):
    """Adds up ``score(classifier, inputs, masks, target, **options)`` over batches.

    The classifier is handed to ``update``, not kept: it is not moved, saved or copied with the
    metric. All metrics take the same arguments, so that a ``torchmetrics.MetricCollection`` can
    update them together.

    Args:
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Own.

    Example:
        >>> import torch
        >>> class Confidence(MeanScore):
        ...     score = staticmethod(lambda classifier, inputs, masks, target: classifier(inputs))
        >>> metric = Confidence()
        >>> metric.update(lambda inputs: inputs[:, 0], torch.tensor([[0.25], [0.75]]), None)
        >>> metric.compute()
        tensor(0.5000)
    """

    score: ClassVar[Callable[..., Tensor]]
    #: Names of the constructor's arguments that the function takes.
    options: ClassVar[tuple[str, ...]] = ()

    def update(
        self, classifier: Classifier, inputs: Tensor, masks: Tensor, target: TargetType = None
    ) -> None:
        """Score a batch; the arguments are those of the function that this is the mean of."""
        options = {name: getattr(self, name) for name in self.options}
        self.add(type(self).score(classifier, inputs, masks, target, **options))

    def __repr__(self) -> str:
        options: dict[str, Any] = {name: getattr(self, name) for name in self.options}
        settings = ", ".join(f"{name}={value!r}" for name, value in options.items())
        return f"{type(self).__name__}({settings})"
