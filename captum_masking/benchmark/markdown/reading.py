"""What a result says, whatever it is printed on: values, the best of a column, the setting."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from captum_masking.benchmark.result import Column, Interval, Result, Row

#: The family of the baselines, which are never printed as the best.
TRIVIAL = "trivial"

#: Printed where there is no value.
DASH = "–"

#: Columns made of :class:`~captum_masking.benchmark.result.Cost`; their values have no interval.
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
