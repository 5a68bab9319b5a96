"""Every fault of the pages on trouble and training: what comes out, what is left, what goes on.

After a fault the newest checkpoint leads to the very weights of a training that had none, and the
user's model has its modes, flags and hooks back, and no gradient more than before.
"""

from __future__ import annotations

import csv
import errno
import gc
import math
import os
import pickle
import re
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import safetensors.torch
import torch
from networks import assert_same, cnn, everything, mixed_modes
from safetensors import SafetensorError
from test_checkpoint import killed_before
from test_checkpoint_training import Malicious, forge_format
from test_resume import Augmented, assert_same_training, build, fit, still
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from captum_masking import FineTune, FromScratch, MaskingModel, MaskingTrainer
from captum_masking.model.files import CheckpointError
from captum_masking.training.callbacks import Callback, CSVLog, KeepBest, Measure, _write_csv
from captum_masking.training.checkpoint import Checkpoints

AT = 6  # the step of the fault, in the middle of the second of two epochs of four steps
CALL = AT + 2 * 2  # of the parts of a trainer until then, with two validations of two batches

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a process to be copied")
pytestmark = [
    pytest.mark.filterwarnings("ignore:the masker has collapsed:UserWarning"),
    pytest.mark.filterwarnings("ignore:the classifier has lost accuracy:UserWarning"),
    pytest.mark.filterwarnings("ignore:masks have been nearly all:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]


class Watched(Callback):
    """Does something after a step, or after an epoch; the same kind of callback does nothing."""

    def __init__(self, action: Callable | None = None, *, after_epoch: bool = False) -> None:
        self.action, self.after_epoch = action, after_epoch

    def on_step(self, trainer, record) -> None:
        if self.action is not None and not self.after_epoch and trainer.steps_done == AT:
            self.action()

    def on_epoch(self, trainer, record) -> None:
        if self.action is not None and self.after_epoch:
            self.action()


class During:
    """A part that does something at its n-th call; it prints as the part, for the settings."""

    def __init__(self, part, action: Callable, call: int = CALL) -> None:
        self.part, self.action, self.call, self.calls = part, action, call, 0

    def __call__(self, *arguments):
        self.calls += 1
        result = self.part(*arguments)
        return self.action(result) if self.calls == self.call else result

    def __repr__(self) -> str:
        return repr(self.part)


class Breaking(Augmented):
    """The same pictures; something happens when a certain one is read for the second time."""

    def __init__(self, action: Callable) -> None:
        self.action, self.seen = action, torch.zeros((), dtype=torch.int64).share_memory_()

    def __getitem__(self, index: int):
        self.seen += index == 5
        if index == 5 and self.seen == 2:
            self.action()
        return super().__getitem__(index)


def breaks() -> None:
    raise ArithmeticError("broken by a test")


def sent(*numbers: int) -> Callable:
    def send(result=None):
        for number in numbers:
            signal.raise_signal(number)
        return result

    return send


def borrowed() -> torch.nn.Module:
    """A classifier of mixed modes and frozen parts, one of which has a gradient: as a user's."""
    classifier = mixed_modes(cnn(dropout=0.1))
    classifier[1].weight.grad = torch.ones(6)
    assert not classifier[1].weight.requires_grad or not classifier[1].bias.requires_grad
    return classifier


def made(seed: int, **options) -> MaskingTrainer:
    return build(seed=seed, classifier=borrowed(), **options)


@pytest.fixture(scope="module")
def unharmed() -> tuple:
    """What a training without a fault ends with."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = made(0)
        return trainer, fit(trainer, extra=[Watched()])


@contextmanager
def given_back(trainer: MaskingTrainer):
    """Hold a fault to giving back what it borrowed."""
    kinds = ("modes", "flags", "hooks")
    before, handlers = everything(trainer.model), handlers_of_signals()
    rates = [group["lr"] for o in trainer.optimizers for group in o.param_groups]
    yield
    after = everything(trainer.model)
    assert all(after[kind] == before[kind] for kind in kinds)
    for name, gradient in before["gradients"].items():
        if after["gradients"][name] is not None:  # those of trained parameters are gone
            assert_same(gradient, after["gradients"][name])
    assert rates == [group["lr"] for o in trainer.optimizers for group in o.param_groups]
    assert handlers_of_signals() == handlers


def handlers_of_signals() -> list:
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def notes(error: BaseException) -> str:
    return "\n".join(error.__notes__)


def assert_goes_on(unharmed, folder: Path, step: int) -> None:
    """The newest checkpoint is that of a step, and leads to where one without faults ends."""
    assert Checkpoints(folder).latest()["trainer"]["steps_done"] == step
    trainer = made(99)
    assert_same_training(unharmed, (trainer, fit(trainer, extra=[Watched()], resume=folder)))


def assert_survives(
    unharmed, folder, trainer, error, words, *, saved, batches=None, extra=None, every=1, **options
) -> BaseException:
    """A training ends by an error that says from where to go on, and goes on from there."""
    keeping = Checkpoints(folder, every=every)
    with given_back(trainer), pytest.raises(error, match=words) as caught:
        extra = [Watched()] if extra is None else extra
        fit(trainer, batches, extra=extra, checkpoints=keeping, **options)
    assert f"Resume from step {saved} with fit(..., resume='{folder}')" in notes(caught.value)
    assert_goes_on(unharmed, folder, saved)
    return caught.value


# Signals


def test_ctrl_c_waits_for_the_step_to_end_and_saves_it(unharmed, tmp_path):
    trainer = made(0)
    trainer.objective = During(trainer.objective, sent(signal.SIGINT))
    assert_survives(unharmed, tmp_path, trainer, KeyboardInterrupt, None, saved=AT, every=100)


def test_a_second_ctrl_c_acts_at_once(unharmed, tmp_path):
    trainer = made(0)
    trainer.objective = During(trainer.objective, sent(signal.SIGINT, signal.SIGINT))
    assert_survives(unharmed, tmp_path, trainer, KeyboardInterrupt, None, saved=AT - 2, every=2)
    assert trainer.steps_done == AT - 1


def test_ctrl_c_during_validation_saves_the_epoch(unharmed, tmp_path):
    class Interrupted(TensorDataset):
        """What is validated on; six images are read before training, the seventh after an epoch."""

        read = During(lambda: None, sent(signal.SIGINT), call=7)

        def __getitem__(self, index):
            self.read()
            return super().__getitem__(index)

    validation = DataLoader(Interrupted(*still().dataset.tensors), batch_size=4)
    options = {"validation": validation, "every": 100}
    assert_survives(unharmed, tmp_path, made(0), KeyboardInterrupt, None, saved=4, **options)


def test_ctrl_c_without_checkpoints_acts_at_once_and_says_how_to_have_some(images, labels):
    trainer = made(0)
    trainer.objective = During(trainer.objective, sent(signal.SIGINT), call=2)
    with given_back(trainer), pytest.raises(KeyboardInterrupt) as caught:
        trainer.fit([(images, labels)] * 3, show_progress=False)
    assert "step 1" in notes(caught.value) and "Checkpoints(folder)" in notes(caught.value)


@needs_fork
def test_ctrl_c_that_ends_the_workers_too_saves_and_is_no_other_error(
    unharmed, tmp_path, monkeypatch
):
    # A terminal sends Ctrl-C to every process of the group; a worker that is started afresh ends.
    def both():
        time.sleep(0.3)  # until the step is done, and the training waits for the next batch
        os.kill(os.getppid(), signal.SIGINT)
        os._exit(0)

    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.1)
    batches = DataLoader(Breaking(both), batch_size=4, shuffle=True, num_workers=1)
    caught = pytest.raises(KeyboardInterrupt)
    with caught as error, given_back(trainer := made(0)):
        fit(trainer, batches, extra=[Watched()], checkpoints=Checkpoints(tmp_path, every=100))
    assert f"Resume from step {trainer.steps_done} with" in notes(error.value)
    assert 4 <= trainer.steps_done < 8
    assert_goes_on(unharmed, tmp_path, trainer.steps_done)


def test_a_worker_that_dies_of_ctrl_c_in_the_middle_of_a_step_is_no_other_error(unharmed, tmp_path):
    def died(loss):
        signal.raise_signal(signal.SIGINT)
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Interrupt. ")

    trainer = made(0)
    trainer.objective = During(trainer.objective, died)
    assert_survives(unharmed, tmp_path, trainer, KeyboardInterrupt, None, saved=AT - 1)


@needs_fork
def test_sigterm_ends_the_process_after_the_step_is_saved(unharmed, tmp_path):
    process = os.fork()
    if process == 0:
        try:
            trainer = made(0)
            trainer.objective = During(trainer.objective, sent(signal.SIGTERM))
            fit(trainer, extra=[Watched()], checkpoints=Checkpoints(tmp_path, every=100))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGTERM
    assert_goes_on(unharmed, tmp_path, AT)


# Errors in what the user brings


@pytest.mark.parametrize("after_epoch", [False, True], ids=["a step", "an epoch"])
def test_an_exception_in_a_callback_comes_out_as_it_is(unharmed, tmp_path, after_epoch):
    extra = [Watched(breaks, after_epoch=after_epoch)]
    saved = 4 if after_epoch else AT - 1
    words = "broken by a test"
    options = {"saved": saved, "extra": extra}
    assert_survives(unharmed, tmp_path, made(0), ArithmeticError, words, **options)


@needs_fork
@pytest.mark.parametrize("workers", [0, 1])
def test_an_exception_in_the_data_set_comes_out_with_its_place(unharmed, tmp_path, workers):
    batches = DataLoader(Breaking(breaks), batch_size=4, shuffle=True, num_workers=workers)
    with given_back(trainer := made(0)), pytest.raises(ArithmeticError, match="broken") as caught:
        keeping = Checkpoints(tmp_path, every=1)
        fit(trainer, batches, extra=[Watched()], checkpoints=keeping)
    # What happens in another process comes as text.
    assert "in breaks" in (str(caught.value) if workers else str(caught.traceback[-1]))
    assert f"Resume from step {trainer.steps_done} with" in notes(caught.value)
    assert_goes_on(unharmed, tmp_path, trainer.steps_done)


@needs_fork
def test_a_worker_that_is_killed_is_an_error_that_says_what_to_do(unharmed, tmp_path):
    def killed():
        os.kill(os.getpid(), signal.SIGKILL)

    batches = DataLoader(Breaking(killed), batch_size=4, shuffle=True, num_workers=1)
    words = "DataLoader worker .* (killed by signal: Killed|exited unexpectedly)"
    with given_back(trainer := made(0)):
        with pytest.raises(RuntimeError, match=words) as caught:
            fit(trainer, batches, extra=[Watched()], checkpoints=Checkpoints(tmp_path, every=1))
        said = notes(caught.value)
        del caught, batches  # the loader's last signal could otherwise come at any time from here
        gc.collect()
    assert "want of memory" in said and "num_workers" in said and "Resume from step" in said
    assert_goes_on(unharmed, tmp_path, Checkpoints(tmp_path).steps()[-1])


# Numbers


def nan(loss):
    return loss * math.nan


def nan_gradient(loss):
    return loss + (loss - loss).sqrt()  # 0, and its slope is 0 times infinity


BROKEN_LOSSES = [(nan, "the loss must be finite"), (nan_gradient, "the gradient's norm must be")]


@pytest.mark.parametrize(("broken", "words"), BROKEN_LOSSES, ids=["loss", "gradient"])
def test_nan_stops_the_training_before_any_weight_has_it(unharmed, tmp_path, broken, words):
    trainer = made(0)
    trainer.objective = During(trainer.objective, broken)
    words += " finite.*lower the learning rate" if "norm" in words else ".*lower the learning rate"
    assert_survives(unharmed, tmp_path, trainer, ValueError, words, saved=AT - 1)
    assert all(bool(p.isfinite().all()) for p in trainer.model.state_dict().values())


class Look(Callback):
    """Notes the steps after which no weight has moved, and those that say they were skipped."""

    def __init__(self, model) -> None:
        self.model, self.before = model, [p.clone() for p in model.parameters()]
        self.stayed: list[int] = []
        self.skipped: list[int] = []

    def on_step(self, trainer, record) -> None:
        now = [parameter.detach().clone() for parameter in self.model.parameters()]
        self.stayed += [trainer.steps_done] * all(map(torch.equal, now, self.before))
        self.skipped += [trainer.steps_done] * ("skipped" in record)
        self.before = now


@pytest.mark.parametrize("how", [False, FineTune(masker_first=0.0)], ids=["frozen", "joint"])
@pytest.mark.parametrize("broken", [nan, nan_gradient], ids=["loss", "gradient"])
def test_nan_is_skipped_and_counted_where_that_is_asked_for(images, labels, broken, how, tmp_path):
    model, log = MaskingModel(cnn()), tmp_path / "log.csv"
    trainer = MaskingTrainer(model, train_classifier=how, skip_not_finite=True)
    trainer.objective = During(During(trainer.objective, broken, 2), broken, 5)
    look, batches = Look(model), [(images, labels)] * 4
    records = trainer.fit(
        batches, 3, callbacks=[look, CSVLog(log)], show_progress=False, check_accuracy=False
    )
    assert look.stayed == look.skipped == [2, 5]
    assert [record.get("skipped") for record in records] == [1.0, 1.0, None]
    assert all(math.isfinite(value) for record in records for value in record.values())
    assert [row["skipped"] for row in csv.DictReader(log.open())] == ["1.0", "1.0", "nan"]


@pytest.mark.parametrize("value", [math.inf, math.nan], ids=["infinite", "nan"])
def test_inputs_that_are_not_finite_are_refused_by_their_place(unharmed, tmp_path, value):
    class Bad(Augmented):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return image.index_fill(0, torch.tensor(0), value) if index == 5 else image, label

    batches = DataLoader(Bad(), batch_size=4, shuffle=True)
    with given_back(trainer := made(0)), pytest.raises(ValueError) as caught:
        fit(trainer, batches, extra=[Watched()], checkpoints=Checkpoints(tmp_path, every=1))
    assert re.search(r"inputs must be finite.*256 of 3072 .*examples \[\d\]", str(caught.value))
    assert "remove or repair these examples" in str(caught.value)
    if trainer.steps_done:
        assert_goes_on(unharmed, tmp_path, trainer.steps_done)


def test_a_step_that_does_not_fit_into_memory_says_which_setting_to_lower(unharmed, tmp_path):
    class Full(torch.nn.Module):
        runs = 0

        def forward(self, inputs):
            Full.runs += 1
            if Full.runs == 20:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            return inputs

    trainer = made(0)
    trainer.model.classifier[2].register_forward_pre_hook(lambda _, inputs: Full()(*inputs))
    keeping = Checkpoints(tmp_path, every=1)
    words = "CUDA out of memory"
    with given_back(trainer), pytest.raises(torch.cuda.OutOfMemoryError, match=words) as caught:
        fit(trainer, extra=[Watched()], checkpoints=keeping)
    assert "Lower the batch size of the loader first" in notes(caught.value)
    assert "gradient_accumulation_steps" in notes(caught.value)
    assert 1 < trainer.steps_done < 8
    assert_goes_on(unharmed, tmp_path, trainer.steps_done)


# Disks


def half_written(tensors, file, **_):
    Path(file).write_bytes(b"half")
    raise SafetensorError("Error while serializing: I/O error: No space left (os error 28)")


def test_a_full_disk_is_one_error_in_words_and_costs_one_checkpoint(
    unharmed, tmp_path, monkeypatch
):
    real, saves = safetensors.torch.save_file, []

    def full_at_the_fourth(tensors, file, **options):
        saves.append(file)
        (half_written if len(saves) == 4 else real)(tensors, file, **options)

    monkeypatch.setattr(safetensors.torch, "save_file", full_at_the_fourth)
    words = r"could not save .*step-00000004.\w+: No space left .* MiB free.*free some space"
    error = assert_survives(unharmed, tmp_path, made(0), OSError, words, saved=3)
    assert error.errno == errno.ENOSPC
    assert [name for name in os.listdir(tmp_path) if name.startswith(".")] == []


@pytest.mark.parametrize("existing", [True, False], ids=["a folder", "a folder to be made"])
def test_a_folder_that_cannot_be_written_is_refused_before_the_first_step(
    tmp_path, monkeypatch, existing
):
    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(*((tempfile, "TemporaryFile") if existing else (os, "mkdir")), read_only)
    folder = tmp_path if existing else tmp_path / "new"
    trainer = made(0)
    with given_back(trainer), pytest.raises(OSError, match="cannot be written to .*: Read-only"):
        fit(trainer, checkpoints=folder)
    assert trainer.steps_done == 0


def test_a_log_that_cannot_be_written_is_warned_of_and_costs_nothing(
    unharmed, tmp_path, monkeypatch
):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    trainer, log = made(0), tmp_path / "log.csv"
    with monkeypatch.context() as patch:
        patch.setattr(csv.DictWriter, "writerows", full)
        with pytest.warns(UserWarning, match="could not write the log .*log.csv: No space left"):
            records = fit(trainer, extra=[Watched(), CSVLog(log)])
    assert_same_training(unharmed, (trainer, records))


@needs_fork
def test_a_log_is_whole_whenever_the_process_is_killed(tmp_path):
    log, records = tmp_path / "log.csv", [{"epoch": 1.0, "area": 0.5}, {"epoch": 2.0, "area": 0.4}]
    _write_csv(records[:1], log)
    before, call, died = log.read_text(), 0, True
    while died:
        died = killed_before(call, lambda: _write_csv(records, log))
        whole = list(csv.DictReader(log.open()))
        assert log.read_text() == before or [row["area"] for row in whole] == ["0.5", "0.4"]
        call += 1
    assert call >= 2 and len(whole) == 2 and os.listdir(tmp_path) == ["log.csv"]


@needs_fork
def test_a_training_killed_in_the_middle_of_its_saves_ends_as_if_never_killed(unharmed, tmp_path):
    # Each time it gets a little further than one save: to its files, between them, to the renames.
    def go():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            keeping = Checkpoints(tmp_path, every=1, keep=1)
            fit(made(0), extra=[Watched()], checkpoints=keeping, resume=tmp_path)

    deaths = 0
    while killed_before(9 + deaths, go):
        deaths += 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # nothing is damaged
            if Checkpoints(tmp_path).steps():
                Checkpoints(tmp_path).latest()
        assert deaths < 30
    assert deaths > 3
    assert_goes_on(unharmed, tmp_path, 8)


# Checkpoints that are not what they should be


def flip(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)


def unpickles(file: Path) -> None:
    with file.open("wb") as stream:
        pickle.dump(Malicious(file.parents[1] / "marker"), stream)


DAMAGES = {
    "a flipped bit": flip,
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "empty": lambda file: file.write_bytes(b""),
    "lost": Path.unlink,
    "a malicious pickle": unpickles,
    "a newer format": lambda file: forge_format(file, 3),
}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """A training that was stopped at step 6, with the checkpoints of steps 2, 4 and 6."""
    folder = tmp_path_factory.mktemp("stopped")
    with torch.random.fork_rng(), warnings.catch_warnings(), pytest.raises(KeyboardInterrupt):
        warnings.simplefilter("ignore")
        extra = [Watched(sent(signal.SIGINT))]
        fit(made(0), extra=extra, checkpoints=Checkpoints(folder, every=2))
    return folder


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to / "run"))


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_checkpoint_that_was_damaged_is_named_and_the_one_before_it_is_read(
    stopped, tmp_path, damage
):
    folder = copied(stopped, tmp_path)
    damage(folder / "step-00000006.safetensors")
    warned = pytest.warns(UserWarning, match="skipping a damaged checkpoint: .*step-00000006.safe")
    with nullcontext() if damage is Path.unlink else warned:
        state = Checkpoints(folder).latest()
    assert state["trainer"]["steps_done"] == 4
    assert not (tmp_path / "marker").exists()


@pytest.mark.filterwarnings("ignore:skipping a damaged checkpoint:UserWarning")
def test_from_the_one_before_a_damaged_checkpoint_it_goes_on_as_if_never_stopped(
    unharmed, stopped, tmp_path
):
    folder = copied(stopped, tmp_path)
    flip(folder / "step-00000006.safetensors")
    assert_goes_on(unharmed, folder, 4)


@pytest.mark.filterwarnings("ignore:skipping a damaged checkpoint:UserWarning")
@pytest.mark.parametrize(
    "damage", [damage for damage in DAMAGES.values() if damage is not Path.unlink]
)
def test_if_all_checkpoints_are_damaged_nothing_is_begun_and_nothing_lost(
    stopped, tmp_path, damage
):
    folder = copied(stopped, tmp_path)
    for step in (2, 4, 6):
        damage(folder / f"step-{step:08d}.safetensors")
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    trainer = made(0)
    with given_back(trainer), pytest.raises(CheckpointError, match="no checkpoint that can be"):
        fit(trainer, extra=[Watched()], resume=folder, checkpoints=folder)
    assert before == {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert not (tmp_path / "marker").exists()


def test_a_folder_with_another_training_is_refused_before_the_first_step(stopped):
    trainer = made(0)
    before = os.listdir(stopped)
    words = r"holds checkpoints up to step 6; go on from there with fit\(..., resume=.*or give ano"
    with given_back(trainer), pytest.raises(FileExistsError, match=words):
        fit(trainer, extra=[Watched()], checkpoints=stopped)
    assert trainer.steps_done == 0 and os.listdir(stopped) == before


# Data


class Ending(IterableDataset):
    """A stream that can be read once, or never."""

    def __init__(self, times: int) -> None:
        self.times = times

    def __iter__(self):
        self.times -= 1
        yield from [Augmented()[i] for i in range(8)] if self.times >= 0 else []


@pytest.mark.parametrize("times", [0, 1])
def test_a_stream_that_gives_nothing_any_more_is_an_error(tmp_path, times):
    trainer = made(0)
    with given_back(trainer), pytest.raises(ValueError, match="loader gave none") as caught:
        fit(trainer, DataLoader(Ending(times), batch_size=4), checkpoints=tmp_path)
    assert f"in epoch {times + 1} of 2" in notes(caught.value)
    assert Checkpoints(tmp_path).steps() == ([2] if times else [])


def with_label(label):
    class Odd(Augmented):
        def __getitem__(self, index):
            image, own = super().__getitem__(index)
            return (image, label) if index == 5 else (image, own)

    return Odd()


def test_a_label_out_of_range_is_refused_with_the_range(tmp_path):
    batches = DataLoader(with_label(9), batch_size=4)
    trainer = made(0)
    with given_back(trainer), pytest.raises(ValueError, match=r"0\.\.3 .*4 logits.*9") as caught:
        fit(trainer, batches, checkpoints=Checkpoints(tmp_path, every=1))
    assert "Resume from step 1 with" in notes(caught.value)
    assert Checkpoints(tmp_path).latest()["trainer"]["steps_done"] == 1


@pytest.mark.parametrize("batch", [torch.zeros(4, 3, 16, 16), {"image": torch.zeros(4, 3, 16, 16)}])
def test_a_batch_without_labels_is_refused_with_what_it_should_be(images, labels, batch, tmp_path):
    trainer = made(0)
    batches = [(images, labels), batch]
    with given_back(trainer), pytest.raises(TypeError, match=r"must give pairs \(inputs, labels"):
        fit(trainer, batches, checkpoints=Checkpoints(tmp_path, every=1))
    assert Checkpoints(tmp_path).latest()["trainer"]["steps_done"] == 1


def test_a_last_batch_of_one_example_trains_where_its_maps_have_more_than_one_cell(images, labels):
    batches = DataLoader(TensorDataset(images, labels), batch_size=5)
    trainer = build(FromScratch(), seed=0)
    records = fit(trainer, batches, epochs=1)
    assert trainer.steps_done == 2 and math.isfinite(records[0]["loss"])


def test_a_batch_norm_with_one_value_to_learn_from_says_to_drop_the_last_batch(labels, tmp_path):
    batches = DataLoader(TensorDataset(torch.randn(5, 3, 4, 4), labels[:5]), batch_size=4)
    trainer = build(FromScratch(), seed=0)
    with given_back(trainer), pytest.raises(ValueError, match="more than 1 value") as caught:
        fit(trainer, batches, validation=None, checkpoints=Checkpoints(tmp_path, every=1))
    assert "drop_last=True" in notes(caught.value)
    assert "Resume from step 1 with" in notes(caught.value)


def test_an_infinite_figure_of_validation_neither_stops_nor_is_chosen():
    def figure(model, inputs, target, mask):
        return {"odd": torch.tensor(math.nan if trainer.epochs_done else 1.0)}

    trainer = made(0)
    records = fit(trainer, extra=[Measure(figure)], keep=KeepBest("val_odd"), validation=still())
    assert [math.isnan(record["val_odd"]) for record in records] == [False, True]


# The table
