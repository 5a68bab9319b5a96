"""Taps on named modules of a classifier, checked every time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from captum_masking.dry_run import hooked
from captum_masking.tokens import first_tensor


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

    def __call__(self, *inputs: Any, traced: str | None = None) -> tuple[Any, list[Tensor]]:
        """Run the classifier once; return its answer and the tapped outputs, in order.

        With ``traced``, the name of one of the layers, the answer can be differentiated by that
        layer's output, whatever the grad mode is outside; the layers before it are run as ever.
        """
        outputs: dict[str, Any] = {}

        def keep(name: str, output: Any) -> Any:
            if name != traced:
                outputs[name] = output
                return None
            outputs[name], passed_on = from_here(output)
            return passed_on

        # The context gives the grad mode back that the traced layer turns on for those after it.
        grad_mode = torch.set_grad_enabled(torch.is_grad_enabled())
        with grad_mode, hooked(self.modules, self.layers, keep):
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


def from_here(output: Any) -> tuple[Any, Any]:
    """Let gradients be taken by a layer's output, and turn grad mode on for the layers after it.

    Args:
        output: Of a layer: a tensor, or several of which the first counts.

    Returns:
        The output to differentiate by, and what the next layers are to be given instead: a copy,
        since they may write into it.

    Source:
        Own.

    Example:
        >>> with torch.no_grad():
        ...     start, passed_on = from_here(torch.ones(1))
        ...     torch.autograd.grad(3 * passed_on, start)
        (tensor([3.]),)
    """
    tensor = first_tensor(output)
    start = tensor if tensor.requires_grad else tensor.detach().requires_grad_()
    torch.set_grad_enabled(True)
    copy = start.clone()
    if isinstance(output, Tensor):
        return start, copy
    rest = (copy, *output[1:])
    return (start, *output[1:]), rest if isinstance(output, tuple) else list(rest)


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
            f"{type(classifier).__name__}; MaskingSaliency(callable) needs no taps, and with "
            "example_inputs=... or masker=OwnEncoder([channels]) the masker has its own encoder."
        )
    if not tappable(classifier):
        raise TypeError(
            f"classifier must be a plain eager module, but got {type(classifier).__name__}: "
            "compiled, scripted, traced and exported modules lose the hooks that read features; "
            "pass the eager one; or example_inputs=... or masker=OwnEncoder([channels]), for a "
            "masker with an encoder of its own; or use MaskingSaliency(classifier) without taps."
        )


def tappable(classifier: object) -> bool:
    """Whether the layers of a classifier can be read.

    Args:
        classifier: Anything.

    Source:
        Own.

    Example:
        >>> tappable(nn.Linear(1, 1)), tappable(lambda inputs: inputs)
        (True, False)
    """
    lost = isinstance(classifier, (torch.jit.ScriptModule, torch.fx.GraphModule))
    return isinstance(classifier, nn.Module) and not lost and not hasattr(classifier, "_orig_mod")


def _find(classifier: nn.Module, name: str) -> nn.Module:
    """Return a submodule by name, or say which names there are."""
    if name:
        with suppress(AttributeError, RuntimeError):  # scripted modules list theirs only
            return classifier.get_submodule(name)
    import difflib

    modules = dict(classifier.named_modules())
    if name in modules and name:
        return modules[name]
    near = difflib.get_close_matches(name, modules, n=4, cutoff=0.3) if name else []
    near = near or list(modules)[1:5]
    raise ValueError(
        f"layers must name modules of the classifier, but it has none called {name!r}; "
        f"nearest: {', '.join(near)} (all: dict(classifier.named_modules()))."
    )
