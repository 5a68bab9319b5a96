"""Labelled pictures, with their labels numbered as the classifier numbers its logits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from captum_masking.data.images import BoxedImages
from captum_masking.zoo import Preprocess


def still(source: Path, classifier: nn.Module, preprocess: Preprocess) -> BoxedImages:
    """Read whole pictures, as for validation."""
    images = BoxedImages(source, transform=preprocess, label_column=preprocess.label_column)
    match_labels(images, classifier, preprocess, source)
    return images


def match_labels(
    images: BoxedImages, classifier: nn.Module, preprocess: Preprocess, source: Path
) -> Preprocess:
    """Renumber labels by the names of their folders, or raise if a label has no logit.

    Returns the preprocessing, which takes the folders' names if it had none.
    """
    known = {name: index for index, name in enumerate(preprocess.class_names)}
    names = images.class_names
    if names is not None and known and all(name in known for name in names):
        images.labels = [known[names[label]] for label in images.labels]
    elif names is not None and known:
        raise ValueError(
            f"the class folders in {source} must be named as classes of {preprocess.spec}, but "
            f"{next(n for n in names if n not in known)!r} is none; rename them, give a CSV with "
            "a label column, or train a classifier on them with --from-scratch."
        )
    elif names is not None:
        preprocess = replace(preprocess, class_names=tuple(names))
    classes = _count_classes(classifier, preprocess.image_size)
    if max(images.labels) >= classes:
        raise ValueError(
            f"labels must lie in 0..{classes - 1} for {preprocess.spec}, but {source} has "
            f"{max(images.labels)}; choose another --label-column or classifier."
        )
    return preprocess


@torch.no_grad()
def _count_classes(classifier: nn.Module, side: int) -> int:
    return int(classifier(torch.zeros(1, 3, side, side)).shape[1])
