"""The first images of a benchmark with the maps of all methods, for the montage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from captum_masking.benchmark.pictures import Sample
from captum_masking.benchmark.result import Result
from captum_masking.benchmark.store import Store
from captum_masking.benchmark.truth import Images
from captum_masking.metrics import boxes_to_pixels


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
