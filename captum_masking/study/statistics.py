"""What a few hundred images and a few seeds can tell: paired bootstrap over both."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


class Difference(NamedTuple):
    """The mean of one row minus that of another, on the same images, with a 95 % interval.

    Source:
        Own.
    """

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"


def difference(one: Array, other: Array, *, resamples: int = 4000, seed: int = 0) -> Difference:
    """Compare two rows on the same images by bootstrap.

    Each resample draws images with replacement, the same for both rows, and seeds with
    replacement: the same for both where there are as many, since a seed decides the first weights,
    the order of images and which few are chosen alike for both; otherwise for each row its own.

    Args:
        one: ``(seeds, images)``, sorted by seed.
        other: ``(seeds, images)``, the same images; the number of seeds may differ.
        resamples: How many.
        seed: Of the resampling.

    Returns:
        ``mean(one) - mean(other)`` with its 2.5th and 97.5th percentile, in the units given.

    Raises:
        ValueError: If the rows were not scored on the same number of images.

    Source:
        Efron & Tibshirani 1993, percentile interval. With three seeds the spread between seeds is
        known roughly only, and the interval is, if anything, too narrow.

    Example:
        >>> one, other = np.ones((2, 50)), np.zeros((3, 50))
        >>> difference(one, other)
        Difference(mean=1.0, low=1.0, high=1.0)
    """
    if one.shape[1] != other.shape[1]:
        raise ValueError(
            f"rows must be scored on the same images to be compared, but got {one.shape[1]} and "
            f"{other.shape[1]}; run the study again into a new folder."
        )
    random = np.random.default_rng(seed)
    means = np.array([_resample(one, other, random) for _ in range(resamples)])
    low, high = np.percentile(means, [2.5, 97.5])
    return Difference(float(one.mean() - other.mean()), float(low), float(high))


def _resample(one: Array, other: Array, random: np.random.Generator) -> float:
    images = random.integers(one.shape[1], size=one.shape[1])
    seeds = random.integers(len(one), size=len(one))
    others = seeds if len(one) == len(other) else random.integers(len(other), size=len(other))
    return float(one[seeds][:, images].mean() - other[others][:, images].mean())
