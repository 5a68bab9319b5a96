"""Localization at the data set's best threshold, counted over batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from captum_masking.metrics.localization.box_accuracy import (
    LEVELS,
    check_levels,
    max_box_acc,
    max_box_acc_v2,
    thresholds,
)
from captum_masking.metrics.mean import ImageMetric


class MaxBoxAcc(ImageMetric):
    """Best share of objects found by the largest part over thresholds; see `max_box_acc`.

    The state is one count for each threshold.

    Args:
        step: As in `max_box_acc`.
        published: As in `max_box_acc`.
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Choe et al. 2020, MaxBoxAcc.

    Example:
        >>> metric = MaxBoxAcc()
        >>> mask = torch.tensor([[[0.1, 0.1, 0.1], [0.1, 1.0, 1.0]]])
        >>> metric.update(mask, [torch.tensor([[1, 1, 3, 2]])])
        >>> metric.compute(), metric.best_threshold()
        (tensor(1.), 0.1)
    """

    higher_is_better = True
    found: Tensor
    seen: Tensor

    def __init__(self, *, step: float = 0.01, published: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.step, self.published = step, published
        counts = torch.zeros(len(thresholds(step)), dtype=torch.long)
        self.add_state("found", counts, dist_reduce_fx="sum")
        self.add_state("seen", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, masks: Tensor, boxes: Sequence[Tensor]) -> None:
        """Score a batch; the arguments are those of `max_box_acc`."""
        found = max_box_acc(masks, boxes, step=self.step, published=self.published)
        self.found += found.sum(0).to(self.found.device)
        self.seen += len(found)

    def accuracies(self) -> Tensor:
        """Return the share of found objects ``(T,)`` by threshold.

        Raises:
            RuntimeError: If no image was scored.
        """
        if self.seen == 0:
            raise RuntimeError("no image was scored: call update(masks, boxes) before compute().")
        return self.found / self.seen

    def compute(self) -> Tensor:
        """Return the score, a scalar in [0, 1]."""
        return self.accuracies().max()

    def best_threshold(self) -> float:
        """Return the threshold at which the share is greatest, the least one."""
        return float(thresholds(self.step)[self.accuracies().argmax().cpu()])

    def __repr__(self) -> str:
        return f"MaxBoxAcc(step={self.step}, published={self.published})"


class MaxBoxAccV2(ImageMetric):
    """Mean over IoU levels of the best share of found objects over thresholds.

    See `max_box_acc_v2`. The state is one count for each level and threshold.

    Args:
        step: As in `max_box_acc`.
        levels: As in `max_box_acc_v2`.
        published: As in `max_box_acc_v2`.
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Choe et al. 2020, MaxBoxAccV2.

    Example:
        >>> metric = MaxBoxAccV2()
        >>> mask = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]])
        >>> metric.update(mask, [torch.tensor([[2, 0, 3, 2]])])  # IoU 1 / 2: two of three levels
        >>> metric.compute()
        tensor(0.6667)
    """

    higher_is_better = True
    found: Tensor
    seen: Tensor

    def __init__(
        self,
        *,
        step: float = 0.01,
        levels: Sequence[float] = LEVELS,
        published: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_levels(levels)
        self.step, self.levels, self.published = step, levels, published
        counts = torch.zeros(len(levels), len(thresholds(step)), dtype=torch.long)
        self.add_state("found", counts, dist_reduce_fx="sum")
        self.add_state("seen", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, masks: Tensor, boxes: Sequence[Tensor]) -> None:
        """Score a batch; the arguments are those of `max_box_acc_v2`."""
        found = max_box_acc_v2(
            masks, boxes, step=self.step, levels=self.levels, published=self.published
        )
        self.found += found.sum(0).to(self.found.device)
        self.seen += len(found)

    def accuracies(self) -> Tensor:
        """Return the share of found objects ``(L, T)`` by level and threshold.

        Raises:
            RuntimeError: If no image was scored.
        """
        if self.seen == 0:
            raise RuntimeError("no image was scored: call update(masks, boxes) before compute().")
        return self.found / self.seen

    def compute(self) -> Tensor:
        """Return the score, a scalar in [0, 1]."""
        return self.accuracies().amax(1).mean()

    def best_thresholds(self) -> Tensor:
        """Return the threshold ``(L,)`` at which each level's share is greatest, the least one."""
        return thresholds(self.step)[self.accuracies().argmax(1).cpu()]

    def __repr__(self) -> str:
        options = f"step={self.step}, levels={self.levels}, published={self.published}"
        return f"MaxBoxAccV2({options})"
