"""Atomic file writes, portable JSON, and a content hash."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def replacing(file: str | os.PathLike[str], *, shared: bool = False) -> Iterator[Path]:
    """Lend a path beside a file and move it into place; after an error the file is unchanged."""
    place = Path(file)
    place.parent.mkdir(parents=True, exist_ok=True)
    # What a killed process leaves is overwritten by the next one, unless several write at once:
    # then each has a name of its own. The suffix stays, since writers choose the format by it.
    process = f"{os.getpid()}-" if shared else ""
    staged = place.with_name(f".tmp-{process}{place.name}")
    try:
        yield staged
        _sync(staged)
        os.replace(staged, place)
        if os.name != "nt":  # where a folder cannot be opened
            _sync(place.parent)
    finally:
        staged.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(file: str | os.PathLike[str], text: str) -> None:
    with replacing(file, shared=True) as staged:
        staged.write_text(text, encoding="utf-8")


def write_json(file: str | os.PathLike[str], value: Any, *, indent: int | None = None) -> None:
    write_text(file, dumps(value, indent=indent) + "\n")


def dumps(value: Any, *, indent: int | None = None) -> str:
    return json.dumps(plain(value), indent=indent, allow_nan=False)


def plain(value: Any) -> Any:
    """Convert to JSON values: arrays to lists, NaN and infinity to None, others to text."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if hasattr(value, "tolist"):  # tensors and numpy's arrays and numbers
        return plain(value.tolist())
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    return str(value)


def sha256(*contents: Any) -> str:
    digest = hashlib.sha256()
    for content in contents:
        for block in _blocks(content):
            digest.update(block)
    return digest.hexdigest()


def _blocks(content: Any) -> Iterator[bytes]:
    if isinstance(content, Path):
        with content.open("rb") as stream:
            while block := stream.read(1 << 20):
                yield block
    elif isinstance(content, nn.Module):
        for name, tensor in content.state_dict().items():
            yield f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode()
            yield from _blocks(tensor)
    elif isinstance(content, Tensor):
        yield content.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    else:
        yield content if isinstance(content, bytes) else repr(content).encode()
