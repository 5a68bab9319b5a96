"""The learned infill: what it may see, what it returns, and that it learns to complete images."""

from __future__ import annotations

import pickle

import pytest
import torch
from networks import everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from captum_masking.parts.infill import Blur, Inpainter, Mean
from captum_masking.parts.inpainting import (
    InpaintingNetwork,
    random_holes,
    spread,
    train_inpainter,
    visible,
)
from captum_masking.parts.masking import mask_images


def awake(channels: int, width: int = 8) -> InpaintingNetwork:
    """A network that adds something to its guess, as if trained."""
    network = InpaintingNetwork(channels, width=width)
    nn.init.normal_(network.final.weight, std=0.5)
    return network


def stripes(count: int) -> Tensor:
    """Waves across or down, all of one length and of any phase, 32 x 32, mean 0 and std 1."""
    phase = 2 * torch.pi * torch.rand(count, 1, 1, 1)
    across = 2**0.5 * torch.sin(torch.arange(32) * torch.pi / 12 + phase).expand(-1, -1, 32, -1)
    return across.where(torch.rand(count, 1, 1, 1) < 0.5, across.mT)


def gradients(count: int) -> Tensor:
    """Colors that change smoothly in one direction, 3 x 32 x 32."""
    ends = torch.randn(count, 3, 2)
    across = ends[:, :, None, :1].lerp(ends[:, :, None, 1:], torch.linspace(0, 1, 32))
    across = across.expand(-1, -1, 32, -1)
    return across.where(torch.rand(count, 1, 1, 1) < 0.5, across.mT)


@torch.no_grad()
def error_in_the_hole(infill, images: Tensor, hole: Tensor) -> float:
    error = (hole * (infill(images, hole) - images).abs()).sum()
    return (error / hole.expand_as(images).sum()).item()


# What may be seen.


@pytest.mark.parametrize("size", [(16, 16), (13, 9)], ids=str)
def test_what_is_at_least_half_missing_never_reaches_the_network(size):
    image, hole = torch.randn(2, 3, *size), random_holes(torch.zeros(2, 3, *size))
    secret = torch.where(hole >= 0.5, 100 * torch.randn(2, 3, *size), image)
    network = awake(3)
    assert torch.equal(network(secret, hole), network(image, hole))


def test_behind_a_full_hole_all_images_look_the_same():
    network, hole = awake(3), torch.ones(2, 1, 8, 8)
    one, other = network(torch.randn(2, 3, 8, 8), hole)
    assert one.isfinite().all()
    torch.testing.assert_close(one, other)


def test_what_may_be_seen_of_a_pixel_falls_from_all_to_nothing_at_one_half():
    hole = torch.tensor([0.0, 0.1, 0.4, 0.5, 0.9, 1.0])
    torch.testing.assert_close(visible(hole), torch.tensor([1.0, 0.8, 0.2, 0.0, 0.0, 0.0]))


# The smooth guess.


def test_spreading_one_seen_color_paints_it_everywhere():
    seen = torch.zeros(1, 1, 11, 7)
    seen[..., 4, 2] = 1
    image = torch.randn(1, 2, 11, 7, dtype=torch.float64)
    guess = spread(image, seen.double())
    torch.testing.assert_close(guess, image[..., 4:5, 2:3].expand_as(image))


def test_spreading_keeps_what_is_seen_and_stays_within_its_range():
    image, seen = torch.randn(2, 3, 21, 34), (torch.rand(2, 1, 21, 34) < 0.1).float()
    guess = spread(image, seen)
    assert torch.equal(guess * seen, image * seen)
    shown = image[seen.expand_as(image) == 1]
    assert shown.min() <= guess.min() and guess.max() <= shown.max()


def test_spreading_two_halves_meets_in_the_middle():
    # 1 1 ? ? ? ? 5 5: the cells of two are 1 ? ? 5, those of four 1 and 5.
    image = torch.tensor([1.0, 1, 9, 9, 9, 9, 5, 5]).reshape(1, 1, 1, 8)
    guess = spread(image, (image != 9).float())[0, 0, 0]
    assert (guess.diff() >= 0).all()
    torch.testing.assert_close(guess + guess.flip(0), torch.full((8,), 6.0))


def test_spreading_nothing_gives_the_mean_color():
    assert not spread(torch.randn(1, 3, 5, 6), torch.zeros(1, 1, 5, 6)).any()
    assert not spread(torch.randn(1, 3, 1, 1), torch.zeros(1, 1, 1, 1)).any()


# The network.


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (32, 32), (33, 50), (1, 90)], ids=str)
def test_the_network_completes_images_of_any_size_and_number_of_channels(channels, size, device):
    image = torch.randn(2, channels, *size, device=device)
    completed = awake(channels).to(device)(image, random_holes(image))
    assert completed.shape == image.shape and completed.isfinite().all()


def test_untrained_the_network_answers_with_the_smooth_guess():
    image = torch.randn(2, 3, 20, 20)
    hole = random_holes(image)
    assert torch.equal(InpaintingNetwork(3)(image, hole), spread(image, visible(hole)))


def test_each_image_is_completed_on_its_own_in_either_mode():
    network, image = awake(3), torch.randn(3, 3, 16, 16)
    hole = random_holes(image)
    alone = torch.cat([network.eval()(i[None], h[None]) for i, h in zip(image, hole, strict=True)])
    torch.testing.assert_close(network.train()(image, hole), alone)


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (2, 3, 8), (2, 3, 4, 4, 4)], ids=str)
def test_images_of_another_kind_than_the_network_knows_are_refused(shape):
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\), but got .*; train one"):
        InpaintingNetwork(3)(torch.zeros(shape), torch.zeros(shape[0], 1, *shape[2:]))


def test_a_network_prints_its_settings():
    assert repr(InpaintingNetwork(1, width=8)) == "InpaintingNetwork(channels=1, width=8)"


# Holes to learn from.


def test_random_holes_have_every_area_and_both_hard_and_soft_shores():
    hole = random_holes(torch.zeros(400, 3, 24, 24))
    assert hole.shape == (400, 1, 24, 24) and hole.min() >= 0 and hole.max() <= 1
    areas = hole.mean((1, 2, 3))
    counts = areas.histc(3, 0, 1)
    assert (counts > 80).all() and areas.min() > 0 and areas.max() < 1
    unsure = ((hole > 0.05) & (hole < 0.95)).float().mean((1, 2, 3))
    assert (unsure < 0.05).sum() > 40 and (unsure > 0.5).sum() > 40


def test_object_and_surrounding_are_missing_equally_often():
    hole = random_holes(torch.zeros(400, 1, 24, 24)) > 0.5
    center, rim = hole[:, 0, 8:16, 8:16].float().mean(), hole[:, 0, 0].float().mean()
    assert 0.4 < center < 0.6 and 0.4 < rim < 0.6


# Training.


@pytest.mark.parametrize(("pictures", "steps"), [(stripes, 100), (gradients, 20)])
def test_a_trained_inpainter_completes_structure_better_than_mean_and_blur(pictures, steps):
    loader = DataLoader(TensorDataset(pictures(256), torch.zeros(256)), 16, shuffle=True)
    network = InpaintingNetwork(pictures(1).shape[1], width=16)
    inpainter = train_inpainter(loader, steps=steps, network=network, show_progress=False)
    unseen = pictures(64)
    hole = random_holes(unseen)
    error = error_in_the_hole(inpainter, unseen, hole)
    assert error < 0.6 * error_in_the_hole(Mean(), unseen, hole)
    assert error < 0.6 * error_in_the_hole(Blur(), unseen, hole)  # even though it sees the hole


def test_training_adds_to_the_smooth_guess_what_the_images_have_in_common():
    loader = DataLoader(stripes(256), 16, shuffle=True)
    network = InpaintingNetwork(1, width=16)
    inpainter = train_inpainter(loader, steps=100, network=network, show_progress=False)
    unseen = stripes(64)
    hole = random_holes(unseen)
    guess = error_in_the_hole(InpaintingNetwork(1), unseen, hole)
    assert error_in_the_hole(inpainter, unseen, hole) < 0.75 * guess


@pytest.mark.parametrize("batch", [lambda i: i, lambda i: (i, torch.zeros(len(i))), lambda i: [i]])
@pytest.mark.parametrize("shape", [(2, 1, 16, 16), (1, 4, 9, 14)], ids=str)
def test_batches_with_and_without_labels_are_read_and_left_alone(batch, shape):
    images = torch.randn(shape)
    before = images.clone()
    inpainter = train_inpainter([batch(images)], steps=3, show_progress=False)
    assert torch.equal(images, before)
    assert inpainter(images, random_holes(images)).shape == shape


def test_the_loader_is_run_through_as_often_as_the_steps_need():
    seen = []

    class Loader(list):
        def __iter__(self):
            for images in super().__iter__():
                seen.append(images.mean().item())
                yield images

    train_inpainter(
        Loader([torch.full((1, 1, 8, 8), k * 1.0) for k in range(3)]), steps=7, show_progress=False
    )
    assert seen == [0, 1, 2, 0, 1, 2, 0]


class Painter(nn.Module):
    """A user's own network, with batch norm and a layer held in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(4, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Dropout())
        self.layers[2].eval()
        self.layers[0].bias.requires_grad_(False)

    def forward(self, image: Tensor, hole: Tensor) -> Tensor:
        return self.layers(torch.cat([image * (1 - hole), hole], dim=1))


def test_a_network_of_ones_own_is_trained_in_place_and_gets_modes_and_flags_back():
    network = Painter().double()
    before = everything(network)
    inpainter = train_inpainter(
        [torch.randn(4, 3, 8, 8)], steps=2, network=network, show_progress=False
    )
    after = everything(network)
    assert inpainter.network is network
    assert after["modes"] == before["modes"] and after["flags"] == before["flags"]
    assert all(p.grad is None for p in network.parameters())
    moved = {k: not torch.equal(v, before["weights"][k]) for k, v in network.named_parameters()}
    assert moved["layers.0.weight"] and not moved["layers.0.bias"]


def test_the_same_seed_gives_the_same_inpainter():
    def weights() -> list[Tensor]:
        torch.manual_seed(3)
        inpainter = train_inpainter([images], steps=3, show_progress=False)
        return list(inpainter.network.parameters())

    images = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(weights(), weights(), rtol=0, atol=0)


def test_a_trained_inpainter_is_an_infill_that_can_be_sent_to_another_process():
    images, mask = torch.randn(2, 1, 12, 12), torch.rand(2, 1, 12, 12, requires_grad=True)
    inpainter = train_inpainter([images], steps=2, show_progress=False)
    assert isinstance(inpainter, Inpainter)
    masked_in, _ = mask_images(images, mask, inpainter)
    masked_in.sum().backward()
    assert mask.grad.any()
    again = pickle.loads(pickle.dumps(inpainter))
    torch.testing.assert_close(again(images, mask), inpainter(images, mask), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("loader", "error", "message"),
    [
        ([], ValueError, "loader must give images.*0 batches"),
        (iter([torch.zeros(1, 1, 8, 8)]), ValueError, "is an iterator"),
        ([("a", "b")], TypeError, "must be a tensor.*got str"),
        ([torch.zeros(1, 1, 8, 8, dtype=torch.uint8)], TypeError, "floating point"),
        ([torch.full((1, 1, 8, 8), torch.nan)], ValueError, "finite.*remove or repair"),
        ([torch.zeros(1, 1, 8)], ValueError, r"\(B, C, H, W\), but got \(1, 1, 8\)"),
    ],
)
def test_a_loader_without_usable_images_is_refused(loader, error, message):
    with pytest.raises(error, match=message):
        train_inpainter(loader, steps=2, show_progress=False)


def test_training_that_trains_nothing_is_refused():
    with pytest.raises(ValueError, match="steps must be at least 1, but got 0"):
        train_inpainter([torch.zeros(1, 1, 8, 8)], steps=0)


def test_an_error_that_diverges_is_named_with_a_way_out():
    with pytest.raises(ValueError, match="inpainting error must be finite.*lower lr"):
        train_inpainter([torch.randn(2, 1, 8, 8)], steps=9, lr=1e30, show_progress=False)
