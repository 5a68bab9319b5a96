"""A sound, its map, and what the map leaves of it, with axes in seconds and Hz."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captum_masking.audio.spectrogram import Spectrogram


@torch.no_grad()
def draw_sound(
    file: str | os.PathLike[str],
    spectrogram: Spectrogram,
    sound: Tensor,
    mask: Tensor,
    *,
    masked_in: Tensor | None = None,
    title: str = "",
) -> None:
    """Draw the levels of a sound, its mask, and the levels of the masked-in sound.

    Args:
        file: A PNG file; its folder is made if need be.
        spectrogram: That the mask belongs to.
        sound: ``(samples,)``.
        mask: ``(1, bands, frames)`` in [0, 1]; never rescaled, so maps compare.
        masked_in: ``(samples,)``, what is to be heard of it; None takes the mask as a gain.
        title: Written above.

    Raises:
        ValueError: If the mask is not shaped like the sound's spectrogram.

    Source:
        Own.

    Example:
        >>> import tempfile
        >>> spectrogram, sound = Spectrogram(), torch.randn(22050)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     draw_sound(f"{folder}/noise.png", spectrogram, sound, torch.ones(1, 64, 45))
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # without pyplot: the user's backend stays as it is

    by_gain = spectrogram.invert(sound, mask)  # in any case: it refuses a mask that does not fit
    heard = spectrogram.levels(by_gain if masked_in is None else masked_in)
    levels = spectrogram.levels(sound)
    top = levels.max().item()
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3, sharey=True)
    decibels = {"cmap": "magma", "vmin": max(spectrogram.floor_db, top - 80), "vmax": top}
    _panel(axes[0], spectrogram, levels, "level, dB", **decibels)
    _panel(axes[1], spectrogram, mask, "mask", cmap="cividis", vmin=0, vmax=1)
    _panel(axes[2], spectrogram, heard, "masked-in sound, dB", **decibels)
    figure.suptitle(title, fontsize=10)
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


def _panel(axis: Any, spectrogram: Spectrogram, picture: Tensor, title: str, **how: Any) -> None:
    values = picture.detach().float().cpu().squeeze(0).numpy()  # (bands, frames)
    seconds = (values.shape[1] - 1) * spectrogram.hop / spectrogram.sample_rate
    edges = (0, seconds, -0.5, len(values) - 0.5)
    shown = axis.imshow(values, origin="lower", aspect="auto", extent=edges, **how)
    axis.figure.colorbar(shown, ax=axis, fraction=0.05)
    rows = range(0, len(values), max(1, len(values) // 6))
    frequencies = spectrogram.frequencies.tolist()
    axis.set_yticks(rows, [f"{frequencies[row]:.0f} Hz" for row in rows], fontsize=7)
    axis.set_xlabel("s", fontsize=8)
    axis.set_title(title, fontsize=9)
