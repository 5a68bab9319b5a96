"""Do maps answer the question asked? A target-aware masker on real photographs.

The grid pointing game against Captum's methods, absent classes, localization beside a masker that
is told nothing, sanity checks, and what the masks alone give away. Photographs before --first were
used to choose settings and are left out of every figure.

  python benchmarks/target.py --train all.csv --beside untold
  python benchmarks/target.py --beside untold --data imagenet1k/val.csv --also imagenette/val.csv \
      --first 100 --json target.json
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import captum
import torch
from captum.attr import LayerGradientXActivation
from shared import keep_freed_memory, table
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader

import captum_masking
from captum_masking import MaskingModel, MaskingSaliency, MaskingTrainer, zoo
from captum_masking.benchmark.libraries import captum_methods, module_at, twin
from captum_masking.benchmark.methods import of_layer
from captum_masking.data import BoxedImages
from captum_masking.metrics import (
    MaxBoxAcc,
    boxes_to_pixels,
    grid_pointing,
    leakage,
    localization_error,
)
from captum_masking.parts.infill import Mean
from captum_masking.parts.masking import mask_images
from captum_masking.parts.questions import mosaics

Explain = Callable[[Tensor, Tensor], Tensor]

CELLS = 4
FAST = ("LayerGradCam", "LayerGradientXActivation", "GuidedBackprop", "GuidedGradCam", "Saliency")


def main() -> None:
    """Train, or measure, print, write."""
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    if arguments.train:
        train(arguments)
        return
    model, preprocess = zoo.load(arguments.model)
    agnostic = zoo.load(arguments.beside)[0]
    images, labels, boxes = read(arguments.data, preprocess, arguments.first, arguments.last)
    figures = {
        "versions": {"captum": captum.__version__, "torch": torch.__version__},
        "captum_masking": captum_masking.__version__,
        "model": str(arguments.model),
        "beside": arguments.beside.name,
        "images": len(images),
        "first": arguments.first,
        "grid_pointing": pointing(model, agnostic, images, labels, slow=arguments.slow_mosaics),
        "absent": absent(model, images, labels),
        "localization": {
            arguments.data.parent.name: localization(model, agnostic, images, labels, boxes)
        },
        "sanity": sanity(model, images, labels),
    }
    if arguments.also:
        others = read(arguments.also, preprocess, 0, None)
        name = arguments.also.parent.name
        figures["localization"][name] = localization(model, agnostic, *others)
        figures["leakage"] = give_away(model, agnostic, *others[:2])
    arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    show(figures)


def parse() -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="efficientnet-lite0", help="folder; default: shipped")
    parser.add_argument("--beside", required=True, type=Path, help="folder of one told nothing")
    parser.add_argument("--train", type=Path, metavar="CSV", help="train --beside on it, and stop")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, metavar="CSV", help="with boxes and label1k")
    parser.add_argument(
        "--also", type=Path, metavar="CSV", help="localization and leakage here too"
    )
    parser.add_argument("--first", type=int, default=0, help="photographs before it are left out")
    parser.add_argument("--last", type=int, help="and those from this one on")
    parser.add_argument("--slow-mosaics", type=int, default=6, help="for methods of many passes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, default=Path("target.json"))
    return parser.parse_args()


def train(arguments: argparse.Namespace) -> None:
    """Train a masker that is told no class as the shipped one was trained."""
    torch.manual_seed(arguments.seed)
    classifier, preprocess = zoo.load_classifier("efficientnet-lite0")
    images = BoxedImages(arguments.train, transform=preprocess.augmented)
    model = MaskingModel(classifier, target_aware=False)
    trainer = MaskingTrainer(model, train_classifier=False, memory_format=torch.channels_last)
    trainer.fit(DataLoader(images, 16, shuffle=True, drop_last=True), arguments.epochs)
    model.save(arguments.beside, notes=preprocess.notes())


def read(
    csv: Path, preprocess: zoo.Preprocess, first: int, last: int | None
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Read photographs, their labels as the classifier numbers them, and boxes."""
    data = BoxedImages(csv, transform=preprocess, label_column="label1k")
    rows = range(len(data))[first:last]
    pairs = [data[row] for row in rows]
    images = torch.stack([image for image, _ in pairs])
    return images, torch.tensor([label for _, label in pairs]), [data.boxes[row] for row in rows]


def pointing(
    model: MaskingModel, agnostic: MaskingModel, images: Tensor, labels: Tensor, *, slow: int
) -> dict[str, dict]:
    """Play the grid pointing game with mosaics of whole photographs, and of shrunken ones."""
    chosen = of_different_classes(recognized(model, images, labels), labels)
    answers = labels[chosen].view(-1, CELLS)
    found = {}
    for side in (images.shape[-1], images.shape[-1] // 2):
        cells = interpolate(images[chosen], (side, side), mode="bilinear", antialias=True)
        pictures = mosaics(cells)
        methods, left_out = explainers(model, agnostic, pictures)
        scores = {}
        for name, explain in methods.items():
            few = slow if name not in FAST and not name.startswith("MaskingSaliency") else None
            started = perf_counter()
            values = play(explain, pictures[:few], answers[:few])
            scores[name] = summary(values) | {"seconds": perf_counter() - started}
            print(side, name, scores[name], flush=True)
        found[f"cells of {side} px"] = {"scores": scores, "left out": left_out}
    return found


def explainers(
    model: MaskingModel, agnostic: MaskingModel, pictures: Tensor
) -> tuple[dict[str, Explain], dict[str, str]]:
    """List ours and Captum's, as functions to maps whose positive part counts."""
    layer = model.layers[-1]
    captums, left_out = captum_methods(model.classifier, layer, pictures)
    network = twin(model.classifier)
    by_activation = LayerGradientXActivation(network, module_at(network, layer))
    methods: dict[str, Explain] = {
        "MaskingSaliency (target-aware)": MaskingSaliency(model).attribute,
        "MaskingSaliency (told nothing)": lambda x, t: agnostic.mask(x),
        "LayerGradientXActivation": lambda x, t: of_layer(
            by_activation.attribute(x, target=t).detach(), x.shape[2:]
        ),
        **{name: method.explain for name, method in captums.items()},
    }
    return methods, left_out


def play(explain: Explain, pictures: Tensor, answers: Tensor) -> Tensor:
    """Return the share in the right cell for each mosaic and cell, ``(mosaics, 4)``."""
    rows = []
    for picture, classes in zip(pictures.split(2), answers.split(2), strict=True):
        columns = [
            grid_pointing(
                explain(picture, classes[:, cell])[:, :1].detach(),
                torch.full((len(picture),), cell),
            )
            for cell in range(CELLS)
        ]
        rows.append(torch.stack(columns, dim=1))
    return torch.cat(rows)


@torch.no_grad()
def recognized(model: MaskingModel, images: Tensor, labels: Tensor) -> list[int]:
    """List the photographs whose class the classifier says."""
    said = torch.cat([model(part).argmax(1) for part in images.split(16)])
    return (said == labels).nonzero()[:, 0].tolist()


def of_different_classes(rows: list[int], labels: Tensor) -> list[int]:
    """Put photographs together in fours of different classes, in order; the rest is left out."""
    chosen: list[int] = []
    waiting = list(rows)
    while True:
        four: list[int] = []
        for row in waiting:
            if int(labels[row]) not in [int(labels[r]) for r in four] and len(four) < CELLS:
                four.append(row)
        if len(four) < CELLS:
            return chosen
        chosen += four
        waiting = [row for row in waiting if row not in four]


def summary(values: Tensor) -> dict[str, float]:
    """Return the mean of all questions and its standard error over mosaics."""
    means = values.mean(1)
    error = float(means.std() / len(means) ** 0.5)
    return {"mean": float(values.mean()), "standard_error": error, "questions": values.numel()}


@torch.no_grad()
def absent(model: MaskingModel, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Ask for classes that are not there: how much mask, and what the classifier then believes."""
    generator = torch.Generator().manual_seed(0)
    ratios: dict[str, list[float]] = {"random": [], "runner_up": []}
    beliefs: dict[str, list[float]] = {"random": [], "runner_up": []}
    believed = dict.fromkeys(ratios, 0)
    saliency = MaskingSaliency(model)
    for inputs, classes in zip(images.split(16), labels.split(16), strict=True):
        logits = model(inputs)
        others = logits.scatter(1, classes[:, None], -torch.inf)
        others = others.scatter(1, logits.argmax(1, keepdim=True), -torch.inf)
        step = torch.randint(1, logits.shape[1], (len(classes),), generator=generator)
        asked = {"random": (classes + step) % logits.shape[1], "runner_up": others.argmax(1)}
        targets = torch.stack([classes, *asked.values()], dim=1)
        masks = saliency.attribute_targets(inputs, targets)[:, :, :1]
        area = masks.flatten(2).mean(2)
        for index, (name, target) in enumerate(asked.items(), start=1):
            ratios[name] += (area[:, index] / area[:, 0]).tolist()
            said = model(mask_images(inputs, masks[:, index], Mean())[0])
            beliefs[name] += said.softmax(1).gather(1, target[:, None])[:, 0].tolist()
            believed[name] += int((said.argmax(1) == target).sum())
    return {
        **{f"area_to_present_median_{name}": median(values) for name, values in ratios.items()},
        **{f"belief_median_{name}": median(values) for name, values in beliefs.items()},
        **{f"belief_greatest_{name}": max(values) for name, values in beliefs.items()},
        **{f"believed_{name}": count / len(images) for name, count in believed.items()},
    }


@torch.no_grad()
def localization(
    model: MaskingModel, agnostic: MaskingModel, images: Tensor, labels: Tensor, boxes: list[Tensor]
) -> dict[str, float]:
    """Measure LE for the label, for the predicted class, and of the model told nothing."""
    ways = {
        "label": lambda x, t: model.mask(x, target=t),
        "predicted": lambda x, t: model.mask(x),
        "told_nothing": lambda x, t: agnostic.mask(x),
    }
    figures = {}
    for name, mask in ways.items():
        errors, best = [], MaxBoxAcc()
        for start in range(0, len(images), 16):
            rows = slice(start, start + 16)
            for one, truth in zip(mask(images[rows], labels[rows]), boxes[rows], strict=True):
                if len(truth):
                    pixels = [boxes_to_pixels(truth, *one.shape[-2:])]
                    errors.append(float(localization_error(one[None], pixels)))
                    best.update(one[None], pixels)
        figures[f"LE_{name}"] = sum(errors) / len(errors)
        figures[f"LE_best_cut_{name}"] = 1 - float(best.compute())
    return figures | {"boxed_images": len(errors)}


@torch.no_grad()
def sanity(model: MaskingModel, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Destroy the question: a head of random weights, and the targets of other cells."""
    chosen = of_different_classes(recognized(model, images, labels), labels)
    pictures, answers = mosaics(images[chosen]), labels[chosen].view(-1, CELLS)
    broken = copy.deepcopy(model)
    torch.manual_seed(0)
    last = [part for part in broken.classifier.modules() if isinstance(part, nn.Linear)][-1]
    last.reset_parameters()
    before, after = MaskingSaliency(model).attribute, MaskingSaliency(broken).attribute
    same = [
        torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]
        for x, t in zip(images.split(16), labels.split(16), strict=True)
        for a, b in zip(before(x, t)[:, 0], after(x, t)[:, 0], strict=True)
    ]
    return {
        "right_target": float(play(before, pictures, answers).mean()),
        "permuted_targets": float(play(before, pictures, answers.roll(1, dims=1)).mean()),
        "random_head": float(play(after, pictures, answers).mean()),
        "correlation_random_head_median": float(torch.stack(same).nan_to_num().median()),
    }


@torch.no_grad()
def give_away(
    model: MaskingModel, agnostic: MaskingModel, images: Tensor, labels: Tensor
) -> dict[str, dict[str, float | str]]:
    """Read the class off the masks alone, for the label, for the prediction, and told nothing."""
    parts = list(zip(images.split(16), labels.split(16), strict=True))
    masks = {
        "label": torch.cat([model.mask(x, target=t) for x, t in parts]),
        "predicted": torch.cat([model.mask(x) for x, _ in parts]),
        "told_nothing": torch.cat([agnostic.mask(x) for x, _ in parts]),
    }
    found = {name: leakage(values, labels) for name, values in masks.items()}
    return {
        name: {
            "accuracy": audit.accuracy,
            "box_accuracy": audit.box_accuracy,
            "chance": audit.chance,
            "sentence": audit.sentence(),
        }
        for name, audit in found.items()
    }


def show(figures: dict) -> None:
    """Print the figures as tables."""
    for cells, game in figures["grid_pointing"].items():
        ranked = sorted(game["scores"].items(), key=lambda pair: -pair[1]["mean"])
        rows = [
            [name, f"{100 * score['mean']:.1f}", f"{100 * score['standard_error']:.1f}",
             str(score["questions"])]
            for name, score in ranked
        ]  # fmt: skip
        print(f"\ngrid pointing, {cells}\n{table(['method', '%', '+-', 'questions'], rows)}")
    for part in ("absent", "localization", "sanity", "leakage"):
        print(f"\n{part}\n{json.dumps(figures.get(part), indent=1)}")


if __name__ == "__main__":
    main()
