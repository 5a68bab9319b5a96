"""The report of a benchmark: tables, pictures and one page, all from one DataFrame."""

from __future__ import annotations

import base64
import io
import math
import re
import textwrap
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from captum_masking._base.files import replacing, write_json, write_text
from captum_masking._base.text import table
from captum_masking.benchmark.images import Sample
from captum_masking.benchmark.result import COSTS, TRIVIAL, Column, Interval, Result, Row, needed
from captum_masking.viz import Panel, overlay

#: Printed for a missing value.
DASH = "–"

#: The plot shows the first of these that the result has, else its first headline.
PLOTTED = ("error_at_best", "error_at_mean", "mask_iou_at_best", "saliency_metric")

#: Okabe & Ito's colors without black and yellow, distinct for color-blind readers.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")

_SHADES = 7  # from the best, q0, to the worst, q6

_VERDICT_TITLES = ("score", "its value", "best other", "other's value", "difference", "verdict")
_VERDICT_LEGEND = (
    "Each column compares the reference with the method that has the best mean there, on the same "
    "images. The difference is the reference's value minus the other's, with a 95 % interval; it "
    "is undecided if the interval holds 0. Trivial baselines are not compared."
)

Picture = bytes | str | Path


def write_report(result: Result, samples: Sequence[Sample], out: Path) -> list[Path]:
    write_json(out / "result.json", result.as_json())
    write_text(out / "table.md", markdown(result))
    write_text(out / "table.csv", result.frame().to_csv(lineterminator="\n"))
    montages = [out / "montage.png"] if samples else []
    for file in montages:
        with replacing(file, shared=True) as staged:
            draw_montage(samples, result, staged)
    key = _plotted(result)
    plots = [out / f"cost-quality-{key}.png"] if key else []
    for file in plots:
        with replacing(file, shared=True) as staged:
            draw_cost_quality(result, key, staged)
    page = html(result, _as_jpeg(montages[0]) if montages else None, plots)
    write_text(out / "report.html", page)
    texts = [out / name for name in ("result.json", "table.md", "table.csv")]
    return [*texts, *montages, *plots, out / "report.html"]


def _plotted(result: Result) -> str:
    """Return the key of the column to plot against cost; "" if none has a value."""
    known = {c.key: c for c in result.columns if any(row.value(c) for row in result.rows)}
    chosen = [key for key in PLOTTED if key in known]
    chosen += [key for key, c in known.items() if c.headline and c.higher_is_better is not None]
    return chosen[0] if chosen else ""


def markdown(result: Result) -> str:
    """Return a result as Markdown, with the best value of each column in bold.

    Needs pandas and jinja2.

    Example:
        >>> rows = [Row("mine", "yours", values={"error": Interval(0.3, 0.25, 0.36)})]
        >>> column = Column("error", "LE, %", "Where", False, scale=100, headline=True)
        >>> "| mine | **30.0** [25.0, 36.0] |" in markdown(Result([column], rows, images=9))
        True
    """
    return re.sub(r"\n{3,}", "\n\n", _rendered("report.md", result)).strip() + "\n"


def html(result: Result, montage: Picture | None = None, plots: Sequence[Picture] = ()) -> str:
    """Return a self-contained page; names are escaped, pictures are PNG or JPEG."""
    pictures = {"montage": montage and _source(montage), "plots": [_source(p) for p in plots]}
    return _rendered("report.html", result, **pictures)


def text_table(result: Result) -> str:
    """Return the short table for the shell, without intervals, followed by failures.

    Example:
        >>> print(text_table(Result([], [Row("mine", "yours", failure="it raised")], images=0)))
        method  forwards  ms/image  peak MB
        ------  --------  --------  -------
        mine           –         –        –
        mine failed: it raised
    """
    columns = _short(result)
    header = ["method", *(_titled(result, column) for column in columns)]
    lines = [[_one_line(row.name), *(_mean(row, c) for c in columns)] for row in result.rows]
    failed = [f"{row.name} failed: {row.failure}" for row in result.rows if row.failure]
    return "\n".join([table(header, lines), *map(_one_line, failed)])


def _rendered(template: str, result: Result, **pictures: Any) -> str:
    """Render a template of this folder."""
    frame = result.frame()
    tables = {"": _short(result)}
    for column in result.columns:
        tables.setdefault(column.group, []).append(column)
    cells = {name: _cells(result, frame, columns) for name, columns in tables.items()}
    page = _environment(result).get_template(template)
    return str(page.render(result=result, short=cells.pop(""), groups=cells, **pictures))


def _environment(result: Result) -> Any:
    jinja2 = needed("jinja2")
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=jinja2.select_autoescape(["html"]),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters.update(plain=_plain, breakable=_breakable, signed=signed, mean=_mean)
    made.filters.update(titled=partial(_titled, result), heading=partial(_heading, result))
    made.globals.update(
        summary=partial(_summary, result),
        thresholds=partial(_thresholds, result),
        contests=contests(result),
        facts=_facts(result),
        command=str(result.setting.get("command", "")),
        failures=[f"{r.name} ({r.family}): {r.failure}" for r in result.rows if r.failure],
        remarks=_remarks(result),
        colors=family_colors(result),
        costs=COSTS,
        verdict_titles=_VERDICT_TITLES,
        verdict_legend=_VERDICT_LEGEND,
        dash=DASH,
    )
    return made


# ---- Names and numbers as text.


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _plain(text: str) -> str:
    return re.sub(r"([\\`*_<>|\[\]&~$])", r"\\\1", _one_line(text))


def _breakable(name: str) -> Any:
    """Escape a name for HTML, with line breaks between words: InputXGradient, my_method."""
    markupsafe = needed("markupsafe")
    ends = r"(?<=[a-z])(?=[A-Z])|(?<=[a-z0-9]_)(?=[a-zA-Z])"
    return markupsafe.Markup(re.sub(ends, "<wbr>", str(markupsafe.escape(name))))


def _mean(row: Row, column: Column) -> str:
    value = row.value(column)
    return DASH if value is None else column.text(value.mean)


def signed(value: Interval | None, column: Column) -> str:
    if value is None:
        return DASH
    mean, low, high = (column.text(number, "+") for number in (value.mean, value.low, value.high))
    return f"{mean} [{low}, {high}]"


def _titled(result: Result, column: Column) -> str:
    """Return a column's title, with its group if two columns share a title."""
    alike = [other for other in result.columns if other.title == column.title]
    return column.title if len(alike) < 2 else f"{column.title} ({column.group})"


def _heading(result: Result, column: Column, space: str = " ") -> str:
    """Return a column's title with an arrow: up if higher is better."""
    arrow = {True: "↑", False: "↓", None: ""}[column.higher_is_better]
    return f"{_titled(result, column)}{space}{arrow}".strip()


def _facts(result: Result) -> dict[str, str]:
    """Return the setting and the number of images as text, without the command."""
    listed = {"images": result.images, **result.setting}
    return {n.replace("_", " "): _listed(v) for n, v in listed.items() if n != "command"}


def _listed(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_listed(content)}" for name, content in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_listed, value))
    return str(value)


def _thresholds(result: Result, row: Row) -> str:
    titles = {column.key: _titled(result, column) for column in result.columns}
    return "; ".join(
        f"{titles.get(key, key)} {', '.join(f'{value:g}' for value in chosen)}"
        for key, chosen in result.thresholds.get(row.name, {}).items()
        if chosen
    )


def _remarks(result: Result) -> list[str]:
    """Return the notes, plus one for each row whose maps held NaN."""
    nan = "maps held NaN or infinity, which counts as no evidence."
    broken = [row for row in result.rows if row.degenerate]
    return [*result.notes, *(f"{r.name}: {r.degenerate} of {result.images} {nan}" for r in broken)]


# ---- Tables: columns by group, and cells shaded by rank.


class Cell(NamedTuple):
    """A value and its interval as text, its shade (0 to 6 or None), and whether it is best."""

    mean: str
    limits: str = ""
    shade: int | None = None
    is_best: bool = False


class Cells(NamedTuple):
    columns: Sequence[Column]
    lines: Sequence[Sequence[Cell]]


def _short(result: Result) -> list[Column]:
    return [*(column for column in result.columns if column.headline), *COSTS]


def ranks(frame: Any, column: Column) -> dict[str, float]:
    """Rank rows from 0, the best, to 1, the worst; equal text gives equal ranks."""
    if column.higher_is_better is None:
        return {}
    printed = frame[column.key].dropna().map(lambda value: float(column.text(value)))
    places = printed.rank(method="dense", ascending=not column.higher_is_better) - 1
    found: dict[str, float] = (places / max(places.max(), 1)).to_dict()
    return found


def best(frame: Any, column: Column) -> set[str]:
    places = ranks(frame[frame["family"] != TRIVIAL], column)
    return {name for name, place in places.items() if place == 0}


def _cells(result: Result, frame: Any, columns: Sequence[Column]) -> Cells:
    by_column = [_cells_of(frame, column) for column in columns]
    return Cells(columns, [[cells[row.name] for cells in by_column] for row in result.rows])


def _cells_of(frame: Any, column: Column) -> dict[str, Cell]:
    places, bold = ranks(frame, column), best(frame, column)
    ends = [column.key + end for end in ("", "_low", "_high") if column.key + end in frame]
    cells = {}
    for name, mean, *interval in frame[ends].itertuples():
        cells[name] = Cell(DASH)
        if math.isfinite(mean):
            known = [column.text(end) for end in interval if math.isfinite(end)]
            limits = f"[{', '.join(known)}]" if len(known) == 2 else ""
            shade = round(places[name] * (_SHADES - 1)) if name in places else None
            cells[name] = Cell(column.text(mean), limits, shade, name in bold)
    return cells


# ---- Wins and losses of the reference.


@dataclass(frozen=True)
class Verdict:
    """The reference against the best other row in one column."""

    column: Column
    own: Interval
    other: Row
    difference: Interval | None  # of the reference minus the other, on the same images

    @property
    def word(self) -> str:
        if self.difference is None:
            return "not compared"
        if not (self.difference.low > 0 or self.difference.high < 0):
            return "undecided"
        return "better" if (self.difference.low > 0) == self.column.higher_is_better else "worse"


def contests(result: Result) -> dict[str, list[Verdict]]:
    """Compare the reference with the best other method, and with the best other family's."""
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
    means = {row.name: value.mean for row in rivals if (value := row.value(column))}
    own = [row.value(column) for row in result.rows if row.name == result.reference]
    if column.higher_is_better is None or not means or not own or own[0] is None:
        return None
    other = (max if column.higher_is_better else min)(means, key=means.__getitem__)
    more = result.differences.get(column.key, {}).get(other)  # than the reference
    if more is None or not math.isfinite(more.mean):
        return Verdict(column, own[0], result[other], None)
    return Verdict(column, own[0], result[other], Interval(-more.mean, -more.high, -more.low))


def _summary(result: Result, found: Sequence[Verdict]) -> list[str]:
    lines = []
    for word in ("better", "worse", "undecided", "not compared"):
        names = [_titled(result, v.column) for v in found if v.word == word]
        if names or word in ("better", "worse"):
            listed = f": {'; '.join(names)}" if names else ""
            lines.append(f"{word} in {len(names)} of {len(found)}{listed}")
    return lines


# ---- Colors, and names that fit a picture.


def family_colors(result: Result) -> dict[str, str]:
    families = dict.fromkeys(row.family for row in result.rows if row.family != TRIVIAL)
    colors = {name: COLORS[place % len(COLORS)] for place, name in enumerate(families)}
    return {**colors, TRIVIAL: "#767676"}


def _fit(text: str, width: int) -> str:
    """Fit a text into two lines, and escape dollars."""
    first, *more = textwrap.wrap(text, width) or [""]
    second = " ".join(more)
    lines = [first, second if len(second) <= width else f"{second[: width - 1]}…"]
    return "\n".join(filter(None, lines)).replace("$", r"\$")


def _source(picture: Picture) -> str:
    content = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
    coding = "jpeg" if content.startswith(b"\xff\xd8") else "png"
    return f"data:image/{coding};base64,{base64.b64encode(content).decode()}"


# ---- The same images under all methods.

_DPI, _SIDE, _GAP, _TITLE_HEIGHT = 100, 168, 8, 34  # in pixels of the file
_PER_LINE = 9  # panels
_TITLE = 26  # characters that fit above a panel

_Place = tuple[int, int, Panel]


def draw_montage(samples: Sequence[Sample], result: Result, file: str | Path) -> None:
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
    """Return each panel with its position, and the total size, in pixels."""
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
    how = {"fontsize": 8.5, "va": "bottom", "linespacing": 1.0, "parse_math": False}
    axes.text(left, top - 4, panel.title, **how)
    for x0, y0, x1, y1 in panel.boxes:
        corner = left + scale * float(x0), top + scale * float(y0)
        size = scale * float(x1 - x0), scale * float(y1 - y0)
        for color, line in (("black", 2.2), ("white", 1.0)):
            axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=color, linewidth=line))


def _panels(sample: Sample, names: Sequence[str]) -> list[Panel]:
    blank = np.ones(sample.pixels.shape[:2])
    maps = [_heat(sample, name) if name in sample.maps else blank for name in names]
    titled = zip((sample.title, *names), (sample.pixels, *maps), strict=True)
    return [Panel(pixels, _fit(title, _TITLE), sample.boxes) for title, pixels in titled]


def _heat(sample: Sample, name: str) -> np.ndarray:
    # As in the metrics, NaN is no evidence.
    return overlay(sample.pixels, torch.as_tensor(sample.maps[name]).float().nan_to_num(0, 0, 0))


def _as_jpeg(file: str | Path) -> bytes:
    """Return a PNG file as JPEG, a fifth of its size."""
    from PIL import Image  # matplotlib draws with it

    stream = io.BytesIO()
    with Image.open(file) as picture:
        picture.convert("RGB").save(stream, format="JPEG", quality=85)
    return stream.getvalue()


# ---- Cost against quality, a numbered point a method.

_MARKERS = "osD^vPX"
_DASHES = ("--", ":", "-.", (0, (6, 2, 1, 2, 1, 2)))

#: Offsets of a number from its point, and the space that it needs, in pixels.
_BESIDE = np.array([(s * x, y) for x in (17, 28, 40) for y in (0, 9, -9, 18, -18) for s in (1, -1)])
_ROOM = 14

_LEADER = {"arrowstyle": "-", "color": "#888888", "linewidth": 0.5, "shrinkB": 3}
_IN_PIXELS = {"xycoords": "figure pixels", "textcoords": "figure pixels"}
_CENTERED = {"fontsize": 8, "ha": "center", "va": "center", "zorder": 5}


class _Point(NamedTuple):
    """A row of the plot; a horizontal line if it has no cost."""

    row: Row
    forwards: float | None
    mean: float
    low: float
    high: float


def draw_cost_quality(result: Result, key: str, file: str | Path) -> bool:
    """Plot a column against time; trivial rows, or those without cost, are lines."""
    from matplotlib.figure import Figure  # without pyplot: the user's backend stays as it is

    column, colors = _column(result, key), family_colors(result)
    rows = [_point(row, column, value) for row in result.rows if (value := row.value(column))]
    if not rows:
        return False
    points = [point for point in rows if point.forwards]
    lines = [point for point in rows if not point.forwards]
    figure = Figure((10, max(4.8, 1.5 + 0.21 * len(rows))), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    handles = {f"{n} {p.row.name}": _draw_point(axes, p, colors) for n, p in enumerate(points, 1)}
    handles |= {p.row.name: _draw_line(axes, p, n, colors) for n, p in enumerate(lines)}
    _draw_legend(figure, [p.row.family for p in (*points, *lines)], handles)
    _label_axes(axes, column, bool(points))
    figure.draw_without_rendering()  # sets the scales
    _number(axes, points)
    figure.savefig(file, format="png", dpi="figure")
    return True


def _point(row: Row, column: Column, value: Interval) -> _Point:
    cost = row.cost.forwards if row.cost and row.family != TRIVIAL else 0.0
    ends = (end if math.isfinite(end) else value.mean for end in (value.low, value.high))
    mean, low, high = (column.scale * number for number in (value.mean, *ends))
    return _Point(row, cost if 0 < cost < math.inf else None, mean, low, high)


def _column(result: Result, key: str) -> Column:
    found = {column.key: column for column in result.columns}
    if key not in found:
        raise ValueError(
            f"expected the key of a column, but got {key!r}; choose from {', '.join(found)}."
        )
    return found[key]


def _draw_line(axes: Any, point: _Point, place: int, colors: Mapping[str, str]) -> Any:
    style = {"color": colors[point.row.family], "linestyle": _DASHES[place % len(_DASHES)]}
    return axes.axhline(point.mean, linewidth=1.2, zorder=1, **style)


def _draw_point(axes: Any, point: _Point, colors: Mapping[str, str]) -> Any:
    marker = _MARKERS[list(colors).index(point.row.family) % len(_MARKERS)]
    style = {"marker": marker, "markersize": 6, "elinewidth": 0.9, "capsize": 2}
    ends = [[abs(point.mean - point.low)], [abs(point.high - point.mean)]]
    color = colors[point.row.family]
    return axes.errorbar([point.forwards], [point.mean], ends, color=color, **style)


def _draw_legend(figure: Any, families: Sequence[str], handles: Mapping[str, Any]) -> None:
    from matplotlib.lines import Line2D

    listed: list[tuple[Any, str]] = []
    before = None
    for family, (name, handle) in zip(families, handles.items(), strict=True):
        if family != before:
            listed.append((Line2D([], [], linestyle=""), f"{_fit(family, 40)}:"))
        listed.append((handle, _fit(name, 40)))
        before = family
    figure.legend(*zip(*listed, strict=True), loc="outside right upper", fontsize=8, frameon=False)


def _label_axes(axes: Any, column: Column, has_points: bool) -> None:
    if has_points:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(x=0.08, y=0.08)
    axes.grid(alpha=0.25)
    axes.set_xlabel("← better      time per image, in forward passes of the classifier")
    better = {True: "      better →", False: "", None: ""}[column.higher_is_better]
    worse = "← better      " if column.higher_is_better is False else ""
    axes.set_ylabel(_fit(f"{worse}{column.title}{better}", 60))


def _number(axes: Any, points: Sequence[_Point]) -> None:
    """Write each point's number where there is most space."""
    bars = [_bar(axes, point) for point in points]
    taken = np.concatenate(bars) if bars else np.empty((0, 2))
    for number, (center, *_) in enumerate(bars, 1):
        places = center + _BESIDE
        gaps = np.linalg.norm(places[:, None] - taken[None], axis=2).min(1)
        free = places[np.argmax(np.minimum(gaps, _ROOM) - 0.4 * np.hypot(*_BESIDE.T))]
        taken = np.concatenate([taken, free[None]])
        axes.annotate(str(number), center, free, arrowprops=_LEADER, **_IN_PIXELS, **_CENTERED)


def _bar(axes: Any, point: _Point) -> np.ndarray:
    """Return points along an error bar on the canvas, its middle first."""
    heights = [point.mean, *np.linspace(point.low, point.high, 9)]
    return axes.transData.transform([(point.forwards, height) for height in heights])
