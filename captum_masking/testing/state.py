"""All that someone who lends a module wants back."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from captum_masking.modes import given_back


def weights(module: nn.Module) -> dict[str, Any]:
    """Copy the state dict: weights, and statistics such as batch norm's."""
    return {name: _copy(value) for name, value in module.state_dict().items()}


def modes(module: nn.Module) -> dict[str, Any]:
    """Note which submodule is in train mode."""
    return {name: part.training for name, part in module.named_modules()}


def flags(module: nn.Module) -> dict[str, Any]:
    """Note which parameter asks for a gradient."""
    return {name: parameter.requires_grad for name, parameter in module.named_parameters()}


def gradients(module: nn.Module) -> dict[str, Any]:
    """Copy the gradients that are there."""
    return {name: _copy(parameter.grad) for name, parameter in module.named_parameters()}


def hooks(module: nn.Module) -> dict[str, Any]:
    """Note the hooks of every submodule, of every kind."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        f"{name}.{kind}": tuple(getattr(part, kind, ()))
        for name, part in module.named_modules()
        for kind in kinds
    }


def random_numbers(_: nn.Module) -> dict[str, Any]:
    """Copy the state of the global random numbers of torch, NumPy and Python."""
    # NumPy's state holds an array, whose comparison is no truth value: hence text.
    return {
        "torch": torch.get_rng_state(),
        "numpy": repr([np.asarray(part).tolist() for part in np.random.get_state()]),
        "random": random.getstate(),
    }


#: Everything that is given back, by what it is called in messages.
ASPECTS: dict[str, Callable[[nn.Module], dict[str, Any]]] = {
    "weights and statistics": weights,
    "train and eval modes": modes,
    "requires_grad flags": flags,
    "gradients": gradients,
    "hooks": hooks,
    "random numbers": random_numbers,
}


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """List what differs between two answers of one aspect, tensors bit by bit.

    Source:
        Own.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> before = flags(layer)
        >>> changed(before, flags(layer.requires_grad_(False)))
        ['weight', 'bias']
    """
    names = dict.fromkeys([*before, *after])
    return [name for name in names if not _same(before.get(name), after.get(name))]


@contextmanager
def borrowed(module: nn.Module) -> Iterator[None]:
    """Give back a module's modes, flags, weights and statistics, and torch's random numbers.

    Source:
        Own.

    Example:
        >>> layer = nn.BatchNorm1d(1)
        >>> with borrowed(layer):
        ...     _ = layer(torch.rand(4, 1))
        >>> layer.num_batches_tracked
        tensor(0)
    """
    before = weights(module)
    with given_back(module), torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in module.state_dict().items():
                    if isinstance(value, Tensor):
                        value.copy_(before[name])


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return (
            one.shape == other.shape
            and torch.equal(one.isnan(), other.isnan())
            and bool(((one == other) | one.isnan()).all())
        )
    return type(one) is type(other) and bool(one == other)
