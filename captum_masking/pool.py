"""Which classifier judges the mask: ``add(classifier)`` at each step, ``draw() -> classifier``."""

from __future__ import annotations

import copy
from typing import Protocol

import torch
from torch import Tensor, nn


class Pool(Protocol):
    """The contract of a pool.

    Source:
        Zolna et al. 2020: saliency against a set of classifiers, so that the mask covers
        everything that any of them could use.
    """

    def add(self, classifier: nn.Module) -> None:
        """Take note of the classifier as it is now; called once before each draw."""

    def draw(self) -> nn.Module:
        """Return the classifier that judges this step."""


class Latest:
    """The classifier as it is now; with a frozen one, the paper's FIX.

    Source:
        Zolna et al. 2020, "L" (trained) and "F" (frozen).

    Example:
        >>> pool, classifier = Latest(), nn.Linear(1, 1)
        >>> pool.add(classifier)
        >>> pool.draw() is classifier
        True
    """

    def add(self, classifier: nn.Module) -> None:
        """Remember the live classifier."""
        self.classifier = classifier

    def draw(self) -> nn.Module:
        """Return the live classifier."""
        _check_not_empty(self)
        return self.classifier

    def __repr__(self) -> str:
        return "Latest()"


class Fixed:
    """The classifier as it was at the first step, copied: training it does not move the judge.

    Source:
        Zolna et al. 2020, the "first" of "FL".

    Example:
        >>> pool, classifier = Fixed(), nn.Linear(1, 1)
        >>> pool.add(classifier)
        >>> _ = nn.init.zeros_(classifier.weight)
        >>> bool(pool.draw().weight == 0)
        False
    """

    def add(self, classifier: nn.Module) -> None:
        """Copy the classifier, the first time."""
        if not hasattr(self, "classifier"):
            self.classifier = copy.deepcopy(classifier).eval().requires_grad_(False)

    def draw(self) -> nn.Module:
        """Return the copy."""
        _check_not_empty(self)
        return self.classifier

    def __repr__(self) -> str:
        return "Fixed()"


class History:
    """Past classifiers and the live one: each draw is a past one with probability ``past``.

    Every ``every`` steps a copy of the weights goes to CPU memory; once there are ``size`` of
    them a new one replaces a random one. The random numbers are the pool's own.

    Args:
        size: Most copies kept.
        every: Steps between copies; the first is taken at the first step.
        past: Probability of drawing a copy rather than the live classifier, in ``[0, 1]``.
        seed: Of the pool's random numbers.

    Source:
        Zolna et al. 2020, "L100" (the defaults); Phang et al. 2020, CA. Here the drawn member
        does judge; in the published code it is drawn and then not used.

    Example:
        >>> pool, classifier = History(past=1.0), nn.Linear(1, 1)
        >>> pool.add(classifier)
        >>> judge = pool.draw()
        >>> judge is classifier, bool(judge.weight == classifier.weight)
        (False, True)
    """

    def __init__(
        self, *, size: int = 30, every: int = 100, past: float = 0.5, seed: int = 0
    ) -> None:
        self.size, self.every, self.past, self.seed = size, every, past, seed
        self.members: list[dict[str, Tensor]] = []
        self.steps = 0
        self.random = torch.Generator().manual_seed(seed)

    def add(self, classifier: nn.Module) -> None:
        """Remember the live classifier, and every so often a copy of it."""
        self.classifier = classifier
        if self.steps % self.every == 0:
            self._keep({k: v.detach().cpu().clone() for k, v in classifier.state_dict().items()})
        self.steps += 1

    def draw(self) -> nn.Module:
        """Return the live classifier, or one loaded with a past one's weights."""
        _check_not_empty(self)
        if torch.rand((), generator=self.random) >= self.past:
            return self.classifier
        return self._load(self._random_below(len(self.members)))

    def _keep(self, weights: dict[str, Tensor]) -> None:
        if len(self.members) < self.size:
            self.members.append(weights)
        else:
            self.members[self._random_below(self.size)] = weights

    def _load(self, index: int) -> nn.Module:
        if not hasattr(self, "actor"):
            self.actor = copy.deepcopy(self.classifier).eval().requires_grad_(False)
        self.actor.load_state_dict(self.members[index])
        return self.actor

    def _random_below(self, count: int) -> int:
        return int(torch.randint(count, (), generator=self.random))

    def __repr__(self) -> str:
        return f"History(size={self.size}, every={self.every}, past={self.past}, seed={self.seed})"


def _check_not_empty(pool: Pool) -> None:
    if not hasattr(pool, "classifier"):
        raise RuntimeError("this pool is empty: call pool.add(classifier) before pool.draw().")
