"""Masks as planes in double precision, checks of masks and boxes, and facts of metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

_Function = TypeVar("_Function", bound=Callable[..., Tensor])


def facts(
    *, higher_is_better: bool | None, lowest: float | None = 0.0, highest: float | None = 1.0
) -> Callable[[_Function], _Function]:
    """Set ``higher_is_better`` and the range of a metric function, for `MeanOf`."""

    def attach(function: _Function) -> _Function:
        function.__dict__.update(
            higher_is_better=higher_is_better, plot_lower_bound=lowest, plot_upper_bound=highest
        )
        return function

    return attach


def double(values: Tensor) -> Tensor:
    return values.to(torch.float32 if values.device.type == "mps" else torch.float64)


def planes_of(masks: Tensor) -> Tensor:
    """Return masks ``(B, 1, H, W)`` or ``(B, H, W)`` as detached planes in double precision."""
    check_masks(masks)
    return double(masks.detach().reshape(-1, *masks.shape[-2:]))


def is_finite(masks: Tensor) -> Tensor:
    flat = masks.reshape(len(masks), -1)
    return flat.amin(1).isfinite() & flat.amax(1).isfinite()  # either is NaN if any value is


def or_nan(values: Tensor, finite: Tensor) -> Tensor:
    return values.where(finite, float("nan")).float()


def finite_planes(masks: Tensor) -> Tensor:
    """Return `planes_of` masks, those with NaN or infinity as zeros."""
    planes = planes_of(masks)
    finite = is_finite(planes)
    return planes if finite.all() else planes.where(finite[:, None, None], 0)


def above(planes: Tensor, threshold: float | None = None) -> Tensor:
    """Return where planes exceed the threshold or their mean; nowhere in one that is not finite."""
    # Rounding may put the mean of a constant below the constant, which would then be all on.
    own = torch.maximum(planes.mean((1, 2), True), planes.amin((1, 2), True))
    return (planes > (own if threshold is None else threshold)) & is_finite(planes)[:, None, None]


def min_max(masks: Tensor) -> Tensor:
    """Scale each map from its minimum and maximum to [0, 1]; at least float32.

    A constant map becomes zeros (ones in Phang et al. 2020), a map with NaN or infinity becomes
    NaN; metrics count both as no evidence.

    Example:
        >>> min_max(torch.tensor([[[-1.0, 0.0, 3.0]]]))
        tensor([[[0.0000, 0.2500, 1.0000]]])
    """
    planes = planes_of(masks)
    low, high = planes.amin((1, 2), keepdim=True), planes.amax((1, 2), keepdim=True)
    scaled = torch.where(high > low, (planes - low) / (high - low), torch.zeros_like(planes))
    scaled = scaled.where(is_finite(planes)[:, None, None], float("nan"))
    return scaled.reshape(masks.shape).to(torch.promote_types(masks.dtype, torch.float32))


def most_salient(masks: Tensor, area: float | Tensor) -> Tensor:
    """Return masks ``(B, 1, H, W)`` that are 1 on the pixels with the highest values, 0 elsewhere.

    Use it to compare methods at equal area: a faint mask shows a little of everything, and so seems
    to keep the class. Equal values go in reading order.

    Args:
        area: Share of pixels with 1, in [0, 1]; one for all, or ``(B,)``.

    Example:
        >>> most_salient(torch.tensor([[[0.2, 0.9, 0.3, 0.1]]]), 0.5)
        tensor([[[[0., 1., 1., 0.]]]])
    """
    flat = finite_planes(masks).flatten(1)
    order = flat.sort(dim=1, descending=True, stable=True).indices
    pixels = (torch.as_tensor(area, device=flat.device).expand(len(flat)) * flat.shape[1]).round()
    on = torch.arange(flat.shape[1], device=flat.device) < pixels[:, None]
    found = torch.zeros(flat.shape, device=flat.device).scatter_(1, order, on.float())
    return found.reshape(len(masks), 1, *masks.shape[-2:])


def check_masks(masks: Tensor) -> None:
    if not (masks.dim() == 3 or (masks.dim() == 4 and masks.shape[1] == 1)) or not masks.numel():
        raise ValueError(
            f"masks must have shape (B, 1, H, W) or (B, H, W), but got {tuple(masks.shape)}; "
            "reduce an attribution over its channels first, for example with .sum(1)."
        )


def check_unit_range(masks: Tensor) -> None:
    """Check that masks stay in [0, 1] up to rounding; those with NaN or infinity pass."""
    found = masks.detach()[is_finite(masks)]
    if ((found < -1e-3) | (found > 1 + 1e-3)).any():
        raise ValueError(
            f"masks must lie in [0, 1], but got values from {found.min():g} to {found.max():g}; "
            "scale an attribution first with min_max(masks)."
        )


def check_predicted(predicted: Tensor) -> None:
    if predicted.dim() not in (1, 2) or predicted.shape[-1] != 4:
        raise ValueError(
            f"predicted boxes must have shape (B, 4) or (4,), but got {tuple(predicted.shape)}; "
            "masks_to_boxes(masks) makes them from masks."
        )


def check_boxes(images: int, boxes: Sequence[Tensor]) -> None:
    if len(boxes) != images or images == 0:
        raise ValueError(
            f"boxes must be a list with one tensor (n, 4) for each image, but got {len(boxes)} "
            f"entries for {images} images; put the boxes of one image into one tensor."
        )
    for image, truth in enumerate(boxes):
        _check_boxes_of_image(truth, image)


def _check_boxes_of_image(truth: Tensor, image: int) -> None:
    if not isinstance(truth, Tensor):
        raise TypeError(
            f"boxes[{image}] must be a tensor (n, 4), but got {type(truth).__name__}; convert it "
            "with torch.as_tensor(...)."
        )
    if truth.dim() != 2 or truth.shape[1] != 4:
        raise ValueError(
            f"boxes[{image}] must have shape (n, 4), but got {tuple(truth.shape)}; write one box "
            "as box[None]."
        )
    if not len(truth):
        raise ValueError(
            f"boxes[{image}] must hold at least one box, but is empty; omit images without boxes."
        )
    if not (truth.isfinite().all() and (truth[:, :2] < truth[:, 2:]).all()):
        raise ValueError(
            f"boxes[{image}] must be (x0, y0, x1, y1) with x0 < x1 and y0 < y1, but got "
            f"{truth.tolist()}; convert (x, y, width, height), and drop empty boxes."
        )


def check_scale(reach: float, boxes: Sequence[Tensor]) -> None:
    """Check that boxes are not fractions where the masks or other boxes reach many pixels."""
    values = torch.cat([truth.detach().reshape(-1).cpu().double() for truth in boxes])
    fractions = 0 <= values.min() <= values.max() <= 1 and (values % 1).any()
    if fractions and reach > 1:  # no object lies within the first pixel
        raise ValueError(
            f"boxes must be in pixels, like the predicted boxes, which reach {reach:g}, but none "
            "exceeds 1; convert fractions with boxes_to_pixels(boxes, height, width)."
        )


def check_masks_and_boxes(masks: Tensor, boxes: Sequence[Tensor]) -> None:
    check_masks(masks)
    check_boxes(len(masks), boxes)
    check_scale(max(masks.shape[-2:]), boxes)
    check_unit_range(masks)


def check_truth(masks: Tensor, truth: Tensor) -> None:
    if truth.numel() != masks.numel() or truth.shape[-2:] != masks.shape[-2:]:
        raise ValueError(
            f"pixel masks must have the shape of the masks, {tuple(masks.shape)}, but got "
            f"{tuple(truth.shape)}; resize them with nearest neighbors."
        )
    if not ((truth == 0) | (truth == 1)).all():
        raise ValueError(
            "pixel masks must hold 0 and 1 only, 1 on the object, but hold other values; turn a "
            "label map into one with labels == label."
        )
    empty = (truth.reshape(len(truth), -1) == 0).all(1).nonzero().flatten().tolist()
    if empty:
        raise ValueError(
            f"each pixel mask must mark at least one pixel, but images {empty[:5]} have none; "
            "omit images without an object."
        )
