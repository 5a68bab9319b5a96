"""Promises about train as a command: it stops and goes on, and several processes are as one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import test_cli
import torch
from safetensors.torch import load_file

import captum_masking
from captum_masking import MaskingModel, MaskingTrainer, zoo
from captum_masking.cli.command import Terminated, terminable
from captum_masking.cli.train import callbacks_of, launched
from captum_masking.training.callbacks import Callback, Pictures

folder = test_cli.folder  # a fixture: a classifier, twelve pictures, a CSV

VALIDATED = ["--val", "data.csv", "--epochs", "2"]
KEPT = ["--checkpoints", "kept", "--checkpoint-every", "2"]


class Signal(Callback):
    """Has a signal come during a step."""

    def __init__(self, number: int, step: int) -> None:
        self.number, self.step = number, step

    def on_step(self, trainer, record) -> None:
        if trainer.steps_done == self.step:
            signal.raise_signal(self.number)


@pytest.fixture
def signal_at(monkeypatch):
    """Let the next commands get a signal after a step."""

    def set_it(number: int, step: int) -> None:
        def with_signal(*arguments):
            return [*callbacks_of(*arguments), Signal(number, step)]

        monkeypatch.setattr("captum_masking.cli.train.callbacks_of", with_signal)

    return set_it


def train(*more: str) -> int:
    """Train where results are the same bit by bit."""
    return test_cli.train("--device", "cpu", *more)


weights = test_cli.content


# Stopping and going on.


@pytest.mark.parametrize(
    ("number", "status", "word"),
    [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")],
)
def test_a_signal_saves_and_resume_goes_on_as_if_it_had_not_come(
    folder, capsys, signal_at, number, status, word
):
    signal_at(number, step=99)
    assert train(*VALIDATED, "--out", "whole") == 0
    signal_at(number, step=3)  # of six; 2 would be saved anyway
    before = signal.getsignal(signal.SIGTERM)
    assert train(*VALIDATED, *KEPT) == status
    assert signal.getsignal(signal.SIGTERM) is before
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith(f"captum-masking: {word}")
    assert "Resume from step 3" in line and "the same with --resume" in line
    assert not Path("model").exists()
    signal_at(number, step=99)
    assert train(*VALIDATED, *KEPT, "--resume") == 0
    assert weights("model") == weights("whole")
    assert Path("model-log.csv").read_text().count("\n") == 3


def test_without_checkpoints_a_signal_ends_at_once_and_says_how_to_keep_more(
    folder, capsys, signal_at
):
    signal_at(signal.SIGTERM, step=2)
    assert train() == 143
    assert "add --checkpoints DIR" in capsys.readouterr().err
    assert not Path("model").exists()


def test_checkpoints_are_not_trained_over_unless_asked_to(folder, capsys):
    assert train("--checkpoints", "kept") == 0
    assert train("--checkpoints", "kept") == 1
    assert "up to step 3; add --resume to continue" in capsys.readouterr().err
    assert train("--checkpoints", "kept", "--resume") == 0  # nothing is left to train
    assert sorted(path.name for path in Path("kept").iterdir()) == ["step-00000003.safetensors"]


def test_resume_begins_where_there_is_no_checkpoint_yet(folder, capsys):
    """So that the command of a job that is started again and again is always the same."""
    assert train("--checkpoints", "kept", "--resume") == 0
    assert "holds no checkpoint yet" in capsys.readouterr().err


def test_going_on_with_other_options_is_refused_with_the_difference(folder, capsys):
    assert train("--checkpoints", "kept") == 0
    assert train("--checkpoints", "kept", "--resume", "--frozen") == 1
    error = capsys.readouterr().err
    assert "train_classifier: was FineTune" in error and "On the command line" not in error


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--resume"], "--resume needs --checkpoints DIR"),
        (["--checkpoint-every", "5"], "--checkpoint-every needs --checkpoints DIR"),
        (["--early-stopping", "2"], "--early-stopping needs validation pictures: add --val"),
        (["--keep", "loss"], "--keep needs validation pictures: add --val"),
        (["--frozen", "--from-scratch"], "--frozen and --from-scratch exclude each other"),
        (["--precision", "fp16", "--device", "cpu"], "got fp16 on cpu; bf16 works anywhere"),
        (["--checkpoints", "."], "expected a folder of checkpoints or none"),
    ],
)
def test_options_that_do_not_go_together_are_one_line_before_anything_runs(
    folder, capsys, options, words
):
    assert train(*options) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(words, line)
    assert not Path("model-log.csv").exists()


def test_an_error_in_the_training_ends_with_its_way_out_on_the_same_line(folder, capsys):
    Path("0.png").write_text("not a picture")
    assert train("--checkpoints", "kept") == 1
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert "0.png cannot be read" in line and line.endswith("the same with --resume.")


@pytest.mark.parametrize(
    ("keep", "stopped"), [("newest", True), ("loss", False), ("masked-in", False)]
)
def test_early_stopping_ends_and_keep_chooses(folder, capsys, monkeypatch, keep, stopped):
    losses = iter([9.0, 1.0, 2.0, 3.0, 4.0, 5.0])

    def evaluate(trainer, loader, metrics=()):
        return {"loss": next(losses), "clean": 0.5, "masked_in": 0.5}

    monkeypatch.setattr(MaskingTrainer, "evaluate", evaluate)
    more = ["--early-stopping", "2"] if stopped else []
    assert train("--val", "data.csv", "--epochs", "4", "--keep", keep, *more) == 0
    assert Path("model-log.csv").read_text().count("\n") == (4 if stopped else 5)
    said = "ended early: val_loss has not got better than 1 for 2 epochs"
    assert (said in capsys.readouterr().out) == stopped


# Watching.


def test_pictures_are_drawn_after_every_epoch_on_their_own_scale(folder, monkeypatch):
    made, init = [], Pictures.__init__

    def noted(self, *arguments, **options):
        made.append(self)
        init(self, *arguments, **options)

    monkeypatch.setattr(Pictures, "__init__", noted)
    assert train("--pictures", "--epochs", "2") == 0
    drawn = sorted(path.name for path in Path("model-pictures").iterdir())
    assert drawn == ["epoch-0001.png", "epoch-0002.png"]
    (pictures,) = made
    shown = pictures.show(pictures.images)
    assert len(shown) == 6 and 0 <= shown.min() < shown.max() <= 1  # of twelve, at most eight
    torch.testing.assert_close(shown[0].min() * 255, torch.tensor(60.0))  # a dark one's ground


def test_looking_at_pictures_does_not_change_the_training(folder):
    assert train("--out", "a") == train("--out", "b", "--pictures") == 0
    assert weights("a") == weights("b")


def test_figures_are_written_for_tensorboard(folder):
    pytest.importorskip("tensorboard")
    assert train("--tensorboard", "board") == 0
    assert [path for path in Path("board").iterdir() if "tfevents" in path.name]


def test_pictures_that_cannot_be_read_are_named_and_do_not_end_the_training(folder, capsys):
    Path("3.png").write_text("not a picture")
    assert train("--skip-unreadable", "--val", "data.csv") == 0
    said = capsys.readouterr()
    assert said.out.count("1 of 12 images cannot be read") == 2  # of the training, and of --val
    assert "3.png" in said.out and "3.png" in said.err


# Computing.


def test_precision_and_accumulation_change_the_training_and_the_next_command_forgets_them(folder):
    assert train("--out", "a", "--device", "cpu") == 0
    assert train("--out", "b", "--precision", "bf16") == 0
    assert train("--out", "c", "--accumulate", "3") == 0
    assert train("--out", "d", "--precision", "no", "--accumulate", "1") == 0
    a, b, c, d = (weights(name) for name in "abcd")
    assert len({a, b, c}) == 3 and a == d
    single = {value.dtype for value in load_file("b/model.safetensors").values()}
    assert single <= {torch.float32, torch.int64}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused_with_the_way_out(folder, capsys):
    assert train("--device", "cuda") == 1
    assert "omit --device" in capsys.readouterr().err


def test_an_accelerator_of_the_caller_is_left_to_them():
    accelerate = pytest.importorskip("accelerate")
    from accelerate.state import AcceleratorState, GradientState

    try:
        own = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
        with launched(device="cpu") as accelerator:
            assert accelerator.mixed_precision == "bf16"
        assert own.mixed_precision == "bf16"
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


def test_sigterm_is_an_exception_within_a_command_and_itself_again_after_it():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), terminable():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_torchrun_trains_in_two_processes_what_one_trains_and_writes_once(folder):
    options = [*VALIDATED, "--frozen", "--skip-unreadable", "--pictures"]
    assert train(*options, "--classifier", "my_classifiers:peaked", "--out", "one") == 0
    command = "train --data data.csv --classifier my_classifiers:peaked --image-size 32"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    package = str(Path(captum_masking.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "captum_masking", *command.split()]
        + [
            "--batch-size",
            "4",
            "--device",
            "cpu",
            "--out",
            "two",
            "--checkpoints",
            "kept",
            *options,
        ],
        env=os.environ
        | {"PYTHONPATH": package, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("model: two") == done.stdout.count("last epoch: ") == 1
    assert done.stdout.count("no unreadable image among 12 was found") == 2
    one, two = (load_file(f"{name}/model.safetensors") for name in ("one", "two"))
    torch.testing.assert_close(two, one, rtol=0, atol=1e-5)
    assert len(list(Path("kept").iterdir())) == len(list(Path("two-pictures").iterdir())) == 2


def test_a_target_aware_masker_is_trained_and_a_trained_one_gets_a_gate(folder):
    assert train("--frozen") == 0
    model, preprocess = zoo.load("model")
    assert model.target_aware
    untold = MaskingModel(model.classifier, target_aware=False)
    untold.save("plain", notes=preprocess.notes())
    assert train("--frozen", "--target-aware", "--start", "plain", "--out", "gated") == 0
    assert load_model_of("gated").target_aware


def load_model_of(folder: str) -> MaskingModel:
    return zoo.load(folder)[0]
