"""Train and score the rows of the paper's study, and write its tables after each run."""

from __future__ import annotations

import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import captum
import torch
from torch import Tensor, nn

from captum_masking._base.checks import check_recognized
from captum_masking._base.files import write_json
from captum_masking.benchmark.study import Study, file_of, write_tables
from captum_masking.cli.command import Options
from captum_masking.cli.evaluate import answers, as_asked, match_labels, reading
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


def run(options: Options) -> dict[str, Any]:
    """Run what has not been run, write the tables after each run, and return the last."""
    rows = select(options.rows)
    study = _study(options, *load_classifier(options.classifier, image_size=options.image_size))
    rows = _possible(rows, study)
    _check_same_setting(options.out, _facts(options, study))
    left = [
        (name, seed)
        for seed in range(options.seeds)  # a whole table of one seed before the second
        for name in rows
        if not file_of(options.out, name, seed).exists()
    ]
    print(f"{len(rows)} rows, {options.seeds} seeds: {len(left)} runs to do", file=sys.stderr)
    failures, started = [], time.monotonic()
    for done, (name, seed) in enumerate(left):
        file = file_of(options.out, name, seed)
        if file.exists():
            continue  # another command ran it meanwhile
        minutes = (time.monotonic() - started) / max(done, 1) * (len(left) - done) / 60
        about = f" (about {minutes:.0f} min left)" if done else ""
        print(f"[{done + 1}/{len(left)}] {name}, seed {seed}{about}", file=sys.stderr)
        try:
            write_json(file, {"row": name, "seed": seed, **study.run(rows[name], seed)})
        except (ValueError, RuntimeError) as error:  # go on with the other rows
            failures.append(f"{name}, seed {seed}: {error}")
            print(f"captum-masking: warning: {failures[-1]}", file=sys.stderr)
        else:
            write_tables(options.out)
    print(write_tables(options.out))
    if failures:
        raise RuntimeError(f"{len(failures)} runs failed; repeat the command to retry: {failures}")
    found: dict[str, Any] = json.loads((options.out / "table.json").read_text(encoding="utf-8"))
    return found


def _possible(rows: dict[str, Row], study: Study) -> dict[str, Row]:
    """Leave out the rows that need more images than there are."""
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


def _study(options: Options, classifier: nn.Module, preprocess: Preprocess) -> Study:
    preprocess = as_asked(options, preprocess)
    images = BoxedImages(options.data, transform=preprocess.augmented, **reading(preprocess))
    validation = BoxedImages(
        options.val, transform=preprocess, require_boxes=True, **reading(preprocess)
    )
    preprocess = match_labels(images, classifier, preprocess)
    match_labels(validation, classifier, preprocess)
    if not options.untrained:
        check_recognized(answers(classifier, validation, options.batch_size))
    return Study(
        classifier,
        images,
        validation,
        epochs=options.epochs,
        batch_size=options.batch_size,
        workers=options.workers,
        areas=options.area,
    )


def _facts(options: Options, study: Study) -> dict[str, Any]:
    """List what all runs of a folder must share, and the versions of libraries."""
    side = study.validation.transform.image_size  # type: ignore[union-attr]  # a Preprocess
    truth = [boxes_to_pixels(b, side, side) for b in study.validation.boxes[study.reported]]
    return {
        "data": "/".join(options.data.parts[-2:]),
        "validation": "/".join(options.val.parts[-2:]),
        "validation images": len(truth),
        "whole frame": _trivial(whole_frame(side, side), truth),
        "centered square": _trivial(centered_square(side, side), truth),
        "classifier": options.classifier,
        "label column": options.label_column,
        "range": None if options.range is None else list(options.range),
        "epochs": options.epochs,
        "areas": list(options.area) or None,
        "image size": side,
        "batch size": options.batch_size,
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"captum {captum.__version__}",
    }


def _trivial(box: Tensor, truth: list[Tensor]) -> str:
    error = localization_error_of_boxes(box, truth).mean()
    iou = best_box_iou_of_boxes(box, truth).mean()
    return f"LE {100 * error:.1f}, box IoU {100 * iou:.1f}"


def _check_same_setting(out: Path, facts: dict[str, Any]) -> None:
    """Raise an error instead of mixing runs of different settings in one table."""
    file = out / "study.json"
    if not file.exists():
        write_json(file, facts)
        return
    before = json.loads(file.read_text(encoding="utf-8"))
    for name in facts:
        if name != "versions" and before.get(name) != facts[name]:
            raise ValueError(
                f"{out} holds runs with {name} {before.get(name)}, but got {facts[name]}; use "
                "the same, or another --out."
            )
