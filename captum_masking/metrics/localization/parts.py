"""The parts of a binary plane that hang together by sides or corners, as their boxes.

Eight neighbours are what OpenCV's contours follow. Arrays in, arrays out, on the CPU.
"""

from __future__ import annotations

from itertools import compress
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

_EIGHT = np.ones((3, 3), dtype=bool)


def part_boxes(on: Array, least: float = 0.0) -> Array:
    """Return the half-open boxes ``(n, 4)`` of all parts with at least ``least`` pixels."""
    parts, sizes = label(on, _EIGHT)
    return _boxes_of(parts, sizes >= least)


def hole_boxes(on: Array, least: float = 0.0) -> Array:
    """Return the boxes ``(n, 4)`` of the rims of all holes with at least ``least`` pixels.

    A hole is off, hangs together by its sides and does not reach the frame; its rim is the ring
    of pixels around it, so the box is one pixel wider than the hole on all four sides.
    """
    parts, sizes = label(~on, None)
    boxes = _boxes_of(parts, sizes >= least)
    height, width = on.shape
    inner = (boxes[:, :2] > 0).all(1) & (boxes[:, 2:] < (width, height)).all(1)
    return boxes[inner] + (-1, -1, 1, 1)


def largest_part_box(on: Array) -> Array:
    """Return the box ``(n, 4)``, n = 0 or 1, of the part with most pixels; ties: the first."""
    parts, sizes = label(on, _EIGHT)
    return _boxes_of(parts, _only(sizes, sizes.argmax())) if len(sizes) else np.empty((0, 4))


def largest_contour_box(on: Array) -> Array:
    """Return the box ``(n, 4)``, n = 0 or 1, of the part with the largest `contour_area`.

    Ties: the last in reading order, which OpenCV lists first.
    """
    parts, sizes = label(on, _EIGHT)
    if not len(sizes):
        return np.empty((0, 4))
    least = _largest_contour(parts, _only(sizes, sizes.argmax()))[1]
    # A part of n pixels spans n columns and rows at most, and its contour (n - 1)^2.
    return _largest_contour(parts, (sizes - 1.0) ** 2 >= least)[0]


def _largest_contour(parts: Array, chosen: Array) -> tuple[Array, float]:
    """Return the box ``(1, 4)`` and the area of the chosen part with the largest contour."""
    boxes, numbers = _boxes_of(parts, chosen), np.flatnonzero(chosen) + 1
    bounds, best, most = (boxes[:, 2:] - boxes[:, :2] - 1).prod(1), 0, -1.0
    for index in np.argsort(-bounds, kind="stable"):
        if bounds[index] < most:
            break
        (x0, y0, x1, y1), number = boxes[index], numbers[index]
        area = contour_area(parts[y0:y1, x0:x1] == number) if bounds[index] else 0.0
        if (area, number) > (most, numbers[best]):
            best, most = index, area
    return boxes[best : best + 1], most


def contour_area(part: Array) -> float:
    """Return the area inside the closed line through the centers of a part's outer pixels.

    Holes count. Between four neighbouring centers the line encloses the whole unit square if all
    four are in, half of it if three are: a rectangle of h x w pixels has (h - 1)(w - 1), a line
    nothing.
    """
    off = np.ones((part.shape[0] + 2, part.shape[1] + 2), dtype=bool)
    off[1:-1, 1:-1] = ~part
    filled = (_label(off, None)[0] != 1).astype(np.int8)  # part 1 holds the first pixel: outside
    corners = filled[:-1, :-1] + filled[:-1, 1:] + filled[1:, :-1] + filled[1:, 1:]
    return float((corners == 4).sum() + (corners == 3).sum() / 2)


def label(on: Array, structure: Array | None) -> tuple[Array, Array]:
    """Return the number of each pixel's part, 1 upwards in reading order, and the parts' sizes."""
    parts, count = _label(on, structure)
    return parts, np.bincount(parts.ravel(), minlength=count + 1)[1:]


def _label(on: Array, structure: Array | None) -> tuple[Array, int]:
    from scipy import ndimage  # late, so that importing the package stays quick

    found: tuple[Array, int] = ndimage.label(on, structure)
    return found


def _only(sizes: Array, index: Any) -> Array:
    chosen = np.zeros(len(sizes), dtype=bool)
    chosen[index] = True
    return chosen


def _boxes_of(parts: Array, chosen: Array) -> Array:
    from scipy import ndimage

    if len(chosen) > 50:  # often thousands of specks: number the chosen parts only
        numbers = np.zeros(len(chosen) + 1, dtype=np.int32)
        numbers[1:][chosen] = np.arange(1, chosen.sum() + 1)
        parts, chosen = numbers[parts], chosen[chosen]
    spans = ndimage.find_objects(parts)
    rows = [(x.start, y.start, x.stop, y.stop) for y, x in compress(spans, chosen)]
    return np.array(rows, dtype=np.int64).reshape(-1, 4)
