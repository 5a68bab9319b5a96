"""The study's tables: mean and spread over seeds, and each row against the first."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from captum_masking.recipes import ROWS
from captum_masking.study.claims import judge_claims
from captum_masking.study.statistics import Array, difference

#: The row that all others are compared with.
REFERENCE = "frozen"

#: What a run's scores are called in the table; all are given in points of a hundred.
COLUMNS = {
    "error": "LE",
    "box_iou": "box IoU",
    "max_box_acc_v2": "MaxBoxAccV2",
    "f1": "F1",
    "area": "area",
    "masked_in": "masked-in acc",
    "masked_out": "masked-out acc",
    "clean_before": "acc before",
    "clean": "acc after",
}

CLAIM_TITLES = ["claim", "rows", "gain in LE", "by LE", "gain in box IoU", "by box IoU"]

Runs = dict[str, list[dict[str, Any]]]
Lines = list[dict[str, Any]]
Claims = list[list[str]]


def read_runs(folder: Path) -> Runs:
    """Read the runs of a study, by row in the order of `ROWS`, each sorted by seed.

    Source:
        Own.
    """
    files = (folder / "runs").glob("*.json")
    contents = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    runs: Runs = {}
    for content in sorted(contents, key=lambda content: content["seed"]):
        runs.setdefault(content["row"], []).append(content)
    known = [name for name in ROWS if name in runs]
    return {name: runs[name] for name in [*known, *(n for n in runs if n not in ROWS)]}


def points(runs: Sequence[dict[str, Any]], column: str) -> Array:
    """Collect a column as ``(seeds, images)`` in points of a hundred; one image if pooled.

    Example:
        >>> points([{"error": [1, 0]}, {"error": [0, 0]}], "error").tolist()
        [[100.0, 0.0], [0.0, 0.0]]
    """
    return 100 * np.array([np.atleast_1d(run[column]) for run in runs], dtype=np.float64)


def summarize(runs: Runs) -> Lines:
    """Reduce runs to one line a row.

    Args:
        runs: Of `read_runs`.

    Returns:
        For each row its name, seeds, images trained on, mean and standard deviation over seeds of
        each of `COLUMNS` (None for one seed), and LE and box IoU against the reference with their
        intervals.

    Source:
        Own.
    """
    lines = []
    for name, row in runs.items():
        line: dict[str, Any] = {"row": name, "seeds": len(row), "images": row[0]["images"]}
        for column in COLUMNS:
            means = points(row, column).mean(1)
            line[column] = float(means.mean())
            line[f"{column}_std"] = float(means.std(ddof=1)) if len(row) > 1 else None
        for column in ("error", "box_iou"):
            if REFERENCE in runs and name != REFERENCE:
                gap = difference(points(row, column), points(runs[REFERENCE], column))
                line[f"{column}_against"] = [round(value, 3) for value in gap]
        lines.append(line)
    return lines


def markdown(lines: Lines, claims: Claims, facts: dict[str, Any]) -> str:
    """Lay out a study as Markdown: facts, table, claims.

    Args:
        lines: Of `summarize`.
        claims: Of `claim_lines`; may be empty.
        facts: Printed first, one a line.

    Source:
        Own.
    """
    header = ["row", "seeds", "images", *COLUMNS.values(), f"LE - {REFERENCE}'s", "IoU - its"]
    parts = ["\n".join(f"- {name}: {value}" for name, value in facts.items())]
    parts += [
        "Points of a hundred, mean ± standard deviation over seeds; differences with a 95 % "
        "interval (paired bootstrap over images and seeds; where a row has one seed, over images "
        "alone). LE: lower is better. Accuracies are the model's own classifier's, with holes in "
        "the mean colour.",
        _table(header, [_cells(line) for line in lines]),
    ]
    if claims:
        parts += ["Gains are positive where the first row is better.", _table(CLAIM_TITLES, claims)]
    return "\n\n".join(parts) + "\n"


def claim_lines(runs: Runs) -> Claims:
    """Hold every claim whose rows were run against their runs.

    Args:
        runs: Of `read_runs`.

    Returns:
        One list of `CLAIM_TITLES` a claim.

    Source:
        Own.
    """
    errors = {name: points(row, "error") for name, row in runs.items()}
    ious = {name: points(row, "box_iou") for name, row in runs.items()}
    return judge_claims(errors, ious)


def write_csvs(lines: Lines, claims: Claims, folder: Path) -> None:
    """Write ``table.csv``, with all numbers, and ``claims.csv``.

    Args:
        lines: Of `summarize`.
        claims: Of `claim_lines`.
        folder: Exists.

    Source:
        Own.
    """
    lines = [
        {
            name: round(value, 3) if isinstance(value, float) else value
            for name, value in row.items()
        }
        for row in lines
    ]
    names = list(dict.fromkeys(name for line in lines for name in line))
    rows = [["" if line.get(n) is None else str(line[n]) for n in names] for line in lines]
    _write_csv(folder / "table.csv", [names, *rows])
    _write_csv(folder / "claims.csv", [CLAIM_TITLES, *claims])


def _write_csv(file: Path, rows: Sequence[Sequence[str]]) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)


def _cells(line: dict[str, Any]) -> list[str]:
    spread = [
        f"{line[c]:.1f}" + (f" ± {line[f'{c}_std']:.1f}" if line["seeds"] > 1 else "")
        for c in COLUMNS
    ]
    against = [
        "{:+.1f} [{:+.1f}, {:+.1f}]".format(*line[f"{c}_against"]) if f"{c}_against" in line else ""
        for c in ("error", "box_iou")
    ]
    return [line["row"], str(line["seeds"]), str(line["images"]), *spread, *against]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
