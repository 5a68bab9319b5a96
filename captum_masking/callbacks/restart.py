"""A masker whose masks are all zeros or all ones, started anew where it stands."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from captum_masking.joint import JointMasker


@torch.no_grad()
def zero_last_layer(masker: nn.Module) -> None:
    """Set the last layer's parameters to zero: all mask logits are 0 then, and masks one half.

    No random number is drawn, so that every process of a training ends with the same weights. One
    step later the layer differs from place to place again, since what it reads does.

    Args:
        masker: Its last layer is the last of its modules that has parameters of its own; a
            :class:`~captum_masking.joint.JointMasker` has one for each input.

    Source:
        Own; a layer that starts at zero, as in Zhang et al. 2019 (Fixup).

    Example:
        >>> masker = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Conv2d(3, 1, 1))
        >>> zero_last_layer(masker)
        >>> masker(torch.rand(1, 2, 1, 2))
        tensor([[[[0., 0.]]]], grad_fn=<ConvolutionBackward0>)
    """
    for head in masker.heads if isinstance(masker, JointMasker) else [masker]:
        last: list[nn.Parameter] = []
        for module in head.modules():
            last = list(module.parameters(recurse=False)) or last
        for parameter in last:
            parameter.zero_()


@torch.no_grad()
def forget(optimizers: Iterable[torch.optim.Optimizer], parameters: Iterable[nn.Parameter]) -> None:
    """Make optimizers forget the gradients of some parameters, as if no step had been taken.

    Args:
        optimizers: Their tensors of state become zero and keep their places, as a checkpoint
            expects them.
        parameters: Those concerned.

    Source:
        Own.

    Example:
        >>> weight = nn.Parameter(torch.ones(1))
        >>> optimizer = torch.optim.Adam([weight])
        >>> weight.sum().backward(); optimizer.step()
        >>> forget([optimizer], [weight])
        >>> optimizer.state[weight]["exp_avg"]
        tensor([0.])
    """
    concerned = list(parameters)
    for optimizer in optimizers:
        for parameter in concerned:
            for value in optimizer.state.get(parameter, {}).values():
                if isinstance(value, Tensor):
                    value.zero_()
