"""Opti-CAM and Score-CAM beside Grad-CAM on photographs with boxes: faithfulness, places, cost.

All read ``_blocks.15`` of EfficientNet-Lite0, 320 maps of 7 x 7, explain the class in the label
column, hide pixels by the mean color and are judged by the same network, its batch norm folded into
its convolutions. Fake-CAM keeps all but one pixel.

  python benchmarks/cams.py --data val.csv --label-column label1k --images 12 --json cams.json
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import captum
import torch
from captum.attr import LayerGradCam
from shared import keep_freed_memory, table
from torch import Tensor, nn

import captum_masking
from captum_masking import zoo
from captum_masking.benchmark.libraries import module_at, twin
from captum_masking.data import BoxedImages
from captum_masking.methods import OptiCAM, ScoreCAM
from captum_masking.methods.base import normalized
from captum_masking.metrics import (
    MaxBoxAccV2,
    boxes_to_pixels,
    deletion,
    insertion,
    localization_error,
    masked_scores,
)
from captum_masking.model.taps import logits_of
from captum_masking.training.update import Folded

LAYER = "_blocks.15"
SEED, BATCH, STEP_PX = 0, 4, 224 * 224 // 10
COLUMNS = ("average_drop", "average_gain", "average_increase", "insertion", "deletion", "LE")

#: Called with images and classes; returns maps ``(B, 1, H, W)`` in [0, 1].
Explain = Callable[[Tensor, Tensor], Tensor]


def main() -> None:
    """Score a batch of all rows, write, go on with the next."""
    arguments = _arguments()
    keep_freed_memory()
    classifier, preprocess = zoo.load_classifier("efficientnet-lite0")
    data = BoxedImages(arguments.data, transform=preprocess, label_column=arguments.label_column)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(SEED)).tolist()
    example = torch.stack([data[order[0]][0]])
    with Folded().lent(classifier.eval(), [example], logits_of) as network:
        network = network.to(memory_format=torch.channels_last)
        rows = {name: Row(explain, network) for name, explain in methods(network).items()}
        for first in range(0, arguments.images, BATCH):
            chosen = order[first : min(first + BATCH, arguments.images)]
            inputs, target = zip(*(data[index] for index in chosen), strict=True)
            images = torch.stack(inputs).contiguous(memory_format=torch.channels_last)
            boxes = [boxes_to_pixels(data.boxes[index], *images.shape[2:]) for index in chosen]
            for row in rows.values():
                row.add(images, torch.tensor(target), boxes)
            found = {name: row.found() for name, row in rows.items()}
            write(arguments, first + len(chosen), found)
        print(describe(found))


def methods(network: nn.Module) -> dict[str, Explain]:
    """Name what is compared."""
    return {
        "Fake-CAM": fake_cam,
        "Grad-CAM": grad_cam(network),
        "Score-CAM": of(ScoreCAM(network, LAYER)),
        "Opti-CAM": of(OptiCAM(network, LAYER)),
    }


def of(method: OptiCAM | ScoreCAM) -> Explain:
    """Make a row of a method of ours, whose channels are all the same."""
    return lambda images, target: method.attribute(images, target)[:, :1]


def grad_cam(network: nn.Module) -> Explain:
    """Make a row of Captum's Grad-CAM, scaled as the others."""
    copied = twin(network)
    method = LayerGradCam(copied, module_at(copied, LAYER))

    def explain(images: Tensor, target: Tensor) -> Tensor:
        given = images.clone().requires_grad_()
        coarse = method.attribute(given, target, relu_attributions=True).detach()
        return normalized(coarse, images.shape[2:])

    return explain


def fake_cam(images: Tensor, target: Tensor) -> Tensor:
    """Return maps of ones but for the first pixel."""
    maps = torch.ones_like(images[:, :1])
    maps[..., 0, 0] = 0
    return maps


class Row:
    """What is measured of one method, image by image."""

    def __init__(self, explain: Explain, network: nn.Module) -> None:
        self.explain, self.network = explain, network
        self.values: dict[str, list[float]] = {name: [] for name in (*COLUMNS, "area")}
        self.boxes = MaxBoxAccV2()
        self.seconds = self.forward_seconds = 0.0

    def add(self, images: Tensor, target: Tensor, boxes: list[Tensor]) -> None:
        """Explain and judge a batch."""
        started = time.process_time()  # of this process: a busy machine counts for less
        with torch.no_grad():
            self.network(images)
        explained = time.process_time()
        maps = self.explain(images, target)
        self.forward_seconds += explained - started
        self.seconds += time.process_time() - explained
        judged = (self.network, images, maps, target)
        scores = masked_scores(*judged) | {
            "insertion": insertion(*judged, step_px=STEP_PX),
            "deletion": deletion(*judged, step_px=STEP_PX),
            "LE": localization_error(maps, boxes),
            "area": maps.mean((1, 2, 3)),
        }
        for name, values in self.values.items():
            values += scores[name].tolist()
        self.boxes.update(maps, boxes)

    def found(self) -> dict[str, float]:
        """Return the means."""
        means = {name: sum(values) / len(values) for name, values in self.values.items()}
        means["MaxBoxAccV2"] = float(self.boxes.compute())
        means["forwards"] = self.seconds / self.forward_seconds
        return {name: round(value, 4) for name, value in means.items()}


def describe(rows: dict[str, dict[str, float]]) -> str:
    """Lay out the rows as a table, in percent but for the cost."""
    names = [*COLUMNS, "area", "MaxBoxAccV2"]
    lines = [
        [name, *(f"{100 * row[each]:.1f}" for each in names), f"{row['forwards']:.0f}"]
        for name, row in rows.items()
    ]
    return table(["method", *names, "forwards"], lines)


def write(arguments: argparse.Namespace, images: int, rows: dict[str, Any]) -> None:
    """Write the JSON: what was run, with what, and what came out."""
    words = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
    versions = {
        "captum_masking": captum_masking.__version__,
        "captum": captum.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    result = {
        "command": shlex.join([Path(sys.argv[0]).name, *words]),
        "versions": versions,
        "seed": SEED,
        "images": images,
        "rows": rows,
    }
    arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="CSV with boxes")
    parser.add_argument("--label-column", default="label")
    parser.add_argument("--images", type=int, default=100, metavar="N")
    parser.add_argument("--json", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
