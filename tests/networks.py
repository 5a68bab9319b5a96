"""Tiny classifiers with known weights, and ways to look at what was done to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


def cnn(
    channels: int = 3, classes: int = 4, *, dims: int = 2, dropout: float = 0.5, seed: int = 0
) -> nn.Sequential:
    """Two strided convolutions and a head; the same seed gives the same weights.

    Modules "2" and "5" end its two stages, at strides 2 and 4.
    """
    convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    batch_norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1]
    pool = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[dims - 1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            *(convolution(channels, 6, 3, 2, 1), batch_norm(6), nn.ReLU()),
            *(convolution(6, 8, 3, 2, 1), batch_norm(8), nn.ReLU()),
            *(pool(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(8, classes)),
        )


HEADS, WIDTH, PATCH = 2, 8, 4


class Block(nn.Module):
    """One layer of attention and one perceptron, both beside a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)])
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))

    def forward(self, x: Tensor, attend: Callable) -> Tensor:
        qkv = self.qkv(self.norms[0](x)).unflatten(-1, (3, HEADS, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, N, width of a head) each
        x = x + self.out(attend(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norms[1](x))


class ViT(nn.Module):
    """A vision transformer: ``extra`` tokens, then patches; ``pool`` reads tokens for the answer.

    The same seed gives the same weights; attention is far from uniform.
    """

    def __init__(
        self,
        layers: int = 2,
        *,
        attend: Callable = scaled_dot_product_attention,
        extra: int = 1,
        pool: Callable[[Tensor], Tensor] = lambda tokens: tokens[:, 0],
        classes: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.attend, self.pool = attend, pool
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.patches = nn.Conv2d(3, WIDTH, PATCH, PATCH)
            self.extra = nn.Parameter(torch.randn(1, extra, WIDTH))
            self.blocks = nn.ModuleList([Block() for _ in range(layers)])
            self.dropout, self.head = nn.Dropout(0.5), nn.Linear(WIDTH, classes)
            for block in self.blocks:
                nn.init.normal_(block.qkv.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        patches = self.patches(inputs).flatten(2).mT
        tokens = torch.cat([self.extra.expand(len(inputs), -1, -1), patches], dim=1)
        for block in self.blocks:
            tokens = self.dropout(block(tokens, self.attend))
        return self.head(self.pool(tokens))


class Quadrants(nn.Module):
    """Logit k is the gain times the mean of the k-th quarter of the picture, in reading order."""

    def __init__(self, gain: float = 10.0) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, inputs: Tensor) -> Tensor:
        height, width = inputs.shape[2] // 2, inputs.shape[3] // 2
        rows = (inputs[:, :, :height], inputs[:, :, height:])
        quarters = [part for row in rows for part in (row[..., :width], row[..., width:])]
        return self.gain * torch.stack([part.mean((1, 2, 3)) for part in quarters], dim=1)


class Lookup(nn.Module):
    """A classifier that wants more than the inputs: a scale per example, and a switch."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.seen: list[tuple] = []

    def forward(self, inputs: Tensor, scale: Tensor, switch: Any = None) -> Tensor:
        self.seen.append((len(inputs), tuple(scale.shape), switch))
        return self.network(inputs) * scale[:, None]


class Counted(nn.Module):
    """Counts how often a network runs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.calls = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        return self.network(inputs)


class Broken(nn.Module):
    """Runs some times, then raises; it fails in its middle, when hooks are in place."""

    def __init__(self, network: nn.Sequential, runs: int) -> None:
        super().__init__()
        self.network = network
        self.runs = runs

    def forward(self, inputs: Tensor) -> Tensor:
        self.runs -= 1
        if self.runs < 0:
            self.network[:3](inputs)
            raise ArithmeticError("the classifier broke")
        return self.network(inputs)


def everything(module: nn.Module) -> dict[str, Any]:
    """All that someone who lends a module wants back: weights, statistics, modes, flags, hooks."""
    return {
        "weights": {name: value.clone() for name, value in module.state_dict().items()},
        "modes": {name: part.training for name, part in module.named_modules()},
        "flags": {name: p.requires_grad for name, p in module.named_parameters()},
        "gradients": {
            name: None if p.grad is None else p.grad.clone()
            for name, p in module.named_parameters()
        },
        "hooks": {
            name: (len(p._forward_hooks), len(p._forward_pre_hooks), len(p._backward_hooks))
            for name, p in module.named_modules()
        },
    }


def assert_same(before: Any, after: Any) -> None:
    """Compare two answers of :func:`everything`, tensors bit by bit."""
    torch.testing.assert_close(after, before, rtol=0, atol=0, equal_nan=True)


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def mixed_modes(module: nn.Module) -> nn.Module:
    """Every second part in eval mode, every second parameter frozen: a state worth giving back."""
    for index, part in enumerate(module.modules()):
        part.training = index % 2 == 0
    for index, parameter in enumerate(module.parameters()):
        parameter.requires_grad_(index % 2 == 0)
    return module


def colors(sharpness: float = 10.0) -> nn.Sequential:
    """Tells red, green and blue pictures apart, without an error and without training."""
    network = nn.Sequential(
        *(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 1, 2), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)),
    )
    with torch.no_grad():
        for part in network:
            if hasattr(part, "weight"):
                part.bias.zero_()
                part.weight.copy_(torch.eye(3).reshape(part.weight.shape))
        network[-1].weight.mul_(sharpness)
    return network


def colored(labels: Tensor, side: int = 8) -> Tensor:
    """Pictures ``(B, 3, side, side)`` of one color each, a little noisy."""
    pictures = nn.functional.one_hot(labels, 3).float()[..., None, None].repeat(1, 1, side, side)
    return pictures + 0.1 * torch.rand_like(pictures)


class Flat(nn.Module):
    """A masker whose one parameter is the logit of every cell."""

    def __init__(self, logit: float = 0.0) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(logit))
        self.grids: list[tuple[int, ...]] = []

    def forward(self, features: list[Tensor], grid: tuple[int, ...], question: Any) -> Tensor:
        self.grids.append(tuple(grid))
        return self.logit.expand(len(features[0]), 1, *grid)


class Halves(Flat):
    """The logit on the right half of the mask, minus the logit on the left."""

    def forward(self, features: list[Tensor], grid: tuple[int, ...], question: Any) -> Tensor:
        right = torch.arange(grid[-1], device=self.logit.device) >= grid[-1] / 2
        return super().forward(features, grid, question) * torch.where(right, 1.0, -1.0)
