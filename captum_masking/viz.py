"""Pictures of masks that keep their values: 0 is always clear and 1 always full."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from captum_masking._base.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Panel", "compare", "montage", "overlay", "show", "to_pixels"]


class Panel(NamedTuple):
    """One picture of a montage.

    Attributes:
        pixels: ``(H, W, 3)`` or ``(H, W)``, in ``[0, 1]`` or 0..255.
        title: Written above it.
        boxes: ``(n, 4)`` in pixels, drawn as outlines.
    """

    pixels: np.ndarray
    title: str = ""
    boxes: Sequence[Sequence[float]] = ()


def to_pixels(image: Tensor, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Undo the normalization of an image ``(C, H, W)``; return pixels ``(H, W, C)`` in ``[0, 1]``.

    Args:
        image: Of one or three channels.
        mean: Per channel, of pixels in ``[0, 1]``.
        std: Per channel.

    Example:
        >>> import torch
        >>> float(to_pixels(torch.zeros(1, 1, 1), mean=[0.5], std=[0.5])[0, 0, 0])
        0.5
    """
    pixels = _one_image(image, "image").detach().float().cpu().permute(1, 2, 0).numpy()
    return in_unit(pixels * np.ravel(std) + np.ravel(mean))


def in_unit(pixels: Any) -> np.ndarray:
    """Bring pixels to ``[0, 1]``: divide those of 0..255, and clip others."""
    pixels = np.asarray(pixels)
    least, most = (float(end(pixels)) for end in (np.nanmin, np.nanmax))
    if pixels.dtype == np.uint8 or (least >= 0 and 2 < most <= 255):
        return pixels / 255
    if np.mean((pixels < -0.5) | (pixels > 1.5)) > 0.1:  # noise as infill goes beyond, too
        text = f"pixels of {least:.3g} to {most:.3g} are clipped to 0..1; give mean and std."
        warnings.warn(text, stacklevel=3)
    return pixels.clip(0, 1)


def overlay(pixels: np.ndarray, mask: Tensor, *, strength: float = 0.6) -> np.ndarray:
    """Lay a mask over its image as a heat map; an empty mask shows the dark end of the colors.

    NaN values show the image. The colors are matplotlib's inferno, which color-blind readers and
    gray prints show well.

    Args:
        pixels: ``(H, W, 3)``, ``(H, W, 1)`` or ``(H, W)`` in ``[0, 1]`` or 0..255.
        mask: ``(H, W)`` or ``(1, H, W)`` in ``[0, 1]``; never rescaled, so maps compare.
        strength: Opacity of the heat map.

    Returns:
        ``(H, W, 3)`` in ``[0, 1]``.

    Example:
        >>> import torch
        >>> overlay(np.zeros((2, 2, 3)), torch.zeros(2, 2)).shape
        (2, 2, 3)
    """
    import matplotlib

    pixels, mask = np.asarray(pixels), torch.as_tensor(mask)
    if mask.numel() != mask.shape[-2:].numel():
        raise ValueError(
            f"mask must be (H, W) or (1, H, W), but got {tuple(mask.shape)}; take one."
        )
    mask = mask.detach().float().cpu() / (255 if mask.dtype == torch.uint8 else 1)
    if beyond := _beyond(mask):
        warnings.warn(f"a mask of {beyond}; rescale it to [0, 1].", stacklevel=2)
    values = mask.reshape(mask.shape[-2:]).clamp(0, 1).numpy()
    heat = matplotlib.colormaps["inferno"](values)[..., :3]
    if pixels.shape[:2] != values.shape or pixels.shape[2:] not in ((), (1,), (3,)):
        raise ValueError(
            f"pixels must be of the mask's size, {(*values.shape, 3)}, but got "
            f"{tuple(pixels.shape)}; of a tensor (3, H, W) pass to_pixels(x, mean, std)."
        )
    pixels = in_unit(pixels).reshape(*values.shape, -1)
    gray = pixels.mean(axis=2, keepdims=True).repeat(3, axis=2)
    return np.where(np.isnan(values)[..., None], gray, (1 - strength) * gray + strength * heat)


def compare(
    inputs: Tensor,
    attributions: Mapping[str, Tensor],
    *,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    strength: float = 0.6,
) -> Figure:
    """Draw one image with the maps of several methods side by side, all on one scale.

    A notebook shows the returned figure; ``figure.savefig("maps.png")`` writes it. No display is
    needed, and pyplot's state does not change.

    Args:
        inputs: One image, ``(C, H, W)`` or ``(1, C, H, W)``, with one or three channels.
        attributions: Maps by title, each ``(1, H, W)`` or ``(C, H, W)``, with or without a batch
            axis of one; channels are averaged. The scale is [0, 1]; values beyond are cut, and the
            title says so. NaN is not drawn.
        mean: Per channel, as for :func:`to_pixels`; the defaults suit pixels in [0, 1].
        std: Per channel.
        strength: Opacity of the heat maps.

    Returns:
        The figure: the image, and each map over it, with a color bar.

    Example:
        >>> import torch
        >>> image = torch.rand(3, 8, 8)
        >>> figure = compare(image, {"left": torch.eye(8)[None], "nothing": torch.zeros(1, 8, 8)})
        >>> [axis.get_title() for axis in figure.axes[:3]]
        ['', 'left', 'nothing']
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    image = _one_image(torch.as_tensor(inputs), "inputs")
    if not attributions:
        raise ValueError("expected at least one map to draw, but got none; pass {'name': map}.")
    pixels = to_pixels(image, mean, std)
    panels = [Panel(pixels)]
    for name, attribution in attributions.items():
        mask = _one_map(attribution, image, name)
        pane = overlay(pixels, mask.clamp(0, 1), strength=strength)
        panels.append(Panel(pane, _title(name, mask)))
    figure = _figure([panels])
    scale = ScalarMappable(Normalize(0, 1), cmap="inferno")
    figure.colorbar(scale, ax=figure.axes, fraction=0.02, ticks=[0, 0.5, 1])
    # Notebooks know how to show a figure only once pyplot was imported.
    figure._repr_png_ = partial(_as_png, figure)  # type: ignore[attr-defined]
    return figure


def _as_png(figure: Figure) -> bytes:
    held = BytesIO()
    figure.savefig(held, format="png")
    return held.getvalue()


def _one_image(tensor: Tensor, name: str) -> Tensor:
    image = tensor[0] if tensor.dim() == 4 and len(tensor) == 1 else tensor
    if image.dim() != 3 or image.shape[0] not in (1, 3):
        raise ValueError(
            f"{name} must be one image (C, H, W) with one or three channels, but got "
            f"{tuple(tensor.shape)}; take one image of a batch with {name}[0]."
        )
    return image


def _one_map(attribution: Tensor, image: Tensor, name: str) -> Tensor:
    maps = attribution.detach().float()
    maps = maps[0] if maps.dim() == 4 and len(maps) == 1 else maps
    if maps.dim() not in (2, 3) or maps.shape[-2:] != image.shape[-2:]:
        raise ValueError(
            f"the map {name!r} must be (1, H, W) or (C, H, W) for an image of shape "
            f"{tuple(image.shape)}, but got {tuple(attribution.shape)}; resample it first, for "
            "example with captum_masking.parts.masker.linear."
        )
    return maps if maps.dim() == 2 else maps.mean(0)


def _title(name: str, mask: Tensor) -> str:
    """Add values beyond the scale, or not finite, to a title."""
    notes = [beyond] if (beyond := _beyond(mask)) else []
    if others := int((~mask.isfinite()).sum()):
        notes.append(f"{others} values not finite")
    return "\n".join([str(name), *notes])


def _beyond(mask: Tensor) -> str:
    finite = mask[mask.isfinite()]
    is_within = not len(finite) or (finite.min() > -1e-3 and finite.max() < 1.001)
    return "" if is_within else f"{finite.min():.3g} to {finite.max():.3g}, cut to 0..1"


def montage(
    rows: Sequence[Sequence[Panel]],
    file: str | Path,
    *,
    width: float = 2.4,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write rows of panels, each ``width`` inches wide, and notes to one PNG.

    The file's folder is made if needed.
    """
    figure = _figure(rows, width)
    recorded = warnings.catch_warnings(record=True, action="always")
    with replacing(file, shared=True) as staged, recorded as said:
        figure.savefig(staged, dpi=110, metadata=notes)
    figure.clear()  # breaks reference cycles that keep the pixels
    others = [each for each in said if "missing from" not in str(each.message)]
    for each in others:
        warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    if len(others) < len(said):
        way_out = "set font.family in a matplotlibrc file to a font that has them"
        warnings.warn(
            f"the font of {file} lacks some letters, drawn as boxes; {way_out}.", stacklevel=2
        )


def show(rows: Sequence[Sequence[Panel]], *, width: float = 1.7) -> None:
    """Show rows of panels, each ``width`` inches wide, in a notebook or a window.

    Example:
        >>> show([[Panel(np.zeros((8, 8, 3)), "black"), Panel(np.ones((8, 8, 3)), "white")]])
    """
    import matplotlib.pyplot as plt

    _figure(rows, width, plt.figure)


def _figure(
    rows: Sequence[Sequence[Panel]], width: float = 2.4, make: Callable[..., Figure] | None = None
) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # without pyplot: the user's backend stays as it is

    if not rows:
        raise ValueError("expected at least one row of panels to draw, but got none.")
    aspects = [row[0].pixels.shape[0] / row[0].pixels.shape[1] for row in rows]
    heights = [width * min(aspect, 20) + 0.4 for aspect in aspects]  # or matplotlib has no room
    size = (width * max(map(len, rows)), sum(heights))
    figure = (make or Figure)(figsize=size, layout="constrained")
    if make is None:
        FigureCanvasAgg(figure)
    ratios = {"height_ratios": heights}
    axes = figure.subplots(len(rows), max(map(len, rows)), squeeze=False, gridspec_kw=ratios)
    for axis in axes.flat:
        axis.set_axis_off()
    for row, row_axes in zip(rows, axes, strict=True):
        for panel, axis in zip(row, row_axes, strict=False):
            _draw(panel, axis)
    return figure


def _broken(title: str) -> str:
    lines = [part for line in str(title).split("\n") for part in wrap(line, 34) or [""]]
    return "\n".join(lines if len(lines) < 4 else [lines[0], "...", lines[-1]])


def _draw(panel: Panel, axis) -> None:  # type: ignore[no-untyped-def]  # matplotlib is lazy
    from matplotlib.patches import Rectangle

    pixels = in_unit(panel.pixels)
    axis.imshow(pixels.squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axis.set_title(_broken(panel.title), fontsize=9, parse_math=False, usetex=False)
    for x0, y0, x1, y1 in panel.boxes:
        for color, width in (("black", 2.5), ("white", 1.2)):
            axis.add_patch(
                Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, ec=color, lw=width)
            )
