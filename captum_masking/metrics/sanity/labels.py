"""Does a map change when the model was trained on random labels? Labels to train it on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from captum_masking.data import labels_of


class Relabeled(Dataset[Any]):
    """A data set with other labels.

    Args:
        dataset: Gives ``(image, label, ...)``.
        labels: One label an image, in its place.

    Attributes:
        labels: One int an image.

    Raises:
        ValueError: If there is not one label an image.

    Source:
        Own.

    Example:
        >>> images = torch.utils.data.TensorDataset(torch.zeros(2, 1), torch.tensor([5, 6]))
        >>> Relabeled(images, [7, 8])[1]
        (tensor([0.]), 8)
    """

    def __init__(self, dataset: Dataset[Any], labels: Sequence[int]) -> None:
        if len(labels) != len(dataset):  # type: ignore[arg-type]  # those with labels have one
            raise ValueError(
                f"labels must be one an image, but got {len(labels)} for {len(dataset)} images."  # type: ignore[arg-type]
            )
        self.dataset = dataset
        self.labels = list(labels)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        image, _, *rest = self.dataset[index]
        return (image, self.labels[index], *rest)

    def __len__(self) -> int:
        return len(self.labels)


def shuffled_labels(dataset: Dataset[Any], *, seed: int = 0, published: bool = False) -> Relabeled:
    """Give each image a label that has nothing to do with it.

    Train one model on the data set and one on this, as alike as can be, and compare their maps of
    the same images with `compare_maps`: what both have in common is not owed to the classes.

    Args:
        dataset: Read by :func:`~captum_masking.data.labels_of`.
        seed: The same seed draws the same labels. Torch's random state is left alone.
        published: Draw each image's label uniformly from those that occur, as the published code
            does: the classes' shares then change too. Otherwise the labels are permuted.

    Returns:
        The same images, with a list ``labels``. Some keep their label by chance.

    Raises:
        ValueError: If the data set gives no labels.

    Source:
        Adebayo et al. 2018, data randomization, permute; Phang et al. 2020 draw uniformly.

    Example:
        >>> images = torch.utils.data.TensorDataset(torch.zeros(6, 1), torch.arange(6))
        >>> sorted(shuffled_labels(images).labels)
        [0, 1, 2, 3, 4, 5]
    """
    labels = labels_of(dataset)
    generator = torch.Generator().manual_seed(seed)
    if published:
        classes = sorted(set(labels))
        drawn = torch.randint(len(classes), (len(labels),), generator=generator)
        return Relabeled(dataset, [classes[c] for c in drawn.tolist()])
    order = torch.randperm(len(labels), generator=generator)
    return Relabeled(dataset, [labels[i] for i in order.tolist()])
