"""What each infill promises beyond test_contract.py."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from captum_masking.parts.infill import (
    VARIANTS,
    Black,
    Blur,
    Color,
    DabkowskiGal,
    Inpainter,
    Mean,
    Noise,
    RandomImage,
    UniformColor,
    gaussian_blur,
)
from captum_masking.parts.masker import linear
from captum_masking.parts.masking import mask_images


def hole_for(inputs: Tensor) -> Tensor:
    return torch.ones_like(inputs[:, :1])


def paint(infill, inputs: Tensor) -> Tensor:
    return infill(inputs, hole_for(inputs))


def numbered(count: int, size: tuple[int, ...] = (2, 2)) -> Tensor:
    """Image k is k all over."""
    return torch.arange(count * 1.0).reshape(-1, 1, *[1] * len(size)).expand(-1, 3, *size)


def test_every_variant_has_a_name_that_can_be_typed_as_a_row_of_the_comparison():
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) for name in VARIANTS)


# One color.


def test_mean_paints_the_mean_color_of_normalized_data():
    pictures = torch.rand(64, 3, 4, 4, dtype=torch.float64)
    mean = pictures.mean((0, 2, 3), keepdim=True)
    std = pictures.std((0, 2, 3), keepdim=True)
    empty = torch.zeros(64, 1, 4, 4, dtype=torch.float64)
    masked_in, _ = mask_images((pictures - mean) / std, empty, Mean())
    torch.testing.assert_close(masked_in * std + mean, mean.expand_as(pictures))


@pytest.mark.parametrize("spatial", [(5,), (4, 5), (2, 4, 5)], ids=str)
def test_color_paints_each_channel_with_its_own_number(spatial):
    painted = paint(Color((1.0, -2.0)), torch.randn(3, 2, *spatial))
    assert (painted[:, 0] == 1).all() and (painted[:, 1] == -2).all()


def test_color_paints_all_channels_with_one_number():
    assert (paint(Color(0.5), torch.randn(2, 4, 3, 3)) == 0.5).all()


@pytest.mark.parametrize("infill", [Color((1.0, 2.0)), Black((0.5, 0.5), 1.0), Black(0.5, (1, 1))])
def test_a_color_of_two_channels_does_not_fit_three(infill):
    with pytest.raises(ValueError, match=r"each of the 3 channels.*but got 2.*one number"):
        paint(infill, torch.zeros(2, 3, 4, 4))


def test_a_color_of_one_image_row_is_not_mistaken_for_channels():
    with pytest.raises(ValueError, match=r"4 channels"):
        paint(Color((1.0, 2.0, 3.0)), torch.zeros(3, 4, 3, 3))


def test_black_is_zero_before_normalization():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    painted = paint(Black(mean, std), torch.randn(1, 3, 2, 2, dtype=torch.float64))
    for channel in range(3):
        assert (painted[0, channel] * std[channel] + mean[channel]).abs().max() < 1e-7


@pytest.mark.parametrize("std", [0.0, -1.0, (0.2, 0.0, 0.2), math.nan])
def test_black_refuses_to_divide_by_a_std_that_is_not_positive(std):
    with pytest.raises(ValueError, match=r"std must be positive.*Normalize"):
        Black(0.5, std)


def test_uniform_color_fills_its_range_evenly_and_differs_from_image_to_image():
    painted = paint(UniformColor(-1.0, 3.0), torch.zeros(4000, 3, 2, 2))
    assert (painted == painted[..., :1, :1]).all()
    colors = painted[..., 0, 0]
    quarters = [((colors >= low) & (colors < low + 1)).float().mean(0) for low in (-1, 0, 1, 2)]
    torch.testing.assert_close(torch.stack(quarters), torch.full((4, 3), 0.25), atol=0.03, rtol=0)
    assert torch.corrcoef(colors.T).triu(1).abs().max() < 0.06  # channels on their own


def test_a_range_upside_down_is_refused():
    with pytest.raises(ValueError, match=r"low.*2.0 and 1.0.*swap"):
        UniformColor(2.0, 1.0)


# Noise.


def test_noise_has_the_spread_asked_for_in_every_pixel():
    painted = paint(Noise(std=2.0), torch.zeros(4000, 1, 2, 2, dtype=torch.float64))
    torch.testing.assert_close(painted.std(0), torch.full_like(painted[0], 2), atol=0.1, rtol=0)
    torch.testing.assert_close(painted.mean(0), torch.zeros_like(painted[0]), atol=0.12, rtol=0)
    assert torch.corrcoef(painted.flatten(1).T).triu(1).abs().max() < 0.06


def test_noise_of_a_negative_spread_is_refused():
    with pytest.raises(ValueError, match=r"std must be >= 0, but got -1"):
        Noise(std=-1.0)


@pytest.mark.parametrize("infill", [UniformColor(), Noise(), RandomImage(), DabkowskiGal()])
def test_a_random_infill_follows_the_global_seed(infill):
    inputs = torch.randn(8, 3, 5, 5)
    torch.manual_seed(1)
    first = paint(infill, inputs)
    torch.manual_seed(1)
    again = paint(infill, inputs)
    assert torch.equal(first, again) and not torch.equal(first, paint(infill, inputs))


# Blur.


def blurred_by_hand(image: list[list[float]], sigma: float, reach: int) -> list[list[float]]:
    """Convolution with a truncated Gaussian and zeros all around, tap by tap."""
    taps = {d: math.exp(-(d**2) / (2 * sigma**2)) for d in range(-reach, reach + 1)}
    total = sum(taps.values())
    height, width = len(image), len(image[0])
    return [
        [
            sum(
                taps[i - k] * taps[j - m] * image[k][m] / total**2
                for k in range(height)
                for m in range(width)
                if abs(i - k) <= reach and abs(j - m) <= reach
            )
            for j in range(width)
        ]
        for i in range(height)
    ]


@pytest.mark.parametrize(("sigma", "reach"), [(0.8, 3), (1.3, 5), (1.3, 2), (9.0, 36)])
def test_blur_agrees_with_a_loop_over_taps(sigma, reach):
    image = torch.randn(7, 9, dtype=torch.float64)
    expected = torch.tensor(blurred_by_hand(image.tolist(), sigma, reach), dtype=torch.float64)
    torch.testing.assert_close(gaussian_blur(image[None, None], sigma, reach)[0, 0], expected)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 3.7, 20.0])
@pytest.mark.parametrize("spatial", [(1,), (50,), (12, 31), (1, 200), (4, 6, 9)], ids=str)
def test_blur_agrees_with_scipy(sigma, spatial):
    images = torch.randn(2, 3, *spatial, dtype=torch.float64)
    expected = np.stack(
        [[gaussian_filter(c, sigma, mode="constant", truncate=4) for c in i] for i in images]
    )
    torch.testing.assert_close(paint(Blur(sigma), images), torch.from_numpy(expected))


def test_the_published_blur_reaches_80_pixels_and_no_further():
    spot = torch.zeros(1, 1, 400, dtype=torch.float64)
    spot[..., 200] = 1
    reached = paint(Blur(), spot)[0, 0].abs() > 1e-9
    assert reached.nonzero().flatten().tolist() == list(range(120, 281))


def test_blur_in_half_precision_is_the_blur_rounded_once():
    images = torch.randn(2, 1, 40, 40).bfloat16()
    assert torch.equal(paint(Blur(3.0), images), paint(Blur(3.0), images.float()).bfloat16())


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf])
def test_a_blur_without_a_width_is_refused(sigma):
    with pytest.raises(ValueError, match=r"sigma_px must be positive"):
        Blur(sigma)


# Another image.


def test_every_other_image_of_the_batch_is_drawn_equally_often_and_never_the_image_itself():
    counts, draws = torch.zeros(5, 5), 4000
    for _ in range(draws):
        drawn = paint(RandomImage(), numbered(5))[:, 0, 0, 0].long()
        assert drawn.unique().numel() == 5  # each image is given away once
        counts[torch.arange(5), drawn] += 1
    expected = (1 - torch.eye(5)) / 4
    torch.testing.assert_close(counts / draws, expected, atol=0.03, rtol=0)


def test_a_batch_of_one_has_no_other_image():
    with pytest.raises(ValueError, match=r"two or more, but got 1.*bank=.*drop_last=True"):
        paint(RandomImage(), torch.zeros(1, 3, 4, 4))


def test_a_bank_serves_a_batch_of_one_and_is_drawn_from_evenly():
    infill = RandomImage(bank=numbered(4, size=(3, 3)))
    drawn = torch.stack([paint(infill, torch.zeros(1, 3, 3, 3))[0, 0, 0, 0] for _ in range(2000)])
    torch.testing.assert_close(
        drawn.long().bincount() / 2000, torch.full((4,), 0.25), atol=0.04, rtol=0
    )


def test_images_of_a_bank_are_resampled_to_the_inputs_and_take_their_type():
    bank = torch.randn(1, 3, 4, 6)
    painted = paint(RandomImage(bank), torch.zeros(2, 3, 8, 9, dtype=torch.float64))
    torch.testing.assert_close(painted, linear(bank.double(), (8, 9)).expand(2, -1, -1, -1))


@pytest.mark.parametrize("shape", [(2, 1, 4, 4), (2, 3, 4)])
def test_a_bank_of_other_images_than_the_inputs_is_refused(shape):
    with pytest.raises(ValueError, match=r"like the inputs \(2, 3, 8, 8\).*only the size"):
        paint(RandomImage(torch.zeros(shape)), torch.zeros(2, 3, 8, 8))


@pytest.mark.parametrize(
    ("bank", "error"),
    [
        ([1, 2], TypeError),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), TypeError),
        (torch.zeros(0, 3, 4, 4), ValueError),
        (torch.zeros(4, 4), ValueError),
    ],
)
def test_a_bank_that_holds_no_images_is_refused(bank, error):
    with pytest.raises(error, match=r"bank must"):
        RandomImage(bank)


def test_a_bank_is_counted_rather_than_printed():
    assert repr(RandomImage(torch.zeros(7, 3, 4, 4))) == "RandomImage(bank=<7 images>)"


# Dabkowski & Gal.


def test_half_of_the_images_are_blurred_and_the_others_get_a_noisy_color():
    inputs = torch.randn(400, 1, 9, 9, dtype=torch.float64)
    painted, blurred = paint(DabkowskiGal(), inputs), gaussian_blur(inputs, 11.0, 27)
    is_blurred = (painted == blurred).flatten(1).all(1)
    assert 160 < is_blurred.sum() < 240
    flat = painted[~is_blurred]
    color, noise = flat.mean((2, 3)), flat - flat.mean((2, 3), keepdim=True)
    assert noise.std().item() == pytest.approx(0.11, abs=0.01)
    # A uniform color spreads 0.33 / sqrt(3); the mean of the noise adds 0.11 / 9.
    assert color.std().item() == pytest.approx(0.33 / math.sqrt(3), abs=0.02)
    assert color.abs().max() < 0.33 + 0.06


@pytest.mark.parametrize(
    "wrong", [{"blur": 1.5}, {"sigma_px": 0.0}, {"taps": 54}, {"std": -1.0}, {"color": -1.0}]
)
def test_settings_that_make_no_mixture_are_refused(wrong):
    with pytest.raises(ValueError, match=r"but got"):
        DabkowskiGal(**wrong)


# Inpainter.


def test_an_inpainter_is_told_the_true_hole_on_both_sides():
    holes = []
    mask = torch.rand(2, 1, 4, 4)
    mask_images(torch.randn(2, 3, 4, 4), mask, Inpainter(lambda i, hole: holes.append(hole) or i))
    torch.testing.assert_close(holes, [1 - mask, mask])


class Dropping(nn.Module):
    """Counts its calls; batch norm and dropout show in which mode it ran."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.fails = fails
        self.layers = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Dropout())

    def forward(self, image: Tensor, hole: Tensor) -> Tensor:
        assert not self.training and not torch.is_grad_enabled()
        if self.fails:
            raise RuntimeError("on purpose")
        return self.layers(image)


@pytest.mark.parametrize("fails", [False, True])
def test_an_inpainter_runs_in_eval_mode_and_gives_the_modes_back(fails):
    network = Dropping(fails)
    network.layers[2].eval()
    modes = [m.training for m in network.modules()]
    weights = {k: v.clone() for k, v in network.state_dict().items()}
    inputs = torch.randn(2, 3, 4, 4)
    try:
        pixels = paint(Inpainter(network), inputs)
        assert torch.equal(pixels, paint(Inpainter(network), inputs)) and not pixels.requires_grad
    except RuntimeError:
        assert fails
    assert [m.training for m in network.modules()] == modes
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    torch.testing.assert_close(network.state_dict(), weights, rtol=0, atol=0)


def test_the_mask_learns_from_what_is_replaced_not_through_the_network():
    inputs = torch.randn(1, 1, 3, 3, dtype=torch.float64)
    mask = torch.rand(1, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    masked_in, _ = mask_images(inputs, mask, Inpainter(lambda image, hole: image * hole + 7))
    (gradient,) = torch.autograd.grad(masked_in.sum(), mask)
    # masked_in = mask * inputs + (1 - mask) * constant
    torch.testing.assert_close(gradient, inputs - (inputs * (1 - mask.detach()) + 7))


def test_a_network_that_paints_into_its_arguments_does_not_reach_the_images():
    def careless(image, hole):
        return image.mul_(0).add_(hole.add_(1))

    inputs, mask = torch.randn(2, 3, 4, 4), torch.rand(2, 1, 4, 4, requires_grad=True)
    before = inputs.clone()
    masked_in, masked_out = mask_images(inputs, mask, Inpainter(careless))
    (masked_in + masked_out).sum().backward()
    assert torch.equal(inputs, before) and mask.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_a_network_in_another_precision_is_fed_in_its_own(dtype):
    network = Dropping().eval()
    inputs = torch.randn(2, 3, 4, 4, dtype=dtype)
    expected = network.layers(inputs.float()).to(dtype)
    pixels = paint(Inpainter(network), inputs)
    assert pixels.dtype == dtype and torch.equal(pixels, expected)


@pytest.mark.parametrize(
    ("network", "error", "message"),
    [
        (lambda i, h: i[:, :1], ValueError, r"\(2, 3, 4, 4\), but returned \(2, 1, 4, 4\); wrap"),
        (lambda i, h: i[..., :2], ValueError, r"\(2, 3, 4, 4\), but returned \(2, 3, 4, 2\)"),
        (lambda i, h: (i, h), TypeError, r"must return a tensor.*returned tuple; wrap"),
        (lambda i, h: None, TypeError, r"must return a tensor.*returned NoneType"),
        (lambda i, h: i / 0, ValueError, r"must be finite.*look at its weights"),
    ],
)
def test_a_network_that_returns_no_image_is_refused(network, error, message):
    with pytest.raises(error, match=message):
        paint(Inpainter(network), torch.randn(2, 3, 4, 4))


def test_a_name_is_no_network():
    with pytest.raises(TypeError, match=r"network\(image, hole\), but got 'unet'.*train_inpainter"):
        Inpainter("unet")


def test_a_network_on_another_device_is_named():
    network = nn.Conv2d(3, 3, 1, device="meta")
    with pytest.raises(ValueError, match=r"device of the inputs, cpu, but is on meta.*\.to\('cpu"):
        paint(Inpainter(network), torch.randn(2, 3, 4, 4))


def test_a_function_is_printed_by_its_name():
    assert repr(Inpainter(hole_for)) == "Inpainter(network=hole_for)"
    assert repr(Inpainter(Mean())) == "Inpainter(network=Mean())"
