"""Localization error of trained maskers beside Captum's methods, on the same images.

Each model is a folder written by ``captum-masking train``; the classifier of the first one is the
one that Captum's methods explain. Differences are paired: the standard error printed is that of
the difference to the centred square on the same images.

  python benchmarks/localization.py --data val.csv --label-column label1k \
      --model frozen=my-frozen-model --model joint=my-joint-model --json result.json
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path

import captum
import torch

import captum_masking
from captum_masking.cli.compare import Score, compare
from captum_masking.cli.evaluate import measure_model
from captum_masking.cli.load import load
from captum_masking.cli.memory import keep_freed_memory
from captum_masking.cli.table import table
from captum_masking.data import BoxedImages


def main() -> None:
    """Score, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="CSV with boxes")
    parser.add_argument("--label-column", default="label")
    parser.add_argument("--model", action="append", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--skip", action="append", default=[], metavar="METHOD")
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    keep_freed_memory()
    scores: list[Score] = []
    figures = {}
    for entry in arguments.model:
        name, _, folder = entry.partition("=")
        model, prepared = load(folder)
        images = BoxedImages(
            arguments.data, transform=prepared.read, label_column=arguments.label_column
        )
        figures[name] = measure_model(model, images)
        for score in compare(model, images, skip=arguments.skip):
            if score.name == "MaskingSaliency":
                scores.append(score._replace(name=f"MaskingSaliency, {name}"))
            elif len(figures) == 1:
                scores.append(score)
    square = next(score for score in scores if score.name == "centred square")
    print(f"{len(square.errors)} images of {arguments.data.parent.name}/{arguments.data.name}")
    print(describe(scores, square))
    for name, values in figures.items():
        print(f"{name}: classifier accuracy {100 * values['clean']:.2f} %")
    result = {
        "command": " ".join([Path(sys.argv[0]).name, *map(_name_only, sys.argv[1:])]),
        "versions": {
            "captum_masking": captum_masking.__version__,
            "captum": captum.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "images": len(square.errors),
        "localization_error": {score.name: float(score.errors.mean()) for score in scores},
        "forwards": {score.name: score.forwards for score in scores},
        "models": figures,
    }
    arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def describe(scores: list[Score], square: Score) -> str:
    """Lay out the scores as a table."""
    rows = []
    for score in scores:
        difference = score.errors - square.errors
        spread = difference.std() / len(difference) ** 0.5
        rows.append(
            [
                score.name,
                f"{100 * score.errors.mean():.1f} %",
                f"{100 * difference.mean():+.1f} ± {100 * spread:.1f}",
                f"{score.forwards:.1f}",
            ]
        )
    return table(["method", "LE", "minus centred square", "classifier forwards"], rows)


def _name_only(word: str) -> str:
    """Leave folders of this machine out of what is published."""
    name, equals, path = word.rpartition("=")
    return f"{name}{equals}{Path(path).name}" if "/" in path else word


if __name__ == "__main__":
    main()
