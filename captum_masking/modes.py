"""Borrow a module's modes and flags, and always give them back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def module_of(function: Callable) -> nn.Module | None:
    """Find the module behind a callable.

    Args:
        function: A module, a bound method of one, or any other callable.

    Returns:
        The module whose modes the call depends on, or None where there is none to find.

    Source:
        Own.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> module_of(layer.forward) is layer, module_of(len) is None
        (True, True)
    """
    owner = function if isinstance(function, nn.Module) else getattr(function, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None


def unwrapped(classifier: Any) -> Any:
    """Take a module out of all its ``DataParallel`` and kin, whose copies would not be tapped.

    Args:
        classifier: Anything.

    Source:
        Own. ``DataParallel`` copies the module to every device for each call; hooks of all copies
        would write into one place.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> unwrapped(nn.DataParallel(layer)) is layer, unwrapped(len) is len
        (True, True)
    """
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while isinstance(classifier, wrappers):
        classifier = classifier.module
    return classifier


@contextmanager
def given_back(function: Callable) -> Iterator[None]:
    """Undo, at the end, whatever the body did to a module's modes and ``requires_grad`` flags.

    Every submodule gets its own mode back, also after an exception.

    Args:
        function: A module or a callable; one without a module behind it is left alone.

    Source:
        Own.

    Example:
        >>> layer = nn.Dropout()
        >>> with given_back(layer):
        ...     _ = layer.eval()
        >>> layer.training
        True
    """
    module = module_of(function) or nn.Module()
    modes = [(part, part.training) for part in module.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    try:
        yield
    finally:
        _restore(modes)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@contextmanager
def eval_mode(function: Callable) -> Iterator[None]:
    """Hold a module in eval mode, then give its modes back; flags are not looked at.

    Args:
        function: A module or a callable; one without a module behind it is left alone.

    Source:
        Own.

    Example:
        >>> layer = nn.Dropout()
        >>> with eval_mode(layer):
        ...     layer.training
        False
        >>> layer.training
        True
    """
    module = module_of(function) or nn.Module()
    # Walking a network's modules is most of what attribute costs at a batch of one: once.
    modes = [(part, part.training) for part in module.modules()]
    try:
        for part, training in modes:  # one by one: exported modules refuse .eval()
            if training:
                part.training = False
        yield
    finally:
        _restore(modes)


def _restore(modes: list[tuple[nn.Module, bool]]) -> None:
    for part, training in modes:
        if part.training != training:
            part.training = training


@contextmanager
def frozen(function: Callable) -> Iterator[None]:
    """Hold a module in eval mode with no parameter asking for a gradient; give both back.

    Args:
        function: A module or a callable; one without a module behind it is left alone.

    Source:
        Own.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> with frozen(layer):
        ...     layer.weight.requires_grad, layer.training
        (False, False)
        >>> layer.weight.requires_grad, layer.training
        (True, True)
    """
    module = module_of(function) or nn.Module()
    with given_back(function), eval_mode(function):
        for parameter in module.parameters():  # one by one: scripted modules refuse the whole
            parameter.requires_grad_(False)
        yield


@contextmanager
def plain_tensors(traced: object) -> Iterator[Callable[[tuple[Any, ...]], tuple[Any, ...]]]:
    """Leave inference mode where gradients are to be taken in it, and give it back.

    Args:
        traced: None where no gradient is taken: then nothing is done.

    Yields:
        A function that copies those of some arguments that are bound to inference mode.

    Source:
        Own.

    Example:
        >>> with torch.inference_mode(), plain_tensors("a layer") as plain:
        ...     plain((torch.ones(1),))[0].is_inference(), torch.is_grad_enabled()
        (False, False)
    """
    if traced is None or not torch.is_inference_mode_enabled():
        yield lambda arguments: arguments
        return
    with torch.inference_mode(False), torch.no_grad():
        yield lambda arguments: tuple(
            a.clone() if isinstance(a, torch.Tensor) and a.is_inference() else a for a in arguments
        )
