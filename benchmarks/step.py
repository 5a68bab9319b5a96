"""What a training step costs beside the bare passes of its networks, and what pools add.

Each step of ``MaskingTrainer`` is timed in turns with the passes that it cannot do without, run
back to back with nothing between them: the clean pass, the pass over masked-in and masked-out
images as one batch, their backward passes, and the masker's own. The ratio is what losses, infill,
optimizers, checks and figures add. The classifiers have random weights: they do the same work.

  python benchmarks/step.py --threads 1 --json step.json
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
import torchvision
from shared import keep_freed_memory, table
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import captum_masking
from captum_masking import FineTune, MaskingModel, MaskingTrainer, zoo
from captum_masking._base.borrow import eval_mode, frozen
from captum_masking.benchmark.cost import in_turns, peak_mb, timed
from captum_masking.parts.masker import Question
from captum_masking.parts.pool import History, Latest

PROMISED = {"frozen": 1.1, "joint": 1.15}


@dataclass
class Row:
    """What one setting costs; seconds are medians over turns.

    Attributes:
        passes: Seconds of the bare passes of a step.
        step: Seconds of a step.
        ratio: Median of the step over the passes just before and after it.
        own: Seconds of a training step of the classifier alone on the same batch.
        step_mb: Most memory that a step holds beyond what is held before it, or None.
        own_mb: Likewise, of the classifier's own step.
        batch_size: Images in the batch.
        image_size: Their side in pixels.

    Source:
        Own.
    """

    passes: float
    step: float
    ratio: float
    own: float
    step_mb: float | None
    own_mb: float | None
    batch_size: int
    image_size: int


def main() -> None:
    """Measure, print, write."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    keep_freed_memory()
    names = arguments.model or list(MODELS)
    rows = {
        f"{name}, {mode}": measure(MODELS[name], mode, 224, arguments.batch_size, arguments)
        for name in names
        for mode in PROMISED
    }
    sizes = {
        f"{mode}, {size} px, batch {batch_size}": measure(
            efficientnet_lite0, mode, size, batch_size, arguments
        )
        for mode in PROMISED
        for size in arguments.sizes
        for batch_size in (1, 8)
    }
    pools = {
        name: pool_seconds(MODELS[name](), arguments.pool_steps) / rows[f"{name}, joint"].step
        for name in names
    }
    print(f"{device_name(arguments.device)}, {arguments.threads} threads\n{describe(rows)}\n")
    print(f"efficientnet-lite0 by image size and batch\n{describe(sizes)}\n")
    for name, share in pools.items():
        print(f"past classifiers add {share:.2%} to the joint step of {name}")
    if arguments.json:
        groups = {"steps": rows, "sizes": sizes}
        found: dict[str, object] = {
            group: {name: asdict(row) for name, row in of.items()} for group, of in groups.items()
        }
        write(arguments, {**found, "pool_share_of_joint_step": pools})


def efficientnet_lite0() -> nn.Module:
    """Return the classifier that comes with the package."""
    return zoo.load_classifier("efficientnet-lite0")[0]


MODELS: dict[str, Callable[[], nn.Module]] = {
    "efficientnet-lite0": efficientnet_lite0,
    "resnet50": lambda: torchvision.models.resnet50(),
}


def measure(
    make: Callable[[], nn.Module],
    mode: str,
    size: int,
    batch_size: int,
    arguments: argparse.Namespace,
) -> Row:
    """Time the step of one setting in turns with its passes, then the classifier's own step."""
    device = torch.device(arguments.device)
    trainer = make_trainer(make().to(device), mode)
    inputs = torch.randn(batch_size, 3, size, size, device=device)
    target = torch.randint(1000, (batch_size,), device=device)
    bare = PASSES[mode](trainer, inputs)
    own = own_step(trainer.model.classifier, inputs, target)
    step = partial(trainer.step, inputs, target)
    passes, steps = in_turns(timed(bare, device), timed(step, device), arguments.seconds)
    owns, _ = in_turns(timed(own, device), lambda: 0.0, arguments.seconds / 4)
    ratios = [s / ((a + b) / 2) for s, (a, b) in zip(steps, pairwise(passes), strict=True)]
    return Row(
        passes=median(passes),
        step=median(steps),
        ratio=median(ratios),
        own=median(owns),
        step_mb=peak_mb(step, device, profiled=True),
        own_mb=peak_mb(own, device, profiled=True),
        batch_size=batch_size,
        image_size=size,
    )


def make_trainer(classifier: nn.Module, mode: str) -> MaskingTrainer:
    """Make a trainer whose every step is a whole one, judged by the live classifier."""
    how = FineTune(masker_first=0.0) if mode == "joint" else False
    return MaskingTrainer(MaskingModel(classifier.eval()), train_classifier=how, pool=Latest())


def frozen_passes(trainer: MaskingTrainer, inputs: Tensor) -> Callable[[], None]:
    """Return what a frozen step cannot do without: one pass without and one with a gradient."""
    model, decode = trainer.model, masker_pass(trainer, inputs)
    halves = torch.cat([inputs, inputs]).requires_grad_()

    def run() -> None:
        with frozen(model.classifier):
            with torch.no_grad():
                model.classifier(inputs)
            decode()
            torch.autograd.grad(model.classifier(halves).sum(), halves)

    return run


def joint_passes(trainer: MaskingTrainer, inputs: Tensor) -> Callable[[], None]:
    """Return what a joint step cannot do without; the original says what to stay close to."""
    model, decode = trainer.model, masker_pass(trainer, inputs)
    weights = [p for p in model.classifier.parameters() if p.requires_grad]
    halves = torch.cat([inputs, inputs]).requires_grad_()

    def run() -> None:
        with eval_mode(model):
            with torch.no_grad():
                trainer.original(inputs)
            logits = model.classifier(inputs)
            decode()
            masked = model.classifier(halves)
            torch.autograd.grad(logits.sum() + masked.sum(), weights, retain_graph=True)
            torch.autograd.grad(masked.sum(), halves)

    return run


PASSES = {"frozen": frozen_passes, "joint": joint_passes}


def masker_pass(trainer: MaskingTrainer, inputs: Tensor) -> Callable[[], None]:
    """Return the masker's forward and backward pass, on features at hand."""
    model, weights = trainer.model, list(trainer.model.masker.parameters())
    with eval_mode(model), torch.no_grad():
        features = model.read((inputs,))[1]

    def run() -> None:
        (mask,) = model.decode(features, Question())
        torch.autograd.grad(mask.sum(), weights)

    return run


def own_step(classifier: nn.Module, inputs: Tensor, target: Tensor) -> Callable[[], None]:
    """Return an ordinary training step of the classifier alone, in eval mode as when fine-tuned."""
    weights = [p for p in classifier.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(weights, lr=0.0, momentum=0.9)

    def run() -> None:
        with eval_mode(classifier):
            loss = cross_entropy(classifier(inputs), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return run


def pool_seconds(classifier: nn.Module, steps: int) -> float:
    """Return what a full pool of past classifiers adds to a step, on average over some hundred."""
    pool = History()
    for _ in range(pool.size * pool.every):
        pool.add(classifier)
    pool.draw()
    started = perf_counter()
    for _ in range(steps):
        pool.add(classifier)
        pool.draw()
    return (perf_counter() - started) / steps


def describe(rows: dict[str, Row]) -> str:
    """Lay out the rows as a table."""
    mb = lambda value: "" if value is None else f"{value:.0f}"  # noqa: E731
    header = ["setting", "passes, s", "step, s", "step/passes", "step/own step", "images/s", "MB"]
    return table(
        [*header, "MB, own step"],
        [
            [
                name,
                f"{row.passes:.3f}",
                f"{row.step:.3f}",
                f"{row.ratio:.3f}",
                f"{row.step / row.own:.2f}",
                f"{row.batch_size / row.step:.1f}",
                mb(row.step_mb),
                mb(row.own_mb),
            ]
            for name, row in rows.items()
        ],
    )


def write(arguments: argparse.Namespace, found: dict[str, object]) -> None:
    """Write the JSON: what was run, with what, and what came out."""
    result = {
        "command": " ".join([Path(sys.argv[0]).name, *(Path(a).name for a in sys.argv[1:])]),
        "seed": 0,
        "versions": {
            "captum_masking": captum_masking.__version__,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "python": platform.python_version(),
        },
        "device": device_name(arguments.device),
        "threads": arguments.threads,
        "promised_ratio": PROMISED,
        **found,
    }
    arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def device_name(device: str) -> str:
    """Name the device, a GPU by its maker's name."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, action="append", help="default: all")
    parser.add_argument("--batch-size", type=int, default=8, help="of the first table")
    parser.add_argument("--sizes", type=int, nargs="*", default=[64, 128, 224, 384, 512])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=30.0, help="for each line of a table")
    parser.add_argument("--pool-steps", type=int, default=300)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
