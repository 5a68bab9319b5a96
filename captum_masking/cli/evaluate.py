"""Measure a trained model on labelled images, with boxes where there are any.

Prints a table, and gives the same figures as JSON: accuracy on clean, masked-in and masked-out
images, entropy of the masked-out predictions, mask area, and, with boxes, the localization error
beside that of the whole frame and of a centred square.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from captum_masking._base.borrow import eval_mode
from captum_masking._base.text import describe
from captum_masking.cli.pictures import still
from captum_masking.data.digits import DigitsOnTextures
from captum_masking.data.images import BoxedImages
from captum_masking.metrics.boxes import boxes_to_pixels, centered_square, whole_frame
from captum_masking.metrics.localization import localization_error, localization_error_of_boxes
from captum_masking.model.model import MaskingModel
from captum_masking.parts.infill import Mean
from captum_masking.training.records import Means, Record, judge_itself, measure
from captum_masking.zoo import load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--model", required=True, metavar="DIR", help="written by train")
    parser.add_argument(
        "--data", required=True, type=Path, metavar="CSV", help="a CSV, or a folder per class"
    )
    parser.add_argument(
        "--json",
        nargs="?",
        const=True,
        type=Path,
        metavar="FILE",
        help="write the figures into this file too; without a file, print them, not the table",
    )
    parser.add_argument(
        "--label-column", metavar="NAME", help="of the CSV; default: as the model was trained"
    )
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="default: 32")


def run(arguments: argparse.Namespace) -> dict[str, float]:
    """Measure, print, write; return the figures."""
    model, preprocess = load(arguments.model)
    column = arguments.label_column or preprocess.label_column
    preprocess = replace(preprocess, label_column=column)
    images = still(arguments.data, model.classifier, preprocess)
    figures = measure_model(model, images, batch_size=arguments.batch_size)
    if isinstance(arguments.json, Path):
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(describe(figures))
    return figures


@torch.no_grad()
def measure_model(
    model: MaskingModel, images: BoxedImages | DigitsOnTextures, *, batch_size: int = 32
) -> dict[str, float]:
    """Measure a model on a data set of ``(image, label)`` with ``boxes``.

    Args:
        model: Its classifier judges.
        images: Items ``(image, label)``, and ``boxes`` as fractions of the frame, one tensor
            ``(n, 4)`` an image.
        batch_size: Images at a time.

    Returns:
        Fractions: ``clean``, ``masked_in``, ``masked_out``, ``area``; ``entropy_out`` in nats;
        and where images have boxes, ``localization_error`` and the same of the two trivial
        baselines, over those images.

    Source:
        Own; the figures are those of Phang et al. 2020.
    """
    means, errors, boxed = Means(), Means(), 0
    boxes = iter(images.boxes)
    with eval_mode(model):
        for inputs, target in DataLoader(images, batch_size):
            judgement, (mask,) = judge_itself(model, (inputs,), target, Mean())
            means.add(measure(judgement, (mask,), {}), len(mask))
            for one, truth in zip(mask, boxes, strict=False):
                if len(truth):
                    boxed += 1
                    errors.add(_localize(one[None], truth), 1)
    return {"images": len(images), **means.record(), "boxed_images": boxed, **errors.record()}


def _localize(mask: Tensor, fractions: Tensor) -> Record:
    """Score one mask, and the two trivial boxes on the same image."""
    height, width = mask.shape[2:]
    truth = [boxes_to_pixels(fractions, height, width)]
    frame, square = whole_frame(height, width), centered_square(height, width)
    return {
        "localization_error": float(localization_error(mask, truth)),
        "localization_error_centered_square": float(localization_error_of_boxes(square, truth)),
        "localization_error_whole_frame": float(localization_error_of_boxes(frame, truth)),
    }
