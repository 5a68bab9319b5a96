"""The result of a benchmark: rows of methods, columns of scores with intervals."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
from torch import Tensor

from captum_masking._base import checks
from captum_masking._base.files import replacing, sha256, write_json

if TYPE_CHECKING:
    import pandas

Array = np.ndarray[Any, np.dtype[Any]]

#: The family of the baselines, which are never marked as best.
TRIVIAL = "trivial"


needed = partial(checks.needed, by="reports of a benchmark", run="'captum-masking[benchmark]'")


@dataclass(frozen=True)
class Column:
    """A score: ``key`` in JSON, ``title`` in tables, and a ``legend`` that explains it.

    ``group`` names its table; ``headline`` adds it to the short table. The value is printed times
    ``scale``, with ``digits`` decimals. ``higher_is_better`` is None if neither is better.

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

    def text(self, value: float, sign: str = "") -> str:
        """Print a value of this column; with ``sign="+"`` as a difference."""
        return f"{self.scale * value:{sign}.{self.digits}f}"


@dataclass(frozen=True)
class Interval:
    """A mean over images with the ends of its 95 % bootstrap interval.

    Example:
        >>> Interval(0.3, 0.25, 0.36).low
        0.25
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Cost:
    """The cost per image, in milliseconds and in forward passes of the classifier.

    ``memory_mb`` is the peak of torch's additional memory for the timed batch of ``batch_size``
    images, in 10**6 bytes; None if it cannot be measured.

    Example:
        >>> Cost(ms=20.0, forwards=2.0, memory_mb=None, batch_size=8).forwards
        2.0
    """

    ms: float
    forwards: float
    memory_mb: float | None
    batch_size: int


#: Columns of :class:`Cost`, without intervals.
COSTS = (
    Column(
        *("forwards", "forwards", "Cost", False, 1, 2),
        "Time per image in units of one forward pass of the classifier.",
        headline=True,
    ),
    Column(
        *("ms", "ms/image", "Cost", False, 1, 1),
        "Milliseconds per image, in a batch.",
        headline=True,
    ),
    Column(
        *("memory_mb", "peak MB", "Cost", False, 1, 0),
        "Peak memory that torch allocated for the timed batch, in 10**6 bytes.",
        headline=True,
    ),
)


@dataclass(frozen=True)
class Row:
    """The result of one method; ``values`` by column key.

    The four baselines have the family ``"trivial"``. ``degenerate`` counts images whose map held
    NaN or infinity. ``failure`` says why there are no values.

    Example:
        >>> Row("mine", "yours", values={"error": Interval(0.3, 0.25, 0.36)}).values["error"].mean
        0.3
    """

    name: str
    family: str
    settings: str = ""
    values: dict[str, Interval] = field(default_factory=dict)
    cost: Cost | None = None
    degenerate: int = 0
    failure: str = ""

    def value(self, column: Column) -> Interval | None:
        """Return the value of a column or of one of `COSTS`; None if missing or NaN."""
        found = self.values.get(column.key)
        if column in COSTS:
            number = getattr(self.cost, column.key, None)
            found = None if number is None else Interval(number, math.nan, math.nan)
        return found if found is not None and math.isfinite(found.mean) else None


@dataclass(frozen=True)
class Result:
    """The result of a benchmark: rows and columns in the order of the table.

    ``differences`` holds, by column and row, each row minus the row ``reference`` on the same
    images. ``thresholds`` holds, by row and column, those chosen on each part of the images.

    Example:
        >>> result = Result([], [Row("mine", "yours", failure="it raised")], images=0)
        >>> result["mine"].failure
        'it raised'
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
            raise KeyError(f"there is no row {name!r}; choose from {', '.join(found)}.")
        return found[name]

    def as_json(self) -> dict[str, Any]:
        """Return the content of the JSON file."""
        return asdict(self)

    def frame(self) -> pandas.DataFrame:
        """Return all numbers as a pandas DataFrame, one line per method.

        A score has three columns, such as ``error_at_best``, ``error_at_best_low`` and
        ``error_at_best_high``; a cost has one. Missing values are NaN, and nothing is scaled.
        """
        pandas = needed("pandas")
        table: dict[str, Any] = {
            "method": [row.name for row in self.rows],
            "family": [row.family for row in self.rows],
        }
        for column in (*self.columns, *COSTS):
            values = [row.value(column) for row in self.rows]
            for part, end in (("mean", ""), ("low", "_low"), ("high", "_high")):
                if not (end and column in COSTS):
                    table[column.key + end] = [_finite(value, part) for value in values]
        sizes = [None if row.cost is None else row.cost.batch_size for row in self.rows]
        table["batch_size"] = pandas.array(sizes, dtype="Int64")
        table["degenerate"] = [row.degenerate for row in self.rows]
        table["failure"] = [row.failure for row in self.rows]
        return pandas.DataFrame(table).set_index("method")


def _finite(value: Interval | None, part: str) -> float:
    number = math.nan if value is None else getattr(value, part)
    return number if math.isfinite(number) else math.nan


def digest(*parts: Any) -> str:
    """Return a short hash of tensors, modules' states and anything with a ``repr``."""
    return sha256(*parts)[:16]


class Store:
    """A benchmark's scores on disk, one file per method and batch, to continue from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def check_same(self, setting: dict[str, Any]) -> None:
        file = self.folder / "setting.json"
        setting = json.loads(json.dumps(setting))
        if not file.exists():
            write_json(file, setting)
            return
        found = _read_json(file)
        changed = [name for name in setting if found.get(name) != setting[name]]
        if changed:
            listed = "; ".join(f"{n}: {found.get(n)} there, {setting[n]} now" for n in changed)
            raise ValueError(
                f"{self.folder} holds a benchmark with other settings ({listed}); choose another "
                "folder, or delete this one."
            )

    def forget_changed(self, settings: Mapping[str, str]) -> None:
        for method, text in settings.items():
            file = self._file(method, "settings.json")
            if file.exists() and _read_json(file) != text:
                shutil.rmtree(file.parent)
            write_json(file, text)

    def has(self, method: str, first: int) -> bool:
        return self._file(method, f"{first}.npz").exists()

    def write(self, method: str, first: int | str, arrays: dict[str, Tensor]) -> None:
        named: dict[str, Any] = {name: array.cpu().numpy() for name, array in arrays.items()}
        with replacing(self._file(method, f"{first}.npz"), shared=True) as staged:
            np.savez_compressed(staged, **named)

    def read(self, method: str, firsts: Iterable[int | str]) -> dict[str, Array]:
        """Return a method's arrays, joined over batches; NaN where a batch lacks one."""
        parts = [dict(np.load(self._file(method, f"{first}.npz"))) for first in firsts]
        names = {name: part[name] for part in parts for name in part}
        return {
            name: np.concatenate([part.get(name, _unknown(part, like)) for part in parts])
            for name, like in names.items()
        }

    def cost(self, method: str) -> Cost | None:
        file = self._file(method, "cost.json")
        return Cost(**_read_json(file)) if file.exists() else None

    def write_cost(self, method: str, cost: Cost) -> None:
        write_json(self._file(method, "cost.json"), asdict(cost))

    def _file(self, method: str, name: str) -> Path:
        return self.folder / "scores" / quote(method, safe=" ,()") / name


def _read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _unknown(part: dict[str, Array], like: Array) -> Array:
    count = len(next(iter(part.values())))
    return np.full((count, *like.shape[1:]), np.nan, dtype=like.dtype)
