"""From one row an image to one number for all, as often as the bootstrap draws the images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from captum_masking.benchmark.result import Interval
from captum_masking.metrics import average_precision, thresholds

Array = np.ndarray[Any, np.dtype[Any]]

#: Maps rows ``(n, ...)`` and how often each image is drawn ``(R, n)`` to ``(R,)`` numbers.
Statistic = Callable[[Array, Array], Array]


def mean(rows: Array, draws: Array) -> Array:
    """Return the mean of rows ``(n,)`` in each draw; rows of NaN do not count.

    Source:
        Own.

    Example:
        >>> mean(np.array([1.0, 0.0, np.nan]), np.array([[1, 1, 1], [2, 0, 1]]))
        array([0.5, 1. ])
    """
    known = np.isfinite(rows)
    weights = draws[:, known].astype(float)
    with np.errstate(invalid="ignore"):  # a draw without any such image gives NaN
        return (weights @ rows[known]) / weights.sum(1)


def spread(rows: Array, draws: Array) -> Array:
    """Return the standard deviation (over n, not n - 1) of rows ``(n,)`` in each draw.

    Source:
        Own.

    Example:
        >>> spread(np.array([1.0, 3.0, np.nan]), np.array([[1, 1, 1], [2, 0, 0]]))
        array([1., 0.])
    """
    return np.sqrt(np.maximum(mean(rows**2, draws) - mean(rows, draws) ** 2, 0))


def pooled_precision(rows: Array, draws: Array) -> Array:
    """Return the average precision of pixel histograms ``(n, 2, bins)`` pooled in each draw.

    Source:
        Choe et al. 2020, PxAP.

    Example:
        >>> pooled_precision(np.array([[[1.0, 0.0], [0.0, 1.0]]]), np.array([[1]]))
        array([1.])
    """
    known = np.isfinite(rows).all((1, 2))
    pooled = draws[:, known].astype(float) @ rows[known].reshape(int(known.sum()), -1)
    histograms = torch.from_numpy(pooled).reshape(len(draws), *rows.shape[1:])
    return average_precision(histograms).double().numpy()


def at_best_threshold(rows: Array, parts: Array) -> tuple[Array, list[float]]:
    """Choose thresholds on one part of the images and read the other part's values there.

    Both parts take their turn, so that every image is scored by what others chose.

    Args:
        rows: ``(n, T)``, higher is better, by threshold; or ``(n, L, T)``, for each of L levels,
            over which the mean is taken at the end.
        parts: ``(n,)``, 0 or 1: the part of each image.

    Returns:
        ``(values, chosen)``: one value an image ``(n,)``, and the thresholds chosen: on part 1
        for part 0, then the other way about, each by level. With all images in one part, NaN.

    Source:
        Choe et al. 2020 choose the threshold on images that they do not report on; two folds
        are our own.

    Example:
        >>> rows = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> values, chosen = at_best_threshold(rows, np.array([0, 0, 1, 1]))
        >>> values, chosen  # part 1 is undecided and takes the lower threshold
        (array([1., 1., 0., 1.]), [0.0, 0.0])
    """
    levels = rows[:, None] if rows.ndim == 2 else rows
    steps = thresholds(1 / levels.shape[2]).numpy()
    values, chosen = np.full(len(rows), np.nan), []
    known = np.isfinite(levels).all((1, 2))
    for part in (0, 1):
        choose_on, report_on = known & (parts != part), known & (parts == part)
        if not choose_on.any():
            continue
        best = levels[choose_on].mean(0).argmax(1)  # (L,)
        chosen += [round(float(step), 4) for step in steps[best]]
        values[report_on] = levels[report_on][:, np.arange(len(best)), best].mean(1)
    return values, chosen


def halves(count: int, seed: int) -> Array:
    """Split images into two parts of equal size by lot, ``(n,)`` of 0 and 1."""
    return np.random.default_rng(seed).permutation(count) % 2


def draw(count: int, *, resamples: int, seed: int) -> Array:
    """Draw images with replacement: how often each is drawn ``(1 + resamples, count)``.

    The first row is each image once, which gives the estimate itself.

    Source:
        Efron & Tibshirani 1993.

    Example:
        >>> draw(3, resamples=2, seed=0).sum(1)
        array([3, 3, 3])
    """
    random = np.random.default_rng(seed)
    drawn = random.multinomial(count, np.full(count, 1 / count), size=resamples)
    return np.concatenate([np.ones((1, count), dtype=drawn.dtype), drawn])


def interval(numbers: Array) -> Interval:
    """Return the first number with the 2.5th and 97.5th percentile of the others.

    Source:
        Efron & Tibshirani 1993, percentile interval.

    Example:
        >>> interval(np.array([0.5, 0.0, 1.0]))
        Interval(mean=0.5, low=0.025, high=0.975)
    """
    low, high = np.nanpercentile(numbers[1:], [2.5, 97.5])
    return Interval(float(numbers[0]), float(low), float(high))
