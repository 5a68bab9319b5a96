"""What is measured of a batch of maps: arrays with one row an image, from which tables are made.

A row is NaN all over where an image has no such ground truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from captum_masking.benchmark.method import Method
from captum_masking.benchmark.truth import Batch, Pixels
from captum_masking.infill import Blur, Infill, Mean
from captum_masking.metrics import (
    best_box_iou,
    binarized_area,
    energy_pointing,
    f1,
    f1_mean,
    infidelity,
    localization_error,
    mask_area,
    mask_entropy,
    mask_iou,
    mask_iou_by_threshold,
    mask_sparseness,
    mask_total_variation,
    masked_scores,
    max_box_acc,
    max_box_acc_v2,
    max_sensitivity,
    om,
    pixel_histograms,
    pointing_game,
    saliency_metric,
)
from captum_masking.metrics.faithfulness.certificate import completeness_and_soundness
from captum_masking.metrics.faithfulness.removal import deletion, insertion

Arrays = dict[str, Tensor]

_PIXEL_STEP = 0.01  # of average precision, as Phang et al. take it


class Scores:
    """All that is measured of a method's maps.

    Args:
        judge: The classifier whose answers count, in eval mode.
        curve_steps: Points of the insertion and deletion curves; RISE takes 28.
        curve_images: So many images, from the first on, have these curves; None is all.
        robustness: Also measure infidelity and max-sensitivity, which ask the method itself
            eleven times over.
        infill: What fills the holes.

    Source:
        Own; the scores are those of ``captum_masking.metrics``.
    """

    def __init__(
        self,
        judge: nn.Module,
        *,
        curve_steps: int = 10,
        curve_images: int | None = None,
        robustness: bool = False,
        infill: Infill = Mean(),
    ) -> None:
        self.judge = judge
        self.curve_steps, self.curve_images = curve_steps, curve_images
        self.robustness, self.infill = robustness, infill

    def __call__(self, method: Method, maps: Tensor, batch: Batch) -> Arrays:
        """Measure maps ``(B, 1, H, W)`` in [0, 1]; return arrays ``(B, ...)`` by name."""
        arrays = {
            "correct": batch.correct.float(),
            "degenerate": (~maps.isfinite()).flatten(1).any(1).float(),
            **statistics(maps),
        }
        if batch.boxes is not None:
            arrays |= by_boxes(maps, batch.boxes, batch.correct)
        if batch.pixels is not None:
            arrays |= by_pixels(maps, batch.pixels)
        judged = (self.judge, batch.inputs, maps, batch.target)
        arrays |= masked_scores(*judged, infill=self.infill)
        arrays["saliency_metric"] = saliency_metric(*judged)
        if self.curve_images is None or batch.first < self.curve_images:
            arrays |= self._curves(*judged)
        if self.robustness:
            arrays |= self._robust(method, batch)
        return arrays

    def _curves(self, *judged: Any) -> Arrays:
        height, width = judged[1].shape[2:]
        curve: dict[str, Any] = {"step_px": max(height * width // self.curve_steps, 1)}
        complete, sound = completeness_and_soundness(*judged, infill=self.infill, **curve)
        return {
            "insertion": insertion(*judged, infill=Blur(sigma_px=5.0), **curve),
            "deletion": deletion(*judged, infill=self.infill, **curve),
            "completeness": complete,
            "soundness": sound,
        }

    def _robust(self, method: Method, batch: Batch) -> Arrays:
        def explain(inputs: Tensor, target: Tensor) -> Tensor:
            return method.maps(inputs.detach(), target)

        asked: tuple[Any, ...] = (self.judge, batch.inputs, explain, batch.target)
        return {"infidelity": infidelity(*asked), "max_sensitivity": max_sensitivity(*asked)}


def by_boxes(maps: Tensor, boxes: Sequence[Tensor], correct: Tensor) -> Arrays:
    """Compare maps ``(B, 1, H, W)`` with boxes; images without a box get NaN.

    Args:
        maps: In [0, 1], or NaN.
        boxes: One tensor ``(n, 4)`` an image in pixels, n >= 0.
        correct: ``(B,)``, whether the classifier sees the class explained.

    Returns:
        Arrays ``(B, ...)``: ``error``, ``box_iou``, ``om``, ``f1``, ``f1_mean``, ``pointing``,
        ``energy``, ``found`` by threshold, ``found_v2`` by level and threshold, ``pixels``.

    Source:
        As the metrics.

    Example:
        >>> maps = torch.zeros(2, 1, 4, 4)
        >>> maps[:, :, :2, :2] = 1
        >>> boxes = [torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.zeros(0, 4)]
        >>> by_boxes(maps, boxes, torch.tensor([True, True]))["error"]
        tensor([0., nan])
    """
    boxed = torch.tensor([len(found) > 0 for found in boxes])
    if not boxed.any():
        return {}
    some, known = maps[boxed], [found for found in boxes if len(found)]
    arrays = {
        "error": localization_error(some, known),
        "box_iou": best_box_iou(some, known),
        "om": om(some, known, correct[boxed]),
        "f1": f1(some, known),
        "f1_mean": f1_mean(some, known),
        "pointing": pointing_game(some, known),
        "energy": energy_pointing(some, known),
        "found": max_box_acc(some, known),
        "found_v2": max_box_acc_v2(some, known),
        "pixels": pixel_histograms(some, known, step=_PIXEL_STEP),
    }
    return {name: _spread(values, boxed) for name, values in arrays.items()}


def by_pixels(maps: Tensor, pixels: Pixels) -> Arrays:
    """Compare maps ``(B, 1, H, W)`` with pixel masks; images without any object get NaN.

    Args:
        maps: In [0, 1], or NaN.
        pixels: The object, and what is not to be judged.

    Returns:
        Arrays ``(B, ...)``: ``mask_iou``, ``mask_ious`` by threshold, ``mask_pointing``,
        ``mask_energy``, ``mask_pixels``.

    Source:
        As the metrics.

    Example:
        >>> maps = torch.tensor([[[[1.0, 1.0, 0.0, 0.0]]]])
        >>> known = torch.tensor([[[True, False, False, False]]])
        >>> round(float(by_pixels(maps, Pixels(known, ~known & False))["mask_iou"]), 2)
        0.5
        >>> ignore = torch.tensor([[[False, True, False, False]]])
        >>> float(by_pixels(maps, Pixels(known, ignore))["mask_iou"])
        1.0
    """
    there = pixels.object.flatten(1).any(1)
    if not there.any():
        return {}
    # A pixel that is not judged, given the least value, is neither found nor missed.
    some = maps[there].where(~pixels.ignore[there][:, None], 0)
    known = pixels.object[there][:, None]
    arrays = {
        "mask_iou": mask_iou(some, known),
        "mask_ious": mask_iou_by_threshold(some, known),
        "mask_pointing": pointing_game(some, known),
        "mask_energy": energy_pointing(some, known),
        "mask_pixels": pixel_histograms(
            some, known, step=_PIXEL_STEP, ignore=pixels.ignore[there][:, None]
        ),
    }
    return {name: _spread(values, there) for name, values in arrays.items()}


def statistics(maps: Tensor) -> Arrays:
    """Describe maps ``(B, 1, H, W)`` without any ground truth; NaN for one that has NaN."""
    return {
        "area": mask_area(maps),
        "binarized_area": binarized_area(maps),
        "entropy": mask_entropy(maps),
        "total_variation": mask_total_variation(maps),
        "sparseness": mask_sparseness(maps),
    }


def _spread(values: Tensor, rows: Tensor) -> Tensor:
    """Put values ``(n, ...)`` into the n rows named by booleans ``(B,)``, NaN into the others."""
    spread = values.new_full((len(rows), *values.shape[1:]), float("nan"), dtype=torch.float32)
    spread[rows] = values.float()
    return spread
