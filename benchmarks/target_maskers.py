"""Which way of telling a masker the class is best? Every kind, trained alike on ten classes.

The classifier is EfficientNet-Lite0 with the ten rows of its head that are Imagenette's, frozen.
Each masker is trained from scratch by MaskingTrainer's defaults on every second training image, and
measured on the validation images: grid pointing in 2 x 2 mosaics of whole photographs, the area of
the mask for a random absent class over that for the label, and LE for the label.

  python benchmarks/target_maskers.py --train imagenette/train.csv \
      --classes imagenette/classes.csv --data imagenette/val.csv --json target_maskers.json
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import captum
import torch
from shared import keep_freed_memory, table
from target import absent, localization, of_different_classes, play, recognized, summary
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

import captum_masking
from captum_masking import MaskingModel, MaskingSaliency, MaskingTrainer, zoo
from captum_masking.data import BoxedImages
from captum_masking.parts.masker import ClassSelector, Masker, MaskPerClass
from captum_masking.parts.questions import mosaics

CLASSES = 10
MASKERS: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "told nothing": ("`Masker`", lambda: {"target_aware": False}),
    "gate that reads the evidence": ("`GatedMasker`", lambda: aware()),
    "evidence beside the features": (
        "`Masker(evidence=True)`",
        lambda: aware(partial(Masker, evidence=True)),
    ),
    "embedding of the class": (
        "`Masker(classes=n)`",
        lambda: aware(partial(Masker, classes=CLASSES)),
    ),
    "class selector": ("`ClassSelector`", lambda: aware(partial(ClassSelector, classes=CLASSES))),
    "one mask per class": ("`MaskPerClass`", lambda: aware(partial(MaskPerClass, classes=CLASSES))),
}


def aware(masker: Any = Masker) -> dict[str, Any]:
    """Return the arguments of a target-aware model."""
    return {"target_aware": True, "masker": masker}


def main() -> None:
    """Train and measure one kind after the other; write after each."""
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    classifier, preprocess = ten_classes(arguments.classes, arguments.size)
    images, labels, boxes = read(arguments.data, preprocess)
    found: dict[str, Any] = {
        "versions": {"captum": captum.__version__, "torch": torch.__version__},
        "captum_masking": captum_masking.__version__,
        "size": arguments.size,
        "epochs": arguments.epochs,
        "seed": arguments.seed,
        "images": len(images),
        "maskers": {},
    }
    nothing: MaskingModel | None = None
    for name, (code, options) in MASKERS.items():
        model, seconds = trained(classifier, preprocess, arguments, options())
        nothing = nothing or model
        figures = measure(model, nothing, images, labels, boxes)
        found["maskers"][name] = {"code": code, "seconds": seconds, **figures}
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(name, json.dumps(found["maskers"][name]), flush=True)
    show(found["maskers"])


def parse() -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--train", type=Path, required=True, metavar="CSV")
    parser.add_argument("--data", type=Path, required=True, metavar="CSV", help="with boxes")
    parser.add_argument("--classes", type=Path, required=True, metavar="CSV")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--size", type=int, default=160, help="of the images, in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, default=Path("target_maskers.json"))
    return parser.parse_args()


def ten_classes(classes: Path, size: int) -> tuple[nn.Module, zoo.Preprocess]:
    """Prepare EfficientNet-Lite0 with the rows of its head that are these classes."""
    with classes.open(encoding="utf-8") as lines:
        rows = [int(row["imagenet1k_label"]) for row in csv.DictReader(lines)]
    classifier, preprocess = zoo.load_classifier("efficientnet-lite0", image_size=size)
    head = classifier._fc
    small = nn.Linear(head.in_features, len(rows))
    small.load_state_dict({"weight": head.weight[rows], "bias": head.bias[rows]})
    classifier._fc = small
    return classifier, preprocess


def read(path: Path, preprocess: zoo.Preprocess) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Read photographs, labels and boxes."""
    data = BoxedImages(path, transform=preprocess)
    pairs = [data[row] for row in range(len(data))]
    images = torch.stack([image for image, _ in pairs])
    return images, torch.tensor([label for _, label in pairs]), list(data.boxes)


def trained(
    classifier: nn.Module,
    preprocess: zoo.Preprocess,
    arguments: argparse.Namespace,
    options: dict[str, Any],
) -> tuple[MaskingModel, float]:
    """Train a masker of one kind; return its model and how long it took."""
    torch.manual_seed(arguments.seed)
    data = BoxedImages(arguments.train, transform=preprocess.augmented)
    loader = DataLoader(Subset(data, range(0, len(data), 2)), 16, shuffle=True, drop_last=True)
    model = MaskingModel(classifier, **options)
    started = perf_counter()
    trainer = MaskingTrainer(model, train_classifier=False)
    trainer.fit(loader, arguments.epochs, show_progress=False)
    return model, perf_counter() - started


def measure(
    model: MaskingModel, nothing: MaskingModel, images: Tensor, labels: Tensor, boxes: list[Tensor]
) -> dict[str, Any]:
    """Measure a model; figures of absent classes only where it is told the class."""
    chosen = of_different_classes(recognized(model, images, labels), labels)
    pictures, answers = mosaics(images[chosen]), labels[chosen].view(-1, 4)
    explain = MaskingSaliency(model).attribute if model.target_aware else lambda x, t: model.mask(x)
    figures = {
        "grid_pointing": summary(play(explain, pictures, answers)),
        "localization": localization(model, nothing, images, labels, boxes),
    }
    return figures | ({"absent": absent(model, images, labels)} if model.target_aware else {})


def show(maskers: dict[str, Any]) -> None:
    """Print the figures as a table."""
    rows = [
        [name, f"{100 * row['grid_pointing']['mean']:.1f}",
         f"{row.get('absent', {}).get('area_to_present_median_random', 1):.3f}",
         f"{100 * row['localization']['LE_label']:.1f}"]
        for name, row in maskers.items()
    ]  # fmt: skip
    print(table(["masker", "grid pointing, %", "absent/present area", "LE, %"], rows))


if __name__ == "__main__":
    main()
