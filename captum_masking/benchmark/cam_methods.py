"""Rows of the benchmark: the class activation maps of the package pytorch-grad-cam."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import redirect_stderr
from importlib import import_module
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn

from captum_masking.benchmark.alone import one_by_one
from captum_masking.benchmark.lending import Lender, quiet, why_no_map
from captum_masking.benchmark.method import Explain, Method

FAMILY = "pytorch-grad-cam"

_WEIGHTED = ("GradCAM", "HiResCAM", "GradCAMPlusPlus", "XGradCAM", "LayerCAM")
# The sign of a first component hangs on rounding, and so on the batch that an image comes in.
_COMPONENT = ("EigenCAM", "EigenGradCAM")
_FORWARD_PER_CHANNEL = ("ScoreCAM", "AblationCAM")

#: Names of rows that take one forward pass for each channel of the layer.
SLOW = frozenset(f"{FAMILY} {name}" for name in _FORWARD_PER_CHANNEL)


def cam_methods(
    classifier: nn.Module, layer: str, example: Tensor
) -> tuple[dict[str, Method], dict[str, str]]:
    """Make a row of each method of pytorch-grad-cam that applies.

    Each works on a copy of its own, with the package's defaults: no smoothing.

    Args:
        classifier: An eager module; it is not changed.
        layer: Whose maps are weighted, usually the deepest.
        example: Inputs ``(B, C, H, W)``.

    Returns:
        ``(methods, left_out)``: rows by name, those in :data:`SLOW` last, and why others are
        missing.

    Raises:
        ValueError: If there is no such layer.

    Source:
        pytorch-grad-cam 1.5 (Gildenblat et al. 2021), which scales its maps itself.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten())
        >>> methods, left_out = cam_methods(network, "1", torch.zeros(1, 3, 4, 4))
        >>> methods, list(left_out)
        ({}, ['pytorch-grad-cam'])
    """
    reason = why_no_map(classifier, layer, example) or _why_not_installed()
    if reason:
        return {}, {FAMILY: reason}
    package = import_module("pytorch_grad_cam")
    names = (*_WEIGHTED, *_COMPONENT, *_FORWARD_PER_CHANNEL)
    kinds = {**{name: getattr(package, name) for name in names}, "AblationCAM": _ablation_cam}
    explain = {name: _explain(kind, classifier, layer) for name, kind in kinds.items()}
    explain.update({name: one_by_one(explain[name]) for name in _COMPONENT})
    rows = {f"{FAMILY} {n}": Method(explain[n], FAMILY, f"layer={layer!r}") for n in names}
    return rows, {}


def _why_not_installed() -> str:
    try:
        import_module("pytorch_grad_cam")
    except ImportError as error:
        return f"it cannot be imported ({error}); pip install grad-cam"
    return ""


def _explain(kind: Callable[..., Any], classifier: nn.Module, layer: str) -> Explain:
    targets = import_module("pytorch_grad_cam.utils.model_targets")
    lender = Lender(classifier)

    def explain(inputs: Tensor, target: Tensor) -> Tensor:
        # Gradients reach the layer from the inputs: the parameters of the copy ask for none.
        images = inputs.detach().clone().requires_grad_()
        wanted = [targets.ClassifierOutputTarget(index) for index in target.tolist()]
        # The slow ones draw a progress bar for each image.
        with lender.lent() as network, quiet(), redirect_stderr(StringIO()), torch.enable_grad():
            maps = _run(kind, network, layer, images, wanted)
        return torch.from_numpy(maps)[:, None].to(inputs.device)

    return explain


def _run(
    kind: Callable[..., Any], network: nn.Module, layer: str, images: Tensor, wanted: list[Any]
) -> Any:
    """Return maps ``(B, H, W)``. Not as a context manager: that swallows an ``IndexError``."""
    cam = kind(model=network, target_layers=[network.get_submodule(layer)])
    try:
        return cam(input_tensor=images, targets=wanted)
    finally:
        cam.activations_and_grads.release()


def _ablation_cam(model: nn.Module, target_layers: list[nn.Module]) -> Any:
    """Make an AblationCAM for layers that take more than one tensor: its stand-in takes just one.

    The stand-in is also its own: the package's default is shared by all objects.
    """
    package = import_module("pytorch_grad_cam")

    class StandIn(package.AblationLayer):  # type: ignore[name-defined]
        def __call__(self, inputs: Tensor, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(inputs)

    return package.AblationCAM(model, target_layers, ablation_layer=StandIn())
