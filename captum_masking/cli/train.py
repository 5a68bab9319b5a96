"""Train a masker for a classifier, together with it or with the classifier frozen.

--data is a CSV with columns file,label (further columns are ignored) or a folder with one folder
of pictures per class. With --val the accuracy is watched and the best state kept.

With --checkpoints the training is saved as it goes; the same command with --resume goes on after
Ctrl-C, SIGTERM, or an error. On several devices or machines, start it with accelerate launch or
torchrun.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from captum_masking._base.processes import gathered
from captum_masking.cli.pictures import match_labels, still
from captum_masking.data.batches import Readable
from captum_masking.data.images import BoxedImages
from captum_masking.model.files import check_destination
from captum_masking.model.model import MaskingModel
from captum_masking.training.callbacks import (
    Best,
    Callback,
    EarlyStopping,
    Newest,
    Pictures,
    TensorBoard,
)
from captum_masking.training.checkpoint import Checkpoints
from captum_masking.training.classifier import FineTune, FromScratch
from captum_masking.training.gate import gated
from captum_masking.training.records import summary
from captum_masking.training.trainer import MaskingTrainer
from captum_masking.zoo import Preprocess, load_classifier

if TYPE_CHECKING:
    from accelerate import Accelerator


def report(images: Readable) -> str:
    """Say which pictures could not be read; of several processes each has met its own.

    Source:
        Own.
    """
    for index in set().union(*gathered(list(images.unreadable))):
        images[index]  # notes it, where another process found it
    return images.report()


# ---- The options of train, and which of them do not go together.

#: Which of the states after each epoch is kept, by the name on the command line.
KEPT: dict[str, Callable[[], Newest]] = {
    "newest": Newest,
    "loss": Best,
    "masked-in": partial(Best, "val_masked_in", higher_is_better=True),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--data", required=True, type=Path, metavar="CSV", help="a CSV, or a folder per class"
    )
    parser.add_argument(
        "--classifier",
        required=True,
        metavar="SPEC",
        help="efficientnet-lite0, torchvision:NAME, or package.module:function that returns a "
        "module (its attributes mean, std and class_names are used where it has them)",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="the model's folder")
    parser.add_argument("--val", type=Path, metavar="CSV", help="pictures that are not trained on")
    parser.add_argument("--epochs", type=int, default=8, metavar="N", help="default: 8")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--frozen", action="store_true", help="leave the classifier exactly as it is")
    how.add_argument(
        "--from-scratch",
        action="store_true",
        help="the classifier knows nothing yet; torchvision:NAME then starts from random weights "
        "with one output per class of the data",
    )
    parser.add_argument(
        "--target-aware",
        action="store_true",
        help="maps follow the class asked for, and are next to empty where it is not; the masker "
        "of --start then gets a gate",
    )
    parser.add_argument(
        "--start",
        metavar="DIR",
        help="a model that train wrote for this classifier, to go on from; joint training then "
        "starts at once: train frozen first, look, then train jointly",
    )
    parser.add_argument("--image-size", type=int, metavar="N", help="side in pixels; default: 224")
    parser.add_argument(
        "--batch-size",
        type=int,
        default=16,
        metavar="N",
        help="of all processes together; default: 16",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument(
        "--label-column", default="label", metavar="NAME", help="of the CSV; default: label"
    )
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="loader processes")
    parser.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="let the next picture take the place of one that cannot be read, and name it",
    )
    _add_stopping(parser.add_argument_group("stopping and going on"))
    _add_watching(parser.add_argument_group("watching"))
    _add_computing(parser.add_argument_group("computing"))


def _add_stopping(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--checkpoints", type=Path, metavar="DIR", help="save the training here, after every epoch"
    )
    group.add_argument(
        "--checkpoint-every", type=int, metavar="N", help="rather every N steps, and at the end"
    )
    group.add_argument(
        "--resume",
        action="store_true",
        help="go on from the newest of --checkpoints, if there is one",
    )
    group.add_argument(
        "--keep",
        choices=list(KEPT),
        default="newest",
        help="which state is kept, of those whose classifier has lost no accuracy on --val",
    )
    group.add_argument(
        "--early-stopping",
        type=int,
        metavar="N",
        help="end when the loss on --val has not got better for N epochs; for --frozen: in joint "
        "training it changes with the judge",
    )


def _add_watching(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--pictures",
        action="store_true",
        help="draw the same few pictures' maps after every epoch, into OUT-pictures",
    )
    group.add_argument("--tensorboard", metavar="DIR", help="write the figures for TensorBoard")
    group.add_argument(
        "--json", action="store_true", help="print the last epoch's figures as JSON, not in words"
    )


def _add_computing(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--device", choices=["cpu", "cuda"], help="default: the fastest that is there"
    )
    group.add_argument("--precision", choices=["no", "bf16", "fp16"], help="default: no, single")
    group.add_argument(
        "--accumulate", type=int, metavar="N", help="batches that make one update; default: 1"
    )


def check_arguments(arguments: argparse.Namespace) -> None:
    """Refuse options that need another one, and checkpoints that nobody asked to go on from.

    Raises:
        ValueError: Naming the option that is missing.
        FileExistsError: If a training would begin where the checkpoints of another one are.

    Source:
        Own.
    """
    for name in ("resume", "checkpoint_every"):
        if getattr(arguments, name) and arguments.checkpoints is None:
            raise ValueError(f"{_option(name)} needs --checkpoints DIR, the folder they are in.")
    wishes = {"early_stopping": arguments.early_stopping, "keep": arguments.keep != "newest"}
    for name, is_wished in wishes.items():
        if is_wished and arguments.val is None:
            raise ValueError(f"{_option(name)} looks at pictures that are not trained on: --val.")
    if arguments.checkpoints is not None and not arguments.resume:
        steps = Checkpoints(arguments.checkpoints).steps()
        if steps:
            raise FileExistsError(
                f"{arguments.checkpoints} holds checkpoints up to step {steps[-1]}; add --resume "
                "to go on from there, or give another folder."
            )


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


# ---- What watches a training from the command line.

_PICTURES = 8  # as many as fit side by side


def callbacks_of(
    arguments: argparse.Namespace, preprocess: Preprocess, images: Any
) -> list[Callback]:
    """Make the callbacks that were asked for.

    Args:
        arguments: Of the command.
        preprocess: Knows the scale of the inputs.
        images: A data set of pictures to draw the maps of, read whole.

    Source:
        Own.
    """
    callbacks: list[Callback] = []
    if arguments.early_stopping is not None:
        callbacks.append(EarlyStopping(patience=arguments.early_stopping))
    if arguments.pictures:
        callbacks.append(_pictures(arguments.out, preprocess, images))
    if arguments.tensorboard is not None:
        callbacks.append(TensorBoard(arguments.tensorboard))
    return callbacks


def _pictures(out: Path, preprocess: Preprocess, images: Any) -> Pictures:
    """Draw some pictures from everywhere in a data set, on the scale they were taken in."""
    mean, std = (torch.tensor(each)[:, None, None] for each in (preprocess.mean, preprocess.std))
    chosen = range(0, len(images), -(-len(images) // _PICTURES))
    return Pictures(
        torch.stack([images[index][0] for index in chosen]),
        out.with_name(out.name + "-pictures"),
        show=lambda inputs: inputs * std + mean,
    )


# ---- The processes of a command: where they compute, how precisely, and how they end.


class Terminated(KeyboardInterrupt):
    """SIGTERM, as schedulers of clusters send: like Ctrl-C, but the exit status is 143."""


@contextmanager
def terminable() -> Iterator[None]:
    """Raise :class:`Terminated` on SIGTERM, so that a command can say what it leaves behind.

    Source:
        Own.

    Example:
        >>> try:
        ...     with terminable():
        ...         signal.raise_signal(signal.SIGTERM)
        ... except Terminated:
        ...     print("saved")
        saved
    """
    if threading.current_thread() is not threading.main_thread():  # Python allows it there only
        yield
        return
    process = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process:
            raise Terminated
        signal.signal(number, signal.SIG_DFL)  # a loader's process, which has nothing to say
        signal.raise_signal(number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def launched(
    *, device: str | None = None, precision: str | None = None, accumulate: int | None = None
) -> Iterator[Accelerator]:
    """Join the other processes of ``accelerate launch`` or ``torchrun``, if there are any.

    Args:
        device: ``cpu`` or ``cuda``; None is accelerate's choice, the fastest there is.
        precision: ``no``, ``bf16`` or ``fp16``; None is what accelerate was launched with.
        accumulate: Batches an update is taken from; None likewise.

    Raises:
        ValueError: If a GPU is asked for and there is none.

    Source:
        Own.

    Example:
        >>> with launched(device="cpu") as accelerator:
        ...     accelerator.num_processes, accelerator.is_main_process
        (1, True)
    """
    import torch  # here, so that --help does not wait for it

    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "--device cuda needs a GPU that torch can use, but finds none; leave --device out, or "
            "install a torch that is built for the GPU's driver."
        )
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState
    from accelerate.utils import GradientAccumulationPlugin

    alone = not AcceleratorState._shared_state  # somebody's who calls commands from Python
    plugin = None if accumulate is None else GradientAccumulationPlugin(num_steps=accumulate)
    try:
        accelerator = Accelerator(
            cpu=device == "cpu" or not _is_accelerated(),  # or it counts one process where none is
            mixed_precision=precision,
            gradient_accumulation_plugin=plugin,
        )
        yield accelerator
        accelerator.wait_for_everyone()
        if alone:
            accelerator.end_training()
    finally:
        if alone:  # a command that follows in this process may ask for something else
            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()


def _is_accelerated() -> bool:
    import torch

    others = getattr(torch, "accelerator", None)  # since torch 2.6
    return torch.cuda.is_available() or (others is not None and others.is_available())


def run(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """Read the data, train, save; nothing is written before the first epoch has ended."""
    check_destination(arguments.out)
    check_arguments(arguments)
    computing = {name: getattr(arguments, name) for name in ("device", "precision", "accumulate")}
    with terminable(), launched(**computing) as accelerator:
        torch.manual_seed(arguments.seed)
        images = BoxedImages(arguments.data, label_column=arguments.label_column)
        scratch = max(images.labels) + 1 if arguments.from_scratch else None
        with accelerator.local_main_process_first():  # weights are downloaded once
            classifier, preprocess = load_classifier(
                arguments.classifier, image_size=arguments.image_size, from_scratch=scratch
            )
        preprocess = replace(preprocess, label_column=arguments.label_column)
        preprocess = match_labels(images, classifier, preprocess, arguments.data)
        images.transform = preprocess.augmented
        notes = {**preprocess.notes(), "from_scratch": scratch}
        return _train(arguments, classifier, preprocess, images, accelerator, notes)


def _train(
    arguments: argparse.Namespace,
    classifier: nn.Module,
    preprocess: Preprocess,
    images: BoxedImages,
    accelerator: Accelerator,
    notes: dict[str, Any],
) -> dict[str, Any] | None:
    readable: Callable[[Any], Any] = Readable if arguments.skip_unreadable else lambda data: data
    training = readable(images)
    validation = (
        None if arguments.val is None else readable(still(arguments.val, classifier, preprocess))
    )
    shown = validation
    if arguments.pictures and validation is None:
        shown = readable(still(arguments.data, classifier, preprocess))
    trainer = _trainer(arguments, classifier, accelerator)
    if accelerator.process_index:  # each draws its own noise; weights and order are the first's
        torch.manual_seed(arguments.seed + accelerator.process_index)
    settings = {"batch_size": arguments.batch_size, "num_workers": arguments.workers}
    log = arguments.out.with_name(arguments.out.name + "-log.csv")
    with _way_on(arguments):
        records = trainer.fit(
            DataLoader(
                training, shuffle=True, drop_last=len(images) > arguments.batch_size, **settings
            ),
            arguments.epochs,
            validation=None if validation is None else DataLoader(validation, **settings),
            keep=KEPT[arguments.keep](),
            callbacks=callbacks_of(arguments, preprocess, shown),
            checkpoints=_checkpoints(arguments),
            resume=arguments.checkpoints if arguments.resume else None,
            log=log,
        )
    reports = [report(data) for data in (training, validation) if isinstance(data, Readable)]
    if not trainer.is_main:
        return None
    trainer.model.save(arguments.out, notes=notes)
    ending = [] if trainer.stopping is None else [f"ended early: {trainer.stopping}"]
    print(f"last epoch: {summary(records[-1])}", *ending, *reports, sep="\n")
    print(f"model: {arguments.out}\nlog: {log}")
    return {
        "model": arguments.out,
        "log": log,
        "last_epoch": records[-1],
        "ended_early": trainer.stopping,
        "unreadable": reports,
    }


def _trainer(
    arguments: argparse.Namespace, classifier: nn.Module, accelerator: Accelerator
) -> MaskingTrainer:
    if arguments.start is None:
        aware = arguments.target_aware
        model, lr = MaskingModel(classifier, target_aware=aware), 1e-3
    else:
        model, lr = MaskingModel.load(arguments.start, classifier), 5e-4
        model = gated(model) if arguments.target_aware and not model.target_aware else model
    how = _how(arguments)
    return MaskingTrainer(model, train_classifier=how, lr=lr, accelerator=accelerator)


def _how(arguments: argparse.Namespace) -> bool | FineTune:
    if arguments.from_scratch:
        return FromScratch()
    masker_first = FineTune.masker_first if arguments.start is None else 0.0
    return not arguments.frozen and FineTune(masker_first=masker_first)


def _checkpoints(arguments: argparse.Namespace) -> Checkpoints | None:
    if arguments.checkpoints is None:
        return None
    return Checkpoints(arguments.checkpoints, every=arguments.checkpoint_every)


@contextmanager
def _way_on(arguments: argparse.Namespace) -> Iterator[None]:
    """Say in the words of the command how a training that was stopped can go on."""
    try:
        yield
    except BaseException as error:
        if getattr(error, "__notes__", ()):  # or it has not begun
            error.add_note(f"On the command line: {_way(arguments)}.")
        raise


def _way(arguments: argparse.Namespace) -> str:
    if arguments.checkpoints is None:
        return "begin with --checkpoints DIR"
    return "the same again" if arguments.resume else "the same with --resume"
