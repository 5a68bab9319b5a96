"""A real training, in seconds: the masker finds what was planted, and the classifier stays good.

Class 0 to 3 is the direction of the stripes on a patch, somewhere in a blotchy picture of 32 px.
"""

from __future__ import annotations

import copy
import math
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from captum_masking import FromScratch, MaskingModel, MaskingSaliency, MaskingTrainer
from captum_masking.metrics import centered_square, localization_error, localization_error_of_boxes
from captum_masking.parts.objective import entropy

SIDE = 32


def striped(count: int, seed: int) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Pictures ``(count, 3, 32, 32)``, labels, and the box ``(1, 4)`` of each patch in pixels."""
    random = torch.Generator().manual_seed(seed)
    blotches = torch.randn(count, 3, 8, 8, generator=random)
    pictures = interpolate(blotches, size=(SIDE, SIDE), mode="bilinear")
    pictures += 0.3 * torch.randn(pictures.shape, generator=random)
    labels = torch.randint(4, (count,), generator=random)
    sides = torch.randint(12, 19, (count,), generator=random)
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    boxes = []
    for picture, label, side in zip(pictures, labels.tolist(), sides.tolist(), strict=True):
        top, left = torch.randint(SIDE - side + 1, (2,), generator=random).tolist()
        phase, angle = torch.rand((), generator=random) * 2 * math.pi, label * math.pi / 4
        wave = rows * math.cos(angle) + columns * math.sin(angle)
        stripes = 1.5 * (wave * math.pi / 2 + phase).sin()  # 4 px from crest to crest
        patch = (slice(None), slice(top, top + side), slice(left, left + side))
        picture[patch] = 0.3 * picture[patch] + stripes[patch[1:]]
        boxes.append(torch.tensor([[left, top, left + side, top + side]]))
    return pictures, labels, boxes


class Shuffled:
    """Batches of 30 in an order of its own each epoch."""

    def __init__(self, pictures: Tensor, labels: Tensor) -> None:
        self.pictures, self.labels = pictures, labels
        self.random = torch.Generator().manual_seed(0)

    def __len__(self) -> int:
        return len(self.labels) // 30

    def __iter__(self):
        for batch in torch.randperm(len(self.labels), generator=self.random).split(30):
            yield self.pictures[batch], self.labels[batch]


def network() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(3, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU()),
        *(nn.Conv2d(12, 24, 3, 1, 1), nn.BatchNorm2d(24), nn.ReLU()),
        *(nn.Conv2d(24, 24, 3, 2, 1), nn.BatchNorm2d(24), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 4)),
    )


@pytest.fixture(scope="module")
def training(device) -> Shuffled:
    pictures, labels, _ = striped(600, seed=0)
    return Shuffled(pictures.to(device), labels.to(device))


@pytest.fixture(scope="module")
def held_out(device) -> tuple[Tensor, Tensor, list[Tensor]]:
    pictures, labels, boxes = striped(200, seed=1)
    return pictures.to(device), labels.to(device), boxes


@pytest.fixture(scope="module")
def trained_classifier(device, training) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = network().to(device).train()
    optimizer = torch.optim.Adam(classifier.parameters(), lr=1e-2)
    for _ in range(6):
        for pictures, labels in training:
            optimizer.zero_grad()
            cross_entropy(classifier(pictures), labels).backward()
            optimizer.step()
    return classifier.eval()


def fit(model: MaskingModel, training: Shuffled, epochs: int, **options) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the masker has collapsed")  # at first
        trainer = MaskingTrainer(model, lr=5e-3, **options)
        trainer.fit(training, epochs, show_progress=False)


@torch.no_grad()
def accuracy(classifier: nn.Module, pictures: Tensor, labels: Tensor) -> float:
    return (classifier.eval()(pictures).argmax(1) == labels).float().mean().item()


@torch.no_grad()
def doubt(classifier: nn.Module, pictures: Tensor) -> float:
    return entropy(classifier.eval()(pictures)).mean().item()


def assert_finds_the_patch(model: MaskingModel, held_out) -> None:
    pictures, labels, boxes = held_out
    mask = MaskingSaliency(model).attribute(pictures, target=labels)[:, :1]
    center = localization_error_of_boxes(centered_square(SIDE, SIDE), boxes).mean()
    missed = localization_error(mask.cpu(), boxes).mean()
    assert center > 0.8 and missed < 0.1
    # Patches cover 0.14 to 0.32 of the frame.
    assert 0.05 < mask.mean() < 0.4
    # What is kept is recognized as before; what is left raises doubt (of at most log 4 = 1.39).
    assert accuracy(model, pictures * mask, labels) > 0.9
    assert doubt(model, pictures * (1 - mask)) > doubt(model, pictures) + 0.15


def test_a_masker_of_a_frozen_classifier_finds_the_planted_patch(
    trained_classifier, training, held_out
):
    model = MaskingModel(copy.deepcopy(trained_classifier))
    fit(model, training, epochs=3, train_classifier=False)
    assert_finds_the_patch(model, held_out)


def test_a_classifier_and_its_masker_trained_from_scratch_find_the_planted_patch(
    device, training, held_out
):
    model = MaskingModel(network().to(device))
    fit(model, training, epochs=6, train_classifier=FromScratch())
    assert accuracy(model, *held_out[:2]) > 0.95
    assert_finds_the_patch(model, held_out)


def test_gentle_joint_training_finds_the_patch_and_keeps_the_classifier_good(
    trained_classifier, training, held_out
):
    pictures, labels, _ = held_out
    before = accuracy(trained_classifier, pictures, labels)
    model = MaskingModel(copy.deepcopy(trained_classifier))
    fit(model, training, epochs=3)
    assert accuracy(model, pictures, labels) >= before - 0.01
    assert_finds_the_patch(model, held_out)


@pytest.mark.parametrize("area", [0.15, 0.4])
def test_masks_have_the_area_that_is_asked_for(area, trained_classifier, training, held_out):
    model = MaskingModel(copy.deepcopy(trained_classifier))
    fit(model, training, epochs=4, train_classifier=False, area=area)
    pictures, labels, _ = held_out
    mask = MaskingSaliency(model).attribute(pictures, target=labels)[:, :1]
    assert abs(mask.mean() - area) < 0.2 * area
