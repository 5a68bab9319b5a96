"""Write a finished benchmark as tables, pictures and one page."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from captum_masking.benchmark.html import html
from captum_masking.benchmark.markdown import markdown
from captum_masking.benchmark.markdown.reading import COSTS, value_of
from captum_masking.benchmark.pictures import Sample, as_jpeg, draw_cost_quality, draw_montage
from captum_masking.benchmark.result import Column, Interval, Result, Row
from captum_masking.study.run import write_json

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
    write_json(without_nan(result.as_json()), out / "result.json")
    _write_text(markdown(result), out / "table.md")
    _write_text(csv_table(result), out / "table.csv")
    montages, plots = _draw(result, samples, out)
    page = html(result, as_jpeg(montages[0]) if montages else None, plots)
    _write_text(page, out / "report.html")
    texts = [out / name for name in ("result.json", "table.md", "table.csv")]
    return [*texts, *montages, *plots, out / "report.html"]


def _draw(result: Result, samples: Sequence[Sample], out: Path) -> tuple[list[Path], list[Path]]:
    montages = [out / "montage.png"] if samples else []
    for file in montages:
        _at_one_go(file, lambda staged: draw_montage(samples, result, staged))
    key = _plotted(result)
    plots = [out / f"cost-quality-{key}.png"] if key else []
    for file in plots:
        _at_one_go(file, lambda staged: draw_cost_quality(result, key, staged))
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


def without_nan(content: Any) -> Any:
    """Turn content into what every reader of JSON takes: NaN and infinity become None.

    Args:
        content: Dicts, lists and tuples of numbers and texts; anything else becomes its text.

    Source:
        Own; RFC 8259 has no NaN.

    Example:
        >>> without_nan({"mean": float("nan"), "of": (1, 2.5), "by": Path("me")})
        {'mean': None, 'of': [1, 2.5], 'by': 'me'}
    """
    if content is None or isinstance(content, (bool, str)):
        return content
    if isinstance(content, dict):
        return {str(name): without_nan(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [without_nan(value) for value in content]
    if isinstance(content, Integral):
        return int(content)
    if isinstance(content, Real):
        return float(content) if math.isfinite(content) else None
    return str(content)


def _write_text(text: str, file: Path) -> None:
    _at_one_go(file, lambda staged: staged.write_text(text, encoding="utf-8"))


def _at_one_go(file: Path, write: Callable[[Path], Any]) -> None:
    """Write beside a file and move it there, so that an interrupted run leaves none behind."""
    staged = file.with_name(f".{os.getpid()}.{file.name}")
    try:
        write(staged)
        os.replace(staged, file)
    finally:
        staged.unlink(missing_ok=True)
