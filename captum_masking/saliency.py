"""The Captum face: inputs to attribution."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from captum.attr import Attribution
from torch import Tensor

from captum_masking._captum_compat import (
    TargetType,
    TensorOrTupleOfTensorsGeneric,
    _format_additional_forward_args,
    log_usage,
)
from captum_masking.checks import check_inputs, check_same_device
from captum_masking.infill import Infill, Mean
from captum_masking.model import MaskingModel
from captum_masking.modes import eval_mode, module_of
from captum_masking.objective import Dual, Objective
from captum_masking.per_input import optimize_mask
from captum_masking.regularizer import Regularizer, smooth
from captum_masking.target import class_indices


class MaskingSaliency(Attribution):
    """Where is the evidence? A mask in ``[0, 1]`` shaped like the input; 1 is evidence.

    Given a trained :class:`~captum_masking.model.MaskingModel` the mask is predicted, in one
    forward pass of the classifier. Given any other classifier or callable it is optimised for
    each input under the same objective: slow, and said so once in a warning.

    ``target`` does not change the map of a ``MaskingModel``: its masker gives one mask per
    image, for whatever the classifier may recognise in it. The target is still checked, so that
    a wrong one does not pass in silence. For a classifier without a masker the target does
    matter: the mask is optimised for that class.

    Args:
        forward_func: A ``MaskingModel``, any classifier, or any callable that returns logits.
        infill: What fills the holes while a mask is optimised; unused by a ``MaskingModel``.
        objective: Minimised while a mask is optimised; unused by a ``MaskingModel``.
        regularizer: Likewise.

    Raises:
        TypeError: If ``forward_func`` cannot be called.

    Source:
        Phang et al. 2020 (arXiv 2010.09750).

    Example:
        >>> from torch import nn
        >>> classifier = nn.Sequential(
        ...     nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 8, 3, 2), nn.ReLU(),
        ...     nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
        ... )
        >>> saliency = MaskingSaliency(MaskingModel(classifier))
        >>> saliency.attribute(torch.rand(2, 3, 32, 32), target=3).shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(
        self,
        forward_func: Callable[..., Tensor],
        *,
        infill: Infill = Mean(),
        objective: Objective = Dual(),
        regularizer: Regularizer = smooth(),
    ) -> None:
        if not callable(forward_func):
            raise TypeError(
                f"forward_func must be a MaskingModel, a classifier or a callable that returns "
                f"logits, but got {type(forward_func).__name__}."
            )
        super().__init__(forward_func)
        self.infill = infill
        self.objective = objective
        self.regularizer = regularizer
        self._warned = False

    @log_usage(part_of_slo=True)  # NoiseTunnel calls attribute.__wrapped__
    def attribute(
        self,
        inputs: TensorOrTupleOfTensorsGeneric,
        target: TargetType = None,
        additional_forward_args: Any = None,
        *,
        area: float | Tensor | None = None,
        steps: int = 100,
        show_progress: bool = False,
    ) -> TensorOrTupleOfTensorsGeneric:
        """Attribute the classifier's answer to its inputs.

        Args:
            inputs: ``(B, C, *spatial)``, floating point, or a tuple of one such tensor.
            target: The class asked for, in any form Captum takes; None is the predicted class.
                With a ``MaskingModel`` it is checked and does not change the map, unless its
                masker is told the class (``Masker(..., classes=...)``).
            additional_forward_args: Passed to the classifier after the inputs.
            area: The fraction of the image that the map should cover, in (0, 1), for maskers that
                are told a size (``Masker(..., sized=True)``).
            steps: Optimisation steps where there is no trained masker, each about four forward
                passes.
            show_progress: Whether to show a bar while a mask is optimised.

        Returns:
            *Tensor* or *tuple[Tensor, ...]* of **attributions**: the mask, repeated over channels
            to the shape of ``inputs``, with its dtype and on its device; a tuple for a tuple.

        Raises:
            TargetError: If the target does not name one class for each example.
            TypeError: If inputs are not one floating-point tensor.
            ValueError: If inputs have no spatial dimension or lie on another device.

        Source:
            Phang et al. 2020.
        """
        images = _one_tensor(inputs)
        check_inputs(images)
        extra = _format_additional_forward_args(additional_forward_args) or ()
        check_same_device(images, module_of(self.forward_func))
        if len(images) == 0:
            mask = images.new_zeros(0, 1, *images.shape[2:])
        elif isinstance(self.forward_func, MaskingModel):
            mask = self._predict(images, target, extra, area)
        else:
            mask = self._optimize(images, target, extra, steps, show_progress)
        # infidelity asks for the shape of the input, sensitivity_max for a tensor it can .view.
        attribution = (
            mask.to(images.dtype).expand_as(images).clone(memory_format=torch.contiguous_format)
        )
        return (attribution,) if isinstance(inputs, tuple) else attribution

    def _predict(
        self, images: Tensor, target: TargetType, extra: tuple, area: float | Tensor | None
    ) -> Tensor:
        with eval_mode(self.forward_func), torch.no_grad():
            model = self.forward_func
            logits, features = model.read(_like_weights(images, model), *extra)
            classes = class_indices(logits, target)  # refuses a wrong target
            asked = model.ask(logits, target=classes, area=area)
            return model.decode(features, images.shape[2:], **asked)

    def _optimize(
        self, images: Tensor, target: TargetType, extra: tuple, steps: int, show_progress: bool
    ) -> Tensor:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{type(self.forward_func).__name__} has no masker, so a mask is optimised for "
                f"each input ({steps} steps of about four forward passes). To predict masks in "
                "one pass: model = MaskingModel(classifier); MaskingTrainer(model).fit(loader).",
                stacklevel=4,
            )
        module = module_of(self.forward_func)
        return optimize_mask(
            self.forward_func,
            images if module is None else _like_weights(images, module),
            target,
            additional_forward_args=extra,
            infill=self.infill,
            objective=self.objective,
            regularizer=self.regularizer,
            steps=steps,
            show_progress=show_progress,
        )

    @property
    def multiplies_by_inputs(self) -> bool:
        """False: a mask says where the evidence is, not how much it adds to the output."""
        return False

    def attribute_future(self) -> None:
        """Not implemented, as in most of Captum's methods."""
        raise NotImplementedError("attribute_future is not implemented for MaskingSaliency.")


def _one_tensor(inputs: Any) -> Any:
    if isinstance(inputs, tuple) and len(inputs) != 1:
        raise TypeError(
            f"inputs must be one tensor or a tuple of one tensor, but got {len(inputs)} tensors; "
            "explain one input and pass the others as additional_forward_args."
        )
    return inputs[0] if isinstance(inputs, tuple) else inputs


def _like_weights(images: Tensor, module: torch.nn.Module) -> Tensor:
    """Cast to the weights' dtype: NoiseTunnel turns half-precision inputs into float32."""
    weights = (p for p in module.parameters() if p.is_floating_point())
    return images.to(next(weights, images).dtype)
