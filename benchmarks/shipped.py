"""Maskers beside CAM, paired over images: outline, box, and what is recognized at equal area.

CAM is Grad-CAM at the map that the classifier pools. Maps are for the label; for pets, and for
maskers that are told no class, they are for the prediction. They are cut at their mean; "at best
cut" is the best cut of all for these images, for each row. Several models differ in their seed:
scores are means over them, with their spread. Intervals are of 4,000 resamples of the images.

    python benchmarks/shipped.py --data $DATA --json benchmarks/shipped.json
    python benchmarks/shipped.py --data $DATA --model seed-0 seed-1 seed-2 --json seeds.json
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shared import keep_freed_memory, table
from torch import Tensor
from tqdm.auto import tqdm

from captum_masking import zoo
from captum_masking.benchmark.images import Batch, Images
from captum_masking.benchmark.libraries import default_methods
from captum_masking.benchmark.measures import draw, interval, mean
from captum_masking.benchmark.methods import Method
from captum_masking.data import BoxedImages, SegmentedImages
from captum_masking.metrics import MaxBoxAcc, MaxBoxAccV2, best_box_iou, mask_iou
from captum_masking.metrics.maps import most_salient

CAM = "pytorch-grad-cam GradCAM"
AREAS = (0.37, 0.5)
LOWER = ("missed", *(f"out at {area:.0%}" for area in AREAS))  # is better


class Scored:
    """What one method's maps are worth: a number for each image, and some for all of them."""

    def __init__(self, method: Method) -> None:
        self.method = method
        self.columns: dict[str, list[Tensor]] = {}
        self.best = {"missed at best cut": MaxBoxAcc(), "MaxBoxAccV2": MaxBoxAccV2()}

    @torch.no_grad()
    def add(self, batch: Batch, classifier: torch.nn.Module) -> None:
        """Score the maps of one batch."""
        with torch.enable_grad():
            maps = self.method.maps(batch.inputs, batch.target).detach()
        iou = scores_of(maps, batch)
        found = {"IoU": iou, "missed": (iou <= 0.5).float()}
        if batch.boxes is not None:
            for best in self.best.values():
                best.update(maps, batch.boxes)
        for area in AREAS:
            shown = most_salient(maps, area)
            for side, mask in (("in", shown), ("out", 1 - shown)):
                said = classifier(batch.inputs * mask).argmax(1)
                found[f"{side} at {area:.0%}"] = (said == batch.target).float()
        for name, values in found.items():
            self.columns.setdefault(name, []).append(values)

    def scores(self) -> dict[str, np.ndarray]:
        """Return the scores of all images by name."""
        return {name: torch.cat(parts).numpy() for name, parts in self.columns.items()}

    def of_all(self) -> dict[str, float]:
        """Return what has one value for all images."""
        found = {n: float(b.compute()) for n, b in self.best.items() if b.update_called}
        if "missed at best cut" in found:
            found["missed at best cut"] = 1 - found["missed at best cut"]
        return found


def scores_of(maps: Tensor, batch: Batch) -> Tensor:
    """Return the IoU of each map with its object: of boxes, or of pixels."""
    if batch.pixels is None:
        return best_box_iou(maps, batch.boxes or [])
    judged = maps.where(~batch.pixels.ignore[:, None], 0)
    return mask_iou(judged, batch.pixels.object[:, None])


def compare(data: Any, models: list[Any]) -> dict[str, Any]:
    """Score the maskers, and CAM, on all images of a data set."""
    images, first = Images(data, limit=None, seed=0, batch_size=16), models[0]
    ours = [Scored(default_methods(m, images.example())[0]["MaskingSaliency"]) for m in models]
    cam = Scored(default_methods(first, images.example())[0][CAM])
    predicted = isinstance(data, SegmentedImages) or not first.target_aware
    batches = images.batches(first.classifier, predicted=predicted)
    for batch in tqdm(batches, total=-(-len(images) // 16)):
        for each in (*ours, cam):
            each.add(batch, first.classifier)
    return {"images": len(images), **summary(ours, cam)}


def summary(ours: list[Scored], cam: Scored) -> dict[str, Any]:
    """Give each mean, its spread over models, and how much better ours is, with an interval."""
    found: dict[str, Any] = {}
    theirs = cam.scores()
    for name, b in theirs.items():
        a = np.stack([each.scores()[name] for each in ours])
        sign = -1 if name in LOWER else 1
        draws = draw(len(b), resamples=4000, seed=0)
        better = interval(mean(sign * (a.mean(0) - b).astype(float), draws))
        by = [better.mean, better.low, better.high]
        found[name] = spread(a.mean(1)) | {"cam": float(b.mean()), "better": by}
    of_cam = cam.of_all()
    each_of_all = [each.of_all() for each in ours]
    for name, value in of_cam.items():
        found[name] = spread([each[name] for each in each_of_all]) | {"cam": value}
    return found


def spread(values: Any) -> dict[str, Any]:
    """Give the mean over models, and their standard deviation."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"ours": float(np.mean(values)), "deviation": deviation}


def boxed(folder: str, column: str, data: Path, preprocess: Any) -> BoxedImages:
    """Read photographs with boxes."""
    return BoxedImages(data / folder / "val.csv", transform=preprocess, label_column=column)


def segmented(data: Path, preprocess: Any) -> SegmentedImages:
    """Read photographs with pixel masks."""
    return SegmentedImages(data / "pets/val.csv", transform=preprocess)


#: The first three are of ImageNet; the last needs a classifier of its twenty classes.
SETS = {
    "imagenet1k": partial(boxed, "imagenet1k", "label1k"),
    "imagenette": partial(boxed, "imagenette", "label1k"),
    "pets": segmented,
    "tiny20": partial(boxed, "tiny20", "label"),
}


def main() -> None:
    """Score sets of photographs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--model", nargs="+", default=[zoo.SHIPPED], help="folders; default: shipped"
    )
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS)[:3])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    keep_freed_memory()
    loaded = [zoo.load(folder) for folder in options.model]
    models, preprocess = [model for model, _ in loaded], loaded[0][1]
    found = {name: compare(SETS[name](options.data, preprocess), models) for name in options.sets}
    rows = [line(name, key, each) for name, s in found.items() for key, each in list(s.items())[1:]]
    print(table(["images", "", "ours", "CAM", "better by"], rows))
    if options.json:
        command = f"python benchmarks/shipped.py --data $DATA --json benchmarks/{options.json.name}"
        if options.model != [zoo.SHIPPED]:
            command += f" --model {' '.join(Path(each).name for each in options.model)}"
            command += f" --sets {' '.join(options.sets)}"
        said = {"sets": found, "command": command, "torch": torch.__version__}
        options.json.write_text(json.dumps(said, indent=1) + "\n")


def line(name: str, key: str, each: dict[str, Any]) -> list[str]:
    """Lay out one figure in points of a hundred."""
    ours = f"{100 * each['ours']:.1f}"
    if each["deviation"] is not None:
        ours += f" ± {100 * each['deviation']:.1f}"
    by = each.get("better")
    better = "" if by is None else "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * v for v in by))
    return [name, key, ours, f"{100 * each['cam']:.1f}", better]


if __name__ == "__main__":
    main()
