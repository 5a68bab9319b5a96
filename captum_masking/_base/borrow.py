"""Borrow a network or the random state, and restore it afterwards, also after an error."""

from __future__ import annotations

import gc
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import lru_cache
from operator import is_
from threading import RLock, get_ident
from types import FunctionType, MethodType, ModuleType
from typing import Any, TypeVar
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

F = TypeVar("F", bound=Callable)

HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)

# ---- Which module


def module_of(function: Callable) -> nn.Module | None:
    owner = function if isinstance(function, nn.Module) else getattr(function, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None


def original(function: Any) -> Any:
    """Return the original of a twin, or of a function around one."""
    return getattr(function, "__dict__", {}).get("_twin_of", function)


def name_of(function: Any) -> str:
    module, asked = module_of(function), original(function)
    owner = asked if module is None else original(module)
    return getattr(owner, "__name__", type(owner).__name__)


def unwrapped(classifier: Any) -> Any:
    # Not accelerate's extract_model_from_parallel, which also unwraps compiled modules: their taps
    # raise an error with a way out.
    while isinstance(classifier, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        classifier = classifier.module
    return classifier


# ---- A module in eval mode, for one call


@contextmanager
def evaluated(function: F) -> Iterator[F]:
    """Lend a module, or a method of one, in eval mode, without effect on other threads.

    The context yields a twin with the same weights, in eval mode and with its own hooks. A module
    that cannot have a twin is itself set to eval mode.
    """
    module = module_of(function)
    twins = None if module is None else _twins(module)
    if twins is None or not (function is module or isinstance(function, MethodType)):
        with eval_mode(function):
            yield function
        return
    twin: Any = twins[id(module)].twin
    lent: Any = twin if function is module else MethodType(function.__func__, twin)  # type: ignore[arg-type]
    try:
        yield lent
    finally:
        for each in twins.values():
            each.leave()


class _Twin:
    """A copy of a part that shares weights and buffers, but neither mode nor hooks."""

    def __init__(self, part: nn.Module) -> None:
        self.part, self.twin = part, object.__new__(type(part))
        own = {"training": False, "_modules": dict(part._modules), "_twin_of": part}
        own |= {"_forward_hooks": OrderedDict(), "_forward_pre_hooks": OrderedDict()}
        self.found = part.__dict__ | own
        self.twin.__dict__.update(self.found)

    def leave(self) -> None:
        """Copy attributes that a forward pass changed, such as counters, back to the module."""
        now = self.twin.__dict__
        if len(now) == len(self.found) and all(map(is_, now.values(), self.found.values())):
            return
        new = {n: value for n, value in now.items() if self.found.get(n, self) is not value}
        self.part.__dict__.update({name: new[name] for name in new.keys() - _OF_EACH_MODULE})


def _twins(module: Any) -> dict[int, _Twin] | None:
    """Make twins of all parts, by ``id`` of the part; None if a twin would refer to a part."""
    twins: dict[int, _Twin] = {}
    seen: set[int] = set()
    waiting = [module]
    for part in waiting:  # grows meanwhile
        if id(part) in twins:
            continue
        kind: Any = type(part)
        if not _has_twins(kind) or _leads_to_modules(part, seen):
            return None
        twins[id(part)] = _Twin(part)
        waiting += [child for child in part._modules.values() if child is not None]
    kinds: set[Any] = {type(each.part) for each in twins.values()}
    known = [table.get(name) for kind in kinds for table, name in _shared(kind)]
    if any(id(value) in twins for each in known for value in (each, *gc.get_referents(each))):
        return None
    for each in twins.values():
        children = each.twin._modules
        for name, child in children.items():
            children[name] = None if child is None else twins[id(child)].twin
    return twins


@lru_cache(maxsize=4096)
def _has_twins(kind: Any) -> bool:
    odd = issubclass(kind, (torch.jit.ScriptModule, LazyModuleMixin))
    return not odd and not any(base.__dict__.get("__slots__") for base in kind.__mro__)


_OF_EACH_MODULE = frozenset(nn.Module().__dict__)
_PLAIN = {bool, int, float, str, type(None), torch.Size, torch.dtype, torch.device, Tensor}
_LEAVES = (Tensor, type, ModuleType)
_MOST = 5000  # objects to search in one module; with more, no twin is made


def _leads_to_modules(part: nn.Module, seen: set[int]) -> bool:
    """Whether a part holds other modules than its children: in a list, closure, method or hook."""
    own = part.__dict__
    hooks = [hook for table in HOOKS if own[table] for hook in own[table].values()]
    if not all(isinstance(hook, OfThread) for hook in hooks):
        return True
    waiting = [
        value
        for name, value in own.items()
        if type(value) not in _PLAIN and name not in _OF_EACH_MODULE
    ]
    while waiting:
        value = waiting.pop()
        if isinstance(value, nn.Module) or len(seen) > _MOST:
            return True
        if id(value) not in seen and not isinstance(value, _LEAVES):
            seen.add(id(value))
            waiting += [each for each in _held(value) if type(each) not in _PLAIN]
    return False


@lru_cache(maxsize=4096)
def _shared(kind: Any) -> list[tuple[Any, str]]:
    """List the attributes of a class, and the globals that its methods use."""
    bases = [b for b in kind.__mro__ if b.__module__.partition(".")[0] not in ("torch", "builtins")]
    found = [(vars(base), name) for base in bases for name in vars(base)]
    methods = [method for base in bases for method in vars(base).values()]
    for method in methods:
        if isinstance(method, FunctionType):
            found += [(method.__globals__, name) for name in method.__code__.co_names]
    kinds = (dict, list, tuple)  # others may make what they list
    return [(t, n) for t, n in found if isinstance(v := t.get(n), nn.Module) or type(v) in kinds]


def _held(value: Any) -> Iterable[Any]:
    if isinstance(value, FunctionType):  # what it closes over, not the globals of its file
        return [*(value.__closure__ or ()), value.__defaults__, value.__kwdefaults__]
    return [value()] if isinstance(value, ref) else gc.get_referents(value)


class OfThread:
    """A forward hook or pre-hook for the current thread only; a copy of it does nothing."""

    def __init__(self, keep: Callable[..., Any] | None) -> None:
        self.keep, self.thread = keep, get_ident()

    def __call__(self, _module: nn.Module, *passed: Any) -> Any:
        return self.keep(passed[-1]) if self.keep and get_ident() == self.thread else None

    def __reduce__(self) -> tuple[Any, ...]:
        return OfThread, (None,)


# ---- Modes, flags and gradients

_LOCK, _WEIGHTS, _NUMBERS = RLock(), RLock(), RLock()
_LOANS: dict[tuple[int, str], list[list[Any]]] = {}  # what each borrower found, in their order


@contextmanager
def _loan(things: Sequence[Any], name: str, *lend: Any) -> Iterator[None]:
    """Lend an attribute of things, and restore it after the last of all current borrowers.

    Borrowers may be threads, which end in any order. One that ends before a later one passes the
    original value on to it.
    """
    found: list[tuple[Any, list[Any]]] = []
    try:
        with _LOCK:
            for thing in things:
                found.append((thing, [getattr(thing, name)]))
                _LOANS.setdefault((id(thing), name), []).append(found[-1][1])
                for value in lend:
                    _set(thing, name, value)
        yield
    finally:
        with _LOCK:
            for thing, before in reversed(found):
                loans = _LOANS[id(thing), name]
                place = next(i for i, loan in enumerate(loans) if loan is before)
                del loans[place]
                if place < len(loans):
                    loans[place][0] = before[0]
                else:
                    _set(thing, name, before[0])
                if not loans:
                    del _LOANS[id(thing), name]


def _set(thing: Any, name: str, value: Any) -> None:
    if getattr(thing, name) is not value:
        setattr(thing, name, value)


def _all(kind: str, function: Callable) -> list[Any]:
    module = module_of(function)
    return [] if module is None else list(getattr(module, kind)())


@contextmanager
def given_back(function: Callable) -> Iterator[None]:
    """Restore the modes and flags of all submodules afterwards."""
    modes = _loan(_all("modules", function), "training")
    with modes, _loan(_all("parameters", function), "requires_grad"):
        yield


def unfrozen(function: Callable, asks: bool = True) -> AbstractContextManager[None]:
    """Set ``requires_grad`` of all parameters."""
    floating = [weight for weight in _all("parameters", function) if weight.is_floating_point()]
    return _loan(floating, "requires_grad", asks)


def eval_mode(function: Callable) -> AbstractContextManager[None]:
    """Keep a module in eval mode, for all threads; restore its modes afterwards."""
    # One by one: exported modules refuse .eval().
    return _loan(_all("modules", function), "training", False)


def gradients_given_back(function: Callable) -> AbstractContextManager[None]:
    """Restore the gradients of parameters afterwards."""
    return _loan(_all("parameters", function), "grad", None)


@contextmanager
def lent(*functions: Callable) -> Iterator[None]:
    """Keep modules in eval mode for backward passes; restore modes, flags and gradients."""
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


@contextmanager
def borrowed(model: nn.Module) -> Iterator[None]:
    """Restore a model exactly, in the same tensors, afterwards.

    Not thread-safe: other threads see the changes meanwhile.
    """
    with _WEIGHTS, given_back(model):
        undo = [step for part in model.modules() for step in (_tensors(part), _hooks(part))]
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


def draws(where: Tensor, run: Callable[[], object]) -> bool:
    """Return whether a function draws from torch's random state, which is restored."""
    devices = [where.device] if where.device.type == "cuda" else []
    with _NUMBERS:
        before = _states(devices)
        try:
            run()
        finally:
            pairs = zip(before, _states(devices), strict=True)
            if moved := not all(torch.equal(*pair) for pair in pairs):
                torch.set_rng_state(before[0])
                for state, device in zip(before[1:], devices, strict=True):
                    torch.cuda.set_rng_state(state, device)
    return moved or where.device.type not in ("cpu", "cuda")


def _states(devices: list[torch.device]) -> list[Tensor]:
    return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, devices)]


@contextmanager
def seeded(where: nn.Module | Tensor, seed: int) -> Iterator[None]:
    """Seed torch on the CPU and on the device of a module or tensor, and restore it afterwards.

    Threads share the generators, so they wait for each other.
    """
    tensors = [where] if isinstance(where, Tensor) else [*where.parameters(), *where.buffers()]
    devices = {tensor.device for tensor in tensors} - {torch.device("cpu")}
    with ExitStack() as stack:
        stack.enter_context(_NUMBERS)
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
