"""Wins and losses of the reference, in figures and in words."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass

from captum_masking.benchmark.markdown.reading import DASH, TRIVIAL, titled, value_of
from captum_masking.benchmark.result import Column, Interval, Result, Row

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
