"""What all accumulators share, and the mean over images of any metric with one value per image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class ImageMetric(Metric):
    """A metric in [0, 1] whose state is a few sums over images, and which can be plotted.

    Args:
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Own.
    """

    is_differentiable = False
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound: float | None = 1.0

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot one value, or several as a line.

        Args:
            val: What ``compute`` or ``forward`` returned, or a list of such; now's if None.
            ax: Matplotlib axes to draw on.

        Returns:
            Figure and axes.
        """
        return self._plot(val, ax)


class MeanOverImages(ImageMetric):
    """Adds up one value per image; ``update`` of a final class calls `add`.

    The sum is kept in double precision where the device has it, so that neither the order of the
    images nor their batches show in the result.

    Args:
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Own.

    Example:
        >>> class Brightness(MeanOverImages):
        ...     def update(self, images):
        ...         self.add(images.flatten(1).mean(1))
        >>> metric = Brightness()
        >>> metric.update(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
        >>> metric.compute()
        tensor(0.5000)
    """

    total: Tensor
    seen: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("seen", torch.tensor(0), dist_reduce_fx="sum")

    def add(self, values: Tensor) -> None:
        """Add the values ``(B,)`` of a batch of images."""
        self.total += values.to(self.total).sum()
        self.seen += len(values)

    def compute(self) -> Tensor:
        """Return the mean over all images, a float32 scalar.

        Raises:
            RuntimeError: If no image was scored.
        """
        if self.seen == 0:
            raise RuntimeError("no image was scored: call update(...) before compute().")
        return (self.total / self.seen).float()

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"
