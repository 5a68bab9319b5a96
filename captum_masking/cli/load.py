"""A saved model with the classifier that belongs to it."""

from __future__ import annotations

from pathlib import Path

from captum_masking.checkpoint import CheckpointError, load_model, read_config
from captum_masking.cli.classifiers import SHIPPED, SHIPPED_NAMES, Prepared, prepare
from captum_masking.model import MaskingModel


def load(model: str) -> tuple[MaskingModel, Prepared]:
    """Load a model saved by ``captum-masking train``, or the one that is shipped.

    Args:
        model: A folder; or ``efficientnet-lite0``, or ``efficientnet-lite0-targets``, whose maps
            follow the target.

    Returns:
        ``(model, prepared)``: the model in eval mode, and its classifier's preprocessing.

    Raises:
        CheckpointError: If the folder is not such a model.

    Source:
        Own.
    """
    folder = SHIPPED.parent / model if model in SHIPPED_NAMES else Path(model)
    notes = read_config(folder)["notes"]
    if "spec" not in notes:
        raise CheckpointError(folder, "it does not say how to make its classifier (notes: spec)")
    prepared = prepare(
        notes["spec"],
        image_size=notes["image_size"],
        from_scratch=notes.get("from_scratch"),
    )
    prepared.mean, prepared.std = tuple(notes["mean"]), tuple(notes["std"])
    prepared.class_names = tuple(notes["class_names"])
    prepared.label_column = notes["label_column"]
    return load_model(folder, prepared.classifier), prepared
