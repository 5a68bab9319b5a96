"""Attribution Mask: use any attribution as a mask, and attribute the masked input again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from captum.attr import Attribution
from torch import Tensor
from tqdm.auto import tqdm

from captum_masking._base.borrow import lent
from captum_masking._base.captum import (
    TargetType,
    TensorOrTupleOfTensorsGeneric,
    as_tuple,
    log_usage,
    unpacked,
)
from captum_masking._base.checks import TargetError, check_count
from captum_masking.methods.base import Asked, Relative, Score, Target, logit, stretched
from captum_masking.model.taps import cuts_in_words, gradients_of


class GradientTimesSign(Relative):
    """The gradient of the score times the sign of the input.

    Args:
        forward_func: Any callable that can be differentiated.
        score: See :mod:`captum_masking.methods`.

    Source:
        Lee & Chang 2021 (arXiv 2102.07332), GxSI.

    Example:
        >>> double = lambda x: 2 * x
        >>> GradientTimesSign(double).attribute(torch.tensor([[3.0, -4.0]]), target=1)
        tensor([[ 0., -2.]])
    """

    def __init__(self, forward_func: Callable[..., Any], *, score: Score = logit) -> None:
        super().__init__(forward_func)
        self.score = score

    @log_usage(part_of_slo=True)
    def attribute(
        self,
        inputs: TensorOrTupleOfTensorsGeneric,
        target: Target = None,
        additional_forward_args: Any = None,
    ) -> TensorOrTupleOfTensorsGeneric:
        """Return the product; arguments are those of :mod:`captum_masking.methods`."""

        def find(asked: Asked) -> list[Tensor]:
            pixels = [x.requires_grad_() for x in asked.inputs]
            with cuts_in_words(asked.function):
                found = gradients_of(asked(*(x.clone() for x in pixels)).sum(), *pixels)
            pairs = zip(pixels, found, strict=True)
            return [0 * x if slope is None else slope * x.sign() for x, slope in pairs]

        return self._explained(inputs, target, additional_forward_args, find, self.score)


class AttributionMask(Relative):
    r"""Mask the input with its attribution, and repeat.

    .. math:: M_{i+1} = M_i \odot n(a(x \odot M_i)), \quad M_0 = 1

    :math:`n` scales the attribution :math:`a` to [0, 1] over the positions of each channel, or the
    elements of a vector. Constants become 0.

    The mask is made from the score, so keeping the class does not show that the method found what
    the classifier uses: compare with a wrong class.

    Args:
        method: Any attribution to inputs; or a classifier, for its ``GradientTimesSign``.
        passes: Number of attributions.
        per_channel: False sums the channels first, for one value per position.

    Source:
        Lee & Chang 2021 (arXiv 2102.07332), whose first passes are two.

    Example:
        >>> weights = torch.tensor([2.0, -1.0, 0.0])
        >>> score = lambda x: torch.stack([(x * weights).sum(1), 0 * x.sum(1)], dim=1)
        >>> AttributionMask(score, passes=1).attribute(torch.ones(1, 3), target=0)
        tensor([[1.0000, 0.0000, 0.3333]])
        >>> AttributionMask(score, passes=2).attribute(torch.ones(1, 3), target=0)
        tensor([[1., 0., 0.]])
    """

    def __init__(
        self,
        method: Attribution | Callable[..., Any],
        *,
        passes: int = 2,
        per_channel: bool = True,
    ) -> None:
        chosen = method if isinstance(method, Attribution) else GradientTimesSign(method)
        super().__init__(chosen.forward_func)
        check_count("passes", passes)
        self.method, self.passes, self.per_channel = chosen, passes, per_channel

    @log_usage(part_of_slo=True)
    def attribute(
        self,
        inputs: TensorOrTupleOfTensorsGeneric,
        target: Target = None,
        additional_forward_args: Any = None,
        *,
        show_progress: bool = False,
        **arguments: Any,
    ) -> TensorOrTupleOfTensorsGeneric:
        """Make the masks; arguments are those of :mod:`captum_masking.methods`.

        Other arguments, such as ``baselines`` or ``n_steps``, go to the method.

        Returns:
            The mask, in ``[0, 1]``, shaped like ``inputs``.
        """
        if callable(target) and not type(self.method).__module__.startswith("captum_masking."):
            raise TargetError(
                f"target must be a class for {type(self.method).__name__}, but got a callable; "
                "pass a function that returns the score to the method, lambda x: target(model(x))."
            )

        def find(asked: Asked) -> list[Tensor]:
            same = _named(asked, target)  # of the whole picture, in every pass
            masks = [torch.ones_like(x) for x in asked.inputs]
            for _ in tqdm(range(self.passes), self.get_name(), disable=not show_progress):
                kept = tuple(x * m for x, m in zip(asked.inputs, masks, strict=True))
                given = kept if isinstance(inputs, tuple) else unpacked(kept)
                with lent(self.method.forward_func):
                    found = self.method.attribute(
                        given,
                        target=same,
                        additional_forward_args=additional_forward_args,
                        **arguments,
                    )
                for index, each in enumerate(as_tuple(found)):
                    if not self.per_channel and each.dim() > 2:
                        each = each.sum(1, keepdim=True)
                    masks[index] = masks[index] * stretched(each.detach())
            return masks

        return self._explained(inputs, target, additional_forward_args, find)


def _named(asked: Asked, target: Target) -> Target | TargetType:
    """Return the target, or else the predicted class; None for a network with one score."""
    if target is not None or asked.classes is None:
        return target
    with torch.no_grad():
        output = asked.answer(*asked.inputs)
    one_score = isinstance(output, Tensor) and output.numel() == len(asked.inputs[0])
    return None if one_score else asked.classes
