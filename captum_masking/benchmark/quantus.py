"""Our maps in the metrics of `Quantus <https://quantus.readthedocs.io>`_, which is installed apart.

Nothing here imports it, and this package does not depend on it (its license is the LGPL).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from captum.attr import Attribution
from torch import nn

from captum_masking._base.borrow import eval_mode
from captum_masking.saliency.saliency import MaskingSaliency

__all__ = ["Explainer"]


class Explainer:
    """An ``explain_func`` for Quantus, which makes the maps of a masking model.

    Quantus hands in the model to explain at each call, with weights that it may have drawn anew; so
    the model given to a metric has to be the ``MaskingModel`` itself, whose outputs are the logits.
    For a plain classifier a mask is optimized for each input, which is slow.

    Args:
        attribution: Called as ``attribution(model)``; makes what explains it. Another class of
            Captum, such as ``IntegratedGradients``, puts that method beside ours.

    Example:
        >>> from captum_masking import MaskingModel
        >>> classifier = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.LazyLinear(2))
        >>> model = MaskingModel(classifier, ["0"], example_inputs=torch.zeros(1, 1, 8, 8))
        >>> x = np.zeros((5, 1, 8, 8))
        >>> Explainer()(model, x, model(torch.zeros(5, 1, 8, 8)).argmax(1).numpy()).shape
        (5, 1, 8, 8)

        In Quantus: ``quantus.Sparseness()(model.eval(), x, y, None, None, device="cpu",
        explain_func=Explainer())``.
    """

    def __init__(self, attribution: Callable[[nn.Module], Attribution] = MaskingSaliency) -> None:
        self.attribution = attribution

    def __call__(
        self, model: nn.Module, inputs: np.ndarray, targets: np.ndarray, **options: Any
    ) -> np.ndarray:
        """Explain a batch ``(B, C, *spatial)``; return maps ``(B, 1, *spatial)`` in float32.

        A mask is returned as it is, of another method the sum over channels, as in
        ``quantus.explain``. ``options`` are those of the ``attribute`` call, such as ``area``; what
        Quantus adds is understood: ``device``, and ``method``, the name under which it lists this.
        """
        options.pop("method", None)
        weight = next(model.parameters(), torch.zeros(0))
        device = options.pop("device", None) or weight.device
        tensor = torch.as_tensor(np.asarray(inputs), dtype=torch.float32, device=device)
        target = torch.as_tensor(np.asarray(targets), device=device).long()
        method = self.attribution(model)
        with eval_mode(model):
            values = method.attribute(tensor, target=target, **options).detach()
        is_mask = isinstance(method, MaskingSaliency)
        maps = values[:, :1] if is_mask else values.sum(1, keepdim=True)
        return maps.cpu().numpy()

    def __repr__(self) -> str:
        name = getattr(self.attribution, "__name__", type(self.attribution).__name__)
        return f"Explainer({name})"
