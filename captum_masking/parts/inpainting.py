"""A small network that completes images, and its training on your own images."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from captum_masking._base.borrow import given_back
from captum_masking._base.checks import check_finite, check_inputs, check_loader
from captum_masking._base.rates import cosine
from captum_masking.parts.infill import Inpainter
from captum_masking.parts.masker import linear

__all__ = ["InpaintingNetwork", "train_inpainter"]


def visible(hole: Tensor) -> Tensor:
    """Return the visible share of each pixel: 1 without a hole, 0 from a hole of one half on.

    A soft mask would otherwise show what it hides, only darker.
    """
    return (1 - 2 * hole).clamp(min=0)


def spread(image: Tensor, seen: Tensor) -> Tensor:
    """Fill unseen pixels with the mean of seen ones nearby, at the finest possible scale.

    ``seen`` is a weight in ``[0, 1]``, ``(B, 1, H, W)``; if nothing is seen, the result is zero. A
    pyramid of weighted means, after Gortler et al. 1996 (pull and push).
    """
    if seen.shape[2:].numel() == 1:
        return image * (seen > 0)
    weight = avg_pool2d(seen, 2, ceil_mode=True)
    means = avg_pool2d(image * seen, 2, ceil_mode=True) / weight.clamp(min=1e-6)
    # The mean of a cell counts in full once a quarter of the cell is seen.
    coarse = spread(means, (4 * weight).clamp(max=1))
    return seen * image + (1 - seen) * linear(coarse, seen.shape[2:])


class InpaintingNetwork(nn.Module):
    """A small U-Net that corrects a smooth guess: ``(image, hole) -> image``.

    It reads the image with its hole at the mean (zero), the hole, and the hole filled smoothly from
    its surroundings, and learns a correction of this guess, which starts at zero.

    Args:
        channels: Of the images.
        width: Channels at a quarter of the resolution; half of that at one half, twice and four
            times that further down.

    Source:
        The shape is that of Ronneberger et al. 2015.

    Example:
        >>> network = InpaintingNetwork(channels=3)
        >>> network(torch.rand(1, 3, 50, 75), hole=torch.ones(1, 1, 50, 75)).shape
        torch.Size([1, 3, 50, 75])
    """

    def __init__(self, channels: int, width: int = 32) -> None:
        super().__init__()
        self.channels, self.width = channels, width
        widths = [width // 2, width, 2 * width, 4 * width, 4 * width]  # strides 2, 4, 8, 16, 32
        pairs = list(itertools.pairwise(widths))
        self.down = nn.ModuleList(
            _block(n, m, stride=2) for n, m in [(2 * channels + 1, widths[0]), *pairs]
        )
        self.up = nn.ModuleList(_block(n + m, n) for n, m in reversed(pairs))
        self.final = nn.Conv2d(widths[0], channels, 3, padding=1)
        nn.init.zeros_(self.final.weight)
        nn.init.zeros_(self.final.bias)  # type: ignore[arg-type]

    def forward(self, image: Tensor, hole: Tensor) -> Tensor:
        """Complete images ``(B, channels, H, W)``; the result counts where the hole is."""
        self._check(image)
        seen = visible(hole)
        guess = spread(image, seen)
        maps = [torch.cat([image * seen, hole, guess], dim=1)]
        for down in self.down:
            maps.append(down(maps[-1]))
        deep = maps.pop()
        for up in self.up:
            skip = maps.pop()
            deep = up(torch.cat([linear(deep, skip.shape[2:]), skip], dim=1))
        return guess + linear(self.final(deep), image.shape[2:])

    def _check(self, image: Tensor) -> None:
        if image.dim() != 4 or image.shape[1] != self.channels:
            raise ValueError(
                f"{self} completes images (B, {self.channels}, H, W), but got "
                f"{tuple(image.shape)}; train one on images like these, or for signals and volumes "
                "write your own network(image, hole)."
            )

    def __repr__(self) -> str:
        return f"InpaintingNetwork(channels={self.channels}, width={self.width})"


def _block(channels: int, width: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
    # Normalized per image, so that eval mode is train mode and other images never matter.
    return nn.Sequential(convolution, nn.GroupNorm(1, width), nn.ReLU())


def random_holes(images: Tensor) -> Tensor:
    """Draw a hole ``(B, 1, H, W)`` for each image: blobs of all sizes and areas, hard or soft.

    Smooth noise is cut at a random area, so missing objects and missing surroundings are equally
    likely.
    """
    return torch.cat([_random_hole(images) for _ in range(len(images))])


def _random_hole(images: Tensor) -> Tensor:
    grid = torch.randint(2, 9, (2,)).tolist()  # from one blob across the image to dozens
    landscape = linear(torch.randn(1, 1, *grid, device=images.device), images.shape[2:])
    area, steepness = torch.rand(2).tolist()
    level = landscape.flatten().quantile(0.05 + 0.9 * area)
    # Shores from about half a hill wide to a pixel or less.
    return ((level - landscape) * 10 ** (0.5 + 2 * steepness)).sigmoid().to(images.dtype)


def train_inpainter(
    loader: DataLoader,
    *,
    steps: int = 300,
    network: nn.Module | None = None,
    lr: float = 5e-3,
    show_progress: bool = True,
) -> Inpainter:
    """Train a network to complete your own images, without labels.

    Each step hides a random part of each image and learns to restore it by the mean absolute error
    in the hole, with Adam and a cosine schedule after a warm-up. Random numbers are torch's global
    ones.

    Args:
        loader: Yields batches ``(inputs, ...)`` or plain tensors ``(B, C, H, W)``, normalized as
            the classifier expects; repeated as often as needed.
        steps: Number of batches.
        network: Called as ``network(image, hole)``, trained in place on its own device; None is a
            new :class:`InpaintingNetwork` on the device of the images. Frozen parameters stay
            frozen, unless all are.
        lr: Peak learning rate.
        show_progress: Whether to show a progress bar with the running error.

    Returns:
        The trained network, as an infill.

    Source:
        After context encoders (Pathak et al. 2016), without the adversary.

    Example:
        >>> train_inpainter([torch.rand(4, 1, 16, 16)], steps=2, show_progress=False)
        Inpainter(network=InpaintingNetwork(channels=1, width=32))
    """
    _check_steps(loader, steps)
    batches = itertools.islice(_endless(loader), steps)
    first = next(batches)
    if network is None:
        network = InpaintingNetwork(first.shape[1]).to(first.device).eval()
    inpainter = Inpainter(network)
    inpainter(*_exercise(network, first))  # refuses a network that returns no image
    with given_back(network), tqdm(total=steps, disable=not show_progress) as bar:
        optimizer = torch.optim.Adam(_ready_to_train(network), lr=lr)
        schedule = cosine(optimizer, steps)
        for images in itertools.chain([first], batches):
            error = _step(network, images, optimizer)
            schedule.step()
            bar.set_postfix_str(f"error {error:.3f}", refresh=False)
            bar.update()
        optimizer.zero_grad()
    return inpainter


def _exercise(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Move images to a network's device and precision, and draw their holes."""
    images = images.to(next(network.parameters()))
    return images, random_holes(images)


def _ready_to_train(network: nn.Module) -> list[nn.Parameter]:
    """Set train mode; return the parameters to train: all of them, if all are frozen."""
    network.train()
    parameters = list(network.parameters())
    trained = [p for p in parameters if p.requires_grad] or parameters
    for parameter in trained:
        parameter.requires_grad_(True)
    return trained


def _step(network: nn.Module, images: Tensor, optimizer: torch.optim.Optimizer) -> float:
    """Learn from one batch; return the mean absolute error within its holes."""
    images, hole = _exercise(network, images)
    error = (hole * (network(images, hole) - images).abs()).sum() / hole.expand_as(images).sum()
    check_finite(error, "the inpainting error", "train with a lower lr.")
    optimizer.zero_grad()
    error.backward()
    optimizer.step()
    return error.item()


def _endless(loader: DataLoader) -> Iterator[Tensor]:
    while True:
        yield from map(_images, loader)


def _images(batch: Any) -> Tensor:
    """Return the images of a batch, checked."""
    images = batch[0] if isinstance(batch, (tuple, list)) and len(batch) else batch
    check_inputs(images)
    if images.dim() != 4:
        raise ValueError(
            f"the inpainter is trained on images (B, C, H, W), but got {tuple(images.shape)}; for "
            "signals and volumes pass a network of your own to infill.Inpainter."
        )
    check_finite(images, "inputs", "remove or repair these images in the data.")
    return images


def _check_steps(loader: DataLoader, steps: int) -> None:
    check_loader(loader, epochs=2)  # it may be read more than once
    if steps < 1:
        raise ValueError(f"steps must be at least 1, but got {steps}; 300 are a good start.")
