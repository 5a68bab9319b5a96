"""As many images of each class in every epoch, however many there are of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler


class BalancedSampler(Sampler[int]):
    """Indices of a data set, as many of each class, in another order in each epoch.

    An epoch shows each image of the largest class once, and those of smaller ones again and again:
    an image a second time when all others of its class have been shown, and so on. Classes take
    turns in random order, so that a batch whose size is a multiple of the number of classes holds
    as many of each, and any other at most two more of one class than of another.

    Args:
        labels: One whole number an image, as :func:`~captum_masking.data.labels_of` gives them.
        generator: On the CPU; each epoch draws one number from it. None draws it from torch's
            global random numbers, as ``DataLoader(shuffle=True)`` does.

    Attributes:
        classes: The labels that occur, in ascending order.

    Raises:
        ValueError: If there are no labels, or if they are no whole numbers.

    Source:
        Own.

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
        found = _read_labels(labels)
        classes, counts = found.unique(return_counts=True)  # in ascending order
        self.classes: list[int] = classes.tolist()
        self.generator = generator
        self._members = found.argsort(stable=True).split(counts.tolist())

    def __len__(self) -> int:
        return len(self.classes) * max(map(len, self._members))

    def __iter__(self) -> Iterator[int]:
        yield from self._draw_epoch().tolist()

    def __repr__(self) -> str:
        images = sum(map(len, self._members))
        return f"BalancedSampler({images} images, {len(self.classes)} classes)"

    def _draw_epoch(self) -> Tensor:
        seed = torch.empty((), dtype=torch.int64, device="cpu").random_(generator=self.generator)
        generator = torch.Generator("cpu").manual_seed(int(seed))
        each = max(map(len, self._members))
        rows = torch.stack([_cycle(members, each, generator) for members in self._members])
        turns = _rand(*rows.shape, generator=generator).argsort(0)  # (classes, each)
        return rows.gather(0, turns).T.flatten()


def _cycle(members: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Repeat the members of a class, each round in another order, until there are enough."""
    rounds = -(-count // len(members))
    order = _rand(rounds, len(members), generator=generator).argsort(1)
    return members[order].flatten()[:count]


def _rand(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.rand(*shape, generator=generator, device="cpu", dtype=torch.float64)


def _read_labels(labels: Any) -> Tensor:
    """Return whole numbers as a tensor on the CPU, and refuse anything else."""
    try:
        found = labels if isinstance(labels, Tensor) else torch.tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{_EXPECTED}, but got {labels!r:.80}; {_WAY_OUT}") from error
    kind = found.is_floating_point() or found.is_complex() or found.dtype == torch.bool
    if found.dim() != 1 or not len(found) or kind:
        got = f"a tensor of {found.dtype}, shape {tuple(found.shape)}"
        raise ValueError(f"{_EXPECTED}, but got {got}; {_WAY_OUT}")
    return found.cpu()


_EXPECTED = "labels must be whole numbers, one an image and at least one in all"
_WAY_OUT = "labels_of(dataset) gives them, also those of a subset."
