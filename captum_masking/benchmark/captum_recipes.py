"""The table of Captum's methods: what each is built of, its settings, and what it needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from captum import attr
from torch import Tensor, nn

from captum_masking.benchmark.captum_options import OfRange, Patches, Sevenths, ZeroAndNoise
from captum_masking.benchmark.captum_subject import Subject


def absolute(attributions: Tensor, size: torch.Size) -> Tensor:
    """Return the sum over channels of absolute values."""
    return attributions.abs().sum(1, keepdim=True)


def enlarged(attributions: Tensor, size: torch.Size) -> Tensor:
    """Return a layer's maps ``(B, 1, h, w)`` at the size of the images."""
    return attr.LayerAttribution.interpolate(attributions, tuple(size), "bilinear")


@dataclass(frozen=True)
class Recipe:
    """How a row comes about.

    Args:
        build: Called as ``build(network, layer)`` with a copy and one of its modules; returns
            Captum's object.
        options: Passed to its ``attribute``; callables are given the inputs first.
        reduce: Called as ``reduce(attributions, size)``; returns maps ``(B, 1, H, W)``.
        network: Which form of the classifier is copied.
        obstacles: Each says in one line why it does not apply, or nothing.
        alone: Whether it draws random numbers: then each image is explained on its own, from the
            same seed, so that its map does not depend on its batch.

    Source:
        Own.

    Example:
        >>> RECIPES["IntegratedGradients"].options["n_steps"]
        50
    """

    build: Callable[[nn.Module, nn.Module], Any]
    options: dict[str, Any] = field(default_factory=dict)
    reduce: Callable[[Tensor, torch.Size], Tensor] = absolute
    network: Callable[[Subject], nn.Module] = Subject.plain
    obstacles: Sequence[Callable[[Subject], str]] = ()
    alone: bool = False


def _of(kind: Callable[[nn.Module], Any]) -> Callable[[nn.Module, nn.Module], Any]:
    return lambda network, layer: kind(network)


#: By the names of Captum's classes. Baseline 0 is the mean color of normalized images.
RECIPES = {
    "Saliency": Recipe(_of(attr.Saliency)),
    "InputXGradient": Recipe(_of(attr.InputXGradient)),
    "GuidedBackprop": Recipe(
        _of(attr.GuidedBackprop), network=Subject.split, obstacles=[Subject.no_relu]
    ),
    "Deconvolution": Recipe(
        _of(attr.Deconvolution), network=Subject.split, obstacles=[Subject.no_relu]
    ),
    "IntegratedGradients": Recipe(  # batches within bound the memory
        _of(attr.IntegratedGradients),
        {"baselines": 0, "n_steps": 50, "internal_batch_size": 16},
    ),
    "GradientShap": Recipe(  # 0.02 of the range is the 0.09 of Captum's examples on ImageNet
        _of(attr.GradientShap),
        {"baselines": ZeroAndNoise(), "n_samples": 5, "stdevs": OfRange(0.02)},
        alone=True,
    ),
    "DeepLift": Recipe(
        _of(attr.DeepLift),
        {"baselines": 0},
        network=Subject.split_with_rules,
        obstacles=[Subject.no_sum],
    ),
    "LayerGradCam": Recipe(
        attr.LayerGradCam,
        {"relu_attributions": True},
        reduce=enlarged,
        obstacles=[Subject.no_map],
    ),
    "GuidedGradCam": Recipe(
        attr.GuidedGradCam,
        {"interpolate_mode": "bilinear"},
        network=Subject.split,
        obstacles=[Subject.no_relu, Subject.no_map],
    ),
    "Occlusion": Recipe(  # 36 windows of 64 pixels on 224
        _of(attr.Occlusion),
        {
            "baselines": 0,
            "sliding_window_shapes": Sevenths(2),
            "strides": Sevenths(1),
            "perturbations_per_eval": 8,
        },
    ),
    "FeatureAblation": Recipe(
        _of(attr.FeatureAblation),
        {"baselines": 0, "feature_mask": Patches(7), "perturbations_per_eval": 8},
    ),
    "NoiseTunnel": Recipe(  # Smilkov et al. 2017: noise of 10 to 20 % of the range
        lambda network, layer: attr.NoiseTunnel(attr.Saliency(network)),
        {"nt_type": "smoothgrad", "nt_samples": 10, "stdevs": OfRange(0.15)},
        alone=True,
    ),
}
