"""The batches of each epoch, this process's share of them, from any one of them on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from captum_masking.checks import length_of
from captum_masking.data import Seeded, read_batch
from captum_masking.data.seeded import random_states
from captum_masking.inputs import Inputs
from captum_masking.processes import any_of, from_main, rank, world


class Loading:
    """Reads a loader so that an epoch is a function of its seed.

    A ``DataLoader`` over a data set with an index is planned: the order of the epoch is drawn at
    its start, every example draws its augmentation from the epoch's seed and its own index, and a
    training that goes on in the middle of an epoch reads nothing twice. Several processes share
    each batch among them. Any other loader is read as it is: batches that were used before are
    read and left, and of each batch every process keeps its rows; a loader of an
    ``IterableDataset`` is taken to give every process its own examples already.

    Args:
        loader: Gives batches as :func:`~captum_masking.data.read_batch` reads them.
        steps: Batches in an epoch, to cut a stream; None reads to the end.
        device: Where processes exchange whether their streams have ended.

    Attributes:
        length: Batches in an epoch; None where that is not known beforehand.

    Source:
        Own.

    Example:
        >>> data = [(torch.zeros(1, 4, 4), label) for label in range(5)]
        >>> loading = Loading(DataLoader(data, batch_size=2, shuffle=True))
        >>> labels = [target.tolist() for _, target in loading.batches(seed=3)]
        >>> loading.length, [target.tolist() for _, target in loading.batches(3, 1)] == labels[1:]
        (3, True)
    """

    def __init__(
        self, loader: Any, *, steps: int | None = None, device: torch.device | str = "cpu"
    ) -> None:
        self.loader, self.steps, self.device = loader, steps, torch.device(device)
        over_index = type(loader) is DataLoader and loader.batch_sampler is not None
        self.is_stream = isinstance(getattr(loader, "dataset", None), IterableDataset)
        self.is_planned = over_index and not self.is_stream
        known = length_of(loader)
        self.length = known if steps is None else steps if known is None else min(steps, known)

    def draw_seed(self) -> int:
        """Draw the seed of an epoch, the same in every process."""
        generator = _generator_of(self.loader)
        return int(from_main(int(torch.randint(2**31, (), generator=generator))))

    def set_epoch(self, epoch: int) -> None:
        """Tell the number of the epoch to a data set or sampler that wants to know it."""
        for name in ("dataset", "sampler"):
            set_epoch = getattr(getattr(self.loader, name, None), "set_epoch", None)
            if set_epoch is not None:
                set_epoch(epoch)

    def batches(self, seed: int, start: int = 0) -> Iterator[tuple[Inputs, Tensor]]:
        """Give the batches of an epoch, the first ``start`` of them left out."""
        if self.is_planned:
            read: Iterable = self._planned(seed, start)
        else:
            with random_states(seed):  # an order is drawn when the first batch is asked for
                rest = iter(self.loader)
                read = chain(list(islice(rest, 1)), rest)
            read = islice(read, start, None)
        pairs = (read_batch(batch) for batch in islice(read, self._left(start)))
        if self.is_planned or world() == 1:
            yield from pairs
        elif self.is_stream:
            yield from self._until_any_ends(pairs)
        else:
            yield from (pair for pair in map(_own_rows, pairs) if pair is not None)

    def shares(self) -> Iterator[tuple[Inputs, Tensor]]:
        """Give the batches of the loader once, in its own order, for a measurement."""
        if self.is_planned and world() > 1:
            plan = [batch[rank() :: world()] for batch in _order(self.loader, seed=0)]
            yield from map(read_batch, _rebuilt(self.loader, [b for b in plan if b], seed=0))
            return
        for pair in map(read_batch, self.loader):
            own = pair if world() == 1 or self.is_stream else _own_rows(pair, whole=False)
            if own is not None:
                yield own

    def _until_any_ends(
        self, pairs: Iterator[tuple[Inputs, Tensor]]
    ) -> Iterator[tuple[Inputs, Tensor]]:
        """Stop all processes when the stream of one has ended: a step needs them all."""
        for pair in chain(pairs, [None]):
            if any_of(pair is None, self.device):
                return
            assert pair is not None
            yield pair

    def _left(self, start: int) -> int | None:
        return None if self.steps is None else max(0, self.steps - start)

    def _planned(self, seed: int, start: int) -> Iterable:
        plan = _order(self.loader, seed)[start:]
        # A batch with fewer examples than processes is left out: every process must have one.
        shares = [batch[rank() :: world()] for batch in plan if len(batch) >= world()]
        return _rebuilt(self.loader, shares, seed)


def _order(loader: DataLoader, seed: int) -> list[list[int]]:
    """List the examples of each batch as the loader's own sampler gives them under a seed."""
    generator = _generator_of(loader)
    with random_states(seed):
        if generator is not None:
            generator.manual_seed(seed)
        return [list(batch) for batch in loader.batch_sampler]  # type: ignore[union-attr]


def _rebuilt(loader: DataLoader, batches: list[list[int]], seed: int) -> DataLoader:
    """Make a loader with the settings of another that reads the batches that are listed."""
    return DataLoader(
        Seeded(loader.dataset, seed),
        batch_sampler=batches,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        prefetch_factor=loader.prefetch_factor,
        generator=torch.Generator().manual_seed(seed),  # or workers draw theirs from the caller's
    )


def _own_rows(pair: tuple[Inputs, Tensor], *, whole: bool = True) -> tuple[Inputs, Tensor] | None:
    """Keep this process's rows of a batch; None where there are none, or not for every process."""
    inputs, target = pair
    if len(target) < (world() if whole else rank() + 1):
        return None
    rows = slice(rank(), None, world())
    own = tuple(x[rows] for x in inputs) if isinstance(inputs, tuple) else inputs[rows]
    return own, target[rows]


def _generator_of(loader: Any) -> torch.Generator | None:
    """Find the random numbers that a user gave a loader, or its sampler, to shuffle with."""
    own = getattr(loader, "generator", None)
    return own if own is not None else getattr(getattr(loader, "sampler", None), "generator", None)
