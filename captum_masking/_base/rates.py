"""How learning rates move: along a cosine, in steps, or not at all, after a warm-up."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.optim.lr_scheduler import LambdaLR


def cosine(optimizer: torch.optim.Optimizer, steps: int, *, warm_up: float = 0.1) -> LambdaLR:
    """Raise the learning rate along a line, then let it fall to zero along a cosine.

    Args:
        optimizer: Its rates are the peak.
        steps: Length of the whole schedule.
        warm_up: Fraction of the steps in which the rate rises, in [0, 1).

    Returns:
        The schedule; call ``.step()`` after each optimizer step.

    Raises:
        ValueError: If ``warm_up`` lies outside [0, 1).

    Source:
        Loshchilov & Hutter 2017, with a linear warm-up.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> schedule, rates = cosine(optimizer, steps=20), []
        >>> for _ in range(20):
        ...     rates.append(round(optimizer.param_groups[0]["lr"], 2))
        ...     optimizer.step(); schedule.step()
        >>> rates[:4], rates[-1]
        ([0.5, 1.0, 1.0, 0.99], 0.01)
    """
    rising = max(1, int(steps * warm_up))

    def factor(step: int) -> float:
        done = max(0, step - rising) / max(1, steps - rising)
        return 0.5 * (1 + math.cos(math.pi * done))

    return LambdaLR(optimizer, warmed_up(factor, steps, warm_up))


def constant(optimizer: torch.optim.Optimizer, steps: int, *, warm_up: float = 0.0) -> LambdaLR:
    """Keep the learning rate as it is, after a warm-up if there is one.

    Args:
        optimizer: Its rates are the peak.
        steps: Length of the whole schedule; only the warm-up depends on it.
        warm_up: Fraction of the steps in which the rate rises along a line, in [0, 1).

    Returns:
        The schedule; call ``.step()`` after each optimizer step.

    Raises:
        ValueError: If ``warm_up`` lies outside [0, 1).

    Source:
        Own.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> schedule, rates = constant(optimizer, steps=4, warm_up=0.5), []
        >>> for _ in range(4):
        ...     rates.append(optimizer.param_groups[0]["lr"])
        ...     optimizer.step(); schedule.step()
        >>> rates
        [0.5, 1.0, 1.0, 1.0]
    """
    return LambdaLR(optimizer, warmed_up(lambda step: 1.0, steps, warm_up))


def step_decay(
    optimizer: torch.optim.Optimizer,
    steps: int,
    *,
    decay: float = 0.1,
    parts: int = 3,
    warm_up: float = 0.0,
) -> LambdaLR:
    """Let the learning rate fall at once after each of several equal parts of the training.

    Args:
        optimizer: Its rates are the first ones.
        steps: Length of the whole schedule.
        decay: What each fall multiplies the rate by, in (0, 1].
        parts: How many parts there are, >= 1; one fewer are the falls.
        warm_up: As for :func:`constant`; the parts count from the first step.

    Returns:
        The schedule; call ``.step()`` after each optimizer step.

    Raises:
        ValueError: If a number lies outside its range.

    Source:
        Phang et al. 2020: as published, 60 epochs and a tenth of the rate after every 20, without
        a warm-up.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> schedule, rates = step_decay(optimizer, steps=6), []
        >>> for _ in range(6):
        ...     rates.append(round(optimizer.param_groups[0]["lr"], 4))
        ...     optimizer.step(); schedule.step()
        >>> rates
        [1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
    """
    if not 0 < decay <= 1 or parts < 1:
        raise ValueError(
            f"decay must lie in (0, 1] and parts be at least 1, but got {decay} and {parts}; "
            "published are 0.1 and 3."
        )

    def factor(step: int) -> float:
        return decay ** min(parts - 1, step * parts // max(1, steps))

    return LambdaLR(optimizer, warmed_up(factor, steps, warm_up))


def warmed_up(factor: Callable[[int], float], steps: int, warm_up: float) -> Callable[[int], float]:
    """Let a schedule start with a rise along a line.

    Args:
        factor: Called with the steps done; gives what the peak rate is multiplied by.
        steps: Length of the whole schedule.
        warm_up: Fraction of the steps in which it rises, in [0, 1).

    Returns:
        A function like ``factor``.

    Raises:
        ValueError: If ``warm_up`` lies outside [0, 1).

    Source:
        Goyal et al. 2017, gradual warm-up.

    Example:
        >>> rates = warmed_up(lambda step: 1.0, steps=10, warm_up=0.2)
        >>> rates(0), rates(1), rates(2)
        (0.5, 1.0, 1.0)
    """
    if not 0 <= warm_up < 1:
        raise ValueError(
            f"warm_up must be a fraction of the steps in [0, 1), but got {warm_up}; 0.1 is a tenth,"
            " 0 starts at the peak."
        )
    rising = max(1, int(steps * warm_up))
    return lambda step: min(1.0, (step + 1) / rising) * factor(step)
