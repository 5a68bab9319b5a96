"""Pools of past classifiers and the live one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from captum_masking.pool.contract import check_keys, check_not_empty
from captum_masking.pool.memory import LOTTERY, Lottery, Stage, Weights, pack, snapshot, unpack


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
