"""Promises of extremal perturbations: the mask's shape, the blurs, the area, and what is found."""

from __future__ import annotations

import math

import pytest
import torch
from networks import Quadrants, cnn
from torch import Tensor

from captum_masking.methods import ExtremalPerturbation
from captum_masking.methods.base import probability
from captum_masking.methods.extremal import _between, _Shape
from captum_masking.parts.infill import Mean, Noise
from captum_masking.parts.regularizer import SizeTarget


def planted(quarter: int, side: int = 24) -> Tensor:
    """A dim picture with one bright quarter, in reading order."""
    picture, half = torch.full((1, 3, side, side), 0.05), side // 2
    top, left = divmod(quarter, 2)
    picture[..., top * half : (top + 1) * half, left * half : (left + 1) * half] += 1
    return picture


# The mask of cells.


def smooth_maximum(cells: Tensor, step_px: int, pixel: tuple[int, ...]) -> float:
    """Loop over all cells around a pixel, as the formula has it; cells go on beyond the edge."""
    middle = [side // step_px for side in pixel]
    top = bottom = 0.0
    offsets = range(-4, 5)
    for offset in torch.cartesian_prod(*[torch.tensor(list(offsets))] * len(pixel)).reshape(
        -1, len(pixel)
    ):
        place = [m + int(o) for m, o in zip(middle, offset, strict=True)]
        inside = [min(max(p, 0), n - 1) for p, n in zip(place, cells.shape, strict=True)]
        apart = math.dist([p + 0.5 for p in pixel], [(p + 0.5) * step_px for p in place])
        reaches = math.exp(-2 * max(apart / (3 * step_px) - 0.5, 0) ** 2)
        value = float(cells[tuple(inside)]) * reaches
        top, bottom = top + math.exp(20 * value) * value, bottom + math.exp(20 * value)
    return top / bottom


@pytest.mark.parametrize("size, step_px", [((9, 7), 1), ((20, 13), 3), ((11,), 2), ((4, 5, 3), 1)])
def test_a_mask_is_the_smooth_maximum_of_the_cells_around(size, step_px):
    grid = [math.ceil(side / step_px) for side in size]
    cells = torch.rand(2, *grid, dtype=torch.float64)
    mask = _Shape(size, step_px)(cells)
    assert mask.shape == (2, 1, *size)
    for pixel in [(0,) * len(size), tuple(side // 2 for side in size), tuple(s - 1 for s in size)]:
        assert mask[(1, 0, *pixel)].item() == pytest.approx(
            smooth_maximum(cells[1], step_px, pixel)
        )


def test_with_all_cells_on_a_mask_is_almost_one_everywhere():
    mask = _Shape((70, 70), 7)(torch.ones(1, 10, 10))
    assert mask.min() > 0.984 and mask.max() < 0.992


@pytest.mark.parametrize("side, step_px", [(224, 7), (64, 2), (32, 1), (10, 1)])
def test_cells_are_a_32nd_of_the_shorter_side_and_never_less_than_a_pixel(side, step_px):
    assert _Shape.of(torch.zeros(1, 3, 2 * side, side)) == _Shape((2 * side, side), step_px)


# Blurs.


def test_a_pyramid_is_climbed_linearly_from_the_blur_to_the_picture():
    pyramid = torch.tensor([10.0, 20.0, 50.0]).reshape(3, 1, 1, 1).expand(3, 1, 2, 5)
    mask = torch.tensor([[[0.0, 0.25, 0.5, 0.75, 1.0]]])
    assert _between(pyramid, mask)[0, 1].tolist() == [10, 15, 20, 35, 50]


def test_the_gradient_of_a_mask_is_there_at_both_ends():
    pyramid = torch.tensor([10.0, 20.0, 50.0]).reshape(3, 1, 1, 1).expand(3, 1, 1, 2)
    mask = torch.tensor([[[0.0, 1.0]]], requires_grad=True)
    _between(pyramid, mask).sum().backward()
    assert mask.grad.flatten().tolist() == [20, 60]  # two levels: twice the difference


def test_a_full_mask_shows_the_picture_and_an_empty_one_a_blur_without_a_dark_frame():
    method, x = ExtremalPerturbation(cnn()), 1 + torch.rand(2, 3, 16, 16)
    pyramid = method._pyramid(x)
    assert torch.equal(method._perturbed(x, pyramid, torch.ones(2, 1, 16, 16), 0), x)
    assert method._perturbed(x, pyramid, torch.zeros(2, 1, 16, 16), 0).min() > 1
    spread = pyramid.std((2, 3, 4))
    assert (spread.diff(dim=0) > 0).all() and len(pyramid) == 8


# The area.


def test_equal_pixels_of_a_mask_are_pushed_alike():
    mask = torch.full((1, 1, 2, 4), 0.5, dtype=torch.float64, requires_grad=True)
    SizeTarget(0.25, weight=8.0)(mask, None).backward()  # 2 * (0.5 - 0.25) each
    torch.testing.assert_close(mask.grad, torch.full_like(mask, 0.5))


QUICK = {"steps": 250, "lr": 0.03}


@pytest.mark.parametrize("area, side, steps", [(0.05, 32, QUICK), (0.25, 32, QUICK), (0.6, 48, {})])
def test_the_area_is_met_within_a_percent(area, side, steps):
    found = ExtremalPerturbation(Quadrants(), areas=area, infill=Mean(), **steps)
    mask = found.attribute(torch.cat([planted(1, side), planted(2, side)]), target=[1, 2])[:, 0]
    assert mask.min() >= 0 and mask.max() <= 1
    for met, how in ((mask.mean((1, 2)), 1e-4), ((mask > 0.5).float().mean((1, 2)), 0.01)):
        torch.testing.assert_close(met, torch.full((2,), area), atol=how, rtol=0)


def test_a_classifier_that_sees_nothing_leaves_the_area_alone_to_act():
    blind = lambda x: torch.zeros(len(x), 2) + 0 * x.sum()  # noqa: E731
    x = torch.rand(1, 3, 16, 16)
    mask = ExtremalPerturbation(blind, areas=0.3, steps=200, lr=0.04).attribute(x, target=1)
    assert mask.mean().item() == pytest.approx(0.3, abs=1e-4)


# What is found.


@pytest.mark.parametrize(
    "sides",
    [{}, {"kept": False, "removed": True}, {"removed": True}],
    ids=["kept", "removed", "both"],
)
def test_the_planted_patch_is_found(sides):
    found = ExtremalPerturbation(
        Quadrants(), areas=0.25, infill=Mean(), steps=200, lr=0.04, **sides
    )
    for quarter in (0, 3):
        x = planted(quarter)
        on, patch = found.attribute(x, target=quarter)[0, 0] > 0.5, x[0, 0] > 0.5
        assert (on & patch).sum() > 0.8 * (on | patch).sum()


def test_what_is_asked_of_what_the_mask_shows_and_of_what_it_leaves():
    seen = []

    def classify(x: Tensor) -> Tensor:
        seen.append(x.detach().mean().item())
        return torch.stack([x.sum((1, 2, 3)), 0 * x.sum((1, 2, 3))], 1)

    x = torch.ones(1, 1, 8, 8)
    for sides, shown in (({}, 0.985), ({"kept": False, "removed": True}, 0.015)):
        seen.clear()
        ExtremalPerturbation(classify, infill=Mean(), steps=1, **sides).attribute(x, target=0)
        assert seen[-1] == pytest.approx(shown, abs=0.01)


def test_pictures_are_mirrored_at_every_second_step():
    seen = []

    def classify(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return torch.stack([0 * x.sum((1, 2, 3)), x.mean((1, 2, 3))], 1)

    x = torch.arange(8.0).repeat(1, 1, 8, 1)
    ExtremalPerturbation(classify, infill=Mean(), lr=0.0, steps=2).attribute(x, target=1)
    torch.testing.assert_close(seen[-1], seen[-2].flip(-1))
    assert seen[-2][0, 0, 0, 0] < seen[-2][0, 0, 0, -1]


def test_several_areas_are_searched_each_by_itself_and_added():
    few = {"steps": 20, "lr": 0.1, "infill": Mean(), "smooth": 0.0}
    x, areas = planted(0), [0.1, 0.3, 0.5]
    each = [ExtremalPerturbation(Quadrants(), areas=a, **few).attribute(x, target=0) for a in areas]
    together = ExtremalPerturbation(Quadrants(), areas=areas, **few)
    for at_a_time in (1, 2, 3):
        found = together.attribute(x, target=0, perturbations_per_eval=at_a_time)
        torch.testing.assert_close(found, sum(each), atol=1e-4, rtol=1e-4)


def test_the_sum_is_smoothed_unless_told_otherwise_and_one_mask_is_not():
    few, x = {"steps": 20, "lr": 0.1, "infill": Mean()}, planted(0)
    rough, default, one, same = (
        ExtremalPerturbation(Quadrants(), areas=areas, smooth=smooth, **few).attribute(x, target=0)
        for areas, smooth in (([0.1, 0.3], 0.0), ([0.1, 0.3], None), (0.1, None), (0.1, 0.0))
    )
    assert default.std() < rough.std() and torch.equal(one, same)


@pytest.mark.parametrize(
    "options", [{}, {"removed": True}, {"infill": Noise()}, {"score": probability}]
)
def test_a_batch_gives_what_its_images_give_one_by_one(options):
    method = ExtremalPerturbation(cnn(dropout=0.0), areas=[0.1, 0.3], steps=8, lr=0.1, **options)
    x, target = torch.randn(3, 3, 16, 16), [0, 2, 1]
    alone = [method.attribute(row, target=t) for row, t in zip(x.split(1), target, strict=True)]
    together = method.attribute(x, target=target)
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-3, rtol=1e-3)
    assert not torch.allclose(together[0], together[1])


def test_a_network_that_cuts_gradients_is_refused():
    cut = lambda x: cnn()(x.detach()).detach()  # noqa: E731
    with pytest.raises(RuntimeError, match="gradients are cut"):
        ExtremalPerturbation(cut, steps=1).attribute(torch.randn(1, 3, 16, 16), target=0)


def test_elements_of_a_vector_are_cells():
    weights = torch.tensor([5.0, -5.0, 0.0, 1.0])
    score = lambda x: torch.stack([(x * weights).sum(1), 0 * x.sum(1)], 1)  # noqa: E731
    mask = ExtremalPerturbation(score, areas=0.5).attribute(torch.ones(1, 4), target=0)
    assert (mask > 0.5).tolist() == [[True, False, False, True]]


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"areas": 1.0}, "between 0 and 1"),
        ({"areas": []}, "between 0 and 1"),
        ({"areas": (0.1, 0.0)}, "between 0 and 1"),
        ({"kept": False}, "got neither"),
        ({"steps": 0}, "steps"),
        ({"blur_px": 0.0}, "above 0"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        ExtremalPerturbation(cnn(), **wrong)
