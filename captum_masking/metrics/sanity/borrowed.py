"""Borrow a whole model, weights and all, and the random state; give both back bit by bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from captum_masking.modes import given_back

_TENSORS = ("_parameters", "_buffers")
_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


@contextmanager
def borrowed(model: nn.Module) -> Iterator[None]:
    """Undo, at the end, whatever the body did to a model, also after an exception.

    Weights, buffers and gradients come back with the same bits in the same tensors; modes,
    ``requires_grad`` flags and hooks as they were.
    """
    undo = [step for part in model.modules() for step in (_tensors(part), _hooks(part))]
    with given_back(model):
        try:
            yield
        finally:
            for step in undo:
                step()


def _tensors(part: nn.Module) -> Callable[[], None]:
    tables: list[dict[str, Any]] = [getattr(part, table) for table in _TENSORS]
    owned = [
        (table, name, value, _kept(value)) for table in tables for name, value in table.items()
    ]

    def undo() -> None:
        for table, name, value, kept in owned:
            table[name] = value
            _put_back(value, kept)

    return undo


def _kept(value: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None] | None:
    if value is None:
        return None
    grad = value.grad if value.is_leaf else None
    return value.detach().clone(), grad, None if grad is None else grad.detach().clone()


def _put_back(value: Any, kept: tuple[Tensor, Tensor | None, Tensor | None] | None) -> None:
    if kept is None:
        return
    bits, grad, grad_bits = kept
    with torch.no_grad():
        value.copy_(bits)
        if grad is not None:
            grad.copy_(grad_bits)  # type: ignore[arg-type]  # kept together
    if value.is_leaf:
        value.grad = grad


def _hooks(part: nn.Module) -> Callable[[], None]:
    tables: list[dict[int, Any]] = [getattr(part, table) for table in _HOOKS]
    kept = [dict(table) for table in tables]

    def undo() -> None:
        for table, hooks in zip(tables, kept, strict=True):
            table.clear()
            table.update(hooks)

    return undo


@contextmanager
def seeded(model: nn.Module, seed: int) -> Iterator[None]:
    """Let torch draw from a seed, on the CPU and the model's devices; then as if nothing was.

    Random numbers of numpy and of Python are left alone.
    """
    devices = {t.device for t in (*model.parameters(), *model.buffers())} - {torch.device("cpu")}
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        torch.default_generator.manual_seed(seed)  # torch.manual_seed reaches every device
        for device in devices:
            stack.enter_context(_seeded_device(device, seed))
        yield


@contextmanager
def _seeded_device(device: torch.device, seed: int) -> Iterator[None]:
    backend = getattr(torch, device.type)
    with torch.random.fork_rng(devices=[device.index or 0], device_type=device.type):
        with backend.device(device) if hasattr(backend, "device") else nullcontext():
            backend.manual_seed(seed)
        yield
