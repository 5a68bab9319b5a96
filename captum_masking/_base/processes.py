"""Several processes as one: sums over all of them. In a single process nothing happens.

Communication is torch.distributed's; accelerate or torchrun start the processes.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from typing import Any

import torch
from torch import Tensor, distributed, nn


def world() -> int:
    """Return how many processes train together; 1 where torch.distributed is not in use.

    Source:
        Own.

    Example:
        >>> world()
        1
    """
    started = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if started else 1


def rank() -> int:
    """Return this process's number, 0 for the one that writes.

    Source:
        Own.

    Example:
        >>> rank()
        0
    """
    return distributed.get_rank() if world() > 1 else 0


def summed(values: Tensor) -> Tensor:
    """Add up tensors of the same shape over all processes; gradients flow to each of them.

    Args:
        values: Of any shape, the same in every process.

    Source:
        Own.

    Example:
        >>> summed(torch.tensor([1.0, 2.0]))
        tensor([1., 2.])
    """
    return values if world() == 1 else _Sum.apply(values)


class _Sum(torch.autograd.Function):
    """What every process's loss owes to the sum comes back to each of its parts."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return summed(gradient)


def any_of(flag: bool, device: torch.device) -> bool:
    """Say whether a flag is set in any process, so that all take the same way.

    Source:
        Own.

    Example:
        >>> any_of(False, torch.device("cpu"))
        False
    """
    return in_all(int(flag), device) > 0


def in_all(count: int, device: torch.device) -> int:
    """Add up a number, such as that of the images in a batch, over all processes.

    Source:
        Own.

    Example:
        >>> in_all(3, torch.device("cpu"))
        3
    """
    return count if world() == 1 else int(summed(torch.tensor(count, device=device)))


def from_main(value: Any) -> Any:
    """Give every process the value that the main one has.

    Source:
        Own.

    Example:
        >>> from_main(3)
        3
    """
    if world() == 1:
        return value
    held = [value]
    distributed.broadcast_object_list(held, src=0)
    return held[0]


def gathered(value: Any) -> list[Any]:
    """List the values of all processes, in their order.

    Source:
        Own.

    Example:
        >>> gathered("here")
        ['here']
    """
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    distributed.all_gather_object(values, value)
    return values


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter], examples: int) -> None:
    """Make of sums over this process's examples the mean over those of all processes.

    One message a call: all gradients and the number of examples in one vector, so that shares of
    different size weigh what they should.

    Args:
        parameters: Their ``.grad`` is the sum of the gradients of ``examples`` examples; those
            without one are left out, and must be without one in every process.
        examples: In this process.

    Source:
        Own. Not DistributedDataParallel, which expects one backward pass for each forward pass
        and every parameter in it, and masker and classifier have one each.

    Example:
        >>> weight = nn.Parameter(torch.zeros(2))
        >>> weight.grad = torch.tensor([4.0, 6.0])
        >>> average_gradients([weight], examples=2)
        >>> weight.grad
        tensor([2., 3.])
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return
    kind = reduce(torch.promote_types, [g.dtype for g in gradients], torch.float32)
    count = gradients[0].new_tensor([examples], dtype=kind)
    vector = summed(torch.cat([*(g.reshape(-1).to(kind) for g in gradients), count]))
    means = vector[:-1] / vector[-1]
    for gradient, part in zip(gradients, means.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.reshape(gradient.shape))


@torch.no_grad()
def copy_from_main(module: nn.Module) -> None:
    """Give every process the weights and buffers that the main one has.

    Source:
        Own.

    Example:
        >>> copy_from_main(nn.Linear(1, 1))
    """
    if world() > 1:
        for tensor in module.state_dict().values():
            distributed.broadcast(tensor, src=0)


@torch.no_grad()
def average_buffers(module: nn.Module) -> None:
    """Average what a module keeps without learning it, such as batch-norm statistics.

    Source:
        Own.

    Example:
        >>> average_buffers(nn.BatchNorm1d(2))
    """
    if world() > 1:
        for buffer in module.buffers():
            if buffer.is_floating_point():
                buffer.copy_(summed(buffer.clone()) / world())
