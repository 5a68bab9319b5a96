"""All scores of masked images at once, for the price of three passes of the classifier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_masking._captum_compat import TargetType
from captum_masking.infill import Infill, Mean
from captum_masking.metrics.faithfulness.asking import Classifier
from captum_masking.metrics.faithfulness.confidence import (
    _average_drop,
    _average_gain,
    _average_increase,
    _faithfulness_drop,
)
from captum_masking.metrics.faithfulness.masked import Masked
from captum_masking.metrics.faithfulness.recognition import (
    _fid_in,
    _masked_in_accuracy,
    _masked_out_accuracy,
    _masked_out_entropy,
)
from captum_masking.metrics.mean import ImageMetric

_SCORES: dict[str, Callable[[Masked], Tensor]] = {
    "average_drop": _average_drop,
    "average_gain": _average_gain,
    "average_increase": _average_increase,
    "faithfulness_drop": _faithfulness_drop,
    "fid_in": _fid_in,
    "masked_in_accuracy": _masked_in_accuracy,
    "masked_out_accuracy": _masked_out_accuracy,
    "masked_out_entropy": _masked_out_entropy,
}


def masked_scores(
    classifier: Classifier,
    inputs: Tensor,
    masks: Tensor,
    target: TargetType,
    *,
    infill: Infill = Mean(),
    batch_size: int = 32,
) -> dict[str, Tensor]:
    """Return all scores of masked images by name; each is documented at the function of that name.

    Args:
        classifier: As in `average_drop`.
        inputs: As in `average_drop`.
        masks: As in `average_drop`.
        target: As in `average_drop`.
        infill: As in `average_drop`.
        batch_size: As in `average_drop`.

    Returns:
        Float32 ``(B,)`` each, on the device of ``inputs``: ``average_drop``, ``average_gain``,
        ``average_increase``, ``faithfulness_drop``, ``fid_in``, ``masked_in_accuracy``,
        ``masked_out_accuracy``, ``masked_out_entropy``.

    Raises:
        ValueError: As `average_drop` does.
        TypeError: As `average_drop` does.
        TargetError: As `average_drop` does.

    Source:
        Those of the functions; together they cost three passes over the images, not twenty.

    Example:
        >>> inputs, masks = torch.tensor([[[[2.0, 1.0]]]]), torch.tensor([[[1.0, 0.0]]])
        >>> masked_scores(torch.nn.Flatten(), inputs, masks, target=0)["faithfulness_drop"]
        tensor([0.4621])
    """
    said = Masked(classifier, inputs, masks, target, infill=infill, batch_size=batch_size)
    return {name: score(said).float() for name, score in _SCORES.items()}


class MaskedScores(ImageMetric):
    """Means over images of all `masked_scores`, by name.

    Args:
        infill: What fills the holes.
        batch_size: Images shown to the classifier at a time.
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Those of the functions.

    Example:
        >>> metric = MaskedScores()
        >>> inputs, masks = torch.tensor([[[[2.0, 1.0]]]]), torch.tensor([[[1.0, 0.0]]])
        >>> metric.update(torch.nn.Flatten(), inputs, masks, target=0)
        >>> metric.compute()["masked_in_accuracy"]
        tensor(1.)
    """

    higher_is_better = None
    plot_lower_bound = -1.0
    plot_upper_bound = None  # the entropy reaches log(classes)
    totals: Tensor
    seen: Tensor

    def __init__(self, *, infill: Infill = Mean(), batch_size: int = 32, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.infill, self.batch_size = infill, batch_size
        totals = torch.zeros(len(_SCORES), dtype=torch.float64)
        self.add_state("totals", totals, dist_reduce_fx="sum")
        self.add_state("seen", torch.tensor(0), dist_reduce_fx="sum")

    def update(
        self, classifier: Classifier, inputs: Tensor, masks: Tensor, target: TargetType = None
    ) -> None:
        """Score a batch; the arguments are those of `masked_scores`."""
        scores = masked_scores(
            classifier, inputs, masks, target, infill=self.infill, batch_size=self.batch_size
        )
        self.totals += torch.stack(list(scores.values())).to(self.totals).sum(1)
        self.seen += len(inputs)

    def compute(self) -> dict[str, Tensor]:
        """Return the means by name, float32 scalars.

        Raises:
            RuntimeError: If no image was scored.
        """
        if self.seen == 0:
            raise RuntimeError("no image was scored: call update(...) before compute().")
        return dict(zip(_SCORES, (self.totals / self.seen).float(), strict=True))

    def __repr__(self) -> str:
        return f"MaskedScores(infill={self.infill!r}, batch_size={self.batch_size})"
