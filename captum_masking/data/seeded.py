"""Augmentation that depends on seed, epoch and image, not on which process draws it, or when."""

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
    """A data set around another one: as long, read by index, and with its attributes."""

    def __init__(self, dataset: Any) -> None:
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            raise TypeError(
                f"{type(self).__name__} needs a data set with a length and an index, but got "
                f"{type(dataset).__name__}; a stream does this for itself, where it is made."
            )
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        # Labels, files and class names stay where labels_of() and others look for them. While
        # this is unpickled there is no data set to ask yet.
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
    """A data set whose item ``i`` draws random numbers that depend on seed, epoch and ``i`` only.

    Each item is made under random states of its own, torch's on the CPU, Python's and numpy's;
    the caller's are restored afterwards. So augmentation is the same with any number of workers
    and processes, in any order, and after a training was resumed. The states belong to a process:
    do not read from several threads of one.

    Args:
        dataset: With a length, read by index.
        seed: Whole number >= 0.

    Attributes:
        epoch: 0 at first; another epoch draws other numbers.

    Example:
        >>> class Noise(list):
        ...     def __getitem__(self, index):
        ...         return torch.rand(())
        >>> noise = Seeded(Noise("abc"), seed=0)
        >>> first = noise[1]
        >>> noise[1] == first, noise[2] == first, noise.with_seed(5)[1] == first
        (tensor(True), tensor(False), tensor(False))
        >>> noise.set_epoch(1)
        >>> noise[1] == first
        tensor(False)
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        super().__init__(dataset)
        check_count("seed", seed, least=0)
        self.seed = int(seed)
        # Shared, so that workers that live for several epochs see the next one.
        self._epoch = torch.zeros((), dtype=torch.int64, device="cpu").share_memory_()

    @property
    def epoch(self) -> int:
        """The epoch whose random numbers are drawn, >= 0."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Draw other random numbers from now on, in the workers of a loader too.

        Call it between two passes over a loader. accelerate and others look for this name.
        """
        check_count("epoch", epoch, least=0)
        self._epoch.fill_(int(epoch))

    def with_seed(self, seed: int) -> Seeded:
        """Return the same items under another seed, at epoch 0; this one stays as it is."""
        return Seeded(self.dataset, seed)

    def __getitem__(self, index: int) -> Any:
        position = self._position(index)
        with random_states(self.seed, self.epoch, position):
            return self.dataset[position]

    def __repr__(self) -> str:
        return f"Seeded(dataset={self.dataset!r}, seed={self.seed})"

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._epoch.share_memory_()  # nothing happens where a worker has just got the shared one


@contextmanager
def random_states(*key: int) -> Iterator[None]:
    """Draw random numbers that depend on a key, and restore the caller's states afterwards.

    The states are torch's on the CPU, Python's and numpy's; those of accelerators are left alone.

    Another key, of whole numbers, gives numbers that have nothing to do with these.

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
        # A part of the hash each: torch and numpy turn one seed into one and the same sequence.
        # torch.manual_seed would move the accelerators' states, too.
        torch.default_generator.manual_seed(int.from_bytes(digest[:8], "little"))
        random.seed(int.from_bytes(digest[8:16], "little"))
        np.random.seed(int.from_bytes(digest[16:], "little"))
        yield
    finally:
        torch.set_rng_state(before[0])
        random.setstate(before[1])
        np.random.set_state(before[2])
