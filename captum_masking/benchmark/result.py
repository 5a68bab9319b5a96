"""What a benchmark found: rows of methods, columns of scores, each with its interval."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from torch import Tensor

from captum_masking._base.files import replacing, sha256, write_json


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


# ---- A benchmark's scores on disk, a file for each method and batch, so that it can be continued.

Array = np.ndarray[Any, np.dtype[Any]]


class Store:
    """Keeps arrays by method and first image of the batch; every file is written at one go.

    Args:
        folder: Made if need be.

    Source:
        Own.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> store = Store(Path(folder.name))
        >>> store.write("mine", 0, {"error": torch.tensor([1.0, 0.0])})
        >>> store.read("mine", [0])["error"]
        array([1., 0.], dtype=float32)
        >>> store.has("mine", 16)
        False
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def check_same(self, setting: dict[str, Any]) -> None:
        """Remember what the benchmark is of, or refuse to go on with another one.

        Raises:
            ValueError: If the folder holds a benchmark of something else, with the difference.
        """
        file = self.folder / "setting.json"
        setting = json.loads(json.dumps(setting))
        if not file.exists():
            write_json(file, setting)
            return
        found = json.loads(file.read_text(encoding="utf-8"))
        changed = [name for name in setting if found.get(name) != setting[name]]
        if changed:
            told = "; ".join(f"{n}: {found.get(n)} there, {setting[n]} now" for n in changed)
            raise ValueError(
                f"{self.folder} holds a benchmark of something else ({told}); choose another "
                "folder, or delete this one."
            )

    def forget_changed(self, settings: Mapping[str, str]) -> None:
        """Drop what was measured of methods that were set otherwise; remember how all are set.

        Args:
            settings: Of each method, in words.
        """
        for method, words in settings.items():
            file = self._file(method, "settings").with_suffix(".json")
            if file.exists() and json.loads(file.read_text(encoding="utf-8")) != words:
                shutil.rmtree(file.parent)
            write_json(file, words)

    def has(self, method: str, first: int) -> bool:
        """Say whether a batch of a method is there."""
        return self._file(method, first).exists()

    def write(self, method: str, first: int | str, arrays: dict[str, Tensor]) -> None:
        """Keep the arrays of a batch, or under another name."""
        file = self._file(method, first)
        named: dict[str, Any] = {name: array.cpu().numpy() for name, array in arrays.items()}
        with replacing(file, shared=True) as staged:
            np.savez_compressed(staged, **named)

    def read(self, method: str, firsts: Iterable[int | str]) -> dict[str, Array]:
        """Return a method's arrays, joined over batches; NaN where a batch lacks one."""
        parts = [dict(np.load(self._file(method, first))) for first in firsts]
        names = {name: part[name] for part in parts for name in part}
        return {
            name: np.concatenate([part.get(name, _unknown(part, like)) for part in parts])
            for name, like in names.items()
        }

    def cost(self, method: str) -> Cost | None:
        """Return what a method was found to cost, if it was."""
        file = self._file(method, "cost").with_suffix(".json")
        return Cost(**json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None

    def write_cost(self, method: str, cost: Cost) -> None:
        """Keep what a method costs."""
        write_json(self._file(method, "cost").with_suffix(".json"), asdict(cost))

    def _file(self, method: str, name: int | str) -> Path:
        return self.folder / "scores" / quote(method, safe=" ,()") / f"{name}.npz"


def _unknown(part: dict[str, Array], like: Array) -> Array:
    count = len(next(iter(part.values())))
    return np.full((count, *like.shape[1:]), np.nan, dtype=like.dtype)


def digest(*parts: Any) -> str:
    """Return a short hash of tensors, modules' states and anything with a ``repr``.

    Source:
        Own; SHA-256.

    Example:
        >>> digest(torch.zeros(2)) == digest(torch.zeros(2)), digest("a") == digest("b")
        (True, False)
    """
    return sha256(*parts)[:16]
