"""Two digits in one picture, asked of a small vision transformer: does the map follow the target?

A transformer of two blocks learns one digit a picture, beside the same ink shuffled; a masker with
a gate, and one that is told nothing, are trained on it, frozen. Then each picture shows two
digits of different classes, which the classifier never saw, and both are asked for. Share: of the
map's weight in both digits' boxes, how much is in that of the digit asked for; chance is 50 %.

  python benchmarks/target_vit.py --json benchmarks/target_vit.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from captum.attr import IntegratedGradients, Saliency
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import VisionTransformer
from torchvision.models.vision_transformer import ConvStemConfig

import captum_masking
from captum_masking import MaskingModel, MaskingSaliency, MaskingTrainer
from captum_masking.methods import AttentionRollout, TransformerRelevance
from captum_masking.metrics import energy_pointing
from captum_masking.parts.evidence import evidence
from captum_masking.parts.masker import nearest

TRAINING = 1350  # digits; the others are held out
SIDE, DIGIT = 24, 8


def main() -> None:
    """Train and measure with each seed; print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3, help="of the maskers")
    parser.add_argument("--json", type=Path, default=Path("target_vit.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs = [run(seed, arguments.epochs) for seed in range(arguments.seeds)]
    found = {
        "command": "python benchmarks/target_vit.py --json benchmarks/target_vit.json",
        "captum_masking": captum_masking.__version__,
        "torch": torch.__version__,
        "runs": runs,
        "mean": {name: sum(one[name] for one in runs) / len(runs) for name in runs[0]},
    }
    arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found["mean"], indent=1))


def run(seed: int, epochs: int) -> dict[str, float]:
    """Train everything from one seed, and measure."""
    torch.manual_seed(seed)
    source = load_digits()
    digits, labels = torch.tensor(source.images).float() / 16, torch.tensor(source.target)
    pictures, _ = scenes(digits[:TRAINING].repeat(2, 1, 1))
    data = TensorDataset(pictures, labels[:TRAINING].repeat(2))
    loader = DataLoader(data, 64, shuffle=True, drop_last=True)
    classifier = trained(loader)
    digits, labels = digits[TRAINING:], labels[TRAINING:]
    single = scenes(digits)
    aware, nothing = (masker(classifier, loader, epochs, aware=aware) for aware in (True, False))
    return {
        "accuracy": accuracy(classifier, single[0], labels),
        **alone(classifier, aware, nothing, single, labels),
        **together(classifier, aware, digits, labels),
    }


def trained(loader: DataLoader, epochs: int = 4) -> nn.Module:
    """Train a transformer whose patches are made by two convolutions."""
    classifier = VisionTransformer(
        image_size=SIDE, patch_size=4, num_layers=2, num_heads=4, hidden_dim=64, mlp_dim=128,
        num_classes=10, conv_stem_configs=[ConvStemConfig(32, 3, 2), ConvStemConfig(64, 3, 2)],
    )  # fmt: skip
    optimizer = torch.optim.AdamW(classifier.parameters(), weight_decay=0.05)
    steps = epochs * len(loader)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(epochs):
        for images, classes in loader:
            optimizer.zero_grad()
            cross_entropy(classifier(images), classes).backward()
            nn.utils.clip_grad_norm_(classifier.parameters(), 1.0)
            optimizer.step()
            rates.step()
    return classifier.eval()


def masker(classifier: nn.Module, loader: DataLoader, epochs: int, *, aware: bool) -> MaskingModel:
    """Train a masker on a frozen classifier."""
    model = MaskingModel(classifier, target_aware=aware)
    trainer = MaskingTrainer(model, train_classifier=False, lr=3e-3)
    trainer.fit(loader, epochs, show_progress=False)
    return model


def scenes(digits: Tensor, others: Tensor | None = None) -> tuple[Tensor, list[list[Tensor]]]:
    """Put each digit and another one, or its own ink shuffled, into a picture; return boxes too."""
    pictures, boxes = 0.5 * torch.rand(len(digits), 1, SIDE, SIDE), []
    for index, (picture, digit) in enumerate(zip(pictures[:, 0], digits, strict=True)):
        shuffled = digit.flatten()[torch.randperm(DIGIT**2)].view(DIGIT, DIGIT)
        corners = two_places()
        for ink, (x, y) in zip(
            (digit, shuffled if others is None else others[index]), corners, strict=True
        ):
            where = picture[y : y + DIGIT, x : x + DIGIT]
            where.copy_(torch.maximum(where, ink))
        boxes.append([torch.tensor([[x, y, x + DIGIT, y + DIGIT]]) for x, y in corners])
    return (pictures.repeat(1, 3, 1, 1) - 0.3) / 0.3, boxes


def two_places() -> list[list[int]]:
    """Draw two corners that lie at least a digit apart."""
    while True:
        corners = 4 * torch.randint(0, 5, (2, 2))
        if (corners[0] - corners[1]).abs().max() >= DIGIT:
            return corners.tolist()


@torch.no_grad()
def accuracy(classifier: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Say how many digits that were not trained on are recognized."""
    return float((classifier(inputs).argmax(1) == labels).float().mean())


def alone(
    classifier: nn.Module,
    aware: MaskingModel,
    nothing: MaskingModel,
    single: tuple[Tensor, Any],
    labels: Tensor,
) -> dict[str, float]:
    """Ask for the one digit that is there, and for one that is not."""
    inputs, boxes = single
    own = [both[0] for both in boxes]
    absent = (labels + torch.randint(1, 10, labels.shape)) % 10
    targets = torch.stack([labels, absent], dim=1)
    maps = MaskingSaliency(aware).attribute_targets(inputs, targets)[:, :, :1]
    area = maps.flatten(2).mean(2)
    rollout = AttentionRollout(classifier).attribute(inputs)[:, :1]
    relevance = TransformerRelevance(classifier).attribute(inputs, labels)[:, :1].clamp(min=0)
    return {
        "absent_over_present_median": float((area[:, 1] / area[:, 0]).median()),
        "energy_in_box": float(energy_pointing(maps[:, 0], own).mean()),
        "energy_in_box_told_nothing": float(energy_pointing(nothing.mask(inputs), own).mean()),
        "energy_in_box_attention_rollout": float(energy_pointing(rollout, own).mean()),
        "energy_in_box_transformer_relevance": float(energy_pointing(relevance, own).mean()),
        "energy_in_box_whole_picture": DIGIT**2 / SIDE**2,
    }


def together(
    classifier: nn.Module, aware: MaskingModel, digits: Tensor, labels: Tensor
) -> dict[str, float]:
    """Ask for each of two digits in one picture, by every method."""
    order = torch.randperm(len(labels))
    differ = labels != labels[order]
    inputs, boxes = scenes(digits[differ], digits[order][differ])
    answers = labels[differ], labels[order][differ]
    methods: dict[str, Callable[..., Tensor]] = {
        "share_masker": MaskingSaliency(aware).attribute,
        "share_evidence": lambda x, target: nearest(
            evidence(aware.read((x,))[1], target)[:, :1], x.shape[2:]
        ),
        "share_transformer_relevance": TransformerRelevance(classifier).attribute,
        "share_saliency": Saliency(classifier).attribute,
        "share_integrated_gradients": IntegratedGradients(classifier).attribute,
    }
    return {name: share(method, inputs, answers, boxes) for name, method in methods.items()}


def share(
    explain: Callable[..., Tensor],
    inputs: Tensor,
    answers: tuple[Tensor, Tensor],
    boxes: list[list[Tensor]],
) -> float:
    """Return how much of the weight on both digits is on the one asked for, on average."""
    shares = []
    for asked, target in enumerate(answers):
        maps = explain(inputs, target=target).detach().sum(1, keepdim=True).clamp(min=0)
        own, other = (
            energy_pointing(maps, [both[place] for both in boxes]) for place in (asked, 1 - asked)
        )
        shares.append(own / (own + other).clamp(min=1e-9))
    return float(torch.cat(shares).mean())


if __name__ == "__main__":
    main()
