"""Train a small classifier and its masker on digits, compare with Captum, explain photographs.

Offline, in a few minutes on two cores: real handwritten digits at random places on photographed
textures; a benchmark beside Captum's own methods on held-out images, with a report; a montage;
then the CC0 photographs of scikit-image through an ImageNet classifier.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from captum_masking._base.borrow import eval_mode
from captum_masking._base.text import table
from captum_masking.benchmark.result import Result
from captum_masking.benchmark.run import benchmark
from captum_masking.cli.benchmark import told, wanted
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--out", type=Path, default=Path("demo-output"), metavar="DIR", help="default: demo-output"
    )
    parser.add_argument("--images", type=int, default=4000, metavar="N", help="default: 4000")
    parser.add_argument("--epochs", type=int, default=12, metavar="N", help="default: 12")
    parser.add_argument("--held-out", type=int, default=400, metavar="N", help="default: 400")
    parser.add_argument(
        "--methods",
        default="MaskingSaliency,Saliency,IntegratedGradients,LayerGradCam",
        metavar="NAME,...",
        help="to compare, with * for any letters; default: four",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")


def run(arguments: argparse.Namespace) -> None:
    """Train, compare, draw."""
    torch.manual_seed(arguments.seed)
    print("1. Training a classifier and its masker together on digits ...")
    model = train(arguments.images, arguments.epochs)
    held_out = DigitsOnTextures(arguments.held_out, train=False, seed=1)
    print(f"\n2. On {len(held_out)} held-out images, digits and textures never seen:")
    print(describe(model, held_out))
    print(beside_captum(model, held_out, arguments))
    draw(model, held_out, arguments.out / "digits.png")
    print("\n3. Photographs, through a frozen ImageNet classifier and its shipped masker:")
    photographs(arguments.out / "photographs.png")
    print(f"\nPictures: {arguments.out / 'digits.png'}, {arguments.out / 'photographs.png'}")
    print(f"Report: {report_folder(arguments.out) / 'report.html'}")


def train(images: int, epochs: int) -> MaskingModel:
    """Train the small classifier and its masker jointly, from scratch.

    Args:
        images: Number of training images.
        epochs: Passes over them.

    Returns:
        The trained model.

    Source:
        Phang et al. 2020, joint training.
    """
    loader = DataLoader(DigitsOnTextures(images), batch_size=64, shuffle=True, drop_last=True)
    model = MaskingModel(small_classifier())
    MaskingTrainer(model, train_classifier=FromScratch(), lr=3e-3).fit(loader, epochs)
    return model


def describe(model: MaskingModel, images: DigitsOnTextures) -> str:
    """Say what is recognised of the held-out images and of their halves.

    Source:
        Own.
    """
    figures = measure_model(model, images)
    return table(
        ["accuracy", "clean", "masked-in", "masked-out", "mask area"],
        [["", *(f"{figures[key]:.0%}" for key in ("clean", "masked_in", "masked_out", "area"))]],
    )


def beside_captum(
    model: MaskingModel, images: DigitsOnTextures, arguments: argparse.Namespace
) -> str:
    """Run the benchmark, write its report, and return its shortest table.

    Source:
        Own.
    """
    folder = report_folder(arguments.out)
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier demo, with another model
    methods, notes = wanted(arguments.methods, model, images)
    result = benchmark(
        model,
        images,
        methods,
        out=folder,
        batch_size=50,
        curve_images=100,
        to_picture=lambda image: to_pixels(image, _MEAN, _STD),
        setting=told(repr(images), "small_classifier of captum_masking.zoo"),
        notes=notes,
    )
    return _shortest(result)


def report_folder(out: Path) -> Path:
    """Say where the benchmark's report goes."""
    return out / "benchmark"


def _shortest(result: Result) -> str:
    """Lay out localization error and cost of each row."""
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
def draw(model: MaskingModel, images: DigitsOnTextures, file: Path, rows: int = 8) -> None:
    """Write a montage: image, map with both boxes, masked-in, masked-out.

    Source:
        Own.
    """
    inputs = torch.stack([images[index][0] for index in range(rows)])
    with eval_mode(model):
        mask = model.mask(inputs)
        masked_in, masked_out = mask_images(inputs, mask, Mean())
        said = [model(x).softmax(1) for x in (inputs, masked_in, masked_out)]
    boxes = masks_to_boxes(mask)
    panels = []
    for index in range(rows):
        pictures = [to_pixels(x[index], _MEAN, _STD) for x in (inputs, masked_in, masked_out)]
        clean, inside, outside = (_answer(p[index]) for p in said)
        truth = boxes_to_pixels(images.boxes[index], *inputs.shape[2:]).tolist()
        panels.append(
            [
                Panel(pictures[0], f"a {images.labels[index]}, seen as {clean}", truth),
                Panel(overlay(pictures[0], mask[index]), "evidence", [boxes[index].tolist()]),
                Panel(pictures[1], f"masked-in: {inside}"),
                Panel(pictures[2], f"masked-out: {outside}"),
            ]
        )
    montage(panels, file)


def _answer(probabilities: Tensor) -> str:
    return f"{int(probabilities.argmax())} ({float(probabilities.max()):.0%})"


def photographs(file: Path) -> None:
    """Explain the photographs that scikit-image ships.

    Source:
        Own.
    """
    from skimage import data

    model, preprocess = efficientnet_lite0()
    rows = []
    for name in ("chelsea", "coffee"):
        explained = explain(model, preprocess, getattr(data, name)())
        print(f"   {name}: {explained}")
        rows.append(explained.panels)
    montage(rows, file)
