"""The images of a benchmark, and what is known of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from captum_masking.benchmark.result import Result, Store, digest
from captum_masking.data.images import EmptyObjectError
from captum_masking.metrics.boxes import boxes_to_pixels


@dataclass(frozen=True)
class Sample:
    """One image of the montage with the maps of all methods.

    Args:
        pixels: ``(H, W, 3)`` or ``(H, W, 1)`` in [0, 1].
        maps: ``(H, W)`` in [0, 1], array or tensor, by the name of the row; some may be missing.
        boxes: ``(n, 4)`` in pixels, the true ones.
        title: Written above it, such as its class.

    Source:
        Own.
    """

    pixels: np.ndarray
    maps: Mapping[str, Any] = field(default_factory=dict)
    boxes: Sequence[Sequence[float]] = ()
    title: str = "image"


# ---- The images of a benchmark, some at a time, with all that is known about them.


class Pixels(NamedTuple):
    """Which pixels are the object, and which are not to be judged; both boolean ``(B, H, W)``."""

    object: Tensor
    ignore: Tensor


@dataclass(frozen=True)
class Batch:
    """Some images with their classes and their ground truth.

    Attributes:
        first: Place of the first image in the order of the benchmark.
        inputs: ``(B, C, H, W)``.
        target: ``(B,)``, the class to explain.
        correct: ``(B,)``, whether the judge sees that class.
        boxes: One tensor ``(n, 4)`` an image in pixels, n >= 0; None where the data know none.
        pixels: None where the data know none.

    Source:
        Own.
    """

    first: int
    inputs: Tensor
    target: Tensor
    correct: Tensor
    boxes: list[Tensor] | None
    pixels: Pixels | None


class Images:
    """Images of a data set in an order drawn by lot, so that the first ones stand for all.

    Args:
        data: Items ``(image, label)``; where it has ``boxes``, one tensor ``(n, 4)`` an image in
            fractions of the frame, and where it has ``pixel_mask(index, size)``, as
            :class:`~captum_masking.data.SegmentedImages`.
        limit: So many images; None takes all.
        seed: Of the draw.
        batch_size: Images at a time.

    Raises:
        ValueError: If there is no image.

    Source:
        Own.
    """

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
        """Whether any image has a box."""
        boxes = getattr(self.data, "boxes", None)
        return boxes is not None and any(len(boxes[index]) for index in self.indices)

    @property
    def has_pixels(self) -> bool:
        """Whether the data have pixel masks."""
        return hasattr(self.data, "pixel_mask")

    def digest(self) -> str:
        """Return a hash of the choice of images, of the first one and of all labels and boxes."""
        known = [getattr(self.data, name, None) for name in ("labels", "boxes", "files")]
        return digest(self.indices, self.data[self.indices[0]][0], *known)

    def example(self) -> Tensor:
        """Return the first two images, ``(2, C, H, W)``, or one if there is no other."""
        return torch.stack([self.data[index][0] for index in self.indices[:2]])

    def batches(self, judge: nn.Module, *, predicted: bool) -> Iterator[Batch]:
        """Read the images, a batch at a time.

        Args:
            judge: Says which class it sees, where that is the one to explain.
            predicted: Explain the predicted class in place of the label.

        Yields:
            Batches, in order, on the judge's device.
        """
        device = next((p.device for p in judge.parameters()), torch.device("cpu"))
        for first in range(0, len(self), self.batch_size):
            chosen = self.indices[first : first + self.batch_size]
            read, labels = zip(*(self.data[index] for index in chosen), strict=True)
            inputs = torch.stack(read).to(device)
            with torch.no_grad():
                seen = judge(inputs).argmax(1)
            target = seen if predicted else torch.tensor(labels, device=device)
            size = inputs.shape[2], inputs.shape[3]
            yield Batch(
                first,
                inputs,
                target,
                seen == target,
                self._boxes(chosen, size),
                self._pixels(chosen, size),
            )

    def _boxes(self, chosen: Sequence[int], size: tuple[int, int]) -> list[Tensor] | None:
        if not self.has_boxes:
            return None
        return [boxes_to_pixels(self.data.boxes[index], *size) for index in chosen]

    def _pixels(self, chosen: Sequence[int], size: tuple[int, int]) -> Pixels | None:
        if not self.has_pixels:
            return None
        pairs = [self._pixel_mask(index, size) for index in chosen]
        return Pixels(*map(torch.stack, zip(*pairs, strict=True)))

    def _pixel_mask(self, index: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Read a mask; one without an object, which no map can find, is not judged."""
        try:
            found: tuple[Tensor, Tensor] = self.data.pixel_mask(index, size)
        except EmptyObjectError:
            return torch.zeros(size, dtype=torch.bool), torch.ones(size, dtype=torch.bool)
        return found


# ---- The first images of a benchmark with the maps of all methods, for the montage.


def samples_of(
    images: Images, store: Store, result: Result, to_picture: Callable[[Tensor], Any]
) -> list[Sample]:
    """Read the maps that were kept, and their images.

    Args:
        images: The benchmark's.
        store: Where the maps of the first images are.
        result: Its rows; those that failed have no maps.
        to_picture: Makes pixels ``(H, W, 1 or 3)`` in [0, 1] of an image.

    Returns:
        One sample an image; none if every method failed.

    Source:
        Own.
    """
    kept = {r.name: store.read(r.name, ["maps"])["maps"] for r in result.rows if not r.failure}
    shown = len(next(iter(kept.values()), ()))
    samples = []
    for place, index in enumerate(images.indices[:shown]):
        image, label = images.data[index]
        maps = {name: planes[place].astype(np.float32) for name, planes in kept.items()}
        samples.append(
            Sample(to_picture(image), maps, _boxes(images, index, image), f"class {label}")
        )
    return samples


def stretched(image: Tensor) -> np.ndarray[Any, Any]:
    """Return an image ``(C, H, W)`` as pixels in its own range; other than 3 channels as grey.

    Source:
        Own.

    Example:
        >>> import torch
        >>> stretched(torch.tensor([[[-1.0, 0.0, 1.0]]]))[0, :, 0]
        array([0. , 0.5, 1. ], dtype=float32)
    """
    pixels = image.detach().float().cpu().permute(1, 2, 0).numpy()
    pixels = pixels if pixels.shape[2] == 3 else pixels.mean(2, keepdims=True)
    low, high = pixels.min(), pixels.max()
    return (pixels - low) / max(high - low, 1e-12)


def _boxes(images: Images, index: int, image: Tensor) -> list[list[float]]:
    if not images.has_boxes:
        return []
    found: list[list[float]] = boxes_to_pixels(images.data.boxes[index], *image.shape[1:]).tolist()
    return found
