"""What the leakage audit found, in numbers and in words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Leakage:
    """How often the class was read off masks, and off their boxes.

    All are shares of the masks; standard errors are those of a mean over masks. Printing it gives
    a table and a sentence.

    Args:
        masks: How many there were.
        classes: How many classes.
        chance: The share of the most frequent class, what one reads without looking.
        accuracy: How often the class was read off a mask that the reader had not seen.
        standard_error: Of ``accuracy``.
        box_accuracy: The same with the mask's box in its place: its size and position alone.
        box_standard_error: Of ``box_accuracy``.
        shape_adds: ``accuracy - box_accuracy``.
        shape_standard_error: Of ``shape_adds``, mask by mask.

    Source:
        Own.

    Example:
        >>> print(Leakage(400, 10, 0.1, 0.45, 0.025, 0.2, 0.02, 0.25, 0.03))
        read from       accuracy
        nothing           10.0 %
        boxes             20.0 % +- 2.0
        masks             45.0 % +- 2.5
        The masks give the class away: read right for 45.0 % of 400 masks (10 classes), 35.0 points
        above chance. Their shape adds 25.0 +- 3.0 points to what size and position say.
    """

    masks: int
    classes: int
    chance: float
    accuracy: float
    standard_error: float
    box_accuracy: float
    box_standard_error: float
    shape_adds: float
    shape_standard_error: float

    def gives_away(self) -> bool:
        """Say whether masks are read above chance by more than two standard errors."""
        return self.accuracy - self.chance > 2 * self.standard_error

    def shape_gives_away(self) -> bool:
        """Say whether masks are also read better than their boxes by more than two."""
        return self.gives_away() and self.shape_adds > 2 * self.shape_standard_error

    def sentence(self) -> str:
        """Say in words how much the masks give away."""
        share = f"{100 * self.accuracy:.1f} %"
        read = f"read right for {share} of {self.masks} masks ({self.classes} classes)"
        above = f"{100 * (self.accuracy - self.chance):.1f} points"
        if not self.gives_away():
            return f"No sign that the masks give the class away: {read}, {above} from chance."
        adds = f"{100 * self.shape_adds:.1f} +- {100 * self.shape_standard_error:.1f} points"
        shape = (
            f"Their shape adds {adds} to what size and position say."
            if self.shape_gives_away()
            else f"It is their size and position that do; their shape adds nothing sure ({adds})."
        )
        return f"The masks give the class away: {read}, {above} above chance. {shape}"

    def __str__(self) -> str:
        rows = [
            ("nothing", self.chance, None),
            ("boxes", self.box_accuracy, self.box_standard_error),
            ("masks", self.accuracy, self.standard_error),
        ]
        lines = [
            f"{name:<15} {100 * value:>6.1f} %"
            + ("" if error is None else f" +- {100 * error:.1f}")
            for name, value, error in rows
        ]
        return "\n".join(["read from       accuracy", *lines, self.sentence()])
