"""Similarities of maps, counted over batches."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from captum_masking.metrics.mean import ImageMetric
from captum_masking.metrics.sanity.similarity import SIMILARITIES, Similarity, compare_maps


class MapSimilarity(ImageMetric):
    """Mean over images of the similarities of two maps, by name; see `compare_maps`.

    Pairs in which either map is not finite are left out; ``not_finite`` is their share.

    Args:
        similarities: As in `compare_maps`.
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Adebayo et al. 2018.

    Example:
        >>> metric = MapSimilarity()
        >>> metric.update(torch.eye(32)[None], torch.eye(32)[None])
        >>> metric.compute()["hog"]
        tensor(1.)
    """

    higher_is_better = None  # a method should change with the weights, and be stable otherwise
    plot_lower_bound = -1.0
    totals: Tensor
    seen: Tensor
    not_finite: Tensor

    def __init__(
        self, *, similarities: Mapping[str, Similarity] = SIMILARITIES, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.similarities = dict(similarities)  # a proxy cannot be pickled
        totals = torch.zeros(len(similarities), dtype=torch.float64)
        self.add_state("totals", totals, dist_reduce_fx="sum")
        self.add_state("seen", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("not_finite", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, maps: Tensor, others: Tensor) -> None:
        """Add a batch of pairs of maps; the arguments are those of `compare_maps`."""
        values = compare_maps(maps, others, similarities=self.similarities)
        rows = torch.stack(list(values.values())).to(self.totals)  # (S, B)
        rows = rows[:, rows.isfinite().all(0)]
        self.totals += rows.sum(1)
        self.seen += rows.shape[1]
        self.not_finite += len(maps) - rows.shape[1]

    def compute(self) -> dict[str, Tensor]:
        """Return float32 scalars by name.

        Raises:
            RuntimeError: If no finite pair was seen.
        """
        if self.seen == 0:
            raise RuntimeError(
                "no pair of finite maps was seen: call update(maps, others) before compute()."
            )
        means = dict(zip(self.similarities, self.totals / self.seen, strict=True))
        means["not_finite"] = self.not_finite / (self.seen + self.not_finite)
        return {name: value.float() for name, value in means.items()}

    def __repr__(self) -> str:
        named = (f"{name!r}: {_spoken(function)}" for name, function in self.similarities.items())
        return f"MapSimilarity(similarities={{{', '.join(named)}}})"


def _spoken(function: Any) -> str:
    if isinstance(function, partial):
        options = ", ".join(f"{name}={value!r}" for name, value in function.keywords.items())
        return f"partial({_spoken(function.func)}, {options})"
    return str(getattr(function, "__name__", function))
