"""One call of fit: what is called and saved when, and who is heard that wants it to end."""

from __future__ import annotations

import math
import os
import signal
import threading
import warnings

import pytest
import torch
from networks import cnn, same_weights
from test_resume import Stream, accumulating, build, fit, without_time
from torch.utils.data import DataLoader

from captum_masking import FineTune, FromScratch, MaskingModel, MaskingTrainer
from captum_masking.training.callbacks import Callback, KeepBest, Measure
from captum_masking.training.checkpoint import Checkpoints, Signals, causes_in_words, check_writable
from captum_masking.training.records import Records

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a process to be copied")
pytestmark = [
    pytest.mark.filterwarnings("ignore:the masker has collapsed:UserWarning"),
    pytest.mark.filterwarnings("ignore:the classifier has lost accuracy:UserWarning"),
    pytest.mark.filterwarnings("ignore:masks have been nearly all:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]


class At(Callback):
    """Does something after a step, or at the end if the step is None."""

    def __init__(self, step: int | None, action) -> None:
        self.step, self.action = step, action

    def on_step(self, trainer, record) -> None:
        if trainer.steps_done == self.step:
            self.action()

    def on_end(self, trainer, records) -> None:
        if self.step is None:
            self.action()


class Journal(Callback):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def on_start(self, trainer) -> None:
        self.lines.append("start")

    def on_step(self, trainer, record) -> None:
        self.lines.append(f"step {trainer.steps_done}")

    def on_epoch(self, trainer, record) -> None:
        self.lines.append(f"epoch {trainer.epochs_done}")

    def on_end(self, trainer, records) -> None:
        self.lines.append(f"end, {len(records)} records")


# The loop


def test_callbacks_are_called_in_order_at_their_moments(images, labels):
    journal = Journal()
    fit(build(seed=0), [(images, labels)] * 2, extra=[journal])
    steps = ["step 1", "step 2", "epoch 1", "step 3", "step 4", "epoch 2"]
    assert journal.lines == ["start", *steps, "end, 2 records"]


def test_a_callback_may_end_the_training_after_any_step(images, labels):
    class End(Callback):
        def on_step(self, trainer, record) -> None:
            trainer.stopping = "enough" if trainer.steps_done == 3 else None

    journal, trainer = Journal(), build(seed=0)
    records = fit(trainer, [(images, labels)] * 2, epochs=9, extra=[End(), journal])
    assert journal.lines[-4:] == ["epoch 1", "step 3", "epoch 2", "end, 2 records"]
    assert trainer.stopping == "enough" and len(records) == 2 and "val_clean" in records[1]


def test_every_call_counts_from_zero(images, labels):
    trainer = build(seed=0)
    for _ in range(2):
        fit(trainer, [(images, labels)] * 3, epochs=1)
        assert (trainer.steps_done, trainer.epochs_done, trainer.stopping) == (3, 1, None)


def test_what_callbacks_draw_at_the_start_does_not_move_the_training():
    class Drawing(Callback):
        def on_start(self, trainer) -> None:
            torch.rand(1000)

    one = build(seed=0)
    records = fit(one, extra=[Callback()])
    other = build(seed=0)
    assert without_time(fit(other, extra=[Drawing()])) == without_time(records)
    assert same_weights(one.model, other.model)


def test_the_state_that_is_chosen_is_the_one_left_in_the_model(images, labels):
    seen = []

    class Weights(Callback):
        def on_epoch(self, trainer, record) -> None:
            seen.append(trainer.model.masker.masker.final.bias.clone())

    trainer = build(seed=0)
    odd = Measure(lambda *batch: {"odd": torch.tensor([1.0, 5.0, 2.0][trainer.epochs_done])})
    keep = KeepBest("val_odd", higher_is_better=True)
    fit(trainer, [(images, labels)], epochs=3, keep=keep, extra=[odd, Weights()])
    assert torch.equal(trainer.model.masker.masker.final.bias, seen[1])


# Learning rates


class Rates(Callback):
    """Notes the learning rates that each step was taken with."""

    def __init__(self) -> None:
        self.of_next: list[float] = []
        self.seen: list[list[float]] = []

    def on_start(self, trainer) -> None:
        self.of_next = self._now(trainer)

    def on_step(self, trainer, record) -> None:
        self.seen.append(self.of_next)
        self.of_next = self._now(trainer)

    def on_epoch(self, trainer, record) -> None:
        self.of_next = self._now(trainer)

    def _now(self, trainer) -> list[float]:
        return [o.param_groups[0]["lr"] for o in (trainer.masker_optimizer, trainer.optimizers[-1])]


def rates(how, batches, *, lr=1.0) -> list[list[float]]:
    noted = Rates()
    trainer = MaskingTrainer(MaskingModel(cnn()), train_classifier=how, lr=lr)
    trainer.fit(batches, 2, callbacks=[noted], show_progress=False, check_accuracy=False)
    return [list(column) for column in zip(*noted.seen, strict=True)]


def cosine_of(*fractions: float) -> list[float]:
    return [0.5 * (1 + math.cos(math.pi * fraction)) for fraction in fractions]


def test_the_rates_of_the_masker_begin_anew_where_the_classifier_joins_it(images, labels):
    # Eight steps, of which the classifier learns in the last four; a warm-up is one step.
    how = FineTune(lr=1.0, masker_first=0.5, optimizer=torch.optim.SGD)
    masker, classifier = rates(how, [(images, labels)] * 4)
    four = [1.0, *cosine_of(0, 1 / 3, 2 / 3)]
    assert masker == pytest.approx(four + four)
    assert classifier[4:] == pytest.approx(four)


@pytest.mark.parametrize(
    ("how", "masker", "classifier"),
    [
        (FineTune(), [5, 5], [5]),
        (FineTune(masker_first=0.25), [3, 7], [7]),  # its first step at or after a quarter
        (FineTune(masker_first=0.0), [10], [10]),
        (FineTune(masker_first=1.0), [10], [0]),
        (FromScratch(), [7], [10]),
        (FineTune(classifier_first=0.2, masker_first=0.6), [4, 4], [2, 4]),
        (FineTune(classifier_first=1.0), [0], [10]),
    ],
    ids=repr,
)
def test_networks_have_a_schedule_for_each_part_in_which_they_learn(how, masker, classifier):
    trainer = MaskingTrainer(MaskingModel(cnn()), train_classifier=how)
    assert list(trainer.parts_of_each(10).values()) == [masker, classifier]


def test_a_classifier_that_was_good_judges_alone_until_it_has_learned_for_a_thousand_steps():
    trainer = MaskingTrainer(MaskingModel(cnn()))
    pool, classifier = trainer.pool, trainer.model.classifier
    for _ in range(1000):
        pool.add(classifier)
        assert pool.draw() is classifier
    for _ in range(20):
        pool.add(classifier)
    assert any(pool.draw() is not classifier for _ in range(20))


def test_after_its_first_epoch_the_rates_of_a_stream_are_those_of_a_known_length():
    # The first epoch rises along a line over 100 steps; then its four batches are counted.
    how = FineTune(lr=1.0, masker_first=0.5, optimizer=torch.optim.SGD)
    masker, classifier = rates(how, DataLoader(Stream(), batch_size=4))
    assert masker[:4] == pytest.approx([0.01, 0.02, 0.03, 0.04])
    assert masker[4:] == classifier[4:] == pytest.approx([1.0, *cosine_of(0, 1 / 3, 2 / 3)])


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (False, [{"masker_steps": 4.0}, {"masker_steps": 8.0}]),
        (
            FineTune(masker_first=0.25),
            [
                {"masker_steps": 4.0, "classifier_steps": 2.0},
                {"masker_steps": 8.0, "classifier_steps": 6.0},
            ],
        ),
    ],
    ids=["frozen", "joint"],
)
def test_records_say_in_how_many_steps_each_network_has_learned(how, expected, images, labels):
    trainer = MaskingTrainer(MaskingModel(cnn()), train_classifier=how)
    batches = [(images, labels)] * 4
    records = trainer.fit(batches, 2, show_progress=False, check_accuracy=False)
    assert [{n: v for n, v in r.items() if n.endswith("_steps")} for r in records] == expected


@pytest.mark.parametrize("accumulate", [1, 3])
def test_no_warning_speaks_of_schedules(accumulate, images, labels):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*lr_scheduler")
        trainer = build(FromScratch(), seed=0, accelerator=accumulating(accumulate))
        fit(trainer, DataLoader(Stream(), batch_size=4))


# When it is saved


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, [4, 8]),
        ({"every": 3}, [3, 6, 8]),
        ({"every": 4}, [4, 8]),
        ({"every": 100}, [8]),
        ({"every": 1, "keep": 2}, [7, 8]),
        ({"keep": 1}, [8]),
    ],
    ids=str,
)
def test_checkpoints_are_those_asked_for_and_the_last(options, steps, tmp_path):
    keeping = Checkpoints(tmp_path, **options)
    saved, save = [], keeping.save
    keeping.save = lambda state, step: saved.append(step) or save(state, step)
    fit(build(seed=0), checkpoints=keeping)
    assert keeping.steps() == steps
    assert len(set(saved)) == len(saved)  # none twice


def test_a_folder_is_enough(tmp_path):
    fit(build(seed=0), checkpoints=str(tmp_path / "not" / "yet"))
    assert Checkpoints(tmp_path / "not" / "yet").steps() == [4, 8]


def test_asking_whether_a_folder_can_be_written_leaves_nothing_in_it(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert os.listdir(tmp_path / "a" / "b") == []


def test_a_file_in_place_of_a_folder_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot be written to .*: Not a directory; give a folder"):
        check_writable(tmp_path / "file" / "run")


def test_an_error_says_how_far_it_was_saved(tmp_path):
    def fails():
        raise ArithmeticError

    def note(step, **options) -> str:
        with pytest.raises(ArithmeticError) as caught:
            fit(build(seed=0), extra=[At(step, fails)], **options)
        return caught.value.__notes__[-1]

    words = "The training stopped after step 2, in epoch 1 of 2. "
    way_out = "To save checkpoints, use fit(..., callbacks=[Checkpoints(folder)])."
    assert note(2) == words + way_out
    assert note(2, checkpoints=tmp_path / "a") == words + "There was no checkpoint yet."
    keeping = Checkpoints(tmp_path / "b", every=3)
    resume = f"Resume from step 3 with fit(..., resume='{tmp_path / 'b'}')."
    assert note(5, checkpoints=keeping).endswith(f"step 5, in epoch 2 of 2. {resume}")
    assert "step 8, in epoch 2 of 2" in note(None)


# Signals


@pytest.fixture
def handlers():
    """Give the handlers of both signals back, whatever a test has set."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def send(number: int):
    return lambda: signal.raise_signal(number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_handler_of_ones_own_is_called_after_the_save_and_may_let_it_go_on(
    number, handlers, tmp_path
):
    calls = []
    handler = lambda *_: calls.append(Checkpoints(tmp_path).steps())  # noqa: E731
    signal.signal(number, handler)
    trainer = build(seed=0)
    fit(trainer, extra=[At(3, send(number))], checkpoints=Checkpoints(tmp_path, every=100))
    assert calls == [[3]] and trainer.steps_done == 8
    assert Checkpoints(tmp_path).steps() == [3, 8] and signal.getsignal(number) is handler


def test_an_ignored_signal_stays_ignored(handlers, tmp_path):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    trainer = build(seed=0)
    fit(trainer, extra=[At(3, send(signal.SIGINT))], checkpoints=tmp_path)
    assert trainer.steps_done == 8 and signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_ctrl_c_after_the_last_step_lets_the_training_end_first(tmp_path):
    reference = build(seed=0)
    fit(reference, extra=[At(99, None)])
    trainer = build(seed=0)
    with pytest.raises(KeyboardInterrupt):
        fit(trainer, extra=[At(None, send(signal.SIGINT))], checkpoints=tmp_path)
    assert same_weights(reference.model, trainer.model)
    assert Checkpoints(tmp_path).steps() == [4, 8]


def test_a_training_in_another_thread_leaves_signals_alone(tmp_path):
    before, seen = signal.getsignal(signal.SIGINT), []
    look = At(2, lambda: seen.append(signal.getsignal(signal.SIGINT)))
    work = threading.Thread(target=lambda: fit(build(seed=0), extra=[look], checkpoints=tmp_path))
    work.start()
    work.join()
    assert seen == [before] and Checkpoints(tmp_path).steps() == [4, 8]


def test_handlers_are_given_back_after_an_error_within():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ArithmeticError), Signals().postponed():
        assert signal.getsignal(signal.SIGTERM) is not before
        raise ArithmeticError
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_handler_that_python_did_not_set_is_left_in_place(monkeypatch):
    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with Signals().postponed():
            assert signal.signal(signal.SIGTERM, signal.SIG_DFL) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


@needs_fork
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, -15), (signal.SIGINT, 0)], ids=["sigterm", "ctrl-c"]
)
def test_processes_copied_from_a_training_can_be_terminated_but_outlive_one_ctrl_c(number, code):
    with Signals().postponed():
        process = os.fork()
        if process == 0:
            signal.raise_signal(number)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == code


def in_two_processes(rank: int, folder, sender: int) -> None:
    """Train as one of two, of which one gets a signal in its third step."""
    from torch import distributed

    signal.alarm(600)  # never hang; a busy machine may take its time
    meeting = f"file://{folder}/meeting"
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    action = send(signal.SIGTERM) if rank == sender else lambda: None
    keeping = Checkpoints(folder / "run", every=100)
    fit(build(seed=0), extra=[At(3, action)], checkpoints=keeping)


@needs_fork
@pytest.mark.parametrize("sender", [0, 1])
def test_a_signal_to_one_of_two_processes_saves_and_ends_both(sender, tmp_path):
    if not torch.distributed.is_available():
        pytest.skip("torch is built without torch.distributed")
    processes = []
    for rank in range(2):
        process = os.fork()
        if process == 0:
            try:
                in_two_processes(rank, tmp_path, sender)
            finally:
                os._exit(1)
        processes.append(process)
    codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
    assert codes == [-signal.SIGTERM] * 2
    assert Checkpoints(tmp_path / "run").steps() == [3]


# What is said


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory."), "Lower the batch size"),
        (MemoryError(), "Lower the batch size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "Lower the batch"),
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), "num_workers"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error."), "/dev/shm"),
        (ValueError("Expected more than 1 value per channel when training"), "drop_last=True"),
    ],
    ids=str,
)
def test_errors_of_torch_get_a_way_out(error, words):
    with pytest.raises(type(error)) as caught, causes_in_words():
        raise error
    assert words in caught.value.__notes__[0]


@pytest.mark.parametrize("error", [RuntimeError("else"), ValueError("else"), KeyError("else")])
def test_other_errors_are_left_as_they_are(error):
    with pytest.raises(type(error)) as caught, causes_in_words():
        raise error
    assert not hasattr(caught.value, "__notes__")


def test_skipped_steps_are_counted_and_do_not_enter_the_means():
    records = Records(epochs=2, show_progress=False)
    for _ in records.epoch([0]):
        records.add({"loss": 1.0, "clean": 0.5}, 2)
        records.add({"loss": math.nan, "clean": 0.0, "skipped": 1.0}, 2)
    again = Records(epochs=2, show_progress=False)
    again.load_state_dict(records.state_dict())
    for _ in again.epoch([0]):
        again.add({"skipped": 1.0}, 2)
    first = again.close({})
    assert (first["loss"], first["clean"], first["skipped"]) == (1.0, 0.25, 2.0)
    for _ in again.epoch([0]):
        again.add({"loss": 3.0}, 1)
    assert "skipped" not in again.close({})


def test_an_epoch_of_which_all_was_skipped_has_a_record(images, labels):
    def objective(judgement):
        return judgement.logits_in.sum() * math.nan

    model = MaskingModel(cnn())
    trainer = MaskingTrainer(
        model, train_classifier=False, objective=objective, skip_not_finite=True
    )
    (record,) = trainer.fit([(images, labels)] * 3, 1, show_progress=False)
    assert record["skipped"] == 3.0
