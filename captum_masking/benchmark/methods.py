"""The rows of a benchmark if nobody names any: all of Captum that applies, CAMs, and ours."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from captum_masking.benchmark.cam_methods import SLOW, cam_methods
from captum_masking.benchmark.captum_methods import captum_methods
from captum_masking.benchmark.method import Method
from captum_masking.benchmark.store import digest
from captum_masking.encoder import find_layers
from captum_masking.model import MaskingModel
from captum_masking.saliency import MaskingSaliency


def default_methods(
    model: nn.Module, example: Tensor, *, slow: bool = False
) -> tuple[dict[str, Method], dict[str, str]]:
    """Make every method that applies to a classifier.

    Args:
        model: A ``MaskingModel``, whose own masks are the first row; or a classifier.
        example: Images ``(B, C, H, W)`` to try methods on.
        slow: Also those that take hundreds of forward passes an image.

    Returns:
        ``(methods, left_out)``: rows by name, and why others do not apply. Layer methods read
        the deepest map, which is the last that a ``MaskingModel`` reads.

    Source:
        Own.

    Example:
        >>> import torch
        >>> classifier = nn.Sequential(
        ...     nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 8, 3, 2), nn.ReLU(),
        ...     nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
        ... )
        >>> methods, left_out = default_methods(classifier, torch.rand(1, 3, 32, 32))
        >>> methods["LayerGradCam"].family
        'captum'
    """
    ours: dict[str, Method] = {}
    if isinstance(model, MaskingModel):
        classifier, layer = model.classifier, model.layers[-1]
        ours = {"MaskingSaliency": ours_of(model)}
    else:
        classifier, layer = model, find_layers(model, example[:1])[-1]
    captum, no_captum = captum_methods(classifier, layer, example)
    cams, no_cams = cam_methods(classifier, layer, example)
    found = {**ours, **captum, **cams}
    chosen = {name: row for name, row in found.items() if slow or name not in SLOW}
    return chosen, {**no_captum, **no_cams}


def in_words(left_out: Mapping[str, str]) -> list[str]:
    """Say of each method that does not apply why, a sentence each.

    Source:
        Own.

    Example:
        >>> in_words({"DeepLift": "it raises"})
        ['DeepLift is left out: it raises']
    """
    return [f"{name} is left out: {reason}" for name, reason in left_out.items()]


def ours_of(model: MaskingModel, settings: str = "") -> Method:
    """Make the row of a trained model's own masks.

    Source:
        Phang et al. 2020.
    """
    saliency = MaskingSaliency(model)
    return Method(
        lambda inputs, target: saliency.attribute(inputs, target=target)[:, :1],
        family="ours",
        settings=settings or f"masker on {', '.join(model.layers)}, weights {digest(model)}",
        is_mask=True,
        module=model,
    )
