"""Promises about the batches of an epoch: drawn from its seed, gone on with anywhere, shared out.

What several processes read is looked at here in one, which is told that it is the first, the
second, ... of some; two real ones train in ``test_distributed.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset

from captum_masking.training.epochs import Loading


class Numbered(Dataset):
    """Image i is i everywhere plus a little noise, drawn anew each time; its label is i."""

    def __init__(self, count: int = 11) -> None:
        self.count, self.epochs = count, []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return index + 0.1 * torch.rand(1, 4, 4), index

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)


class Stream(IterableDataset):
    """The same images one after the other, without a length."""

    def __init__(self, count: int = 11) -> None:
        self.images = Numbered(count)

    def __iter__(self) -> Iterator[Any]:
        return (self.images[index] for index in range(len(self.images)))


def planned(**options: Any) -> DataLoader:
    return DataLoader(Numbered(), 4, **{"shuffle": True} | options)


def listed() -> list[tuple[Tensor, Tensor]]:
    return list(DataLoader(Numbered(), 4))


def stream() -> DataLoader:
    return DataLoader(Stream(), 4)


KINDS = pytest.mark.parametrize("make", [planned, listed, stream])


def labels(batches: Any) -> list[list[int]]:
    return [target.tolist() for _, target in batches]


@pytest.fixture
def processes(monkeypatch) -> Callable[[int, Callable[[], Any]], list[Any]]:
    """Ask each process of some in turn; none of them waits for another."""

    def ask(count: int, question: Callable[[], Any]) -> list[Any]:
        answers = []
        for place in range(count):
            monkeypatch.setattr("captum_masking.training.epochs.world", lambda: count)
            monkeypatch.setattr("captum_masking.training.epochs.rank", lambda place=place: place)
            answers.append(question())
        return answers

    monkeypatch.setattr("captum_masking.training.epochs.any_of", lambda flag, device: flag)
    return ask


# One process.


def test_the_seed_says_order_and_augmentation_of_an_epoch():
    one, other = Loading(planned()), Loading(planned())
    for (images, target), (its_images, its_target) in zip(
        one.batches(3), other.batches(3), strict=True
    ):
        assert torch.equal(target, its_target) and torch.equal(images, its_images)
    assert labels(one.batches(3)) != labels(one.batches(4))
    assert sorted(sum(labels(one.batches(4)), [])) == list(range(11))


def test_the_seed_says_them_with_workers_too():
    alone, workers = Loading(planned()).batches(3), Loading(planned(num_workers=1)).batches(3)
    for (images, _), (its_images, _) in zip(alone, workers, strict=True):
        assert torch.equal(images, its_images)


@KINDS
@pytest.mark.parametrize("steps", [None, 2, 9])
@pytest.mark.parametrize("start", [0, 1, 2, 3])
def test_an_epoch_can_be_gone_on_with_after_any_batch(make, steps, start):
    loading = Loading(make(), steps=steps)
    assert labels(loading.batches(5, start)) == labels(loading.batches(5))[start:]


def test_the_random_numbers_of_the_caller_are_left_alone():
    before = torch.get_rng_state()
    loading = Loading(planned())
    list(loading.batches(3))
    list(loading.shares())
    assert torch.equal(torch.get_rng_state(), before)


def test_epochs_differ_and_repeat_from_the_state_of_the_users_generator():
    def seeds(loading: Loading) -> list[int]:
        found = []
        for _ in range(3):
            found.append(loading.draw_seed())
            list(loading.batches(found[-1]))
        return found

    mine = Loading(planned(generator=torch.Generator().manual_seed(7)))
    first = mine.draw_seed()
    state = {name: value.clone() for name, value in mine.state_dict().items()}
    following = seeds(mine)
    assert len({first, *following}) == 4
    fresh = Loading(planned(generator=torch.Generator().manual_seed(7)))
    fresh.load_state_dict(state)
    assert seeds(fresh) == following


def test_without_a_generator_there_is_no_state():
    loading = Loading(planned())
    assert loading.state_dict() == {}
    loading.load_state_dict({})


def test_a_measurement_leaves_the_users_generator_alone():
    generator = torch.Generator().manual_seed(7)
    loading = Loading(planned(generator=generator))
    before = generator.get_state()
    assert labels(loading.shares()) == labels(loading.shares())
    assert torch.equal(generator.get_state(), before)


def test_data_and_sampler_hear_of_the_epoch():
    data = Numbered()
    sampler = DistributedSampler(data, 1, 0)
    Loading(DataLoader(data, 4, sampler=sampler)).set_epoch(5)
    assert data.epochs == [5] and sampler.epoch == 5
    Loading(listed()).set_epoch(5)  # nobody to tell


@pytest.mark.parametrize(
    ("make", "steps", "length"),
    [(planned, None, 3), (planned, 2, 2), (planned, 9, 3), (listed, None, 3)]
    + [(stream, None, None), (stream, 2, 2)],
)
def test_the_length_is_what_is_known_of_it(make, steps, length):
    assert Loading(make(), steps=steps).length == length


# Several processes.


@pytest.mark.parametrize("make", [planned, listed])
@pytest.mark.parametrize("count", [2, 3])
def test_processes_share_each_batch_by_rows(make, count, processes):
    loader = make()
    alone = labels(Loading(loader).batches(3))
    shares = processes(count, lambda: labels(Loading(loader).batches(3)))
    for place, share in enumerate(shares):
        assert share == [batch[place::count] for batch in alone]


@pytest.mark.parametrize("make", [planned, listed])
def test_a_batch_too_small_for_all_is_left_out_by_all(make, processes):
    loader = make()  # 4, 4 and 3 images
    alone = labels(Loading(loader).batches(3))
    shares = processes(4, lambda: labels(Loading(loader).batches(3)))
    assert shares == [[[batch[place]] for batch in alone[:2]] for place in range(4)]


def test_a_batch_too_small_is_not_counted_and_going_on_does_not_count_it(processes):
    loader = planned()
    assert processes(4, lambda: Loading(loader).length) == [2] * 4
    assert processes(3, lambda: Loading(loader).length) == [3] * 3
    uneven = [[0, 1, 2], [3], [4, 5], [6, 7]]
    batches = DataLoader(Numbered(), batch_sampler=uneven)
    for make in (lambda: batches, lambda: list(batches)):
        shares = processes(2, lambda make=make: labels(Loading(make()).batches(3, 1)))
        assert shares == [[[4], [6]], [[5], [7]]]
        cut = processes(2, lambda make=make: labels(Loading(make(), steps=2).batches(3)))
        assert cut == [[[0, 2], [4]], [[1], [5]]]


@pytest.mark.parametrize("make", [planned, listed])
@pytest.mark.parametrize("count", [2, 4, 5])
def test_a_measurement_takes_every_image_once_whatever_the_processes(make, count, processes):
    loader = make()
    shares = processes(count, lambda: sum(labels(Loading(loader).shares()), []))
    assert sorted(sum(shares, [])) == list(range(11))


def test_a_stream_is_every_processes_own(processes):
    shares = processes(2, lambda: labels(Loading(stream()).batches(3)))
    assert shares == [labels(stream())] * 2


def test_the_batches_of_a_distributed_sampler_are_not_shared_again(processes):
    def own() -> list[list[int]]:
        from captum_masking.training import epochs as loading

        sampler = DistributedSampler(Numbered(12), 2, loading.rank(), shuffle=False)
        return labels(Loading(DataLoader(Numbered(12), 2, sampler=sampler)).batches(3))

    first, second = processes(2, own)
    assert first == [[0, 2], [4, 6], [8, 10]] and second == [[1, 3], [5, 7], [9, 11]]


def test_batches_smaller_than_the_processes_are_many_are_refused_with_the_way_out(processes):
    with pytest.raises(ValueError, match="8 processes share each batch, but batch_size is 4"):
        processes(8, lambda: next(Loading(planned()).batches(3)))


def test_several_inputs_are_shared_by_rows_each(processes):
    batch = (torch.arange(4.0), 10 + torch.arange(4.0)), torch.arange(4)
    (first, _), (second, _) = (
        pairs[0] for pairs in processes(2, lambda: list(Loading([batch]).batches(3)))
    )
    assert [part.tolist() for part in first] == [[0, 2], [10, 12]]
    assert [part.tolist() for part in second] == [[1, 3], [11, 13]]
