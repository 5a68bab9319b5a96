"""The options of train, and which of them do not go together."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

from captum_masking.best import Best, Newest
from captum_masking.checkpoint import Checkpoints

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
