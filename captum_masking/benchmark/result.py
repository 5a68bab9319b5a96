"""What a benchmark found: rows of methods, columns of scores, each with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Column:
    """One score.

    Args:
        key: Its name in JSON, such as ``"saliency_metric"``.
        title: What stands above it, such as ``"SM"``.
        group: The table it belongs to, such as ``"Faithfulness"``.
        higher_is_better: None where neither is.
        scale: Printed is ``scale`` times the value: 100 for percent.
        digits: Printed behind the point.
        legend: One sentence that says what it is.
        headline: Whether it also stands in the first, short table.

    Source:
        Own.

    Example:
        >>> Column("error", "LE, %", "Where", higher_is_better=False, scale=100).text(0.3384)
        '33.8'
    """

    key: str
    title: str
    group: str
    higher_is_better: bool | None
    scale: float = 1.0
    digits: int = 1
    legend: str = ""
    headline: bool = False

    def text(self, value: float) -> str:
        """Print a value of this column."""
        return f"{self.scale * value:.{self.digits}f}"


@dataclass(frozen=True)
class Interval:
    """A mean over images with the ends of its 95 % bootstrap interval.

    Source:
        Own.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Cost:
    """What one image costs.

    Args:
        ms: Milliseconds an image.
        forwards: Time in units of one forward pass of the classifier, measured in turns with it.
        memory_mb: Peak of the memory allocated by torch on top of what was there before, in
            10**6 bytes, for the batch that was timed; None where it cannot be measured.
        batch_size: Images in that batch.

    Source:
        Own.
    """

    ms: float
    forwards: float
    memory_mb: float | None
    batch_size: int


@dataclass(frozen=True)
class Row:
    """What was found of one method.

    Args:
        name: Of the method.
        family: Its library or kind; the four baselines are of the family ``"trivial"``.
        settings: What it was set to, in words.
        values: By the key of the column; a column may be missing.
        cost: None if it failed before it could be measured.
        degenerate: Images whose map held NaN or infinity, which count as no evidence.
        failure: Why it has no values; empty if it has.

    Source:
        Own.
    """

    name: str
    family: str
    settings: str = ""
    values: dict[str, Interval] = field(default_factory=dict)
    cost: Cost | None = None
    degenerate: int = 0
    failure: str = ""


@dataclass(frozen=True)
class Result:
    """All that a benchmark found, and how.

    Args:
        columns: In the order of the table.
        rows: In the order of the methods.
        images: How many were scored.
        setting: Data, classifier, seed, versions and the like, by name.
        notes: Sentences for the reader: what was left out and why.
        differences: By column, what each row has more than the row ``reference``, on the same
            images.
        reference: The row that the others are compared with; empty for none.
        thresholds: By row and column, the thresholds chosen on each part of the images.

    Source:
        Own.
    """

    columns: Sequence[Column]
    rows: Sequence[Row]
    images: int
    setting: dict[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    differences: dict[str, dict[str, Interval]] = field(default_factory=dict)
    reference: str = ""
    thresholds: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Row:
        """Return a row by its name."""
        found = {row.name: row for row in self.rows}
        if name not in found:
            raise KeyError(f"there is no row {name!r}; there are {', '.join(found)}.")
        return found[name]

    def as_json(self) -> dict[str, Any]:
        """Return plain lists, dicts, numbers and strings, as the JSON file holds them."""
        return asdict(self)
