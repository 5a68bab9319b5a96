"""Promises about training in two processes: it is the training of one, and ends in both.

The processes meet once and play every scene below; the process of the tests plays them alone.
They start from different seeds. A classifier with batch norm in train mode is the exception: its
batches are those of each process, and only its running statistics are averaged.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from networks import cnn
from processes import in_two_processes
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset

from captum_masking import FineTune, FromScratch, MaskingModel, MaskingTrainer
from captum_masking._base.processes import rank, world
from captum_masking.parts.masker import BATCH_NORMS
from captum_masking.parts.pool import History
from captum_masking.parts.sampler import GumbelSigmoid
from captum_masking.training.callbacks import Callback
from captum_masking.training.checkpoint import Checkpoints
from captum_masking.training.epochs import Loading

JOINT = FineTune(lr=0.05, masker_first=0.0)
NATURAL = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch without torch.distributed")


def examples(count: int = 11, seed: int = 0, dtype: torch.dtype = torch.float64) -> TensorDataset:
    random = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, 16, 16, generator=random, dtype=torch.float64)
    return TensorDataset(images.to(dtype), torch.arange(count) % 4)


def loader(batch_size: int = 4, **options: Any) -> DataLoader:
    """Eleven examples in batches of four: two processes share the last three unevenly."""
    return DataLoader(examples(), batch_size, **options)


def without_batch_norm() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
    )


def build(
    how: Any,
    *,
    classifier: Any = None,
    sampler: nn.Module | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    **options: Any,
) -> MaskingTrainer:
    torch.manual_seed(100 * seed + rank())
    classifier = cnn(dropout=0.0, seed=rank()) if classifier is None else classifier()
    # A gate would draw questions, which are others in each process.
    model = MaskingModel(classifier, sampler=sampler, target_aware=False).to(dtype)
    pool = History(size=2, every=2, past=0.5) if how else None
    return MaskingTrainer(model, train_classifier=how, pool=pool, **options)


def fit(
    trainer: MaskingTrainer,
    batches: Any,
    epochs: int = 2,
    *,
    dtype: torch.dtype = torch.float64,
    **options: Any,
) -> dict[str, Any]:
    """Train, and collect all that two processes could disagree on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the (masker has collapsed|classifier has lost)")
        records = trainer.fit(batches, epochs, show_progress=False, **options)
    for record in records:
        del record["seconds"]
    return {
        "weights": {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()},
        "pool": trainer.pool.state_dict(),
        "records": list(records),  # without how they are shown, which torch.load does not know
        "evaluated": trainer.evaluate(DataLoader(examples(5, seed=1, dtype=dtype), 2)),
        "steps": trainer.steps_done,
    }


# The scenes. Each returns tensors and numbers; alone, in the process of the tests, as well.


def frozen(folder: Path) -> dict[str, Any]:
    validation = DataLoader(examples(3, seed=2), 2, shuffle=True)  # a batch of one: who has none?
    return fit(build(False), loader(shuffle=True), validation=validation)


def joint(folder: Path) -> dict[str, Any]:
    return fit(build(JOINT), loader(shuffle=True))


def scratch(folder: Path) -> dict[str, Any]:
    trainer = build(FromScratch(lr=0.01), classifier=without_batch_norm)
    return fit(trainer, loader(shuffle=True), epochs=3)


def single_precision(folder: Path) -> dict[str, Any]:
    trainer = build(JOINT, dtype=torch.float32)
    batches = DataLoader(examples(dtype=torch.float32), 4)
    return fit(trainer, batches, dtype=torch.float32)


def batch_norm_in_train_mode(folder: Path) -> dict[str, Any]:
    return fit(build(FromScratch()), loader(shuffle=True))


def target_aware(folder: Path) -> dict[str, Any]:
    """Shares of four become mosaics of four, or not; those of one and two never do."""
    torch.manual_seed(rank())
    model = MaskingModel(cnn(dropout=0.0, seed=rank()), target_aware=True).double()
    trainer = MaskingTrainer(model, train_classifier=False)
    return fit(trainer, DataLoader(examples(19), 8, shuffle=True), epochs=3)


def accumulated(folder: Path) -> dict[str, Any]:
    return fit(build(JOINT, accelerator=Accumulate()), loader(shuffle=True))


def list_of_batches(folder: Path) -> dict[str, Any]:
    return fit(build(JOINT), list(loader()))


def small_batches(folder: Path) -> dict[str, Any]:
    """Eleven in fives leave one example, which two processes cannot share."""
    planned, listed = build(JOINT), build(JOINT)
    found = fit(planned, loader(5)), fit(listed, list(loader(5)))
    return {"planned": found[0], "listed": found[1], "length": Loading(loader(5)).length}


def two_are_left_out_alone(folder: Path) -> dict[str, Any]:
    return fit(build(JOINT), DataLoader(examples(), 5, drop_last=world() == 1))


def streams(folder: Path) -> dict[str, Any]:
    return fit(build(JOINT), Pairs() if world() == 1 else DataLoader(Stream(rank()), 2))


def shared_out_already(folder: Path) -> dict[str, Any]:
    """A sampler that gives a process its own examples; alone, the batches that it makes of them."""
    parts = [DistributedSampler(range(12), 2, place, shuffle=False) for place in (0, 1)]
    if world() == 1:
        batches = [sum(two, []) for two in zip(*(batched(list(p)) for p in parts), strict=True)]
        return fit(build(JOINT), DataLoader(examples(12), batch_sampler=batches))
    return fit(build(JOINT), DataLoader(examples(12), 2, sampler=parts[rank()]))


def stopped(folder: Path) -> dict[str, Any]:
    """Compare a training that an error stopped with one that went on, in each process."""
    how = {"sampler": GumbelSigmoid(temperature=0.5, hard=False)}  # it draws random numbers
    whole = fit(build(JOINT, **how), loader(shuffle=True))
    saving = Checkpoints(folder / "checkpoints", every=1)
    with contextlib.suppress(ArithmeticError):
        fit(build(JOINT, **how), loader(shuffle=True), callbacks=[Raise(5), saving])
    again = build(JOINT, seed=1, **how)
    resumed = fit(again, loader(shuffle=True), callbacks=[Raise(99), saving], resume=saving.folder)
    return {"whole": whole, "resumed": resumed}


def with_accelerate(folder: Path) -> dict[str, Any]:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState

    accelerator = Accelerator(cpu=True)
    try:
        batches = accelerator.prepare(loader())  # gives each process its own batches
        own = sum(len(labels) for _, labels in Loading(batches).batches(0))
        found = fit(build(JOINT, accelerator=accelerator), loader(shuffle=True))
        return {"processes": accelerator.num_processes, "own": own, **found}
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


def batch_norms(folder: Path) -> dict[str, Any]:
    """Put an uneven share of a batch through a layer, and add up what each process gets."""
    shares = {str(dims): through(BATCH_NORMS[dims], *maps(dims)) for dims in (1, 2, 3)}
    return shares | {"half": through(BATCH_NORMS[2], *maps(2, torch.bfloat16))}


def maps(dims: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Five images' maps, and what a loss would send back to them."""
    random = torch.Generator().manual_seed(dims)
    inputs = 3 + 2 * torch.randn(5, 4, *[3] * dims, generator=random, dtype=torch.float64)
    slopes = torch.arange(inputs.numel()).reshape(inputs.shape).double().cos()
    return inputs.to(dtype), slopes.to(dtype)


def through(kind: Callable[[int], nn.Module], inputs: Tensor, slopes: Tensor) -> dict[str, Tensor]:
    layer = kind(4).to(torch.promote_types(inputs.dtype, torch.float32))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, -2.0, 0.5, 3.0]))
        layer.bias.copy_(torch.arange(4.0))
    own = inputs[rank() :: world()].requires_grad_()
    for _ in range(2):  # the running statistics move twice
        outputs = layer(own)
    (outputs * slopes[rank() :: world()]).sum().backward()
    return {
        "outputs": outputs.detach(),
        "to_inputs": own.grad,
        "to_weight": layer.weight.grad,
        "to_bias": layer.bias.grad,
        "mean": layer.running_mean,
        "variance": layer.running_var,
        "batches": layer.num_batches_tracked,
    }


def one_fails(folder: Path) -> dict[str, Any]:
    """The last scene: process 1 fails and is gone, which process 0 hears of."""
    try:
        fit(build(JOINT), loader(), callbacks=[Raise(2)] if rank() == 1 else [])
    except (ArithmeticError, RuntimeError) as error:
        return {"words": str(error), "kind": type(error).__name__}
    return {}


SCENES = [
    *(frozen, joint, scratch, single_precision, accumulated, list_of_batches, streams),
    *(two_are_left_out_alone, shared_out_already),
]
ONLY_TOGETHER = [
    batch_norm_in_train_mode,
    target_aware,
    small_batches,
    stopped,
    with_accelerate,
    batch_norms,
]


class Raise(Callback):
    """Ends a training with an error after some steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, trainer, record) -> None:
        if trainer.steps_done == self.step:
            raise ArithmeticError("stop here")


class Accumulate:
    """What the engine reads of an accelerator that accumulates the gradients of two batches."""

    gradient_accumulation_steps, mixed_precision, device = 2, "no", "cpu"
    autocast = contextlib.nullcontext


class Stream(IterableDataset):
    """Six examples in one process, ten in the other."""

    def __init__(self, place: int) -> None:
        self.place = place

    def __iter__(self) -> Iterator[Any]:
        yield from examples([6, 10][self.place], seed=5 + self.place)


class Pairs:
    """The batches of both streams, each pair as one; how many there are is not known."""

    def __iter__(self) -> Iterator[Any]:
        for pair in zip(*(DataLoader(Stream(place), 2) for place in (0, 1)), strict=False):
            yield tuple(torch.cat(parts) for parts in zip(*pair, strict=True))


def batched(indices: list[int]) -> list[list[int]]:
    return [indices[start : start + 2] for start in range(0, len(indices), 2)]


# Two processes, once.


def play(place: int, folder: Path) -> None:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)  # that of the tests before, if any
    os.environ |= {"RANK": str(place), "LOCAL_RANK": str(place)}  # accelerate asks for them
    os.environ |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    for scene in [*SCENES, *ONLY_TOGETHER, one_fails]:
        torch.save(scene(folder), folder / f"{scene.__name__}-{place}.pt")
    # Process 1 has failed and ends; that of 0 has heard of it.


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where two processes have left what they found."""
    folder = tmp_path_factory.mktemp("processes")
    in_two_processes(play, folder)
    return folder


@pytest.fixture
def together(folder) -> Callable[[Callable], list[dict[str, Any]]]:
    def read(scene: Callable) -> list[dict[str, Any]]:
        return [torch.load(folder / f"{scene.__name__}-{place}.pt") for place in (0, 1)]

    return read


def assert_close(found: Any, expected: Any, tolerance: float = 1e-7) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


# What is promised.


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_two_processes_train_what_one_trains(scene, together, tmp_path):
    alone = scene(tmp_path)
    tolerance = 1e-5 if scene is single_precision else 1e-7
    for found in together(scene):
        assert_close(found, alone, tolerance)


@pytest.mark.parametrize(
    "scene", [*SCENES, batch_norm_in_train_mode, target_aware], ids=lambda scene: scene.__name__
)
def test_processes_agree_bit_by_bit_whatever_seeds_they_started_from(scene, together):
    one, other = together(scene)
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_batch_with_fewer_examples_than_processes_is_left_out(together):
    for found in together(small_batches):
        assert found["length"] == 2
        assert found["planned"]["steps"] == found["listed"]["steps"] == 4  # of two epochs


def test_streams_end_for_all_where_the_first_of_them_ends(together):
    assert [found["steps"] for found in together(streams)] == [6, 6]  # three in each of two epochs


def test_a_training_stopped_and_resumed_equals_one_that_never_stopped(together):
    for found in together(stopped):
        assert found["whole"]["steps"] == 6
        torch.testing.assert_close(found["resumed"], found["whole"], rtol=0, atol=0)


def test_going_on_in_another_number_of_processes_is_possible_and_warned_of(folder):
    trainer = build(JOINT, sampler=GumbelSigmoid(temperature=0.5, hard=False))
    with pytest.warns(UserWarning, match="begun in 2 processes and goes on in 1"):
        found = fit(
            trainer, loader(shuffle=True), callbacks=[Raise(99)], resume=folder / "checkpoints"
        )
    assert found["steps"] == 6 and len(found["records"]) == 2


def test_processes_that_accelerate_started_train_the_same(together):
    for found, plain in zip(together(with_accelerate), together(joint), strict=True):
        assert found.pop("processes") == 2 and found.pop("own") == 8  # of eleven, filled up
        torch.testing.assert_close(found, plain, rtol=0, atol=0)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_batch_norm_over_processes_is_that_of_the_whole_batch(dims, together):
    found = [each[str(dims)] for each in together(batch_norms)]
    whole = through(NATURAL[dims - 1], *maps(dims))
    for name in ("outputs", "to_inputs"):
        for place in (0, 1):
            assert_close(found[place][name], whole[name][place::2])
    for name in ("to_weight", "to_bias"):
        assert_close(found[0][name] + found[1][name], whole[name])
    for name in ("mean", "variance", "batches"):
        assert_close([each[name] for each in found], [whole[name]] * 2)


def test_batch_norm_over_processes_keeps_half_precision_and_sums_in_single(together):
    exact = through(NATURAL[1], *maps(2))
    for place, found in enumerate(together(batch_norms)):
        assert found["half"]["outputs"].dtype == torch.bfloat16
        assert_close(found["half"]["outputs"].double(), exact["outputs"][place::2], 0.05)
        assert_close(found["half"]["mean"].double(), exact["mean"], 1e-3)


def test_when_one_process_fails_the_other_ends_with_an_error_soon(together):
    first, second = together(one_fails)
    assert second["words"] == "stop here"
    assert first["kind"] == "RuntimeError"
    assert (
        "onnection" in first["words"] and "imed out" not in first["words"]
    )  # that is half an hour
