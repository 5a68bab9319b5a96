"""Pictures of masks that keep their values: 0 is always clear and 1 always full."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor


class Panel(NamedTuple):
    """One picture of a montage.

    Attributes:
        pixels: ``(H, W, 3)`` or ``(H, W)``, in ``[0, 1]``.
        title: Written above it.
        boxes: ``(n, 4)`` in pixels, drawn as outlines.

    Source:
        Own.
    """

    pixels: np.ndarray
    title: str = ""
    boxes: Sequence[Sequence[float]] = ()


def to_pixels(image: Tensor, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Undo a normalisation.

    Args:
        image: ``(C, H, W)`` with one or three channels.
        mean: Per channel, of pixels in ``[0, 1]``.
        std: Per channel.

    Returns:
        ``(H, W, C)`` in ``[0, 1]``.

    Source:
        Own.

    Example:
        >>> import torch
        >>> float(to_pixels(torch.zeros(1, 1, 1), mean=[0.5], std=[0.5])[0, 0, 0])
        0.5
    """
    pixels = image.detach().float().cpu().permute(1, 2, 0).numpy()
    return (pixels * np.asarray(std) + np.asarray(mean)).clip(0, 1)


def overlay(pixels: np.ndarray, mask: Tensor, *, strength: float = 0.6) -> np.ndarray:
    """Lay a mask over its image as a heat map; an empty mask shows the dark end of the colours.

    Args:
        pixels: ``(H, W, 3)`` or ``(H, W, 1)`` in ``[0, 1]``.
        mask: ``(H, W)`` or ``(1, H, W)`` in ``[0, 1]``; never rescaled, so maps compare.
        strength: Opacity of the heat map.

    Returns:
        ``(H, W, 3)`` in ``[0, 1]``.

    Source:
        Own; Captum's own drawing rescales each map and fails on an empty one.

    Example:
        >>> import torch
        >>> overlay(np.zeros((2, 2, 3)), torch.zeros(2, 2)).shape
        (2, 2, 3)
    """
    import matplotlib

    values = mask.detach().float().cpu().reshape(mask.shape[-2:]).clamp(0, 1).numpy()
    heat = matplotlib.colormaps["inferno"](values)[..., :3]
    grey = pixels.mean(axis=2, keepdims=True).repeat(3, axis=2)
    return (1 - strength) * grey + strength * heat


def montage(rows: Sequence[Sequence[Panel]], file: str | Path) -> None:
    """Write rows of pictures to one PNG.

    Args:
        rows: Each a list of panels; titles belong above each.
        file: Its folder is made if need be.

    Raises:
        ValueError: If there is nothing to draw.

    Source:
        Own.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # without pyplot: the user's backend stays as it is

    if not rows:
        raise ValueError("expected at least one row of panels to draw, but got none.")
    columns, width = max(map(len, rows)), 2.4  # inches
    heights = [width * _aspect(row[0]) + 0.4 for row in rows]  # with room for two lines of title
    figure = Figure(figsize=(width * columns, sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    ratios = {"height_ratios": heights}
    axes = figure.subplots(len(rows), columns, squeeze=False, gridspec_kw=ratios)
    for axis in axes.flat:
        axis.set_axis_off()
    for row, row_axes in zip(rows, axes, strict=True):
        for panel, axis in zip(row, row_axes, strict=False):
            _draw(panel, axis)
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


def _aspect(panel: Panel) -> float:
    return panel.pixels.shape[0] / panel.pixels.shape[1]


def _draw(panel: Panel, axis) -> None:  # type: ignore[no-untyped-def]  # matplotlib is lazy
    from matplotlib.patches import Rectangle

    pixels = panel.pixels
    axis.imshow(pixels.squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axis.set_title(panel.title, fontsize=9)
    for x0, y0, x1, y1 in panel.boxes:
        for color, width in (("black", 2.5), ("white", 1.2)):
            axis.add_patch(
                Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, ec=color, lw=width)
            )
