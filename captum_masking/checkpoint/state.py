"""A nested state as a folder of two checksummed files, without pickle.

``tensors.safetensors`` has the tensors, ``state.json`` all else. The first line of the latter is
the checksum of the rest of it, in which is the checksum of the former.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from torch import Tensor

from captum_masking.checkpoint.errors import CheckpointError
from captum_masking.checkpoint.files import sha256, staged
from captum_masking.checkpoint.packing import pack, unpack

STATE, TENSORS = "state.json", "tensors.safetensors"
_FORMAT = 1
_NONSENSE = (LookupError, TypeError, ValueError, AttributeError, RuntimeError, struct.error)
_WAY_OUT = "give a whole checkpoint, such as the one before it, or start the training again"


def write_state(state: Any, folder: str | Path) -> None:
    """Write a state to a new folder.

    All is written into a folder beside it first and moved into place at the end, so that
    ``folder`` is whole at any time at which it exists.

    Args:
        state: None, bool, int, float, str, tensors, and lists, tuples and dicts of these with keys
            that are str or int.
        folder: Must not exist.

    Raises:
        FileExistsError: If ``folder`` exists.
        TypeError: If there is anything else in the state; the message says where.
        ValueError: If the state is nested too deeply, as one that contains itself is.
        OSError: If it cannot be written, such as on a full disk.

    Source:
        Own.

    Example:
        See :func:`read_state`.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists; a state is written to a new folder, give another.")
    replace_state(state, folder)


def replace_state(state: Any, folder: Path) -> None:
    """Write a state, also where there is one: it is kept until the new one is in place.

    Args:
        state: As for :func:`write_state`, with its errors.
        folder: Made or replaced, whatever it holds.

    Source:
        Own.
    """
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    packed = pack(state, "state", tensors)
    with staged(folder) as staging:
        save_file(tensors, staging / TENSORS)
        content = {"format": _FORMAT, "tensors": sha256(staging / TENSORS), "state": packed}
        # Without its opening brace: that is in the first line, with the checksum.
        rest = json.dumps(content, allow_nan=False)[1:].encode()
        (staging / STATE).write_bytes(_first_line(rest) + rest)


def read_state(folder: str | Path) -> Any:
    """Read a state; nothing in its files is ever run.

    Args:
        folder: Written by :func:`write_state`.

    Returns:
        The state, tensors on the CPU, without gradient, and in memory of their own.

    Raises:
        CheckpointError: If the folder lacks a file, one is empty, truncated, altered or no such
            file at all, or its format is a newer one.

    Source:
        Own.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_state({"step": 7, "betas": (0.9, 0.99), "w": torch.ones(2)}, f"{folder}/new")
        ...     read_state(f"{folder}/new")
        {'step': 7, 'betas': (0.9, 0.99), 'w': tensor([1., 1.])}
    """
    folder = Path(folder)
    _check_files(folder)
    content = _read_json(folder)
    tensors = _read_tensors(folder, content.get("tensors"))
    try:
        return unpack(content["state"], tensors)
    except _NONSENSE as error:
        raise _damaged(folder, f"its {STATE} cannot be read ({error!r})") from error


def _check_files(folder: Path) -> None:
    if not folder.is_dir():
        raise _damaged(folder, "it is a file" if folder.exists() else "it does not exist")
    for name in (STATE, TENSORS):
        if not (folder / name).is_file():
            raise _damaged(folder, f"it has no {name}")
        if not (folder / name).stat().st_size:
            raise _damaged(folder, f"its {name} is empty")


def _read_json(folder: Path) -> dict[str, Any]:
    try:
        raw = (folder / STATE).read_bytes()
        content = json.loads(raw)
        number = content["format"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        reason = f"its {STATE} is truncated, was altered or is something else ({error!r:.99})"
        raise _damaged(folder, reason) from error
    if number != _FORMAT:
        reason = f"its format is {number}, this version reads {_FORMAT}"
        raise CheckpointError(folder, reason, "update captum_masking, or give another checkpoint")
    rest = raw[len(_first_line(b"")) :]
    if raw != _first_line(rest) + rest:
        raise _damaged(folder, f"its {STATE} was altered (checksum)")
    return content


def _read_tensors(folder: Path, checksum: str | None) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if sha256(folder / TENSORS) != checksum:
            raise _damaged(
                folder, f"its {TENSORS} is truncated, was altered or is something else (checksum)"
            )
        # As loaded they are windows on the file, which may change or go while they are in use.
        return {name: tensor.clone() for name, tensor in load_file(folder / TENSORS).items()}
    except (SafetensorError, OSError) as error:
        raise _damaged(folder, f"its {TENSORS} cannot be read ({error})") from error


def _first_line(rest: bytes) -> bytes:
    return f'{{"sha256": "{hashlib.sha256(rest).hexdigest()}",\n'.encode()


def _damaged(folder: Path, reason: str) -> CheckpointError:
    return CheckpointError(folder, reason, _WAY_OUT)
