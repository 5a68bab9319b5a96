"""Random weights in place of trained ones."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from captum_masking.metrics.sanity.borrowed import seeded
from captum_masking.metrics.sanity.layers import layers_of

#: Draws the parameters that a module owns directly anew, from torch's random state.
Rule = Callable[[nn.Module], None]


def reset(module: nn.Module) -> None:
    """Start a module afresh, as when it was built.

    Calls its ``reset_parameters`` where it has one: batch norm then also forgets its statistics.
    Otherwise, parameters with two or more axes are drawn as in ``nn.Linear`` (uniformly within
    +- 1 / sqrt(fan in)), the others uniformly within +- 1 / sqrt(n) for n numbers.

    Args:
        module: Only what it owns directly is drawn.

    Source:
        Own; random weights are to be like those before training.

    Example:
        >>> layer = nn.BatchNorm2d(2)
        >>> _ = nn.init.constant_(layer.weight, 7.0)
        >>> reset(layer)
        >>> layer.weight.tolist()
        [1.0, 1.0]
    """
    own = getattr(module, "reset_parameters", None)
    if callable(own):
        own()
        return
    for parameter in module.parameters(recurse=False):
        _draw(parameter)


def published_reset(module: nn.Module) -> None:
    """Draw a module's parameters by the number of their axes alone, as the published code does.

    With four axes from a normal distribution of standard deviation sqrt(2 / n) for n numbers; with
    two Kaiming-uniformly; with one uniformly within +- 1 / sqrt(n), the factors and offsets of
    batch norm too. Its statistics stay. With other numbers of axes as `reset` does.

    Args:
        module: Only what it owns directly is drawn.

    Source:
        Phang et al. 2020, cascading and independent randomization.

    Example:
        >>> layer = nn.BatchNorm2d(4)
        >>> published_reset(layer)
        >>> bool((layer.weight.abs() <= 0.5).all())
        True
    """
    for parameter in module.parameters(recurse=False):
        if parameter.dim() == 4:
            nn.init.normal_(parameter, std=(2 / parameter.numel()) ** 0.5)
        elif parameter.dim() == 2:
            nn.init.kaiming_uniform_(parameter)
        else:
            _draw(parameter)


def _draw(parameter: Tensor) -> None:
    if parameter.dim() >= 2:
        nn.init.kaiming_uniform_(parameter, a=5**0.5)
    else:
        bound = max(1, parameter.numel()) ** -0.5
        nn.init.uniform_(parameter, -bound, bound)


def randomize(module: nn.Module, *, seed: int = 0, rule: Rule = reset) -> None:
    """Draw all parameters of a module and of the modules in it anew, for good.

    Args:
        module: Changed in place; its modes, flags and hooks are left alone.
        seed: The same seed draws the same weights. Torch's random state is left alone.
        rule: Called with each module that owns parameters.

    Raises:
        ValueError: If there is no parameter.

    Source:
        Adebayo et al. 2018, model parameter randomization.

    Example:
        >>> import torch
        >>> one, other = nn.Linear(3, 2), nn.Linear(3, 2)
        >>> randomize(one, seed=7), randomize(other, seed=7)
        (None, None)
        >>> torch.equal(one.weight, other.weight)
        True
    """
    parts = [part for layer in layers_of(module).values() for part in layer]
    with seeded(module, seed):
        for part in parts:
            rule(part)
