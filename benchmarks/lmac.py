"""Listenable maps of a classifier of sounds: the measures of the L-MAC paper, and what one hears.

A small CNN on the mel bands of ESC-10 is trained on four folds, then a masker of every frequency,
half of whose sounds are mixtures. Both are scored on the fifth fold: on its clips, and on mixtures
of each with a clip of another class. The last table is heard: two clips of different classes,
equally loud, and the share of the energy of what a mask leaves in bins where the clip of the
predicted class is the louder one. ``--out`` takes a picture and sounds of one clip of each class.

  python benchmarks/lmac.py --data clips.csv --json lmac.json --out heard
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from audio import Shifted, accuracy, network, read
from captum.attr import LayerGradCam, Saliency
from shared import table
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import captum_masking
from captum_masking import MaskingModel, MaskingSaliency
from captum_masking._base.rates import cosine
from captum_masking.data.audio import Clips, LogMagnitude, LogMel, draw_sound, mix, write_sound
from captum_masking.metrics import mask_area, mask_sparseness, masked_scores, min_max, most_salient
from captum_masking.model.layouts import MelRows
from captum_masking.parts.masker import Masker, UNetMasker, linear
from captum_masking.recipes import lmac
from captum_masking.training.trainer import MaskingTrainer

#: The measures of the paper, and the mean of the masks.
COLUMNS = {
    "average_increase": "AI",
    "average_drop": "AD",
    "average_gain": "AG",
    "faithfulness_drop": "FF",
    "fid_in": "Fid-In",
    "sparseness": "SPS",
    "complexity": "COMP",
    "area": "area",
}
READ = ["1.3", "1.6", "1.12"]  # after blocks of stride 2, 4 and 8
#: The decoder of the recipe, and the package's own, which reads the evidence for the prediction;
#: and for how many epochs each is trained.
MASKERS = {
    "L-MAC": (partial(UNetMasker, width=32), 16),
    "L-MAC, reading evidence": (partial(Masker, width=32, evidence=True, target_aware=False), 6),
}


class Data(NamedTuple):
    """Clips as sounds ``(B, samples)``, as pictures, and their classes ``(B,)``."""

    sounds: Tensor
    pictures: Tensor
    labels: Tensor


def data_of(magnitude: LogMagnitude, sounds: Tensor, labels: Any) -> Data:
    """Compute pictures, 16 sounds at a time."""
    pictures = torch.cat([magnitude(part) for part in sounds.split(16)])
    return Data(sounds, pictures, torch.as_tensor(labels))


def train_classifier(known: Data, classes: int, arguments: argparse.Namespace) -> nn.Module:
    """Train the CNN on mel bands, which are computed once."""
    torch.manual_seed(arguments.seed)
    front = LogMel()
    cnn = nn.Sequential(nn.BatchNorm2d(1), *network(classes))
    bands = torch.cat([front(part) for part in known.pictures.split(16)])
    loader = Shifted(bands, known.labels, batch_size=32, seed=arguments.seed)
    optimizer = torch.optim.AdamW(cnn.parameters(), lr=3e-3)
    rates = cosine(optimizer, arguments.classifier_epochs * len(loader))
    for _ in range(arguments.classifier_epochs):
        for inputs, target in loader:
            optimizer.zero_grad()
            cross_entropy(cnn(inputs), target).backward()
            optimizer.step()
            rates.step()
    return nn.Sequential(front, cnn).eval()


class Mixed:
    """Batches of pictures of sounds turned round in time, half of them mixed with another one."""

    def __init__(self, magnitude: LogMagnitude, known: Data, *, batch_size: int, seed: int) -> None:
        self.magnitude, self.known, self.batch_size = magnitude, known, batch_size
        self.random = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self.known.labels) // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.known.labels), generator=self.random)
        for batch in order.split(self.batch_size)[: len(self)]:
            sounds = torch.stack([self._turned(self.known.sounds[i]) for i in batch.tolist()])
            share = 0.5 + 0.3 * float(torch.rand((), generator=self.random))
            half = len(batch) // 2
            sounds[:half] = mix(sounds[:half], sounds[half : 2 * half], share=share)
            yield self.magnitude(sounds), self.known.labels[batch]

    def _turned(self, sound: Tensor) -> Tensor:
        return sound.roll(int(torch.randint(len(sound), (), generator=self.random)))


def train_masker(
    make: Callable[..., nn.Module],
    epochs: int,
    magnitude: LogMagnitude,
    classifier: nn.Module,
    known: Data,
    arguments: argparse.Namespace,
) -> MaskingTrainer:
    """Train the masker with the published weights."""
    torch.manual_seed(arguments.seed)
    trainer = lmac(
        classifier,
        layers=READ,
        layouts=[MelRows(8000.0)] * len(READ),
        masker=make,
        example_inputs=known.pictures[:1],
        lr=arguments.lr,
    )
    loader = Mixed(magnitude, known, batch_size=16, seed=arguments.seed)
    trainer.fit(loader, epochs, check_accuracy=False)
    return trainer


@torch.no_grad()
def complexity(masks: Tensor) -> Tensor:
    """Return the entropy of each map's shares, in nats: Bhatt et al. 2020."""
    shares = masks.flatten(1).double().abs()
    return torch.special.entr(shares / shares.sum(1, keepdim=True).clamp(min=1e-12)).sum(1)


def maps_of(models: dict[str, MaskingModel], pictures: Tensor, seed: int) -> dict[str, Tensor]:
    """Return masks of the predicted class, by method; those at equal area have the first's."""
    masks = {name: MaskingSaliency(model).attribute(pictures) for name, model in models.items()}
    learned, classifier = next(iter(masks.values())), next(iter(models.values())).classifier
    with torch.no_grad():
        target = classifier(pictures).argmax(1)
    cam = LayerGradCam(classifier, classifier.get_submodule(READ[-1]))
    cams = cam.attribute(pictures, target=target, relu_attributions=True).detach()
    rows = MelRows(8000.0, stride=1)(cams, pictures.shape[2:])
    gradient = Saliency(classifier).attribute(pictures, target=target)
    gray = {
        "Grad-CAM": min_max(linear(rows, pictures.shape[2:])),
        "Saliency": min_max(gradient),
    }
    area = mask_area(learned)
    random = torch.Generator().manual_seed(seed)
    order = torch.rand(learned.flatten(1).shape, generator=random).argsort(1)
    return {
        **masks,
        **gray,
        **{f"{name}, as 0 and 1": most_salient(m, area) for name, m in gray.items()},
        "L-MAC, as 0 and 1": most_salient(learned, area),
        "loudest bins": most_salient(pictures, area),
        "random bins": most_salient(torch.rand(learned.shape, generator=random), area),
        "values of L-MAC, shuffled": learned.flatten(1).gather(1, order).reshape(learned.shape),
        "mask of another clip": learned.roll(len(learned) // 2 + 1, 0),
    }


def score(classifier: nn.Module, pictures: Tensor, masks: Tensor) -> dict[str, float]:
    """Return the measures of one method, means over clips."""
    found = masked_scores(classifier, pictures, masks)
    found |= {
        "sparseness": mask_sparseness(masks),
        "complexity": complexity(masks),
        "area": mask_area(masks),
    }
    return {name: round(found[name].double().mean().item(), 4) for name in COLUMNS}


def partners(labels: Tensor) -> Tensor:
    """Choose for each clip one of another class: the next class, in the same place."""
    order = labels.argsort(stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    return order[(place + len(order) // len(labels.unique())) % len(order)]


class Pair(NamedTuple):
    """Two clips of different classes as one sound, and where the predicted one is louder."""

    sound: Tensor
    pictures: Tensor
    there: Tensor  # (B, 1, frequencies, frames), bool
    counted: Tensor  # (B,), bool: the prediction is one of the two


@torch.no_grad()
def pairs_of(classifier: nn.Module, magnitude: LogMagnitude, data: Data) -> Pair:
    """Mix each clip with its partner, both equally loud."""
    other = partners(data.labels)
    first, second = (s / s.norm(dim=1, keepdim=True) for s in (data.sounds, data.sounds[other]))
    mixed = data_of(magnitude, mix(first, second, share=0.5), data.labels)
    said = classifier(mixed.pictures).argmax(1)
    louder = data_of(magnitude, first, 0).pictures > data_of(magnitude, second, 0).pictures
    is_first = said == data.labels
    there = torch.where(is_first[:, None, None, None], louder, ~louder)
    return Pair(mixed.sounds, mixed.pictures, there, is_first | (said == data.labels[other]))


@torch.no_grad()
def heard(magnitude: LogMagnitude, pair: Pair, mask: Tensor) -> dict[str, float]:
    """Say how much of the energy of what is heard is in bins of the predicted clip."""

    def share(sound: Tensor) -> float:
        energy = data_of(magnitude, sound, 0).pictures.expm1().square()
        inside = (energy * pair.there).flatten(1).sum(1) / energy.flatten(1).sum(1).clamp(min=1e-9)
        return round(inside[pair.counted].mean().item(), 4)

    halves = (pair.pictures * mask, pair.pictures * (1 - mask))
    left, rest = (share(magnitude.render(pair.sound, half)) for half in halves)
    return {"in": left, "out": rest}


def write_examples(
    folder: Path, clips: Clips, magnitude: LogMagnitude, data: Data, mask: Tensor
) -> None:
    """Write, for the first clip of each class, a picture, the sound, and both of its halves."""
    for label, name in clips.names.items():
        i = clips.labels.index(label)
        draw_sound(folder / f"{name}.png", magnitude, data.sounds[i], mask[i], title=name)
        halves = {"masked-in": mask[i], "masked-out": 1 - mask[i]}
        sounds = {n: magnitude.invert(data.sounds[i], m) for n, m in halves.items()}
        for half, sound in {"whole": data.sounds[i], **sounds}.items():
            write_sound(folder / f"{name}-{half}.wav", sound, magnitude.sample_rate)


def main() -> dict[str, MaskingModel]:
    """Train, score, print, write."""
    arguments = parse()
    magnitude = LogMagnitude()
    training = Clips(arguments.data, folds=arguments.train_folds, sample_rate=16000)
    clips = Clips(arguments.data, folds=[arguments.test_fold], sample_rate=16000)
    known = data_of(magnitude, read(training), training.labels)
    data = data_of(magnitude, read(clips), clips.labels)
    classifier = train_classifier(known, len(clips.names), arguments)
    accuracies = {
        "held-out clips": accuracy(classifier, data.pictures, data.labels),
        "clips trained on": accuracy(classifier, known.pictures, known.labels),
    }
    print(accuracies, flush=True)
    trainers = {
        name: train_masker(make, epochs, magnitude, classifier, known, arguments)
        for name, (make, epochs) in MASKERS.items()
    }
    models = {name: trainer.model.eval() for name, trainer in trainers.items()}

    mixed = mix(data.sounds, data.sounds[partners(data.labels)])
    sets = {"clips": data, "mixtures": data_of(magnitude, mixed, data.labels)}
    rows = {}
    for kind, each in sets.items():
        maps = maps_of(models, each.pictures, arguments.seed)
        rows[kind] = {name: score(classifier, each.pictures, mask) for name, mask in maps.items()}
        lines = [[name, *(f"{row[c]:.3f}" for c in COLUMNS)] for name, row in rows[kind].items()]
        print(table([kind, *COLUMNS.values()], lines), flush=True)
    pair = pairs_of(classifier, magnitude, data)
    maps = maps_of(models, pair.pictures, arguments.seed)
    maps["all"], maps["the louder one"] = torch.ones(pair.there.shape), pair.there.float()
    energy = {name: heard(magnitude, pair, mask) for name, mask in maps.items()}
    lines = [
        [name, *(f"{100 * share:.1f} %" for share in row.values())] for name, row in energy.items()
    ]
    print(table(["energy of the predicted clip", "in", "out"], lines), flush=True)

    if arguments.out:
        mask = MaskingSaliency(next(iter(models.values()))).attribute(data.pictures)
        write_examples(arguments.out, clips, magnitude, data, mask)
    result = {
        "command": " ".join([Path(sys.argv[0]).name, *(Path(w).name for w in sys.argv[1:])]),
        "versions": {
            "captum_masking": captum_masking.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "seed": arguments.seed,
        "clips": {"trained on": len(known.labels), "scored": len(data.labels)},
        "spectrogram": repr(magnitude),
        "recipes": {name: repr(trainer) for name, trainer in trainers.items()},
        "cpu_seconds": round(time.process_time()),
        "accuracy": accuracies,
        "scores": rows,
        "heard": {
            "mixtures": len(data.labels),
            "counted": int(pair.counted.sum()),
            "energy": energy,
        },
    }
    arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return models


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="clips.csv of ESC-10")
    parser.add_argument("--train-folds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--test-fold", type=int, default=4)
    parser.add_argument("--classifier-epochs", type=int, default=60)
    parser.add_argument("--lr", type=float, default=2e-3, help="of the masker")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="folder for pictures and sounds")
    return parser.parse_args()


if __name__ == "__main__":
    main()
