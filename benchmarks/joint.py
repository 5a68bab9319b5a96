"""Does a classifier that is trained along give better maps, and what becomes of it?

Classifiers of five convolutions are trained on the very images that their maskers learn from, until
they stop moving. Then each arm trains a masker, all for the same steps under the same learning
rates, with area weights steered to the same mean area of the masks: no weight is chosen by hand.

    python benchmarks/joint.py digits --json benchmarks/study/joint/digits.json
    python benchmarks/joint.py tiny20 --data $DATA/tiny20 --json benchmarks/study/joint/tiny20.json
    python benchmarks/joint.py table --json benchmarks/study/joint/digits.json

A run that the JSON holds is not run again. Rulers that decide were fixed before the first run:
PxAP (digits, whose pixels are known) or MaxBoxAccV2 (tiny20, boxes), and how often the classifier
from before still recognizes an image without its most salient pixels, as many of every map.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shared import keep_freed_memory
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from tqdm.auto import tqdm

from captum_masking import FineTune, MaskingModel, MaskingTrainer
from captum_masking._base.borrow import eval_mode
from captum_masking._base.rates import InParts, cosine
from captum_masking.benchmark.study import difference
from captum_masking.data import BoxedImages, DigitsOnTextures
from captum_masking.metrics import (
    boxes_to_pixels,
    calibration_error,
    masks_to_boxes,
    occluded_accuracy,
)
from captum_masking.metrics.boxes import exact_ious
from captum_masking.metrics.thresholds import (
    at_levels,
    average_precision,
    best_ious,
    pixel_histograms,
)
from captum_masking.parts.objective import Believe, Dual, Vanish, default_objective
from captum_masking.parts.pool import OneJudge
from captum_masking.parts.regularizer import Area, smooth
from captum_masking.training.classifier import harden
from captum_masking.zoo import small_classifier

Scores = dict[str, Any]

# ---- Images


@dataclass
class Images:
    """Pictures ``(N, 3, H, W)``, uint8, with labels, boxes in pixels and perhaps masks."""

    pixels: Tensor
    labels: Tensor
    boxes: list[Tensor]
    masks: Tensor | None = None
    augment: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def inputs(self) -> Tensor:
        """All of them, in [-1, 1]."""
        return self.pixels / 127.5 - 1

    def only(self, chosen: Tensor) -> Images:
        """Keep those that are chosen, ``(N,)`` bool."""
        rows = chosen.nonzero()[:, 0]
        boxes = [self.boxes[row] for row in rows]
        masks = None if self.masks is None else self.masks[rows]
        return Images(self.pixels[rows], self.labels[rows], boxes, masks)


@dataclass
class Batches:
    """So many batches in an order of their own, an epoch; flipped and moved where that is asked."""

    images: Images
    steps: int
    seed: int
    size: int = 16
    epoch: int = 0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        random = torch.Generator().manual_seed(1000 * self.seed + self.epoch)
        self.epoch += 1
        left = torch.empty(0, dtype=torch.long)
        for _ in range(self.steps):
            if len(left) < self.size:
                left = torch.cat([left, torch.randperm(len(self.images), generator=random)])
            rows, left = left[: self.size], left[self.size :]
            inputs = self.images.pixels[rows] / 127.5 - 1
            if self.images.augment:
                inputs = _moved(inputs, random)
            yield inputs, self.images.labels[rows]


def _moved(inputs: Tensor, random: torch.Generator, most_px: int = 4) -> Tensor:
    side = inputs.shape[-1]
    flips = torch.rand(len(inputs), generator=random) < 0.5
    inputs = torch.where(flips[:, None, None, None], inputs.flip(-1), inputs)
    padded = pad(inputs, [most_px] * 4, mode="reflect")
    corners = torch.randint(2 * most_px + 1, (len(inputs), 2), generator=random).tolist()
    pairs = zip(padded, corners, strict=True)
    return torch.stack([x[:, y : y + side, z : z + side] for x, (y, z) in pairs])


def digits(data: Path | None, counts: tuple[int, int]) -> tuple[Images, Images]:
    """Make digits on textures of 48 pixels to learn from and to score: no digit is in both."""
    made = [
        DigitsOnTextures(count, size=48, train=train, seed=seed)
        for count, train, seed in zip(counts, (True, False), (0, 1), strict=True)
    ]
    boxes = [[boxes_to_pixels(box, 48, 48) for box in each.boxes] for each in made]
    labels = [torch.tensor(each.labels) for each in made]
    training, scored = (
        Images(each.images, target, found, each.masks)
        for each, target, found in zip(made, labels, boxes, strict=True)
    )
    return training, scored


def tiny20(data: Path | None, counts: tuple[int, int]) -> tuple[Images, Images]:
    """Read 20 classes of Tiny-ImageNet, 64 pixels, one box each."""
    if data is None:
        raise SystemExit("tiny20 is read from --data, a folder with train.csv and val.csv.")
    found = []
    for name, count in zip(("train.csv", "val.csv"), counts, strict=True):
        read = BoxedImages(data / name, transform=lambda picture: np.array(picture.convert("RGB")))
        rows = torch.linspace(0, len(read) - 1, min(count, len(read))).long().tolist()
        pixels = torch.stack([torch.from_numpy(read[row][0]).movedim(-1, 0) for row in rows])
        labels = torch.tensor([read[row][1] for row in rows])
        boxes = [boxes_to_pixels(read.boxes[row], *pixels.shape[2:]) for row in rows]
        found.append(Images(pixels, labels, boxes))
    found[0].augment = True
    return found[0], found[1]


# ---- What all arms share


@dataclass(frozen=True)
class Setting:
    """Counts of a regime; ``area`` is what masks of every arm are steered to."""

    read: Callable[[Path | None, tuple[int, int]], tuple[Images, Images]]
    counts: tuple[int, int]  # to learn from; to score, a fourth of it only to choose cuts
    classes: int
    area: float
    classifier_steps: int
    steps: int


SETTINGS = {
    "digits": Setting(digits, (4000, 1000), 10, 0.1, 1500, 300),
    "tiny20": Setting(tiny20, (7000, 1300), 20, 0.15, 1500, 300),
}

BOTH = "both sides"
SIDES: dict[str, dict[str, Any]] = {
    BOTH: {"objective": default_objective(), "regularizer": smooth()},
    "masked-out only": {
        "objective": Dual(inside=None, outside=Vanish()),
        "regularizer": smooth(Area(0.0, 10.0)),
    },
    "masked-in only": {
        "objective": Dual(inside=Believe(), outside=None),
        "regularizer": smooth(Area(1.0, 0.0)),
    },
}


def in_halves(optimizer: torch.optim.Optimizer, steps: int) -> InParts:
    """Give a masker of a frozen classifier the rates that it has in joint training."""
    return InParts(optimizer, cosine, [steps - steps // 2, steps // 2])


@dataclass
class Lab:
    """One regime and seed: its classifiers, which are kept in a folder, and its maskers."""

    setting: Setting
    training: Images
    chosen: Images
    reported: Images
    seed: int
    folder: Path
    known: dict[str, nn.Module] = field(default_factory=dict)

    def batches(self, steps: int) -> Batches:
        """Give the same batches to every arm."""
        return Batches(self.training, steps, self.seed)

    def file(self, name: str) -> Path:
        """Return where a classifier is kept."""
        return self.folder / f"{name.replace(' ', '-')}-{self.seed}.pt"

    def classifier(self, name: str, make: Callable[[], nn.Module]) -> nn.Module:
        """Return a copy of a classifier, made once."""
        file = self.file(name)
        if name not in self.known:
            if file.exists():
                self.known[name] = small_classifier(self.setting.classes).eval()
                self.known[name].load_state_dict(torch.load(file))
            else:
                self.known[name] = make()
                file.parent.mkdir(parents=True, exist_ok=True)
                torch.save(self.known[name].state_dict(), file)
        return copy.deepcopy(self.known[name])

    def plain(self) -> nn.Module:
        """Return the classifier that all arms start from."""
        return self.classifier("plain", self._trained)

    def _trained(self) -> nn.Module:
        torch.manual_seed(self.seed)
        network = small_classifier(self.setting.classes).train()
        optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
        steps = self.setting.classifier_steps
        rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
        batches = Batches(self.training, steps, self.seed, size=32)
        for inputs, labels in tqdm(batches, "classifier"):
            optimizer.zero_grad()
            cross_entropy(network(inputs), labels).backward()
            optimizer.step()
            rates.step()
        return network.eval()

    def masker(self, classifier: nn.Module, side: str = BOTH, **changes: Any) -> MaskingTrainer:
        """Train a masker of a classifier, frozen unless that is changed."""
        torch.manual_seed(self.seed)
        options = {"train_classifier": False, "schedule": in_halves, **SIDES[side], **changes}
        model, layout = MaskingModel(classifier), torch.channels_last
        trainer = MaskingTrainer(model, area=self.setting.area, memory_format=layout, **options)
        trainer.fit(self.batches(self.setting.steps), 1, check_accuracy=False)
        return trainer

    def joint(self, side: str) -> MaskingTrainer:
        """Train both, as by default."""
        trainer = self.masker(self.plain(), side, train_classifier=FineTune(), schedule=cosine)
        self.classifier(f"joint {side}", lambda: copy.deepcopy(trainer.model.classifier))
        return trainer

    def of_joint(self) -> nn.Module:
        """Return the classifier of joint training with both sides."""
        return self.classifier(f"joint {BOTH}", lambda: self.joint(BOTH).model.classifier)

    def clean(self) -> nn.Module:
        """Train on clean images for as many more updates as joint training takes."""

        def make() -> nn.Module:
            torch.manual_seed(self.seed)
            model = MaskingModel(self.plain())
            how = FineTune(classifier_first=1.0)
            trainer = MaskingTrainer(model, train_classifier=how)
            trainer.fit(self.batches(self.setting.steps // 2), 1, show_progress=False)
            return model.classifier

        return self.classifier("clean", make)

    def hardened(self) -> nn.Module:
        """Train on random halves, without labels, for as many updates."""

        def make() -> nn.Module:
            torch.manual_seed(self.seed)
            batches = self.batches(self.setting.steps // 2)
            return harden(self.plain(), batches, 1, show_progress=False)

        return self.classifier("hardened", make)


#: What is trained in each arm, with the plain classifier of the seed to start from.
ARMS: dict[str, Callable[[Lab], MaskingTrainer]] = {
    f"{BOTH}, frozen": lambda lab: lab.masker(lab.plain()),
    f"{BOTH}, joint": lambda lab: lab.joint(BOTH),
    "masked-out only, frozen": lambda lab: lab.masker(lab.plain(), "masked-out only"),
    "masked-out only, joint": lambda lab: lab.joint("masked-out only"),
    "frozen after hardening": lambda lab: lab.masker(lab.hardened()),
    "frozen after clean updates": lambda lab: lab.masker(lab.clean()),
    "new masker on joint's classifier": lambda lab: lab.masker(lab.of_joint()),
    "masked-in only, frozen": lambda lab: lab.masker(lab.plain(), "masked-in only"),
    "masked-in only, joint": lambda lab: lab.joint("masked-in only"),
    "frozen, a hardened judge": lambda lab: lab.masker(lab.plain(), pool=OneJudge(lab.hardened())),
}

# ---- Scores: one number an image, or one for all


@torch.no_grad()
def score(trainer: MaskingTrainer, lab: Lab) -> Scores:
    """Score maps, and what became of the classifier."""
    model, images, area = trainer.model, lab.reported, lab.setting.area
    inputs, labels = images.inputs, images.labels
    maps, chosen = masks_of(model, images), masks_of(model, lab.chosen)
    plain, classifier = lab.plain(), model.classifier
    right = occluded_accuracy(classifier, inputs, labels, areas=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5))
    salient = partial(occluded_accuracy, plain, inputs, labels)
    scores = {
        **by_boxes(maps, images, chosen, lab.chosen),
        **by_pixels(maps, images),
        "masked_out": salient(maps, areas=(area,))[:, 0],
        "masked_in": salient(1 - maps, areas=(1 - area,))[:, 0],
        "area": maps.mean((1, 2, 3)),
        "clean": right[:, 0],
        "occluded": right[:, 1:].mean(1),
    }
    listed: Scores = {name: [round(v, 3) for v in x.tolist()] for name, x in scores.items()}
    for name in ("error", "error_at_best", "masked_out", "masked_in", "clean"):
        listed[name] = [int(value) for value in listed[name]]
    listed["occluded_by_area"] = [round(v, 4) for v in right[:, 1:].mean(0).tolist()]
    listed["calibration"] = round(float(calibration_error(classifier, inputs, labels)), 4)
    if trainer.classifier is not None:
        found = trainer.connectivity([(inputs, labels)])
        listed["barrier"], listed["changed"] = round(found.barrier, 4), round(found.changed, 4)
    return listed


@torch.no_grad()
def masks_of(model: MaskingModel, images: Images) -> Tensor:
    """Return the masks for the labels."""
    with eval_mode(model):
        parts = zip(images.inputs.split(100), images.labels.split(100), strict=True)
        return torch.cat([model.mask(inputs, target=target) for inputs, target in parts])


def by_boxes(maps: Tensor, images: Images, chosen: Tensor, others: Images) -> dict[str, Tensor]:
    """Localize, with the best cuts of other images."""
    ious = exact_ious(masks_to_boxes(maps), images.boxes)
    largest, any_part = best_ious(maps, images.boxes).unbind(1)
    theirs, theirs_of_any = best_ious(chosen, others.boxes).unbind(1)
    cut = int((theirs >= 0.5).double().mean(0).argmax())
    cuts = at_levels(theirs_of_any).double().mean(0).argmax(-1).tolist()  # one for each level
    found = at_levels(any_part).double()
    each = torch.stack([found[:, level, cut] for level, cut in enumerate(cuts)], dim=1)
    return {
        "error": (ious <= 0.5).double(),
        "error_at_best": (largest[:, cut] < 0.5).double(),
        "box_iou": ious,
        "max_box_acc_v2": each.mean(1),
    }


def by_pixels(maps: Tensor, images: Images) -> dict[str, Tensor]:
    """Return what each image contributes to PxAP, a mean of which is the PxAP of all pixels.

    Pooled precision is no mean over images; to first order, with its gradient, it is.
    """
    truth = images.boxes if images.masks is None else images.masks
    counts = pixel_histograms(maps, truth).double()
    mean = counts.mean(0)
    with torch.enable_grad():
        pooled = mean.clone().requires_grad_()
        value = precision(pooled)
        (slope,) = torch.autograd.grad(value, pooled)
    assert torch.isclose(value.float(), average_precision(counts.sum(0)), atol=1e-4)
    return {"pxap": value.item() + ((counts - mean) * slope).sum((1, 2))}


def precision(counts: Tensor) -> Tensor:
    """`average_precision`, which rounds, for a gradient."""
    off, on = counts.flip(-1).cumsum(-1).unbind(-2)
    gains = torch.cat([on[:1], on.diff()])
    return (on / (on + off).clamp(min=1e-12) * gains).sum() / on[-1]


# ---- Runs, tables and differences

COLUMNS = {
    "pxap": "PxAP",
    "max_box_acc_v2": "V2",
    "masked_out": "out",
    "masked_in": "in",
    "error": "LE",
    "error_at_best": "LE, best cut",
    "box_iou": "box IoU",
    "area": "area",
    "clean": "accuracy",
    "occluded": "occluded",
    "calibration": "calibration",
}

PAIRS = [
    *((f"{side}, joint", f"{side}, frozen") for side in SIDES),
    (f"{BOTH}, frozen", "masked-out only, frozen"),
    (f"{BOTH}, frozen", "masked-in only, frozen"),
    (f"{BOTH}, joint", "masked-out only, joint"),
    (f"{BOTH}, joint", "masked-in only, joint"),
    (f"{BOTH}, joint", "frozen after clean updates"),
    (f"{BOTH}, joint", "frozen after hardening"),
    ("frozen after clean updates", f"{BOTH}, frozen"),
    ("frozen after hardening", f"{BOTH}, frozen"),
    ("frozen, a hardened judge", f"{BOTH}, frozen"),
    ("new masker on joint's classifier", f"{BOTH}, frozen"),
    ("new masker on joint's classifier", f"{BOTH}, joint"),
]


def points(runs: list[Scores], column: str) -> np.ndarray:
    """Return ``(seeds, images)``, points of a hundred."""
    return 100 * np.array([np.atleast_1d(run[column]) for run in runs], dtype=np.float64)


def tables(document: dict[str, Any]) -> str:
    """Lay out each arm's means, and differences with 95 % intervals over images and seeds."""
    runs: dict[str, dict[int, Scores]] = {arm: {} for arm in ARMS}
    for name in sorted(document["runs"], key=lambda name: int(name.rpartition("/")[2])):
        arm, _, seed = name.rpartition("/")
        runs[arm][int(seed)] = document["runs"][name]
    rows, gaps = [], []
    for arm in (arm for arm in runs if runs[arm]):
        found = list(runs[arm].values())
        means = {column: points(found, column).mean(1) for column in COLUMNS}
        spread = (f" ± {m.std(ddof=1):.1f}" if len(found) > 1 else "" for m in means.values())
        cells = [f"{m.mean():.1f}{s}" for m, s in zip(means.values(), spread, strict=True)]
        rows.append([arm, str(len(found)), *cells])
    for one, other in PAIRS:
        seeds = [seed for seed in runs[one] if seed in runs[other]]  # those of both
        if seeds:
            pair = [[runs[arm][seed] for seed in seeds] for arm in (one, other)]
            gap = [difference(*(points(each, column) for each in pair)) for column in COLUMNS]
            cells = [f"{g.mean:+.1f} [{g.low:.1f}, {g.high:.1f}]" for g in gap]
            gaps.append([f"{one} − {other}", str(len(seeds)), *cells])
    facts = "\n".join(f"- {name}: {value}" for name, value in document["facts"].items())
    parts = [
        facts,
        markdown(["arm", "seeds", *COLUMNS.values()], rows),
        markdown(["difference", "seeds", *COLUMNS.values()], gaps),
    ]
    return "\n\n".join(parts) + "\n"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """Lay out a table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def run(
    regime: str, data: Path | None, file: Path, folder: Path, seeds: int, arms: list[str]
) -> None:
    """Run what the file does not hold, seed by seed, and write it after each run."""
    setting = SETTINGS[regime]
    document: dict[str, Any] = {"facts": {}, "runs": {}}
    if file.exists():
        document = json.loads(file.read_text(encoding="utf-8"))
    training, scored = setting.read(data, setting.counts)
    is_fourth = torch.arange(len(scored)) % 4 == 3  # classes may lie one after the other
    reported, chosen = scored.only(~is_fourth), scored.only(is_fourth)
    document["facts"] = {
        "regime": regime,
        "images": f"{len(training)} to learn from, {len(reported)} reported, "
        f"{len(chosen)} to choose cuts on",
        "steps": f"{setting.classifier_steps} of the classifier, then {setting.steps} of each "
        "masker, of 32 and 16 images each",
        "area": setting.area,
        "torch": torch.__version__,
    }
    for seed in range(seeds):
        lab = Lab(setting, training, chosen, reported, seed, folder / regime)
        for arm in arms:
            name, started = f"{arm}/{seed}", time.perf_counter()
            if name in document["runs"]:
                continue
            scores = score(ARMS[arm](lab), lab)
            scores["seconds"] = round(time.perf_counter() - started, 1)
            document["runs"][name] = scores
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(_json(document), encoding="utf-8")
            print(name, {c: round(float(np.mean(scores[c])), 3) for c in COLUMNS}, flush=True)


def _json(document: dict[str, Any]) -> str:
    """Write each run's scores on a line of its own."""
    lines = [
        f"{json.dumps(name)}: {json.dumps(run, separators=(',', ':'))}"
        for name, run in document["runs"].items()
    ]
    facts = json.dumps(document["facts"], indent=1)
    return f'{{"facts": {facts},\n"runs": {{\n' + ",\n".join(lines) + "\n}}\n"


def main() -> None:
    """Run what is left, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("regime", choices=[*SETTINGS, "table"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("joint-classifiers"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS))
    options = parser.parse_args()
    if options.regime != "table":
        keep_freed_memory()
        run(*(getattr(options, n) for n in ("regime", "data", "json", "work", "seeds", "arms")))
    text = tables(json.loads(options.json.read_text(encoding="utf-8")))
    options.json.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
