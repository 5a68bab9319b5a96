"""Save and load models and trainings as one safetensors file with JSON and a hash.

Nothing in a file is unpickled or run, and any flipped bit is detected. Files are replaced
atomically, so a process can be killed at any moment.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from captum_masking._base.files import replacing, sha256
from captum_masking.model import layouts
from captum_masking.parts import gate, masker, other_maskers, sampler

__all__ = ["CheckpointError", "fingerprint"]


_WAY_OUT = "pass a folder written by model.save(folder), or save the model again"


class CheckpointError(ValueError):
    """A file or folder that is not an intact saved model or training.

    Example:
        >>> raise CheckpointError("my-model", "it has no model.safetensors")
        Traceback (most recent call last):
        captum_masking.model.files.CheckpointError: cannot load my-model: it has no ...
    """

    def __init__(self, path: str | Path, reason: str, way_out: str = _WAY_OUT) -> None:
        super().__init__(f"cannot load {path}: {reason}; {way_out}.")


def fingerprint(module: nn.Module) -> str:
    """Return a hexadecimal SHA-256 of the names, shapes and values of a module's state.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> before = fingerprint(layer)
        >>> _ = nn.init.zeros_(layer.bias)
        >>> fingerprint(layer) == before
        False
    """
    return sha256(module)


# One header entry with checksum and content, since safetensors does not order entries.
_ENTRY = "captum_masking"
_FORMAT = 2  # 1 was a folder of two files


def write(file: Path, content: Any, tensors: Mapping[str, Tensor]) -> None:
    """Write or replace a file; if that fails, the old file stays intact."""
    from safetensors.torch import save_file

    text = json.dumps({"format": _FORMAT, "content": content}, allow_nan=False)
    plain = _unshared(tensors)
    with _explained(file), replacing(file, shared=True) as staged:
        save_file(plain, staged, metadata={_ENTRY: f"{_hash(text, plain)} {text}"})
        staged.chmod(0o644)  # safetensors makes files private


def read(file: Path, way_out: str) -> tuple[Any, dict[str, Tensor]]:
    """Return content and tensors on the CPU; ``way_out`` ends the error for damaged files."""
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        reason = "it is a folder" if file.exists() else "it does not exist"
        raise CheckpointError(file, reason, way_out)
    try:
        with safe_open(file, framework="pt") as opened:
            # Copies, since loaded tensors are views of the file, which may change.
            names = opened.keys()
            tensors = {name: opened.get_tensor(name).clone() for name in names}
            entry = (opened.metadata() or {}).get(_ENTRY, "")
    except (SafetensorError, OSError, ValueError, TypeError, LookupError) as error:
        reason = f"it is truncated, was altered or is something else ({error})"
        raise CheckpointError(file, reason, way_out) from error
    checksum, _, text = entry.partition(" ")
    if checksum != _hash(text, tensors):
        reason = (
            "it was altered (its checksum differs)" if text else "captum_masking did not write it"
        )
        raise CheckpointError(file, reason, way_out)
    found = json.loads(text)
    if found["format"] != _FORMAT:
        reason = f"its format is {found['format']}, this version reads {_FORMAT}"
        raise CheckpointError(file, reason, "update captum_masking, or pass another file")
    return found["content"], tensors


def unfinished(folder: Path) -> list[Path]:
    """List temporary files that killed saves left in a folder."""
    return list(folder.glob(".tmp*"))


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors to separate contiguous CPU memory, as safetensors requires."""
    plain, seen = {}, set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        memory = tensor.untyped_storage().data_ptr()
        plain[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return plain


def _hash(text: str, tensors: Mapping[str, Tensor]) -> str:
    named = sorted(tensors.items())
    return sha256(
        text, *(each for name, t in named for each in ((name, tuple(t.shape), str(t.dtype)), t))
    )


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    """Add the free space and a way out to errors of writing."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        # safetensors raises its own error, with the system's number in its text.
        in_text = re.search(r"os error (\d+)", str(error))
        number = int(in_text[1]) if in_text else getattr(error, "errno", None)
        reason = os.strerror(number) if number else str(error)
        there = next(path for path in file.absolute().parents if path.exists())
        text = (
            f"could not save {file}: {reason}, with "
            f"{shutil.disk_usage(there).free / 2**20:,.1f} MiB free there. Earlier saves are "
            "intact; free some space or choose a writable folder, then save again"
        )
        raise (OSError(number, text) if number else OSError(text)) from error


#: Upsampling functions by name.
UPSAMPLERS = {"linear": masker.linear, "nearest": masker.nearest}
_MODULES: tuple[Any, ...] = (masker, other_maskers, gate, sampler, layouts)
_PARTS = {name: getattr(module, name) for module in _MODULES for name in module.__all__}


def describe(part: Any) -> dict[str, Any]:
    """Return the ``class`` and ``settings`` of a part as JSON values; None for foreign parts."""
    if not _is_own(part):
        return {"class": type(part).__name__, "settings": None}
    settings = part.settings if hasattr(part, "settings") else vars(part)  # of a dataclass
    described = {name: describe(v) if _is_own(v) else v for name, v in settings.items()}
    return {"class": type(part).__name__, "settings": described}


def rebuild(name: str, entry: Mapping[str, Any], folder: str | Path) -> Any:
    """Make a part, such as the ``"masker"``, from the result of :func:`describe`."""
    kind, settings = _PARTS.get(entry["class"]), entry["settings"]
    if not isinstance(kind, type) or settings is None:
        raise CheckpointError(folder, f"its {name} is a {entry['class']}; pass it as {name}=...")
    parts = {n: rebuild(name, v, folder) for n, v in settings.items() if isinstance(v, dict)}
    return kind(**{**settings, **parts})


def _is_own(part: Any) -> bool:
    return _PARTS.get(type(part).__name__) is type(part)


MODEL = "model.safetensors"
_ABANDONED_S = 3600.0  # a temporary file this old was left by a killed save


def check_destination(folder: str | Path) -> None:
    """Check that a folder is new, empty or a saved model, before a long training."""
    folder = Path(folder)
    taken = folder.is_file() or (folder.is_dir() and any(folder.iterdir()))
    if taken and not (folder / MODEL).exists():
        raise FileExistsError(
            f"{folder} exists and is not a saved model; choose another folder, or remove it."
        )


def write_model(
    folder: str | Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> None:
    """Write or replace a saved model, and remove temporary files of killed saves."""
    check_destination(folder)
    write(Path(folder) / MODEL, config, weights)
    for path in unfinished(Path(folder)):
        with suppress(OSError):  # recent ones may belong to another process
            if time.time() - path.stat().st_mtime > _ABANDONED_S:
                path.unlink()


def read_model(folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return config and weights of a saved model."""
    folder = Path(folder)
    if not (folder / MODEL).is_file():
        raise CheckpointError(folder, f"it has no {MODEL}")
    way_out = _WAY_OUT
    if (folder / "config.json").exists():
        way_out = (
            "models of older versions, with a config.json beside their weights, are not supported: "
            "build the model from that file, load the weights by "
            "model.load_state_dict(safetensors.torch.load_file(file), strict=False), and save it "
            "to a new folder"
        )
    config: dict[str, Any]
    config, weights = read(folder / MODEL, way_out)
    return config, weights


def check_classifier(
    folder: str | Path,
    trained: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    classifier: nn.Module,
) -> None:
    """Check that saved weights, or their fingerprint, fit a classifier."""
    if trained["saved"]:
        wanted = {f"classifier.{k}": v.shape for k, v in classifier.state_dict().items()}
        saved = {k: v.shape for k, v in weights.items() if k.startswith("classifier.")}
        if wanted != saved:
            differing = sorted(k for k in wanted | saved if wanted.get(k) != saved.get(k))
            raise CheckpointError(
                folder,
                f"it was trained with another architecture ({trained['class']}); "
                f"{len(differing)} weights differ in name or shape, first {differing[0]!r}",
            )
    elif trained["fingerprint"] != fingerprint(classifier):
        warnings.warn(
            f"the masker in {folder} was trained for a {trained['class']} with other weights than "
            "this classifier's; its maps may be wrong. Pass that classifier (to run it in another "
            "precision, cast the loaded model), or train a masker for this one.",
            stacklevel=3,
        )
