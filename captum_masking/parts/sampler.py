"""Mask logits to mask: random in ``train()``, deterministic in ``eval()``, like dropout.

A sampler maps ``(B, 1, *grid)`` to a mask of the same shape in ``[0, 1]``. Its ``settings`` are its
arguments, from which a saved model builds it again.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["GumbelSigmoid", "Sigmoid"]


class Sigmoid(nn.Module):
    """A soft mask: the logistic function of each logit.

    In ``eval()`` the mask is ``m = sigmoid(logit + lean)`` or, with a sharpness, ``sigmoid(
    sharpness * (logit(m) - logit(t)))``. ``t`` is 1.5 times the mean of ``m`` over the example, at
    least 0.2 and at most 0.5. What is above ``t`` comes closer to 1, what is below closer to 0, and
    the order of the pixels stays.

    Args:
        lean: Below 0, the mask that is shown keeps to where it is sure. In training a mask leaves
            a margin of about half a cell around objects, for what it does not cover counts at once.
        sharpness: > 0; above 1, masked-out images lose more of their object. None leaves ``m``.

    Source:
        Phang et al. 2020, the head of the final model, without lean and sharpness.

    Example:
        >>> mask_logits = torch.tensor([[[[0.0, 4.0]]]])
        >>> Sigmoid()(mask_logits)
        tensor([[[[0.5000, 0.9820]]]])
        >>> Sigmoid(lean=-2.0, sharpness=2.0).eval()(mask_logits)
        tensor([[[[0.0180, 0.9820]]]])
    """

    def __init__(self, *, lean: float = 0.0, sharpness: float | None = None) -> None:
        super().__init__()
        if sharpness is not None and not 0 < sharpness < math.inf:
            raise ValueError(
                f"sharpness must be a positive number, but got {sharpness}; None leaves the mask "
                "as it is in training."
            )
        self.lean, self.sharpness = lean, sharpness

    @property
    def settings(self) -> dict[str, Any]:
        # Read anew: users set lean and sharpness of a trained model, and then save it.
        return {"lean": self.lean, "sharpness": self.sharpness}

    def extra_repr(self) -> str:
        return f"lean={self.lean}, sharpness={self.sharpness}"

    def forward(self, mask_logits: Tensor) -> Tensor:
        return mask_logits.sigmoid() if self.training else self.shown(mask_logits)

    def shown(self, mask_logits: Tensor) -> Tensor:
        """Return the mask as in ``eval()``."""
        logits = mask_logits + self.lean
        if self.sharpness is None:
            return logits.sigmoid()
        mean = logits.detach().sigmoid().flatten(1).mean(1, dtype=torch.float32)
        cut = (1.5 * mean).clamp(0.2, 0.5).logit().to(logits.dtype)
        return (self.sharpness * (logits - cut.view(-1, *[1] * (logits.dim() - 1)))).sigmoid()


class GumbelSigmoid(nn.Module):
    """A mask of coin flips: each logit is the log-odds of a one, and gradients still flow.

    In ``train()`` each value is ``s = sigmoid((logit + log u - log(1 - u)) / temperature)`` with
    ``u`` uniform in (0, 1), from the global random numbers of the logits' device. ``s`` is above
    one half with probability ``sigmoid(logit)`` at any temperature; the lower the temperature, the
    closer it is to 0 or 1.

    Args:
        temperature: > 0; where it is learned, its first value.
        hard: Whether the mask in ``train()`` is ``1[s > 0.5]`` with the gradient of ``s``
            (straight-through); False gives ``s``.
        learnable: Whether the temperature is learned. The parameter is its logarithm, so that it
            stays positive.
        binary: Whether the mask in ``eval()`` is ``1[logit > 0]``, with the gradient of
            ``sigmoid(logit)``; False gives ``sigmoid(logit)``, the probability of a one.

    Source:
        Maddison et al. 2017 and Jang et al. 2017 (binary concrete); Phang et al. 2020, Gumbel
        head: as published, except that a learned temperature is published as the bare number,
        which may turn negative, and that in ``eval()`` the published mask has no gradient.

    Example:
        >>> sampler, mask_logits = GumbelSigmoid(), torch.tensor([[[-2.0, 0.5, 3.0]]])
        >>> coin_flips = sampler(mask_logits)
        >>> ((coin_flips == 0) | (coin_flips == 1)).all()
        tensor(True)
        >>> sampler.eval()(mask_logits)
        tensor([[[0., 1., 1.]]])
    """

    def __init__(
        self,
        temperature: float = 0.1,  # published, also as the start of a learned one
        *,
        hard: bool = True,
        learnable: bool = False,
        binary: bool = True,
    ) -> None:
        super().__init__()
        if not 0 < temperature < math.inf:
            raise ValueError(
                f"temperature must be a positive number, but got {temperature}; to have it learned "
                "give its first value and learnable=True."
            )
        self.temperature, self.hard = temperature, hard
        self.learnable, self.binary = learnable, binary
        if learnable:
            self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))

    @property
    def settings(self) -> dict[str, Any]:
        names = ("temperature", "hard", "learnable", "binary")
        return {name: getattr(self, name) for name in names}

    def forward(self, mask_logits: Tensor) -> Tensor:
        # Half precision has few numbers near 1: both u and 1 - u need more of them.
        logits = mask_logits.to(torch.promote_types(mask_logits.dtype, torch.float32))
        if self.training:
            soft = self._sample(logits)
            mask = _straight_through(soft > 0.5, soft) if self.hard else soft
        else:
            soft = logits.sigmoid()
            mask = _straight_through(logits > 0, soft) if self.binary else soft
        return mask.to(mask_logits.dtype)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.settings.items())

    def _sample(self, logits: Tensor) -> Tensor:
        # u may be drawn as 0, whose logarithm is infinite; eps moves it by less than rounding.
        noise = torch.rand_like(logits).logit(eps=torch.finfo(logits.dtype).eps)
        temperature = self.log_temperature.exp() if self.learnable else self.temperature
        return ((logits + noise) / temperature).sigmoid()


def _straight_through(ones: Tensor, soft: Tensor) -> Tensor:
    """Return the value of ``ones`` with the gradient of ``soft``."""
    return ones.to(soft) + (soft - soft.detach())
