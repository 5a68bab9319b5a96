"""Ours beside other methods on photographs that anybody may show: the picture of the README.

Chosen by rule: of the photographs that install with scikit-image and scikit-learn, those in which
EfficientNet-Lite0 is at least 20 % sure of a class; maps are for that class. CAMs read the map that
the classifier pools, of each other method the defaults.

    python benchmarks/photographs.py --out docs/compared.jpg
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_images
from torch import Tensor

from captum_masking import MaskingModel, viz, zoo
from captum_masking.benchmark.libraries import default_methods

NAMES = ("astronaut", "camera", "cat", "clock", "coffee", "coins", "horse", "moon", "rocket")
METHODS = {
    "MaskingSaliency": "MaskingSaliency",
    "pytorch-grad-cam GradCAM": "Grad-CAM",
    "pytorch-grad-cam HiResCAM": "HiResCAM",
    "IntegratedGradients": "Integrated\nGradients",
}


def photographs() -> list[Image.Image]:
    """Load all that install with the two packages, without a download."""
    arrays = [getattr(data, name)() for name in NAMES] + list(load_sample_images().images)
    return [Image.fromarray(array).convert("RGB") for array in arrays]


def recognized(model: MaskingModel, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the inputs that the classifier is sure of, and their classes."""
    with torch.no_grad():
        sure, target = model(inputs).softmax(1).max(1)
    return inputs[sure >= 0.2], target[sure >= 0.2]


def main() -> None:
    """Draw a row for each photograph."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/compared.jpg"))
    model, preprocess = zoo.efficientnet_lite0()
    every = torch.stack([preprocess(picture) for picture in photographs()])
    inputs, target = recognized(model, every)
    rows, left_out = default_methods(model, inputs[:1])
    maps = {
        title: torch.cat(
            [
                rows[name].maps(image[None], wanted[None])
                for image, wanted in zip(inputs, target, strict=True)
            ]
        )
        for name, title in METHODS.items()
        if name not in left_out
    }
    pixels = [viz.to_pixels(each, preprocess.mean, preprocess.std) for each in inputs]
    names = [preprocess.class_names[index].split(",")[0] for index in target.tolist()]
    first = [viz.Panel(picture, name) for picture, name in zip(pixels, names, strict=True)]
    others = [
        [
            viz.Panel(viz.overlay(picture, of_method[index]), "" if index else method)
            for index, picture in enumerate(pixels)
        ]
        for method, of_method in maps.items()
    ]
    file = parser.parse_args().out
    with TemporaryDirectory() as folder:
        viz.montage([first, *others], png := Path(folder) / "compared.png", width=1.25)
        Image.open(png).convert("RGB").save(file, quality=88)


if __name__ == "__main__":
    main()
