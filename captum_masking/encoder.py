"""Which classifier feature maps the masker reads: taps on named modules, checked every time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from captum_masking.modes import eval_mode

# Their outputs repeat or blur a map that another module has made; the maker is tapped instead.
_NOT_TAPPED = ("Pool", "Dropout", "Identity", "Flatten", "Upsample", "Pad")


class Taps:
    """Reads the outputs of named modules out of one forward pass of a classifier.

    Hooks live only during the call. A tap that does not fire (compiled, traced and exported
    modules lose hooks silently) is an error, never an old feature map.

    Args:
        classifier: The module to read from.
        layers: Names as in ``classifier.named_modules()``. A module called more than once in a
            pass gives its last output.

    Raises:
        ValueError: If a name does not exist, with the nearest ones that do.
        TypeError: If the classifier is a scripted module, which takes no hooks.

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
        self.modules = [_find(classifier, name) for name in self.layers]

    def __call__(self, *inputs: Any) -> tuple[Any, list[Tensor]]:
        """Run the classifier once; return its answer and the tapped outputs, in order."""
        outputs: dict[str, Any] = {}
        with _hooked(self.modules, self.layers, outputs.__setitem__):
            logits = self.classifier(*inputs)
        missing = [name for name in self.layers if name not in outputs]
        if missing:
            raise RuntimeError(
                f"expected every tapped layer to run in the classifier's forward pass, but "
                f"{missing} did not fire; name layers that do run, and pass the plain module: "
                "compiled, traced and exported ones lose their hooks."
            )
        return logits, [outputs[name] for name in self.layers]

    def __repr__(self) -> str:
        return f"Taps({', '.join(self.layers)})"


def find_layers(classifier: nn.Module, example: Tensor, *, count: int = 2) -> list[str]:
    """Find the map with which the classifier leaves each of its deepest spatial resolutions.

    Of the modules that give a map of one resolution, the outermost are whole stages; the last of
    these is read.

    Args:
        classifier: Run once on ``example`` in eval mode, without gradient.
        example: Inputs of shape ``(B, C, *spatial)`` that the classifier accepts.
        count: How many resolutions, from the deepest on.

    Returns:
        Up to ``count`` module names, finer maps first.

    Raises:
        ValueError: If no module gives a feature map.

    Source:
        Phang et al. 2020 read the two deepest stages of ResNet-50; finding them is our own.

    Example:
        >>> network = nn.Sequential(
        ...     nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 8, 3, 2), nn.ReLU(), nn.Flatten()
        ... )
        >>> find_layers(network, torch.zeros(1, 1, 16, 16))
        ['1', '3']
    """
    best: dict[torch.Size, str] = {}  # spatial size -> the module to read
    for name, output in _feature_maps(classifier, example):
        size = output.shape[2:]
        if size not in best or name.count(".") <= best[size].count("."):
            best[size] = name
    sizes = sorted(best, key=torch.Size.numel)
    if not sizes:
        raise ValueError(
            f"expected the classifier to make feature maps (B, channels, *spatial) for inputs of "
            f"shape {tuple(example.shape)}, but no module did; name them with layers=[...], and "
            "pass the plain eager module: traced and exported ones lose their hooks."
        )
    return [best[size] for size in reversed(sizes[:count])]


def check_tappable(classifier: object) -> None:
    """Refuse what has no hooks to offer, or loses them silently.

    Raises:
        TypeError: If the classifier is no module, or a compiled, scripted, traced or exported one.

    Source:
        Own; the silent loss of hooks is measured in PyTorch 2.13 and 2.15.

    Example:
        >>> check_tappable(nn.Linear(1, 1))
    """
    if not isinstance(classifier, nn.Module):
        raise TypeError(
            f"classifier must be a torch.nn.Module to be tapped, but got "
            f"{type(classifier).__name__}; MaskingSaliency(callable) needs no taps."
        )
    lost = isinstance(classifier, (torch.jit.ScriptModule, torch.fx.GraphModule))
    if lost or hasattr(classifier, "_orig_mod"):
        raise TypeError(
            f"classifier must be a plain eager module, but got {type(classifier).__name__}: "
            "compiled, scripted, traced and exported modules lose the hooks that read features; "
            "pass the eager one, or MaskingSaliency(classifier), which needs no taps."
        )


def _feature_maps(classifier: nn.Module, example: Tensor) -> list[tuple[str, Tensor]]:
    """List ``(name, output)`` of each module that ran exactly once and gave a feature map."""
    named = [(name, module) for name, module in classifier.named_modules() if name]
    calls: list[tuple[str, Any]] = []
    names, modules = [name for name, _ in named], [module for _, module in named]

    def keep(name: str, output: Any) -> None:
        calls.append((name, output))

    with eval_mode(classifier), torch.no_grad(), _hooked(modules, names, keep):
        classifier(example)
    ran = [name for name, _ in calls]
    kinds = {name: type(module).__name__ for name, module in named}
    return [
        (name, output)
        for name, output in calls
        if ran.count(name) == 1
        and not any(word in kinds[name] for word in _NOT_TAPPED)
        and isinstance(output, Tensor)
        and output.dim() == example.dim()
        and max(output.shape[2:]) > 1
    ]


@contextmanager
def _hooked(
    modules: Sequence[nn.Module], names: Sequence[str], keep: Callable[[str, Any], None]
) -> Iterator[None]:
    """Call ``keep(name, output)`` after each forward of a module; always remove the hooks."""
    handles = []
    try:
        for module, name in zip(modules, names, strict=True):
            if isinstance(module, torch.jit.ScriptModule):
                raise TypeError(
                    f"expected plain modules to tap, but {name!r} is scripted or traced and "
                    "takes no hooks; pass the eager classifier."
                )
            hook = lambda _module, _args, output, name=name: keep(name, output)  # noqa: E731
            handles.append(module.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _find(classifier: nn.Module, name: str) -> nn.Module:
    """Return a submodule by name, or say which names there are."""
    modules = dict(classifier.named_modules())
    if name not in modules or not name:
        import difflib

        near = difflib.get_close_matches(name, modules, n=4, cutoff=0.3) if name else []
        near = near or list(modules)[1:5]
        raise ValueError(
            f"layers must name modules of the classifier, but it has none called {name!r}; "
            f"nearest: {', '.join(near)} (all: dict(classifier.named_modules()))."
        )
    return modules[name]
