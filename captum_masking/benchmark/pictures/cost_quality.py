"""Cost against quality, a numbered point a method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from captum_masking.benchmark.markdown.reading import TRIVIAL, value_of
from captum_masking.benchmark.pictures.style import family_colors, fit
from captum_masking.benchmark.result import Column, Interval, Result, Row

_MARKERS = "osD^vPX"
_DASHES = ("--", ":", "-.", (0, (6, 2, 1, 2, 1, 2)))

#: Where a number may stand, seen from its point, and the room that it needs; in pixels.
_BESIDE = np.array([(s * x, y) for x in (17, 28, 40) for y in (0, 9, -9, 18, -18) for s in (1, -1)])
_ROOM = 14


def draw_cost_quality(result: Result, key: str, file: str | Path) -> bool:
    """Draw a column against the time an image takes, a numbered point a method.

    Trivial rows and those without a cost are dashed lines across: on a scale of logarithms, no
    cost has no place.

    Args:
        result: Finished.
        key: Of the column.
        file: A PNG file.

    Returns:
        Whether any row had a value to draw.

    Raises:
        ValueError: If there is no such column.

    Source:
        Own.
    """
    from matplotlib.figure import Figure  # without pyplot: the user's backend stays as it is

    column = _column(result, key)
    rows = [(row, value) for row in result.rows if (value := value_of(row, column)) is not None]
    points = [pair for pair in rows if _is_point(pair[0])]
    lines = [pair for pair in rows if not _is_point(pair[0])]
    if not rows:
        return False
    size = (10, max(4.8, 1.5 + 0.21 * len(rows)))
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    axes = figure.add_subplot()
    colors = family_colors(result)
    legend = _Legend()
    for number, (row, value) in enumerate(points, 1):
        legend.add(
            row.family, f"{number} {row.name}", _draw_point(axes, column, row, value, colors)
        )
    for place, (row, value) in enumerate(lines):
        legend.add(row.family, row.name, _draw_line(axes, column, row, value, place, colors))
    legend.draw(figure)
    _label_axes(axes, column, bool(points))
    figure.draw_without_rendering()  # so that the scales are known
    _number(axes, column, points)
    figure.savefig(file, format="png", dpi="figure")
    return True


def _column(result: Result, key: str) -> Column:
    found = {column.key: column for column in result.columns}
    if key not in found:
        raise ValueError(
            f"expected the key of a column, but got {key!r}; {', '.join(found)} exist."
        )
    return found[key]


def _is_point(row: Row) -> bool:
    return row.family != TRIVIAL and row.cost is not None and 0 < row.cost.forwards < math.inf


class _Legend:
    """Names under the heading of their family."""

    def __init__(self) -> None:
        self.handles: list[Any] = []
        self.labels: list[str] = []
        self.family = ""

    def add(self, family: str, label: str, handle: Any) -> None:
        from matplotlib.lines import Line2D

        if family != self.family or not self.labels:
            self.family = family
            self.handles.append(Line2D([], [], linestyle=""))
            self.labels.append(f"{fit(family, 40)}:")
        self.handles.append(handle)
        self.labels.append(fit(label, 40))

    def draw(self, figure: Any) -> None:
        figure.legend(
            self.handles, self.labels, loc="outside right upper", fontsize=8, frameon=False
        )


def _draw_line(
    axes: Any, column: Column, row: Row, value: Interval, place: int, colors: Mapping[str, str]
) -> Any:
    height, style = column.scale * value.mean, _DASHES[place % len(_DASHES)]
    return axes.axhline(height, color=colors[row.family], linestyle=style, linewidth=1.2, zorder=1)


def _draw_point(
    axes: Any, column: Column, row: Row, value: Interval, colors: Mapping[str, str]
) -> Any:
    assert row.cost is not None  # _is_point
    ends = [[abs(value.mean - end)] for end in (value.low, value.high)]
    return axes.errorbar(
        [row.cost.forwards],
        [column.scale * value.mean],
        column.scale * np.nan_to_num(ends),
        color=colors[row.family],
        marker=_MARKERS[list(colors).index(row.family) % len(_MARKERS)],
        markersize=6,
        elinewidth=0.9,
        capsize=2,
    )


def _label_axes(axes: Any, column: Column, has_points: bool) -> None:
    if has_points:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(x=0.08, y=0.08)
    axes.grid(alpha=0.25)
    axes.set_xlabel("← better      time of one image, in forward passes of the classifier")
    better = {True: "      better →", False: "", None: ""}[column.higher_is_better]
    worse = "← better      " if column.higher_is_better is False else ""
    axes.set_ylabel(fit(f"{worse}{column.title}{better}", 60))


def _number(axes: Any, column: Column, points: Sequence[tuple[Row, Interval]]) -> None:
    """Write each point's number beside it, where there is most room."""
    bars = [_bar(axes, column, row, value) for row, value in points]
    taken = np.concatenate(bars) if bars else np.empty((0, 2))
    for number, (centre, *_) in enumerate(bars, 1):
        places = centre + _BESIDE
        free = places[np.argmax(_room(places, taken) - 0.4 * np.hypot(*_BESIDE.T))]
        taken = np.concatenate([taken, free[None]])
        axes.annotate(
            str(number),
            centre,
            free,
            xycoords="figure pixels",
            textcoords="figure pixels",
            fontsize=8,
            ha="center",
            va="center",
            zorder=5,
            arrowprops={"arrowstyle": "-", "color": "#888888", "linewidth": 0.5, "shrinkB": 3},
        )


def _bar(axes: Any, column: Column, row: Row, value: Interval) -> np.ndarray:
    """Return points all along an error bar, its middle first, on the canvas."""
    assert row.cost is not None  # _is_point
    ends = np.nan_to_num([value.low, value.high], nan=value.mean)
    heights = column.scale * np.array([value.mean, *np.linspace(ends[0], ends[1], 9)])
    return axes.transData.transform([(row.cost.forwards, height) for height in heights])


def _room(places: np.ndarray, taken: np.ndarray) -> np.ndarray:
    gaps = np.linalg.norm(places[:, None] - taken[None], axis=2).min(1)
    return np.minimum(gaps, _ROOM)
