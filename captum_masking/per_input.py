"""A mask optimised for each input, for classifiers and callables that have no masker."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from captum_masking._captum_compat import TargetType, progress
from captum_masking.infill import Infill
from captum_masking.masker import linear
from captum_masking.masking import mask_images
from captum_masking.modes import frozen
from captum_masking.objective import Judgement, Objective
from captum_masking.regularizer import Regularizer
from captum_masking.target import as_class_logits, class_indices


def optimize_mask(
    forward_func: Callable[..., Tensor],
    inputs: Tensor,
    target: TargetType,
    *,
    additional_forward_args: tuple = (),
    infill: Infill,
    objective: Objective,
    regularizer: Regularizer,
    steps: int = 100,
    stride: int = 16,
    lr: float = 0.1,
    show_progress: bool = False,
) -> Tensor:
    """Find the mask of each input that a masker would be trained to predict, by Adam.

    The classifier is held frozen in eval mode meanwhile, and given back as it was. Each input is
    optimised on its own: a batch gives what its examples give one by one.

    Args:
        forward_func: Maps ``inputs, *additional_forward_args`` to ``(B, *classes)`` logits.
        inputs: ``(B, C, *spatial)``, floating point.
        target: Any form Captum takes; None is the predicted class.
        additional_forward_args: Passed on; tensors with one row per input are repeated for the
            two halves.
        infill: What fills the holes.
        objective: Of the masked images' logits.
        regularizer: Of the mask.
        steps: Steps of Adam, each two forward passes and one backward pass to the inputs.
        stride: Input pixels per cell of the mask's grid.
        lr: Adam's learning rate, in units of mask logits.
        show_progress: Whether to show a progress bar.

    Returns:
        The masks, ``(B, 1, *spatial)`` in ``[0, 1]``, detached.

    Raises:
        TargetError: If the target does not name one class for each input.

    Source:
        Fong & Vedaldi 2017 optimise masks per image; here under the loss of Phang et al. 2020.

    Example:
        >>> from captum_masking import infill, objective, regularizer
        >>> inputs = torch.zeros(1, 1, 4, 4)
        >>> inputs[..., :2] = 1  # the classifier sums the picture: its left half is the evidence
        >>> classify = lambda x: torch.stack([4 - x.sum((1, 2, 3)), x.sum((1, 2, 3))], dim=1)
        >>> mask = optimize_mask(
        ...     classify, inputs, 1, infill=infill.Mean(), stride=1,
        ...     objective=objective.Dual(), regularizer=regularizer.published(),
        ... )
        >>> bool(mask[..., :2].min() > mask[..., 2:].max())
        True
    """
    size = inputs.shape[2:]
    with torch.inference_mode(False), torch.enable_grad(), frozen(forward_func):
        inputs = inputs.detach().clone()  # a copy: tensors of inference mode cannot be trained on
        extra = tuple(_usable(argument) for argument in additional_forward_args)
        with torch.no_grad():
            output = forward_func(inputs, *extra)
            classes, logits = class_indices(output, target), as_class_logits(output)
        twice = tuple(_twice(argument, len(inputs)) for argument in extra)
        grid = [max(1, -(-side // stride)) for side in size]
        mask_logits = inputs.new_zeros(len(inputs), 1, *grid, requires_grad=True)
        optimizer = torch.optim.Adam([mask_logits], lr=lr)
        for _ in progress(range(steps), desc="Masking Saliency") if show_progress else range(steps):
            mask = linear(mask_logits, size).sigmoid()
            halves = torch.cat(mask_images(inputs, mask, infill))
            logits_in, logits_out = as_class_logits(forward_func(halves, *twice)).chunk(2)
            judgement = Judgement(logits, logits_in, logits_out, classes)
            loss = objective(judgement) + regularizer(mask, judgement)
            # Times the batch size: the mean over a batch must not weaken each example's gradient.
            (gradient,) = torch.autograd.grad(loss * len(inputs), mask_logits)
            mask_logits.grad = gradient
            optimizer.step()
        return linear(mask_logits, size).sigmoid().detach()


def _usable(argument: object) -> object:
    return argument.clone() if isinstance(argument, Tensor) else argument


def _twice(argument: object, batch: int) -> object:
    """Repeat an argument that has one row per input, for masked-in and masked-out."""
    if isinstance(argument, Tensor) and argument.dim() > 0 and len(argument) == batch:
        return torch.cat([argument, argument])
    return argument
