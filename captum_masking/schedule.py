"""How the classifier learns along with its masker."""

from __future__ import annotations

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
