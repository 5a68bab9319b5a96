"""Sound clips with a label and a fold, listed in a CSV file."""

from __future__ import annotations

import csv as csv_files
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from captum_masking.audio.files import read_sound


class Clips(Dataset[tuple[Any, int]]):
    r"""Clips of one length with their class, read when asked for.

    The CSV file has a header and one row a clip, ``file,label``, and ``fold`` and ``name`` where
    there are any: ``file`` is relative to the CSV's folder, ``label`` and ``fold`` are whole
    numbers, ``name`` is that of the class. Further columns are ignored.

    Args:
        csv: The CSV file.
        folds: The folds whose clips are taken; None takes all.
        transform: Called with the sound ``(samples,)``; None gives the sound itself.
        sample_rate: Samples a second; clips of another rate are resampled.
        seconds: Length: longer clips are cut, shorter ones continue in silence.

    Attributes:
        files: One path a clip.
        labels: One int a clip.
        names: Names by label, where the file gives them.

    Raises:
        FileNotFoundError: If the CSV or a clip it names does not exist.
        ValueError: If a column is missing, a number is none, or a fold has no clip.

    Source:
        Own; columns as in ESC (Piczak 2015), whose folds keep clips of one recording together.

    Example:
        >>> import tempfile, torch
        >>> from captum_masking.audio import write_sound
        >>> temporary = tempfile.TemporaryDirectory()
        >>> folder = Path(temporary.name)
        >>> write_sound(folder / "dog.wav", torch.zeros(8000), 8000)
        >>> _ = (folder / "clips.csv").write_text("file,label,name,fold\ndog.wav,2,dog,0\n")
        >>> clips = Clips(folder / "clips.csv", folds=[0], sample_rate=4000, seconds=2.0)
        >>> sound, label = clips[0]
        >>> sound.shape, label, clips.names
        (torch.Size([8000]), 2, {2: 'dog'})
    """

    def __init__(
        self,
        csv: str | os.PathLike[str],
        *,
        folds: Collection[int] | None = None,
        transform: Callable[[Tensor], Any] | None = None,
        sample_rate: int = 22050,
        seconds: float = 5.0,
    ) -> None:
        self.csv, self.folds, self.transform = Path(csv), folds, transform
        self.sample_rate, self.seconds = sample_rate, seconds
        rows = _rows(self.csv, ["file", "label", *(["fold"] if folds is not None else [])])
        if folds is not None:
            rows = _of_folds(rows, folds, self.csv)
        self.files = [self.csv.parent / row["file"] for row in rows]
        self.labels = [_whole(row, "label", self.csv) for row in rows]
        named = zip(self.labels, rows, strict=True)
        self.names = {label: row["name"] for label, row in named if row.get("name")}
        _check_files(self.files, self.csv)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """Return ``(transform(sound), label)``.

        Raises:
            ImportError: If soundfile is not installed.
            ValueError: If the file is no sound.
        """
        samples = round(self.seconds * self.sample_rate)
        sound = read_sound(self.files[index], self.sample_rate, samples=samples)
        return (sound if self.transform is None else self.transform(sound)), self.labels[index]

    def __repr__(self) -> str:
        names = ["folds", "transform", "sample_rate", "seconds"]
        options = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"Clips(csv={str(self.csv)!r}, {options})"


def _rows(file: Path, columns: list[str]) -> list[dict[str, str]]:
    if not file.is_file():
        raise FileNotFoundError(f"expected a CSV file that lists clips, but {file} does not exist.")
    with file.open(newline="", encoding="utf-8") as lines:
        reader = csv_files.DictReader(lines)
        missing = set(columns) - set(reader.fieldnames or [])
        if missing:
            raise ValueError(
                f"{file} must have the columns {columns}, but got {reader.fieldnames}; its first "
                "line names them: file,label,name,fold."
            )
        return list(reader)


def _of_folds(rows: list[dict[str, str]], folds: Collection[int], file: Path) -> list:
    there = {_whole(row, "fold", file) for row in rows}
    if not folds or not set(folds) <= there:
        raise ValueError(
            f"folds must be some of {sorted(there)}, those of {file}, but got {list(folds)}."
        )
    return [row for row in rows if int(row["fold"]) in folds]


def _whole(row: dict[str, str], column: str, file: Path) -> int:
    text = row[column] or ""
    if not text.strip().isdecimal():
        raise ValueError(
            f"{file}: {column} must be a whole number counted from 0, but got {text!r} for "
            f"{row['file']!r}."
        )
    return int(text)


def _check_files(files: list[Path], csv: Path) -> None:
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise FileNotFoundError(
            f"expected every clip of {csv} to exist, but {len(missing)} do not, the first is "
            f"{missing[0]}; paths are relative to the folder of the CSV file."
        )
