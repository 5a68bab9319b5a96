"""RISE: its expectation on linear models, worked out; the same map whatever the batches."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from networks import cnn
from torch import Tensor

from captum_masking.benchmark.methods import as_method
from captum_masking.methods import Rise
from captum_masking.methods.base import logit
from captum_masking.metrics import min_max
from captum_masking.parts.infill import Noise

WEIGHTS, INPUTS = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([[1.0, 2.0, 4.0]])


def linear(inputs: Tensor) -> Tensor:
    """Two logits: the weighted sum of a vector, and 0."""
    score = inputs.flatten(1) @ WEIGHTS[: inputs[0].numel()]
    return torch.stack([score, 0 * score], dim=1)


def constant(inputs: Tensor) -> Tensor:
    return torch.zeros(len(inputs), 4)  # every probability is 1/4


def test_the_expectation_on_a_linear_model_of_independent_elements():
    # E[S_j] = p f(x) + (1 - p) w_j x_j, with w x = (2, -2, 2), f(x) = 2 and p = 0.3.
    rise = Rise(linear, masks=20_000, keep=0.3, score=logit)
    found = rise.attribute(INPUTS, target=0, perturbations_per_eval=2000)
    torch.testing.assert_close(found, torch.tensor([[2.0, -0.8, 2.0]]), atol=0.1, rtol=0)


def test_the_expectation_on_a_linear_model_of_several_inputs():
    both = lambda first, second: linear(first) + 3 * linear(second)  # noqa: E731
    rise = Rise(both, masks=20_000, keep=0.5, score=logit)
    first, second = rise.attribute((INPUTS, INPUTS), target=0, perturbations_per_eval=2000)
    # f(x) = 2 + 6; half of that, and half of the element's own part.
    torch.testing.assert_close(first, torch.tensor([[5.0, 3.0, 5.0]]), atol=0.2, rtol=0)
    torch.testing.assert_close(second, torch.tensor([[7.0, 1.0, 7.0]]), atol=0.2, rtol=0)


def every_mask(side: int, cells: int) -> list[np.ndarray]:
    """Every mask of one dimension: of each grid of zeros and ones, and each shift."""
    step = math.ceil(side / cells)
    centers = (np.arange((cells + 1) * step) + 0.5) / step - 0.5
    grids = itertools.product([0.0, 1.0], repeat=cells + 1)
    whole = [np.interp(centers, np.arange(cells + 1), grid) for grid in grids]
    return [mask[shift : shift + side] for mask in whole for shift in range(step)]


def test_the_expectation_on_a_linear_model_of_coarse_masks():
    weighted = np.array([1.0, 0.0, -2.0, 0.0, 4.0])  # w_j x_j
    masks = every_mask(5, 2)
    expected = np.mean([(weighted @ mask) * mask for mask in masks], axis=0) / 0.5
    score = lambda x: torch.stack([x.flatten(1).sum(1), torch.zeros(len(x))], 1)  # noqa: E731
    rise = Rise(score, masks=20_000, cells=2, score=logit)
    inputs = torch.tensor(weighted, dtype=torch.float32)[None, None]  # (1, 1, 5), weights of 1
    found = rise.attribute(inputs, target=0, perturbations_per_eval=2000)
    torch.testing.assert_close(found[0, 0].numpy(), np.float32(expected), atol=0.1, rtol=0)


def test_masks_that_show_all_give_the_score_everywhere():
    rise = Rise(linear, masks=3, keep=1.0, score=logit)
    assert torch.equal(rise.attribute(INPUTS, target=0), torch.full((1, 3), 2.0))


def test_a_constant_probability_gives_it_everywhere():
    found = Rise(constant, masks=4000).attribute(torch.rand(1, 1, 14, 14), target=2)
    torch.testing.assert_close(found, torch.full_like(found, 0.25), atol=0.02, rtol=0)


@pytest.mark.parametrize("size", [(9,), (8, 11), (5, 6, 7)], ids=["1-D", "2-D", "3-D"])
def test_the_map_does_not_depend_on_how_many_masks_are_asked_at_once(size):
    rise = Rise(cnn(dims=len(size)).eval(), masks=23, cells=3)
    inputs = torch.randn(2, 3, *size)
    maps = [rise.attribute(inputs, 1, perturbations_per_eval=n) for n in (1, 7, 23, 100)]
    for found in maps:
        assert found.shape == inputs.shape
        torch.testing.assert_close(found, maps[0])


def test_an_infill_that_draws_draws_the_same_for_each_copy(images):
    rise = Rise(cnn(dropout=0.0).eval(), masks=9, infill=Noise())
    together = rise.attribute(images, 1)
    torch.testing.assert_close(rise.attribute(images, 1, perturbations_per_eval=2), together)
    alone = [rise.attribute(image, 1) for image in images.split(1)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_equal_seeds_give_equal_maps_and_others_do_not(images):
    network = cnn().eval()
    first, again, other = (
        Rise(network, masks=9, seed=seed).attribute(images, 1) for seed in (3, 3, 4)
    )
    assert torch.equal(first, again) and not torch.allclose(first, other)


def test_the_callers_random_numbers_neither_matter_nor_move(images):
    rise = Rise(cnn().eval(), masks=9)
    maps = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        maps.append(rise.attribute(images, 1))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*maps)


def test_no_pass_is_larger_than_it_may_be_and_there_is_one_for_each_mask(images):
    sizes = []

    def watched(inputs: Tensor) -> Tensor:
        sizes.append(len(inputs))
        return constant(inputs) + inputs.mean((1, 2, 3))[:, None]

    Rise(watched, masks=10).attribute(images, 1, perturbations_per_eval=4)
    assert sizes == [6, 24, 24, 12]  # the images as they are, then 4 + 4 + 2 masks


def test_the_map_is_highest_where_the_evidence_is(quadrants):
    image = torch.ones(1, 1, 16, 16)
    found = Rise(quadrants, masks=300, cells=4).attribute(image, target=2)
    quarters = [half.mean() for rows in found.chunk(2, 2) for half in rows.chunk(2, 3)]
    assert quarters.index(max(quarters)) == 2


def test_what_the_classifier_takes_besides_is_repeated_with_the_masks(lookup, images):
    scale = torch.arange(6.0)
    Rise(lookup, masks=5).attribute(images, 1, (scale, "on"), perturbations_per_eval=4)
    assert lookup.seen == [(6, (6,), "on"), (24, (24,), "on"), (6, (6,), "on")]


@pytest.mark.parametrize(
    "options, words",
    [
        ({"masks": 0}, "masks must be a whole number >= 1, but got 0"),
        ({"cells": 0}, "cells must be a whole number >= 1"),
        ({"keep": 0.0}, "keep must be a probability in"),
    ],
)
def test_settings_out_of_range_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Rise(constant, **options)


def test_cells_that_do_not_fit_the_input_are_refused():
    with pytest.raises(ValueError, match="one for each of the 2 spatial axes"):
        Rise(constant, cells=(2, 2, 2)).attribute(torch.rand(1, 1, 8, 8), 0)


@pytest.mark.parametrize("answer", [3.0, torch.zeros(2)])
def test_a_target_that_returns_no_score_for_each_example_is_refused(answer):
    with pytest.raises(ValueError, match=r"one score for each of 1 examples, \(1,\), but"):
        Rise(constant).attribute(torch.rand(1, 1, 8, 8), lambda output: answer)


def test_a_benchmark_takes_the_one_channel_that_the_map_repeats(images):
    method = Rise(cnn().eval(), masks=9)
    target = torch.zeros(len(images), dtype=torch.long)
    found = as_method(method).maps(images, target)
    expected = min_max(method.attribute(images, target)[:, :1])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
