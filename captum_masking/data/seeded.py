"""Augmentation that depends only on seed, epoch and image, not on the process or the order."""

from __future__ import annotations

import operator
import random
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from captum_masking._base.checks import check_count


class Around(Dataset[Any]):
    """A wrapper of a data set with the same length and attributes."""

    def __init__(self, dataset: Any) -> None:
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            raise TypeError(
                f"{type(self).__name__} needs a data set with a length and an index, but got "
                f"{type(dataset).__name__}; a stream must do this itself."
            )
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        # labels_of() and others find labels, files and class names here. While this is unpickled
        # there is no data set yet.
        if name.startswith("__") or name == "dataset":
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}.")
        return getattr(self.dataset, name)

    def _position(self, index: Any) -> int:
        count, position = len(self), operator.index(index)
        if not -count <= position < count:
            # `for item in dataset` ends here.
            raise IndexError(f"expected an index of {count} items, but got {position}.")
        return position % count


class Seeded(Around):
    """A data set whose item ``i`` draws random numbers from seed, epoch and ``i`` only.

    Each item is made under its own random states of torch (CPU), Python and numpy; the caller's are
    restored afterwards. Augmentation is then the same for any number of workers and processes, in
    any order, and after resuming a training. Do not read from several threads of one process.

    Args:
        dataset: With a length, read by index.
        seed: Whole number >= 0.

    Attributes:
        epoch: Starts at 0; other epochs draw other numbers.

    Example:
        >>> class Noise(list):
        ...     def __getitem__(self, index):
        ...         return torch.rand(())
        >>> noise = Seeded(Noise("abc"), seed=0)
        >>> first = noise[1]
        >>> noise[1] == first, noise[2] == first
        (tensor(True), tensor(False))
        >>> noise.set_epoch(1)
        >>> noise[1] == first
        tensor(False)
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        super().__init__(dataset)
        check_count("seed", seed, least=0)
        self.seed = int(seed)
        # Shared, so that persistent workers see the next epoch.
        self._epoch = torch.zeros((), dtype=torch.int64, device="cpu").share_memory_()

    @property
    def epoch(self) -> int:
        """The current epoch, >= 0."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Use the random numbers of another epoch, also in the workers of a loader.

        Call it between two passes over a loader; accelerate calls it too.
        """
        check_count("epoch", epoch, least=0)
        self._epoch.fill_(int(epoch))

    def __getitem__(self, index: int) -> Any:
        position = self._position(index)
        with random_states(self.seed, self.epoch, position):
            return self.dataset[position]

    def __repr__(self) -> str:
        return f"Seeded(dataset={self.dataset!r}, seed={self.seed})"

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._epoch.share_memory_()  # no effect in a worker, whose epoch is shared already


@contextmanager
def random_states(*key: int) -> Iterator[None]:
    """Seed the random states with a key, and restore the caller's afterwards.

    The states are those of torch (CPU), Python and numpy; accelerators keep theirs.

    Different keys of whole numbers give independent numbers.

    Example:
        >>> with random_states(0, 7):
        ...     first = torch.rand(()), random.random(), np.random.rand()
        >>> with random_states(0, 7):
        ...     first == (torch.rand(()), random.random(), np.random.rand())
        True
    """
    # Hashed, so that neighbors start far apart.
    digest = blake2b(repr(key).encode(), digest_size=20).digest()
    before = torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=False)
    try:
        # One part of the hash each: torch and numpy make the same sequence from one seed.
        # torch.manual_seed would also seed the accelerators.
        torch.default_generator.manual_seed(int.from_bytes(digest[:8], "little"))
        random.seed(int.from_bytes(digest[8:16], "little"))
        np.random.seed(int.from_bytes(digest[16:], "little"))
        yield
    finally:
        torch.set_rng_state(before[0])
        random.setstate(before[1])
        np.random.set_state(before[2])
