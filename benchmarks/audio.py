"""A classifier of sounds and its masker, trained together; what one hears of the evidence.

Folds 0 to 3 of ESC-10 are trained on, fold 4 is scored: accuracy on masked-in and masked-out
pictures; on the spectrograms of the sounds rendered from these pictures; and on those of the sounds
that the masks leave as gains; beside trivial masks of the same area. ``--out`` takes a picture and
sounds of one clip of each class.

  python benchmarks/audio.py --data clips.csv --json audio.json --out heard
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from shared import table
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import captum_masking
from captum_masking import MaskingModel, MaskingSaliency, MaskingTrainer
from captum_masking._base.rates import cosine
from captum_masking.data.audio import Clips, Spectrogram, draw_sound, write_sound
from captum_masking.parts.infill import Color, Infill, Mean
from captum_masking.parts.masking import mask_images
from captum_masking.parts.regularizer import Area, smooth
from captum_masking.training.classifier import FromScratch

#: What one row of the table holds, in fractions.
COLUMNS = ["area", "picture_in", "picture_out", "render_in", "render_out", "gain_in", "gain_out"]


class Shifted:
    """Batches of spectrograms in an order of their own each epoch, each turned round in time."""

    def __init__(self, pictures: Tensor, labels: Tensor, *, batch_size: int, seed: int) -> None:
        self.pictures, self.labels, self.batch_size = pictures, labels, batch_size
        self.random = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self.labels) // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.labels), generator=self.random)
        for batch in order.split(self.batch_size)[: len(self)]:
            frames = self.pictures.shape[-1]
            by = torch.randint(frames, (len(batch),), generator=self.random).tolist()
            turned = [self.pictures[i].roll(n, -1) for i, n in zip(batch, by, strict=True)]
            yield torch.stack(turned), self.labels[batch]


def network(classes: int) -> nn.Sequential:
    """Make the classifier: four 3x3 convolutions, 8 times coarser, then the mean over all."""

    def block(inputs: int, outputs: int, stride: int) -> tuple[nn.Module, ...]:
        convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        return convolution, nn.BatchNorm2d(outputs), nn.ReLU()

    return nn.Sequential(
        *(*block(1, 16, 2), *block(16, 32, 2), *block(32, 64, 2), *block(64, 64, 1)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(64, classes)),
    )


class Data(NamedTuple):
    """Clips as sounds ``(B, samples)``, as spectrograms, and their classes ``(B,)``."""

    sounds: Tensor
    pictures: Tensor
    labels: Tensor


def read(clips: Clips) -> Tensor:
    """Return the sounds of clips, ``(B, samples)``."""
    return torch.stack([clips[i][0] for i in range(len(clips))])


def pictures_of(spectrogram: Spectrogram, sounds: Tensor) -> Tensor:
    """Return spectrograms, computed 16 sounds at a time."""
    return torch.cat([spectrogram(part) for part in sounds.split(16)])


def train_alone(loader: Shifted, classes: int, arguments: argparse.Namespace) -> nn.Module:
    """Train the same classifier without a masker, as long, to see what joint training costs."""
    torch.manual_seed(arguments.seed)
    classifier = network(classes)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=FromScratch().lr)
    rates = cosine(optimizer, arguments.epochs * len(loader))
    for _ in range(arguments.epochs):
        for inputs, target in loader:
            optimizer.zero_grad()
            cross_entropy(classifier(inputs), target).backward()
            optimizer.step()
            rates.step()
    return classifier.eval()


def train(
    loader: Shifted, classes: int, infill: Infill, arguments: argparse.Namespace
) -> MaskingTrainer:
    """Train classifier and masker together, from scratch."""
    torch.manual_seed(arguments.seed)
    model = MaskingModel(network(classes), example_inputs=loader.pictures[:2])
    trainer = MaskingTrainer(
        model,
        train_classifier=FromScratch(),
        infill=infill,
        regularizer=smooth(Area(weight_out=arguments.weight_out)),
        lr=arguments.lr,
    )
    trainer.fit(loader, arguments.epochs)
    model.eval()
    return trainer


def highest(values: Tensor, area: Tensor) -> Tensor:
    """Return ones at the highest values of each picture, as many as its area says."""
    ranks = values.flatten(1).argsort(1, descending=True).argsort(1)
    chosen = ranks < (area * ranks.shape[1]).round()[:, None]
    return chosen.reshape(values.shape).to(values)


def masks_to_compare(learned: Tensor, pictures: Tensor) -> dict[str, Tensor]:
    """Return the learned masks and trivial ones of the same area: on each clip, or over all."""
    area = learned.flatten(1).mean(1)
    return {
        "whole spectrogram": torch.ones_like(learned),
        "learned mask": learned,
        "learned mask, as 0 and 1": highest(learned, area),
        "mask of another clip": learned.roll(len(learned) // 2 + 1, 0),
        "loudest bins": highest(pictures, area),
        "random bins": highest(torch.rand_like(pictures), area),
        "nothing": torch.zeros_like(learned),
    }


@torch.no_grad()
def score(
    classifier: nn.Module, spectrogram: Spectrogram, data: Data, mask: Tensor, infill: Infill
) -> dict[str, float]:
    """Ask the classifier of both halves: as pictures, and as the sounds that they become."""
    sounds, pictures, labels = data
    inside, outside = mask_images(pictures, mask, infill)
    asked = {
        "picture_in": inside,
        "picture_out": outside,
        "render_in": spectrogram(spectrogram.render(sounds, inside)),
        "render_out": spectrogram(spectrogram.render(sounds, outside)),
        "gain_in": spectrogram(spectrogram.invert(sounds, mask)),
        "gain_out": spectrogram(spectrogram.invert(sounds, 1 - mask)),
    }
    right = {name: accuracy(classifier, shown, labels) for name, shown in asked.items()}
    return {"area": round(mask.mean().item(), 4), **right}


@torch.no_grad()
def accuracy(classifier: nn.Module, pictures: Tensor, labels: Tensor) -> float:
    """Return the fraction that is classified correctly."""
    return round((classifier(pictures).argmax(1) == labels).float().mean().item(), 4)


@torch.no_grad()
def write_examples(
    folder: Path,
    clips: Clips,
    model: MaskingModel,
    spectrogram: Spectrogram,
    data: Data,
    masks: Tensor,
    infill: Infill,
) -> None:
    """Write, for the first clip of each class, a picture, the sound, and both of its halves."""
    said = model(data.pictures).argmax(1).tolist()
    halves = mask_images(data.pictures, masks, infill)
    for label, name in clips.names.items():
        i = clips.labels.index(label)
        title = f"{name}, classified as {clips.names[said[i]]}; area {masks[i].mean():.0%}"
        rendered = [spectrogram.render(data.sounds[i], half[i]) for half in halves]
        draw_sound(
            folder / f"{name}.png",
            spectrogram,
            data.sounds[i],
            masks[i],
            masked_in=rendered[0],
            title=title,
        )
        names = ["whole", "masked-in", "masked-out"]
        for half, sound in zip(names, [data.sounds[i], *rendered], strict=True):
            write_sound(folder / f"{name}-{half}.wav", sound, spectrogram.sample_rate)


def main() -> None:
    """Train, score, print, write."""
    arguments = parse()
    training = Clips(arguments.data, folds=arguments.train_folds)
    clips = Clips(arguments.data, folds=[arguments.test_fold])
    sounds, held_out = read(training), read(clips)
    spectrogram = Spectrogram().normalized_to(sounds.split(16))
    known = Data(sounds, pictures_of(spectrogram, sounds), torch.tensor(training.labels))
    data = Data(held_out, pictures_of(spectrogram, held_out), torch.tensor(clips.labels))
    loader = Shifted(known.pictures, known.labels, batch_size=32, seed=arguments.seed)
    infill = Mean() if arguments.mean else Color(spectrogram.silence)

    alone = train_alone(loader, len(clips.names), arguments)
    trainer = train(loader, len(clips.names), infill, arguments)
    model = trainer.model
    masks = MaskingSaliency(model).attribute(data.pictures)
    accuracies = {
        "classifier alone": accuracy(alone, data.pictures, data.labels),
        "trained with its masker": accuracy(model, data.pictures, data.labels),
        "the same, on clips trained on": accuracy(model, known.pictures, known.labels),
    }
    rows = {
        name: score(model.classifier, spectrogram, data, mask, infill)
        for name, mask in masks_to_compare(masks, data.pictures).items()
    }
    show(accuracies, rows)
    if arguments.out:
        write_examples(arguments.out, clips, model, spectrogram, data, masks, infill)
    result = {
        "command": " ".join([Path(sys.argv[0]).name, *(Path(w).name for w in sys.argv[1:])]),
        "versions": {
            "captum_masking": captum_masking.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "seed": arguments.seed,
        "clips": {"trained on": len(known.labels), "scored": len(data.labels)},
        "spectrogram": repr(spectrogram),
        "recipe": repr(trainer),
        "cpu_seconds": round(time.process_time()),
        "accuracy": accuracies,
        "masks": rows,
    }
    arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="clips.csv of ESC-10")
    parser.add_argument("--train-folds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--test-fold", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--lr", type=float, default=5e-3, help="of the masker")
    parser.add_argument("--weight-out", type=float, default=2.0, help="of the mask's area")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mean", action="store_true", help="fill holes with the mean, not silence")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="folder for pictures and sounds")
    return parser.parse_args()


def show(accuracies: dict[str, float], rows: dict[str, dict[str, float]]) -> None:
    """Print what was found."""
    for name, value in accuracies.items():
        print(f"{name}: {100 * value:.1f} %")
    lines = [[name, *(f"{100 * row[c]:.1f} %" for c in COLUMNS)] for name, row in rows.items()]
    print(table(["mask", *COLUMNS], lines))


if __name__ == "__main__":
    main()
