"""What a pool promises, and the wording of its errors."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from numbers import Integral
from typing import Any, Protocol

import torch
from torch import Tensor, nn

__all__ = [
    "DrawnUnused",
    "FirstAndLast",
    "Fixed",
    "History",
    "Latest",
    "LiveJudge",
    "Pool",
]


class Pool(Protocol):
    """The contract of a pool.

    Source:
        Zolna et al. 2020: saliency against a set of classifiers, so that the mask covers
        everything that any of them could use.
    """

    def add(self, classifier: nn.Module) -> None:
        """Take note of the classifier as it is now; called before a draw when it has changed."""

    def draw(self) -> nn.Module:
        """Return the classifier that judges this step."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that a fresh pool needs to go on as this one, but the live classifier.

        CPU tensors that share no memory with each other, as safetensors asks for.
        """

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what ``state_dict()`` of such a pool returned, once ``add`` is called."""


def check_not_empty(classifier: nn.Module | None) -> nn.Module:
    """Return the live classifier of a pool, or say that there is none yet."""
    if classifier is None:
        raise RuntimeError("this pool is empty: call pool.add(classifier) before pool.draw().")
    return classifier


def check_keys(pool: Pool, got: Collection[str], expected: Collection[str]) -> None:
    """Refuse the state of another kind of pool."""
    differing = sorted(set(got) ^ set(expected))
    if differing:
        kind = type(pool).__name__
        raise ValueError(
            f"expected the state of a {kind} pool, but {len(differing)} entries are missing or "
            f"unknown, first {differing[0]!r}; give what state_dict() of a {kind} returned."
        )


# ---- Classifiers of the past: their copies, the one network that plays them, and who is drawn.

#: The state of one classifier, on CPU memory of its own.
Weights = dict[str, Tensor]

#: What :meth:`Lottery.state_dict` holds.
LOTTERY = ("steps", "kept", "random")


def snapshot(state: Mapping[str, Tensor]) -> Weights:
    """Copy a state to CPU memory; ``.cpu()`` alone copies nothing that is there already."""
    contiguous = torch.contiguous_format
    return {k: v.detach().to("cpu", copy=True, memory_format=contiguous) for k, v in state.items()}


def pack(weights: Mapping[str, Tensor], prefix: str) -> Weights:
    """Put a prefix before every name."""
    return {prefix + name: value for name, value in weights.items()}


def unpack(state: Mapping[str, Tensor], prefix: str) -> Weights:
    """Copy what :func:`pack` put under a prefix."""
    return snapshot({k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)})


class Stage:
    """One copy of the classifier, on its device, that plays whichever past one is drawn."""

    def __init__(self) -> None:
        self.actor: nn.Module | None = None
        self.playing: Weights | None = None

    def play(self, weights: Weights, classifier: nn.Module) -> nn.Module:
        """Return the copy with these weights; it is not loaded again with those it has."""
        if self.actor is None:
            self.actor = copy.deepcopy(classifier).eval().requires_grad_(False)
            self.actor.zero_grad(set_to_none=True)  # a copy has the gradients as well
        if self.playing is not weights:
            self.playing = None
            _load(self.actor, weights)
            self.playing = weights
        return self.actor


class Lottery:
    """Which steps are kept, in which place, and which place is drawn; knows no weights.

    Args:
        size: Places.
        every: Steps between two that are kept; the first is.
        past: Probability that a place is drawn rather than the live classifier.
        seed: Of its own random numbers.

    Raises:
        ValueError: If a number lies outside its range.
    """

    def __init__(self, *, size: int, every: int, past: float, seed: int) -> None:
        _check_count("size", size)
        _check_count("every", every)
        if not 0 <= past <= 1:
            raise ValueError(
                f"past must be a probability in [0, 1], but got {past}; 0 never draws a past "
                "classifier, 1 never the live one."
            )
        self.size, self.every, self.past = size, every, past
        self.steps = self.kept = 0
        self.random = torch.Generator().manual_seed(seed)

    def keep(self) -> int | None:
        """Count a step; return the place that it takes, or None where it is not kept."""
        due = self.steps % self.every == 0
        self.steps += 1
        if not due:
            return None
        if self.kept == self.size:
            return self._below(self.size)
        self.kept += 1
        return self.kept - 1

    def draw(self) -> int | None:
        """Return a place, all equally likely, or None for the live classifier."""
        if torch.rand((), generator=self.random) >= self.past:
            return None
        return self._below(self.kept)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the counts and the state of the random numbers."""
        counts = {name: torch.tensor(getattr(self, name)) for name in ("steps", "kept")}
        return {**counts, "random": self.random.get_state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from there.

        Raises:
            ValueError: If more places are taken than there are, or a value cannot be read.
        """
        steps, kept = int(state["steps"]), int(state["kept"])
        if kept > self.size:
            raise ValueError(
                f"expected the state of a pool with at most {self.size} past classifiers, but got "
                f"{kept}; restore it into a pool built with size={kept} or more."
            )
        random = torch.Generator()
        try:
            random.set_state(state["random"].cpu().clone())
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f"expected the state of a random generator under 'random', but got one that torch "
                f"refuses ({error}); give what state_dict() returned, unchanged."
            ) from error
        self.steps, self.kept, self.random = steps, kept, random

    def _below(self, count: int) -> int:
        return int(torch.randint(count, (), generator=self.random))


def _load(actor: nn.Module, weights: Weights) -> None:
    try:
        actor.load_state_dict(weights)
    except RuntimeError as error:
        raise RuntimeError(
            "a past classifier of this pool has other weights than the classifier that was added "
            "last; a pool serves one classifier, so take a fresh pool for another, or restore the "
            f"state that was saved with this one. {error}"
        ) from error


def _check_count(name: str, count: int) -> None:
    if not isinstance(count, Integral) or count < 1:
        raise ValueError(
            f"{name} must be a whole number >= 1, but got {count}; "
            "Latest() is the pool that keeps nothing."
        )


# ---- Pools of one classifier.


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
        """Remember the live classifier."""
        self.classifier = classifier

    def draw(self) -> nn.Module:
        """Return the live classifier."""
        return check_not_empty(self.classifier)

    def state_dict(self) -> dict[str, Tensor]:
        """Return nothing: this pool has no past."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take nothing.

        Raises:
            ValueError: If it is the state of another kind of pool.
        """
        check_keys(self, state, ())

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

    def __init__(self) -> None:
        self.classifier: nn.Module | None = None
        self.first: Weights = {}
        self.stage = Stage()

    def add(self, classifier: nn.Module) -> None:
        """Copy the classifier's weights, the first time."""
        self.classifier = classifier
        self.first = self.first or snapshot(classifier.state_dict())

    def draw(self) -> nn.Module:
        """Return the copy."""
        return self.stage.play(self.first, check_not_empty(self.classifier))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the first weights."""
        return pack(self.first, "first.")

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on as the pool did whose state this is.

        Raises:
            ValueError: If it is the state of another kind of pool.
        """
        check_keys(self, [name for name in state if not name.startswith("first.")], ())
        self.first = unpack(state, "first.")

    def __repr__(self) -> str:
        return "Fixed()"


# ---- Pools of past classifiers and the live one.


class History:
    """Past classifiers and the live one: each draw is a past one with probability ``past``.

    Every ``every`` steps a copy of the weights goes to CPU memory; once there are ``size`` of
    them a new one replaces a random one. The random numbers are the pool's own.

    Args:
        size: Most copies kept.
        every: Steps between copies; the first is taken at the first step.
        past: Probability of drawing a copy rather than the live classifier, in ``[0, 1]``.
        seed: Of the pool's random numbers.

    Raises:
        ValueError: If a number lies outside its range.

    Source:
        Zolna et al. 2020, "L100" (the defaults); Phang et al. 2020, CA. Here the drawn member
        does judge; in the published code it is drawn and then not used, which is
        :class:`DrawnUnused`.

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
        self.lottery = Lottery(size=size, every=every, past=past, seed=seed)
        self.members: list[Weights] = []
        self.classifier: nn.Module | None = None
        self.stage = Stage()

    def add(self, classifier: nn.Module) -> None:
        """Remember the live classifier, and every so often a copy of it."""
        self.classifier = classifier
        place = self.lottery.keep()
        if place is not None:
            self.members[place : place + 1] = [snapshot(classifier.state_dict())]

    def draw(self) -> nn.Module:
        """Return the live classifier, or one loaded with a past one's weights."""
        classifier = check_not_empty(self.classifier)
        place = self.lottery.draw()
        return classifier if place is None else self.stage.play(self.members[place], classifier)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the copies, and what decides which are drawn and replaced."""
        state = self.lottery.state_dict()
        for place, weights in enumerate(self.members):
            state |= pack(weights, f"members.{place}.")
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on as the pool did whose state this is.

        Raises:
            ValueError: If it holds more copies than ``size``, or belongs to another kind of pool.
        """
        check_keys(self, [k for k in state if not k.startswith("members.")], LOTTERY)
        members = [unpack(state, f"members.{place}.") for place in range(int(state["kept"]))]
        names = [f"members.{place}.{name}" for place in range(len(members)) for name in members[0]]
        check_keys(self, state, [*LOTTERY, *names])
        self.lottery.load_state_dict(state)
        self.members = members

    def __repr__(self) -> str:
        return f"History(size={self.size}, every={self.every}, past={self.past}, seed={self.seed})"


class FirstAndLast:
    """The classifier as it was at the first step, with probability ``past``, or as it is now.

    Args:
        past: Probability of drawing the first one, in ``[0, 1]``.
        seed: Of the pool's random numbers.

    Raises:
        ValueError: If ``past`` is no probability.

    Source:
        Zolna et al. 2020, "FL".

    Example:
        >>> pool, classifier = FirstAndLast(past=1.0), nn.Linear(1, 1)
        >>> pool.add(classifier)
        >>> _ = nn.init.zeros_(classifier.weight)
        >>> bool(pool.draw().weight == 0)
        False
    """

    def __init__(self, *, past: float = 0.5, seed: int = 0) -> None:
        self.past, self.seed = past, seed
        self.lottery = Lottery(size=1, every=1, past=past, seed=seed)
        self.first: Weights = {}
        self.classifier: nn.Module | None = None
        self.stage = Stage()

    def add(self, classifier: nn.Module) -> None:
        """Remember the live classifier, and the first time a copy of it."""
        self.classifier = classifier
        if not self.lottery.kept:
            self.lottery.keep()
            self.first = snapshot(classifier.state_dict())

    def draw(self) -> nn.Module:
        """Return the live classifier, or one loaded with the first one's weights."""
        classifier = check_not_empty(self.classifier)
        live = self.lottery.draw() is None
        return classifier if live else self.stage.play(self.first, classifier)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the first weights and the state of the random numbers."""
        return self.lottery.state_dict() | pack(self.first, "first.")

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on as the pool did whose state this is.

        Raises:
            ValueError: If it belongs to another kind of pool.
        """
        check_keys(self, [k for k in state if not k.startswith("first.")], LOTTERY)
        self.lottery.load_state_dict(state)
        self.first = unpack(state, "first.")

    def __repr__(self) -> str:
        return f"FirstAndLast(past={self.past}, seed={self.seed})"


class LiveJudge(nn.Module):
    """The live classifier under another name: where a past one was drawn and is not used.

    It shares the live parameters. That it is another object than the classifier tells a trainer
    that the classifier does not judge this step as itself, and takes no step on masked images.

    Args:
        classifier: The live classifier.

    Source:
        Phang et al. 2020, released code; see :class:`DrawnUnused`.

    Example:
        >>> classifier = nn.Linear(1, 1)
        >>> LiveJudge(classifier).classifier is classifier
        True
    """

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """Answer as the live classifier does."""
        return self.classifier(*inputs, **options)


class DrawnUnused:
    """The published history: members are kept and drawn, but the live classifier judges always.

    Where :class:`History` would draw a past classifier, with the same numbers and the same seed,
    this pool draws a :class:`LiveJudge`. All that is left of the past is then that a trained
    classifier takes no step on masked images where one was drawn. Since nothing reads their
    weights, members are counted and not copied.

    Args:
        size: Most members kept.
        every: Steps between members; the first is taken at the first step.
        past: Probability of drawing a member rather than the live classifier, in ``[0, 1]``.
        seed: Of the pool's random numbers.

    Raises:
        ValueError: If a number lies outside its range.

    Source:
        Phang et al. 2020, released code of CA, where the member that was drawn is not called.

    Example:
        >>> pool, classifier = DrawnUnused(past=1.0), nn.Linear(1, 1)
        >>> pool.add(classifier)
        >>> _ = nn.init.zeros_(classifier.weight)
        >>> judge = pool.draw()
        >>> judge is classifier, bool(judge.classifier.weight == 0)
        (False, True)
    """

    def __init__(
        self, *, size: int = 30, every: int = 100, past: float = 0.5, seed: int = 0
    ) -> None:
        self.size, self.every, self.past, self.seed = size, every, past, seed
        self.lottery = Lottery(size=size, every=every, past=past, seed=seed)
        self.classifier: nn.Module | None = None
        self.unused: LiveJudge | None = None  # the same object each time, as one may be compiled

    def add(self, classifier: nn.Module) -> None:
        """Remember the live classifier, and every so often count a member."""
        if classifier is not self.classifier:
            self.classifier, self.unused = classifier, LiveJudge(classifier)
        self.lottery.keep()

    def draw(self) -> nn.Module:
        """Return the live classifier, or a :class:`LiveJudge` of it."""
        classifier = check_not_empty(self.classifier)
        live = self.lottery.draw() is None
        return classifier if live else check_not_empty(self.unused)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the counts and the state of the random numbers."""
        return self.lottery.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on as the pool did whose state this is.

        Raises:
            ValueError: If it counts more members than ``size``, or belongs to another kind of pool.
        """
        check_keys(self, state, LOTTERY)
        self.lottery.load_state_dict(state)

    def __repr__(self) -> str:
        numbers = f"size={self.size}, every={self.every}, past={self.past}, seed={self.seed}"
        return f"DrawnUnused({numbers})"
