"""CA-Stream beside EfficientNet-Lite0: is accuracy kept, and does its attention find objects?

The frozen classifier runs once over the training photographs; the stream then learns from its maps,
without augmentation, by the trainer of ``CAStream``. Rows: the attention, one map for all classes,
and Grad-CAM for the labels, of the classifier and of the one with attention in place of pooling;
without a projection behind the attention these two are the same. All maps are scaled to [0, 1],
holes are black, and the classifier as it is judges.

  python benchmarks/ca_stream.py --data imagenette --json benchmarks/ca_stream.json
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import captum
import torch
from captum.attr import LayerGradCam
from shared import keep_freed_memory, table
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import captum_masking
from captum_masking import zoo
from captum_masking.data import BoxedImages
from captum_masking.methods import CAStream
from captum_masking.methods.ca_stream import Streamed
from captum_masking.metrics import (
    MaxBoxAccV2,
    boxes_to_pixels,
    centered_square,
    localization_error,
    masked_scores,
)
from captum_masking.metrics.maps import min_max
from captum_masking.model.layouts import ChannelsFirst
from captum_masking.model.taps import Taps
from captum_masking.parts.infill import Black
from captum_masking.parts.masker import linear


class Rows(NamedTuple):
    """The maps of images in half precision, ``(images, 1, values)``, and their shapes."""

    rows: Tensor
    shapes: Sequence[torch.Size]


#: Of what masks keep: the probability of the label lost and gained, and how often it rises.
KEPT = {"AD": "average_drop", "AG": "average_gain", "AI": "average_increase"}


class FromMaps(nn.Module):
    """The classifier from its maps on, which come as one row ``(B, 1, values)``."""

    def __init__(self, classifier: nn.Module, pool: str, shapes: Sequence[torch.Size]) -> None:
        super().__init__()
        self.shapes = shapes
        self.maps = nn.ModuleList(nn.Identity() for _ in shapes)
        self.pool = classifier.get_submodule(pool)
        self.head = classifier._fc

    def forward(self, row: Tensor) -> Tensor:
        """Answer as the classifier does."""
        parts = row.flatten(1).split([shape.numel() for shape in self.shapes], dim=1)
        named = zip(self.maps, parts, self.shapes, strict=True)
        maps = [each(part.unflatten(1, shape)) for each, part, shape in named]
        return self.head(self.pool(maps[-1]).flatten(1))


def main() -> None:
    """Read, train, measure, print, write."""
    arguments = parse()
    torch.set_num_threads(1)
    keep_freed_memory()
    classifier, preprocess = zoo.load_classifier("efficientnet-lite0")
    train, labels = rows_of(classifier, preprocess, arguments.data / "train.csv")
    held_out, truth = rows_of(classifier, preprocess, arguments.data / "val.csv")
    figures: dict[str, Any] = {
        "versions": {"captum": captum.__version__, "torch": torch.__version__},
        "captum_masking": captum_masking.__version__,
        "seed": arguments.seed,
        "epochs": arguments.epochs,
        "lr": arguments.lr,
        "layers": list(method_of(classifier, arguments).network.layers),
        "images": {"train": len(labels), "val": len(truth)},
        "accuracy": {},
    }
    plain = FromMaps(classifier, "_avg_pooling", train.shapes).eval()
    figures["accuracy"]["average"] = accuracies(plain, held_out, truth)
    maps = {"Grad-CAM": grad_cam(plain, plain, held_out, truth)}
    for name, project in {"attention": False, "attention, projected": True}.items():
        method = beside_maps(method_of(classifier, arguments, project=project), train)
        torch.manual_seed(arguments.seed)
        loader = DataLoader(TensorDataset(train.rows, labels), 50, shuffle=True)
        method.trainer(lr=arguments.lr).fit(loader, arguments.epochs, show_progress=False)
        network = method.network.eval()
        figures["accuracy"][name] = accuracies(network, held_out, truth)
        maps[name] = attention(network, held_out)
        if project:
            name = f"Grad-CAM of {name}"
            maps[name] = grad_cam(network, network.classifier, held_out, truth)
    figures["maps"] = measure(classifier, preprocess, arguments.data / "val.csv", maps)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    show(figures)


def parse() -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, type=Path, help="folder of train.csv and val.csv")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def method_of(
    classifier: nn.Module, arguments: argparse.Namespace, project: bool = True
) -> CAStream:
    """Make the stream that the seed makes."""
    return CAStream(classifier, project=project, seed=arguments.seed)


@torch.no_grad()
def rows_of(classifier: nn.Module, preprocess: zoo.Preprocess, csv: Path) -> tuple[Rows, Tensor]:
    """Run the classifier over the photographs of a table; keep the maps that a stream reads."""
    images = BoxedImages(csv, transform=preprocess, label_column="label1k")
    taps = Taps(classifier, CAStream(classifier).network.layers)
    rows, shapes = [], []
    for inputs, _ in DataLoader(images, 32):
        maps = taps(inputs.to(memory_format=torch.channels_last))[1]
        shapes = [each.shape[1:] for each in maps]
        rows.append(torch.cat([each.flatten(1) for each in maps], dim=1)[:, None].half())
    return Rows(torch.cat(rows), shapes), torch.tensor(images.labels)


def beside_maps(method: CAStream, data: Rows) -> CAStream:
    """Put the same stream beside a classifier that starts from its maps."""
    network = method.network
    names = [f"maps.{index}" for index in range(len(network.layers))]
    classifier = FromMaps(network.classifier, network.pool, data.shapes)
    beside = copy.copy(method)
    layouts = [ChannelsFirst()] * len(names)
    beside.network = Streamed(classifier, names, layouts, "pool", network.stream)
    return beside


@torch.no_grad()
def accuracies(network: nn.Module, data: Rows, labels: Tensor) -> dict[str, float]:
    """Measure accuracy in percent among all classes, and among those of the labels."""
    logits = torch.cat([network(rows.float()) for rows in data.rows.split(50)])
    known = labels.unique()
    found = {"all": logits.argmax(1), "ten": known[logits[:, known].argmax(1)]}
    return {name: percent(answers == labels) for name, answers in found.items()}


def grad_cam(network: nn.Module, from_maps: FromMaps, data: Rows, labels: Tensor) -> Tensor:
    """Return Grad-CAM of a network at the map that is pooled, ``(images, 1, *cells)``."""
    method = LayerGradCam(network, from_maps.maps[-1])
    pairs = zip(data.rows.split(50), labels.split(50), strict=True)
    cams = [method.attribute(rows.float(), y, relu_attributions=True) for rows, y in pairs]
    return torch.cat(cams).detach()


@torch.no_grad()
def attention(network: nn.Module, data: Rows) -> Tensor:
    """Return the scores of the last attention, ``(images, 1, *cells)``."""
    taps = Taps(network, ["attention"])
    return torch.cat([taps(rows.float())[1][0] for rows in data.rows.split(50)])


def measure(
    classifier: nn.Module, preprocess: zoo.Preprocess, csv: Path, maps: dict[str, Tensor]
) -> dict[str, dict[str, float]]:
    """Judge all maps by boxes, and by the classifier on what they keep."""
    images = BoxedImages(csv, transform=preprocess, label_column="label1k", require_boxes=True)
    inputs = torch.stack([images[index][0] for index in range(len(images))])
    target = torch.tensor(images.labels)
    side, infill = preprocess.image_size, Black(preprocess.mean, preprocess.std)
    boxes = [boxes_to_pixels(each, side, side) for each in images.boxes]
    square = to_mask(centered_square(side, side), side).expand(len(inputs), -1, -1)
    found: dict[str, dict[str, float]] = {"centered square": by_boxes(square, boxes)}
    for name, each in maps.items():
        masks = min_max(linear(each.float(), (side, side)))[:, 0]
        kept = masked_scores(classifier, inputs, masks, target, infill=infill)
        found[name] = by_boxes(masks, boxes) | {key: percent(kept[of]) for key, of in KEPT.items()}
    return found


def by_boxes(masks: Tensor, boxes: Sequence[Tensor]) -> dict[str, float]:
    """Judge masks by the boxes of the objects."""
    levels = MaxBoxAccV2()
    levels.update(masks, boxes)
    return {
        "LE": percent(localization_error(masks, boxes)),
        "MaxBoxAccV2": round(100 * float(levels.compute()), 1),
    }


def to_mask(box: Tensor, side: int) -> Tensor:
    """Draw a box of pixels."""
    x0, y0, x1, y1 = box.flatten().int().tolist()
    mask = torch.zeros(side, side)
    mask[y0:y1, x0:x1] = 1
    return mask


def percent(values: Tensor) -> float:
    """Average, in percent."""
    return round(100 * float(values.double().mean()), 1)


def show(figures: dict[str, Any]) -> None:
    """Print two tables."""
    for name in ("accuracy", "maps"):
        rows = figures[name]
        header = list(max(rows.values(), key=len))
        cells = [[f"{each[k]:.1f}" if k in each else "" for k in header] for each in rows.values()]
        print(table([name, *header], [[row, *line] for row, line in zip(rows, cells, strict=True)]))
        print()


if __name__ == "__main__":
    main()
