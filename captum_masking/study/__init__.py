"""Every row of the paper's study trained and scored alike, and what the figures can tell."""

from captum_masking.study.claims import CLAIMS, Claim, judge_claims
from captum_masking.study.pictures import draw_few_shot, draw_rows
from captum_masking.study.run import Study, score
from captum_masking.study.statistics import Difference, difference
from captum_masking.study.summary import markdown, read_runs, summarize

__all__ = [
    "CLAIMS",
    "Claim",
    "Difference",
    "Study",
    "difference",
    "draw_few_shot",
    "draw_rows",
    "judge_claims",
    "markdown",
    "read_runs",
    "score",
    "summarize",
]
