"""The images of a benchmark in batches, with their ground truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from captum_masking._base.captum import as_class_logits, class_indices
from captum_masking.benchmark.result import Store, digest
from captum_masking.data.images import EmptyObjectError
from captum_masking.metrics.boxes import boxes_to_pixels
from captum_masking.metrics.classifier import logits_of, outputs_of
from captum_masking.metrics.maps import min_max
from captum_masking.viz import in_unit


class Pixels(NamedTuple):
    """The object's pixels and the ignored pixels, boolean ``(B, H, W)``."""

    object: Tensor
    ignore: Tensor


@dataclass(frozen=True)
class Batch:
    """Images with their classes and any ground truth."""

    first: int  # place of the first image in the order of the benchmark
    inputs: Tensor  # (B, C, H, W)
    logits: Tensor  # (B, classes), the judge's of these images
    target: Tensor  # (B,), the class to explain
    correct: Tensor  # (B,), whether the judge predicts that class
    boxes: list[Tensor] | None  # one (n, 4) per image in pixels, n >= 0
    pixels: Pixels | None


class Images:
    """Images of a data set in a random order, so that the first ones are a sample."""

    def __init__(self, data: Any, *, limit: int | None, seed: int, batch_size: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.indices: list[int] = torch.randperm(len(data), generator=generator)[:limit].tolist()
        if not self.indices:
            raise ValueError(
                f"expected at least one image to compare methods on, but got {len(data)} images "
                f"and limit={limit}."
            )
        self.data, self.batch_size = data, batch_size

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def has_boxes(self) -> bool:
        boxes = getattr(self.data, "boxes", None)
        return boxes is not None and any(len(boxes[index]) for index in self.indices)

    @property
    def has_pixels(self) -> bool:
        return hasattr(self.data, "pixel_mask")

    def digest(self) -> str:
        known = [getattr(self.data, name, None) for name in ("labels", "boxes", "files")]
        return digest(self.indices, self.data[self.indices[0]][0], *known)

    def example(self, judge: nn.Module | None = None) -> Tensor:
        some = torch.stack([self.data[index][0] for index in self.indices[:2]])
        return some if judge is None else some.to(_device_of(judge))

    def batches(self, judge: nn.Module, *, predicted: bool) -> Iterator[Batch]:
        """Yield batches on the judge's device; ``predicted`` replaces labels by predictions."""
        for first, chosen, inputs, labels in self._read(judge):
            logits = logits_of(judge, [inputs])
            seen = class_indices(logits, None)
            target = seen if predicted else torch.tensor(labels, device=seen.device)
            boxes, pixels = self._boxes(chosen, inputs), self._pixels(chosen, inputs)
            yield Batch(first, inputs, logits, target, seen == target, boxes, pixels)

    @torch.no_grad()
    def answers(self, judge: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
        batches = ((inputs, torch.tensor(labels)) for _, _, inputs, labels in self._read(judge))
        for labels, output in outputs_of(judge, batches):
            yield as_class_logits(output), labels

    def _read(self, judge: nn.Module) -> Iterator[tuple[int, list[int], Tensor, Any]]:
        device = _device_of(judge)
        for first in range(0, len(self), self.batch_size):
            chosen = self.indices[first : first + self.batch_size]
            read, labels = zip(*(self.data[index] for index in chosen), strict=True)
            yield first, chosen, torch.stack(read).to(device), labels

    def _boxes(self, chosen: Sequence[int], inputs: Tensor) -> list[Tensor] | None:
        if not self.has_boxes:
            return None
        return [boxes_to_pixels(self.data.boxes[index], *inputs.shape[2:]) for index in chosen]

    def _pixels(self, chosen: Sequence[int], inputs: Tensor) -> Pixels | None:
        if not self.has_pixels:
            return None
        pairs = [self._pixel_mask(index, tuple(inputs.shape[2:])) for index in chosen]
        return Pixels(*map(torch.stack, zip(*pairs, strict=True)))

    def _pixel_mask(self, index: int, size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Return a pixel mask; without an object, all pixels are ignored."""
        try:
            found: tuple[Tensor, Tensor] = self.data.pixel_mask(index, size)
        except EmptyObjectError:
            return torch.zeros(size, dtype=torch.bool), torch.ones(size, dtype=torch.bool)
        return found

    def samples(
        self, store: Store, names: Mapping[str, str], to_picture: Callable[[Tensor], Any]
    ) -> list[Sample]:
        """Return the first images with their maps by row; none if all methods failed."""
        kept = {row: store.read(name, ["maps"])["maps"] for row, name in names.items()}
        samples = []
        for place, index in enumerate(self.indices[: len(next(iter(kept.values()), ()))]):
            image, label = self.data[index]
            maps = {name: planes[place].astype(np.float32) for name, planes in kept.items()}
            boxes = self._boxes([index], image[None]) or [torch.zeros(0, 4)]
            samples.append(
                Sample(in_unit(to_picture(image)), maps, boxes[0].tolist(), f"class {label}")
            )
        return samples


def _device_of(judge: nn.Module) -> torch.device:
    return next((p.device for p in judge.parameters()), torch.device("cpu"))


@dataclass(frozen=True)
class Sample:
    pixels: np.ndarray  # (H, W, 1 or 3) in [0, 1]
    maps: Mapping[str, Any] = field(default_factory=dict)  # (H, W) in [0, 1]; some may be missing
    boxes: Sequence[Sequence[float]] = ()  # (n, 4) in pixels, the true ones
    title: str = "image"


def stretched(image: Tensor) -> np.ndarray:
    """Stretch an image ``(C, H, W)`` to [0, 1]; without 3 channels, as gray."""
    pixels = image.detach().float().cpu()
    pixels = pixels if len(pixels) == 3 else pixels.mean(0, keepdim=True)
    return min_max(pixels.flatten(1)[None])[0].reshape(pixels.shape).permute(1, 2, 0).numpy()
