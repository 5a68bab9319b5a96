"""The mean over images, batches and processes of any function with one value per image."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torchmetrics import Metric

_Function = TypeVar("_Function", bound=Callable[..., Tensor])


def facts(
    *, higher_is_better: bool | None, lowest: float | None = 0.0, highest: float | None = 1.0
) -> Callable[[_Function], _Function]:
    """Set ``higher_is_better`` and the range of a metric function, for `MeanOf`."""

    def attach(function: _Function) -> _Function:
        function.__dict__.update(
            higher_is_better=higher_is_better, plot_lower_bound=lowest, plot_upper_bound=highest
        )
        return function

    return attach


class Means(Metric):
    """Means of rows from sums in double precision, independent of batches."""

    is_differentiable = False
    full_state_update = False
    plot_lower_bound: float | None = 0.0
    plot_upper_bound: float | None = 1.0
    seen: Tensor

    def __init__(self, recipe: str, shape: tuple[int, ...] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._recipe = recipe
        # A MetricCollection updates only one of two metrics whose states have the same names and,
        # after the first batch, the same values; two accuracies of 1 must not become one metric.
        self._sum = f"sum_{zlib.crc32(recipe.encode()):08x}"
        self.add_state(self._sum, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("seen", torch.tensor(0), dist_reduce_fx="sum")

    @property
    def total(self) -> Tensor:
        total: Tensor = getattr(self, self._sum)
        return total

    def add(self, rows: Tensor) -> None:
        """Add one row per image, ``(B, *shape)``."""
        setattr(self, self._sum, self.total + rows.to(self.total).sum(0))
        self.seen += len(rows)

    def means(self) -> Tensor:
        """Return the means over all images so far, in double precision."""
        if self.seen == 0:
            raise RuntimeError("no image was scored: call update(...) before compute().")
        return self.total / self.seen

    def compute(self) -> Any:
        """Return the mean over all images so far, float32."""
        return self.means().float()

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot results of ``compute`` or ``forward``; return figure and axes."""
        return self._plot(val, ax)

    def __repr__(self) -> str:
        return self._recipe


class FiniteMeans(Means):
    """Means by name over images with finite values, and the share of the others."""

    not_finite: Tensor

    def __init__(self, recipe: str, names: Sequence[str], **kwargs: Any) -> None:
        super().__init__(recipe, (len(names),), **kwargs)
        self.names = tuple(names)
        self.add_state("not_finite", torch.tensor(0), dist_reduce_fx="sum")

    def add(self, rows: Tensor) -> None:
        """Add one row per image, ``(B, names)``; leave out and count those with NaN or infinity."""
        finite = rows[rows.isfinite().all(1)]
        super().add(finite)
        self.not_finite += len(rows) - len(finite)

    def means_by_name(self) -> dict[str, Tensor]:
        """Return the means, in double precision, and the share ``not_finite``."""
        if self.seen == 0 and self.not_finite:
            raise RuntimeError(
                f"all {int(self.not_finite)} images had NaN or infinity: call update(...) with "
                "finite maps before compute()."
            )
        means = dict(zip(self.names, self.means(), strict=True))
        return means | {"not_finite": self.not_finite / (self.seen + self.not_finite)}

    def compute(self) -> dict[str, Tensor]:
        """Return float32 scalars by name."""
        return {name: value.float() for name, value in self.means_by_name().items()}


class MeanOf(Means):
    """The mean over images of a function with one value per image, as a ``torchmetrics.Metric``.

    ``update`` takes the arguments of the function, except the options given here. A value of NaN
    makes the mean NaN.

    Args:
        function: Any metric function of this package, or one of your own that returns ``(B,)``.
        **options: Keyword arguments of the function; others go to ``torchmetrics.Metric``.

    Example:
        >>> from captum_masking.metrics import energy_pointing
        >>> metric = MeanOf(energy_pointing)
        >>> metric.update(torch.tensor([[[3.0, 1.0]]]), [torch.tensor([[0, 0, 1, 1]])])
        >>> metric.compute(), metric
        (tensor(0.7500), MeanOf(energy_pointing))
    """

    def __init__(self, function: Callable[..., Tensor], **options: Any) -> None:
        own = {name: value for name, value in options.items() if _takes(function, name)}
        name = getattr(function, "__name__", repr(function))
        settings = [name, *(f"{option}={value!r}" for option, value in own.items())]
        rest = {option: value for option, value in options.items() if option not in own}
        super().__init__(f"MeanOf({', '.join(settings)})", **rest)
        self.function, self.options = function, own

    @property
    def higher_is_better(self) -> bool | None:  # type: ignore[override]
        """Whether a higher value is better; None if the function does not say."""
        return getattr(self.function, "higher_is_better", None)

    @property
    def plot_lower_bound(self) -> float | None:  # type: ignore[override]
        """The lowest possible value, or None."""
        return getattr(self.function, "plot_lower_bound", None)

    @property
    def plot_upper_bound(self) -> float | None:  # type: ignore[override]
        """The greatest possible value, or None."""
        return getattr(self.function, "plot_upper_bound", None)

    def update(self, *arguments: Any, **named: Any) -> None:
        """Score a batch; the arguments are those of the function."""
        values = self.function(*arguments, **named, **self.options)
        if values.dim() != 1:
            raise ValueError(
                f"the function must return one value per image, (B,), but returned "
                f"{tuple(values.shape)}; average over the other axes inside of it."
            )
        self.add(values)


def _takes(function: Callable[..., Any], option: str) -> bool:
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # a builtin
        return True
    return option in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
