"""Nothing that a method does to a module outlives it, also after an exception."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from captum_masking.metrics.faithfulness.explaining import gradients_given_back
from captum_masking.modes import eval_mode, given_back

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@contextmanager
def untouched(*modules: nn.Module, seed: int) -> Iterator[None]:
    """Hold modules in eval mode; then give back modes, flags, gradients, hooks and RNG.

    Args:
        modules: That the body runs.
        seed: Random numbers in the body start from it, so that a run that was interrupted draws
            what an uninterrupted one would have drawn.

    Source:
        Own; Captum's DeepLift leaves its hooks behind when it raises.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> with untouched(layer, seed=0):
        ...     _ = layer.register_forward_hook(print)
        >>> len(layer._forward_hooks)
        0
    """
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng())
        torch.manual_seed(seed)
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for module in modules:
            stack.enter_context(given_back(module))
            stack.enter_context(eval_mode(module))
            stack.enter_context(gradients_given_back(module))
            stack.enter_context(_hooks_given_back(module))
        yield


@contextmanager
def _hooks_given_back(module: nn.Module) -> Iterator[None]:
    tables = [getattr(part, name) for part in module.modules() for name in _HOOKS]
    before = [set(table) for table in tables]
    try:
        yield
    finally:
        for table, known in zip(tables, before, strict=True):
            for key in set(table) - known:
                del table[key]
