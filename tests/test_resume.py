"""A training that is saved and taken up again equals one that never stopped, bit by bit."""

from __future__ import annotations

import copy
import os
import random
import shutil
import subprocess
import sys
import warnings
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from networks import assert_same, cnn, everything, same_weights
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset

from captum_masking import FineTune, FromScratch, MaskingModel, MaskingTrainer
from captum_masking.data import BalancedSampler
from captum_masking.model.files import CheckpointError
from captum_masking.parts.infill import Mean, Noise
from captum_masking.parts.masker import Masker, nearest
from captum_masking.parts.objective import Dual
from captum_masking.parts.pool import History, Latest
from captum_masking.parts.regularizer import Area, smooth
from captum_masking.parts.sampler import GumbelSigmoid, Sigmoid
from captum_masking.training.area import AdaptiveArea
from captum_masking.training.callbacks import (
    Callback,
    EarlyStopping,
    KeepBest,
    KeepLatest,
)
from captum_masking.training.checkpoint import (
    Checkpoints,
    load_training_state,
    setting,
    training_state,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:the masker has collapsed:UserWarning"),
    pytest.mark.filterwarnings("ignore:the classifier has lost accuracy:UserWarning"),
    pytest.mark.filterwarnings("ignore:masks have been nearly all:UserWarning"),
]

BATCHES, EPOCHS = 4, 2
STEPS = BATCHES * EPOCHS

FROZEN, JOINT, SCRATCH = False, FineTune(lr=0.05, masker_first=0.3), FromScratch()
HOWS = pytest.mark.parametrize("how", [FROZEN, JOINT, SCRATCH], ids=["frozen", "joint", "scratch"])


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fixed(index: int) -> torch.Tensor:
    return torch.rand(3, 16, 16, generator=generator(index))


def augmented(index: int) -> torch.Tensor:
    """A picture changed by random numbers of all three sources."""
    by = 0.1 * torch.randn(3, 1, 1) + random.random() / 10 + np.random.rand() / 10
    return fixed(index) + by


class Augmented(Dataset):
    def __len__(self) -> int:
        return 14

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return augmented(index), index % 4


class Stream(IterableDataset):
    """Pictures without a length, each worker's share of them."""

    def __init__(self, picture=augmented) -> None:
        self.picture = picture

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        start, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for index in range(start, 14, step):
            yield self.picture(index), index % 4


def loader(**options) -> DataLoader:
    return DataLoader(Augmented(), **{"batch_size": 4, "shuffle": True} | options)


def still(count: int = 6) -> DataLoader:
    """What is validated on: always the same."""
    images = torch.stack([fixed(100 + index) for index in range(count)])
    return DataLoader(TensorDataset(images, torch.arange(count) % 4), batch_size=4)


def accumulating(count: int) -> SimpleNamespace:
    """As much of an accelerator as gradient accumulation takes."""
    return SimpleNamespace(
        gradient_accumulation_steps=count,
        mixed_precision="no",
        scaler=None,
        device=torch.device("cpu"),
        autocast=nullcontext,
    )


def build(how=JOINT, *, seed: int, classifier=None, **options) -> MaskingTrainer:
    """A trainer of which every part that can be random is."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    sampler = GumbelSigmoid(temperature=0.5, hard=False)
    model = MaskingModel(classifier or cnn(dropout=0.1), sampler=sampler)
    parts = {"pool": History(size=2, every=2), "infill": Noise(), "lr": 0.01}
    return MaskingTrainer(model, train_classifier=how, **parts | options)


def watchers() -> list[Callback]:
    return [EarlyStopping(patience=9), AdaptiveArea(every=3, low=0.3, high=0.45, factor=1.1)]


def fit(trainer, batches=None, *, extra=(), epochs=EPOCHS, keep=None, checkpoints=None, **options):
    options = {"validation": still(), "check_accuracy": False} | options
    callbacks = [keep or KeepBest("val_masked_in", higher_is_better=True), *watchers(), *extra]
    if checkpoints is not None:
        own = isinstance(checkpoints, Checkpoints)
        callbacks.append(checkpoints if own else Checkpoints(checkpoints))
    return trainer.fit(
        loader() if batches is None else batches,
        epochs,
        callbacks=callbacks,
        show_progress=False,
        **options,
    )


class StopAfter(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, trainer, record) -> None:
        if trainer.steps_done == self.step:
            raise ArithmeticError("stopped by a test")


def without_time(records: list[dict]) -> list[dict]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


def alone(folder: Path, step: int, tmp_path: Path) -> Path:
    """A folder that holds one of the checkpoints of another."""
    there = tmp_path / f"only-{step}"
    there.mkdir()
    shutil.copy(folder / f"step-{step:08d}.safetensors", there)
    return there


def assert_same_training(one, other) -> None:
    (trainer, records), (its_trainer, its_records) = one, other
    assert same_weights(trainer.model, its_trainer.model)
    assert without_time(records) == without_time(its_records)
    for optimizer, its in zip(trainer.optimizers, its_trainer.optimizers, strict=True):
        assert_same(optimizer.state_dict(), its.state_dict())
    assert_same(trainer.pool.state_dict(), its_trainer.pool.state_dict())


def assert_every_checkpoint_leads_to(reference, folder, tmp_path, make, go, steps) -> None:
    """Go on from each checkpoint alone, with other seeds, and compare with never having stopped."""
    assert Checkpoints(folder).steps() == steps
    for step in steps:
        trainer = make(seed=100 + step)
        records = go(trainer, resume=alone(folder, step, tmp_path))
        assert_same_training(reference, (trainer, records))


# From every step


@HOWS
def test_k_steps_stopped_and_resumed_equal_never_stopped_for_every_k(how, tmp_path):
    # Steps 4 and 8 are saved before validation, the others in the middle of an epoch.
    def make(seed):
        return build(how, seed=seed)

    reference = make(seed=0)
    reference = reference, fit(reference)
    saving = make(seed=0)
    saved = saving, fit(saving, checkpoints=Checkpoints(tmp_path / "run", every=1, keep=99))
    assert_same_training(reference, saved)
    steps = list(range(1, STEPS + 1))
    assert_every_checkpoint_leads_to(reference, tmp_path / "run", tmp_path, make, fit, steps)


@HOWS
def test_a_training_saved_after_each_epoch_is_resumed_there(how, tmp_path):
    def make(seed):
        return build(how, seed=seed)

    reference = make(seed=0)
    reference = reference, fit(reference)
    fit(make(seed=0), checkpoints=tmp_path / "run")
    assert_every_checkpoint_leads_to(reference, tmp_path / "run", tmp_path, make, fit, [4, 8])


@pytest.mark.parametrize("stops", [(3, 4, 5, 7), (6,), (2, 3, 8)], ids=str)
def test_a_training_may_be_stopped_and_resumed_many_times(stops, tmp_path):
    reference = build(seed=0)
    reference = reference, fit(reference)
    keeping = {"checkpoints": Checkpoints(tmp_path / "run", every=1, keep=1)}
    for stop in stops:
        with pytest.raises(ArithmeticError), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*holds no checkpoint yet")
            stopper = [StopAfter(stop)]
            fit(build(seed=stop), extra=stopper, resume=tmp_path / "run", **keeping) if (
                stop > stops[0]
            ) else fit(build(seed=0), extra=stopper, **keeping)
    last = build(seed=9)
    records = fit(last, extra=[StopAfter(99)], resume=tmp_path / "run", **keeping)
    assert_same_training(reference, (last, records))


@pytest.mark.parametrize("how", [FROZEN, JOINT], ids=["frozen", "joint"])
def test_gradients_that_wait_are_no_part_of_a_checkpoint(how, tmp_path):
    # Updates are taken after 3 batches and at the end of an epoch of 4; only then is it saved.
    def make(seed):
        return build(how, seed=seed, accelerator=accumulating(3))

    reference = make(seed=0)
    reference = reference, fit(reference)
    fit(make(seed=0), checkpoints=Checkpoints(tmp_path / "run", every=1, keep=99))
    steps = [3, 4, 7, 8]
    assert_every_checkpoint_leads_to(reference, tmp_path / "run", tmp_path, make, fit, steps)


def test_a_checkpoint_that_falls_between_two_updates_is_saved_at_the_next(tmp_path):
    trainer = build(seed=0, accelerator=accumulating(2))
    fit(trainer, checkpoints=Checkpoints(tmp_path, every=5, keep=99))
    assert Checkpoints(tmp_path).steps() == [6, 8]


# Loaders


LOADERS = {
    "of two workers": lambda seed: loader(num_workers=2),
    "with a generator of its own": lambda seed: loader(generator=generator(seed)),
    "with a sampler that has one": lambda seed: loader(
        shuffle=None, sampler=BalancedSampler([i % 4 for i in range(14)], generator(seed))
    ),
    "that draws with replacement": lambda seed: loader(
        shuffle=None, sampler=RandomSampler(Augmented(), replacement=True, num_samples=14)
    ),
    "of a stream": lambda seed: DataLoader(Stream(), batch_size=4),
    "of a stream with two workers": lambda seed: DataLoader(
        Stream(augmented), batch_size=4, num_workers=2
    ),
    "that is a list": lambda seed: [
        (torch.rand(4, 3, 16, 16, generator=generator(i)), torch.arange(4)) for i in range(4)
    ],
}


@pytest.mark.parametrize("make_loader", LOADERS.values(), ids=LOADERS)
def test_every_kind_of_loader_gives_what_is_left_of_the_epoch(make_loader, tmp_path):
    reference = build(seed=0)
    reference = reference, fit(reference, make_loader(0))
    keeping = Checkpoints(tmp_path / "run", every=1, keep=99)
    fit(build(seed=0), make_loader(0), checkpoints=keeping)
    per_epoch = keeping.steps()[-1] // EPOCHS
    for step in (
        (2,) if getattr(make_loader(0), "num_workers", 0) else (2, per_epoch, per_epoch + 1)
    ):
        trainer = build(seed=50)
        records = fit(trainer, make_loader(7), resume=alone(keeping.folder, step, tmp_path))
        assert_same_training(reference, (trainer, records))


def test_a_cut_stream_goes_on_too(tmp_path):
    def go(trainer, **options):
        return fit(trainer, DataLoader(Stream(), batch_size=2), steps_per_epoch=5, **options)

    reference = build(seed=0)
    reference = reference, go(reference)
    go(build(seed=0), checkpoints=Checkpoints(tmp_path / "run", every=4, keep=99))
    assert_every_checkpoint_leads_to(reference, tmp_path / "run", tmp_path, build, go, [4, 8, 10])


def test_as_many_workers_as_there_happen_to_be_may_go_on(tmp_path):
    reference = build(seed=0)
    reference = reference, fit(reference)
    with pytest.raises(ArithmeticError):
        keeping = Checkpoints(tmp_path, every=1)
        fit(build(seed=0), loader(num_workers=2), extra=[StopAfter(6)], checkpoints=keeping)
    trainer = build(seed=1)
    records = fit(trainer, extra=[StopAfter(99)], resume=tmp_path)
    assert_same_training(reference, (trainer, records))


# What there is to go on from


class Untouched(Dataset):
    def __len__(self) -> int:
        return 14

    def __getitem__(self, index: int):
        raise AssertionError("an image was read")


@pytest.mark.parametrize("every", [None, 4], ids=["each epoch", "each step"])
def test_a_finished_training_returns_its_records_and_does_not_train(every, tmp_path):
    trainer = build(seed=0)
    before = fit(trainer, checkpoints=Checkpoints(tmp_path, every=every))
    again = build(seed=1)
    records = fit(again, DataLoader(Untouched(), batch_size=4, shuffle=True), resume=tmp_path)
    assert_same_training((trainer, before), (again, records))
    assert again.steps_done == STEPS


def test_a_training_that_ended_early_stays_ended(tmp_path):
    class End(Callback):
        def on_step(self, trainer, record) -> None:
            trainer.stopping = "enough" if trainer.steps_done == 6 else None

    trainer = build(seed=0)
    before = fit(trainer, extra=[End()], checkpoints=tmp_path)
    untouched = DataLoader(Untouched(), batch_size=4, shuffle=True)
    again = build(seed=1)
    records = fit(again, untouched, extra=[End()], resume=tmp_path)
    assert_same_training((trainer, before), (again, records))
    assert len(records) == 2 and again.stopping == "enough"


@pytest.mark.parametrize("what", ["missing", "empty", "of a save that was killed"])
def test_without_a_checkpoint_the_training_begins_and_says_so(what, tmp_path):
    folder = tmp_path / "run"
    if what != "missing":
        folder.mkdir()
    if what == "of a save that was killed":
        (folder / ".tmp-7-step-00000004.safetensors").write_text("half")
    reference, trainer = build(seed=0), build(seed=0)
    torch.manual_seed(1)
    before = fit(reference, epochs=1)
    torch.manual_seed(1)
    with pytest.warns(UserWarning, match="run holds no checkpoint yet: a new training starts"):
        records = fit(trainer, epochs=1, resume=folder, checkpoints=folder)
    assert_same_training((reference, before), (trainer, records))
    assert Checkpoints(folder).steps() == [4]


@pytest.mark.parametrize("damage", ["truncated", "emptied", "a bit flipped"])
def test_a_damaged_checkpoint_is_not_taken_for_none(damage, tmp_path):
    fit(build(seed=0), epochs=1, checkpoints=tmp_path)
    file = tmp_path / "step-00000004.safetensors"
    whole = file.read_bytes()
    flipped = whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]
    damaged = {"truncated": whole[:-9], "emptied": b"", "a bit flipped": flipped}
    file.write_bytes(damaged[damage])
    trainer = build(seed=1)
    before, rates = everything(trainer.model), rates_of(trainer)
    with (
        pytest.warns(UserWarning, match="skipping a damaged checkpoint"),
        pytest.raises(CheckpointError, match="holds no checkpoint that can be read"),
    ):
        fit(trainer, epochs=1, resume=tmp_path, checkpoints=tmp_path)
    assert_same(before, everything(trainer.model))
    assert rates == rates_of(trainer) and os.listdir(tmp_path) == [file.name]


def test_the_checkpoint_before_a_damaged_one_leads_to_the_same_end(tmp_path):
    reference = build(seed=0)
    reference = reference, fit(reference)
    with pytest.raises(ArithmeticError):
        keeping = Checkpoints(tmp_path, every=2, keep=3)
        fit(build(seed=0), extra=[StopAfter(7)], checkpoints=keeping)
    (tmp_path / "step-00000006.safetensors").write_bytes(b"")
    trainer = build(seed=1)
    with pytest.warns(UserWarning, match="skipping a damaged checkpoint: .*step-00000006"):
        records = fit(trainer, extra=[StopAfter(99)], resume=tmp_path, checkpoints=keeping)
    assert_same_training(reference, (trainer, records))


def test_a_training_goes_on_in_another_folder_but_not_in_that_of_a_third(tmp_path):
    one, two, three = tmp_path / "one", tmp_path / "two", tmp_path / "three"
    for folder in (one, three):
        with pytest.raises(ArithmeticError):
            keeping = Checkpoints(folder, every=1, keep=1)
            fit(build(seed=0), extra=[StopAfter(6)], checkpoints=keeping)
    with pytest.raises(FileExistsError, match="three holds checkpoints up to step 5"):
        fit(build(seed=0), extra=[StopAfter(6)], resume=one, checkpoints=three)
    fit(build(seed=0), extra=[StopAfter(99)], resume=one, checkpoints=two)
    assert Checkpoints(one).steps() == [5] and Checkpoints(two).steps() == [8]


# What is refused


def rates_of(trainer) -> list[float]:
    return [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory) -> dict[str, Path]:
    """A joint and a frozen training of the settings of build() and fit(), stopped at step 6."""
    folders = {}
    for name, how in {"joint": JOINT, "frozen": FROZEN}.items():
        folders[name] = tmp_path_factory.mktemp(name)
        keeping = Checkpoints(folders[name], every=6)
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit(build(how, seed=0), checkpoints=keeping)
        (folders[name] / "step-00000008.safetensors").unlink()
    return folders


def in_model(**options) -> MaskingTrainer:
    """The trainer of build() around a model that is made in another way."""
    trainer = build(seed=0)
    options = {"sampler": trainer.model.sampler} | options
    model = MaskingModel(cnn(dropout=0.1), **options)
    parts = {"pool": trainer.pool, "infill": trainer.infill, "lr": 0.01}
    return MaskingTrainer(model, train_classifier=JOINT, **parts)


def other_layers_frozen() -> MaskingTrainer:
    classifier = cnn(dropout=0.1)
    classifier[0].requires_grad_(False)
    return build(seed=0, classifier=classifier)


def wider() -> torch.nn.Module:
    classifier = cnn(dropout=0.1)
    classifier[9] = torch.nn.Linear(8, 5)
    return classifier


def deeper() -> torch.nn.Module:
    last = torch.nn.Linear(4, 4)
    torch.nn.init.eye_(last.weight)  # the same logits, so that the same masker is made
    torch.nn.init.zeros_(last.bias)
    return cnn(dropout=0.1).append(last)


TRAINERS = {
    "lr": (lambda: build(seed=0, lr=0.02), "lr: was 0.01, is 0.02"),
    "weight decay": (lambda: build(seed=0, weight_decay=0.5), "weight_decay: was 0.0001, is 0.5"),
    "schedule": (lambda: build(seed=0, schedule=StepLR), "schedule: was .*cosine.*StepLR"),
    "norm": (lambda: build(seed=0, max_gradient_norm=1.0), "max_gradient_norm: was 10.0, is 1.0"),
    "skipping": (lambda: build(seed=0, skip_not_finite=True), "skip_not_finite: was False, is T"),
    "pool": (lambda: build(seed=0, pool=Latest()), r"pool: was History\(size=2.*is Latest\(\)"),
    "pool's size": (lambda: build(seed=0, pool=History(size=3, every=2)), "pool: .*size=3"),
    "objective": (lambda: build(seed=0, objective=Dual(weight_out=9.0)), "objective: was .*9.0"),
    "regularizer": (lambda: build(seed=0, regularizer=smooth(Area(9.0))), "regularizer: was .*9.0"),
    "infill": (lambda: build(seed=0, infill=Mean()), r"infill: was Noise\(.*is Mean\("),
    "infill out": (lambda: build(seed=0, infill_out=Mean()), r"infill_out: was None, is Mean\("),
    "accumulation": (
        lambda: build(seed=0, accelerator=accumulating(2)),
        "accelerator: was None, is .*gradient_accumulation_steps=2",
    ),
    "frozen": (lambda: build(False, seed=0), r"train_classifier: was FineTune\(.*is False"),
    "classifier's lr": (
        lambda: build(FineTune(lr=0.06, masker_first=0.3), seed=0),
        r"train_classifier: was FineTune\(lr=0.05.*FineTune\(lr=0.06",
    ),
    "layers": (lambda: in_model(layers=["2"]), r"model: was .*'2', '5'.*is .*\('2',\)"),
    "sampler": (lambda: in_model(sampler=Sigmoid()), r"model: was .*Gumbel.*is .*Sigmoid\("),
    "upsample": (
        lambda: in_model(upsample=lambda maps, size: nearest(maps, size)),
        "upsample: was <function linear>, is <function .*<lambda> ",
    ),
    "stride": (lambda: in_model(stride=1), "model: was .*stride=None.*stride=1"),
    "masker": (
        lambda: in_model(layers=["2", "5"], masker=Masker([6, 8], width=5)),
        "model: was .*width=64.*is .*width=5",
    ),
    "classifier": (
        lambda: build(seed=0, classifier=wider()),
        r"same architecture .*2 tensors differ:\n  classifier.9.weight: was \(4, 8\), is \(5, 8\)",
    ),
    "deeper classifier": (
        lambda: build(seed=0, classifier=deeper()),
        r"same architecture .*classifier.10.weight: was absent, is \(4, 4\)",
    ),
    "frozen layers": (
        other_layers_frozen,
        "same layers to be trained .*2 tensors.*\n  classifier.0.weight: was trained, is frozen",
    ),
}


def infill_of(value: float):
    return lambda inputs, hole: torch.full_like(inputs, value)


def defined(body: str):
    """A function within a function, as of a script that somebody edits between two runs."""
    names: dict = {"torch": torch}
    exec(f"def make():\n    def fill(inputs, hole):\n        return {body}\n    return fill", names)
    return names["make"]()


FUNCTIONS = {
    "other code": (lambda: lambda inputs, _: 0 * inputs, lambda: lambda inputs, _: 1 - inputs),
    "another number": (lambda: lambda inputs, _: 0 * inputs, lambda: lambda inputs, _: 2 * inputs),
    "another value": (lambda: infill_of(0.0), lambda: infill_of(0.5)),
    "in a part": (lambda: partial(infill_of(0.0)), lambda: partial(infill_of(0.5))),
    "edited": (lambda: defined("0 * inputs"), lambda: defined("torch.ones_like(inputs)")),
}


@pytest.mark.parametrize(("was", "now"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_another_function_of_the_same_name_is_refused(was, now, tmp_path):
    fit(build(False, seed=0, infill=was()), epochs=1, checkpoints=tmp_path)
    fit(build(False, seed=0, infill=was()), epochs=1, resume=tmp_path)
    trainer = build(False, seed=0, infill=now())
    assert_refused(trainer, r"infill: was .*<function .*is .*<function", tmp_path, epochs=1)


def test_a_function_is_the_same_in_every_process():
    function = "lambda x, kind='a': x in {'some', 'words', 'in', 'a', 'set'}"
    code = f"from {setting.__module__} import setting; print(setting({function}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONHASHSEED": "1"},  # the set is in another order there
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == setting(eval(function)) != setting(lambda x: x)
    assert "<function <lambda> " in done.stdout


def assert_refused(trainer, words, folder, *arguments, **options) -> None:
    """The resume is an error with these words, and the trainer is as it was."""
    trainer.steps_done = 77
    before, pool = everything(trainer.model), trainer.pool.state_dict()
    optimizers = copy.deepcopy([optimizer.state_dict() for optimizer in trainer.optimizers])
    with pytest.raises(ValueError, match=f"(?s)expected .*{words}.*begin a new training"):
        fit(trainer, *arguments, resume=folder, **options)
    assert_same(before, everything(trainer.model))
    assert_same(pool, trainer.pool.state_dict())
    assert optimizers == [optimizer.state_dict() for optimizer in trainer.optimizers]
    assert trainer.steps_done == 77


@pytest.mark.parametrize(("make", "words"), TRAINERS.values(), ids=TRAINERS)
def test_another_trainer_is_refused_with_what_differs(make, words, interrupted):
    assert_refused(make(), words, interrupted["joint"])


CALLS = {
    "epochs": ({"epochs": 4}, "epochs: was 2, is 4"),
    "batch size": ({"batches": loader(batch_size=5)}, "batch_size: was 4, is 5"),
    "images": ({"batches": DataLoader(range(13), 4, shuffle=True)}, "images: was 14, is 13"),
    "order": ({"batches": loader(shuffle=False)}, "sampler: was RandomS.*, is SequentialS"),
    "length": ({"batches": [1, 2, 3]}, "batches in an epoch: was 4, is 3"),
    "cut": ({"steps_per_epoch": 2}, "batches in an epoch: was 4, is 2"),
    "validation": ({"validation": None}, "validation: was True, is False"),
    "keep": ({"keep": KeepLatest()}, r"callbacks: was .*KeepBest\(.*is .*KeepLatest\(\)"),
    "callbacks": ({"extra": [StopAfter(9)]}, r"callbacks: was .*'EarlyS.*'AdaptiveArea', 'StopA"),
}


@pytest.mark.parametrize(("options", "words"), CALLS.values(), ids=CALLS)
def test_another_call_of_fit_is_refused_with_what_differs(options, words, interrupted):
    assert_refused(build(seed=0), words, interrupted["joint"], **options)


def test_lists_of_another_length_and_streams_of_other_workers_are_refused(tmp_path):
    batch = torch.rand(4, 3, 16, 16), torch.arange(4)
    fit(build(seed=0), [batch, batch], epochs=1, checkpoints=tmp_path / "list")
    words = "batches in an epoch: was 2, is 3"
    assert_refused(build(seed=0), words, tmp_path / "list", [batch] * 3, epochs=1)
    fit(build(seed=0), DataLoader(Stream(), 4), epochs=1, checkpoints=tmp_path / "stream")
    other = DataLoader(Stream(), 4, num_workers=1)
    words = "num_workers: was 0, is 1"
    assert_refused(build(seed=0), words, tmp_path / "stream", other, epochs=1)


def test_every_difference_is_named_at_once(interrupted):
    trainer = build(seed=0, lr=0.02, pool=Latest())
    words = "2 differ:\n  pool: was .*\n  lr: was .*\nMake the trainer"
    assert_refused(trainer, words, interrupted["joint"])


def test_a_frozen_classifier_is_never_overwritten_by_another_one(interrupted):
    trainer = build(False, seed=0, classifier=cnn(dropout=0.1, seed=1))
    words = "the frozen classifier .* 6 tensors .*:\n  classifier.0.weight\n.*  and 2 more"
    assert_refused(trainer, words, interrupted["frozen"])


def test_after_a_refusal_the_right_trainer_goes_on(interrupted):
    reference = build(seed=0)
    reference = reference, fit(reference)
    with pytest.raises(ValueError, match="lr: was"):
        fit(build(seed=3, lr=0.5), resume=interrupted["joint"])
    trainer = build(seed=4)
    records = fit(trainer, resume=interrupted["joint"])
    assert_same_training(reference, (trainer, records))


# States alone: for a loop of one's own

POOLS = [
    Latest,
    lambda: History(every=None, past=1.0),
    lambda: History(every=None),
    lambda: History(size=2, every=2),
]
POOL_NAMES = ["latest", "first", "first-last", "history"]


@pytest.mark.parametrize("pool", POOLS, ids=POOL_NAMES)
@pytest.mark.parametrize(
    "how", [False, FineTune(lr=0.1, masker_first=0.0)], ids=["frozen", "joint"]
)
def test_a_loop_of_steps_taken_up_again_equals_one_that_never_stopped(
    pool, how, images, labels, tmp_path
):
    trainer = build(how, seed=0, pool=pool())
    for _ in range(7):
        trainer.step(images, labels)
    torch.save(training_state(trainer), tmp_path / "training.pt")
    for _ in range(7):
        trainer.step(images, labels)

    again = build(how, seed=1, pool=pool())
    load_training_state(again, torch.load(tmp_path / "training.pt", weights_only=True))
    for _ in range(7):
        again.step(images, labels)
    assert_same_training((trainer, []), (again, []))


def test_a_state_does_not_move_with_the_training_it_was_taken_from(images, labels):
    trainer = build(seed=0)
    trainer.step(images, labels)
    state = training_state(trainer)
    before = copy.deepcopy(state["model"])
    trainer.step(images, labels)
    assert_same(before, state["model"])
    assert any(not torch.equal(v, before[k]) for k, v in trainer.model.state_dict().items())


def test_a_state_is_taken_between_updates_only(images, labels):
    trainer = build(seed=0, accelerator=accumulating(2))
    trainer.step(images, labels)
    with pytest.raises(RuntimeError, match="gradients of 1 of 2 batches are waiting"):
        training_state(trainer)
    trainer.step(images, labels)
    training_state(trainer)


def test_a_state_of_another_torch_is_warned_of():
    state = training_state(build(seed=0)) | {"torch": "1.0"}
    with pytest.warns(UserWarning, match=r"begun under torch 1\.0 and goes on under"):
        load_training_state(build(seed=1), state)


def test_a_state_of_another_kind_of_training_is_refused():
    joint, frozen = build(JOINT, seed=0), build(False, seed=1)
    before = everything(frozen.model)
    with pytest.raises(ValueError, match=r"train_classifier: was FineTune\(.*, is False"):
        load_training_state(frozen, training_state(joint))
    assert_same(before, everything(frozen.model))
