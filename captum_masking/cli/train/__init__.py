"""Train a masker for a classifier, together with it or with the classifier frozen.

--data is a CSV with columns file,label (further columns are ignored) or a folder with one folder
of pictures per class. With --val the accuracy is watched and the best state kept.

With --checkpoints the training is saved as it goes; the same command with --resume goes on after
Ctrl-C, SIGTERM, or an error. On several devices or machines, start it with accelerate launch or
torchrun.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from captum_masking.checkpoint import Checkpoints, check_destination, load_model, save_model
from captum_masking.cli.classifiers import Prepared, notes_of, prepare
from captum_masking.cli.launch import launched, terminable
from captum_masking.cli.train.data import augmented, match_labels, report, still
from captum_masking.cli.train.options import KEPT, add_arguments, check_arguments
from captum_masking.cli.train.watching import callbacks_of
from captum_masking.data import BoxedImages, Readable
from captum_masking.figures import summary
from captum_masking.gating import gated
from captum_masking.model import MaskingModel
from captum_masking.schedule import FineTune, FromScratch
from captum_masking.trainer import MaskingTrainer

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["add_arguments", "augmented", "match_labels", "run"]


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
            prepared = prepare(
                arguments.classifier, image_size=arguments.image_size, from_scratch=scratch
            )
        prepared.label_column = arguments.label_column
        match_labels(images, prepared, arguments.data)
        images.transform = augmented(prepared)
        notes = notes_of(prepared, from_scratch=scratch)
        return _train(arguments, prepared, images, accelerator, notes)


def _train(
    arguments: argparse.Namespace,
    prepared: Prepared,
    images: BoxedImages,
    accelerator: Accelerator,
    notes: dict[str, Any],
) -> dict[str, Any] | None:
    readable: Callable[[Any], Any] = Readable if arguments.skip_unreadable else lambda data: data
    training = readable(images)
    validation = None if arguments.val is None else readable(still(arguments.val, prepared))
    shown = validation
    if arguments.pictures and validation is None:
        shown = readable(still(arguments.data, prepared))
    trainer = _trainer(arguments, prepared, accelerator)
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
            callbacks=callbacks_of(arguments, prepared, shown),
            checkpoints=_checkpoints(arguments),
            resume=arguments.checkpoints if arguments.resume else None,
            log=log,
        )
    reports = [report(data) for data in (training, validation) if isinstance(data, Readable)]
    if not trainer.is_main:
        return None
    save_model(trainer.model, arguments.out, notes=notes)
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
    arguments: argparse.Namespace, prepared: Prepared, accelerator: Accelerator
) -> MaskingTrainer:
    if arguments.start is None:
        aware = arguments.target_aware
        model, lr = MaskingModel(prepared.classifier, prepared.layers, target_aware=aware), 1e-3
    else:
        model, lr = load_model(arguments.start, prepared.classifier), 5e-4
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
