"""The study of the paper's ingredients: run rows and seeds, and test the paper's claims."""

from __future__ import annotations

import copy
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
from captum_masking._base.captum import as_class_logits
from captum_masking._base.files import write_json, write_text
from captum_masking.benchmark.measures import by_boxes, draw, interval
from captum_masking.benchmark.report import signed
from captum_masking.benchmark.result import Array, Column, Interval, needed
from captum_masking.data.images import BoxedImages
from captum_masking.data.subsets import few_shot, of_classes
from captum_masking.metrics.boxes import boxes_to_pixels
from captum_masking.metrics.classifier import logits_of
from captum_masking.model.model import MaskingModel
from captum_masking.parts.infill import Mean
from captum_masking.recipes import ROWS, Row, Setting
from captum_masking.training.records import judge_itself

# ---- One run: from a row and a seed to the scores of every validation image.

#: Scores by name: one number per image, or one for all.
Scores = dict[str, Any]


@dataclass
class Study:
    """What all runs share: the classifier, the images and the length of a training.

    ``layers`` and ``stages`` are the modules that maskers read; None finds them. Rows that use
    fewer images take as many steps per epoch. Masks are held at one of ``areas``, if given. Of
    several, each run keeps the one with the lowest error on every second validation image, and
    reports the other images.
    """

    classifier: nn.Module
    images: Dataset[Any]
    validation: BoxedImages
    layers: Sequence[str] | None = None
    stages: Sequence[str] | None = None
    epochs: int = 2
    batch_size: int = 16
    workers: int = 0
    areas: Sequence[float] = ()
    before: Tensor = field(init=False)

    def __post_init__(self) -> None:
        batches = (inputs for inputs, _ in self._loader(self.validation))
        logits = as_class_logits(logits_of(self.classifier, batches))
        self.before = logits.argmax(1) == torch.tensor(self.validation.labels)
        self.classes = logits.shape[1]

    @property
    def reported(self) -> slice:
        """Return the validation images that no area was chosen on."""
        return slice(None, None, 2 if len(self.areas) > 1 else 1)

    def run(self, row: Row, seed: int, *, show_progress: bool = True) -> Scores:
        """Train one row of ``recipes.ROWS`` from one seed, and score it."""
        started = time.perf_counter()
        tried = [self._try(row, seed, area, show_progress) for area in self.areas or (None,)]
        columns, facts = min(tried, key=lambda found: float(found[0]["error"][1::2].mean()))
        return {
            **listed(columns, self.reported),
            "clean_before": self.before[self.reported].int().tolist(),
            **facts,
            "seconds": round(time.perf_counter() - started, 1),
        }

    def _try(self, row: Row, seed: int, area: float | None, bar: bool) -> tuple[Scores, Scores]:
        torch.manual_seed(seed)
        images = self.choose(row, seed)
        sampler = RandomSampler(images, num_samples=len(self.images))  # type: ignore[arg-type]
        whole = len(sampler) > self.batch_size
        loader = self._loader(images, sampler=sampler, drop_last=whole)
        classifier = copy.deepcopy(self.classifier)
        read = self.layers, self.stages
        trainer = row.build(Setting(classifier, loader, images.labels, self.classes, *read, area))
        trainer.fit(loader, self.epochs, show_progress=bar, check_accuracy=False)
        columns = score(trainer.model, self.validation, batch_size=self.batch_size)
        return columns, {"images": len(images), "area_held": area, "recipe": repr(trainer)}

    def choose(self, row: Row, seed: int) -> Any:
        images: Any = self.images
        if row.class_step > 1:
            images = of_classes(images, sorted(set(images.labels))[:: row.class_step])
        if row.per_class is not None:
            images = few_shot(images, row.per_class, seed=seed)
        return images

    def _loader(self, images: Any, **options: Any) -> DataLoader:
        return DataLoader(images, self.batch_size, num_workers=self.workers, **options)


@torch.no_grad()
def score(model: MaskingModel, images: BoxedImages, *, batch_size: int = 16) -> dict[str, Tensor]:
    columns: dict[str, list[Tensor]] = {}
    boxes = iter(images.boxes)
    with eval_mode(model):
        for inputs, target in DataLoader(images, batch_size):
            judgement, (mask,) = judge_itself(model, (inputs,), target, Mean())
            truth = [boxes_to_pixels(next(boxes), *mask.shape[2:]) for _ in inputs]
            found = by_boxes(mask, truth, judgement.correct)
            scores = {
                **{name: found[name] for name in ("error", "box_iou", "f1", "found_v2")},
                "area": mask.flatten(1).mean(1),
                "clean": judgement.correct,
                "masked_in": judgement.correct_in,
                "masked_out": judgement.correct_out,
            }
            for name, values in scores.items():
                columns.setdefault(name, []).append(values.float())
    return {name: torch.cat(parts) for name, parts in columns.items()}


def listed(columns: Mapping[str, Tensor], rows: slice) -> Scores:
    pooled = columns["found_v2"][rows].double().mean(0)  # (levels, thresholds)
    others = {name: values[rows] for name, values in columns.items() if name != "found_v2"}
    numbers = {n: [round(v, 4) for v in values.tolist()] for n, values in others.items()}
    return {**numbers, "max_box_acc_v2": round(float(pooled.amax(1).mean()), 4)}


# ---- Differences: paired bootstrap over images and seeds.

_POINTS = Column("points", "points of a hundred", "Study", None)


def difference(one: Array, other: Array, *, resamples: int = 4000, seed: int = 0) -> Interval:
    """Compare rows ``(seeds, images)``, sorted by seed, by a paired bootstrap over both."""
    if one.shape[1] != other.shape[1]:
        raise ValueError(
            f"rows must be scored on the same images to be compared, but got {one.shape[1]} and "
            f"{other.shape[1]}; run the study again with a new folder."
        )
    images = draw(one.shape[1], resamples=resamples, seed=seed)
    # A seed sets initial weights and order in both rows, so seeds are drawn in pairs.
    if len(one) == len(other):
        return interval(_means(one - other, images, seed + 1))
    return interval(_means(one, images, seed + 1) - _means(other, images, seed + 2))


def _means(rows: Array, images: Array, seed: int) -> Array:
    """Return the mean of rows ``(seeds, images)`` for each draw of images and seeds."""
    seeds = draw(len(rows), resamples=len(images) - 1, seed=seed)
    return ((seeds @ rows) * images).sum(1) / rows.size


# ---- The paper's claims: confirmed, refuted or undecided.


class Claim(NamedTuple):
    """One row's localization error is lower than another's by an amount in a range."""

    text: str  # Phang et al. 2020, abstract
    row: str
    other: str
    low: float = -math.inf  # in points of error
    high: float = math.inf

    def verdict(self, gain: Interval) -> str:
        """Decide by the whole interval of the gain."""
        if self.low <= gain.low and gain.high <= self.high:
            return "confirmed"
        if gain.high <= self.low or self.high <= gain.low:
            return "refuted"
        return "undecided"


_PLAIN = {
    "gumbel-hard": "hard Gumbel-Softmax",
    "gumbel-soft": "soft Gumbel-Softmax",
    "infill-blur": "blur",
    "infill-noise": "noise",
    "infill-random-image": "another image",
    "infill-learned": "a learned infill",
}

CLAIMS = [
    Claim("1. both sides beat masked-in only", "frozen", "in-classification", low=0),
    Claim("1. both sides beat masked-out only", "frozen", "out-entropy", low=0),
    Claim("2. joint training beats frozen", "joint", "frozen", low=0),
    Claim("2. joint from the first step on beats frozen", "joint-throughout", "frozen", low=0),
    *(
        Claim(
            *(f"2. with {n} a class, joint beats frozen", f"joint-few-shot-{n}", f"few-shot-{n}"),
            low=0,
        )
        for n in (1, 10, 50)
    ),
    *(
        Claim(f"3. {name} does not beat the plain form", row, "frozen", high=0)
        for row, name in _PLAIN.items()
    ),
    Claim("4. 10 images a class cost at most 0.7", "few-shot-10", "frozen", low=-0.7),
    Claim("4. the same, joint", "joint-few-shot-10", "joint", low=-0.7),
]

CLAIM_TITLES = ["claim", "rows", "gain in LE", "by LE", "gain in box IoU", "by box IoU"]


def judge_claims(errors: Mapping[str, Array], ious: Mapping[str, Array]) -> list[list[str]]:
    lines = []
    for claim in CLAIMS:
        if claim.row in errors and claim.other in errors:
            line = [claim.text, f"{claim.row} / {claim.other}"]
            for gain in (
                difference(errors[claim.other], errors[claim.row]),
                difference(ious[claim.row], ious[claim.other]),
            ):
                line += [signed(gain, _POINTS), claim.verdict(gain)]
            lines.append(line)
    return lines


# ---- Tables: mean and spread over seeds, and each row against the reference.

#: The row that all others are compared with.
REFERENCE = "frozen"

#: Titles of a run's scores in the table; all are percentages.
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

_LEGEND = (
    "Points of a hundred, mean ± standard deviation over seeds; differences with a 95 % interval "
    "(paired bootstrap over images and seeds; where a row has one seed, over images alone). LE: "
    "lower is better. Accuracies are the model's own classifier's, with holes in the mean color."
)

Runs = dict[str, list[dict[str, Any]]]
Lines = list[dict[str, Any]]
Claims = list[list[str]]


def file_of(folder: Path, name: str, seed: int) -> Path:
    return folder / "runs" / f"{name}-{seed}.json"


def write_tables(folder: Path) -> str:
    frame = needed("pandas").DataFrame
    runs = read_runs(folder)
    if not runs:
        raise ValueError(f"{folder} holds no runs; choose some with --rows and --seeds.")
    lines = summarize(runs)
    errors, ious = ({n: points(r, key) for n, r in runs.items()} for key in ("error", "box_iou"))
    claims = judge_claims(errors, ious)
    facts = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    text = markdown(lines, claims, facts)
    write_text(folder / "table.md", text)
    write_text(folder / "table.csv", frame(lines).round(3).to_csv(index=False))
    write_text(folder / "claims.csv", frame(claims, columns=CLAIM_TITLES).to_csv(index=False))
    write_json(folder / "table.json", {"facts": facts, "rows": lines})
    draw_rows(runs, folder / "table.png")
    draw_few_shot(runs, folder / "few-shot.png")
    return text


def read_runs(folder: Path) -> Runs:
    files = (folder / "runs").glob("*.json")
    contents = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    runs: Runs = {}
    for content in sorted(contents, key=lambda content: content["seed"]):
        runs.setdefault(content["row"], []).append(content)
    known = [name for name in ROWS if name in runs]
    return {name: runs[name] for name in [*known, *(n for n in runs if n not in ROWS)]}


def points(runs: Sequence[dict[str, Any]], column: str) -> Array:
    return 100 * np.array([np.atleast_1d(run[column]) for run in runs], dtype=np.float64)


def summarize(runs: Runs) -> Lines:
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
                line[f"{column}_against"] = [round(v, 3) for v in (gap.mean, gap.low, gap.high)]
        lines.append(line)
    return lines


def markdown(lines: Lines, claims: Claims, facts: Mapping[str, Any]) -> str:
    header = ["row", "seeds", "images", *COLUMNS.values(), f"LE - {REFERENCE}'s", "IoU - its"]
    parts = ["\n".join(f"- {name}: {value}" for name, value in facts.items())]
    parts += [_LEGEND, _table(header, [_cells(line) for line in lines])]
    if claims:
        parts += ["Gains are positive where the first row is better.", _table(CLAIM_TITLES, claims)]
    return "\n\n".join(parts) + "\n"


def _cells(line: dict[str, Any]) -> list[str]:
    spread = [
        f"{line[c]:.1f}" + (f" ± {line[f'{c}_std']:.1f}" if line["seeds"] > 1 else "")
        for c in COLUMNS
    ]
    gaps = [line.get(f"{column}_against") for column in ("error", "box_iou")]
    against = [signed(Interval(*gap), _POINTS) if gap else "" for gap in gaps]
    return [line["row"], str(line["seeds"]), str(line["images"]), *spread, *against]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# ---- Two pictures: the error of every row and seed, and error against number of images.


def draw_rows(runs: Runs, file: Path) -> None:
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


def draw_few_shot(runs: Runs, file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for full in ("frozen", "joint"):
        few = "few-shot-" if full == "frozen" else f"{full}-few-shot-"
        names = [name for name in runs if name.startswith(few)]
        rows = [runs[name] for name in runs if name in (*names, full)]
        if names and len(rows) > 1:
            _draw_curve(axes, sorted(rows, key=lambda row: row[0]["images"]), full)
    if not axes.has_data():
        return
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("training images")
    axes.set_ylabel("localization error, %")
    axes.legend()
    figure.savefig(file, dpi=120)


def _draw_curve(axes: Any, rows: Sequence[list[dict[str, Any]]], label: str) -> None:
    errors = [points(row, "error").mean(1) for row in rows]
    spread = [error.std(ddof=1) if len(error) > 1 else 0.0 for error in errors]
    counts, means = [row[0]["images"] for row in rows], [error.mean() for error in errors]
    axes.errorbar(counts, means, spread, marker="o", capsize=3, label=label)
