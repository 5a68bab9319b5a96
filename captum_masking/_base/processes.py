"""Sums over several processes; no effect in a single process.

Uses torch.distributed; start the processes with accelerate or torchrun.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from typing import Any

import torch
from torch import Tensor, distributed, nn


def world() -> int:
    started = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if started else 1


def rank() -> int:
    return distributed.get_rank() if world() > 1 else 0


def summed(values: Tensor) -> Tensor:
    """Sum tensors of one shape over all processes; its gradient is summed too."""
    return values if world() == 1 else _Sum.apply(values)


class _Sum(torch.autograd.Function):
    # torch.distributed.nn.functional.all_reduce is deprecated in favor of a private module.
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return summed(gradient)


def any_of(flag: bool, device: torch.device) -> bool:
    return in_all(int(flag), device) > 0


def in_all(count: int, device: torch.device) -> int:
    return count if world() == 1 else int(summed(torch.tensor(count, device=device)))


def from_main(value: Any) -> Any:
    held = [value]
    if world() > 1:
        distributed.broadcast_object_list(held, src=0)
    return held[0]


def gathered(value: Any) -> list[Any]:
    values = [value] * world()
    if world() > 1:
        distributed.all_gather_object(values, value)
    return values


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter], examples: int) -> None:
    """Turn each process's sums of gradients into the mean over the examples of all processes.

    A parameter without a gradient must have none in every process. DistributedDataParallel does
    not fit, since it expects one backward pass of every parameter for each forward pass.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return
    kind = reduce(torch.promote_types, [g.dtype for g in gradients], torch.float32)
    count = gradients[0].new_tensor([examples], dtype=kind)
    # One message holds all gradients and the number of examples, so that shares weigh by size.
    vector = summed(torch.cat([*(g.reshape(-1).to(kind) for g in gradients), count]))
    means = vector[:-1] / vector[-1]
    for gradient, part in zip(gradients, means.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.reshape(gradient.shape))


@torch.no_grad()
def copy_from_main(module: nn.Module) -> None:
    if world() > 1:
        for tensor in module.state_dict().values():
            distributed.broadcast(tensor, src=0)


@torch.no_grad()
def average_buffers(module: nn.Module) -> None:
    if world() > 1:
        for buffer in module.buffers():
            if buffer.is_floating_point():
                buffer.copy_(summed(buffer.clone()) / world())
