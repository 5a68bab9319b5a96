"""Promises of targets that are functions of what the model returns, and of the usual ones."""

from __future__ import annotations

import pytest
import torch
from networks import Quadrants, cnn
from torch import Tensor, nn

from captum_masking import MaskingModel, MaskingSaliency
from captum_masking._base.checks import TargetError
from captum_masking.methods import ExtremalPerturbation, Rise
from captum_masking.methods.targets import BoxScores, RegionLogits
from captum_masking.parts.infill import Mean
from captum_masking.parts.objective import default_objective
from captum_masking.parts.regularizer import UngatedArea
from captum_masking.saliency.per_input import PerInput

pytestmark = pytest.mark.filterwarnings("ignore:.*has no masker:UserWarning")


class Detector(nn.Module):
    """Finds one thing of label 1 in each quarter, as surely as it is bright; drops what is dim."""

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        side = float(images.shape[-1])
        corners = [(0, 0), (0.5, 0), (0, 0.5), (0.5, 0.5)]
        boxes = torch.tensor([[x, y, x + 0.5, y + 0.5] for x, y in corners]) * side
        found = []
        for scores in Quadrants(1.0)(images):
            sure = scores > 0.05
            label = torch.ones(int(sure.sum()), dtype=torch.long)
            found.append({"boxes": boxes[sure], "labels": label, "scores": scores[sure]})
        return found


def bright(*quarters: int, side: int = 16) -> Tensor:
    """Draw a picture with some quarters bright, in reading order."""
    picture, half = torch.zeros(1, 3, side, side), side // 2
    for quarter in quarters:
        top, left = divmod(quarter, 2)
        picture[..., top * half : (top + 1) * half, left * half : (left + 1) * half] = 0.9
    return picture


def inside(mask: Tensor, quarter: int) -> float:
    """Return the share of a mask in a quarter."""
    where = bright(quarter, side=mask.shape[-1])[0] > 0
    return float((mask[0] * where).sum() / mask.sum())


def box_of(quarter: int) -> BoxScores:
    found = Detector()(bright(0, 1, 2, 3))[0]
    return BoxScores([found["boxes"][[quarter]]], [found["labels"][[quarter]]])


# Masks for each input.


@pytest.mark.parametrize("quarter", [0, 3])
def test_a_mask_for_a_box_is_on_what_is_in_it(quarter):
    how = PerInput(area=0.25, regularizer=UngatedArea(), grid=4, objective=default_objective())
    saliency = MaskingSaliency(Detector(), per_input=how)
    mask = saliency.attribute(bright(0, 3), target=box_of(quarter))
    assert inside(mask, quarter) > 0.7


@pytest.mark.parametrize("factor", [1e-3, 1e4])
def test_a_score_may_be_of_any_size(factor):
    saliency = MaskingSaliency(Quadrants(), per_input=PerInput(steps=10))
    x = bright(1, 2)
    found, expected = (
        saliency.attribute(x, target=lambda logits, f=f: f * logits[:, 1]) for f in (factor, 1.0)
    )
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    assert inside(found, 1) > 0.3


@pytest.mark.parametrize("patience", [None, 1])
def test_each_example_has_its_own_box_and_a_batch_changes_nothing(patience):
    saliency = MaskingSaliency(Detector(), per_input=PerInput(steps=8, patience=patience))
    found = Detector()(bright(0, 1, 2, 3))[0]
    pairs = [(bright(0, 3), [0]), (bright(1, 2), [2, 1]), (bright(), [1])]
    whys = [(found["boxes"][rows], found["labels"][rows]) for _, rows in pairs]
    together = saliency.attribute(
        torch.cat([x for x, _ in pairs]), target=BoxScores(*zip(*whys, strict=True))
    )
    for (x, _), (boxes, labels), mask in zip(pairs, whys, together.split(1), strict=True):
        alone = saliency.attribute(x, target=BoxScores([boxes], [labels]))
        torch.testing.assert_close(mask, alone, atol=1e-4, rtol=0)


def test_with_several_inputs_the_function_gets_all_that_the_model_returns():
    both = lambda a, b: {"left": a.sum((1, 2, 3)), "right": b.sum((1, 2, 3))}  # noqa: E731
    x = torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8)
    saliency = MaskingSaliency(both, per_input=PerInput(steps=5))
    left, right = saliency.attribute(x, target=lambda out: out["left"])
    assert left.mean() > right.mean() + 0.01


def test_a_model_with_a_masker_wants_a_class_and_says_so():
    saliency = MaskingSaliency(MaskingModel(cnn()))
    with pytest.raises(TargetError, match="must be a class for a masker"):
        saliency.attribute(torch.randn(2, 3, 16, 16), target=lambda logits: logits[:, 0])


def test_a_function_that_returns_something_else_is_refused():
    saliency = MaskingSaliency(cnn(), per_input=PerInput(steps=1))
    for target in (lambda logits: logits, lambda logits: logits.sum(), lambda logits: 3):
        with pytest.raises(ValueError, match="must return one score for each of 2"):
            saliency.attribute(torch.randn(2, 3, 16, 16), target=target)


# Other methods.


@pytest.mark.parametrize("quarter", [0, 3])
def test_extremal_perturbations_and_rise_explain_a_box(quarter):
    methods = (
        ExtremalPerturbation(Detector(), areas=0.25, infill=Mean(), steps=100, lr=0.1, weight=30.0),
        Rise(Detector(), masks=300, cells=4),
    )
    for method in methods:
        mask = method.attribute(bright(0, 3), target=box_of(quarter))
        mask = mask - mask.mean() if isinstance(method, Rise) else mask
        assert inside(mask.clamp_min(0), quarter) > 0.6


# Boxes.


def detections(*boxes: list[float], labels: list[int], scores: list[float]) -> dict[str, Tensor]:
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.long),
        "scores": torch.tensor(scores),
    }


def test_a_box_scores_as_the_best_detection_of_its_label():
    asked = BoxScores([torch.tensor([[0.0, 0, 4, 4]])], [torch.tensor([2])])
    same, half, away = [0.0, 0, 4, 4], [0.0, 0, 2, 4], [8.0, 8, 9, 9]
    found = detections(same, half, same, away, labels=[1, 2, 2, 2], scores=[1, 0.9, 0.4, 1])
    assert asked([found]).item() == pytest.approx(0.45)  # 0.9 / 2, more than 0.4 * 1


def test_boxes_of_one_example_are_added_and_examples_go_round():
    boxes = [torch.tensor([[0.0, 0, 1, 1], [2, 2, 3, 3]]), torch.tensor([[0.0, 0, 1, 1]])]
    asked = BoxScores(boxes, [torch.tensor([1, 1]), torch.tensor([1])])
    found = detections([0, 0, 1, 1], [2, 2, 3, 3], labels=[1, 1], scores=[0.5, 0.25])
    assert asked([found] * 4).tolist() == [0.75, 0.5, 0.75, 0.5]
    with pytest.raises(ValueError, match="made for 2 examples, but the model returned 3"):
        asked([found] * 3)


def test_nothing_found_or_nothing_asked_is_zero():
    none = detections(labels=[], scores=[])
    some = detections([0, 0, 1, 1], labels=[1], scores=[0.5])
    box, label = torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([1])
    assert BoxScores([box], [label])([none]).tolist() == [0]
    assert BoxScores([box[:0]], [label[:0]])([some]).tolist() == [0]


def test_as_many_labels_as_boxes():
    with pytest.raises(ValueError, match="as many labels as boxes"):
        BoxScores([torch.zeros(2, 4)], [torch.zeros(1)])


# Regions.


def test_logits_of_a_region_are_averaged_or_added_worked_by_hand():
    logits = torch.arange(12.0).reshape(1, 3, 2, 2)  # class 1: 4 5 / 6 7
    region = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
    assert RegionLogits(1, region)(logits).tolist() == [5.5]
    assert RegionLogits(1, region, mean=False)({"out": logits}).tolist() == [11]
    assert RegionLogits(1, mean=False)(logits).tolist() == [22]


def test_each_example_has_its_class_and_region_and_copies_go_round():
    logits = torch.arange(16.0).reshape(2, 2, 2, 2)
    region = torch.tensor([[[[1, 0], [0, 0]]], [[[0, 0], [0, 1]]]])
    asked = RegionLogits([1, 0], region)
    assert asked(torch.cat([logits] * 2)).tolist() == [4, 11, 4, 11]
    with pytest.raises(ValueError, match="made for 2 examples"):
        asked(logits[:1])


def test_an_empty_region_is_zero():
    assert RegionLogits(0, torch.zeros(1, 1, 2, 2))(torch.ones(1, 1, 2, 2)).tolist() == [0]
