"""A benchmark's scores on disk, a file for each method and batch, so that it can be continued."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor, nn

from captum_masking.benchmark.result import Cost
from captum_masking.checkpoint import fingerprint
from captum_masking.study.run import write_json

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
            write_json(setting, file)
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
            write_json(words, file)

    def has(self, method: str, first: int) -> bool:
        """Say whether a batch of a method is there."""
        return self._file(method, first).exists()

    def write(self, method: str, first: int | str, arrays: dict[str, Tensor]) -> None:
        """Keep the arrays of a batch, or under another name."""
        file = self._file(method, first)
        file.parent.mkdir(parents=True, exist_ok=True)
        staged = file.with_name(f".{file.name}.{os.getpid()}")
        with staged.open("wb") as stream:
            named: dict[str, Any] = {name: array.cpu().numpy() for name, array in arrays.items()}
            np.savez_compressed(stream, **named)
        os.replace(staged, file)

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
        write_json(asdict(cost), self._file(method, "cost").with_suffix(".json"))

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
    found = hashlib.sha256()
    for part in parts:
        found.update(fingerprint(part).encode() if isinstance(part, nn.Module) else _bytes(part))
    return found.hexdigest()[:16]


def _bytes(value: Any) -> bytes:
    if not isinstance(value, Tensor):
        return repr(value).encode()
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
