"""Measure a model: accuracy on clean and masked images, mask area, localization error."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from captum_masking._base.borrow import eval_mode
from captum_masking._base.captum import two_classes
from captum_masking._base.files import write_json
from captum_masking._base.text import describe
from captum_masking.cli.command import Options
from captum_masking.data.digits import DigitsOnTextures
from captum_masking.data.images import BoxedImages
from captum_masking.metrics.boxes import boxes_to_pixels, centered_square, whole_frame
from captum_masking.metrics.localization import localization_error, localization_error_of_boxes
from captum_masking.model.model import MaskingModel
from captum_masking.model.taps import logits_of
from captum_masking.parts.infill import Mean
from captum_masking.training.records import Means, Record, judge_itself, measure
from captum_masking.zoo import Preprocess, load


def run(options: Options) -> dict[str, float]:
    """Measure, print, write; return the figures."""
    model, preprocess = load(options.model)
    column = options.label_column or preprocess.label_column
    value_range = options.range or preprocess.value_range
    preprocess = replace(preprocess, label_column=column, value_range=value_range)
    images = still(options.data, model.classifier, preprocess)
    figures = measure_model(model, images, batch_size=options.batch_size)
    if options.json not in (None, "-"):
        write_json(Path(options.json), figures)
    print(describe(figures))
    return figures


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
    """Read whole pictures, as for validation."""
    reading = {name: getattr(preprocess, name) for name in ("label_column", "value_range")}
    images = BoxedImages(source, transform=preprocess, **reading)
    match_labels(images, classifier, preprocess, source)
    return images


def match_labels(
    images: BoxedImages, classifier: nn.Module, preprocess: Preprocess, source: Path
) -> Preprocess:
    """Renumber labels by the names of their folders, or raise if a label has no logit.

    Returns the preprocessing, which takes the folders' names if it had none.
    """
    known = {name: index for index, name in enumerate(preprocess.class_names)}
    names = images.class_names
    if names is not None and known and all(name in known for name in names):
        images.labels = [known[names[label]] for label in images.labels]
    elif names is not None and known:
        raise ValueError(
            f"the class folders in {source} must be named as classes of {preprocess.spec}, but "
            f"{next(n for n in names if n not in known)!r} is none; rename them, give a CSV with "
            "a label column, or train a classifier on them with --from-scratch."
        )
    elif names is not None:
        preprocess = replace(preprocess, class_names=tuple(names))
    classes = _count_classes(classifier, preprocess.image_size)
    if max(images.labels) >= classes:
        raise ValueError(
            f"labels must lie in 0..{classes - 1} for {preprocess.spec}, but {source} has "
            f"{max(images.labels)}; choose another --label-column or classifier."
        )
    return preprocess


@torch.no_grad()
def _count_classes(classifier: nn.Module, side: int) -> int:
    return two_classes(logits_of(classifier(torch.zeros(1, 3, side, side)))).shape[1]
