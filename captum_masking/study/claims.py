"""The paper's claims, each held against the rows that carry it: confirmed, refuted, undecided."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from captum_masking.study.statistics import Array, Difference, difference


class Claim(NamedTuple):
    """That one row's localization error lies below another's by an amount within a range.

    Attributes:
        text: What is claimed.
        row: The one it is claimed of.
        other: The one it is compared with.
        low: The claim holds for gains above this, in points of error.
        high: And up to this.

    Source:
        Phang et al. 2020, abstract.
    """

    text: str
    row: str
    other: str
    low: float = -math.inf
    high: float = math.inf

    def verdict(self, gain: Difference) -> str:
        """Say what the interval of a gain says of the claim."""
        if self.low <= gain.low and gain.high <= self.high:
            return "confirmed"
        if gain.high <= self.low or self.high <= gain.low:
            return "refuted"
        return "undecided"


def _beats(text: str, row: str, other: str) -> Claim:
    return Claim(text, row, other, low=0.0)


def _does_not_beat(text: str, row: str, other: str) -> Claim:
    return Claim(text, row, other, high=0.0)


_PLAIN = {
    "gumbel-hard": "hard Gumbel-Softmax",
    "gumbel-soft": "soft Gumbel-Softmax",
    "infill-blur": "blur",
    "infill-noise": "noise",
    "infill-random-image": "another image",
    "infill-learned": "a learned infill",
}

CLAIMS = [
    _beats("1. both sides beat masked-in only", "frozen", "in-classification"),
    _beats("1. both sides beat masked-out only", "frozen", "out-entropy"),
    _beats("2. joint training beats frozen", "joint", "frozen"),
    _beats("2. joint from the first step on beats frozen", "joint-throughout", "frozen"),
    *(
        _beats(f"2. with {n} a class, joint beats frozen", f"joint-few-shot-{n}", f"few-shot-{n}")
        for n in (1, 10, 50)
    ),
    *(
        _does_not_beat(f"3. {name} does not beat the plain form", row, "frozen")
        for row, name in _PLAIN.items()
    ),
    Claim("4. 10 images a class cost at most 0.7", "few-shot-10", "frozen", low=-0.7),
    Claim("4. the same, joint", "joint-few-shot-10", "joint", low=-0.7),
]


def judge_claims(errors: Mapping[str, Array], ious: Mapping[str, Array]) -> list[list[str]]:
    """Hold every claim whose rows were run against what they gave.

    Args:
        errors: By row, ``(seeds, images)``, in points.
        ious: Likewise, of the boxes' IoU: the finer measure.

    Returns:
        One list a claim: text, rows, gain in LE with its interval, verdict, gain in IoU with its
        interval, verdict.

    Source:
        Own.

    Example:
        >>> import numpy as np
        >>> errors = {"joint": np.full((2, 9), 10.0), "frozen": np.full((2, 9), 30.0)}
        >>> judge_claims(errors, errors)[0][2:4]
        ['+20.0 [+20.0, +20.0]', 'confirmed']
    """
    lines = []
    for claim in CLAIMS:
        if claim.row in errors and claim.other in errors:
            error_gain = difference(errors[claim.other], errors[claim.row])
            iou_gain = difference(ious[claim.row], ious[claim.other])
            lines.append(
                [
                    claim.text,
                    f"{claim.row} / {claim.other}",
                    str(error_gain),
                    claim.verdict(error_gain),
                    str(iou_gain),
                    claim.verdict(iou_gain),
                ]
            )
    return lines
