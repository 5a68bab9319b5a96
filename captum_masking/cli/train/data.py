"""The pictures that train reads: augmented for training, whole for looking at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captum_masking.cli.classifiers import Prepared
from captum_masking.data import BoxedImages, Readable
from captum_masking.processes import gathered


def augmented(prepared: Prepared) -> Any:
    """Make the training transform: a random crop of most of the picture, perhaps mirrored.

    Source:
        Crops and flips as Phang et al. 2020, but of at least 40 % of the picture: with smaller
        ones the masker learns that things fill the frame.
    """
    from torchvision.transforms import v2

    side = (prepared.image_size, prepared.image_size)
    crop = v2.RandomResizedCrop(side, scale=(0.4, 1.0), antialias=True)
    flip = v2.RandomHorizontalFlip()

    def transform(picture: Any) -> Tensor:
        return prepared.normalize(v2.functional.pil_to_tensor(flip(crop(picture))))

    return transform


def match_labels(images: BoxedImages, prepared: Prepared, source: Path) -> None:
    """Number a data set's labels as the classifier numbers its logits, or refuse it.

    Args:
        images: Its labels are renumbered where its class folders carry the classifier's names.
        prepared: The classifier; it takes the folders' names where it has none.
        source: Named in errors.

    Raises:
        ValueError: If a label has no logit.

    Source:
        Own.
    """
    known = {name: index for index, name in enumerate(prepared.class_names)}
    names = images.class_names
    if names is not None and known and all(name in known for name in names):
        images.labels = [known[names[label]] for label in images.labels]
    elif names is not None and known:
        raise ValueError(
            f"the class folders in {source} must be named as classes of {prepared.spec}, but "
            f"{next(n for n in names if n not in known)!r} is none; rename them, give a CSV with "
            "a label column, or train a classifier on them with --from-scratch."
        )
    elif names is not None:
        prepared.class_names = tuple(names)
    classes = _count_classes(prepared)
    if max(images.labels) >= classes:
        raise ValueError(
            f"labels must lie in 0..{classes - 1} for {prepared.spec}, but {source} has "
            f"{max(images.labels)}; choose another --label-column or classifier."
        )


@torch.no_grad()
def _count_classes(prepared: Prepared) -> int:
    side = prepared.image_size
    return int(prepared.classifier(torch.zeros(1, 3, side, side)).shape[1])


def still(source: Path, prepared: Prepared) -> BoxedImages:
    """Read pictures whole, as those of a validation are.

    Raises:
        ValueError: If a label has no logit.

    Source:
        Own.
    """
    images = BoxedImages(source, transform=prepared.read, label_column=prepared.label_column)
    match_labels(images, prepared, source)
    return images


def report(images: Readable) -> str:
    """Say which pictures could not be read; of several processes each has met its own.

    Source:
        Own.
    """
    for index in set().union(*gathered(list(images.unreadable))):
        images[index]  # notes it, where another process found it
    return images.report()
