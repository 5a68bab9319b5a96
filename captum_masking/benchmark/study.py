"""What a few hundred images and a few seeds can tell: paired bootstrap over both."""

from __future__ import annotations

import copy
import csv
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler

from captum_masking._base.borrow import eval_mode
from captum_masking.data.images import BoxedImages
from captum_masking.data.subsets import few_shot, of_classes
from captum_masking.metrics.boxes import best_box_iou, boxes_to_pixels
from captum_masking.metrics.localization import f1, localization_error
from captum_masking.metrics.thresholds import MaxBoxAccV2
from captum_masking.model.model import MaskingModel
from captum_masking.parts.infill import Mean
from captum_masking.recipes import ROWS, Row, Setting
from captum_masking.training.records import judge_itself

Array = np.ndarray[Any, np.dtype[Any]]


class Difference(NamedTuple):
    """The mean of one row minus that of another, on the same images, with a 95 % interval.

    Source:
        Own.
    """

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"


def difference(one: Array, other: Array, *, resamples: int = 4000, seed: int = 0) -> Difference:
    """Compare two rows on the same images by bootstrap.

    Each resample draws images with replacement, the same for both rows, and seeds with
    replacement: the same for both where there are as many, since a seed decides the first weights,
    the order of images and which few are chosen alike for both; otherwise for each row its own.

    Args:
        one: ``(seeds, images)``, sorted by seed.
        other: ``(seeds, images)``, the same images; the number of seeds may differ.
        resamples: How many.
        seed: Of the resampling.

    Returns:
        ``mean(one) - mean(other)`` with its 2.5th and 97.5th percentile, in the units given.

    Raises:
        ValueError: If the rows were not scored on the same number of images.

    Source:
        Efron & Tibshirani 1993, percentile interval. With three seeds the spread between seeds is
        known roughly only, and the interval is, if anything, too narrow.

    Example:
        >>> one, other = np.ones((2, 50)), np.zeros((3, 50))
        >>> difference(one, other)
        Difference(mean=1.0, low=1.0, high=1.0)
    """
    if one.shape[1] != other.shape[1]:
        raise ValueError(
            f"rows must be scored on the same images to be compared, but got {one.shape[1]} and "
            f"{other.shape[1]}; run the study again into a new folder."
        )
    random = np.random.default_rng(seed)
    means = np.array([_resample(one, other, random) for _ in range(resamples)])
    low, high = np.percentile(means, [2.5, 97.5])
    return Difference(float(one.mean() - other.mean()), float(low), float(high))


def _resample(one: Array, other: Array, random: np.random.Generator) -> float:
    images = random.integers(one.shape[1], size=one.shape[1])
    seeds = random.integers(len(one), size=len(one))
    others = seeds if len(one) == len(other) else random.integers(len(other), size=len(other))
    return float(one[seeds][:, images].mean() - other[others][:, images].mean())


# ---- The paper's claims, each held against the rows that carry it: confirmed, refuted, undecided.


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


# ---- The study's tables: mean and spread over seeds, and each row against the first.

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


# ---- The study in two pictures: every row's error with its spread, and error against images.


def draw_rows(runs: Runs, file: Path) -> None:
    """Draw the localization error of each row: a dot a seed, a bar for their mean.

    Args:
        runs: Of :func:`~captum_masking.benchmark.study.read_runs`.
        file: A PNG file.

    Source:
        Own.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1.2 + 0.28 * len(runs)), layout="constrained")
    axes = figure.add_subplot()
    for height, row in enumerate(runs.values()):
        errors = points(row, "error").mean(1)
        axes.plot(errors, np.full(len(errors), height), "o", color="tab:blue", alpha=0.5)
        axes.plot([errors.mean()], [height], "|", color="black", markersize=14)
    if REFERENCE in runs:
        axes.axvline(points(runs[REFERENCE], "error").mean(), color="gray", linestyle=":")
    axes.set_yticks(range(len(runs)), list(runs))
    axes.invert_yaxis()
    axes.set_xlabel("localization error, %  (a dot a seed; lower is better)")
    figure.savefig(file, dpi=120)


def draw_few_shot(runs: Runs, file: Path) -> bool:
    """Draw localization error against images a class, frozen and joint.

    Args:
        runs: Of :func:`~captum_masking.benchmark.study.read_runs`.
        file: A PNG file.

    Returns:
        Whether there was a curve to draw.

    Source:
        Own; the curve is one of Phang et al. 2020.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    drawn = [
        _curve(axes, runs, full, prefix)
        for full, prefix in (("frozen", "few-shot-"), ("joint", "joint-few-shot-"))
    ]
    if not any(drawn):
        return False
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("training images")
    axes.set_ylabel("localization error, %")
    axes.legend()
    figure.savefig(file, dpi=120)
    return True


def _curve(axes: object, runs: Runs, full: str, prefix: str) -> bool:
    names = [name for name in runs if name.startswith(prefix)]
    rows = sorted(
        (runs[name] for name in [*names, *([full] if full in runs else [])]),
        key=lambda row: row[0]["images"],
    )
    if not names or len(rows) < 2:
        return False
    counts = [row[0]["images"] for row in rows]
    errors = [points(row, "error").mean(1) for row in rows]
    means = np.array([e.mean() for e in errors])
    spread = np.array([e.std(ddof=1) if len(e) > 1 else 0.0 for e in errors])
    axes.errorbar(counts, means, spread, marker="o", capsize=3, label=full)  # type: ignore[attr-defined]
    return True


# ---- One run of the study: a row and a seed in, the scores of every validation image out.

#: Scores by name: one number an image, or one for all.
Scores = dict[str, Any]


@dataclass
class Study:
    """What all runs share: the classifier, the images and the length of a training.

    Args:
        classifier: Copied for each run.
        images: To train on; items ``(image, label)`` and an attribute ``labels``.
        validation: To score on; every picture has a box.
        layers: The modules that maskers read; None finds the two deepest maps.
        stages: One module for each resolution, finest first; None finds five.
        epochs: Passes over all images; rows with fewer images take as many steps.
        batch_size: Of training and scoring.
        workers: Loader processes.

    Source:
        Own.
    """

    classifier: nn.Module
    images: Dataset[Any]
    validation: BoxedImages
    layers: Sequence[str] | None = None
    stages: Sequence[str] | None = None
    epochs: int = 2
    batch_size: int = 16
    workers: int = 0
    before: Tensor = field(init=False)

    def __post_init__(self) -> None:
        with eval_mode(self.classifier), torch.no_grad():
            logits = [self.classifier(inputs) for inputs, _ in self._loader(self.validation)]
        self.before = torch.cat(logits).argmax(1) == torch.tensor(self.validation.labels)
        self.classes = logits[0].shape[1]

    def run(self, row: Row, seed: int, *, show_progress: bool = True) -> Scores:
        """Train one row from one seed, and score it.

        Args:
            row: Of ``captum_masking.recipes.ROWS``.
            seed: Of the masker's first weights, the choice of images, their order and crops.
            show_progress: Whether to show a bar an epoch.

        Returns:
            The scores of `score`, the classifier's accuracy before training, the recipe as
            text, and the seconds it took.

        Source:
            Own.
        """
        started = time.perf_counter()
        torch.manual_seed(seed)
        images = self.choose(row, seed)
        loader = self._training_loader(images)
        classifier = copy.deepcopy(self.classifier)
        trainer = row.build(
            Setting(classifier, loader, images.labels, self.classes, self.layers, self.stages)
        )
        trainer.fit(loader, self.epochs, show_progress=show_progress)
        return {
            **score(trainer.model, self.validation, batch_size=self.batch_size),
            "clean_before": self.before.int().tolist(),
            "images": len(images),
            "recipe": repr(trainer),
            "seconds": round(time.perf_counter() - started, 1),
        }

    def choose(self, row: Row, seed: int) -> Any:
        """Take the images that a row is given; they bring their labels.

        Raises:
            ValueError: If there are not as many.
        """
        images: Any = self.images
        if row.class_step > 1:
            images = of_classes(images, sorted(set(images.labels))[:: row.class_step])
        if row.per_class is not None:
            images = few_shot(images, row.per_class, seed=seed)
        return images

    def _training_loader(self, images: Any) -> DataLoader:
        """Give as many images an epoch as there are in the whole set, however few these are."""
        sampler = RandomSampler(images, num_samples=len(self.images))  # type: ignore[arg-type]
        return self._loader(images, sampler=sampler, drop_last=len(sampler) > self.batch_size)

    def _loader(self, images: Any, **options: Any) -> DataLoader:
        return DataLoader(images, self.batch_size, num_workers=self.workers, **options)


@torch.no_grad()
def score(model: MaskingModel, images: BoxedImages, *, batch_size: int = 16) -> Scores:
    """Score a model's masks against boxes, and by its own classifier with holes in mean colour.

    Args:
        model: Trained.
        images: Every picture has a box.
        batch_size: Images at a time.

    Returns:
        One number an image: ``error`` (LE), ``box_iou``, ``f1``, ``area``, ``clean``,
        ``masked_in`` and ``masked_out`` (1 where recognised). One for all: ``max_box_acc_v2``.

    Source:
        Phang et al. 2020; the two IoU measures, Choe et al. 2020.
    """
    pooled = MaxBoxAccV2()
    columns: dict[str, list[Tensor]] = {}
    boxes = iter(images.boxes)
    with eval_mode(model):
        for inputs, target in DataLoader(images, batch_size):
            judgement, mask = judge_itself(model, inputs, target, Mean())
            truth = [boxes_to_pixels(next(boxes), *mask.shape[2:]) for _ in inputs]
            pooled.update(mask, truth)
            scores = {
                "error": localization_error(mask, truth),
                "box_iou": best_box_iou(mask, truth),
                "f1": f1(mask, truth),
                "area": mask.flatten(1).mean(1),
                "clean": judgement.correct,
                "masked_in": judgement.correct_in,
                "masked_out": judgement.correct_out,
            }
            for name, values in scores.items():
                columns.setdefault(name, []).append(values.float())
    listed = {n: [round(v, 4) for v in torch.cat(c).tolist()] for n, c in columns.items()}
    return {**listed, "max_box_acc_v2": round(float(pooled.compute()), 4)}


def file_of(folder: Path, name: str, seed: int) -> Path:
    """Say where a run's scores are kept."""
    return folder / "runs" / f"{name}-{seed}.json"
