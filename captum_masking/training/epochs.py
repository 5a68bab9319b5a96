"""Read the batches of an epoch for this process, from any batch on."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, count, islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from captum_masking._base.captum import Inputs
from captum_masking._base.checks import length_of
from captum_masking._base.processes import any_of, from_main, rank, world
from captum_masking.data.batches import read_batch
from captum_masking.data.seeded import Seeded, random_states


class Loading:
    """Read a loader so that an epoch is a function of its seed.

    For a ``DataLoader`` over an indexed data set, the order is drawn at the start, and each example
    draws its augmentation from the epoch's seed and its index. Processes share each batch; a batch
    with fewer examples than processes is left out.

    Any other loader is read as it is. To resume, batches used before are read and dropped. An
    epoch ends for all processes when it ends for one. Each process keeps its rows of a batch,
    unless the loader already gives each process its own batches.
    """

    def __init__(
        self, loader: Any, *, steps: int | None = None, device: torch.device | str = "cpu"
    ) -> None:
        self.loader, self.steps, self.device = loader, steps, torch.device(device)
        over_index = type(loader) is DataLoader and loader.batch_sampler is not None
        is_stream = isinstance(getattr(loader, "dataset", None), IterableDataset)
        self.is_planned = over_index and not is_stream
        self.is_shared_out = is_stream or _gives_each_process_its_own(loader)
        self.shares_batches = world() > 1 and not self.is_shared_out
        known = length_of(loader)
        if known is not None and self.shares_batches:
            known -= _left_out(loader)
        self.length = known if steps is None else steps if known is None else min(steps, known)

    def draw_seed(self) -> int:
        generator = _generator_of(self.loader)
        return int(from_main(int(torch.randint(2**31, (), generator=generator))))

    def set_epoch(self, epoch: int) -> None:
        for name in ("dataset", "sampler"):
            set_epoch = getattr(getattr(self.loader, name, None), "set_epoch", None)
            if set_epoch is not None:
                set_epoch(epoch)

    def batches(self, seed: int, start: int = 0) -> Iterator[tuple[Inputs, Tensor]]:
        """Yield the batches of an epoch from number ``start`` on."""
        if self.shares_batches:
            _check_batch_size(self.loader)
        if self.is_planned:
            plan = self._plan(seed, whole=True)[start : self.steps]
            yield from map(read_batch, _rebuilt(self.loader, plan, seed))
            return
        read = map(read_batch, _read(self.loader, seed))
        pairs = islice(self._own(read, whole=True), start, self.steps)
        yield from pairs if world() == 1 else self._until_any_ends(pairs)

    def shares(self) -> Iterator[tuple[Inputs, Tensor]]:
        """Yield the batches of the loader once, in its own order, for a measurement."""
        if self.is_planned:  # with a separate RNG, so that the training's does not advance
            plan = self._plan(seed=0, whole=False)
            yield from map(read_batch, _rebuilt(self.loader, plan, seed=0))
        else:
            yield from self._own(map(read_batch, self.loader), whole=False)

    def state_dict(self) -> dict[str, Tensor]:
        generator = _generator_of(self.loader)
        return {} if generator is None else {"generator": generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        generator = _generator_of(self.loader)
        if generator is not None and state:
            generator.set_state(state["generator"])

    def _plan(self, seed: int, *, whole: bool) -> list[list[int]]:
        """List this process's examples of each batch; if whole, skip those too small for all."""
        plan = _order(self.loader, seed)
        if not self.shares_batches:
            return plan
        least = world() if whole else rank() + 1
        return [batch[rank() :: world()] for batch in plan if len(batch) >= least]

    def _own(
        self, pairs: Iterator[tuple[Inputs, Tensor]], *, whole: bool
    ) -> Iterator[tuple[Inputs, Tensor]]:
        """Yield this process's rows of each batch; if whole, skip those too small for all."""
        least = world() if whole else rank() + 1
        for pair in pairs:
            if not self.shares_batches:
                yield pair
            elif len(pair[1]) >= least:
                yield _rows(*pair, slice(rank(), None, world()))

    def _until_any_ends(
        self, pairs: Iterator[tuple[Inputs, Tensor]]
    ) -> Iterator[tuple[Inputs, Tensor]]:
        """Stop all processes when the batches of one end, since a step needs all of them."""
        for pair in chain(pairs, [None]):
            if any_of(pair is None, self.device):
                return
            assert pair is not None
            yield pair


def _read(loader: Any, seed: int) -> Iterator[Any]:
    """Read a loader, with a separate seed for each batch."""
    end = object()
    with random_states(seed):
        rest = iter(loader)
    for number in count():
        with random_states(seed, number):  # the first call may draw the order
            batch = next(rest, end)
        if batch is end:
            return
        yield batch


def _order(loader: DataLoader, seed: int) -> list[list[int]]:
    """List the examples of each batch, as the loader's sampler draws them from a seed."""
    generator = _generator_of(loader)
    before = None if generator is None else generator.get_state()
    try:
        with random_states(seed):
            if generator is not None:
                generator.manual_seed(seed)
            return [list(batch) for batch in loader.batch_sampler]  # type: ignore[union-attr]
    finally:
        if generator is not None and before is not None:
            generator.set_state(before)


_SETTINGS = (
    *("num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn"),
    *("multiprocessing_context", "prefetch_factor"),
)


def _rebuilt(loader: DataLoader, batches: list[list[int]], seed: int) -> DataLoader:
    """Make a loader with the settings of another that reads the given batches."""
    generator = torch.Generator().manual_seed(seed)  # else workers advance the caller's RNG
    same = {name: getattr(loader, name) for name in _SETTINGS}
    data = Seeded(loader.dataset, seed)
    return DataLoader(data, batch_sampler=batches, generator=generator, **same)


def _rows(inputs: Inputs, target: Tensor, rows: slice) -> tuple[Inputs, Tensor]:
    own = tuple(x[rows] for x in inputs) if isinstance(inputs, tuple) else inputs[rows]
    return own, target[rows]


def _gives_each_process_its_own(loader: Any) -> bool:
    by_accelerate = type(loader).__module__.partition(".")[0] == "accelerate"
    return by_accelerate or isinstance(getattr(loader, "sampler", None), DistributedSampler)


def _left_out(loader: Any) -> int:
    """Count the batches with fewer examples than processes, 0 or 1; 0 if unknown."""
    size = getattr(loader, "batch_size", None)
    examples = length_of(getattr(loader, "sampler", None))
    if size is None or examples is None or getattr(loader, "drop_last", False):
        return 0
    return int(0 < examples % size < world())


def _check_batch_size(loader: Any) -> None:
    size = getattr(loader, "batch_size", None)
    if size is not None and size < world():
        raise ValueError(
            f"{world()} processes share each batch, but batch_size is {size}; use a batch_size of "
            "at least the number of processes."
        )


def _generator_of(loader: Any) -> torch.Generator | None:
    own = getattr(loader, "generator", None)
    return own if own is not None else getattr(getattr(loader, "sampler", None), "generator", None)
