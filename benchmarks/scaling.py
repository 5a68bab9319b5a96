"""Images a second of a frozen training step in one process and in several, one thread each.

Every process trains on its share of the same global batch, through torch.distributed (gloo on
CPUs, nccl on GPUs), as ``torchrun`` would start them. Processes are timed in turns: one, then
several, and again, so that a machine that is busy for a while slows both.

  python benchmarks/scaling.py --processes 1 2 --json scaling.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from shared import table
from torch import distributed, multiprocessing

import captum_masking
from captum_masking import MaskingTrainer, zoo


def main() -> None:
    """Measure, print, write."""
    arguments = _arguments()
    rates: dict[int, list[float]] = {count: [] for count in arguments.processes}
    for _ in range(arguments.turns):
        for count in arguments.processes:
            rates[count].append(measure(count, arguments))
    found = {count: median(rate) for count, rate in rates.items()}
    first = found[arguments.processes[0]] / arguments.processes[0]
    rows = [[f"{n}", f"{r:.2f}", f"{r / first / n:.1%}"] for n, r in found.items()]
    print(table(["processes", "images/s", "of linear"], rows))
    if arguments.json:
        result = {
            "command": " ".join([Path(sys.argv[0]).name, *(Path(a).name for a in sys.argv[1:])]),
            "versions": {
                "captum_masking": captum_masking.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            "seed": 0,
            "device": arguments.device,
            "cores": os.cpu_count(),
            "images_in_global_batch": arguments.batch_size,
            "images_per_second": found,
            "share_of_linear": {n: r / first / n for n, r in found.items()},
        }
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def measure(count: int, arguments: argparse.Namespace) -> float:
    """Return images a second over some steps of ``count`` processes, the slowest of them."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_work, (count, folder, arguments), nprocs=count)
        seconds = [float((Path(folder) / str(n)).read_text()) for n in range(count)]
    return arguments.batch_size * arguments.steps / max(seconds)


def _work(rank: int, count: int, folder: str, arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(rank)
    device = torch.device(arguments.device, rank) if arguments.device == "cuda" else "cpu"
    if count > 1:
        distributed.init_process_group(
            "nccl" if arguments.device == "cuda" else "gloo",
            init_method=f"file://{folder}/meet",
            rank=rank,
            world_size=count,
        )
    model, _ = zoo.efficientnet_lite0()
    trainer = MaskingTrainer(model.to(device), train_classifier=False)
    share = arguments.batch_size // count
    inputs = torch.randn(share, 3, 224, 224, device=device)
    target = torch.randint(1000, (share,), device=device)
    trainer.step(inputs, target)  # warm up
    started = perf_counter()
    for _ in range(arguments.steps):
        trainer.step(inputs, target)  # ends with figures on the CPU, so the device is done
    (Path(folder) / str(rank)).write_text(str(perf_counter() - started))
    if count > 1:
        distributed.destroy_process_group()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch-size", type=int, default=16, help="images in the global batch")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
