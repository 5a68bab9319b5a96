"""Which classifier judges the masked images: the live one, or one of its past states.

In joint training the classifier moves; masks judged by several of its states have to cover what any
of them could use (Zolna et al. 2020).
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from captum_masking._base.checks import check_count

__all__ = ["History", "Latest", "OneJudge", "Pool"]

#: The state of one classifier, on CPU memory of its own.
Weights = dict[str, Tensor]


class Pool(Protocol):
    """The contract of a pool."""

    def add(self, classifier: nn.Module) -> None:
        """Take note of the classifier as it is now; called before a draw when it has changed."""

    def draw(self) -> nn.Module:
        """Return the classifier that judges this step."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that a fresh pool needs to go on as this one, but the live classifier.

        CPU tensors that share no memory with each other, as safetensors requires.
        """

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what ``state_dict()`` of such a pool returned, once ``add`` is called."""


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

    def __init__(self) -> None:
        self.classifier: nn.Module | None = None

    def add(self, classifier: nn.Module) -> None:
        self.classifier = classifier

    def draw(self) -> nn.Module:
        return _not_empty(self.classifier)

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        _check_keys(self, state, ())

    def __repr__(self) -> str:
        return "Latest()"


class OneJudge:
    """Another network than the classifier judges; the classifier stays what is explained.

    It takes the classifier's inputs and gives logits of the same classes, such as the copy that
    :func:`~captum_masking.training.classifier.harden` makes.

    Example:
        >>> pool, judge = OneJudge(nn.Linear(1, 1)), nn.Linear(1, 1)
        >>> pool.add(judge)
        >>> pool.draw() is judge
        False
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def add(self, classifier: nn.Module) -> None:
        """Leave the classifier out."""

    def draw(self) -> nn.Module:
        return self.network

    def state_dict(self) -> dict[str, Tensor]:
        return copied(self.network.state_dict())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        _check_keys(self, state, self.network.state_dict())
        self.network.load_state_dict(state)

    def __repr__(self) -> str:
        return f"OneJudge({type(self.network).__name__})"


@dataclass(eq=False, kw_only=True)
class History:
    """Past classifiers and the live one: each draw is a past one with probability ``past``.

    Every ``every`` steps a copy of the weights goes to CPU memory; once there are ``size`` of
    them a new one replaces a random one. The random numbers are the pool's own.

    Args:
        size: Most copies kept.
        every: Steps between copies; the first is taken at the first step. None keeps that one
            alone: ``History(every=None)`` draws the first classifier or the live one, and with
            ``past=1.0`` the first one always.
        past: Probability of drawing a copy rather than the live classifier, in ``[0, 1]``.
        after: Steps before the first copy is drawn; until then the classifier has hardly a past,
            and the live one judges.
        seed: Of the pool's random numbers.

    Source:
        Zolna et al. 2020, "L100" (the defaults) and "FL" (``every=None``); Phang et al. 2020, CA.
        In the published code a past member is drawn and then the live classifier called; here the
        drawn member judges.

    Example:
        >>> pool, classifier = History(past=1.0), nn.Linear(1, 1)
        >>> pool.add(classifier)
        >>> judge = pool.draw()
        >>> judge is classifier, bool(judge.weight == classifier.weight)
        (False, True)
    """

    size: int = 30
    every: int | None = 100
    past: float = 0.5
    after: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("size", self.size, way_out="Latest() is the pool that keeps nothing.")
        if self.every is not None:
            check_count("every", self.every, way_out="None keeps the first classifier alone.")
        check_count("after", self.after, least=0)
        if not 0 <= self.past <= 1:
            raise ValueError(
                f"past must be a probability in [0, 1], but got {self.past}; 0 never draws a past "
                "classifier, 1 never the live one."
            )
        self.classifier: nn.Module | None = None
        self.members: list[Weights] = []
        self.steps = 0
        self.random = torch.Generator().manual_seed(self.seed)
        # One copy of the classifier, on its device, takes the weights of whichever member is drawn.
        self._judge: nn.Module | None = None
        self._loaded: Weights | None = None

    def add(self, classifier: nn.Module) -> None:
        self.classifier = classifier
        is_due = self.steps % self.every == 0 if self.every else self.steps == 0
        self.steps += 1
        if is_due:
            is_full = len(self.members) == self.size
            place = self._below(self.size) if is_full else len(self.members)
            self.members[place : place + 1] = [copied(classifier.state_dict())]

    def draw(self) -> nn.Module:
        classifier = _not_empty(self.classifier)
        past = self.past if self.steps > self.after else 0.0
        if torch.rand((), generator=self.random) >= past:
            return classifier
        return self._load(self.members[self._below(len(self.members))], classifier)

    def state_dict(self) -> dict[str, Tensor]:
        counts = {"steps": torch.tensor(self.steps), "kept": torch.tensor(len(self.members))}
        state = {**counts, "random": self.random.get_state()}
        for place, weights in enumerate(self.members):
            state |= {f"members.{place}.{name}": value for name, value in weights.items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        own = ("steps", "kept", "random")
        _check_keys(self, [name for name in state if not name.startswith("members.")], own)
        members = [_under(f"members.{place}.", state) for place in range(int(state["kept"]))]
        names = [f"members.{place}.{name}" for place in range(len(members)) for name in members[0]]
        _check_keys(self, state, [*own, *names])
        if len(members) > self.size:
            raise ValueError(
                f"expected the state of a pool with at most {self.size} past classifiers, but got "
                f"{len(members)}; restore it into a pool built with size={len(members)} or more."
            )
        self.random = _generator(state["random"])
        self.steps, self.members = int(state["steps"]), members

    def _below(self, count: int) -> int:
        return int(torch.randint(count, (), generator=self.random))

    def _load(self, weights: Weights, classifier: nn.Module) -> nn.Module:
        """Return the copy with these weights; it is not loaded again with those it has."""
        if self._judge is None:
            self._judge = copy.deepcopy(classifier).eval().requires_grad_(False)
            self._judge.zero_grad(set_to_none=True)  # a copy has the gradients as well
        if self._loaded is not weights:
            self._loaded = None
            try:
                self._judge.load_state_dict(weights)
            except RuntimeError as error:
                raise RuntimeError(
                    "a past classifier of this pool has other weights than the classifier that was "
                    "added last; a pool serves one classifier, so take a fresh pool for another, "
                    f"or restore the state that was saved with this one. {error}"
                ) from error
            self._loaded = weights
        return self._judge


def copied(state: Mapping[str, Tensor]) -> Weights:
    """Copy a state to CPU memory; ``.cpu()`` alone copies nothing that is there already."""
    contiguous = torch.contiguous_format
    return {k: v.detach().to("cpu", copy=True, memory_format=contiguous) for k, v in state.items()}


def _under(prefix: str, state: Mapping[str, Tensor]) -> Weights:
    """Copy the entries of a state under a prefix."""
    return copied({k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)})


def _generator(state: Tensor) -> torch.Generator:
    random = torch.Generator()
    try:
        random.set_state(state.cpu().clone())
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"expected the state of a random generator under 'random', but got one that torch "
            f"refuses ({error}); give what state_dict() returned, unchanged."
        ) from error
    return random


def _not_empty(classifier: nn.Module | None) -> nn.Module:
    if classifier is None:
        raise RuntimeError("this pool is empty: call pool.add(classifier) before pool.draw().")
    return classifier


def _check_keys(pool: Pool, got: Collection[str], expected: Collection[str]) -> None:
    differing = sorted(set(got) ^ set(expected))
    if differing:
        kind = type(pool).__name__
        raise ValueError(
            f"expected the state of a {kind} pool, but {len(differing)} entries are missing or "
            f"unknown, first {differing[0]!r}; give what state_dict() of a {kind} returned."
        )
