"""Pools of one classifier."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from captum_masking.pool.contract import check_keys, check_not_empty
from captum_masking.pool.memory import Stage, Weights, pack, snapshot, unpack


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
