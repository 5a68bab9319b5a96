"""What the pictures share: the colors of families, and names that fit."""

from __future__ import annotations

import base64
import csv
import io
import math
import re
import textwrap
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import torch

from captum_masking._base.files import replacing, write_json, write_text
from captum_masking.benchmark.images import Sample
from captum_masking.benchmark.result import Column, Interval, Result, Row
from captum_masking.viz import Panel, overlay

#: Okabe & Ito's colors without black and yellow, told apart by color-blind readers too.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")


def family_colors(result: Result) -> dict[str, str]:
    """Give each family a color, the trivial one gray.

    Source:
        Own.

    Example:
        >>> from captum_masking.benchmark.result import Row
        >>> family_colors(Result([], [Row("a", "captum"), Row("frame", "trivial")], images=1))
        {'captum': '#0072B2', 'trivial': '#767676'}
    """
    families = dict.fromkeys(row.family for row in result.rows if row.family != TRIVIAL)
    colors = {name: COLORS[place % len(COLORS)] for place, name in enumerate(families)}
    return {**colors, TRIVIAL: "#767676"}


def fit(text: str, width: int) -> str:
    """Fit a text into two lines; dollars are no formulas."""
    first, *more = textwrap.wrap(text, width) or [""]
    second = " ".join(more)
    lines = [first, second if len(second) <= width else f"{second[: width - 1]}…"]
    return "\n".join(filter(None, lines)).replace("$", r"\$")


# ---- The same images under all methods.

_DPI, _SIDE, _GAP, _TITLE_HEIGHT = 100, 168, 8, 34  # in pixels of the file
_PER_LINE = 9  # panels
_TITLE = 26  # characters that fit above a panel

_Place = tuple[int, int, Panel]


def draw_montage(samples: Sequence[Sample], result: Result, file: str | Path) -> None:
    """Draw each image with its boxes and its maps, as many lines of panels as that takes.

    Args:
        samples: At least one.
        result: Gives the order of the methods; those without any map are left out.
        file: A PNG file.

    Raises:
        ValueError: If there is no sample.

    Source:
        Own.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # without pyplot: the user's backend stays as it is

    if not samples:
        raise ValueError("expected at least one image for the montage, but got none.")
    placed, width, height = _place(samples, result)
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    for left, top, panel in placed:
        _draw_panel(axes, left, top, panel)
    canvas.print_png(file)


def _place(samples: Sequence[Sample], result: Result) -> tuple[list[_Place], int, int]:
    """Say where each panel goes, and the size of it all; in screen pixels."""
    names = [row.name for row in result.rows if any(row.name in s.maps for s in samples)]
    lines = math.ceil((1 + len(names)) / _PER_LINE)
    length = math.ceil((1 + len(names)) / lines)
    placed, top = [], 0
    for sample in samples:
        step = _SIDE * sample.pixels.shape[0] // sample.pixels.shape[1] + _TITLE_HEIGHT
        for place, panel in enumerate(_panels(sample, names)):
            left = _GAP + place % length * (_SIDE + _GAP)
            placed.append((left, top + place // length * step + _TITLE_HEIGHT, panel))
        top += lines * step + 2 * _GAP
    return placed, _GAP + length * (_SIDE + _GAP), top


def _draw_panel(axes: Any, left: int, top: int, panel: Panel) -> None:
    from matplotlib.patches import Rectangle

    height, width = panel.pixels.shape[:2]
    scale = _SIDE / width
    extent = (left, left + _SIDE, top + scale * height, top)
    axes.imshow(panel.pixels.squeeze(), cmap="gray", vmin=0, vmax=1, extent=extent, aspect="auto")
    axes.text(left, top - 4, panel.title, fontsize=8.5, va="bottom", linespacing=1.0)
    for x0, y0, x1, y1 in panel.boxes:
        corner = left + scale * float(x0), top + scale * float(y0)
        size = scale * float(x1 - x0), scale * float(y1 - y0)
        for color, line in (("black", 2.2), ("white", 1.0)):
            axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=color, linewidth=line))


def _panels(sample: Sample, names: Sequence[str]) -> list[Panel]:
    image = Panel(sample.pixels, fit(sample.title, _TITLE), sample.boxes)
    nothing = np.ones(sample.pixels.shape[:2])
    panels = [
        Panel(
            _heat(sample, name) if name in sample.maps else nothing,
            fit(name, _TITLE),
            sample.boxes,
        )
        for name in names
    ]
    return [image, *panels]


def _heat(sample: Sample, name: str) -> np.ndarray:
    # As the metrics do: what is not a number is no evidence.
    return overlay(sample.pixels, torch.as_tensor(sample.maps[name]).float().nan_to_num(0, 0, 0))


def as_jpeg(file: str | Path) -> bytes:
    """Return a PNG file as JPEG, a fifth of its size, for the page.

    Source:
        Own.
    """
    from PIL import Image  # matplotlib draws with it

    stream = io.BytesIO()
    with Image.open(file) as picture:
        picture.convert("RGB").save(stream, format="JPEG", quality=85)
    return stream.getvalue()


# ---- Cost against quality, a numbered point a method.

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


# ---- What a result says, whatever it is printed on: values, the best of a column, the setting.

#: The family of the baselines, which are never printed as the best.
TRIVIAL = "trivial"

#: Printed where there is no value.
DASH = "–"

#: Columns made of :class:`~captum_masking.benchmark.Cost`; their values have no interval.
COSTS = (
    Column(
        "forwards",
        "forwards",
        "Cost",
        False,
        digits=2,
        headline=True,
        legend="Time of one image in units of one forward pass of the classifier.",
    ),
    Column(
        "ms", "ms/image", "Cost", False, headline=True, legend="Milliseconds an image, in a batch."
    ),
    Column(
        "memory_mb",
        "peak MB",
        "Cost",
        False,
        digits=0,
        headline=True,
        legend="Peak of the memory that torch allocated for the batch that was timed, in 10**6 "
        "bytes.",
    ),
)


def value_of(row: Row, column: Column) -> Interval | None:
    """Return a row's value in a column or in one of `COSTS`; None if missing or not a number.

    Example:
        >>> value_of(Row("mine", "yours"), COSTS[0]) is None
        True
    """
    if column in COSTS:
        number = getattr(row.cost, column.key, None)
        value = None if number is None else Interval(number, math.nan, math.nan)
    else:
        value = row.values.get(column.key)
    return value if value is not None and math.isfinite(value.mean) else None


def mean_of(row: Row, column: Column) -> str:
    """Print a row's mean; a dash where there is none.

    Example:
        >>> mean_of(Row("mine", "yours"), COSTS[0])
        '–'
    """
    value = value_of(row, column)
    return DASH if value is None else column.text(value.mean)


def limits(column: Column, value: Interval) -> str:
    """Print an interval's ends; empty where they are not known.

    Example:
        >>> limits(Column("error", "LE, %", "Where", False, scale=100), Interval(0.3, 0.25, 0.36))
        '[25.0, 36.0]'
    """
    if not (math.isfinite(value.low) and math.isfinite(value.high)):
        return ""
    return f"[{column.text(value.low)}, {column.text(value.high)}]"


def ranks(rows: Iterable[Row], column: Column) -> dict[str, float]:
    """Place rows between the best, 0, and the worst, 1; rows that print alike share a place.

    Args:
        rows: Those without a value are left out.
        column: Without a direction, nothing is ranked.

    Returns:
        Places by the name of the row; all are 0 if all print alike.

    Source:
        Own.

    Example:
        >>> error = Column("error", "LE", "Where", higher_is_better=False, digits=0)
        >>> means = {"a": 3.1, "b": 1.0, "c": 2.9, "d": 9.0}
        >>> rows = [Row(n, "f", values={"error": Interval(v, v, v)}) for n, v in means.items()]
        >>> ranks(rows, error)
        {'a': 0.5, 'b': 0.0, 'c': 0.5, 'd': 1.0}
    """
    if column.higher_is_better is None:
        return {}
    values = {row.name: value_of(row, column) for row in rows}
    printed = {name: column.text(value.mean) for name, value in values.items() if value}
    places = sorted(set(printed.values()), key=float, reverse=column.higher_is_better)
    return {name: places.index(text) / max(len(places) - 1, 1) for name, text in printed.items()}


def best(result: Result, column: Column) -> set[str]:
    """Name the rows that are not trivial and print the best value of a column.

    Source:
        Own.
    """
    places = ranks((row for row in result.rows if row.family != TRIVIAL), column)
    return {name for name, place in places.items() if place == 0}


def groups(result: Result) -> dict[str, list[Column]]:
    """Return all columns by the table they belong to, in order.

    Source:
        Own.
    """
    found: dict[str, list[Column]] = {}
    for column in result.columns:
        found.setdefault(column.group, []).append(column)
    return found


def short(result: Result) -> list[Column]:
    """Return the columns of the first table: the headlines, then the cost.

    Source:
        Own.
    """
    return [*(column for column in result.columns if column.headline), *COSTS]


def titled(result: Result, column: Column) -> str:
    """Return a column's title, with its group where two columns share a title."""
    alike = [other for other in result.columns if other.title == column.title]
    return column.title if len(alike) < 2 else f"{column.title} ({column.group})"


def arrow(column: Column) -> str:
    """Return which way is better: ``"↑"``, ``"↓"``, or nothing."""
    return {True: "↑", False: "↓", None: ""}[column.higher_is_better]


def facts(result: Result) -> dict[str, str]:
    """Return the setting in words, the number of images with it; the command stands apart.

    Source:
        Own.
    """
    listed = {"images": result.images, **result.setting}
    return {
        str(name).replace("_", " "): _words(value)
        for name, value in listed.items()
        if name != "command"
    }


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(content)}" for name, content in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_words, value))
    return str(value)


def thresholds(result: Result, row: Row) -> str:
    """Print the thresholds that were chosen for a row.

    Source:
        Own.
    """
    titles = {column.key: titled(result, column) for column in result.columns}
    return "; ".join(
        f"{titles.get(key, key)} {', '.join(f'{value:g}' for value in chosen)}"
        for key, chosen in result.thresholds.get(row.name, {}).items()
        if chosen
    )


def remarks(result: Result) -> list[str]:
    """Return the notes, and one more for each row whose maps held NaN.

    Source:
        Own.
    """
    return [
        *result.notes,
        *(
            f"{row.name}: {row.degenerate} of {result.images} maps held NaN or infinity, which "
            "counts as no evidence."
            for row in result.rows
            if row.degenerate
        ),
    ]


# ---- Wins and losses of the reference, in figures and in words.

#: Titles of a table of verdicts, and what is to be known to read it.
WINS = ("score", "its value", "best other", "other's value", "difference", "verdict")
WINS_LEGEND = (
    "In each column against the one that is best there by its mean, on the same images. The "
    "difference is the reference's value minus the other's, with a 95 % interval; undecided where "
    "that holds 0. Trivial maps do not count as methods."
)


@dataclass(frozen=True)
class Verdict:
    """How the reference did in one column against the best other method that is not trivial.

    Args:
        column: With a direction.
        own: Of the reference.
        other: The row whose mean is best among the others.
        difference: What the reference has more than the other, on the same images; None where it
            was not computed.

    Source:
        Own.
    """

    column: Column
    own: Interval
    other: Row
    difference: Interval | None

    @property
    def word(self) -> str:
        """Say ``"better"``, ``"worse"``, ``"undecided"`` (0 is inside) or ``"not compared"``."""
        if self.difference is None:
            return "not compared"
        if not (self.difference.low > 0 or self.difference.high < 0):
            return "undecided"
        return "better" if (self.difference.low > 0) == self.column.higher_is_better else "worse"


def contests(result: Result) -> dict[str, list[Verdict]]:
    """Hold the reference against the best other method, column by column.

    Args:
        result: Whose columns without a direction, without a value of the reference or without
            any other method are left out.

    Returns:
        Verdicts by who the others are: all methods that are not trivial; and those of another
        family, where the reference has others in its own, which may be its sisters.

    Source:
        Own.
    """
    family = {row.family for row in result.rows if row.name == result.reference}
    fields = {"other method": {TRIVIAL}, "method of another family": {TRIVIAL, *family}}
    found = {name: _verdicts(result, without) for name, without in fields.items()}
    everyone, others = found.values()
    return {name: v for name, v in found.items() if v and (v is everyone or others != everyone)}


def _verdicts(result: Result, without: Container[str]) -> list[Verdict]:
    rivals = [r for r in result.rows if r.family not in without and r.name != result.reference]
    found = (_verdict(result, rivals, column) for column in result.columns)
    return [verdict for verdict in found if verdict is not None]


def _verdict(result: Result, rivals: Sequence[Row], column: Column) -> Verdict | None:
    means = {row.name: value.mean for row in rivals if (value := value_of(row, column))}
    own = [value_of(row, column) for row in result.rows if row.name == result.reference]
    if column.higher_is_better is None or not means or not own or own[0] is None:
        return None
    other = (max if column.higher_is_better else min)(means, key=means.__getitem__)
    more = result.differences.get(column.key, {}).get(other)  # than the reference
    if more is None or not math.isfinite(more.mean):
        return Verdict(column, own[0], result[other], None)
    return Verdict(column, own[0], result[other], Interval(-more.mean, -more.high, -more.low))


def summary(result: Result, found: Sequence[Verdict]) -> list[str]:
    """Count wins and losses in sentences, each with the names of its columns.

    Args:
        result: For the titles of its columns.
        found: Of :func:`contests`.

    Source:
        Own.
    """
    lines = []
    for word in ("better", "worse", "undecided", "not compared"):
        names = [titled(result, v.column) for v in found if v.word == word]
        if names or word in ("better", "worse"):
            listed = f": {'; '.join(names)}" if names else ""
            lines.append(f"{word} in {len(names)} of {len(found)}{listed}")
    return lines


def signed(column: Column, value: Interval | None) -> str:
    """Print a difference with its interval.

    Example:
        >>> column = Column("error", "LE, %", "Where", higher_is_better=False, scale=100)
        >>> signed(column, Interval(-0.05, -0.081, 0.002))
        '-5.0 [-8.1, +0.2]'
    """
    if value is None:
        return DASH
    mean, low, high = (
        f"{column.scale * number:+.{column.digits}f}"
        for number in (value.mean, value.low, value.high)
    )
    return f"{mean} [{low}, {high}]"


# ---- The tables of a result, as Markdown and for the shell.


def markdown(result: Result) -> str:
    """Lay out a result as Markdown.

    Args:
        result: Finished.

    Returns:
        The setting, the short table, wins and losses of the reference, what failed, one table a
        group of columns with its legend, the methods, and the notes. In bold the best value of
        a column that does not belong to a trivial row.

    Source:
        Own.
    """
    command = str(result.setting.get("command", ""))
    parts = [
        "# Benchmark of saliency methods",
        _list(f"{_plain(name)}: {_plain(text)}" for name, text in facts(result).items()),
        "\n".join(f"    {line}" for line in command.splitlines()),  # indented: nothing to escape
        "## In short",
        _table_of(result, short(result)),
        "Means over images with 95 % bootstrap intervals; ↑ higher is better, ↓ lower is better; "
        "in bold the best that is not trivial.",
        _list(_legend(result, column) for column in COSTS),
        *_wins(result),
        *_section("Failed", (_failure(row) for row in result.rows if row.failure)),
        *(
            part
            for name, columns in groups(result).items()
            for part in _group(result, name, columns)
        ),
        "## Methods",
        _methods(result),
        *_section("Notes", map(_plain, remarks(result))),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def text_table(result: Result) -> str:
    """Lay out the short table for the shell, without intervals; failures follow in words.

    Source:
        Own.
    """
    from captum_masking._base.text import table  # the commands import this package

    columns = short(result)
    header = ["method", *(titled(result, column) for column in columns)]
    lines = [[_one_line(row.name), *(mean_of(row, c) for c in columns)] for row in result.rows]
    failed = [f"{row.name} failed: {row.failure}" for row in result.rows if row.failure]
    return "\n".join([table(header, lines), *map(_one_line, failed)])


def _table_of(result: Result, columns: Sequence[Column]) -> str:
    header = ["method", *(f"{titled(result, c)} {arrow(c)}".strip() for c in columns)]
    bold = [best(result, column) for column in columns]
    lines = [
        [
            _plain(row.name),
            *(_cell(row, c, row.name in names) for c, names in zip(columns, bold, strict=True)),
        ]
        for row in result.rows
    ]
    return _markdown_table(header, lines)


def _cell(row: Row, column: Column, is_best: bool) -> str:
    value = value_of(row, column)
    if value is None:
        return DASH
    mean = column.text(value.mean)
    return f"{f'**{mean}**' if is_best else mean} {limits(column, value)}".strip()


def _group(result: Result, name: str, columns: Sequence[Column]) -> list[str]:
    legend = _list(_legend(result, column) for column in columns)
    return [f"## {_plain(name)}", _table_of(result, columns), legend]


def _legend(result: Result, column: Column) -> str:
    return f"{_plain(titled(result, column))}: {_plain(column.legend)}" if column.legend else ""


def _wins(result: Result) -> list[str]:
    parts = [
        part
        for rivals, found in contests(result).items()
        for part in (
            f"### Against the best {rivals}",
            _list(map(_plain, summary(result, found))),
            _markdown_table(WINS, [_win_line(result, verdict) for verdict in found]),
        )
    ]
    title = f"## Wins and losses of {_plain(result.reference)}"
    return [title, WINS_LEGEND, *parts] if parts else []


def _win_line(result: Result, verdict: Verdict) -> list[str]:
    column, other = verdict.column, verdict.other
    return [
        f"{titled(result, column)} {arrow(column)}",
        column.text(verdict.own.mean),
        _plain(other.name),
        mean_of(other, column),
        signed(column, verdict.difference),
        verdict.word,
    ]


def _failure(row: Row) -> str:
    return f"{_plain(row.name)} ({_plain(row.family)}): {_plain(row.failure)}"


def _methods(result: Result) -> str:
    lines = [
        [_plain(text) or DASH for text in (r.name, r.family, r.settings, thresholds(result, r))]
        for r in result.rows
    ]
    return _markdown_table(["method", "family", "settings", "thresholds chosen"], lines)


def _section(title: str, lines: Iterable[str]) -> list[str]:
    listed = _list(lines)
    return [f"## {title}", listed] if listed else []


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines if line)


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *(["---:"] * (len(header) - 1))]
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, rule, *rows])


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _plain(text: str) -> str:
    """Take from a text what Markdown would read as more than text."""
    return re.sub(r"([\\`*_<>|\[\]&~$])", r"\\\1", _one_line(text))


# ---- A result as one HTML file that needs nothing else: no network, no script, no other file.

Picture = bytes | str | Path

_SHADES = 7  # from the best, q0, to the worst, q6
_WORDS = ("best other", "settings", "thresholds chosen")  # columns that hold no numbers
_LEFT = ' class="words"'

_STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--paper:#fff;--soft:#5b6470;--line:#d5dae0;
--good:0,114,178;--bad:230,120,0}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ed;--paper:#14171b;--soft:#a3adb8;--line:#363d46;
--good:60,160,230;--bad:240,140,30}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:82rem;margin:auto;padding:1rem}
h1{font-size:1.6rem;line-height:1.2}h2{font-size:1.2rem;margin:2.2rem 0 .6rem}
p,ul,dl{max-width:48rem}li,dd,pre{overflow-wrap:anywhere}
pre{white-space:pre-wrap;padding:.7rem;border:1px solid var(--line);border-radius:6px}
dt{font-weight:600}dd{margin:0 0 .4rem;color:var(--soft)}
.facts{display:grid;grid-template-columns:max-content 1fr;gap:.1rem .9rem}
.facts dt{max-width:9rem;overflow-wrap:anywhere}.facts dd{margin:0}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:6px;margin:.6rem 0}
table{border-collapse:separate;border-spacing:0;width:100%;font-size:.86rem;
font-variant-numeric:tabular-nums}
caption{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
th,td{padding:.3rem .55rem;border-bottom:1px solid var(--line);text-align:right;vertical-align:top}
tr:last-child>*{border-bottom:0}
td{white-space:nowrap}td.words{white-space:normal;min-width:8rem;max-width:30rem;
overflow-wrap:break-word}.words{text-align:left}
thead th{vertical-align:bottom;background:var(--paper);color:var(--soft);font-weight:600}
th:first-child{position:sticky;left:0;z-index:1;background:var(--paper);text-align:left;
min-width:7.5rem;max-width:15rem;overflow-wrap:anywhere}
tbody th{font-weight:500;border-left:5px solid var(--family,transparent)}
small{display:block;color:var(--soft);font-size:.75em}
.q0{background:rgba(var(--good),.30)}.q1{background:rgba(var(--good),.20)}
.q2{background:rgba(var(--good),.10)}.q4{background:rgba(var(--bad),.08)}
.q5{background:rgba(var(--bad),.16)}.q6{background:rgba(var(--bad),.24)}
.better{background:rgba(var(--good),.25)}.worse{background:rgba(var(--bad),.25)}
figure{margin:1rem 0}figcaption{color:var(--soft);font-size:.9rem}
img{display:block;width:100%;background:#fff}.plot img{max-width:62rem}.wide img{min-width:60rem}
@media(max-width:40rem){main{padding:.7rem}table{font-size:.8rem}
th:first-child{max-width:8rem}.plot img{min-width:34rem}}
"""

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>Benchmark of saliency methods</title>
<style>$style</style>
</head>
<body>
<main>
<h1>Benchmark of saliency methods</h1>
$body
</main>
</body>
</html>
""")


def html(
    result: Result, montage_png: Picture | None = None, plot_pngs: Sequence[Picture] = ()
) -> str:
    """Lay out a result as one page, its pictures inside.

    Args:
        result: Finished.
        montage_png: Of :func:`~captum_masking.benchmark.report.draw_montage`, its bytes or its
            file, or the same as JPEG; None leaves it out.
        plot_pngs: Of :func:`~captum_masking.benchmark.report.draw_cost_quality`.

    Returns:
        The page; whatever the user named is escaped.

    Source:
        Own.
    """
    plots = [
        _figure(
            plot, "plot", "Cost against quality, bars: 95 % intervals. Lines across: trivial maps."
        )
        for plot in plot_pngs
    ]
    body = [
        _setting(result),
        _short(result),
        *_wins_html(result),
        *_failures(result),
        *(["<h2>Cost against quality</h2>", *plots] if plots else []),
        *_montage(montage_png),
        *(_group_html(result, name, columns) for name, columns in groups(result).items()),
        _methods_html(result),
        *_list_html("Notes", remarks(result)),
    ]
    return _PAGE.substitute(style=_STYLE, body="\n".join(body))


def _setting(result: Result) -> str:
    listed = "".join(f"<dt>{escape(n)}</dt><dd>{escape(v)}</dd>" for n, v in facts(result).items())
    command = escape(str(result.setting.get("command", "")))
    repeat = f"<h2>Command to repeat</h2><pre><code>{command}</code></pre>" if command else ""
    return f'<dl class="facts">{listed}</dl>{repeat}'


def _short(result: Result) -> str:
    return (
        "<h2>In short</h2><p>Means over images, and below them 95 % bootstrap intervals. "
        "↑ higher is better, ↓ lower is better. Blue cells rank well within their column, orange "
        "ones badly; in bold the best that is not trivial.</p>"
        + _scores(result, "In short: the main scores and the cost", short(result))
        + _legend_html(result, short(result))
    )


def _group_html(result: Result, name: str, columns: Sequence[Column]) -> str:
    table = _scores(result, name, columns)
    return f"<h2>{escape(name)}</h2>{table}{_legend_html(result, columns)}"


def _legend_html(result: Result, columns: Sequence[Column]) -> str:
    lines = (
        f"<dt>{escape(titled(result, c))}</dt><dd>{escape(c.legend)}</dd>"
        for c in columns
        if c.legend
    )
    return f"<details><summary>What the columns mean</summary><dl>{''.join(lines)}</dl></details>"


def _scores(result: Result, caption: str, columns: Sequence[Column]) -> str:
    places = [ranks(result.rows, column) for column in columns]
    bold = [best(result, column) for column in columns]
    colors = family_colors(result)
    lines = [
        _head(row, colors)
        + "".join(
            _cell_html(row, column, place.get(row.name), row.name in names)
            for column, place, names in zip(columns, places, bold, strict=True)
        )
        for row in result.rows
    ]
    return _table(caption, ["method", *(_title(result, column) for column in columns)], lines)


def _title(result: Result, column: Column) -> str:
    return f"{titled(result, column)}\N{NO-BREAK SPACE}{arrow(column)}".strip()


def _head(row: Row, colors: Mapping[str, str]) -> str:
    kind = f"<small>{escape(row.family)}{', failed' if row.failure else ''}</small>"
    style = f"--family:{colors[row.family]}"
    return f'<th scope="row" style="{style}">{_breakable(row.name)}{kind}</th>'


def _breakable(name: str) -> str:
    """Escape a name and let it break where a word ends: InputXGradient, my_method."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[a-z0-9]_)(?=[a-zA-Z])", "<wbr>", escape(name))


def _cell_html(row: Row, column: Column, place: float | None, is_best: bool) -> str:
    value = value_of(row, column)
    if value is None:
        return f"<td>{DASH}</td>"
    shade = "" if place is None else f' class="q{round(place * (_SHADES - 1))}"'
    mean = column.text(value.mean)
    strong = f"<strong>{mean}</strong>" if is_best else mean
    ends = limits(column, value)
    return f"<td{shade}>{strong}{f'<small>{ends}</small>' if ends else ''}</td>"


def _wins_html(result: Result) -> list[str]:
    title = f"Wins and losses of {result.reference}"
    parts = [
        f"<h3>Against the best {escape(rivals)}</h3>"
        f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in summary(result, found))}</ul>"
        "<details><summary>Column by column</summary>"
        f"{_table(f'{title} against the best {rivals}', WINS, _win_lines(result, found))}</details>"
        for rivals, found in contests(result).items()
    ]
    return [f"<h2>{escape(title)}</h2><p>{WINS_LEGEND}</p>", *parts] if parts else []


def _win_lines(result: Result, found: Sequence[Verdict]) -> list[str]:
    return [
        f'<th scope="row">{escape(_title(result, verdict.column))}</th>'
        f"<td>{verdict.column.text(verdict.own.mean)}</td>"
        f'<td class="words">{escape(verdict.other.name)}</td>'
        f"<td>{mean_of(verdict.other, verdict.column)}</td>"
        f"<td>{signed(verdict.column, verdict.difference)}</td>"
        f'<td class="{verdict.word.replace(" ", "-")}">{verdict.word}</td>'
        for verdict in found
    ]


def _failures(result: Result) -> list[str]:
    failed = [row for row in result.rows if row.failure]
    return _list_html("Failed", (f"{row.name} ({row.family}): {row.failure}" for row in failed))


def _methods_html(result: Result) -> str:
    colors = family_colors(result)
    lines = [
        _head(row, colors)
        + "".join(
            f'<td class="words">{escape(text) or DASH}</td>'
            for text in (row.settings, thresholds(result, row))
        )
        for row in result.rows
    ]
    table = _table("Methods", ["method", "settings", "thresholds chosen"], lines)
    return f"<h2>Methods</h2>{table}"


def _montage(picture: Picture | None) -> list[str]:
    if picture is None:
        return []
    text = (
        "The same images under all methods: dark is no evidence, bright is all; true boxes white."
    )
    return ["<h2>The same images under all methods</h2>", _figure(picture, "wide", text)]


def _figure(picture: Picture, kind: str, text: str) -> str:
    content = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
    coding = "jpeg" if content.startswith(b"\xff\xd8") else "png"
    source = f"data:image/{coding};base64,{base64.b64encode(content).decode()}"
    box = f'<div class="scroll" tabindex="0" role="region" aria-label="{text}">'
    image = f'{box}<img alt="{text}" src="{source}"></div>'
    return f'<figure class="{kind}">{image}<figcaption>{text}</figcaption></figure>'


def _table(caption: str, header: Sequence[str], lines: Iterable[str]) -> str:
    """Make a table of lines of cells in a box that scrolls; cells come as HTML."""
    titles = "".join(
        f'<th scope="col"{_LEFT if title in _WORDS else ""}>{escape(title)}</th>'
        for title in header
    )
    rows = "\n".join(f"<tr>{line}</tr>" for line in lines)
    name = escape(caption)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{name}"><table>'
        f"<caption>{name}</caption><thead><tr>{titles}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _list_html(title: str, lines: Iterable[str]) -> list[str]:
    listed = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return [f"<h2>{title}</h2><ul>{listed}</ul>"] if listed else []


# ---- Write a finished benchmark as tables, pictures and one page.

#: Drawn against cost is the first of these that the result has, else its first headline.
PLOTTED = ("error_at_best", "error_at_mean", "mask_iou_at_best", "saliency_metric")


def write_report(result: Result, samples: Sequence[Sample], out: Path) -> list[Path]:
    """Write all that a benchmark has to show, each file at one go.

    Args:
        result: Finished.
        samples: For the montage; with none there is no montage.
        out: A folder, made if need be.

    Returns:
        The files: ``result.json``, ``table.md``, ``table.csv``, ``montage.png``,
        ``cost-quality-KEY.png`` and ``report.html``; pictures only where there is something to
        draw.

    Source:
        Own.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "result.json", result.as_json())
    write_text(out / "table.md", markdown(result))
    write_text(out / "table.csv", csv_table(result))
    montages, plots = _draw(result, samples, out)
    page = html(result, as_jpeg(montages[0]) if montages else None, plots)
    write_text(out / "report.html", page)
    texts = [out / name for name in ("result.json", "table.md", "table.csv")]
    return [*texts, *montages, *plots, out / "report.html"]


def _draw(result: Result, samples: Sequence[Sample], out: Path) -> tuple[list[Path], list[Path]]:
    montages = [out / "montage.png"] if samples else []
    for file in montages:
        with replacing(file, shared=True) as staged:
            draw_montage(samples, result, staged)
    key = _plotted(result)
    plots = [out / f"cost-quality-{key}.png"] if key else []
    for file in plots:
        with replacing(file, shared=True) as staged:
            draw_cost_quality(result, key, staged)
    return montages, plots


def _plotted(result: Result) -> str:
    """Return the key of the column to draw against cost; empty if none has a value."""
    known = {column.key: column for column in result.columns if _has_values(result, column)}
    chosen = [key for key in PLOTTED if key in known]
    chosen += [key for key, c in known.items() if c.headline and c.higher_is_better is not None]
    return chosen[0] if chosen else ""


def _has_values(result: Result, column: Column) -> bool:
    return any(value_of(row, column) is not None for row in result.rows)


def csv_table(result: Result) -> str:
    """Lay out all numbers as CSV, one line a row, unscaled; empty where there is none.

    Source:
        Own.
    """
    stream = io.StringIO()
    ends = [f"{c.key}{end}" for c in result.columns for end in ("", "_low", "_high")]
    costs = [column.key for column in COSTS]
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["method", "family", *ends, *costs, "batch_size", "degenerate", "failure"])
    writer.writerows(_csv_line(result, row) for row in result.rows)
    return stream.getvalue()


def _csv_line(result: Result, row: Row) -> list[Any]:
    missing = Interval(math.nan, math.nan, math.nan)
    values = [value_of(row, column) or missing for column in result.columns]
    costs = [(value_of(row, column) or missing).mean for column in COSTS]
    numbers = [n for v in values for n in (v.mean, v.low, v.high)] + costs
    batch_size = row.cost.batch_size if row.cost else ""
    cells = [number if math.isfinite(number) else "" for number in numbers]
    return [row.name, row.family, *cells, batch_size, row.degenerate, row.failure]
