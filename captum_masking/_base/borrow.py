"""Borrow a network or the random state, and give it back as it was, also after an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

# ---- Which module


def module_of(function: Callable) -> nn.Module | None:
    owner = function if isinstance(function, nn.Module) else getattr(function, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None


def unwrapped(classifier: Any) -> Any:
    # accelerate's extract_model_from_parallel would look into compiled modules, too: these go
    # through, and an error at their taps names the cure.
    while isinstance(classifier, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        classifier = classifier.module
    return classifier


# ---- Modes and flags


@contextmanager
def given_back(function: Callable) -> Iterator[None]:
    """Undo, at the end, whatever the body did to every submodule's mode and to flags."""
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
    """Hold a module in eval mode, then give its modes back; flags are not looked at."""
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
    module = module_of(function) or nn.Module()
    with given_back(function), eval_mode(function):
        for parameter in module.parameters():  # one by one: scripted modules refuse the whole
            parameter.requires_grad_(False)
        yield


@contextmanager
def unfrozen(function: Callable) -> Iterator[None]:
    """Let all parameters ask for gradients, for networks that look whether any does."""
    module = module_of(function)
    with given_back(function):
        for parameter in [] if module is None else module.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        yield


@contextmanager
def gradients_given_back(function: Callable) -> Iterator[None]:
    """Drop the gradients that the body leaves on parameters, and put back those from before."""
    module = module_of(function) or nn.Module()
    gradients = [(p, p.grad) for p in module.parameters()]
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in reversed(gradients):
            parameter.grad = gradient


@contextmanager
def lent(*functions: Callable) -> Iterator[None]:
    """Hold modules in eval mode for methods that run backward; give back flags and gradients."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        for function in functions:
            stack.enter_context(given_back(function))
            stack.enter_context(eval_mode(function))
            stack.enter_context(gradients_given_back(function))
        yield


@contextmanager
def plain_tensors(traced: object) -> Iterator[Callable[[tuple[Any, ...]], tuple[Any, ...]]]:
    """Leave inference mode if there is something to trace; lend a copier of its tensors."""
    if traced is None or not torch.is_inference_mode_enabled():
        yield lambda arguments: arguments
        return
    with torch.inference_mode(False), torch.no_grad():
        yield lambda arguments: tuple(
            a.clone() if isinstance(a, torch.Tensor) and a.is_inference() else a for a in arguments
        )


# ---- All of a module, bit by bit

HOOKS = (
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
    """Undo, at the end, whatever the body did to a model, bit by bit and in the same tensors."""
    undo = [step for part in model.modules() for step in (_tensors(part), _hooks(part))]
    with given_back(model):
        try:
            yield
        finally:
            for step in undo:
                step()


def _tensors(part: nn.Module) -> Callable[[], None]:
    owned = [
        (table, name, value, _kept(value))
        for table in (part._parameters, part._buffers)
        for name, value in table.items()
    ]

    def undo() -> None:
        for table, name, value, kept in owned:
            table[name] = value  # type: ignore[assignment]  # the same
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
    tables: list[dict[int, Any]] = [getattr(part, table) for table in HOOKS]
    kept = [dict(table) for table in tables]

    def undo() -> None:
        for table, hooks in zip(tables, kept, strict=True):
            table.clear()
            table.update(hooks)

    return undo


# ---- Random numbers


@contextmanager
def seeded(where: nn.Module | Tensor, seed: int) -> Iterator[None]:
    """Draw torch's numbers on the CPU and where a module or tensor is from a seed; then go on."""
    tensors = [where] if isinstance(where, Tensor) else [*where.parameters(), *where.buffers()]
    devices = {tensor.device for tensor in tensors} - {torch.device("cpu")}
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
