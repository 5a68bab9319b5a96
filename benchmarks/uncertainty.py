"""Does an ensemble know where its map fails? Its spread against boxes that are missed.

Three maskers of EfficientNet-Lite0, frozen, alike but for their seed (weights of the masker, order
and crops of the images), 120 steps of 16 photographs each. On other photographs: the AUROC of a
number for the images whose box the mean map misses (IoU of 0.5 or less, cut at its mean), with
95 % intervals over 4,000 resamples of the images. The spread is the mean over pixels of the
standard deviation over maskers, which was fixed beforehand; the other numbers stand beside it.

    python benchmarks/uncertainty.py --data $DATA --maskers DIR --json benchmarks/uncertainty.json
"""

from __future__ import annotations

import argparse
import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from shared import keep_freed_memory, table
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from captum_masking import MaskingModel, MaskingTrainer, zoo
from captum_masking.data import BoxedImages
from captum_masking.methods import Ensemble
from captum_masking.metrics import (
    best_box_iou,
    boxes_to_pixels,
    mask_area,
    mask_entropy,
    mask_iou,
)

SEEDS, EPOCHS, STEPS, BATCH = (0, 1, 2), 2, 60, 16
RESAMPLES = 4000
Numbers = dict[str, np.ndarray]
NUMBERS = {
    "spread": "standard deviation over the maskers, mean over pixels",
    "spread of masked": "the same, divided by the area of the mean map",
    "masks overlap little": "1 - IoU of two maskers' masks, cut at their mean, mean over pairs",
    "one map is gray": "entropy of one masker's mask: no ensemble needed",
    "map is small": "minus the area of the mean map: no ensemble needed",
    "class is unsure": "1 - the classifier's confidence: no masker needed",
}


def train(seed: int, data: Path, folder: Path) -> None:
    """Train one masker, and save it."""
    torch.manual_seed(seed)
    classifier, preprocess = zoo.load_classifier("efficientnet-lite0")
    images = BoxedImages(data / "imagenet1k/train.csv", transform=preprocess.augmented)
    loader = DataLoader(images, BATCH, shuffle=True, drop_last=True)
    model, layout = MaskingModel(classifier), torch.channels_last
    trainer = MaskingTrainer(model, train_classifier=False, memory_format=layout)
    trainer.fit(loader, EPOCHS, steps_per_epoch=STEPS)
    model.save(folder, notes=preprocess.notes())


@torch.no_grad()
def score(ensemble: Ensemble, data: BoxedImages) -> tuple[Numbers, Numbers]:
    """Return each number of each image, and the box IoU of the mean map and of each member."""
    numbers: dict[str, list[float]] = {name: [] for name in NUMBERS}
    ious: dict[str, list[float]] = {name: [] for name in ("mean", *map(str, SEEDS))}
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0)).tolist()
    for first in tqdm(range(0, len(data), BATCH)):
        chosen = order[first : first + BATCH]
        inputs = torch.stack([data[index][0] for index in chosen])
        boxes = [boxes_to_pixels(data.boxes[index], *inputs.shape[2:]) for index in chosen]
        logits, masks = masks_of(ensemble, inputs)
        if not first:  # what follows is what the ensemble says
            said = ensemble.attribute(inputs, return_std=True)
            expected = masks.mean(0), masks.std(0, correction=0)
            torch.testing.assert_close([each[:, :1] for each in said], list(expected))
        mean, spread = masks.mean(0), masks.std(0, correction=0).mean((1, 2, 3))
        cut = masks > masks.mean((2, 3, 4), keepdim=True)
        overlaps = [mask_iou(a.float(), b) for a, b in combinations(cut, 2)]
        found = {
            "spread": spread,
            "spread of masked": spread / mask_area(mean),
            "masks overlap little": 1 - torch.stack(overlaps).mean(0),
            "one map is gray": mask_entropy(masks[0]),
            "map is small": -mask_area(mean),
            "class is unsure": 1 - logits.softmax(1).amax(1),
        }
        for name, values in found.items():
            numbers[name] += values.tolist()
        for name, maps in zip(ious, (mean, *masks), strict=True):
            ious[name] += best_box_iou(maps, boxes).tolist()
    return as_arrays(numbers), as_arrays(ious)


def masks_of(ensemble: Ensemble, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits, and the masks of all members, ``(members, B, 1, H, W)``, by one pass."""
    logits, features = ensemble.members[0].read((inputs,))
    masks = [each.decode(features, each.question(logits))[0] for each in ensemble.members]
    return logits, torch.stack(masks)


def as_arrays(lists: dict[str, list[float]]) -> Numbers:
    """Return the same as arrays."""
    return {name: np.array(values) for name, values in lists.items()}


def auroc(values: np.ndarray, missed: np.ndarray) -> float:
    """Return the probability that a missed image has a higher value than one that is found."""
    positive = int(missed.sum())
    negative = len(missed) - positive
    above = rankdata(values)[missed].sum() - positive * (positive + 1) / 2
    return float(above / (positive * negative))


def resampled(statistic: Any, draws: np.ndarray) -> list[float]:
    """Return a statistic of all images with its 95 % interval; the first draw is all of them."""
    values = [statistic(chosen) for chosen in draws]
    return [values[0], *np.quantile(values[1:], [0.025, 0.975]).tolist()]


def report(numbers: Numbers, ious: Numbers) -> dict[str, Any]:
    """Return all figures by name."""
    missed = ious["mean"] <= 0.5
    count = len(missed)
    random = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
    draws = np.concatenate([np.arange(count)[None], random])
    single = np.mean([ious[name] <= 0.5 for name in map(str, SEEDS)], axis=0)
    half = np.argsort(numbers["spread"])[: count // 2]
    least = np.isin(np.arange(count), half)
    return {
        "images": count,
        "missed": float(missed.mean()),
        "missed_by_one": float(single.mean()),
        "mean_misses_fewer": resampled(lambda i: float((single - missed)[i].mean()), draws),
        "auroc": {
            name: resampled(lambda i, v=values: auroc(v[i], missed[i]), draws)
            for name, values in numbers.items()
        },
        "spread_above_unsure": resampled(
            lambda i: (
                auroc(numbers["spread"][i], missed[i])
                - auroc(numbers["class is unsure"][i], missed[i])
            ),
            draws,
        ),
        "missed_in_half_with_less_spread": float(missed[least].mean()),
        "missed_in_half_with_more_spread": float(missed[~least].mean()),
    }


def main() -> None:
    """Train what is not there yet, score, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--maskers", type=Path, required=True, help="they are trained into it")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    keep_freed_memory()
    folders = {seed: options.maskers / f"seed-{seed}" for seed in SEEDS}
    for seed, folder in folders.items():
        if not folder.exists():
            train(seed, options.data, folder)
    classifier, preprocess = zoo.load_classifier("efficientnet-lite0")  # one for all
    ensemble = Ensemble([MaskingModel.load(folder, classifier) for folder in folders.values()])
    csv = options.data / "imagenet1k/val.csv"
    images = BoxedImages(csv, transform=preprocess, label_column="label1k", require_boxes=True)
    found = report(*score(ensemble, images))
    rows = [
        [name, "{:.2f} [{:.2f}, {:.2f}]".format(*values), NUMBERS[name]]
        for name, values in found["auroc"].items()
    ]
    print(table(["", "AUROC", "what"], rows))
    print(json.dumps({name: value for name, value in found.items() if name != "auroc"}, indent=1))
    if options.json:
        command = "python benchmarks/uncertainty.py --data $DATA --maskers DIR"
        said = {**found, "command": f"{command} --json benchmarks/uncertainty.json"}
        said |= {"torch": torch.__version__, "steps": EPOCHS * STEPS, "batch": BATCH}
        said |= {"maskers": len(SEEDS), "words": NUMBERS}
        options.json.write_text(json.dumps(said, indent=1) + "\n")


if __name__ == "__main__":
    main()
