"""The masker that ships beside CAM: the box and the outline of the object, paired over images.

CAM is Grad-CAM at the map that the classifier pools, where the two are one, for the label (pets:
the prediction). Both are cut at their mean; intervals are of 4,000 resamples of the images.

    python benchmarks/shipped.py --data $DATA --json benchmarks/shipped.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shared import table
from torch import Tensor
from tqdm.auto import tqdm

from captum_masking import zoo
from captum_masking.benchmark.images import Batch, Images
from captum_masking.benchmark.libraries import default_methods
from captum_masking.benchmark.measures import draw, interval, mean
from captum_masking.data import BoxedImages, SegmentedImages
from captum_masking.metrics import best_box_iou, mask_iou

METHODS = ("MaskingSaliency", "pytorch-grad-cam GradCAM")


def scores_of(maps: Tensor, batch: Batch) -> Tensor:
    """Return the IoU of each map with its object: of boxes, or of pixels."""
    if batch.pixels is None:
        return best_box_iou(maps, batch.boxes or [])
    judged = maps.where(~batch.pixels.ignore[:, None], 0)
    return mask_iou(judged, batch.pixels.object[:, None])


def compare(data: Any, model: Any) -> dict[str, Any]:
    """Score both on all images of a data set."""
    images = Images(data, limit=None, seed=0, batch_size=16)
    methods = default_methods(model, images.example())[0]
    scores: dict[str, list[Tensor]] = {name: [] for name in METHODS}
    batches = images.batches(model.classifier, predicted=isinstance(data, SegmentedImages))
    for batch in tqdm(batches, total=-(-len(images) // 16)):
        for name, found in scores.items():
            found.append(scores_of(methods[name].maps(batch.inputs, batch.target), batch))
    return summary(*(torch.cat(found).numpy() for found in scores.values()))


def summary(ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    """Give each mean, and how much better ours is, with its interval; LE is a share of misses."""
    draws = draw(len(ours), resamples=4000, seed=0)
    found: dict[str, Any] = {"images": len(ours)}
    for name, a, b in (
        ("iou", ours, theirs),
        ("hit", ours > 0.5, theirs > 0.5),
    ):
        better = interval(mean(a.astype(float) - b.astype(float), draws))
        by = [better.mean, better.low, better.high]
        found[name] = {"ours": float(a.mean()), "cam": float(b.mean()), "better": by}
    return found


def main() -> None:
    """Score three sets of photographs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model, preprocess = zoo.efficientnet_lite0()
    sets = {
        "imagenet1k": BoxedImages(
            options.data / "imagenet1k/val.csv", transform=preprocess, label_column="label1k"
        ),
        "imagenette": BoxedImages(
            options.data / "imagenette/val.csv", transform=preprocess, label_column="label1k"
        ),
        "pets": SegmentedImages(options.data / "pets/val.csv", transform=preprocess),
    }
    found = {name: compare(images, model) for name, images in sets.items()}
    rows = [
        [name, key, *(f"{100 * each[key][who]:.1f}" for who in ("ours", "cam"))]
        + ["{:.1f} [{:.1f}, {:.1f}]".format(*(100 * value for value in each[key]["better"]))]
        for name, each in found.items()
        for key in ("iou", "hit")
    ]
    print(table(["images", "", "ours", "CAM", "better by"], rows))
    if options.json:
        command = "python benchmarks/shipped.py --data $DATA --json benchmarks/shipped.json"
        said = {"sets": found, "command": command, "torch": torch.__version__}
        options.json.write_text(json.dumps(said, indent=1) + "\n")


if __name__ == "__main__":
    main()
