"""Run the whole method in minutes: train on digits, compare, explain photographs."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from captum_masking._base.borrow import eval_mode
from captum_masking._base.text import table
from captum_masking.benchmark.run import benchmark
from captum_masking.cli.benchmark import setting, wanted
from captum_masking.cli.command import Options
from captum_masking.cli.evaluate import measure_model
from captum_masking.data.digits import DigitsOnTextures
from captum_masking.metrics.boxes import boxes_to_pixels, masks_to_boxes
from captum_masking.model.model import MaskingModel
from captum_masking.parts.infill import Mean
from captum_masking.parts.masking import mask_images
from captum_masking.training.classifier import FromScratch
from captum_masking.training.trainer import MaskingTrainer
from captum_masking.viz import Panel, montage, overlay, to_pixels
from captum_masking.zoo import efficientnet_lite0, explain, small_classifier

_MEAN, _STD = [0.5] * 3, [0.5] * 3  # of DigitsOnTextures


def run(options: Options) -> None:
    """Train, compare, draw."""
    torch.manual_seed(options.seed)
    print("1. Training a classifier and its masker together on digits ...")
    model = _train(options.images, options.epochs)
    held_out = DigitsOnTextures(options.held_out, train=False, seed=1)
    print(f"\n2. On {len(held_out)} held-out images, digits and textures never seen:")
    print(_accuracy(model, held_out))
    print(_beside_captum(model, held_out, options.methods, options.out / "benchmark"))
    _draw(model, held_out, options.out / "digits.png")
    print("\n3. Photographs, through a frozen ImageNet classifier and its shipped masker:")
    _photographs(options.out / "photographs.png")
    print(f"\nPictures: {options.out / 'digits.png'}, {options.out / 'photographs.png'}")
    print(f"Report: {options.out / 'benchmark' / 'report.html'}")


def _train(images: int, epochs: int) -> MaskingModel:
    loader = DataLoader(DigitsOnTextures(images), batch_size=64, shuffle=True, drop_last=True)
    model = MaskingModel(small_classifier())
    MaskingTrainer(model, train_classifier=FromScratch(), lr=3e-3).fit(loader, epochs)
    return model


def _accuracy(model: MaskingModel, images: DigitsOnTextures) -> str:
    figures = measure_model(model, images)
    return table(
        ["accuracy", "clean", "masked-in", "masked-out", "mask area"],
        [["", *(f"{figures[key]:.0%}" for key in ("clean", "masked_in", "masked_out", "area"))]],
    )


def _beside_captum(
    model: MaskingModel, images: DigitsOnTextures, patterns: str, folder: Path
) -> str:
    """Run the benchmark, write its report, and return its shortest table."""
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier demo, with another model
    methods, notes = wanted(patterns, model, images)
    result = benchmark(
        model,
        images,
        methods,
        out=folder,
        batch_size=50,
        measures="quick,curves",
        curve_images=100,
        to_picture=lambda image: to_pixels(image, _MEAN, _STD),
        setting=setting(repr(images), "small_classifier of captum_masking.zoo"),
        notes=notes,
    )
    rows = [
        [
            row.name,
            f"{100 * row.values['error_at_mean'].mean:.1f} %",
            f"{100 * row.values['error_at_best'].mean:.1f} %",
            f"{row.cost.forwards:.1f}",
        ]
        for row in result.rows
        if row.cost and not row.failure
    ]
    header = ["method", "localization error", "at its best cut", "time (classifier forwards)"]
    return f"\n{table(header, rows)}"


@torch.no_grad()
def _draw(model: MaskingModel, images: DigitsOnTextures, file: Path, rows: int = 8) -> None:
    """Write a montage: image, map with its box, masked-in, masked-out."""
    inputs = torch.stack([images[index][0] for index in range(rows)])
    with eval_mode(model):
        mask = model.mask(inputs)
        halves = (inputs, *mask_images(inputs, mask, Mean()))
        probabilities = [model(each).softmax(1) for each in halves]
    boxes = masks_to_boxes(mask)
    panels = []
    for index in range(rows):
        clean, inside, outside = (to_pixels(each[index], _MEAN, _STD) for each in halves)
        seen = [_answer(each[index]) for each in probabilities]
        truth = boxes_to_pixels(images.boxes[index], *inputs.shape[2:]).tolist()
        panels.append(
            [
                Panel(clean, f"a {images.labels[index]}, seen as {seen[0]}", truth),
                Panel(overlay(clean, mask[index]), "evidence", [boxes[index].tolist()]),
                Panel(inside, f"masked-in: {seen[1]}"),
                Panel(outside, f"masked-out: {seen[2]}"),
            ]
        )
    montage(panels, file)


def _answer(probabilities: Tensor) -> str:
    return f"{int(probabilities.argmax())} ({float(probabilities.max()):.0%})"


def _photographs(file: Path) -> None:
    """Explain photographs that scikit-image ships."""
    from skimage import data

    model, preprocess = efficientnet_lite0()
    rows = []
    for name in ("chelsea", "coffee"):
        explained = explain(model, preprocess, getattr(data, name)())
        print(f"   {name}: {explained}")
        rows.append(explained.panels)
    montage(rows, file)
