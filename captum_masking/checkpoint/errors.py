"""The one error of files that cannot be loaded."""

from __future__ import annotations

from pathlib import Path


class CheckpointError(ValueError):
    """A folder that is not, or no longer, a saved model or training.

    Args:
        folder: Or file.
        reason: What is wrong with it, of the form "it has no config.json".
        way_out: What to do instead.

    Source:
        Own.

    Example:
        >>> raise CheckpointError("my-model", "it has no config.json")
        Traceback (most recent call last):
        captum_masking.checkpoint.errors.CheckpointError: cannot load my-model: it has no ...
    """

    def __init__(
        self,
        folder: str | Path,
        reason: str,
        way_out: str = "give a folder written by model.save(folder), or save the model again",
    ) -> None:
        super().__init__(f"cannot load {folder}: {reason}; {way_out}.")
