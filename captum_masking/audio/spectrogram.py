"""Sound to normalised log spectrogram, and a mask on it back to sound."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from captum_masking.audio.checks import check_mask, check_settings, check_sound


def mel(frequency: Tensor) -> Tensor:
    """Return the pitch in mel of frequencies in Hz: nearly linear to 700 Hz, then logarithmic.

    Source:
        O'Shaughnessy 1987.

    Example:
        >>> mel(torch.tensor([0.0, 6300.0]))  # 2595 * log10(1 + 9)
        tensor([   0., 2595.])
    """
    return 2595 * (1 + frequency / 700).log10()


def hertz(frequency: Tensor) -> Tensor:
    """Return frequencies in Hz as they are: for bands of equal width.

    Source:
        Own.

    Example:
        >>> hertz(torch.tensor([440.0]))
        tensor([440.])
    """
    return frequency


class Spectrogram(nn.Module):
    """Sound as a picture: the level of each band at each time, zero where it is the data's mean.

    The power of the short-time Fourier transform is averaged into bands by hat functions: the
    share of a frequency falls from 1 at the centre of one band to 0 at the next one's. Shares sum
    to one at each frequency, so the same hats, transposed, turn a mask of bands into a gain for
    each frequency, and a mask of ones into a gain of exactly one.

    Args:
        sample_rate: Samples a second.
        n_fft: Length of the Hann window in samples, even.
        hop: Samples from one frame to the next, at most half of ``n_fft``.
        bands: Rows of the picture, from 0 Hz to half the sample rate, both included.
        scale: Maps frequencies in Hz to the scale on which the bands lie at equal distances;
            with ``scale=hertz, bands=n_fft // 2 + 1`` each frequency is a band.
        floor_db: The least level, in dB of a sine of amplitude 1; digital silence has it.
        mean_db: What normalising takes off; :meth:`normalized_to` measures it on your sounds.
        std_db: What it then divides by, > 0.

    Raises:
        ValueError: If a number lies outside its range, or there are more bands than the
            frequencies can fill.

    Source:
        Own; the inverse is the least-squares one of Griffin & Lim 1984, with the phase kept.

    Example:
        >>> spectrogram = Spectrogram(sample_rate=8000, n_fft=256, hop=128, bands=32)
        >>> sound = torch.randn(2, 8000)
        >>> picture = spectrogram(sound)
        >>> picture.shape
        torch.Size([2, 1, 32, 64])
        >>> torch.allclose(spectrogram.invert(sound, torch.ones_like(picture)), sound, atol=1e-4)
        True
    """

    window: Tensor
    weights: Tensor

    # 46 ms at 22050 Hz tell the harmonics of voices and engines apart and keep clicks short; mean
    # and spread are those of ESC-10, everyday sounds, rounded (benchmarks/audio.json).
    def __init__(
        self,
        *,
        sample_rate: int = 22050,
        n_fft: int = 1024,
        hop: int = 512,
        bands: int = 64,
        scale: Callable[[Tensor], Tensor] = mel,
        floor_db: float = -100.0,
        mean_db: float = -66.0,
        std_db: float = 23.0,
    ) -> None:
        super().__init__()
        check_settings(sample_rate=sample_rate, n_fft=n_fft, hop=hop, bands=bands, std_db=std_db)
        self.sample_rate, self.n_fft, self.hop = sample_rate, n_fft, hop
        self.bands, self.scale = bands, scale
        self.floor_db, self.mean_db, self.std_db = floor_db, mean_db, std_db
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.register_buffer("weights", self._hats(), persistent=False)  # (bands, bins)

    def forward(self, sound: Tensor) -> Tensor:
        """Return the normalised levels of sounds.

        Args:
            sound: ``(B, samples)``, or ``(samples,)`` for one, in [-1, 1].

        Returns:
            ``(B, 1, bands, frames)``, or ``(1, bands, frames)``, low frequencies first; there is
            one frame more than the sound has hops, the last one counted even if begun only.

        Raises:
            TypeError: If the sound is not a floating-point tensor.
            ValueError: If it has another number of dimensions, or is shorter than half a window.
        """
        return (self.levels(sound) - self.mean_db) / self.std_db

    def levels(self, sound: Tensor) -> Tensor:
        """Return what :meth:`forward` normalises, in dB of a sine of amplitude 1."""
        spectrum = self._transform(sound)  # (..., bins, frames)
        sine = self.window.sum() / 2  # the magnitude of a sine of amplitude 1
        shares = (self.weights / self.weights.sum(1, keepdim=True)).to(sound)
        power = shares @ (spectrum.abs() / sine).square()
        return 10 * power.clamp(min=10 ** (self.floor_db / 10)).log10().unsqueeze(-3)

    def invert(self, sound: Tensor, mask: Tensor) -> Tensor:
        """Return what a mask leaves of sounds: each frequency times its gain, phase kept.

        Args:
            sound: ``(B, samples)``, or ``(samples,)`` for one.
            mask: A gain for each band and frame, shaped like the spectrogram; 1 leaves a band as
                it is, 0 silences it. ``1 - mask`` gives the rest: both sounds sum to the original.

        Returns:
            The masked sounds, shaped like ``sound``.

        Raises:
            TypeError: As :meth:`forward`.
            ValueError: As :meth:`forward`, or if the mask is not shaped like the spectrogram.
        """
        spectrum = self._transform(sound)
        check_mask(mask, sound, (1, self.bands, spectrum.shape[-1]))
        gain = self.weights.T.to(sound) @ mask.squeeze(-3).to(sound)
        longer = torch.istft(
            spectrum * gain,
            self.n_fft,
            self.hop,
            window=self.window.to(sound),
            length=self._padded(sound.shape[-1]),
        )
        return longer[..., : sound.shape[-1]]

    def render(self, sound: Tensor, picture: Tensor) -> Tensor:
        """Return sounds with the levels of other pictures: what the judge of a mask was shown.

        Each band gets the gain that brings it from its own level to that of the picture. A mask of
        one half in a picture lies halfway to the infill in dB, far below half of the amplitude; so
        this sounds clearer than :meth:`invert`, and any infill can be heard.

        Args:
            sound: ``(B, samples)``, or ``(samples,)`` for one.
            picture: Shaped like the spectrogram, such as the ``masked_in`` or ``masked_out`` of
                :func:`~captum_masking.masking.mask_images`.

        Returns:
            The sounds, shaped like ``sound``. Digital silence stays silent at any gain.

        Raises:
            TypeError: As :meth:`forward`.
            ValueError: As :meth:`invert`.
        """
        own = self(sound)
        check_mask(picture, sound, (1, *own.shape[-2:]))
        return self.invert(sound, 10 ** ((picture - own) * self.std_db / 20))

    def normalized_to(self, sounds: Iterable[Tensor]) -> Spectrogram:
        """Return one like this whose mean and spread, over all bands and frames, are measured.

        Args:
            sounds: Tensors ``(B, samples)`` or ``(samples,)``.

        Returns:
            A new spectrogram on the CPU; constants are rounded to 0.01 dB, so that it can be
            written down.

        Raises:
            ValueError: If there is no sound, or all are silent throughout.
        """
        with torch.no_grad():
            levels = [self.levels(sound).flatten() for sound in sounds]
        std, mean = torch.std_mean(torch.cat(levels)) if levels else (torch.zeros(()),) * 2
        if not std > 0.01:
            raise ValueError(
                f"expected sounds whose levels differ, but got {len(levels)} with a spread of "
                f"{std:.3g} dB; give some of the sounds to be trained on."
            )
        constants = {"mean_db": round(mean.item(), 2), "std_db": round(std.item(), 2)}
        return Spectrogram(**{**self.settings, **constants})

    @property
    def settings(self) -> dict[str, Any]:
        """What it was built from, by name."""
        names = ["sample_rate", "n_fft", "hop", "bands", "scale", "floor_db", "mean_db", "std_db"]
        return {name: getattr(self, name) for name in names}

    @property
    def silence(self) -> float:
        """Digital silence in normalised units; ``Color(silence)`` is the infill of a mute hole."""
        return (self.floor_db - self.mean_db) / self.std_db

    @property
    def frequencies(self) -> Tensor:
        """The frequency of each band in Hz, ``(bands,)``: the mean of those in it."""
        return (self.weights @ self._bins().to(self.weights)) / self.weights.sum(1)

    def extra_repr(self) -> str:
        """Say how it was built."""
        named = {**self.settings, "scale": getattr(self.scale, "__name__", self.scale)}
        return ", ".join(f"{name}={value}" for name, value in named.items())

    def _transform(self, sound: Tensor) -> Tensor:
        """Return the complex spectrum ``(..., bins, frames)``."""
        check_sound(sound, self.n_fft)
        samples = sound.shape[-1]
        # Without whole hops, the last samples would lie where the last window fades to nothing.
        longer = pad(sound, (0, self._padded(samples) - samples))
        window = self.window.to(sound)
        return torch.stft(longer, self.n_fft, self.hop, window=window, return_complex=True)

    def _padded(self, samples: int) -> int:
        return math.ceil(samples / self.hop) * self.hop

    def _bins(self) -> Tensor:
        return torch.arange(self.n_fft // 2 + 1) * (self.sample_rate / self.n_fft)  # Hz

    def _hats(self) -> Tensor:
        """Share each frequency between the two bands it lies between: ``(bands, bins)``."""
        at = self.scale(self._bins())
        at = (at - at[0]) / (at[-1] - at[0]) * (self.bands - 1)  # in bands
        hats = (1 - (at - torch.arange(self.bands)[:, None]).abs()).clamp(min=0)
        if not (hats.sum(1) > 0).all():
            raise ValueError(
                f"expected a frequency in each band, but with bands={self.bands} some of the "
                f"lowest have none; take fewer bands or a longer n_fft than {self.n_fft}."
            )
        return hats
