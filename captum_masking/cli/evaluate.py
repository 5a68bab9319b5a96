"""Measure a model: accuracy on clean and masked images, mask area, localization error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from captum_masking._base.borrow import eval_mode
from captum_masking._base.captum import as_class_logits, two_classes
from captum_masking._base.checks import check_recognized
from captum_masking._base.files import write_json
from captum_masking._base.text import check_class_names, describe
from captum_masking.cli.command import Options
from captum_masking.data.digits import DigitsOnTextures
from captum_masking.data.images import BoxedImages
from captum_masking.metrics.boxes import boxes_to_pixels, centered_square, whole_frame
from captum_masking.metrics.classifier import outputs_of
from captum_masking.metrics.localization import localization_error, localization_error_of_boxes
from captum_masking.model.model import MaskingModel
from captum_masking.model.taps import logits_of
from captum_masking.parts.infill import Mean
from captum_masking.training.records import Means, Record, judge_itself, measure
from captum_masking.zoo import Preprocess, load


def run(options: Options) -> dict[str, float]:
    """Measure, print, write; return the figures."""
    model, preprocess = load(options.model)
    preprocess = as_asked(options, preprocess)
    images = still(options.data, model.classifier, preprocess)
    if not options.untrained:
        check_recognized(answers(model, images, options.batch_size))
    figures = measure_model(model, images, batch_size=options.batch_size)
    if options.json not in (None, "-"):
        write_json(Path(options.json), figures)
    print(describe(figures))
    return figures


@torch.no_grad()
def answers(
    classifier: nn.Module, images: Dataset, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield logits and labels in a random order."""
    drawn = torch.Generator().manual_seed(0)
    batches = DataLoader(images, batch_size, shuffle=True, generator=drawn)
    for labels, output in outputs_of(lambda inputs: logits_of(classifier(inputs)), batches):
        yield as_class_logits(output), labels


def as_asked(options: Options, preprocess: Preprocess) -> Preprocess:
    """Apply the options for class names, label column and value range."""
    return replace(
        preprocess,
        class_names=options.class_names or preprocess.class_names,
        label_column=options.label_column or preprocess.label_column,
        value_range=options.range or preprocess.value_range,
    )


def reading(preprocess: Preprocess) -> dict[str, Any]:
    """Return arguments to read data whose classes :func:`match_labels` will number."""
    same = {name: getattr(preprocess, name) for name in ("label_column", "value_range")}
    return {**same, "class_names": ()}


@torch.no_grad()
def measure_model(
    model: MaskingModel, images: BoxedImages | DigitsOnTextures, *, batch_size: int = 32
) -> dict[str, float]:
    """Return fractions, entropy in nats, and localization errors over the images with boxes."""
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


def still(source: Path, classifier: nn.Module, preprocess: Preprocess) -> BoxedImages:
    """Read whole pictures, without augmentation."""
    images = BoxedImages(source, transform=preprocess, **reading(preprocess))
    match_labels(images, classifier, preprocess)
    return images


def match_labels(
    images: BoxedImages,
    classifier: nn.Module,
    preprocess: Preprocess,
    *,
    from_scratch: bool = False,
) -> Preprocess:
    """Number classes as the classifier does; return the preprocessing with their names."""
    outputs = _count_classes(classifier, preprocess.image_size)
    names = preprocess.class_names
    check_class_names(names, outputs)
    if from_scratch and not names:  # an untrained classifier learns any order
        names = (*images.found, *[""] * (outputs - len(images.found)))
    images.number(names, outputs)
    low, high = min(images.labels), max(images.labels)
    if high >= outputs:
        what = (
            f"in 0..{outputs - 1} for {preprocess.spec}, but got {low}..{high} in {images.source}"
        )
        way_out = "subtract 1 if they count from 1, or choose another --label-column"
        raise ValueError(f"labels must lie {what}; {way_out}.")
    return replace(preprocess, class_names=names or tuple(images.class_names or ()))


@torch.no_grad()
def _count_classes(classifier: nn.Module, side: int) -> int:
    return two_classes(logits_of(classifier(torch.zeros(1, 3, side, side)))).shape[1]
