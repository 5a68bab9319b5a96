"""Sound files in and out, by way of the package soundfile."""

from __future__ import annotations

import importlib
import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad


def read_sound(
    file: str | os.PathLike[str], sample_rate: int, *, samples: int | None = None
) -> Tensor:
    """Read a sound file: channels mixed to one, resampled, cut or padded to a length.

    Args:
        file: WAV, FLAC, Ogg, MP3: whatever ``soundfile`` reads.
        sample_rate: Samples a second of the result.
        samples: Its length: the end of a longer sound is cut off, a shorter one continues in
            silence; None leaves it as long as it is.

    Returns:
        ``(samples,)``, float32 in about [-1, 1].

    Raises:
        ImportError: If soundfile is not installed.
        FileNotFoundError: If there is no such file.
        ValueError: If it is no sound.

    Source:
        Own; resampling is ``scipy.signal.resample_poly``.

    Example:
        >>> import tempfile
        >>> temporary = tempfile.TemporaryDirectory()
        >>> file = Path(temporary.name) / "quiet.wav"
        >>> write_sound(file, torch.full((44100,), 0.5), 44100)
        >>> read_sound(file, 22050, samples=30000).shape
        torch.Size([30000])
    """
    soundfile = _soundfile()
    if not Path(file).is_file():
        raise FileNotFoundError(f"expected a sound file, but {file} does not exist.")
    try:
        channels, rate = soundfile.read(os.fspath(file), dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise ValueError(
            f"expected a sound file (WAV, FLAC, Ogg, MP3), but {file} cannot be read: {error}"
        ) from error
    sound = torch.from_numpy(channels).mean(1)
    if samples is not None:  # what will be cut off need not be resampled
        sound = sound[: math.ceil((samples + 1) * rate / sample_rate)]
    sound = _resample(sound, rate, sample_rate)
    return sound if samples is None else pad(sound[:samples], (0, max(0, samples - len(sound))))


def write_sound(file: str | os.PathLike[str], sound: Tensor, sample_rate: int) -> None:
    """Write a sound file; its ending names the format, and its folder is made if need be.

    Args:
        file: Ending in ``.wav``, ``.flac`` or ``.ogg``.
        sound: ``(samples,)`` in [-1, 1]; what lies outside is clipped.
        sample_rate: Samples a second.

    Raises:
        ImportError: If soundfile is not installed.
        ValueError: If the sound is not one-dimensional and finite, or the ending unknown.

    Source:
        Own.
    """
    soundfile = _soundfile()
    format_name = Path(file).suffix[1:].upper()
    if format_name not in soundfile.available_formats():
        raise ValueError(
            f"the name of a sound file must end in .wav, .flac or .ogg, but got {file}."
        )
    if sound.dim() != 1 or not sound.isfinite().all():
        raise ValueError(
            f"expected one sound (samples,) of finite values, but got shape {tuple(sound.shape)}; "
            "write those of a batch one by one, sounds[0]."
        )
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    samples = sound.detach().float().cpu().clamp(-1, 1).numpy()
    soundfile.write(os.fspath(file), samples, sample_rate)


def _resample(sound: Tensor, rate: int, new_rate: int) -> Tensor:
    if rate == new_rate:
        return sound
    from scipy.signal import resample_poly

    common = math.gcd(rate, new_rate)
    resampled = resample_poly(sound.numpy(), new_rate // common, rate // common)
    return torch.from_numpy(resampled).float()


def _soundfile() -> Any:
    """Import soundfile when it is needed: no other part of the package does."""
    try:
        return importlib.import_module("soundfile")
    except ImportError as error:
        raise ImportError(
            "expected the package soundfile, to read and write sound files, but it is not "
            "installed; pip install soundfile."
        ) from error
