"""One run of the study: a row and a seed in, the scores of every validation image out."""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler

from captum_masking.data import BoxedImages
from captum_masking.data.few_shot import few_shot, of_classes
from captum_masking.figures import judge_itself
from captum_masking.infill import Mean
from captum_masking.metrics import (
    MaxBoxAccV2,
    best_box_iou,
    boxes_to_pixels,
    f1,
    localization_error,
)
from captum_masking.model import MaskingModel
from captum_masking.modes import eval_mode
from captum_masking.recipes import Row, Setting

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


def write_json(content: Any, file: Path) -> None:
    """Write a JSON file at one go, so that an interrupted run leaves none behind."""
    file.parent.mkdir(parents=True, exist_ok=True)
    staged = file.with_name(f".{file.name}.{os.getpid()}")
    staged.write_text(json.dumps(content), encoding="utf-8")
    os.replace(staged, file)
