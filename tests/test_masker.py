"""The masker's architecture, counted, and re-implemented in loops."""

from __future__ import annotations

import math

import pytest
import slow
import torch
from torch import Tensor, nn

from captum_masking.masker import Masker, linear, nearest

RESNET50 = {1: 256, 2: 512, 3: 1024, 4: 2048}  # channels of its stages


def random_relu_features(seed: int) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    shapes = (4, 1024, 14, 14), (4, 2048, 7, 7)
    return [torch.randn(shape, generator=random).relu() for shape in shapes]


@pytest.mark.parametrize(
    "stages, parameters",
    [([3, 4], 198_017), ([2, 3, 4], 231_489), ([1, 2, 3, 4], 248_577), ([4], 131_777)]
    + [([3], 66_241), ([1], 17_089)],
)
def test_the_masker_has_the_published_number_of_parameters(stages, parameters):
    masker = Masker([RESNET50[stage] for stage in stages])
    assert sum(parameter.numel() for parameter in masker.parameters()) == parameters


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_the_masker_counts_its_parameters_in_any_number_of_dimensions(dims):
    masker = Masker([5, 7], width=4, dims=dims)
    expected = (5 + 7) * 4 + 2 * 2 * 4 + 8 * 3**dims + 1
    assert sum(parameter.numel() for parameter in masker.parameters()) == expected


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_masks_start_near_one_half_and_not_saturated(train):
    # With the published initialisation 70 % of the values lie outside [0.05, 0.95].
    for seed in range(5):
        torch.manual_seed(seed)
        masker = Masker([1024, 2048]).train(train)
        with torch.no_grad():
            mask = masker(random_relu_features(seed), (14, 14)).sigmoid()
        assert abs(mask.mean() - 0.5) < 0.1, seed
        assert mask.min() > 0.05 and mask.max() < 0.95, seed


def test_masks_start_different_from_place_to_place():
    mask = Masker([1024, 2048])(random_relu_features(0), (14, 14)).sigmoid()
    assert mask.std() > 1e-3


def test_the_masker_equals_a_slow_loop_over_the_published_architecture():
    masker = Masker([3, 2], width=2).double().eval()
    for part in masker.modules():
        if isinstance(part, nn.BatchNorm2d):  # as after training: no statistic at its default
            for value in (part.weight, part.bias, part.running_mean):
                nn.init.normal_(value)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
    nn.init.normal_(masker.final.weight)
    nn.init.normal_(masker.final.bias)
    features = [torch.randn(1, 3, 4, 6).double(), torch.randn(1, 2, 2, 3).double()]
    grid = (4, 6)
    with torch.no_grad():
        mask_logits = masker(features, grid)[0, 0].tolist()

    planes = []  # four of them: two channels of each feature map, normalised and on the grid
    for reduce, maps in zip(masker.reduce, features, strict=True):
        convolution, norm, _ = reduce
        for k in range(2):
            plane = sum(convolution.weight[k, c, 0, 0] * maps[0, c] for c in range(maps.shape[1]))
            spread = (norm.running_var[k] + norm.eps).sqrt()
            plane = (plane - norm.running_mean[k]) / spread * norm.weight[k] + norm.bias[k]
            planes.append(slow.bilinear(plane.relu().tolist(), *grid))
    weight, bias = masker.final.weight[0].tolist(), masker.final.bias.item()
    for i in range(4):
        for j in range(6):
            logit = bias
            for plane, kernel in zip(planes, weight, strict=True):
                for di in (-1, 0, 1):
                    for dj in (-1, 0, 1):
                        if 0 <= i + di < 4 and 0 <= j + dj < 6:  # zeros around the map
                            logit += kernel[di + 1][dj + 1] * plane[i + di][j + dj]
            assert mask_logits[i][j] == pytest.approx(logit)


def test_the_order_of_channels_is_the_order_of_features():
    with pytest.raises(RuntimeError):
        Masker([3, 2])([torch.randn(1, 2, 4, 4), torch.randn(1, 3, 4, 4)], (4, 4))


def test_a_feature_map_too_few_is_refused():
    with pytest.raises(ValueError):
        Masker([3, 2])([torch.randn(1, 3, 4, 4)], (4, 4))


# Resampling.


def test_linear_resampling_equals_a_slow_loop():
    maps = torch.rand(1, 1, 4, 6, dtype=torch.float64)
    for size in [(8, 12), (9, 7), (3, 5)]:
        expected = torch.tensor(slow.bilinear(maps[0, 0].tolist(), *size)).double()
        torch.testing.assert_close(linear(maps, size)[0, 0], expected, check_dtype=False)


def test_nearest_resampling_repeats_each_cell():
    maps = torch.rand(2, 1, 3, 5)
    expected = maps.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    assert torch.equal(nearest(maps, (12, 20)), expected)


def test_resampling_keeps_a_constant_and_the_place_of_its_centre():
    assert linear(torch.full((1, 1, 3, 3), 0.3), (17, 31)).allclose(torch.tensor(0.3))
    ramp = torch.linspace(0, 1, 7).reshape(1, 1, 7)
    assert linear(ramp, [49])[0, 0, 24].item() == pytest.approx(0.5)
    assert math.isclose(nearest(ramp, [49])[0, 0, 24].item(), 0.5)
