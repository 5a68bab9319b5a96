"""Subsets with a few examples per class, and balanced sampling."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler, Subset, TensorDataset

from captum_masking._base.checks import check_count


class LabeledSubset(Subset[Any]):
    """A subset that stores its labels, so that its own subsets read no image.

    Args:
        dataset: The whole set.
        indices: The images to keep, in this order.
        labels: One label per index.

    Example:
        >>> subset = LabeledSubset(TensorDataset(torch.zeros(3, 1)), [2, 0], [7, 5])
        >>> len(subset), subset.labels
        (2, [7, 5])
    """

    def __init__(
        self, dataset: Dataset[Any], indices: Sequence[int], labels: Sequence[int]
    ) -> None:
        super().__init__(dataset, list(indices))
        self.labels = list(labels)


def few_shot(
    dataset: Dataset[Any], per_class: int, *, seed: int = 0, classes: Collection[int] | None = None
) -> LabeledSubset:
    """Choose a few images per class at random; the same seed gives the same images.

    One image of each class comes first, then a second one of each, and so on. For one seed, a
    smaller choice is the beginning of a larger one. Leaving out classes does not change the choice
    for the others. The random state of torch does not change.

    Args:
        dataset: Read by :func:`labels_of`.
        per_class: Images of each class, >= 1.
        seed: Seed of the choice.
        classes: The labels to choose from; None takes all.

    Source:
        Phang et al. 2020 train on a few examples per class.

    Example:
        >>> dataset = TensorDataset(torch.arange(6.0), torch.tensor([0, 0, 0, 1, 1, 1]))
        >>> one, two = few_shot(dataset, 1), few_shot(dataset, 2)
        >>> two.labels
        [0, 1, 0, 1]
        >>> one.indices == two.indices[:2]
        True
    """
    check_count("per_class", per_class, way_out="omit classes with classes=[...].")
    labels = labels_of(dataset)
    wanted = _check_classes(classes, labels)
    _check_enough(per_class, wanted, labels)
    generator = torch.Generator("cpu").manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator, device="cpu").tolist()
    drawn: dict[int, list[int]] = {label: [] for label in wanted}
    for index in order:
        drawn.get(labels[index], []).append(index)
    indices = [drawn[label][shot] for shot in range(per_class) for label in wanted]
    return LabeledSubset(dataset, indices, [labels[i] for i in indices])


def of_classes(dataset: Dataset[Any], classes: Collection[int]) -> LabeledSubset:
    """Keep the images of some classes, in their order; labels stay as they are.

    Args:
        dataset: Read by :func:`labels_of`.
        classes: The labels to keep.

    Example:
        >>> dataset = TensorDataset(torch.arange(4.0), torch.tensor([5, 3, 8, 3]))
        >>> of_classes(dataset, [3, 8]).indices
        [1, 2, 3]
    """
    labels = labels_of(dataset)
    wanted = set(_check_classes(classes, labels))
    indices = [index for index, label in enumerate(labels) if label in wanted]
    return LabeledSubset(dataset, indices, [labels[i] for i in indices])


def labels_of(dataset: Dataset[Any]) -> list[int]:
    """Return the label of every image, without reading the images if possible.

    Args:
        dataset: With ``labels`` (:class:`~captum_masking.data.BoxedImages`) or ``targets``
            (torchvision), a ``TensorDataset`` with labels as second tensor, or a ``Subset`` of any
            of these. For any other data set, each item is loaded once.

    Example:
        >>> labels_of(Subset(TensorDataset(torch.zeros(3, 1), torch.tensor([4, 5, 6])), [2, 0]))
        [6, 4]
    """
    found = _find_labels(dataset)
    labels = found.tolist() if hasattr(found, "tolist") else list(found)
    count = len(dataset)  # type: ignore[arg-type]  # has been asked for it, or has listed labels
    if len(labels) != count:
        raise ValueError(
            f"expected one label per image, but {type(dataset).__name__} has {len(labels)} labels "
            f"for {count} images; pass a data set whose labels match its images."
        )
    return [_to_label(label, dataset) for label in labels]


def _find_labels(dataset: Any) -> Any:
    if getattr(dataset, "labels", None) is not None:
        return dataset.labels
    if getattr(dataset, "targets", None) is not None:
        change = getattr(dataset, "target_transform", None)  # torchvision's, for items only
        return dataset.targets if change is None else [change(t) for t in dataset.targets]
    if isinstance(dataset, Subset):
        labels = labels_of(dataset.dataset)
        return [labels[index] for index in dataset.indices]
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) > 1:
        return dataset.tensors[1]
    return _walk(dataset)


def _walk(dataset: Any) -> list[Any]:
    try:
        pairs = (dataset[index] for index in range(len(dataset)))
        return [label for _, label in pairs]
    except (TypeError, ValueError, AttributeError, NotImplementedError) as error:
        raise ValueError(
            f"expected a data set of (image, label) pairs, but {type(dataset).__name__} gives no "
            f"labels ({error}); add an attribute 'labels' with one whole number per image."
        ) from error


def _to_label(label: Any, dataset: Any) -> int:
    if isinstance(label, torch.Tensor) and label.numel() == 1:
        label = label.item()
    try:
        return operator.index(label)
    except TypeError:
        raise ValueError(
            f"expected labels to be whole numbers, but {type(dataset).__name__} has {label!r}; "
            "use one class index per image."
        ) from None


def _check_classes(classes: Collection[int] | None, labels: list[int]) -> list[int]:
    found = sorted(set(labels))
    if classes is None and found:
        return found
    try:
        wanted = sorted({operator.index(label) for label in classes or ()})
    except TypeError:
        raise TypeError(
            f"classes must be whole numbers such as [0, 3], but got {classes!r}."
        ) from None
    unknown = sorted(set(wanted) - set(found))
    if unknown or not wanted:
        problem = (
            f"unknown classes {_shorten(unknown)}" if unknown else "expected at least one label"
        )
        raise ValueError(f"{problem}; the data set has {_shorten(found)}.")
    return wanted


def _check_enough(per_class: int, wanted: list[int], labels: list[int]) -> None:
    counts = Counter(labels)
    short = {label: counts[label] for label in wanted if counts[label] < per_class}
    if short:
        each = ", ".join(f"class {label} has {count}" for label, count in [*short.items()][:4])
        raise ValueError(
            f"expected at least {per_class} images of each class, but {each} ({len(short)} of "
            f"{len(wanted)} classes have too few); lower per_class to {min(short.values())}, or "
            "omit these classes with classes=[...]."
        )


def _shorten(labels: list[int]) -> str:
    return f"{labels}" if len(labels) <= 12 else f"{labels[:12]} and {len(labels) - 12} more"


class BalancedSampler(Sampler[int]):
    """A sampler that shows each class equally often, in a new order in each epoch.

    An epoch shows each image of the largest class once and repeats those of smaller classes; no
    image repeats before all others of its class were shown. Classes take turns in random order: a
    batch whose size is a multiple of the number of classes is exactly balanced, and in others two
    classes differ by at most two images.

    Args:
        labels: One whole number per image, see :func:`~captum_masking.data.labels_of`.
        generator: On the CPU; each epoch draws one number from it. None uses torch's global random
            state, as ``DataLoader(shuffle=True)`` does.

    Attributes:
        classes: The labels, in ascending order.

    Example:
        >>> sampler = BalancedSampler([7, 7, 7, 7, 5, 5], torch.Generator().manual_seed(0))
        >>> len(sampler), sampler.classes
        (8, [5, 7])
        >>> sorted(sampler)  # images 4 and 5 of class 5 appear twice
        [0, 1, 2, 3, 4, 4, 5, 5]
    """

    def __init__(
        self, labels: Sequence[int] | Tensor, generator: torch.Generator | None = None
    ) -> None:
        found = _whole_numbers(labels)
        classes, counts = found.unique(return_counts=True)  # in ascending order
        self.classes: list[int] = classes.tolist()
        self.generator = generator
        self._members = found.argsort(stable=True).split(counts.tolist())
        self._each = int(counts.max())

    def __len__(self) -> int:
        return len(self.classes) * self._each

    def __iter__(self) -> Iterator[int]:
        seed = torch.empty((), dtype=torch.int64, device="cpu").random_(generator=self.generator)
        generator = torch.Generator("cpu").manual_seed(int(seed))
        rows = torch.stack([self._cycle(members, generator) for members in self._members])
        turns = _rand(*rows.shape, generator=generator).argsort(0)  # (classes, each)
        yield from rows.gather(0, turns).T.flatten().tolist()

    def __repr__(self) -> str:
        images = sum(map(len, self._members))
        return f"BalancedSampler({images} images, {len(self.classes)} classes)"

    def _cycle(self, members: Tensor, generator: torch.Generator) -> Tensor:
        rounds = -(-self._each // len(members))
        order = _rand(rounds, len(members), generator=generator).argsort(1)
        return members[order].flatten()[: self._each]


def _rand(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.rand(*shape, generator=generator, device="cpu", dtype=torch.float64)


def _whole_numbers(labels: Any) -> Tensor:
    try:
        found = labels if isinstance(labels, Tensor) else torch.tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _not_labels(f"{labels!r:.80}") from error
    kind = found.is_floating_point() or found.is_complex() or found.dtype == torch.bool
    if found.dim() != 1 or not len(found) or kind:
        raise _not_labels(f"a tensor of {found.dtype}, shape {tuple(found.shape)}")
    return found.cpu()


def _not_labels(got: str) -> ValueError:
    return ValueError(
        f"labels must be one whole number per image, and at least one, but got {got}; "
        "use labels_of(dataset)."
    )
