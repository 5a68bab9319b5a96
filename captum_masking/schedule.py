"""How the classifier learns along with its masker, and how learning rates move."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from captum_masking.objective import KeepRecognizing, Objective


@dataclass(frozen=True)
class FineTune:
    """How to train along a classifier that is already good: gently.

    Args:
        lr: Peak learning rate.
        optimizer: Called as ``optimizer(parameters, lr=lr)``.
        train_mode: Whether the clean pass runs in train mode. False keeps the batch-norm
            statistics and switches dropout off.
        judge_in_train_mode: Whether the classifier also judges masked images in that mode, so
            that they move its batch-norm statistics, as in the published code.
        objective: The classifier's loss on steps that it judges itself.
        stay: Weight of staying close to the predictions that the classifier gave on clean images
            before training (cross entropy to them); 0 saves one forward pass a step.
        classifier_first: Fraction of the steps of ``fit`` in which the classifier trains alone, on
            clean images: before it recognises anything there is no evidence to find.
        masker_first: Fraction of the steps in which the masker trains alone: a good classifier
            has nothing to learn from the first masks, and where images are few it soon learns
            the images themselves.

    Source:
        Own; measured in ``benchmarks/README.md``.

    Example:
        >>> FineTune(lr=1e-4).lr
        0.0001
    """

    lr: float = 1e-3
    optimizer: Callable[..., torch.optim.Optimizer] = partial(torch.optim.SGD, momentum=0.9)
    train_mode: bool = False
    judge_in_train_mode: bool = False
    objective: Objective = KeepRecognizing(gated=False)
    stay: float = 3.0
    classifier_first: float = 0.0
    masker_first: float = 0.75


@dataclass(frozen=True)
class FromScratch(FineTune):
    """How to train along a classifier that knows nothing yet; arguments as in :class:`FineTune`.

    Source:
        Own. Adam, since SGD needs a rate tuned to the network and this has to work untuned.

    Example:
        >>> FromScratch().train_mode
        True
    """

    lr: float = 3e-3
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW
    train_mode: bool = True
    objective: Objective = KeepRecognizing()
    stay: float = 0.0
    classifier_first: float = 0.3
    masker_first: float = 0.0


def cosine(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Raise the learning rate for the first tenth of the steps, then let it fall to zero.

    Args:
        optimizer: Its rates are the peak.
        steps: Length of the whole schedule.

    Returns:
        The schedule; call ``.step()`` after each optimizer step.

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
    warm_up = max(1, steps // 10)

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
