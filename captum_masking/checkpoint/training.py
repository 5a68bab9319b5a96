"""The checkpoints of one training: the last few, of which one can always be read."""

from __future__ import annotations

import re
import warnings
from contextlib import suppress
from numbers import Integral
from pathlib import Path
from typing import Any

from captum_masking.checkpoint.errors import CheckpointError
from captum_masking.checkpoint.files import all_leftovers, remove
from captum_masking.checkpoint.state import STATE, TENSORS, read_state, replace_state

_NAME = re.compile(r"step-(\d{8,})")


class Checkpoints:
    """Writes states of a training into folders ``step-00000123`` of one folder; keeps the last.

    A checkpoint is in place before any other goes, so that a process may be killed at any moment.
    One process writes; the state that it is given has to hold what the others need.

    Args:
        folder: Made at the first save. It holds nothing else, but for hidden files.
        every: Steps from one checkpoint to the next, as :meth:`due` says; None is never.
        keep: How many are kept. Later ones than that which is saved, as when a training goes on
            from an earlier checkpoint, are neither counted nor removed.

    Raises:
        ValueError: If a number is no whole number >= 1.
        FileExistsError: If ``folder`` holds something else.

    Source:
        Own.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     checkpoints = Checkpoints(folder, every=10, keep=2)
        ...     for step in range(1, 36):
        ...         if checkpoints.due(step):
        ...             _ = checkpoints.save({"step": step}, step)
        ...     checkpoints.steps(), checkpoints.latest()
        ([20, 30], {'step': 30})
    """

    def __init__(self, folder: str | Path, *, every: int | None = None, keep: int = 3) -> None:
        _check_count("keep", keep)
        if every is not None:
            _check_count("every", every)
        self.folder, self.every, self.keep = Path(folder), every, keep
        _check_folder(self.folder)

    def due(self, step: int) -> bool:
        """Whether a checkpoint is to be saved after this step, counted from 1."""
        return self.every is not None and step > 0 and step % self.every == 0

    def save(self, state: Any, step: int) -> Path:
        """Write a checkpoint, then remove the oldest ones beyond ``keep``.

        Args:
            state: As for :func:`~captum_masking.checkpoint.write_state`.
            step: Steps done, >= 0. A checkpoint of the same step is replaced.

        Returns:
            The folder of the checkpoint.

        Raises:
            TypeError: If the state holds what cannot be written; the message says where.
            OSError: If it cannot be written, such as on a full disk; those before are intact.
        """
        _check_step(step)
        self._tidy()
        folder = self.folder / f"step-{step:08d}"
        replace_state(state, folder)
        kept = [s for s in self.steps() if s <= step][-self.keep :]
        for earlier, path in self._found().items():
            if earlier < kept[0]:
                remove(path)
        return folder

    def steps(self) -> list[int]:
        """List the steps of complete checkpoints, rising; what a killed save left is ignored."""
        found = sorted(self._found().items())
        return [step for step, path in found if all((path / n).is_file() for n in (STATE, TENSORS))]

    def latest(self) -> Any:
        """Read the newest state that can be read; newer ones that cannot are warned of.

        Returns:
            The state, tensors on the CPU.

        Raises:
            CheckpointError: If there is none.
        """
        for _, path in sorted(self._found().items(), reverse=True):
            try:
                return read_state(path)
            except CheckpointError as error:
                warnings.warn(f"skipping a damaged checkpoint: {error}", stacklevel=2)
        raise CheckpointError(
            self.folder,
            "it holds no checkpoint that can be read",
            "give the folder of an interrupted training, or start without resuming",
        )

    def __repr__(self) -> str:
        return f"Checkpoints(folder={str(self.folder)!r}, every={self.every}, keep={self.keep})"

    def _found(self) -> dict[int, Path]:
        """Find every checkpoint by its step; the one before where a save was killed replacing."""
        paths = self.folder.iterdir() if self.folder.is_dir() else ()
        named = [*self._leftovers("old"), *((path, path.name) for path in paths)]
        matches = [(path, _NAME.fullmatch(name)) for path, name in named]
        return {int(match[1]): path for path, match in matches if match}  # in place: they come last

    def _tidy(self) -> None:
        """Clear up after a killed save: put back what it had set aside, remove the rest.

        No save is at work: only one process writes here, and it is about to.
        """
        with suppress(OSError):  # the save that follows says in words what is wrong
            for path, name in self._leftovers("old"):
                if not (self.folder / name).exists():
                    path.rename(self.folder / name)
        for path, _ in self._leftovers("old", "new", "gone"):
            remove(path)

    def _leftovers(self, *kinds: str) -> list[tuple[Path, str]]:
        found = all_leftovers(self.folder, *kinds)
        return [(path, name) for path, name in found if _NAME.fullmatch(name)]


def check_no_checkpoints(checkpoints: Checkpoints) -> None:
    """Refuse to begin a training where the checkpoints of another one are.

    Raises:
        FileExistsError: Naming the last of them.

    Source:
        Own.
    """
    steps = checkpoints.steps()
    if steps:
        raise FileExistsError(
            f"{checkpoints.folder} holds checkpoints up to step {steps[-1]}; go on from there with "
            f"fit(..., resume={str(checkpoints.folder)!r}), or give another folder."
        )


def _check_folder(folder: Path) -> None:
    """Refuse a folder of something else, before a training rather than after it."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; give a folder for the checkpoints.")
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    foreign = [n for n in sorted(names) if not n.startswith(".") and not _NAME.fullmatch(n)]
    if foreign:
        raise FileExistsError(
            f"expected a folder of checkpoints or none, but {folder} holds {foreign[0]!r}"
            f"{f' and {len(foreign) - 1} more' if len(foreign) > 1 else ''}; give another folder, "
            "such as a new one inside it."
        )


def _check_count(name: str, count: int) -> None:
    if isinstance(count, bool) or not isinstance(count, Integral) or count < 1:
        raise ValueError(f"{name} must be a whole number >= 1, but got {count!r}.")


def _check_step(step: int) -> None:
    if isinstance(step, bool) or not isinstance(step, Integral) or step < 0:
        raise ValueError(
            f"step must be a whole number >= 0, but got {step!r}; give the number of steps done."
        )
