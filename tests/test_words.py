"""Words and constructions that we do not use, each with what to write instead.

`make lint` checks the spelling with codespell, and clichés and the like with proselint. These are
phrases of our own that neither knows, and words that stand twice, which is fine in tables.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HERE = Path(__file__)
PLACES = ["*.md", "captum_masking/**/*.py", "docs/*.rst", "tutorials/*.py", "benchmarks/*.py"]

INSTEAD = {
    r"by lot": "at random",
    r"aloud": "with a warning",
    r"(is|are) (yours|the reader's|the user's) to say": "is your choice",
    r"may stand there": "can be given",
    r"whose word": "who decides",
    r"the word of": "what ... says",
    r"for nothing": "without cost, or trivially",
    r"rather than not": "preferably",
    r"in doubt": "when it is uncertain",
    r"is to hear of": "must be told of",
    r"so many (images|steps|epochs|points|times)": "N images",
    r"without a trace": "without changing ...",
    r"at its door": "when it is called",
    r"of its own accord": "automatically",
    r"(a|and|for|in|is|it|of|the|to) \1": "it once",
    r"by which the": "from which, or two sentences",
}


def prose() -> list[Path]:
    return sorted({file for place in PLACES for file in ROOT.glob(place)} - {HERE})


@pytest.mark.parametrize("phrase", INSTEAD)
def test_a_phrase_that_readers_stumble_over_is_not_used(phrase):
    found = []
    for file in prose():
        text = file.read_text(encoding="utf-8")
        for match in re.finditer(rf"\b{phrase}\b".replace(" ", r"\s+"), text, re.IGNORECASE):
            line = text.count("\n", 0, match.start()) + 1
            found.append(f"{file.relative_to(ROOT)}:{line}: {match[0]}")
    assert not found, f"write {INSTEAD[phrase]!r}: {found}"
