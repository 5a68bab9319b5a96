"""Classifiers of the past: their copies, the one network that plays them, and who is drawn."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from numbers import Integral

import torch
from torch import Tensor, nn

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
