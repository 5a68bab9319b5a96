"""Read a network's layers with hooks that last for one call."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from captum_masking._base.borrow import (
    OfThread,
    eval_mode,
    evaluated,
    module_of,
    name_of,
    seeded,
    unfrozen,
)
from captum_masking._base.captum import as_class_logits, as_they_are, log_odds, log_probabilities
from captum_masking._base.checks import arguments_in_words
from captum_masking.model.layouts import first_tensor

__all__ = ["Taps", "as_they_are", "log_odds", "log_probabilities", "logits_of"]


def logits_of(output: Any) -> Tensor:
    """Return the logits in a classifier's output.

    A tensor is the logits. Otherwise they are the attribute or key ``logits`` (Hugging Face;
    Inception and GoogLeNet in train mode), or the only tensor with two dimensions in a tuple, list,
    dict or object. Several of one shape in a tuple or list are heads of one network: the first is
    used, with a warning.

    Example:
        >>> logits_of((torch.tensor(0.5), torch.tensor([[1.0, 2.0]])))  # (loss, logits)
        tensor([[1., 2.]])
    """
    parts = _parts(output)
    tensors = [part for _, part in parts if isinstance(part, Tensor) and part.is_floating_point()]
    scores = [tensor for tensor in tensors if tensor.dim() == 1 and len(tensors) > 1]
    tensors = [tensor for tensor in tensors if tensor.dim() == 2 or len(parts) == 1]
    heads = isinstance(output, (tuple, list)) and len({tensor.shape for tensor in tensors}) == 1
    if len(tensors) > 1 and heads:
        warnings.warn(
            f"the classifier returns {len(tensors)} tensors of one shape: the first is used as "
            "logits; for another one, wrap the classifier in a module that returns it.",
            stacklevel=2,
        )
    if len(tensors) == 1 and any(len(score) == len(tensors[0]) for score in scores):
        warnings.warn(
            "the classifier returns a number per example beside a tensor with two dimensions, "
            "which is used as logits; if the number is the output, return only that.",
            stacklevel=2,
        )
    if len(tensors) == 1 or heads:
        return tensors[0]
    if isinstance(output, torch.futures.Future):
        raise NotImplementedError(
            "the classifier returned a future, which is not supported; pass a function that waits, "
            "lambda inputs: classifier(inputs).wait()."
        )
    kinds = [(name, getattr(part, "dtype", type(part).__name__), part) for name, part in parts[:8]]
    held = ", ".join(f"{name} {kind} {getattr(p, 'shape', '')}".strip() for name, kind, p in kinds)
    raise TypeError(
        f"the classifier must return logits (B, classes), as a tensor, as .logits or ['logits'], "
        f"or as the one tensor with two dimensions in a tuple, dict or object, but returned "
        f"{type(output).__name__}{f' of {held}' if held else ''}; wrap it in a module that returns "
        "the logits."
    )


def _parts(output: Any) -> list[tuple[str, Any]]:
    """List possible logits by name."""
    if isinstance(output, Tensor):
        return [("", output)]
    named: Any = output if isinstance(output, Mapping) else getattr(output, "__dict__", {})
    logits = named.get("logits", getattr(output, "logits", None))
    if isinstance(logits, Tensor):
        return [("", logits)]
    if isinstance(output, (tuple, list)):
        nested = [_parts(p) if isinstance(p, (tuple, list)) else [("", p)] for p in output]
        return [part for parts in nested for part in parts]
    return list(named.items())


def like_weights(images: Tensor, function: Any) -> Tensor:
    """Cast to the weights' dtype: NoiseTunnel turns half-precision inputs into float32."""
    module = module_of(function)
    weights = (p for p in ([] if module is None else module.parameters()) if p.is_floating_point())
    return images.to(next(weights, images).dtype)


@contextmanager
def hooked(
    modules: Sequence[nn.Module],
    names: Sequence[str],
    keep: Callable[[str, Any], Any],
    inputs: Collection[str] = (),
) -> Iterator[None]:
    """Call ``keep(name, output)`` after each forward in this thread, which may replace outputs.

    For modules whose name is in ``inputs``, call it before the forward with the positional
    arguments.
    """
    handles = []
    try:
        for module, name in zip(modules, names, strict=True):
            if not _takes_hooks(module):
                raise TypeError(
                    f"expected plain modules to tap, but {name!r} is scripted or traced and "
                    "takes no hooks; pass the eager classifier."
                )
            before = name in inputs
            add = module.register_forward_pre_hook if before else module.register_forward_hook
            handles.append(add(OfThread(partial(keep, name))))
        yield
    finally:
        for handle in handles:
            handle.remove()


class Recorded(NamedTuple):
    """The outputs of modules that ran once, the network's output, and last outputs of others."""

    once: dict[str, Tensor]
    answer: Any
    repeated: dict[str, Tensor]


def record(classifier: nn.Module, *inputs: Any) -> Recorded:
    """Run a classifier in eval mode and keep the outputs of its modules."""
    calls: list[tuple[str, Any]] = []

    def keep(name: str, output: Any) -> None:
        calls.append((name, first_tensor(output)))

    answer = watch(classifier, inputs, keep)
    ran = Counter(name for name, _ in calls)
    kept = [(name, out) for name, out in calls if isinstance(out, Tensor) and out.dim()]
    once, more = ({n: out for n, out in kept if (ran[n] > 1) is often} for often in (False, True))
    return Recorded(once, answer, more)


def watch(
    classifier: nn.Module, inputs: Sequence[Any], keep: Callable[[str, Any], None], taking: str = ""
) -> Any:
    """Run a classifier in eval mode; keep outputs, and inputs of one kind of module."""
    with evaluated(classifier) as network, torch.no_grad(), arguments_in_words():
        named = {n: part for n, part in network.named_modules() if n and _takes_hooks(part)}
        of_kind = {n: part for n, part in named.items() if taking and taking in type(part).__name__}
        takes = {f"{n}.input": part for n, part in of_kind.items()}
        with (
            hooked([*named.values()], [*named], keep),
            hooked([*takes.values()], [*takes], keep, takes),
        ):
            return network(*inputs)


def _takes_hooks(module: nn.Module) -> bool:
    return not isinstance(module, torch.jit.ScriptModule)


#: Way out for a network that runs its body on several views.
ONCE = (
    "the output for the plain inputs is not known; name layers that run once, pass the network "
    "inside the module that repeats it (a mirrored copy, crops, steps in time), or use a masker "
    "with its own encoder, masker=StandaloneMasker([channels])."
)


class Taps:
    """Reads the outputs of named modules out of one forward pass of a classifier.

    Hooks last only for the call. It is an error if a tap does not fire (compiled, traced and
    exported modules lose hooks silently), or fires more than once, as in a body that several
    branches share or that also sees a mirrored copy.

    Args:
        classifier: The module to read from.
        layers: Names as in ``classifier.named_modules()`` of modules that run once per pass.
            ``"avgpool.input"`` reads a module's input, which may come from a module that runs more
            than once.

    Source:
        Phang et al. 2020: the encoder is the classifier itself.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.LazyLinear(2))
        >>> logits, (features,) = Taps(network, ["0"])(torch.zeros(1, 1, 8, 8))
        >>> logits.shape, features.shape
        (torch.Size([1, 2]), torch.Size([1, 4, 6, 6]))
    """

    def __init__(self, classifier: nn.Module, layers: Sequence[str]) -> None:
        self.classifier = classifier
        self.layers = tuple(layers)
        found = [tap_of(classifier, name) for name in self.layers]
        self.modules = [module for module, _ in found]
        self.inputs = {n for n, (_, before) in zip(self.layers, found, strict=True) if before}

    def __call__(self, *inputs: Any, traced: str | None = None) -> tuple[Any, list[Tensor]]:
        """Run the classifier once; return its output and the tapped outputs, in order.

        With ``traced``, the name of a layer, the output can be differentiated by that layer's
        output in any grad mode; the layers before it run as usual.
        """
        outputs: dict[str, Any] = {}
        ran: Counter[str] = Counter()

        def keep(name: str, output: Any) -> Any:
            ran[name] += 1
            if name in self.inputs and not isinstance(first_tensor(output), Tensor):
                raise TypeError(
                    f"expected the module of {name!r} to take a map first, by position, but got "
                    f"{len(output)} arguments without one there; tap an output."
                )
            if name != traced:
                outputs[name] = output
                return None
            outputs[name], passed_on = from_here(output)
            return passed_on

        # The context restores the grad mode that the traced layer turns on.
        keeps = torch.is_grad_enabled() or traced is None
        grad_mode = torch.set_grad_enabled(torch.is_grad_enabled())
        # Another thread may train the network meanwhile and write to its weights.
        copies = nullcontext() if keeps else saved_tensors_hooks(_copy, as_they_are)
        with grad_mode, copies, hooked(self.modules, self.layers, keep, self.inputs):
            logits = self.classifier(*inputs)
        missing = [name for name in self.layers if name not in outputs]
        if missing:
            raise RuntimeError(
                f"expected every tapped layer to run in the classifier's forward pass, but "
                f"{missing} did not fire; name layers that run, and pass the plain module: "
                "compiled, traced and exported ones lose their hooks."
            )
        if repeated := {name: times for name, times in ran.items() if times > 1}:
            got = ", ".join(f"{name!r} ran {times} times" for name, times in repeated.items())
            raise RuntimeError(
                f"expected each tapped layer to run once in a pass, but {got}: {ONCE}"
            )
        passed = {name: first_tensor(outputs[name]) for name in self.inputs}
        return logits, [passed.get(name, outputs[name]) for name in self.layers]

    def __repr__(self) -> str:
        return f"Taps({', '.join(self.layers)})"


def _copy(saved: Tensor) -> Tensor:
    return saved.detach().clone()


def from_here(output: Any) -> tuple[Any, Any]:
    """Track gradients by an output from here on; return a copy that may be written to."""
    tensor = first_tensor(output)
    start = tensor if tensor.requires_grad else tensor.detach().requires_grad_()
    torch.set_grad_enabled(True)
    copy = start.clone()
    if isinstance(output, Tensor):
        return start, copy
    rest = (copy, *output[1:])
    return (start, *output[1:]), rest if isinstance(output, tuple) else list(rest)


def leading_back(
    judge: Callable[..., Any], inputs: Sequence[Tensor], *extra: Any
) -> Callable[[Any], AbstractContextManager[Any]] | None:
    """Return a context in which a judge's output can be differentiated by the pixels.

    It is empty, or :func:`unfrozen` for a network that turns gradients off if no parameter needs
    one. A judge that cuts gradients in other ways is refused. None for a judge with a constant
    output.
    """
    pixels = [x.detach().clone().requires_grad_() for x in inputs]

    def ask(scale: float, noise: float = 0.0) -> Tensor:
        seen = [scale * x + noise * torch.randn_like(x) for x in pixels]  # may be written to
        return logits_of(judge(*seen, *extra))

    with seeded(pixels[0], 0), eval_mode(judge), cuts_in_words(judge):
        for asks in (False, True):
            with torch.enable_grad(), unfrozen(judge, asks):
                slopes = _slopes(ask(1.0), pixels)
            if any(bool(slope.any()) for slope in slopes):
                return unfrozen if asks else nullcontext
        with torch.no_grad():
            answer = ask(1.0)
            if all(torch.equal(answer, ask(scale, 20.0)) for scale in (20.0, -20.0)):
                return None
    if slopes:
        warnings.warn(
            f"{name_of(judge)} answers with a gradient of exactly zero at every pixel of these "
            "inputs: no mask can be learned from it. Look for rounding, thresholds, or layers "
            "that saturate.",
            stacklevel=3,
        )
        return nullcontext
    raise _cut(judge)


@contextmanager
def cuts_in_words(judge: Callable[..., Any]) -> Iterator[None]:
    """Explain torch's errors about missing or unwanted gradients."""
    try:
        yield
    except RuntimeError as error:
        known = ("that requires grad", "not require grad", "Inference tensors")
        if not any(words in str(error) for words in known):
            raise
        raise _cut(judge) from error


def check_differentiable(scores: Tensor, judge: Callable[..., Any]) -> None:
    """Refuse a network whose output does not depend differentiably on its inputs."""
    if not scores.requires_grad:
        raise _cut(judge)


def gradients_of(loss: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    """Differentiate a loss; None for tensors that it does not depend on."""
    try:
        return torch.autograd.grad(loss, of, allow_unused=True)
    except RuntimeError as error:
        if "modified by an inplace operation" not in str(error):
            raise
        raise RuntimeError(
            "expected constant weights while a mask is optimized, but something was changed in "
            "place between a pass and its gradient; if another thread trains the network, "
            "explain copy.deepcopy(network)."
        ) from error


def _cut(judge: Callable[..., Any]) -> RuntimeError:
    return RuntimeError(
        f"expected logits of {name_of(judge)} to be differentiable by its inputs, but gradients "
        "are cut (no_grad, inference_mode, detach, .data, numpy, integers or quantized layers), so "
        "no mask can be learned from it. To freeze weights, use requires_grad_(False) instead of "
        "no_grad; for quantized networks pass the "
        "float one."
    )


def _slopes(answer: Tensor, pixels: Sequence[Tensor]) -> list[Tensor]:
    """Differentiate a sum of scores that cannot cancel; empty if gradients are cut."""
    if not answer.requires_grad:
        return []
    slopes = torch.autograd.grad(as_class_logits(answer).cumsum(1).sum(), pixels, allow_unused=True)
    return [slope for slope in slopes if slope is not None]


def check_tappable(classifier: object) -> None:
    """Check that a classifier is a module whose hooks fire."""
    if not isinstance(classifier, nn.Module):
        raise TypeError(
            "classifier must be a torch.nn.Module to be tapped, but got "
            f"{type(classifier).__name__}; MaskingSaliency(callable) needs no taps, and with "
            "example_inputs=... or masker=StandaloneMasker([channels]) the masker has its own "
            "encoder."
        )
    if not tappable(classifier):
        raise TypeError(
            f"classifier must be a plain eager module, but got {type(classifier).__name__}: "
            "compiled, scripted, traced and exported modules lose the hooks that read features; "
            "pass the eager one; or example_inputs=... or masker=StandaloneMasker([channels]), for "
            "a masker with its own encoder; or use MaskingSaliency(classifier) without taps."
        )


def tappable(classifier: object) -> bool:
    lost = isinstance(classifier, (torch.jit.ScriptModule, torch.fx.GraphModule))
    return isinstance(classifier, nn.Module) and not lost and not hasattr(classifier, "_orig_mod")


def tap_of(classifier: nn.Module, name: str) -> tuple[nn.Module, bool]:
    """Return the module to tap, and whether to tap its input; raise with the nearest names."""
    for part in filter(None, dict.fromkeys([name, name.removesuffix(".input")])):
        with suppress(AttributeError, RuntimeError):  # scripted modules list theirs only
            return classifier.get_submodule(part), part != name
    import difflib

    modules = dict(classifier.named_modules())
    if name in modules and name:
        return modules[name], False
    near = difflib.get_close_matches(name, modules, n=4, cutoff=0.3) if name else []
    near = near or list(modules)[1:5]
    raise ValueError(
        f"layers must name modules of the classifier, but it has no {name!r}; "
        f"nearest: {', '.join(near)} (all: dict(classifier.named_modules()))."
    )


class Untapped(nn.Module):
    """Any callable as a module, without layers to read."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.module = module_of(function)
        self.function: Callable[..., Any]
        self.__dict__["function"] = function  # a module is listed once, as .module

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs)

    def train(self, mode: bool = True) -> Untapped:
        """Set all modes one by one, since exported modules refuse ``train()`` and ``eval()``."""
        for part in self.modules():
            part.training = mode
        return self

    def extra_repr(self) -> str:
        return getattr(self.function, "__qualname__", type(self.function).__name__)
