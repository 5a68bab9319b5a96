"""Choose the judge of masked images: the current classifier, or one of its past states.

In joint training the classifier changes. Masks that several of its states judge must cover the
evidence of all of them (Zolna et al. 2020).
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

#: A copy of a classifier's state in CPU memory.
Weights = dict[str, Tensor]


class Pool(Protocol):
    """The contract of a pool."""

    def add(self, classifier: nn.Module) -> None:
        """Take the current classifier; called before the next draw after each change of it."""

    def draw(self) -> nn.Module:
        """Return the judge of this step."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state of the pool, without the current classifier.

        The values are CPU tensors that share no memory, as safetensors requires.
        """

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore a state from ``state_dict()``; call ``add`` before the next draw."""


class Latest:
    """The current classifier judges; if it is frozen, this is the paper's FIX.

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
    """Another network judges in place of the classifier, which is still the one explained.

    The network takes the classifier's inputs and returns logits of the same classes, like the copy
    that :func:`~captum_masking.training.classifier.harden` makes.

    Example:
        >>> pool, judge = OneJudge(nn.Linear(1, 1)), nn.Linear(1, 1)
        >>> pool.add(judge)
        >>> pool.draw() is judge
        False
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def add(self, classifier: nn.Module) -> None:
        """Ignore the classifier."""

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
    """The current classifier judges, or with probability ``past`` a random copy of a past one.

    The pool copies the weights to CPU memory every ``every`` steps. Once it has ``size`` copies, a
    new one replaces a random one. The pool has its own random numbers.

    Args:
        size: Maximum number of copies.
        every: Steps between copies, from the first step on. None keeps only the first copy:
            ``History(every=None)`` draws the first or the current classifier, and with
            ``past=1.0`` always the first.
        past: Probability of drawing a copy instead of the current classifier, in ``[0, 1]``.
        after: Steps in which the current classifier always judges, since it has hardly changed.
        seed: Seed of the pool's random numbers.

    Source:
        Zolna et al. 2020, "L100" (the defaults) and "FL" (``every=None``); Phang et al. 2020, CA.
        Differs: the drawn copy judges; the published code draws it but calls the current
        classifier.

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
        check_count("size", self.size, way_out="use Latest() to keep no copies.")
        if self.every is not None:
            check_count("every", self.every, way_out="use None to keep only the first copy.")
        check_count("after", self.after, least=0)
        if not 0 <= self.past <= 1:
            raise ValueError(
                f"past must be a probability in [0, 1], but got {self.past}; 0 draws no past "
                "classifier, 1 draws only past ones."
            )
        self.classifier: nn.Module | None = None
        self.members: list[Weights] = []
        self.steps = 0
        self.random = torch.Generator().manual_seed(self.seed)
        # One copy of the classifier, on its device, takes the weights of the member drawn.
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
        """Return the copy with these weights; load them only if it has others."""
        if self._judge is None:
            self._judge = copy.deepcopy(classifier).eval().requires_grad_(False)
            self._judge.zero_grad(set_to_none=True)  # a copy has the gradients as well
        if self._loaded is not weights:
            self._loaded = None
            try:
                self._judge.load_state_dict(weights)
            except RuntimeError as error:
                raise RuntimeError(
                    "this pool has copies of another classifier than the one added last; use a new "
                    f"pool for each classifier, or restore the state saved with this one. {error}"
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
            f"expected the state of a random generator under 'random', but torch refuses it "
            f"({error}); pass what state_dict() returned, unchanged."
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
            f"unknown, first {differing[0]!r}; pass what state_dict() of a {kind} returned."
        )
