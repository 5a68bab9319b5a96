"""What a pool promises, and the wording of its errors."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from torch import Tensor, nn


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
