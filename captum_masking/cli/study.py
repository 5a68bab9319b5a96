"""Train and score every row of the paper's study on your own pictures, and say what holds.

--data is a CSV with columns file,label or a folder per class, as for train; --val is a CSV with
boxes, as for evaluate. Run again, it goes on where it stopped, and rows may be added; two
commands may share one --out if their --rows differ. The table, its CSV and the pictures are
written again after each run.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import captum
import torch
from torch import Tensor, nn

from captum_masking._base.files import write_json
from captum_masking.benchmark.study import Study, file_of, write_tables
from captum_masking.cli.options import check_counts
from captum_masking.cli.pictures import match_labels
from captum_masking.data.images import BoxedImages
from captum_masking.metrics.boxes import (
    best_box_iou_of_boxes,
    boxes_to_pixels,
    centered_square,
    whole_frame,
)
from captum_masking.metrics.localization import localization_error_of_boxes
from captum_masking.recipes import Row, select
from captum_masking.zoo import Preprocess, load_classifier


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--data", required=True, type=Path, metavar="CSV", help="to train on")
    parser.add_argument("--val", required=True, type=Path, metavar="CSV", help="boxes to score on")
    parser.add_argument("--classifier", required=True, metavar="SPEC", help="as for train")
    parser.add_argument(
        "--rows",
        default="all",
        metavar="NAMES",
        help="all (default), or names with commas between them; * stands for anything",
    )
    parser.add_argument("--seeds", type=int, default=1, metavar="K", help="runs a row; default: 1")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="for the results")
    parser.add_argument("--epochs", type=int, default=2, metavar="N", help="default: 2")
    parser.add_argument("--image-size", type=int, metavar="N", help="side in pixels; default: 224")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="default: 16")
    parser.add_argument(
        "--label-column", default="label", metavar="NAME", help="of both CSVs; default: label"
    )
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="loader processes")
    parser.add_argument(
        "--json", action="store_true", help="print what table.json holds, not the table"
    )


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run what has not been run, and write the tables after each run; return the last."""
    rows = select(arguments.rows)
    check_counts(arguments, "seeds", "epochs", "batch_size")
    study = _study(
        arguments, *load_classifier(arguments.classifier, image_size=arguments.image_size)
    )
    rows = _possible(rows, study)
    _check_same_setting(arguments.out, _facts(arguments, study.validation))
    left = [
        (name, seed)
        for seed in range(arguments.seeds)  # a whole table of one seed before the second
        for name in rows
        if not file_of(arguments.out, name, seed).exists()
    ]
    print(f"{len(rows)} rows, {arguments.seeds} seeds: {len(left)} runs to do", file=sys.stderr)
    failures, started = [], time.monotonic()
    for done, (name, seed) in enumerate(left):
        file = file_of(arguments.out, name, seed)
        if file.exists():
            continue  # by another command, in the meantime
        left_over = _left(started, done, len(left))
        print(f"[{done + 1}/{len(left)}] {name}, seed {seed}{left_over}", file=sys.stderr)
        try:
            write_json(file, {"row": name, "seed": seed, **study.run(rows[name], seed)})
        except (ValueError, RuntimeError) as error:  # the other rows are still worth having
            failures.append(f"{name}, seed {seed}: {error}")
            print(f"captum-masking: warning: {failures[-1]}", file=sys.stderr)
        else:
            write_tables(arguments.out)
    print(write_tables(arguments.out))
    if failures:
        raise RuntimeError(f"{len(failures)} runs failed, run again to repeat: {failures}")
    found: dict[str, Any] = json.loads((arguments.out / "table.json").read_text(encoding="utf-8"))
    return found


def _possible(rows: dict[str, Row], study: Study) -> dict[str, Row]:
    """Leave out, aloud, the rows that ask for more images than there are."""
    kept, reason = {}, ""
    for name, row in rows.items():
        try:
            study.choose(row, seed=0)
            kept[name] = row
        except ValueError as error:
            reason = f"{name} is left out: {error}"
            print(f"captum-masking: warning: {reason}", file=sys.stderr)
    if not kept:
        raise ValueError(f"no row can be run; {reason}")
    return kept


def _study(arguments: argparse.Namespace, classifier: nn.Module, preprocess: Preprocess) -> Study:
    column = arguments.label_column
    images = BoxedImages(arguments.data, label_column=column, transform=preprocess.augmented)
    validation = BoxedImages(
        arguments.val, label_column=column, transform=preprocess, require_boxes=True
    )
    preprocess = match_labels(images, classifier, preprocess, arguments.data)
    match_labels(validation, classifier, preprocess, arguments.val)
    return Study(
        classifier,
        images,
        validation,
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        workers=arguments.workers,
    )


def _facts(arguments: argparse.Namespace, validation: BoxedImages) -> dict[str, Any]:
    """List what must be the same for all runs of a folder, and the versions they ran with."""
    side = arguments.image_size or 224
    return {
        "data": "/".join(arguments.data.parts[-2:]),
        "validation": "/".join(arguments.val.parts[-2:]),
        "validation images": len(validation),
        "whole frame": _trivial(whole_frame(side, side), validation, side),
        "centred square": _trivial(centered_square(side, side), validation, side),
        "classifier": arguments.classifier,
        "label column": arguments.label_column,
        "epochs": arguments.epochs,
        "image size": side,
        "batch size": arguments.batch_size,
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"captum {captum.__version__}",
    }


def _trivial(box: Tensor, images: BoxedImages, side: int) -> str:
    """Score one box for all images, which needs no model: what every row has to beat."""
    truth = [boxes_to_pixels(boxes, side, side) for boxes in images.boxes]
    error = localization_error_of_boxes(box, truth).mean()
    iou = best_box_iou_of_boxes(box, truth).mean()
    return f"LE {100 * error:.1f}, box IoU {100 * iou:.1f}"


def _check_same_setting(out: Path, facts: dict[str, Any]) -> None:
    """Refuse to mix runs of two settings in one table."""
    file = out / "study.json"
    if not file.exists():
        write_json(file, facts)
        return
    before = json.loads(file.read_text(encoding="utf-8"))
    for name in facts:
        if name != "versions" and before.get(name) != facts[name]:
            raise ValueError(
                f"{out} holds runs with {name} {before.get(name)}, but got {facts[name]}; give "
                "the same, or another --out."
            )


def _left(started: float, done: int, total: int) -> str:
    if not done:
        return ""
    minutes = (time.monotonic() - started) / done * (total - done) / 60
    return f" (about {minutes:.0f} min left)"
