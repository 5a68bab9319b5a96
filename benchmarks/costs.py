"""What each method of ``captum_masking.methods`` costs: forward passes and memory, measured.

The classifier is the small one of the tutorials, at 48 pixels; for the two methods that read
attention, a vision transformer of four layers. A *forward* is the time of one forward pass of the
classifier with as many images; memory is the most that torch holds beyond the networks and the
inputs. All methods have their defaults. Completeness and soundness are measured on few images.

  python benchmarks/costs.py --json benchmarks/costs.json
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import captum
import torch
from shared import table
from torch import Tensor, nn
from torchvision.models import VisionTransformer

import captum_masking
from captum_masking import MaskingModel, zoo
from captum_masking.benchmark import cost
from captum_masking.benchmark.libraries import RELATIVES, default_methods
from captum_masking.benchmark.methods import Method, as_method
from captum_masking.data import DigitsOnTextures
from captum_masking.methods import CAStream, Ensemble
from captum_masking.metrics import completeness_and_soundness

ATTENTION = ("AttentionRollout", "TransformerRelevance")
UNTRAINED = ("MaskingSaliency", "CAStream", "Ensemble")
OTHERS = ("MaskingSaliency", "Saliency", "IntegratedGradients", "LayerGradCam", "Occlusion")
SIZE, SEED = 48, 0


def of_classifier(classifier: nn.Module, inputs: Tensor) -> dict[str, Method]:
    """Return a row of each method but those of attention; training changes no cost."""
    models = [MaskingModel(classifier) for _ in range(3)]
    names = [*OTHERS, *(name for name in RELATIVES if name not in ATTENTION)]
    rows, _ = default_methods(models[0], inputs, names=names)
    trained = {"CAStream": CAStream(classifier), "Ensemble": Ensemble(models)}
    return rows | {name: as_method(method) for name, method in trained.items()}


def measured(method: Method, network: nn.Module, inputs: Tensor, target: Tensor) -> dict[str, Any]:
    """Return the costs of a method for a batch."""
    # Time of this process, so that a busy machine counts for less; and the network is so small that
    # hundreds of its passes can be profiled.
    with patch.multiple(cost, perf_counter=time.process_time, _SECONDS_PROFILED=120.0):
        found = cost.measure_cost(method.explain, network, inputs, target, seconds=0.5)
    return {"forwards": round(found.forwards, 1), "memory_mb": round(found.memory_mb or 0, 1)}


def certified(
    method: Method, network: nn.Module, inputs: Tensor, target: Tensor
) -> dict[str, float]:
    """Return how complete and how sound the maps are."""
    judged = (network, inputs, method.maps(inputs, target), target)
    pair = completeness_and_soundness(*judged, step_px=SIZE * SIZE // 10)
    return {
        name: round(values.mean().item(), 3)
        for name, values in zip(("completeness", "soundness"), pair, strict=True)
    }


def main() -> None:
    """Measure, print, write."""
    arguments = parse()
    data = DigitsOnTextures(arguments.images, size=SIZE, train=False, seed=1)
    inputs = torch.stack([data[i][0] for i in range(arguments.images)])
    target = torch.tensor([data[i][1] for i in range(arguments.images)])
    torch.manual_seed(SEED)
    classifier = zoo.small_classifier(trained=True)
    transformer = VisionTransformer(SIZE, 8, 4, 4, 64, 128, num_classes=10).eval()
    some = slice(arguments.timed)
    rows, alone = {}, {}
    for name, network, methods in (
        ("convolutional", classifier, of_classifier(classifier, inputs[:1])),
        ("transformer", transformer, default_methods(transformer, inputs[:1], names=ATTENTION)[0]),
    ):
        run = torch.no_grad()(partial(network, inputs[some]))
        alone[name] = round(cost.peak_mb(run, inputs.device, profiled=True) or 0, 1)
        for method, row in methods.items():
            rows[method] = measured(row, network, inputs[some], target[some])
            if network is classifier and method not in UNTRAINED:
                rows[method] |= certified(row, network, inputs, target)
            print(method, rows[method], flush=True)
    columns = ("forwards", "memory_mb", "completeness", "soundness")
    lines = [[name, *(str(row.get(c, "")) for c in columns)] for name, row in rows.items()]
    print(table(["method", *columns], lines))
    result = {
        "command": "python benchmarks/costs.py --json benchmarks/costs.json",
        "versions": {
            "captum_masking": captum_masking.__version__,
            "captum": captum.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "threads": torch.get_num_threads(),
        "images": {"timed together": arguments.timed, "judged": arguments.images},
        "memory_mb_of_a_forward": alone,
        "rows": rows,
    }
    arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=12, help="whose maps are judged")
    parser.add_argument("--timed", type=int, default=4, help="explained at once to time a method")
    parser.add_argument("--json", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
