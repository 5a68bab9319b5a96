"""The table of methods that the contract tests go through: each method adds one row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from captum.attr import Attribution
from networks import ViT, cnn
from torch import Tensor, nn

from captum_masking import MaskingModel
from captum_masking.methods import (
    AttentionRollout,
    AttributionMask,
    CAStream,
    Ensemble,
    ExtremalPerturbation,
    OptiCAM,
    Rise,
    ScoreCAM,
    TransformerRelevance,
)


@dataclass(frozen=True)
class Row:
    """How a method is made small, for what kind of network.

    ``make(network)`` returns the attribution. ``network()`` and ``inputs`` are what it is tried on:
    no ready-made seeds, three examples. ``anywhere``: it takes any callable and inputs of any
    number of dimensions, and so also runs Captum's own configurations.
    """

    make: Callable[[Any], Attribution]
    network: Callable[[], nn.Module] = cnn
    inputs: tuple[int, ...] = (3, 3, 16, 16)
    anywhere: bool = False

    def examples(self) -> Tensor:
        return torch.randn(self.inputs, generator=torch.Generator().manual_seed(0))


def stream(network: nn.Module) -> CAStream:
    """A stream that has learned something, if only random numbers."""
    method = CAStream(network)
    random = torch.Generator().manual_seed(0)
    for weights in method.network.stream.parameters():
        weights.data.copy_(torch.randn(weights.shape, generator=random))
    return method


def three(network: nn.Module) -> Ensemble:
    classifier = getattr(network, "classifier", network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Ensemble([MaskingModel(classifier, target_aware=False) for _ in range(3)])


METHODS = {
    "AttentionRollout": Row(AttentionRollout, network=ViT),
    # One pass: on what is black, the gradient of a maximum hangs on rounding.
    "AttributionMask": Row(partial(AttributionMask, passes=1), anywhere=True),
    "CAStream": Row(stream),
    "Ensemble": Row(three),
    "ExtremalPerturbation": Row(partial(ExtremalPerturbation, steps=3, areas=0.3), anywhere=True),
    "OptiCAM": Row(partial(OptiCAM, steps=4)),
    "Rise": Row(partial(Rise, masks=12, cells=3), anywhere=True),
    "ScoreCAM": Row(ScoreCAM),
    "TransformerRelevance": Row(TransformerRelevance, network=ViT),
}
