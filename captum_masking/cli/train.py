"""Train a masker for a classifier, on one device or on several."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from captum_masking._base.checks import check_recognized
from captum_masking._base.processes import gathered
from captum_masking._base.text import as_class_names
from captum_masking.cli.command import Options
from captum_masking.cli.evaluate import answers, as_asked, match_labels, reading, still
from captum_masking.data.batches import Readable
from captum_masking.data.images import BoxedImages
from captum_masking.model.files import check_destination
from captum_masking.model.model import MaskingModel
from captum_masking.training.callbacks import (
    Callback,
    CSVLog,
    EarlyStopping,
    KeepBest,
    KeepLatest,
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

_KEPT: dict[str, Callable[[], KeepLatest]] = {
    "newest": KeepLatest,
    "loss": KeepBest,
    "masked-in": partial(KeepBest, "val_masked_in", higher_is_better=True),
}
_PICTURES = 8  # as many as fit side by side


def run(options: Options) -> dict[str, Any] | None:
    """Read the data, train and save; write nothing before the first epoch ends."""
    check_destination(options.out)
    _check(options)
    computing = {name: getattr(options, name) for name in ("device", "precision", "accumulate")}
    with launched(**computing) as accelerator:
        torch.manual_seed(options.seed)
        preprocess = Preprocess(label_column=options.label_column, value_range=options.range)
        images = BoxedImages(options.data, **reading(preprocess))
        names = as_class_names(options.class_names) or images.found
        scratch = (len(names) or max(images.labels) + 1) if options.from_scratch else None
        with accelerator.local_main_process_first():  # weights are downloaded once
            classifier, preprocess = load_classifier(
                options.classifier, image_size=options.image_size, from_scratch=scratch
            )
        preprocess = as_asked(options, preprocess)
        preprocess = match_labels(images, classifier, preprocess, from_scratch=options.from_scratch)
        images.transform = preprocess.augmented
        data = _data(options, images, classifier, preprocess)
        trainer = _trainer(options, classifier, accelerator)
        if accelerator.process_index:  # other noise in each; weights and order are the first's
            torch.manual_seed(options.seed + accelerator.process_index)
        document = _fit(options, trainer, preprocess, *data)
        if document is not None:
            trainer.model.save(options.out, notes={**preprocess.notes(), "from_scratch": scratch})
            print(f"model: {options.out}\nlog: {document['log']}")
        return document


def _data(
    options: Options, images: BoxedImages, classifier: nn.Module, preprocess: Preprocess
) -> tuple[Any, Any, Any]:
    readable: Callable[[Any], Any] = Readable if options.skip_unreadable else lambda data: data
    whole = options.val or (options.data if options.pictures else None)
    shown = None if whole is None else readable(still(whole, classifier, preprocess))
    knows = not (options.untrained or options.from_scratch)
    if options.val is not None and shown is not None and knows:
        check_recognized(answers(classifier, shown, options.batch_size))
    return readable(images), None if options.val is None else shown, shown


def _fit(
    options: Options,
    trainer: MaskingTrainer,
    preprocess: Preprocess,
    training: Any,
    validation: Any,
    shown: Any,
) -> dict[str, Any] | None:
    """Train and report; only the main process returns something."""
    settings = {"batch_size": options.batch_size, "num_workers": options.workers}
    whole = len(training) > options.batch_size
    log = options.out.with_name(options.out.name + "-log.csv")
    keepers: list[Callback] = [_KEPT[options.keep](), CSVLog(log)]
    if options.checkpoints is not None:
        keepers.append(Checkpoints(options.checkpoints, every=options.checkpoint_every))
    with _way_on(options):
        records = trainer.fit(
            DataLoader(training, shuffle=True, drop_last=whole, **settings),
            options.epochs,
            validation=None if validation is None else DataLoader(validation, **settings),
            callbacks=[*keepers, *callbacks_of(options, preprocess, shown)],
            resume=options.checkpoints if options.resume else None,
            check_accuracy=not options.untrained,
        )
    reports = [_report(data) for data in (training, validation) if isinstance(data, Readable)]
    if not trainer.is_main:
        return None
    ending = [] if trainer.stopping is None else [f"ended early: {trainer.stopping}"]
    print(f"last epoch: {summary(records[-1])}", *ending, *reports, sep="\n")
    return {
        "model": options.out,
        "log": log,
        "last_epoch": records[-1],
        "ended_early": trainer.stopping,
        "unreadable": reports,
    }


# ---- Options that need another one


def _check(options: Options) -> None:
    if options.frozen and options.from_scratch:
        raise ValueError("--frozen and --from-scratch exclude each other; use one of them.")
    for name in ("resume", "checkpoint_every"):
        if getattr(options, name) and options.checkpoints is None:
            raise ValueError(f"{_option(name)} needs --checkpoints DIR.")
    wishes = {"early_stopping": options.early_stopping, "keep": options.keep != "newest"}
    for name, is_wished in wishes.items():
        if is_wished and options.val is None:
            raise ValueError(f"{_option(name)} needs validation pictures: add --val CSV.")
    if options.checkpoints is not None and not options.resume:
        steps = Checkpoints(options.checkpoints).steps()
        if steps:
            raise FileExistsError(
                f"{options.checkpoints} holds checkpoints up to step {steps[-1]}; add --resume "
                "to continue from there, or use another folder."
            )


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


# ---- What the options make


def _trainer(options: Options, classifier: nn.Module, accelerator: Accelerator) -> MaskingTrainer:
    if options.start is None:
        model, lr = MaskingModel(classifier, target_aware=options.target_aware or None), 1e-3
    else:
        model, lr = MaskingModel.load(options.start, classifier), 5e-4
        model = gated(model) if options.target_aware and not model.target_aware else model
    how, layout = _how(options), torch.channels_last  # that of load_classifier
    area, own = options.area, {"accelerator": accelerator, "memory_format": layout}
    return MaskingTrainer(model, train_classifier=how, area=area, lr=lr, **own)


def _how(options: Options) -> bool | FineTune:
    if options.from_scratch:
        return FromScratch()
    masker_first = FineTune.masker_first if options.start is None else 0.0
    return not options.frozen and FineTune(masker_first=masker_first)


def callbacks_of(options: Options, preprocess: Preprocess, images: Any) -> list[Callback]:
    """Make the callbacks that the options name; maps are drawn for ``images``."""
    callbacks: list[Callback] = []
    if options.early_stopping is not None:
        callbacks.append(EarlyStopping(patience=options.early_stopping))
    if options.pictures:
        callbacks.append(_pictures(options.out, preprocess, images))
    if options.tensorboard is not None:
        callbacks.append(TensorBoard(options.tensorboard))
    return callbacks


def _pictures(out: Path, preprocess: Preprocess, images: Any) -> Pictures:
    """Draw a few pictures, evenly spaced in the data set, in their original colors."""
    mean, std = (torch.tensor(each)[:, None, None] for each in (preprocess.mean, preprocess.std))
    chosen = range(0, len(images), -(-len(images) // _PICTURES))
    return Pictures(
        torch.stack([images[index][0] for index in chosen]),
        out.with_name(out.name + "-pictures"),
        show=lambda inputs: inputs * std + mean,
    )


def _report(images: Readable) -> str:
    for index in set().union(*gathered(list(images.unreadable))):
        images[index]  # notes it in this process, too
    return images.report()


@contextmanager
def _way_on(options: Options) -> Iterator[None]:
    """Add to an error how to continue with the command."""
    try:
        yield
    except BaseException as error:
        if getattr(error, "__notes__", ()):  # else training has not started
            way = "run the same again" if options.resume else "run the same with --resume"
            way = "add --checkpoints DIR" if options.checkpoints is None else way
            error.add_note(f"On the command line: {way}.")
        raise


# ---- Devices and processes


@contextmanager
def launched(
    *, device: str | None = None, precision: str | None = None, accumulate: int | None = None
) -> Iterator[Accelerator]:
    """Join the other processes of ``accelerate launch`` or ``torchrun``, if there are any."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "--device cuda needs a GPU that torch can use, but there is none; omit --device, or "
            "install a torch built for your GPU's driver."
        )
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState
    from accelerate.utils import GradientAccumulationPlugin

    alone = not AcceleratorState._shared_state  # else a caller in Python has an accelerator
    plugin = None if accumulate is None else GradientAccumulationPlugin(num_steps=accumulate)
    try:
        accelerator = Accelerator(
            cpu=device == "cpu" or not _is_accelerated(),  # else it counts no other processes
            mixed_precision=precision,
            gradient_accumulation_plugin=plugin,
        )
        yield accelerator
        accelerator.wait_for_everyone()
        if alone:
            accelerator.end_training()
    finally:
        if alone:  # the next command in this process may have other settings
            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()


def _is_accelerated() -> bool:
    others = getattr(torch, "accelerator", None)  # since torch 2.6
    return torch.cuda.is_available() or (others is not None and others.is_available())
