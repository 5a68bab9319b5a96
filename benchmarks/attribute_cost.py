"""What ``MaskingSaliency.attribute`` costs beside the classifier's own forward pass.

Both are measured in turns in one run, at 224 pixels: the shipped EfficientNet-Lite0 model, and
torchvision's ResNet-50 with random weights and a masker that has not been trained, since neither
changes the work. The classifier's logits are part of what is timed: ``attribute`` computes them to
check its target.

  python benchmarks/attribute_cost.py --threads 1 --json attribute_cost.json
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import captum
import torch
import torchvision
from shared import keep_freed_memory, table

import captum_masking
from captum_masking import MaskingModel, MaskingSaliency, zoo
from captum_masking.benchmark import Cost
from captum_masking.benchmark.cost import measure_cost

PROMISED_FORWARDS = 1.1


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, action="append", help="default: all")
    parser.add_argument("--batch-size", type=int, action="append", help="default: 1 and 16")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=20.0, help="for each line of the table")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    keep_freed_memory()
    found = {
        f"{name}, batch {batch_size}": measure(make, batch_size, arguments)
        for name, make in MODELS.items()
        if name in (arguments.model or MODELS)
        for batch_size in arguments.batch_size or (1, 16)
    }
    print(f"{arguments.device.type}, {arguments.threads} threads, 224 pixels")
    print(describe(found))
    if arguments.json:
        arguments.json.write_text(json.dumps(result(found, arguments), indent=1) + "\n", "utf-8")


def efficientnet_lite0() -> MaskingModel:
    """Return the model that comes with the package."""
    return zoo.efficientnet_lite0()[0]


def resnet50() -> MaskingModel:
    """Return ResNet-50 with a masker, both with random weights."""
    network = torchvision.models.resnet50().eval().to(memory_format=torch.channels_last)
    return MaskingModel(network).eval()


MODELS: dict[str, Callable[[], MaskingModel]] = {
    "efficientnet-lite0": efficientnet_lite0,
    "resnet50": resnet50,
}


def measure(
    make: Callable[[], MaskingModel], batch_size: int, arguments: argparse.Namespace
) -> Cost:
    """Measure ``attribute`` on one batch, in forwards of the classifier alone."""
    model = make().to(arguments.device)
    saliency = MaskingSaliency(model)
    return measure_cost(
        lambda inputs, target: saliency.attribute(inputs, target=target),
        model.classifier,
        torch.randn(batch_size, 3, 224, 224).to(arguments.device),
        torch.zeros(batch_size, dtype=torch.long, device=arguments.device),
        seconds=arguments.seconds,
    )


def describe(found: dict[str, Cost]) -> str:
    """Lay out the costs as a table."""
    header = ["model", "forward, ms/image", "attribute, ms/image", "forwards", "memory, MB", "kept"]
    rows = [
        [
            name,
            f"{cost.ms / cost.forwards:.2f}",
            f"{cost.ms:.2f}",
            f"{cost.forwards:.3f}",
            "" if cost.memory_mb is None else f"{cost.memory_mb:.0f}",
            "yes" if cost.forwards <= PROMISED_FORWARDS else "no",
        ]
        for name, cost in found.items()
    ]
    return table(header, rows)


def result(found: dict[str, Cost], arguments: argparse.Namespace) -> dict[str, object]:
    """Put together what the JSON holds."""
    return {
        "command": " ".join([Path(sys.argv[0]).name, *(Path(a).name for a in sys.argv[1:])]),
        "versions": {
            "captum_masking": captum_masking.__version__,
            "captum": captum.__version__,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "python": platform.python_version(),
        },
        "device": arguments.device.type,
        "threads": arguments.threads,
        "image_size": 224,
        "promised_forwards": PROMISED_FORWARDS,
        "costs": {name: asdict(cost) for name, cost in found.items()},
    }


if __name__ == "__main__":
    main()
