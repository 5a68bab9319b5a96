"""Share a masker on the Hugging Face Hub, and fetch one: the folder of ``model.save``, no more.

Needs ``pip install 'captum-masking[hub]'``. Weights are safetensors, settings JSON; nothing that is
fetched is unpickled or run. The classifier is yours and is handed in, as to ``MaskingModel.load``.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from captum_masking._base.text import describe
from captum_masking.model.files import MODEL, CheckpointError, read_model, rebuild
from captum_masking.model.model import MaskingModel

__all__ = [
    "from_pretrained",
    "model_card",
    "push_folder",
    "push_to_hub",
]


CARD = "README.md"
#: How a model was trained, in words, and what ``captum-masking evaluate --json`` says of it.
TRAINING, EVALUATION = "training.json", "evaluation.json"


def from_pretrained(
    repo_id: str | Path,
    classifier: nn.Module,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    **parts: nn.Module,
) -> MaskingModel:
    """Fetch a shared model, once, and rebuild it around a classifier.

    Args:
        repo_id: ``"user/name"``; or a folder of this machine, as ``model.save`` writes it.
        classifier: As for :func:`~captum_masking.model.model.MaskingModel.load`.
        revision: A branch, tag or commit; None is the newest. A commit never changes.
        token: Of the Hub; None is the one you are logged in with.
        cache_dir: Where fetched files are kept; None is the Hub's own cache.
        local_files_only: Whether to read the cache alone, without network.
        **parts: ``masker`` and ``sampler``, where the saved ones are not the package's own.

    Returns:
        The model, in eval mode.

    Raises:
        CheckpointError: If what was fetched is no saved model, was altered, or does not fit.
        ImportError: If ``huggingface_hub`` is not installed.
        OSError: Of the Hub: there is no such repository, or no network and nothing in the cache.

    Source:
        Own; named as in ``transformers``.

    Example:
        See :func:`push_to_hub`.
    """
    if Path(repo_id).is_dir():
        return MaskingModel.load(repo_id, classifier, **parts)
    folder = _library().snapshot_download(
        str(repo_id),
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        allow_patterns=[MODEL],
    )
    return MaskingModel.load(folder, classifier, **parts)


def push_to_hub(
    model: MaskingModel,
    repo_id: str,
    *,
    notes: Mapping[str, Any] | None = None,
    figures: Mapping[str, float] | None = None,
    **options: Any,
) -> str:
    """Save a model into a repository of the Hub, with a card.

    Args:
        model: As for :func:`~captum_masking.model.model.MaskingModel.save`.
        repo_id: ``"user/name"``; made if it does not exist.
        notes: JSON-like facts to keep in the config, such as the class names.
        figures: What was measured, by the names of ``captum-masking evaluate --json``.
        **options: Of :func:`push_folder`.

    Returns:
        The address of the commit.

    Raises:
        ImportError: If ``huggingface_hub`` is not installed.
        OSError: Of the Hub, such as for want of a token.

    Source:
        Own; named as in ``transformers``.

    Example:
        >>> push_to_hub(model, "me/birds-masker", figures=figures)       # doctest: +SKIP
        >>> model = from_pretrained("me/birds-masker", classifier)       # doctest: +SKIP
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "model")
        model.save(folder, notes=notes)
        if figures:
            (folder / EVALUATION).write_text(json.dumps(dict(figures)), encoding="utf-8")
        return push_folder(folder, repo_id, **options)


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    license: str | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str = "Add a masking model",
) -> str:
    """Upload a folder that ``model.save`` or ``captum-masking train`` wrote, with a card.

    Three files go up, the last two where they are there: ``model.safetensors``,
    ``training.json`` and ``evaluation.json``; and the card, ``README.md``. One that is in the
    folder already is uploaded as it is. Nothing else, and the folder is left as it is.

    Args:
        folder: Checked first, as for loading.
        repo_id: ``"user/name"``; made if it does not exist.
        private: Whether only you see it; None is your default on the Hub.
        license: Named in the card; None names none. The weights are yours.
        token: Of the Hub; None is the one you are logged in with.
        revision: The branch; None is the main one.
        commit_message: First line of the commit.

    Returns:
        The address of the commit.

    Raises:
        CheckpointError: If the folder is no saved model, or was altered.
        ImportError: If ``huggingface_hub`` is not installed.
        OSError: Of the Hub, such as for want of a token.

    Source:
        Own.

    Example:
        >>> push_folder("my-model", "me/birds-masker")                   # doctest: +SKIP
    """
    text = _card_of(Path(folder), repo_id, license)
    api = _library().HfApi(token=token)
    api.create_repo(repo_id, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for name in (MODEL, TRAINING, EVALUATION):
            if (file := Path(folder, name)).exists():
                shutil.copyfile(file, Path(scratch, name))
        Path(scratch, CARD).write_text(text, encoding="utf-8")
        commit = api.upload_folder(
            repo_id=repo_id, folder_path=scratch, revision=revision, commit_message=commit_message
        )
    return str(commit.commit_url)


def model_card(folder: str | Path, repo_id: str, *, license: str | None = None) -> str:
    """Write the card of a saved model from what its folder holds: settings, training, figures.

    Args:
        folder: Of a saved model.
        repo_id: Named in the lines that load it.
        license: As in :func:`push_folder`.

    Returns:
        Markdown with the Hub's header.

    Raises:
        CheckpointError: If the folder is no saved model.

    Source:
        The header's fields are the Hub's.

    Example:
        >>> shipped = Path(__file__).parents[1] / "zoo" / "efficientnet-lite0"
        >>> print(model_card(shipped, "me/lite0"))
        ---
        library_name: captum-masking
        tags:
        - captum
        - interpretability
        - saliency
        ---
        # me/lite0
        <BLANKLINE>
        A masker for a classifier of class `EfficientNet`: ...
    """
    config, _ = read_model(folder)
    training = _read(Path(folder, TRAINING))
    figures = training.get("figures", {}) | _read(Path(folder, EVALUATION))
    told: dict[str, Any] = {
        name: training[name] for name in ("what", "data", "command") if name in training
    }
    parts = [_header(license) + f"# {repo_id}", _summary(config, Path(folder))]
    parts += ["## Use", _use(config, repo_id)]
    parts += ["## Settings", _listed({**_settings(config), **told})]
    if figures:
        parts += ["## Measured", *filter(None, [training.get("measured_on")]), _measured(figures)]
    return "\n\n".join(parts) + "\n"


def _card_of(folder: Path, repo_id: str, license: str | None) -> str:
    text = model_card(folder, repo_id, license=license)  # also where it is not used: it checks
    own = folder / CARD
    return own.read_text(encoding="utf-8") if own.exists() else text


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(
            "the Hugging Face Hub needs huggingface_hub, which is not installed; run: "
            "pip install 'captum-masking[hub]'"
        ) from error
    return huggingface_hub


def _header(license: str | None) -> str:
    lines = ["library_name: captum-masking", *([f"license: {license}"] if license else [])]
    lines += ["tags:", "- captum", "- interpretability", "- saliency"]
    return "\n".join(["---", *lines, "---", ""])


def _summary(config: dict[str, Any], folder: Path) -> str:
    kind = config["classifier"]["class"]
    with_it = (
        "It was trained together with the classifier, whose weights are in this repository."
        if config["classifier"]["saved"]
        else "The classifier was frozen and is not in this repository: hand in the same weights."
    )
    return (
        f"A masker for a classifier of class `{kind}`: from its feature maps it predicts, in one "
        f"forward pass, where in the input the evidence is. {with_it}{_of_target(config, folder)}"
    )


def _of_target(config: dict[str, Any], folder: Path) -> str:
    try:
        asks = getattr(rebuild("masker", config["masker"], folder), "asks", ())
    except CheckpointError:  # a masker of somebody's own
        return ""
    return (
        " The map is that of the `target` asked for."
        if "target" in asks
        else " One map for each input: `target` does not change it."
    )


def _use(config: dict[str, Any], repo_id: str) -> str:
    kind = config["classifier"]["class"]
    return "\n".join(
        [
            "```python",
            "from captum_masking import MaskingSaliency",
            "from captum_masking.model.hub import from_pretrained",
            "",
            f'model = from_pretrained("{repo_id}", classifier)  # your {kind}',
            "attribution = MaskingSaliency(model).attribute(inputs, target=3)",
            "```",
        ]
    )


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    notes = config["notes"]
    names = notes.get("class_names")
    settings = {
        "layers": ", ".join(config["layers"]) or "none: the masker has an encoder of its own",
        "masker": _part(config["masker"]),
        "sampler": _part(config["sampler"]),
        "stride": config["stride"],
        "classifier": notes.get("spec"),
        "image side in pixels": notes.get("image_size"),
        "mean": notes.get("mean"),
        "std": notes.get("std"),
        "classes": len(names) if names else None,
        "fingerprint of the classifier's weights": config["classifier"]["fingerprint"],
    }
    return {name: value for name, value in settings.items() if value is not None}


def _part(entry: dict[str, Any]) -> str:
    listed = ", ".join(f"{name}={value}" for name, value in (entry["settings"] or {}).items())
    return f"{entry['class']}({listed})"


def _listed(facts: Mapping[str, Any]) -> str:
    return "\n".join(f"- {name}: `{value}`" for name, value in facts.items())


def _measured(figures: Mapping[str, float]) -> str:
    return f"```text\n{describe(dict(figures))}\n```"


def _read(file: Path) -> dict[str, Any]:
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if not isinstance(found, dict):
        raise CheckpointError(file.parent, f"its {file.name} is not a JSON object", "remove it")
    return found
