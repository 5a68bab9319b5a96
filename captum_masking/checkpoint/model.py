"""Save and load a model: safetensors and JSON, no pickle."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from captum_masking.checkpoint.errors import CheckpointError
from captum_masking.checkpoint.files import sha256, staged, standing, sweep
from captum_masking.checkpoint.fingerprint import fingerprint, plain
from captum_masking.checkpoint.parts import UPSAMPLERS, describe, rebuild
from captum_masking.encoder import tappable
from captum_masking.own_encoder import Untapped

if TYPE_CHECKING:
    from captum_masking.model import MaskingModel

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
        >>> from captum_masking import MaskingModel
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
    from captum_masking.model import MaskingModel

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
