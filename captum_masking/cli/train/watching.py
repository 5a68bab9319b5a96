"""What watches a training from the command line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from captum_masking.callbacks import Callback, EarlyStopping, Pictures, TensorBoard
from captum_masking.cli.classifiers import Prepared

_PICTURES = 8  # as many as fit side by side


def callbacks_of(arguments: argparse.Namespace, prepared: Prepared, images: Any) -> list[Callback]:
    """Make the callbacks that were asked for.

    Args:
        arguments: Of the command.
        prepared: The classifier, which knows the scale of its inputs.
        images: A data set of pictures to draw the maps of, read whole.

    Source:
        Own.
    """
    callbacks: list[Callback] = []
    if arguments.early_stopping is not None:
        callbacks.append(EarlyStopping(patience=arguments.early_stopping))
    if arguments.pictures:
        callbacks.append(_pictures(arguments.out, prepared, images))
    if arguments.tensorboard is not None:
        callbacks.append(TensorBoard(arguments.tensorboard))
    return callbacks


def _pictures(out: Path, prepared: Prepared, images: Any) -> Pictures:
    """Draw some pictures from everywhere in a data set, on the scale they were taken in."""
    mean, std = (torch.tensor(each)[:, None, None] for each in (prepared.mean, prepared.std))
    chosen = range(0, len(images), -(-len(images) // _PICTURES))
    return Pictures(
        torch.stack([images[index][0] for index in chosen]),
        out.with_name(out.name + "-pictures"),
        show=lambda inputs: inputs * std + mean,
    )
