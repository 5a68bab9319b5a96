"""The Captum interface: inputs to attribution."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from captum.attr import Attribution
from torch import Tensor

from captum_masking._base.borrow import evaluated, module_of
from captum_masking._base.captum import (
    Target,
    TensorOrTupleOfTensorsGeneric,
    _format_additional_forward_args,
    as_class_logits,
    as_tuple,
    class_indices,
    log_usage,
)
from captum_masking._base.checks import (
    TargetError,
    baseline_of_each,
    check_finite,
    check_has_weights,
    check_inputs,
    check_number_of_inputs,
    check_same_batch,
    check_same_device,
)
from captum_masking.model.model import MaskingModel, eager, forwards_to, models_in
from captum_masking.model.taps import like_weights
from captum_masking.parts.infill import Infill
from captum_masking.parts.objective import Objective
from captum_masking.parts.regularizer import Regularizer
from captum_masking.saliency.per_input import PerInput, optimize_each

__all__ = ["Baselines", "MaskingSaliency"]


#: Baselines in the form of Captum's methods: one per input.
Baselines = Tensor | float | tuple[Tensor | float, ...]


class MaskingSaliency(Attribution):
    """Where is the evidence? A mask in ``[0, 1]`` shaped like the input; 1 is evidence.

    A trained :class:`~captum_masking.MaskingModel` predicts the mask in one forward pass. For any
    other classifier or callable, the mask is optimized for each input under the same objective;
    this is slow, and warns once.

    The map is the evidence for ``target``, and is almost empty if that class is not in the image. A
    masker that does not see the target gives one mask per image for all classes, and warns once if
    the target is not the predicted class.

    Args:
        forward_func: A ``MaskingModel``, any classifier, or any callable that returns logits. A
            ``MaskingModel`` inside ``DataParallel``, a wrapper, a function or a partial is found if
            the wrapper only calls it; the first call checks this with one more forward pass.
        infill, objective, regularizer: Replace those of ``per_input``.
        per_input: How to optimize masks; not used with a ``MaskingModel``.

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
        infill: Infill | None = None,
        objective: Objective | None = None,
        regularizer: Regularizer | None = None,
        per_input: PerInput = PerInput(),
    ) -> None:
        if not callable(forward_func):
            raise TypeError(
                f"forward_func must be a MaskingModel, a classifier or a callable that returns "
                f"logits, but got {type(forward_func).__name__}."
            )
        super().__init__(forward_func)
        self.per_input = per_input.but(infill=infill, objective=objective, regularizer=regularizer)
        self._warned = False
        self._found: tuple[Any, ...] = ()  # function, the model in it, whether it only calls that

    @log_usage(part_of_slo=True)  # NoiseTunnel calls attribute.__wrapped__
    def attribute(
        self,
        inputs: TensorOrTupleOfTensorsGeneric,
        target: Target = None,
        additional_forward_args: Any = None,
        *,
        baselines: Baselines | None = None,
        area: float | Tensor | None = None,
        steps: int | None = None,
        show_progress: bool = False,
    ) -> TensorOrTupleOfTensorsGeneric:
        """Return the evidence in the inputs for a target.

        Args:
            inputs: ``(B, C, *spatial)`` or vectors ``(B, F)``, floating point; or a tuple of such
                tensors, each of which gets its own mask.
            target: The class, in any form Captum takes; None is the predicted class. If masks are
                optimized, also a callable that turns the model's output into one score per example,
                ``(B,)``; :mod:`captum_masking.methods.targets` has some for detectors and
                segmentation.
            additional_forward_args: Passed to the classifier after the inputs.
            baselines: Fill the holes while a mask is optimized, in place of ``infill``: a number, a
                tensor shaped like ``inputs``, or one example for all; a tuple for a tuple. They do
                not change the map of a ``MaskingModel``.
            area: Fraction of the image that the map should cover, in (0, 1), if masks are optimized
                or the masker takes an area (``Masker(..., sized=True)``).
            steps: Replaces that of ``per_input``.
            show_progress: Whether to show a progress bar while masks are optimized.

        Returns:
            The mask, repeated over channels, with the shape, dtype and device of ``inputs``; a
            tuple for a tuple.
        """
        tensors = as_tuple(inputs)
        extra = _format_additional_forward_args(additional_forward_args) or ()
        model = self._model(tensors, extra)
        self._check(tensors, model)
        origins = baseline_of_each(baselines, tensors)
        if len(tensors[0]) == 0:
            masks = tuple(tensors)
        elif model is not None:
            masks, unheard = _predict(model, tensors, target, extra, area)
            self._say_once(unheard)
        else:
            module = module_of(self.forward_func)
            check_has_weights([] if module is None else module.named_parameters())
            options = self.per_input.but(steps=steps, area=area)
            self._warn_once(options.steps)
            cast = tuple(like_weights(x, self.forward_func) for x in tensors)
            masks = optimize_each(
                self.forward_func, cast, target, extra, origins, options, show_progress
            )
        for mask in masks:
            check_finite(
                mask,
                "the mask",
                "look for NaN, infinity or too large values in these inputs; in half precision "
                "try float32.",
            )
        # infidelity asks for the shape of the input, sensitivity_max for a tensor it can .view.
        attributions = tuple(
            mask.to(x.dtype).expand_as(x).clone(memory_format=torch.contiguous_format)
            for mask, x in zip(masks, tensors, strict=True)
        )
        return attributions if isinstance(inputs, tuple) else attributions[0]

    def attribute_targets(
        self,
        inputs: Tensor,
        targets: Tensor,
        additional_forward_args: Any = None,
        *,
        area: float | Tensor | None = None,
    ) -> Tensor:
        """Return the evidence for several classes of each input in one forward pass.

        Args:
            inputs: ``(B, C, *spatial)``, floating point.
            targets: Classes, integers ``(B, k)``.
            additional_forward_args: As for :meth:`attribute`; likewise ``area``.

        Returns:
            ``(B, k, C, *spatial)``: :meth:`attribute` of each column of ``targets``.
        """
        extra = _format_additional_forward_args(additional_forward_args) or ()
        model = self._model((inputs,), extra)
        if model is None:
            raise TypeError(
                "attribute_targets needs a trained MaskingModel, but got "
                f"{type(self.forward_func).__name__}; call attribute once for each target."
            )
        self._check((inputs,), model)
        if not isinstance(targets, Tensor) or targets.dim() != 2 or len(targets) != len(inputs):
            raise TargetError(
                f"targets must be a tensor ({len(inputs)}, k), a row for each example, but got "
                f"{tuple(targets.shape) if isinstance(targets, Tensor) else targets!r}; for one "
                "class of each there is attribute(inputs, target)."
            )
        self._say_once(targets.shape[1] > 1 and not model.target_aware)
        with evaluated(model) as model, torch.no_grad():
            logits, features = model.read((inputs,), *extra)
            masks: list[Tensor] = []
            for target in targets.unbind(1):
                classes = class_indices(logits, target)
                question = model.question(logits, target=classes, area=area)
                masks += model.decode(features, question)
        stacked = torch.stack(masks, dim=1).to(inputs.dtype)  # (B, k, 1, *spatial)
        check_finite(stacked, "the mask", "look for NaN, infinity or too large values in inputs.")
        return stacked.expand(*stacked.shape[:2], *inputs.shape[1:]).contiguous()

    def _say_once(self, unheard: bool) -> None:
        if unheard and not self._warned:
            self._warned = True
            warnings.warn(
                "the target is not the predicted class, but this model's map does not depend on "
                "it: the masker was trained without targets. For maps that do: "
                "MaskingModel(classifier, target_aware=True), then MaskingTrainer(model).fit.",
                stacklevel=4,
            )

    def _model(self, tensors: tuple[Any, ...], extra: tuple) -> MaskingModel | None:
        """Return the masking model that the function is, or does nothing but call."""
        function = eager(self.forward_func)
        if isinstance(function, MaskingModel):
            return function
        held = list(models_in(function).values())
        if len(held) != 1:
            return None
        if self._found[:2] != (function, held[0]):
            self._check(tensors, held[0])
            arguments = [*(like_weights(x, held[0]) for x in tensors), *extra]
            if not len(tensors[0]):
                return None
            self._found = function, held[0], forwards_to(function, held[0], arguments)
        return held[0] if self._found[2] else None

    def _check(self, tensors: tuple[Any, ...], model: MaskingModel | None) -> None:
        module = module_of(self.forward_func) if model is None else model
        check_number_of_inputs(tensors, None if model is None else model.inputs_taken)
        for tensor in tensors:
            check_inputs(tensor, vectors=len(tensors) > 1 or not _has_convolutions(module))
            check_same_device(tensor, module)
        check_same_batch(tensors)

    def _warn_once(self, steps: int) -> None:
        if not self._warned:
            self._warned = True
            lack = "has no masker, so a mask is optimized for each input"
            cure = "model = MaskingModel(classifier); MaskingTrainer(model).fit(loader)"
            if models_in(self.forward_func):
                lack = "does more than call one MaskingModel, so a mask is optimized for each input"
                cure = "MaskingSaliency(model), with inputs as that model takes them"
            warnings.warn(
                f"{type(self.forward_func).__name__} {lack} ({steps} steps of about four forward "
                f"passes). To predict masks in one pass: {cure}.",
                stacklevel=4,
            )

    @property
    def multiplies_by_inputs(self) -> bool:
        """False: a mask says where the evidence is, not how much it adds to the output."""
        return False

    def attribute_future(self) -> None:
        """Not implemented, as in most of Captum's methods."""
        raise NotImplementedError("attribute_future is not implemented for MaskingSaliency.")


def _predict(
    model: MaskingModel,
    tensors: tuple[Tensor, ...],
    target: Target,
    extra: tuple,
    area: float | Tensor | None,
) -> tuple[tuple[Tensor, ...], bool]:
    """Return the masks, and whether another class was asked for than the one they are for."""
    with evaluated(model) as model, torch.no_grad():
        logits, features = model.read(tensors, *extra)
        classes = class_indices(logits, target)  # refuses a wrong target
        masks = model.decode(features, model.question(logits, target=classes, area=area))
        unheard = target is not None and not model.target_aware
        return masks, unheard and bool((classes != as_class_logits(logits).argmax(1)).any())


def _has_convolutions(module: torch.nn.Module | None) -> bool:
    """Whether inputs of a module have space: then one example without a batch is no vector."""
    parts = [] if module is None else module.modules()
    return any(isinstance(part, torch.nn.modules.conv._ConvNd) for part in parts)
