"""The default schedule of learning rates, made of torch's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR


def cosine(optimizer: Optimizer, steps: int) -> LRScheduler:
    rising = max(1, steps // 10)
    fall = CosineAnnealingLR(optimizer, max(1, steps - rising))
    return SequentialLR(optimizer, [rise(optimizer, rising), fall], milestones=[rising])


def rise(optimizer: Optimizer, steps: int) -> LinearLR:
    return LinearLR(optimizer, 1 / steps, total_iters=steps - 1)


class InParts:
    """A schedule for each part of a training; each starts from the initial rates."""

    def __init__(
        self,
        optimizer: Optimizer,
        schedule: Callable[[Optimizer, int], LRScheduler],
        lengths: Sequence[int],
    ) -> None:
        self.optimizer, self.schedule, self.lengths = optimizer, schedule, lengths
        self.last_epoch = 0  # steps that are done, as torch calls it
        self._begin(0)

    def step(self) -> None:
        self.last_epoch += 1
        following = self.part + 1
        if following < len(self.lengths) and self.last_epoch == sum(self.lengths[:following]):
            self._begin(following)
        else:
            self.current.step()

    def _begin(self, part: int) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = group.get("initial_lr", group["lr"])
        self.part, self.current = part, self.schedule(self.optimizer, self.lengths[part])

    def state_dict(self) -> dict[str, Any]:
        return {
            "part": self.part,
            "last_epoch": self.last_epoch,
            "current": self.current.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        now = [group["lr"] for group in self.optimizer.param_groups]
        self._begin(state["part"])
        self.last_epoch = state["last_epoch"]
        self.current.load_state_dict(state["current"])
        for group, rate in zip(self.optimizer.param_groups, now, strict=True):
            group["lr"] = rate
