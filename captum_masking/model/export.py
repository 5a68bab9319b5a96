"""A model as one plain module for export: images in, logits and masks out."""

from __future__ import annotations

import copy
from threading import get_ident
from typing import Any

from torch import Tensor, nn

from captum_masking._base.captum import as_they_are, unpacked
from captum_masking.model.layers import dry_run_inputs, varied
from captum_masking.model.layouts import first_tensor
from captum_masking.model.model import MaskingModel, plain_model
from captum_masking.model.taps import tap_of
from captum_masking.parts.evidence import Features, Trace, is_product

__all__ = ["HeatmapModule"]


class HeatmapModule(nn.Module):
    """A module from images to ``(logits, mask)``, without checks or temporary hooks.

    For a classifier of several inputs, it takes several inputs and returns a tuple of masks.

    Args:
        model: Copied, in eval mode. A target-aware masker follows the predicted class. Evidence
            that takes a gradient is refused.

    Example:
        >>> import torch
        >>> from captum_masking import MaskingModel
        >>> classifier = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 2))
        >>> model = MaskingModel(classifier, ["0"], example_inputs=torch.zeros(1, 1, 8, 8))
        >>> program = torch.export.export(HeatmapModule(model), (torch.zeros(1, 1, 8, 8),))
        >>> [tuple(output.shape) for output in program.module()(torch.rand(1, 1, 8, 8))]
        [(1, 2), (1, 1, 8, 8)]
    """

    def __init__(self, model: MaskingModel) -> None:
        super().__init__()
        model = plain_model(model)
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        if model.layers and model.layouts is None:
            self.model.dry_run((dry_run_inputs(model.classifier),), ())
        self.heads = [_head_of(self.model)] if model.reads_evidence else []  # not as a part
        self.kept: dict[tuple[int, str], Any] = {}  # by thread and layer
        for name in model.layers:
            layer, before = tap_of(self.model.classifier, name)
            add = layer.register_forward_pre_hook if before else layer.register_forward_hook
            add(_Keep(self.kept, name))

    def forward(self, inputs: Tensor, *others: Tensor) -> tuple[Tensor, Any]:
        """Return logits ``(B, classes)`` and masks ``(B, 1, *spatial)``."""
        logits = self.model.logits_of(self.model.classifier(inputs, *others))
        maps = (inputs, *others)
        sizes = tuple(tensor.shape[2:] for tensor in maps)
        if self.model.layers:
            layouts = zip(self.model.layouts or (), self.model.layers, strict=True)
            maps = tuple(
                lay(first_tensor(self.kept.pop((get_ident(), name))), unpacked(sizes))
                for lay, name in layouts
            )
        trace = Trace(logits, maps[-1], as_they_are, *self.heads)
        masks = self.model.decode(Features(maps, sizes, trace), self.model.question(logits))
        return logits, unpacked(masks)


def _head_of(model: MaskingModel) -> nn.Linear | None:
    """Return the linear layer that gives the evidence, or refuse evidence that takes a gradient."""
    _, features = model.read((varied(dry_run_inputs(model.classifier)),))
    trace = features.trace
    if trace is None or not is_product(trace):
        raise ValueError(
            "expected a masker that reads features alone, but this one reads the gradient of "
            "the classifier, which exported programs cannot take; export a model with "
            "masker=partial(Masker, classes=...), or one that is not target-aware."
        )
    return trace.head


class _Keep:
    """A hook that keeps a layer's output or input; unlike a closure, it can be copied."""

    def __init__(self, kept: dict[tuple[int, str], Any], name: str) -> None:
        self.kept, self.name = kept, name

    def __call__(self, module: nn.Module, *passed: Any) -> None:
        self.kept[get_ident(), self.name] = passed[-1]
