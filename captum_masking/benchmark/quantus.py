"""Quantus beside us: our maps in its metrics, and its metrics as one of ours.

`Quantus <https://quantus.readthedocs.io>`_ is installed on its own, ``pip install quantus``.
Nothing here imports it, and this package does not depend on it (its licence is the LGPL).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from captum.attr import Attribution
from torch import Tensor, nn

from captum_masking._base.borrow import eval_mode
from captum_masking.metrics.mean import Means
from captum_masking.saliency.saliency import MaskingSaliency


class Explainer:
    """An ``explain_func`` for Quantus, which makes the maps of a masking model.

    Quantus hands in the model to explain at each call, with weights that it may have drawn anew; so
    the model given to a metric has to be the ``MaskingModel`` itself, whose output are the logits.
    For a plain classifier a mask is optimised for each input, which is slow.

    Args:
        attribution: Called as ``attribution(model)``; makes what explains it. Another class of
            Captum, such as ``IntegratedGradients``, puts that method beside ours.

    Source:
        The contract is that of ``quantus.explain``.

    Example:
        >>> from captum_masking.model.model import MaskingModel
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
        """Explain a batch.

        Args:
            model: A ``MaskingModel``, or what ``attribution`` takes.
            inputs: ``(B, C, *spatial)``, channels first.
            targets: Classes ``(B,)``.
            **options: Of the ``attribute`` call, such as ``area``. What Quantus adds is understood:
                ``device``, and ``method``, the name under which it lists this.

        Returns:
            Maps ``(B, 1, *spatial)`` in float32: a mask as it is, of another method the sum over
            channels, as in ``quantus.explain``.
        """
        options.pop("method", None)
        weight = next(model.parameters(), torch.zeros(0))
        device = options.pop("device", None) or weight.device
        tensor = torch.as_tensor(np.asarray(inputs), dtype=torch.float32, device=device)
        target = torch.as_tensor(np.asarray(targets), device=device).long()
        method = self.attribution(model)
        with eval_mode(model):
            values = method.attribute(tensor, target=target, **options).detach()
        if isinstance(method, MaskingSaliency):
            return values[:, :1].cpu().numpy()
        return values.sum(1, keepdim=True).cpu().numpy()

    def __repr__(self) -> str:
        name = getattr(self.attribution, "__name__", type(self.attribution).__name__)
        return f"Explainer({name})"


class Score(Means):
    """The mean over images of a Quantus metric, as a metric of ours.

    A score that is NaN makes the mean NaN. The mean has no bounds.

    Args:
        metric: Of Quantus, one number an image, such as ``quantus.Sparseness()``; those that give
            a curve want ``return_auc_per_sample=True``, and none ``return_aggregate=True``.
        model: What is explained, on its own device; held in eval mode meanwhile.
        explain: For metrics that make maps of their own, such as of noisy inputs.
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Own; the metrics are those of Hedström et al. 2023 (JMLR 24).

    Example:
        >>> class Mean:                             # stands for a metric of Quantus
        ...     def __call__(self, model, x_batch, y_batch, a_batch, **options):
        ...         return list(a_batch.mean((1, 2, 3)))
        >>> score = Score(Mean(), nn.Flatten())
        >>> score.update(torch.zeros(2, 3, 4, 4), torch.tensor([0, 1]), torch.ones(2, 1, 4, 4))
        >>> score.compute()
        tensor(1.)
    """

    plot_lower_bound = None
    plot_upper_bound = None

    def __init__(
        self,
        metric: Callable[..., Any],
        model: nn.Module,
        *,
        explain: Callable[..., np.ndarray] = Explainer(),
        **kwargs: Any,
    ) -> None:
        super().__init__(f"Score({type(metric).__name__})", **kwargs)
        self.metric, self.explain = metric, explain
        self.subject = (model,)  # in a tuple, or its weights would be part of this metric's state

    @property
    def higher_is_better(self) -> bool | None:  # type: ignore[override]
        """What Quantus says of its metric; None if it says nothing."""
        said = getattr(getattr(self.metric, "score_direction", None), "value", None)
        return {"higher": True, "lower": False}.get(str(said))

    def update(
        self, inputs: Tensor, target: Tensor, maps: Tensor, truth: Tensor | None = None
    ) -> None:
        """Add a batch.

        Args:
            inputs: ``(B, C, *spatial)``.
            target: ``(B,)``.
            maps: ``(B, 1, *spatial)``.
            truth: Pixel masks ``(B, 1, *spatial)``, for the metrics of localization.

        Raises:
            TypeError: If the metric does not give one number for each image.
        """
        (model,) = self.subject
        arrays = [_array(values) for values in (inputs, target, maps, truth)]
        with eval_mode(model):
            found = self.metric(
                model=model,
                **dict(zip(("x_batch", "y_batch", "a_batch", "s_batch"), arrays, strict=True)),
                channel_first=True,
                explain_func=self.explain,
                device=str(inputs.device),
            )
        self.add(_one_each(found, len(inputs), type(self.metric).__name__))


def _array(values: Tensor | None) -> np.ndarray | None:
    return None if values is None else values.detach().cpu().numpy()


def _one_each(found: Any, images: int, name: str) -> Tensor:
    try:
        scores = np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError):
        scores = np.zeros(())
    if scores.shape != (images,):
        raise TypeError(
            f"expected one number of {name} for each of {images} images, but got "
            f"{type(found).__name__} of shape {scores.shape}; set return_auc_per_sample=True for a "
            "curve, and leave return_aggregate False."
        )
    return torch.from_numpy(scores)
