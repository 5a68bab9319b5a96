"""Use our maps in the metrics of `Quantus <https://quantus.readthedocs.io>`_.

Install Quantus separately; its license is the LGPL, and nothing here imports it.
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
    """An ``explain_func`` for Quantus with the maps of a ``MaskingModel``.

    Quantus passes the model at each call, perhaps with new random weights, so pass the
    ``MaskingModel`` itself to a metric. For a plain classifier, a mask is optimized for each input,
    which is slow.

    Args:
        attribution: Called as ``attribution(model)``; also a class of Captum, such as
            ``IntegratedGradients``.

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

        A mask is returned unchanged; other attributions are summed over channels, as in
        ``quantus.explain``. ``options`` go to ``attribute``, except Quantus's ``device`` and
        ``method``.
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
