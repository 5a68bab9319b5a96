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
    """Return ``(images, areas)`` for each method and classifier: 1 where the class is recognized."""
    plain = lab.plain().eval()
    rest = CLASSIFIERS[1:]
    networks = {"plain": plain, **{n: lab.classifier(n, missing).eval() for n in rest if kept(lab, n)}}
    found: dict[str, dict[str, Tensor]] = {}
    for name, method in METHODS.items():
        parts = zip(images.inputs.split(50), images.labels.split(50), strict=True)
        maps = None if method is None else torch.cat([method(plain, *part).detach() for part in parts])
        found[name] = {
            said: occluded_accuracy(network, images.inputs, images.labels, maps, areas=AREAS)
            for said, network in networks.items()
        }
    return found


def kept(lab: Lab, name: str) -> bool:
    """Say whether joint.py has trained this classifier."""
    return (lab.folder / f"{name.replace(' ', '-')}-{lab.seed}.pt").exists()


def missing() -> nn.Module:
    """Never called: only kept classifiers are asked for."""
    raise AssertionError


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
    rows: list[dict[str, Any]] = []
    for method in METHODS:
        for name in CLASSIFIERS:
            both = [run[method] for run in runs if name in run[method]]
            if not both:
                continue
            ours, plain = (
                np.stack([100 * each[n].mean(1).double().numpy() for each in both])
                for n in (name, "plain")
            )
            gap = difference(ours, plain)
            by_area = torch.stack([each[name] for each in both]).mean((0, 1))
            rows.append(
                {
                    "hidden by": method,
                    "classifier": name,
                    "seeds": len(both),
                    "accuracy": round(float(ours.mean()), 2),
                    "minus plain": [round(v, 2) for v in (gap.mean, gap.low, gap.high)],
                    "by area": {f"{a:.0%}": round(100 * float(v), 1) for a, v in zip(AREAS, by_area)},
                }
            )
    facts = {"regime": options.regime, "images": len(reported), "areas": AREAS}
    document = {"facts": {**facts, "torch": torch.__version__}, "rows": rows}
    options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    cells = [
        [*(str(row[n]) for n in list(row)[:4]), "{:+.1f} [{:.1f}, {:.1f}]".format(*row["minus plain"])]
        for row in rows
    ]
    print(markdown(["hidden by", "classifier", "seeds", "accuracy", "minus plain"], cells))


if __name__ == "__main__":
    main()
