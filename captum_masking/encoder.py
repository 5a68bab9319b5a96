"""Which classifier feature maps the masker reads: taps on named modules, checked every time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from captum_masking.modes import eval_mode

# Their outputs repeat or blur a map that another module has made; the maker is tapped instead.
_NOT_TAPPED = ("Pool", "Dropout", "Identity", "Flatten", "Upsample")


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


def find_layers(classifier: nn.Module, example: Tensor) -> list[str]:
    """Find the last feature map at each of the two deepest spatial resolutions.

    Args:
        classifier: Run once on ``example`` in eval mode, without gradient.
        example: Inputs of shape ``(B, C, *spatial)`` that the classifier accepts.

    Returns:
        Up to two module names, finer map first.

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
    last: dict[tuple[int, ...], str] = {}  # spatial size -> the last module that gives it
    for name, output in _feature_maps(classifier, example):
        last.pop(tuple(output.shape[2:]), None)
        last[tuple(output.shape[2:])] = name
    sizes = sorted(last, key=lambda size: torch.Size(size).numel())
    if not sizes:
        raise ValueError(
            f"expected the classifier to make feature maps (B, channels, *spatial) for inputs of "
            f"shape {tuple(example.shape)}, but no module did; name them with layers=[...]."
        )
    return [last[size] for size in reversed(sizes[:2])]


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

        near = difflib.get_close_matches(name, modules, n=4, cutoff=0.3) or list(modules)[1:5]
        raise ValueError(
            f"layers must name modules of the classifier, but it has none called {name!r}; "
            f"nearest: {', '.join(near)} (all: dict(classifier.named_modules()))."
        )
    return modules[name]
