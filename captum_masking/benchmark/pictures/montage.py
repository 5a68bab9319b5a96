"""The same images under all methods."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from captum_masking.benchmark.pictures.style import fit
from captum_masking.benchmark.result import Result
from captum_masking.viz import Panel, overlay

_DPI, _SIDE, _GAP, _TITLE_HEIGHT = 100, 168, 8, 34  # in pixels of the file
_PER_LINE = 9  # panels
_TITLE = 26  # characters that fit above a panel

_Place = tuple[int, int, Panel]


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


def draw_montage(samples: Sequence[Sample], result: Result, file: str | Path) -> None:
    """Draw each image with its boxes and its maps, as many lines of panels as that takes.

    Args:
        samples: At least one.
        result: Gives the order of the methods; those without any map are left out.
        file: A PNG file.

    Raises:
        ValueError: If there is no sample.

    Source:
        Own.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # without pyplot: the user's backend stays as it is

    if not samples:
        raise ValueError("expected at least one image for the montage, but got none.")
    placed, width, height = _place(samples, result)
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    for left, top, panel in placed:
        _draw_panel(axes, left, top, panel)
    canvas.print_png(file)


def _place(samples: Sequence[Sample], result: Result) -> tuple[list[_Place], int, int]:
    """Say where each panel goes, and the size of it all; in screen pixels."""
    names = [row.name for row in result.rows if any(row.name in s.maps for s in samples)]
    lines = math.ceil((1 + len(names)) / _PER_LINE)
    length = math.ceil((1 + len(names)) / lines)
    placed, top = [], 0
    for sample in samples:
        step = _SIDE * sample.pixels.shape[0] // sample.pixels.shape[1] + _TITLE_HEIGHT
        for place, panel in enumerate(_panels(sample, names)):
            left = _GAP + place % length * (_SIDE + _GAP)
            placed.append((left, top + place // length * step + _TITLE_HEIGHT, panel))
        top += lines * step + 2 * _GAP
    return placed, _GAP + length * (_SIDE + _GAP), top


def _draw_panel(axes: Any, left: int, top: int, panel: Panel) -> None:
    from matplotlib.patches import Rectangle

    height, width = panel.pixels.shape[:2]
    scale = _SIDE / width
    extent = (left, left + _SIDE, top + scale * height, top)
    axes.imshow(panel.pixels.squeeze(), cmap="gray", vmin=0, vmax=1, extent=extent, aspect="auto")
    axes.text(left, top - 4, panel.title, fontsize=8.5, va="bottom", linespacing=1.0)
    for x0, y0, x1, y1 in panel.boxes:
        corner = left + scale * float(x0), top + scale * float(y0)
        size = scale * float(x1 - x0), scale * float(y1 - y0)
        for color, line in (("black", 2.2), ("white", 1.0)):
            axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=color, linewidth=line))


def _panels(sample: Sample, names: Sequence[str]) -> list[Panel]:
    image = Panel(sample.pixels, fit(sample.title, _TITLE), sample.boxes)
    nothing = np.ones(sample.pixels.shape[:2])
    panels = [
        Panel(
            _heat(sample, name) if name in sample.maps else nothing,
            fit(name, _TITLE),
            sample.boxes,
        )
        for name in names
    ]
    return [image, *panels]


def _heat(sample: Sample, name: str) -> np.ndarray:
    # As the metrics do: what is not a number is no evidence.
    return overlay(sample.pixels, torch.as_tensor(sample.maps[name]).float().nan_to_num(0, 0, 0))


def as_jpeg(file: str | Path) -> bytes:
    """Return a PNG file as JPEG, a fifth of its size, for the page.

    Source:
        Own.
    """
    from PIL import Image  # matplotlib draws with it

    stream = io.BytesIO()
    with Image.open(file) as picture:
        picture.convert("RGB").save(stream, format="JPEG", quality=85)
    return stream.getvalue()
