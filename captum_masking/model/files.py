"""The one error of files that cannot be loaded."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from captum_masking.model.layouts import ChannelsFirst, ChannelsLast, OfInput, Tokens, Vectors
from captum_masking.model.taps import Untapped, tappable
from captum_masking.parts.gate import GatedMasker
from captum_masking.parts.masker import (
    ClassSelector,
    Masker,
    MaskPerClass,
    UNetMasker,
    linear,
    nearest,
)
from captum_masking.parts.other_maskers import ElementMasker, JointMasker, OwnEncoder
from captum_masking.parts.sampler import GumbelSigmoid, Sigmoid

if TYPE_CHECKING:
    from captum_masking.model.model import MaskingModel

__all__ = [
    "CONFIG",
    "CheckpointError",
    "WEIGHTS",
    "check_destination",
    "fingerprint",
    "load_model",
    "read_config",
    "save_model",
]


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
        captum_masking.model.files.CheckpointError: cannot load my-model: it has no ...
    """

    def __init__(
        self,
        folder: str | Path,
        reason: str,
        way_out: str = "give a folder written by model.save(folder), or save the model again",
    ) -> None:
        super().__init__(f"cannot load {folder}: {reason}; {way_out}.")


# ---- A short name for the weights of a module.


def fingerprint(module: nn.Module) -> str:
    """Hash the names, shapes and values of a module's state.

    Args:
        module: Any.

    Returns:
        A hexadecimal SHA-256.

    Source:
        Own.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> before = fingerprint(layer)
        >>> _ = nn.init.zeros_(layer.bias)
        >>> fingerprint(layer) == before
        False
    """
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(plain(tensor).reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def plain(tensor: Tensor) -> Tensor:
    """Copy to contiguous CPU memory of its own, as safetensors asks for.

    Args:
        tensor: Of any device and strides.

    Source:
        Own.
    """
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


# ---- Folders that are whole or not there: written beside their place, moved into it, never half.
#
# At every instant of a save, what was in the folder stands in its place or beside it. A process
# that
# is killed leaves folders named ``.NAME.new-*`` (unfinished), ``.NAME.old-*`` (whole: what was in
# place until then) or ``.NAME.gone-*`` (being deleted) beside ``NAME``.

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


# ---- The package's own maskers, samplers and layouts, by name and settings.

#: What brings a mask to the size of the inputs, by name.
UPSAMPLERS = {function.__name__: function for function in (linear, nearest)}

_MASKERS: tuple[Any, ...] = (
    Masker,
    UNetMasker,
    ElementMasker,
    OwnEncoder,
    JointMasker,
    ClassSelector,
    MaskPerClass,
    GatedMasker,
)
_LAYOUTS: tuple[Any, ...] = (ChannelsFirst, ChannelsLast, Tokens, Vectors)
_PARTS = {kind.__name__: kind for kind in (*_MASKERS, *_LAYOUTS, Sigmoid, GumbelSigmoid)}


def describe(part: Any) -> dict[str, Any]:
    """Name a part and, where it is the package's own, what it is built from.

    Args:
        part: A masker, a sampler or a layout.

    Returns:
        JSON-like ``class`` and ``settings``; the latter None for parts of other people.

    Source:
        Own.

    Example:
        >>> describe(OfInput(1, ChannelsLast()))["settings"]
        {'index': 1, 'layout': {'class': 'ChannelsLast', 'settings': {}}}
    """
    if type(part) is OfInput:
        settings = {"index": part.index, "layout": describe(part.layout)}
        return {"class": "OfInput", "settings": settings}
    own = type(part) in _PARTS.values()
    return {"class": type(part).__name__, "settings": part.settings if own else None}


def rebuild(name: str, entry: dict[str, Any], folder: str | Path) -> Any:
    """Make a part again from its description.

    Args:
        name: What it is, for the error: ``"masker"``.
        entry: Of :func:`describe`.
        folder: Where it was read, for the error.

    Raises:
        CheckpointError: If the part is not the package's own.

    Source:
        Own.

    Example:
        >>> rebuild("layout", describe(OfInput(1, ChannelsLast())), "my-model")
        OfInput(index=1, layout=ChannelsLast())
    """
    kind, settings = entry["class"], entry["settings"]
    if kind == "OfInput":
        return OfInput(settings["index"], rebuild(name, settings["layout"], folder))
    if kind not in _PARTS or settings is None:
        raise CheckpointError(folder, f"its {name} is a {kind}; pass it as {name}=...")
    return _PARTS[kind](**settings)


# ---- Save and load a model: safetensors and JSON, no pickle.

CONFIG, WEIGHTS = "config.json", "model.safetensors"
_FORMAT = 1
_IDLE_S = 3600.0  # no save rests for an hour: what did was killed


def save_model(
    model: MaskingModel, folder: str | Path, *, notes: Mapping[str, Any] | None = None
) -> None:
    """Write a model's masker and, if it was trained along, its classifier.

    Everything is written into a new folder beside ``folder`` and moved into place at the end, so
    that a failure leaves whatever was there before; after a kill, :func:`load_model` finds it.

    Args:
        model: Its masker and sampler have to be the package's own to be rebuilt by name; others
            are handed to :func:`load_model` again.
        folder: Made or replaced.
        notes: JSON-like facts to keep in the config, such as the class names.

    Raises:
        FileExistsError: If ``folder`` exists and is not a saved model.
        OSError: If it cannot be written, such as on a full disk.

    Source:
        Own.

    Example:
        >>> import os, tempfile, torch
        >>> from captum_masking.model.model import MaskingModel
        >>> classifier = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.LazyLinear(2))
        >>> model = MaskingModel(classifier, ["0"], example_inputs=torch.zeros(1, 1, 8, 8))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_model(model, f"{folder}/my-model")
        ...     sorted(os.listdir(f"{folder}/my-model"))
        ['config.json', 'model.safetensors']
    """
    from safetensors.torch import save_file

    check_destination(Path(folder))
    folder = Path(folder).resolve()  # what a link points to is replaced, not the link
    with staged(folder) as staging:
        save_file(_weights(model), staging / WEIGHTS)
        config = _config(model) | {"sha256": sha256(staging / WEIGHTS), "notes": dict(notes or {})}
        config["config_sha256"] = _digest(config)
        (staging / CONFIG).write_text(json.dumps(config, indent=1), encoding="utf-8")
    sweep(folder, idle_s=_IDLE_S)


def check_destination(folder: Path) -> None:
    """Refuse to replace a folder that is not a saved model; worth asking before a long training.

    Raises:
        FileExistsError: If ``folder`` holds something else.

    Source:
        Own.
    """
    taken = folder.is_file() or (folder.is_dir() and any(folder.iterdir()))
    if taken and not (folder / CONFIG).exists():
        raise FileExistsError(
            f"{folder} exists and is not a saved model; give another folder, or remove it first."
        )


def load_model(
    folder: str | Path,
    classifier: nn.Module,
    *,
    masker: nn.Module | None = None,
    sampler: nn.Module | None = None,
) -> MaskingModel:
    """Rebuild a saved model around a classifier.

    Args:
        folder: Written by :func:`save_model`. Where a save was killed while it replaced a model,
            the model from before is read, with a warning.
        classifier: The architecture that the model was trained with. If it was trained along,
            its weights are loaded into it; if not, it must be the same classifier, and one with
            other weights is warned of.
        masker: Needed where the saved masker is not the package's own.
        sampler: Likewise.

    Returns:
        The model, in eval mode.

    Raises:
        CheckpointError: If the folder is not a saved model, is truncated or was altered, or does
            not fit the classifier. ``classifier`` is then unchanged.

    Source:
        Own.

    Example:
        See :func:`save_model`.
    """
    from captum_masking.model.model import MaskingModel

    folder = standing(Path(folder))
    config, weights = read_config(folder), _read_weights(folder)
    masker = masker or rebuild("masker", config["masker"], folder)
    sampler = sampler or rebuild("sampler", config["sampler"], folder)
    layouts = [rebuild("layout", entry, folder) for entry in config.get("layouts", ())]
    network = classifier if tappable(classifier) else Untapped(classifier)
    _check_classifier(folder, config, weights, network)
    try:
        model = MaskingModel(
            classifier,
            config["layers"],
            layouts=layouts or None,
            masker=masker,
            sampler=sampler,
            stride=config["stride"],
            upsample=UPSAMPLERS[config["upsample"]],
            upsample_first=config["upsample_first"],
        )
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(folder, f"it does not fit this classifier ({error})") from error
    lost = [name for name in missing if not name.startswith("classifier.")] + unexpected
    if lost:
        raise CheckpointError(folder, f"its weights do not match its config ({lost[:4]})")
    model.classifier_trained = config["classifier"]["saved"]
    anchor = next(network.parameters(), None)
    return (model if anchor is None else model.to(anchor.device)).eval()


def read_config(folder: str | Path) -> dict[str, Any]:
    """Read and check the config of a saved model.

    Args:
        folder: Written by :func:`save_model`.

    Returns:
        The config, with ``notes`` as they were given.

    Raises:
        CheckpointError: If it is missing, is no config, or is of a newer format; or if the
            weights beside it are not those it was saved with.

    Source:
        Own.
    """
    folder = standing(Path(folder))
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise CheckpointError(folder, f"it has no {name}")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        number, checksum = config["format"], config["sha256"]
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(folder, f"its {CONFIG} cannot be read ({error!r})") from error
    if number != _FORMAT:
        raise CheckpointError(folder, f"its format is {number}, this version reads {_FORMAT}")
    if checksum != sha256(folder / WEIGHTS):
        raise CheckpointError(folder, f"its {WEIGHTS} is truncated or was altered (checksum)")
    if config.get("config_sha256") != _digest(config):
        raise CheckpointError(folder, f"its {CONFIG} was altered (checksum)")
    return config


def _config(model: MaskingModel) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "layers": list(model.layers),
        "layouts": [describe(layout) for layout in model.layouts or ()],
        "stride": model.stride,
        "upsample": getattr(model.upsample, "__name__", type(model.upsample).__name__),
        "upsample_first": model.upsample_first,
        "masker": describe(model.masker),
        "sampler": describe(model.sampler),
        "classifier": {
            "class": type(model.classifier).__name__,
            "saved": model.classifier_trained,
            "fingerprint": fingerprint(model.classifier),
        },
    }


def _weights(model: MaskingModel) -> dict[str, Tensor]:
    parts = ("masker.", "sampler.", *(("classifier.",) if model.classifier_trained else ()))
    state = model.state_dict()
    return {name: plain(value) for name, value in state.items() if name.startswith(parts)}


def _read_weights(folder: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(folder / WEIGHTS)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(folder, f"its {WEIGHTS} cannot be read ({error})") from error


def _check_classifier(
    folder: str | Path, config: dict[str, Any], weights: dict[str, Tensor], classifier: nn.Module
) -> None:
    """Refuse a classifier the saved weights do not fit; warn of one the masker never saw."""
    if config["classifier"]["saved"]:
        wanted = {f"classifier.{k}": v.shape for k, v in classifier.state_dict().items()}
        saved = {k: v.shape for k, v in weights.items() if k.startswith("classifier.")}
        if wanted != saved:
            differing = sorted(k for k in wanted | saved if wanted.get(k) != saved.get(k))
            raise CheckpointError(
                folder,
                f"it was trained with another architecture ({config['classifier']['class']}); "
                f"{len(differing)} weights differ in name or shape, first {differing[0]!r}",
            )
    elif config["classifier"]["fingerprint"] != fingerprint(classifier):
        warnings.warn(
            f"the masker in {folder} was trained for a {config['classifier']['class']} with other "
            "weights than this classifier's; its maps may be wrong. Pass that classifier, or "
            "train a masker for this one.",
            stacklevel=3,
        )


def _digest(config: dict[str, Any]) -> str:
    rest = {name: value for name, value in config.items() if name != "config_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
