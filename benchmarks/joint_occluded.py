"""Is a jointly trained classifier more robust where saliency methods hide what matters?

Takes the classifiers that `joint.py` keeps. For each image, a method finds the pixels that matter
to the plain classifier; the most salient 10 to 50 % of them are hidden in the mean color, and every
classifier is asked for the class. All classifiers see the same holes.

    python benchmarks/joint_occluded.py digits --json benchmarks/study/joint/digits-occluded.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captum.attr import IntegratedGradients, LayerAttribution, LayerGradCam, Occlusion
from joint import SETTINGS, Images, Lab, markdown
from shared import keep_freed_memory
from torch import Tensor, nn

from captum_masking.benchmark.study import difference
from captum_masking.metrics import occluded_accuracy

AREAS = (0.1, 0.2, 0.3, 0.4, 0.5)
CLASSIFIERS = ("plain", "joint both sides", "clean", "hardened")
LAST = 14  # the ReLU before the max pooling of the five convolutions


def grad_cam(network: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
    """Return Grad-CAM at the map that the classifier pools."""
    maps = LayerGradCam(network, network[LAST]).attribute(inputs, target, relu_attributions=True)
    return LayerAttribution.interpolate(maps, inputs.shape[2:], "bilinear")


def integrated_gradients(network: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
    """Return the absolute values, summed over colors."""
    maps = IntegratedGradients(network).attribute(inputs, target=target, n_steps=20)
    return maps.abs().sum(1, keepdim=True)


def occlusion(network: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
    """Return by how much the logit falls when a patch of an eighth of the side is hidden."""
    patch = inputs.shape[-1] // 8
    window = (inputs.shape[1], patch, patch)
    maps = Occlusion(network).attribute(inputs, window, window, target=target)
    return maps.sum(1, keepdim=True)


METHODS = {
    "random rectangles": None,
    "Grad-CAM": grad_cam,
    "IntegratedGradients": integrated_gradients,
    "Occlusion": occlusion,
}


def right(lab: Lab, images: Images) -> dict[str, dict[str, Tensor]]:
    """Return ``(images, areas)`` for each method and classifier: 1 where it is right."""
    plain = lab.plain().eval()
    kept = [name for name in CLASSIFIERS if lab.file(name).exists()]
    networks = {name: lab.classifier(name, lab.plain).eval() for name in kept}
    found: dict[str, dict[str, Tensor]] = {}
    for name, method in METHODS.items():
        maps = None
        if method is not None:
            parts = zip(images.inputs.split(50), images.labels.split(50), strict=True)
            maps = torch.cat([method(plain, *part).detach() for part in parts])
        found[name] = {
            said: occluded_accuracy(network, images.inputs, images.labels, maps, areas=AREAS)
            for said, network in networks.items()
        }
    return found


def rows_of(method: str, runs: list[dict[str, dict[str, Tensor]]]) -> list[dict[str, Any]]:
    """Compare each classifier with the plain one of its seed."""
    rows = []
    for name in CLASSIFIERS:
        seeds = [run[method] for run in runs if name in run[method]]
        if not seeds:
            continue
        ours, plain = (points(seeds, n) for n in (name, "plain"))
        gap = difference(ours, plain)
        by_area = torch.stack([each[name] for each in seeds]).mean((0, 1)).tolist()
        row = {
            "hidden by": method,
            "classifier": name,
            "seeds": len(seeds),
            "accuracy": round(float(ours.mean()), 1),
            "minus plain": [round(v, 1) for v in (gap.mean, gap.low, gap.high)],
            "by area": [round(100 * value, 1) for value in by_area],
        }
        rows.append(row)
    return rows


def points(seeds: list[dict[str, Tensor]], name: str) -> np.ndarray:
    """Return ``(seeds, images)``: accuracy over the areas, points of a hundred."""
    return np.stack([100 * each[name].mean(1).double().numpy() for each in seeds])


def main() -> None:
    """Score all kept classifiers of a regime, and print differences to the plain one."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("regime", choices=SETTINGS)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("joint-classifiers"))
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    keep_freed_memory()
    setting = SETTINGS[options.regime]
    training, scored = setting.read(options.data, setting.counts)
    reported = scored.only(torch.arange(len(scored)) % 4 != 3)  # as joint.py reports
    folder = options.work / options.regime
    runs = [
        right(Lab(setting, training, scored, reported, seed, folder), reported)
        for seed in range(options.seeds)
    ]
    rows = [row for name in METHODS for row in rows_of(name, runs)]
    facts = {"regime": options.regime, "images": len(reported), "areas": AREAS}
    document = {"facts": {**facts, "torch": torch.__version__}, "rows": rows}
    options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    header = list(rows[0])[:5]
    print(markdown(header, [[str(row[name]) for name in header] for row in rows]))


if __name__ == "__main__":
    main()
