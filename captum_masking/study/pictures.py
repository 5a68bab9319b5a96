"""The study in two pictures: every row's error with its spread, and error against images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from captum_masking.study.summary import REFERENCE, Runs, points


def draw_rows(runs: Runs, file: Path) -> None:
    """Draw the localization error of each row: a dot a seed, a bar for their mean.

    Args:
        runs: Of :func:`~captum_masking.study.summary.read_runs`.
        file: A PNG file.

    Source:
        Own.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1.2 + 0.28 * len(runs)), layout="constrained")
    axes = figure.add_subplot()
    for height, row in enumerate(runs.values()):
        errors = points(row, "error").mean(1)
        axes.plot(errors, np.full(len(errors), height), "o", color="tab:blue", alpha=0.5)
        axes.plot([errors.mean()], [height], "|", color="black", markersize=14)
    if REFERENCE in runs:
        axes.axvline(points(runs[REFERENCE], "error").mean(), color="gray", linestyle=":")
    axes.set_yticks(range(len(runs)), list(runs))
    axes.invert_yaxis()
    axes.set_xlabel("localization error, %  (a dot a seed; lower is better)")
    figure.savefig(file, dpi=120)


def draw_few_shot(runs: Runs, file: Path) -> bool:
    """Draw localization error against images a class, frozen and joint.

    Args:
        runs: Of :func:`~captum_masking.study.summary.read_runs`.
        file: A PNG file.

    Returns:
        Whether there was a curve to draw.

    Source:
        Own; the curve is one of Phang et al. 2020.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    drawn = [
        _curve(axes, runs, full, prefix)
        for full, prefix in (("frozen", "few-shot-"), ("joint", "joint-few-shot-"))
    ]
    if not any(drawn):
        return False
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("training images")
    axes.set_ylabel("localization error, %")
    axes.legend()
    figure.savefig(file, dpi=120)
    return True


def _curve(axes: object, runs: Runs, full: str, prefix: str) -> bool:
    names = [name for name in runs if name.startswith(prefix)]
    rows = sorted(
        (runs[name] for name in [*names, *([full] if full in runs else [])]),
        key=lambda row: row[0]["images"],
    )
    if not names or len(rows) < 2:
        return False
    counts = [row[0]["images"] for row in rows]
    errors = [points(row, "error").mean(1) for row in rows]
    means = np.array([e.mean() for e in errors])
    spread = np.array([e.std(ddof=1) if len(e) > 1 else 0.0 for e in errors])
    axes.errorbar(counts, means, spread, marker="o", capsize=3, label=full)  # type: ignore[attr-defined]
    return True
