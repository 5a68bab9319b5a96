"""What the pictures share: the colors of families, and names that fit."""

from __future__ import annotations

import textwrap

from captum_masking.benchmark.markdown.reading import TRIVIAL
from captum_masking.benchmark.result import Result

#: Okabe & Ito's colors without black and yellow, told apart by color-blind readers too.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")


def family_colors(result: Result) -> dict[str, str]:
    """Give each family a color, the trivial one gray.

    Source:
        Own.

    Example:
        >>> from captum_masking.benchmark.result import Row
        >>> family_colors(Result([], [Row("a", "captum"), Row("frame", "trivial")], images=1))
        {'captum': '#0072B2', 'trivial': '#767676'}
    """
    families = dict.fromkeys(row.family for row in result.rows if row.family != TRIVIAL)
    colors = {name: COLORS[place % len(COLORS)] for place, name in enumerate(families)}
    return {**colors, TRIVIAL: "#767676"}


def fit(text: str, width: int) -> str:
    """Fit a text into two lines; dollars are no formulas."""
    first, *more = textwrap.wrap(text, width) or [""]
    second = " ".join(more)
    lines = [first, second if len(second) <= width else f"{second[: width - 1]}…"]
    return "\n".join(filter(None, lines)).replace("$", r"\$")
