"""The regularizers, worked by hand, by slow loops, and against the published code's values."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import slow
import torch
from parts import judgement
from torch import Tensor

from captum_masking.masker import nearest
from captum_masking.objective import Dual, Judgement
from captum_masking.regularizer import Area, Sum, TotalVariation, published

HERE = Path(__file__).parent
CASES = json.loads((HERE / "published_loss.json").read_text(encoding="utf-8"))


def said_in(case: dict) -> Judgement:
    logits = (torch.tensor(case[name]) for name in ("logits", "logits_in", "logits_out"))
    return Judgement(*(rows.double() for rows in logits), torch.tensor(case["target"]))


def constant(*areas: float) -> Tensor:
    return torch.tensor(areas, dtype=torch.float64).reshape(-1, 1, 1, 1).repeat(1, 1, 4, 6)


# Area.


def test_area_worked_by_hand():
    # masked-in succeeds on images 0 and 1, masked-out on 0 and 2, nothing on 3
    mask, said = constant(0.1, 0.2, 0.4, 0.8), judgement(torch.float64)
    assert Area(1.0, 0.0)(mask, said).item() == pytest.approx(-(0.9 + 0.8) / 4)
    assert Area(0.0, 1.0)(mask, said).item() == pytest.approx(-(0.9 + 0.6) / 4)
    assert Area(2.0, 3.0)(mask, said).item() == pytest.approx(-2 * 1.7 / 4 - 3 * 1.5 / 4)


def test_area_pushes_every_pixel_of_a_success_alike_and_none_of_a_failure():
    mask = torch.rand(4, 1, 4, 6, dtype=torch.float64, requires_grad=True)
    Area(weight_in=2.0, weight_out=3.0)(mask, judgement(torch.float64)).backward()
    # weight * gate / (B * H * W)
    pushes = [(2 + 3) / 96, 2 / 96, 3 / 96, 0]
    expected = torch.tensor(pushes, dtype=torch.float64).reshape(4, 1, 1, 1).expand(4, 1, 4, 6)
    torch.testing.assert_close(mask.grad, expected)


def test_area_rewards_the_smaller_of_two_successful_masks():
    said = judgement(torch.float64)
    assert Area()(constant(0.1, 0.1, 0.1, 0.1), said) < Area()(constant(0.2, 0.2, 0.2, 0.2), said)


@pytest.mark.parametrize("side", [4, 64, 200])
def test_area_is_a_fraction_so_its_value_does_not_depend_on_resolution(side):
    mask = torch.full((4, 1, side, 2 * side), 0.25)
    assert Area(1.0, 0.0)(mask, judgement()).item() == pytest.approx(-2 / 4 * 0.75)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_area_equals_the_published_code(case):
    mask, said = constant(*case["area"]), said_in(case)
    area_in, area_out, _ = case["weights"]
    assert Area(area_in, 0)(mask, said).item() == pytest.approx(case["area_reg_in"], abs=1e-5)
    assert Area(0, area_out)(mask, said).item() == pytest.approx(case["area_reg_out"], abs=2e-5)


# Total variation.


def test_total_variation_worked_by_hand():
    # one bright pixel in the middle of 5 x 5: four differences of 1, nothing on the frame
    mask = torch.zeros(1, 1, 5, 5)
    mask[0, 0, 2, 2] = 1
    assert TotalVariation(weight=1.0)(mask, None).item() == pytest.approx(4 / 2)
    # half as bright: squares
    assert TotalVariation(weight=1.0)(mask / 2, None).item() == pytest.approx(1 / 2)
    # in a batch of two, the other empty: half
    batch = torch.cat([mask, 0 * mask])
    assert TotalVariation(weight=1.0)(batch, None).item() == pytest.approx(2 / 2)


def test_total_variation_counts_the_frame_and_corners_twice():
    # 224 x 224, so that the border weighs 0.3 as published
    corner, edge = torch.zeros(2, 1, 1, 224, 224)
    corner[..., 0, 0] = 1
    edge[..., 0, 100] = 1
    # two differences and two border lines; three differences and one border line
    assert TotalVariation(weight=2.0)(corner, None).item() == pytest.approx(2 + 2 * 0.3)
    assert TotalVariation(weight=2.0)(edge, None).item() == pytest.approx(3 + 0.3)


def test_total_variation_has_the_reference_values_of_the_published_code():
    # one criterion at 0.001: a centred square of 158 pixels, and a mask of ones
    square = torch.zeros(1, 1, 224, 224, dtype=torch.float64)
    square[..., 33:191, 33:191] = 1
    assert TotalVariation(weight=0.001)(square, None).item() == pytest.approx(0.316, abs=5e-4)
    ones = torch.ones(1, 1, 224, 224, dtype=torch.float64)
    assert TotalVariation(weight=0.001)(ones, None).item() == pytest.approx(0.134, abs=5e-4)


def test_total_variation_equals_a_slow_loop_over_the_published_formula():
    mask = torch.rand(3, 1, 5, 7, dtype=torch.float64)
    expected = sum(slow.energy(rows) for rows in mask[:, 0].tolist()) / (2 * 3)
    assert TotalVariation(weight=1.0)(mask, None).item() == pytest.approx(expected)


def test_total_variation_of_a_constant_mask_is_its_frame_alone():
    assert TotalVariation(weight=1.0, border=0.0)(constant(0.3, 0.9), None) == 0
    assert TotalVariation(weight=1.0)(constant(0.3, 0.9), None) > 0


def bump(*sides: int) -> Tensor:
    """The product of sin^2 along each axis, and 0.5 more everywhere, at pixel centres."""
    mask = torch.ones(sides, dtype=torch.float64)
    for axis, side in enumerate(sides):
        wave = (math.pi * (torch.arange(side, dtype=torch.float64) + 0.5) / side).sin().square()
        mask = mask * wave.reshape([-1 if a == axis else 1 for a in range(len(sides))])
    return mask[None, None]


# A difference over one pixel of side h in place of a slope is short by a share of (pi h)^2 / 3,
# which is 8e-4 at 64 pixels and less above.
@pytest.mark.parametrize("side", [64, 224, 512])
def test_total_variation_of_a_smooth_mask_does_not_depend_on_resolution(side):
    # Integral of the squared slopes of sin^2(pi x) sin^2(pi y): 2 * pi^2 / 2 * 3 / 8
    expected = 3 * math.pi**2 / 8 / 2
    assert TotalVariation(1.0, border=0)(bump(side, side), None).item() == pytest.approx(
        expected, rel=1e-3
    )


# The outermost pixels are up to (pi h / 2)^2 = 6e-4 above 0.5 at 64 pixels, its square 2.4e-3.
@pytest.mark.parametrize("side", [64, 224, 512])
def test_the_frame_of_a_smooth_mask_does_not_depend_on_resolution(side):
    slopes, frame = 3 * math.pi**2 / 8, 0.3 * 4 * 224 * 0.5**2
    assert TotalVariation(1.0)(bump(side, side) + 0.5, None).item() == pytest.approx(
        (slopes + frame) / 2, rel=3e-3
    )


@pytest.mark.parametrize("sides", [(64,), (64, 96), (32, 32, 32), (16, 24, 32)], ids=str)
@pytest.mark.parametrize("border", [0.0, 0.3])
def test_doubling_the_resolution_keeps_total_variation_in_any_number_of_dimensions(sides, border):
    term = TotalVariation(1.0, border=border)
    coarse = term(bump(*sides) + 0.5, None).item()
    fine = term(bump(*(2 * side for side in sides)) + 0.5, None).item()
    # (pi h)^2 / 3 as above, at 16 pixels along the coarsest axis
    assert fine == pytest.approx(coarse, rel=1.5e-2 if len(sides) == 3 else 3e-3)


def test_total_variation_treats_both_axes_alike():
    mask = torch.rand(2, 1, 6, 9, dtype=torch.float64)
    one, other = TotalVariation()(mask, None), TotalVariation()(mask.mT, None)
    torch.testing.assert_close(one, other)


def test_total_variation_weighs_linearly():
    mask = torch.rand(2, 1, 6, 9, dtype=torch.float64)
    torch.testing.assert_close(
        TotalVariation(weight=3.0)(mask, None), 3 * TotalVariation(weight=1.0)(mask, None)
    )


# Together.


def test_sum_adds_its_terms():
    mask, said = torch.rand(4, 1, 4, 6, dtype=torch.float64), judgement(torch.float64)
    terms = Area(1.0, 2.0), TotalVariation(0.5)
    torch.testing.assert_close(Sum(*terms)(mask, said), sum(term(mask, said) for term in terms))


def test_published_is_the_published_loss_of_the_frozen_set_up():
    mask = torch.rand(4, 1, 5, 7, dtype=torch.float64)
    said = judgement(torch.float64)
    expected = slow.masker_loss(
        mask[:, 0].tolist(), *said, area_in=1.0, area_out=10.0, variation=0.001
    )
    assert (Dual()(said) + published()(mask, said)).item() == pytest.approx(expected.item())


# One whole case of the published code, masks included.


@pytest.fixture(scope="module")
def whole_case() -> tuple[dict, Tensor, Judgement]:
    case = CASES[1]
    low = torch.from_numpy(np.load(HERE / "published_mask.npz")["low_mask"]).double()
    return case, nearest(low, (224, 224)), said_in(case)


def whole_loss(case: dict, mask: Tensor, said: Judgement) -> Tensor:
    # The published variation is added on both sides, so it weighs double.
    area_in, area_out, variation = case["weights"]
    regularizer = Sum(Area(area_in, area_out), TotalVariation(weight=2 * variation))
    return Dual()(said) + regularizer(mask, said)


def test_the_loss_equals_the_published_code(whole_case):
    case, mask, said = whole_case
    loss = whole_loss(case, mask, said).item()
    assert loss == pytest.approx(case["loss_in"] + case["loss_out"], rel=1e-5)


def test_total_variation_equals_the_published_code(whole_case):
    case, mask, _ = whole_case
    assert TotalVariation(weight=case["weights"][2])(mask, None).item() == pytest.approx(
        case["tv"], rel=1e-6
    )


def test_the_gradient_of_the_loss_equals_the_published_code(whole_case):
    case, mask, said = whole_case
    mask = mask.requires_grad_()
    (gradient,) = torch.autograd.grad(whole_loss(case, mask, said), mask)
    assert gradient.sum().item() == pytest.approx(case["mask_grad_sum"], rel=1e-5)
    assert gradient.abs().sum().item() == pytest.approx(case["mask_grad_abs_sum"], rel=1e-5)


def test_the_areas_stored_with_the_published_values_are_those_of_the_masks(whole_case):
    case, mask, _ = whole_case
    assert mask.mean((1, 2, 3)).tolist() == pytest.approx(case["area"])
