"""A saved model or training is one safetensors file: tensors, and in its header JSON and a hash.

Nothing in such a file is ever unpickled or run, and a flipped bit anywhere is refused. A file is
written beside its place and moved there once it is whole, so that a process may be killed at any
moment.
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


_WAY_OUT = "give a folder written by model.save(folder), or save the model again"


class CheckpointError(ValueError):
    """A file or folder that is not, or no longer, a saved model or training.

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


# The only entry of the header, as safetensors writes several in any order: checksum and content.
_ENTRY = "captum_masking"
_FORMAT = 2  # 1 was a folder of two files


def write(file: Path, content: Any, tensors: Mapping[str, Tensor]) -> None:
    """Write or replace a file; if that fails, what was there before is intact."""
    from safetensors.torch import save_file

    text = json.dumps({"format": _FORMAT, "content": content}, allow_nan=False)
    plain = _unshared(tensors)
    with _explained(file), replacing(file, shared=True) as staged:
        save_file(plain, staged, metadata={_ENTRY: f"{_hash(text, plain)} {text}"})
        staged.chmod(0o644)  # safetensors writes for its owner alone


def read(file: Path, way_out: str) -> tuple[Any, dict[str, Tensor]]:
    """Return content and tensors, on the CPU; if they are not whole, the error has the way out."""
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        reason = "it is a folder" if file.exists() else "it does not exist"
        raise CheckpointError(file, reason, way_out)
    try:
        with safe_open(file, framework="pt") as opened:
            # As read they are windows on the file, which may change or go while they are in use.
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
        raise CheckpointError(file, reason, "update captum_masking, or give another file")
    return found["content"], tensors


def unfinished(folder: Path) -> list[Path]:
    """List what killed saves left in a folder, under names of ours and of safetensors."""
    return list(folder.glob(".tmp*"))


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring tensors to contiguous CPU memory, each to its own, as safetensors asks for."""
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
    """Give errors of writing the file, the free space and what to do."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        # safetensors raises an error of its own, which has the system's number in its text only.
        in_text = re.search(r"os error (\d+)", str(error))
        number = int(in_text[1]) if in_text else getattr(error, "errno", None)
        reason = os.strerror(number) if number else str(error)
        there = next(path for path in file.absolute().parents if path.exists())
        text = (
            f"could not save {file}: {reason}, with "
            f"{shutil.disk_usage(there).free / 2**20:,.1f} MiB free there. What was saved before "
            "is intact; free some space or give a folder that can be written to, then save again"
        )
        raise (OSError(number, text) if number else OSError(text)) from error


#: What brings a mask to the size of the inputs, by name.
UPSAMPLERS = {"linear": masker.linear, "nearest": masker.nearest}
_MODULES: tuple[Any, ...] = (masker, other_maskers, gate, sampler, layouts)
_PARTS = {name: getattr(module, name) for module in _MODULES for name in module.__all__}


def describe(part: Any) -> dict[str, Any]:
    """Return the JSON-like ``class`` and ``settings`` of a part; None for those of other people."""
    if not _is_own(part):
        return {"class": type(part).__name__, "settings": None}
    settings = part.settings if hasattr(part, "settings") else vars(part)  # of a dataclass
    described = {name: describe(v) if _is_own(v) else v for name, v in settings.items()}
    return {"class": type(part).__name__, "settings": described}


def rebuild(name: str, entry: Mapping[str, Any], folder: str | Path) -> Any:
    """Make a part, such as the ``"masker"``, from what :func:`describe` returned."""
    kind, settings = _PARTS.get(entry["class"]), entry["settings"]
    if not isinstance(kind, type) or settings is None:
        raise CheckpointError(folder, f"its {name} is a {entry['class']}; pass it as {name}=...")
    parts = {n: rebuild(name, v, folder) for n, v in settings.items() if isinstance(v, dict)}
    return kind(**{**settings, **parts})


def _is_own(part: Any) -> bool:
    return _PARTS.get(type(part).__name__) is type(part)


MODEL = "model.safetensors"
_ABANDONED_S = 3600.0  # no save rests for an hour: what did was killed


def check_destination(folder: str | Path) -> None:
    """Check that a folder is new, empty or a saved model; worth asking before a long training."""
    folder = Path(folder)
    taken = folder.is_file() or (folder.is_dir() and any(folder.iterdir()))
    if taken and not (folder / MODEL).exists():
        raise FileExistsError(
            f"{folder} exists and is not a saved model; give another folder, or remove it first."
        )


def write_model(
    folder: str | Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> None:
    """Write or replace a saved model, and remove what killed saves left of earlier ones."""
    check_destination(folder)
    write(Path(folder) / MODEL, config, weights)
    for path in unfinished(Path(folder)):
        with suppress(OSError):  # one that was written to this very hour may be another process's
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
            "models of older versions had a config.json beside their weights and are not read: "
            "build the model as that file says, load the weights by "
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
