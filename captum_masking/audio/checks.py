"""What cannot be a sound, a mask of one, or a way to look at one, said in words."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def check_settings(*, sample_rate: float, n_fft: int, hop: int, bands: int, std_db: float) -> None:
    """Refuse numbers with which there is no spectrogram, or none that can be inverted.

    Raises:
        ValueError: Naming the number and its range.

    Source:
        Own.

    Example:
        >>> check_settings(sample_rate=8000, n_fft=256, hop=128, bands=32, std_db=20.0)
    """
    if sample_rate <= 0 or std_db <= 0:
        raise ValueError(
            f"sample_rate and std_db must be positive, but got {sample_rate} and {std_db}; "
            "usual are 22050 samples a second and 20 dB."
        )
    if n_fft < 4 or n_fft % 2 or not 0 < hop <= n_fft // 2:
        raise ValueError(
            f"n_fft must be even and hop between 1 and half of it, so that windows overlap and "
            f"the sound can be had back, but got n_fft={n_fft}, hop={hop}; usual are 1024 and 512."
        )
    if not 2 <= bands <= n_fft // 2 + 1:
        raise ValueError(
            f"bands must lie between 2 and n_fft // 2 + 1 = {n_fft // 2 + 1}, but got {bands}; "
            "take fewer bands or a longer n_fft."
        )


def check_sound(sound: Any, n_fft: int) -> None:
    """Refuse what is no sound, or one too short for the window.

    Raises:
        TypeError: If it is not a floating-point tensor.
        ValueError: If its shape is not ``(B, samples)`` or ``(samples,)``, or it is too short.

    Source:
        Own.

    Example:
        >>> import torch
        >>> check_sound(torch.zeros(2, 8000), n_fft=1024)
    """
    if not (isinstance(sound, Tensor) and sound.is_floating_point()):
        got = sound.dtype if isinstance(sound, Tensor) else type(sound).__name__
        raise TypeError(
            f"a sound must be a floating-point tensor in [-1, 1], but got {got}; convert it, "
            "16-bit samples with torch.as_tensor(samples) / 32768."
        )
    if sound.dim() not in (1, 2):
        raise ValueError(
            f"a sound must have shape (B, samples), or (samples,) for one, but got "
            f"{tuple(sound.shape)}; mix channels down first, with sound.mean(1)."
        )
    if sound.shape[-1] <= n_fft // 2:  # the frame's beginning is mirrored by that much
        raise ValueError(
            f"a sound must be longer than half a window of n_fft={n_fft} samples, but got "
            f"{sound.shape[-1]}; pad it, or take a shorter n_fft."
        )


def check_mask(mask: Tensor, sound: Tensor, picture: tuple[int, ...]) -> None:
    """Refuse a mask that is not shaped like the spectrogram of its sound.

    Args:
        mask: Of ``sound``.
        sound: ``(B, samples)`` or ``(samples,)``.
        picture: ``(1, bands, frames)``.

    Raises:
        ValueError: Naming both shapes.

    Source:
        Own.

    Example:
        >>> import torch
        >>> check_mask(torch.ones(2, 1, 32, 63), torch.zeros(2, 8000), (1, 32, 63))
    """
    expected = (*sound.shape[:-1], *picture)
    if tuple(mask.shape) != expected:
        raise ValueError(
            f"a mask on sound {tuple(sound.shape)} must have shape {expected}, like its "
            f"spectrogram, but got {tuple(mask.shape)}; take one channel of an attribution, "
            "attribution[:, :1], and the sound that the spectrogram was made of."
        )
