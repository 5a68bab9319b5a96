"""Share maskers on the Hugging Face Hub.

Needs ``pip install 'captum-masking[hub]'``. A repository holds the file of ``model.save``, so no
downloaded content is unpickled or run. ``ModelHubMixin`` is not used: its ``from_pretrained`` takes
arguments from an unchecked ``config.json``, and it would be needed to import the package.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from torch import nn

from captum_masking._base.checks import needed
from captum_masking._base.text import describe
from captum_masking.model.files import MODEL, CheckpointError, read_model
from captum_masking.model.model import MaskingModel

__all__ = ["from_pretrained", "model_card", "push_to_hub"]

#: How a model was trained, and the output of ``captum-masking evaluate --json``.
_TRAINING, _EVALUATION = "training.json", "evaluation.json"


def from_pretrained(
    repo_id: str | Path,
    classifier: nn.Module,
    *,
    masker: nn.Module | None = None,
    sampler: nn.Module | None = None,
    **options: Any,
) -> MaskingModel:
    """Download a shared model and load it with a classifier, in eval mode.

    Args:
        repo_id: ``"user/name"``, or a local folder written by ``model.save``.
        **options: Options of ``huggingface_hub.hf_hub_download``: ``revision`` (a commit pins a
            model), ``token``, ``cache_dir``, ``local_files_only``.

    Raises:
        CheckpointError: If the file is not a saved model, was altered, or does not fit.
        OSError: If the repository does not exist, or cannot be reached and is not cached.
    """
    folder = Path(repo_id)
    if not folder.is_dir():
        folder = Path(_library().hf_hub_download(str(repo_id), MODEL, **options)).parent
    return MaskingModel.load(folder, classifier, masker=masker, sampler=sampler)


def push_to_hub(
    model: MaskingModel | str | Path,
    repo_id: str,
    *,
    notes: Mapping[str, Any] | None = None,
    figures: Mapping[str, float] | None = None,
    license: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    commit_message: str = "Add a masking model",
    **options: Any,
) -> str:
    """Upload a model with a card, and return the URL of the commit.

    From a folder, ``model.safetensors`` is uploaded, and ``training.json``, ``evaluation.json`` and
    your own card, ``README.md``, if they exist. The folder does not change.

    Args:
        model: A model, or a folder written by ``model.save`` or ``captum-masking train``.
        repo_id: ``"user/name"``; created if needed.
        figures: The output of ``captum-masking evaluate --json``, for a model.
        license: License of the weights, for the card.
        private: Whether the repository is private; None is your default on the Hub.
        **options: Options of ``huggingface_hub.HfApi.create_commit``, such as ``revision``.
    """
    given = not isinstance(model, MaskingModel)
    with nullcontext(str(model)) if given else tempfile.TemporaryDirectory() as folder:
        if isinstance(model, MaskingModel):
            model.save(folder, notes=notes)
            if figures:
                Path(folder, _EVALUATION).write_text(json.dumps(dict(figures)), encoding="utf-8")
        card = model_card(folder, repo_id, license=license)  # always, to check the folder
        files: dict[str, Any] = {"README.md": card.encode()}
        for name in (MODEL, _TRAINING, _EVALUATION, "README.md"):
            if (file := Path(folder, name)).exists():
                files[name] = file
        hub = _library()
        api = hub.HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        operations = [hub.CommitOperationAdd(name, file) for name, file in files.items()]
        commit = api.create_commit(repo_id, operations, commit_message=commit_message, **options)
    return str(commit.commit_url)


def model_card(folder: str | Path, repo_id: str, *, license: str | None = None) -> str:
    """Return the card of a saved model: settings, training, and measurements.

    Example:
        >>> shipped = Path(__file__).parents[1] / "zoo" / "efficientnet-lite0"
        >>> print(model_card(shipped, "me/lite0").splitlines()[7])
        # me/lite0
    """
    config, _ = read_model(folder)
    training, evaluation = (_read(Path(folder, name)) for name in (_TRAINING, _EVALUATION))
    facts = _settings(config) | {n: training.get(n) for n in ("what", "data", "command")}
    card = _CARD.format(
        license=f"license: {license}\n" if license else "",
        repo_id=repo_id,
        kind=config["classifier"]["class"],
        trained=_JOINT if config["classifier"]["saved"] else _FROZEN,
        follows=_FOLLOWS if config["target_aware"] else _IGNORES,
        settings="\n".join(f"- {n}: `{fact}`" for n, fact in facts.items() if fact is not None),
    )
    figures = training.get("figures", {}) | evaluation
    if figures:
        on = f"{training['measured_on']}\n\n" if "measured_on" in training else ""
        card += f"\n## Measured\n\n{on}```text\n{describe(figures)}\n```\n"
    return card


_CARD = """---
library_name: captum-masking
{license}tags:
- captum
- interpretability
- saliency
---
# {repo_id}

A masker for a classifier of class `{kind}`: from its feature maps it predicts, in one forward pass,
where in the input the evidence is. {trained} {follows}

## Use

```python
from captum_masking import MaskingSaliency
from captum_masking.model.hub import from_pretrained

model = from_pretrained("{repo_id}", classifier)  # your {kind}
attribution = MaskingSaliency(model).attribute(inputs, target=3)
```

## Settings

{settings}
"""
_JOINT = "It was trained together with the classifier, whose weights are in this repository."
_FROZEN = "The classifier was frozen and is not in this repository: pass the same weights."
_FOLLOWS = "The map follows the `target`."
_IGNORES = "Each input has one map, which does not depend on `target`."


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    notes = config["notes"]
    return {
        "layers": ", ".join(config["layers"]) or "none: the masker has its own encoder",
        "masker": _part(config["masker"]),
        "sampler": _part(config["sampler"]),
        "stride": config["stride"],
        "classifier": notes.get("spec"),
        "image side in pixels": notes.get("image_size"),
        "mean": notes.get("mean"),
        "std": notes.get("std"),
        "classes": len(notes.get("class_names") or ()) or None,
        "fingerprint of the classifier's weights": config["classifier"]["fingerprint"],
    }


def _part(entry: Mapping[str, Any]) -> str:
    listed = ", ".join(f"{name}={value}" for name, value in (entry["settings"] or {}).items())
    return f"{entry['class']}({listed})"


def _read(file: Path) -> dict[str, Any]:
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if not isinstance(found, dict):
        raise CheckpointError(file.parent, f"its {file.name} is not a JSON object", "remove it")
    return found


def _library() -> Any:
    return needed("huggingface_hub", by="models on the Hub", run="'captum-masking[hub]'")
