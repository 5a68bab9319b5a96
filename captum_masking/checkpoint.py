"""Save and load: the only file that touches disk formats. Safetensors and JSON, no pickle."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from captum_masking.element_masker import ElementMasker
from captum_masking.masker import Masker, UNetMasker, linear, nearest
from captum_masking.own_encoder import OwnEncoder
from captum_masking.sampler import GumbelSigmoid, Sigmoid
from captum_masking.tokens import ChannelsFirst, ChannelsLast, Tokens, Vectors

if TYPE_CHECKING:
    from captum_masking.model import MaskingModel

CONFIG, WEIGHTS = "config.json", "model.safetensors"
_FORMAT = 1
_UPSAMPLERS = {function.__name__: function for function in (linear, nearest)}
_MASKERS: tuple[Any, ...] = (Masker, UNetMasker, ElementMasker, OwnEncoder)
_LAYOUTS: tuple[Any, ...] = (ChannelsFirst, ChannelsLast, Tokens, Vectors)
_PARTS = {kind.__name__: kind for kind in (*_MASKERS, *_LAYOUTS, Sigmoid, GumbelSigmoid)}


class CheckpointError(ValueError):
    """A folder that is not, or no longer, a saved model.

    Source:
        Own.

    Example:
        >>> raise CheckpointError("my-model", "it has no config.json")
        Traceback (most recent call last):
        captum_masking.checkpoint.CheckpointError: cannot load my-model: it has no config.json; ...
    """

    def __init__(self, folder: str | Path, reason: str) -> None:
        super().__init__(
            f"cannot load {folder}: {reason}; give a folder written by model.save(folder), or "
            "save the model again."
        )


def save_model(
    model: MaskingModel, folder: str | Path, *, notes: Mapping[str, Any] | None = None
) -> None:
    """Write a model's masker and, if it was trained along, its classifier.

    Everything is written into a new folder beside ``folder`` and moved into place at the end, so
    that a failure leaves whatever was there before.

    Args:
        model: Its masker and sampler have to be the package's own to be rebuilt by name; others
            are handed to :func:`load_model` again.
        folder: Made or replaced.
        notes: JSON-like facts to keep in the config, such as the class names.

    Raises:
        FileExistsError: If ``folder`` exists and is not a saved model.

    Source:
        Own.

    Example:
        >>> from captum_masking import MaskingModel
        >>> classifier = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.LazyLinear(2))
        >>> model = MaskingModel(classifier, ["0"], example_inputs=torch.zeros(1, 1, 8, 8))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_model(model, f"{folder}/my-model")
        ...     sorted(os.listdir(f"{folder}/my-model"))
        ['config.json', 'model.safetensors']
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    check_destination(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        staging.chmod(0o755)
        save_file(_weights(model), staging / WEIGHTS)
        config = _config(model) | {"sha256": _sha256(staging / WEIGHTS), "notes": dict(notes or {})}
        config["config_sha256"] = _digest(config)
        (staging / CONFIG).write_text(json.dumps(config, indent=1), encoding="utf-8")
        for file in (WEIGHTS, CONFIG):
            (staging / file).chmod(0o644)  # safetensors writes for its owner alone
            _to_disk(staging / file)
        _move(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


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
        folder: Written by :func:`save_model`.
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
    from captum_masking.model import MaskingModel

    config, weights = read_config(folder), _read_weights(Path(folder))
    masker = masker or _rebuild("masker", config["masker"], folder)
    sampler = sampler or _rebuild("sampler", config["sampler"], folder)
    layouts = [_rebuild("layout", entry, folder) for entry in config.get("layouts", ())]
    _check_classifier(folder, config, weights, classifier)
    try:
        model = MaskingModel(
            classifier,
            config["layers"],
            layouts=layouts or None,
            masker=masker,
            sampler=sampler,
            stride=config["stride"],
            upsample=_UPSAMPLERS[config["upsample"]],
            upsample_first=config["upsample_first"],
        )
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(folder, f"it does not fit this classifier ({error})") from error
    lost = [name for name in missing if not name.startswith("classifier.")] + unexpected
    if lost:
        raise CheckpointError(folder, f"its weights do not match its config ({lost[:4]})")
    model.classifier_trained = config["classifier"]["saved"]
    model.to(next(classifier.parameters()).device)
    return model.eval()


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
    folder = Path(folder)
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
    if checksum != _sha256(folder / WEIGHTS):
        raise CheckpointError(folder, f"its {WEIGHTS} is truncated or was altered (checksum)")
    if config.get("config_sha256") != _digest(config):
        raise CheckpointError(folder, f"its {CONFIG} was altered (checksum)")
    return config


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
        digest.update(_plain(tensor).reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _config(model: MaskingModel) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "layers": list(model.layers),
        "layouts": [_describe(layout) for layout in model.layouts or ()],
        "stride": model.stride,
        "upsample": getattr(model.upsample, "__name__", type(model.upsample).__name__),
        "upsample_first": model.upsample_first,
        "masker": _describe(model.masker),
        "sampler": _describe(model.sampler),
        "classifier": {
            "class": type(model.classifier).__name__,
            "saved": model.classifier_trained,
            "fingerprint": fingerprint(model.classifier),
        },
    }


def _describe(part: Any) -> dict[str, Any]:
    """Name a part and, where it is the package's own, what it is built from."""
    own = type(part) in _PARTS.values()
    return {"class": type(part).__name__, "settings": part.settings if own else None}


def _rebuild(name: str, entry: dict[str, Any], folder: str | Path) -> Any:
    kind, settings = entry["class"], entry["settings"]
    if kind not in _PARTS or settings is None:
        raise CheckpointError(folder, f"its {name} is a {kind}; pass it as {name}=...")
    return _PARTS[kind](**settings)


def _weights(model: MaskingModel) -> dict[str, Tensor]:
    parts = ("masker.", "sampler.", *(("classifier.",) if model.classifier_trained else ()))
    state = model.state_dict()
    return {name: _plain(value) for name, value in state.items() if name.startswith(parts)}


def _plain(tensor: Tensor) -> Tensor:
    """Copy to contiguous CPU memory of its own, as safetensors asks for."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


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


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _to_disk(file: Path) -> None:
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())


def _move(staging: Path, folder: Path) -> None:
    """Put a finished folder in place of an old one, which is kept until then."""
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
    if folder.exists():
        os.replace(folder, old)  # onto an empty folder
    try:
        os.rename(staging, folder)
    except OSError:
        if any(old.iterdir()):
            os.rename(old, folder)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
