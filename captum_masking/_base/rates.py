"""The default schedule of learning rates, made of torch's."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR


def cosine(optimizer: Optimizer, steps: int) -> LRScheduler:
    rising = max(1, steps // 10)
    fall = CosineAnnealingLR(optimizer, max(1, steps - rising))
    return SequentialLR(optimizer, [rise(optimizer, rising), fall], milestones=[rising])


def rise(optimizer: Optimizer, steps: int) -> LinearLR:
    return LinearLR(optimizer, 1 / steps, total_iters=steps - 1)
