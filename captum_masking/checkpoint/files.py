"""Folders that are whole or not there: written beside their place, moved into it, never half.

At every instant of a save, what was in the folder stands in its place or beside it. A process that
is killed leaves folders named ``.NAME.new-*`` (unfinished), ``.NAME.old-*`` (whole: what was in
place until then) or ``.NAME.gone-*`` (being deleted) beside ``NAME``.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_LEFTOVER = re.compile(r"\.(?P<name>.+)\.(?P<kind>new|old|gone)-[0-9a-f]{8}")
_BLOCK = 1 << 20  # bytes hashed at once


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Lend an empty folder beside ``folder``; move what is written into it to ``folder``.

    If anything goes wrong until then, ``folder`` is as it was and the lent one is removed.

    Args:
        folder: Replaced if it exists.

    Raises:
        OSError: If it cannot be written, in words.

    Source:
        Own.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     with staged(Path(parent, "new")) as staging:
        ...         _ = (staging / "file").write_text("all of it")
        ...     os.listdir(parent), os.listdir(f"{parent}/new")
        (['new'], ['file'])
    """
    from safetensors import SafetensorError

    staging = _beside(folder, "new")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging.mkdir()
        yield staging
        _make_durable(staging)
        _put_in_place(staging, folder)
    except (OSError, SafetensorError) as error:
        raise _in_words(error, folder) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def standing(folder: Path) -> Path:
    """Find a folder, or what a save that was killed in the middle of replacing it left of it.

    Args:
        folder: As it was saved to.

    Returns:
        ``folder`` if it exists or nothing else does, and otherwise the copy beside it, with a
        warning.

    Source:
        Own.
    """
    copies = [] if folder.exists() else [*leftovers(folder.resolve(), "old")]
    if not copies:
        return folder
    copy = max(copies, key=lambda path: path.stat().st_mtime_ns)
    warnings.warn(
        f"a save to {folder} was killed before the new files were in place; reading the ones "
        f"before it from {copy}. Save again, or rename that folder.",
        stacklevel=3,
    )
    return copy


def leftovers(folder: Path, *kinds: str) -> list[Path]:
    """List what killed saves to a folder left beside it.

    Args:
        folder: Whatever it holds.
        kinds: Of ``new``, ``old`` and ``gone``.

    Source:
        Own.
    """
    return [path for path, name in all_leftovers(folder.parent, *kinds) if name == folder.name]


def all_leftovers(parent: Path, *kinds: str) -> list[tuple[Path, str]]:
    """List what killed saves left in a folder, each with the name it was to have.

    Args:
        parent: Listed; it need not exist.
        kinds: Of ``new``, ``old`` and ``gone``.

    Source:
        Own.
    """
    paths = list(parent.iterdir()) if parent.is_dir() else []
    matches = [(path, _LEFTOVER.fullmatch(path.name)) for path in paths]
    return [(path, match["name"]) for path, match in matches if match and match["kind"] in kinds]


def sweep(folder: Path, *, idle_s: float) -> None:
    """Remove what killed saves left beside a folder that stands.

    Args:
        folder: Nothing is removed unless it exists.
        idle_s: Seconds for which unfinished ones must have rested: another process may be at work.

    Source:
        Own.
    """
    if not folder.exists():
        return
    for path in leftovers(folder, "old", "gone"):
        remove(path)
    for path in leftovers(folder, "new"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > idle_s:
                remove(path)


def remove(folder: Path) -> None:
    """Delete a folder under another name, so that no half of it is ever taken for the whole.

    A folder that cannot be deleted is left.

    Args:
        folder: Need not exist.

    Source:
        Own.
    """
    gone = _beside(folder, "gone")
    with suppress(OSError):
        os.rename(folder, gone)
        shutil.rmtree(gone)


def sha256(file: Path) -> str:
    """Hash a file of any size.

    Args:
        file: Read in blocks.

    Returns:
        The hexadecimal SHA-256.

    Source:
        Own.
    """
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _beside(folder: Path, kind: str) -> Path:
    leftover = _LEFTOVER.fullmatch(folder.name)  # an old one that is now to go keeps its name
    name = leftover["name"] if leftover else folder.name
    return folder.with_name(f".{name}.{kind}-{secrets.token_hex(4)}")


def _make_durable(staging: Path) -> None:
    """Have the disk itself, not only the system's memory, hold every file and its name."""
    for file in staging.iterdir():
        file.chmod(0o644)  # safetensors writes for its owner alone
        with file.open("rb+") as stream:
            os.fsync(stream.fileno())
    _sync_names(staging)


def _sync_names(folder: Path) -> None:
    if os.name == "nt":  # where a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _put_in_place(staging: Path, folder: Path) -> None:
    """Put a finished folder in place of an old one, which stands beside it meanwhile."""
    sweep(folder, idle_s=float("inf"))  # so that no copy is older than the one set aside now
    old = _beside(folder, "old")
    if folder.exists():
        os.rename(folder, old)
    try:
        os.rename(staging, folder)
    except OSError:
        if old.exists():
            os.rename(old, folder)
        raise
    _sync_names(folder.parent)
    for copy in leftovers(folder, "old"):
        remove(copy)


def _in_words(error: Exception, folder: Path) -> OSError:
    """Say what could not be written, how much space there is, and what to do."""
    # safetensors raises an error of its own, which has the system's number in its text only.
    in_text = re.search(r"os error (\d+)", str(error))
    number = int(in_text[1]) if in_text else getattr(error, "errno", None)
    reason = os.strerror(number) if number else str(error)
    text = (
        f"could not save {folder}: {reason}, with {_free_space(folder)} free there. What was saved "
        "before is intact; free some space or give a folder that can be written to, then save again"
    )
    return OSError(number, text) if number else OSError(text)


def _free_space(folder: Path) -> str:
    there = next(path for path in folder.absolute().parents if path.exists())
    return f"{shutil.disk_usage(there).free / 2**20:,.1f} MiB"
