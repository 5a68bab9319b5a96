"""A classifier taken apart so that Captum can change how its rectifiers pass gradients back."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from captum_masking.benchmark.lending import borrowed
from captum_masking.modes import eval_mode

# What Captum's DeepLift has rules for and networks use; none of them has weights or a state.
_RULED = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.MaxPool2d)
_RECTIFIERS = ("relu", "relu_", "relu6")


class Cap(nn.Module):
    """Cut at 6: what ReLU6 does after ReLU.

    Source:
        Own.

    Example:
        >>> Cap()(torch.tensor([1.0, 7.0]))
        tensor([1., 6.])
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``min(inputs, 6)``."""
        return inputs.clamp(max=6)


class RectifiedCap(nn.Module):
    """Cut at 6, with the gradient of ``6 - ReLU(6 - inputs)``, for which DeepLift has a rule.

    The value is that of :class:`Cap`, bit for bit, which the formula misses by its rounding.

    Source:
        Own.

    Example:
        >>> RectifiedCap()(torch.tensor([1.0, 7.0]))
        tensor([1., 6.])
    """

    def __init__(self) -> None:
        super().__init__()
        self.rectifier = nn.ReLU()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``min(inputs, 6)``."""
        formula = 6 - self.rectifier(6 - inputs)
        return inputs.detach().clamp(max=6) + (formula - formula.detach())


class PerCall(nn.Module):
    """A module that a forward pass calls several times, as one module for each call.

    Args:
        parts: In the order of the calls; the classifier's next pass begins with the first again.

    Source:
        Own; Captum's DeepLift asks for it.

    Example:
        >>> PerCall([nn.ReLU(), nn.ReLU()])(torch.tensor([-1.0, 1.0]))
        tensor([0., 1.])
    """

    def __init__(self, parts: Iterable[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.calls = 0

    def forward(self, inputs: Tensor) -> Tensor:
        """Run the part whose turn it is."""
        part = self.parts[self.calls % len(self.parts)]
        self.calls += 1
        outputs: Tensor = part(inputs)
        return outputs


def split_relu6(
    classifier: nn.Module, example: Tensor, cap: Callable[[], nn.Module] = Cap
) -> nn.Module:
    """Copy a classifier, with each ReLU6 as a ReLU and a cap, and each call as its own module.

    Captum's GuidedBackprop, Deconvolution and DeepLift change the gradients of ``nn.ReLU`` only:
    they pass an ``nn.ReLU6`` by in silence.  DeepLift raises on modules that run twice.

    Args:
        classifier: An eager module; it is not changed.
        example: Inputs ``(B, C, H, W)`` on which calls are counted.
        cap: Makes what cuts at 6.

    Returns:
        The copy, of the kind that ``borrowed`` makes; its outputs are the classifier's in eval
        mode, bit for bit.

    Source:
        Own.

    Example:
        >>> split_relu6(nn.Sequential(nn.ReLU6()), torch.zeros(1, 1))
        Sequential(
          (0): Sequential(
            (0): ReLU()
            (1): Cap()
          )
        )
    """
    network = borrowed(classifier)
    calls = _count_calls(network, example)
    apart: dict[nn.Module, nn.Module] = {}  # a module may stand in several places
    for parent in list(network.modules()):
        for name, part in list(parent._modules.items()):
            if part is not None and type(part) in _RULED:
                apart.setdefault(part, _taken_apart(part, calls[part], cap))
                setattr(parent, name, apart[part])
    network.register_forward_pre_hook(_begin)
    return network


def count_rectifiers(network: nn.Module, example: Tensor) -> tuple[int, int]:
    """Count how often a forward pass rectifies: by a module ``nn.ReLU``, and by a mere function.

    Args:
        network: As made by :func:`split_relu6`, or one without ReLU6.
        example: Inputs ``(B, C, H, W)``.

    Returns:
        ``(modules, functions)``; the functions are beyond the reach of hooks.

    Source:
        Own.

    Example:
        >>> count_rectifiers(nn.Sequential(nn.ReLU(), nn.GELU()), torch.zeros(1, 1))
        (1, 0)
    """
    with _Rectified() as seen:
        calls = _count_calls(network, example)
    modules = sum(count for part, count in calls.items() if isinstance(part, nn.ReLU))
    return modules, seen.calls - modules


class _Rectified(TorchFunctionMode):
    """Counts calls of functions that rectify; an ``nn.ReLU`` makes one, too."""

    calls = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.calls += getattr(func, "__name__", "") in _RECTIFIERS
        return func(*args, **(kwargs or {}))


def _count_calls(network: nn.Module, example: Tensor) -> Counter[nn.Module]:
    calls: Counter[nn.Module] = Counter()
    handles = [
        part.register_forward_hook(lambda part, _inputs, _outputs: calls.update([part]))
        for part in network.modules()
    ]
    try:
        with eval_mode(network), torch.no_grad():
            network(example)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _taken_apart(part: nn.Module, calls: int, cap: Callable[[], nn.Module]) -> nn.Module:
    def make() -> nn.Module:
        if isinstance(part, nn.ReLU6):
            return nn.Sequential(nn.ReLU(), cap())
        return copy.deepcopy(part)

    return make() if calls < 2 else PerCall(make() for _ in range(calls))


def _begin(network: nn.Module, _inputs: Any) -> None:
    """Let the next pass begin with the first part, also if the last one broke off."""
    for part in network.modules():
        if isinstance(part, PerCall):
            part.calls = 0
