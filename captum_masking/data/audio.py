"""Sound as a picture: a spectrogram, and what a mask of it leaves of the sound.

:class:`Spectrogram` has levels of bands in dB. :class:`LogMagnitude` has every frequency;
:class:`LogMel` turns it into the bands that a classifier reads.

A sound is a floating-point tensor ``(B, samples)`` or ``(samples,)`` in [-1, 1], longer than half a
window. Its picture is ``(B, 1, bands, frames)`` or ``(1, bands, frames)``, low frequencies first.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils.data import Dataset

from captum_masking._base.checks import needed
from captum_masking.data.images import check_columns, check_files_exist, read_table, whole_number

__all__ = [
    "Clips",
    "LogMagnitude",
    "LogMel",
    "Spectrogram",
    "draw_sound",
    "mel",
    "mix",
    "read_sound",
    "write_sound",
]


def mel(frequency: Tensor) -> Tensor:
    """Return the pitch in mel of frequencies in Hz: nearly linear to 700 Hz, then logarithmic.

    Source:
        O'Shaughnessy 1987.

    Example:
        >>> mel(torch.tensor([0.0, 6300.0]))  # 2595 * log10(1 + 9)
        tensor([   0., 2595.])
    """
    return 2595 * (1 + frequency / 700).log10()


class Spectrogram(nn.Module):
    """Sound as a picture: the normalized level of each band at each time.

    Hat functions average the power of the short-time Fourier transform into bands. The weights of
    each frequency sum to one, so the transposed hats turn a mask of bands into a gain per
    frequency, and a mask of ones into a gain of exactly one.

    Args:
        sample_rate: Samples per second.
        n_fft: Length of the Hann window in samples, even.
        hop: Samples from one frame to the next, at most half of ``n_fft``.
        bands: Rows of the picture, from 0 Hz to half the sample rate, both included.
        scale: Maps Hz to the scale on which bands are equally spaced; None keeps Hz. With
            ``bands=n_fft // 2 + 1``, each frequency is a band.
        floor_db: The lowest level, that of digital silence, in dB relative to a sine of amplitude
            1.
        mean_db: Subtracted; :meth:`normalized_to` measures it on your sounds.
        std_db: Divides the levels, > 0.

    Source:
        Griffin & Lim 1984: the least-squares inverse, here with the phase kept.

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

    # 46 ms at 22050 Hz resolve the harmonics of voices and engines and keep clicks short; mean
    # and spread are those of ESC-10, rounded (benchmarks/audio.json).
    def __init__(
        self,
        *,
        sample_rate: int = 22050,
        n_fft: int = 1024,
        hop: int = 512,
        bands: int = 64,
        scale: Callable[[Tensor], Tensor] | None = mel,
        floor_db: float = -100.0,
        mean_db: float = -66.0,
        std_db: float = 23.0,
    ) -> None:
        super().__init__()
        self.sample_rate, self.n_fft, self.hop = sample_rate, n_fft, hop
        self.bands, self.scale = bands, scale
        self.floor_db, self.mean_db, self.std_db = floor_db, mean_db, std_db
        self._check()
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.register_buffer("weights", self._hats(), persistent=False)  # (bands, bins)

    def forward(self, sound: Tensor) -> Tensor:
        """Return the normalized levels of sounds.

        There is one frame more than the sound has hops, rounded up.
        """
        return (self.levels(sound) - self.mean_db) / self.std_db

    def levels(self, sound: Tensor) -> Tensor:
        """Return the levels in dB relative to a sine of amplitude 1."""
        spectrum = self._transform(sound)  # (..., bins, frames)
        sine = self.window.sum() / 2  # the magnitude of a sine of amplitude 1
        shares = (self.weights / self.weights.sum(1, keepdim=True)).to(sound)
        power = shares @ (spectrum.abs() / sine).square()
        return 10 * power.clamp(min=10 ** (self.floor_db / 10)).log10().unsqueeze(-3)

    def invert(self, sound: Tensor, mask: Tensor) -> Tensor:
        """Return masked sounds: each frequency times its gain, with the original phase.

        Args:
            sound: The original.
            mask: A gain per band and frame, shaped like the picture; 1 keeps a band, 0 silences it.
                The sounds of ``mask`` and ``1 - mask`` sum to the original.
        """
        spectrum = self._transform(sound)
        _check_mask(mask, sound, (1, self.bands, spectrum.shape[-1]))
        return self._back(spectrum * (self.weights.T.to(sound) @ mask.squeeze(-3).to(sound)), sound)

    def render(self, sound: Tensor, picture: Tensor) -> Tensor:
        """Return sounds with the levels of other pictures, as the judge of a mask sees them.

        Each band is scaled to the level in the picture. A mask of one half in a picture lies
        halfway to the infill in dB, far below half of the amplitude; so this sounds clearer than
        :meth:`invert`, and any infill can be heard.

        Args:
            sound: The original. Digital silence stays silent at any gain.
            picture: Such as ``masked_in`` of :func:`~captum_masking.parts.masking.mask_images`.
        """
        own = self(sound)
        _check_mask(picture, sound, (1, *own.shape[-2:]))
        return self.invert(sound, 10 ** ((picture - own) * self.std_db / 20))

    def normalized_to(self, sounds: Iterable[Tensor]) -> Spectrogram:
        """Return a spectrogram that normalizes by the mean and spread of sounds.

        It is on the CPU; constants are rounded to 0.01 dB.
        """
        with torch.no_grad():
            levels = [self.levels(sound).flatten() for sound in sounds]
        std, mean = torch.std_mean(torch.cat(levels)) if levels else (torch.zeros(()),) * 2
        if not std > 0.01:
            raise ValueError(
                f"expected sounds whose levels differ, but got {len(levels)} with a spread of "
                f"{std:.3g} dB; pass some of the training sounds."
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
        """Digital silence in normalized units; ``Color(silence)`` fills holes with silence."""
        return (self.floor_db - self.mean_db) / self.std_db

    @property
    def frequencies(self) -> Tensor:
        """The mean frequency of each band in Hz, ``(bands,)``."""
        return (self.weights @ self._bins().to(self.weights)) / self.weights.sum(1)

    def extra_repr(self) -> str:
        """Return the settings in one line."""
        named = self.settings.items()
        return ", ".join(f"{name}={getattr(value, '__name__', value)}" for name, value in named)

    def _check(self) -> None:
        """Check that the spectrogram exists and can be inverted."""
        if self.sample_rate <= 0 or self.std_db <= 0:
            raise ValueError(
                f"sample_rate and std_db must be positive, but got {self.sample_rate} and "
                f"{self.std_db}; use for example 22050 Hz and 20 dB."
            )
        if self.n_fft < 4 or self.n_fft % 2 or not 0 < self.hop <= self.n_fft // 2:
            raise ValueError(
                f"n_fft must be even and hop between 1 and half of it, so that windows overlap and "
                f"the sound can be recovered, but got n_fft={self.n_fft}, hop={self.hop}; use for "
                "example 1024 and 512."
            )
        if not 2 <= self.bands <= self.n_fft // 2 + 1:
            raise ValueError(
                f"bands must lie between 2 and n_fft // 2 + 1 = {self.n_fft // 2 + 1}, but got "
                f"{self.bands}; take fewer bands or a longer n_fft."
            )

    def _transform(self, sound: Tensor) -> Tensor:
        """Return the complex spectrum ``(..., bins, frames)``."""
        _check_sound(sound, self.n_fft)
        samples = sound.shape[-1]
        # Without whole hops, the last window would fade out before the last samples.
        longer = pad(sound, (0, self._padded(samples) - samples))
        window = self.window.to(sound)
        return torch.stft(longer, self.n_fft, self.hop, window=window, return_complex=True)

    def _back(self, spectrum: Tensor, sound: Tensor) -> Tensor:
        """Return the sound of a complex spectrum, as long as the original."""
        window, samples = self.window.to(sound), sound.shape[-1]
        longer = torch.istft(
            spectrum, self.n_fft, self.hop, window=window, length=self._padded(samples)
        )
        return longer[..., :samples]

    def _padded(self, samples: int) -> int:
        return math.ceil(samples / self.hop) * self.hop

    def _bins(self) -> Tensor:
        return torch.arange(self.n_fft // 2 + 1) * (self.sample_rate / self.n_fft)  # Hz

    def _hats(self) -> Tensor:
        """Return hats ``(bands, bins)`` that share each frequency between its two bands."""
        at = self._bins() if self.scale is None else self.scale(self._bins())
        at = (at - at[0]) / (at[-1] - at[0]) * (self.bands - 1)  # in bands
        hats = (1 - (at - torch.arange(self.bands)[:, None]).abs()).clamp(min=0)
        if not (hats.sum(1) > 0).all():
            raise ValueError(
                f"expected a frequency in each band, but with bands={self.bands} some of the "
                f"lowest have none; take fewer bands or a longer n_fft than {self.n_fft}."
            )
        return hats


class LogMagnitude(Spectrogram):
    """Sound as a picture of ``log(1 + |S|)`` of every frequency.

    Silence is 0, so use the infill :class:`~captum_masking.parts.infill.Mean`: masked-in is ``mask
    * picture``, masked-out is ``(1 - mask) * picture``. The sound of a masked picture has its
    magnitudes and the phase of the original. A mask of one half leaves ``sqrt(1 + |S|) - 1`` of a
    magnitude ``|S|``: 1 of 3, and half of a very small one.

    Source:
        Paissan et al. 2024 (L-MAC), as in their code. Differs: the window is as long as ``n_fft``;
        theirs, of 1024 samples at 16 kHz, has 23.22 ms, and a hop of 11.61 ms.

    Example:
        >>> magnitude = LogMagnitude(sample_rate=8000, n_fft=256, hop=128)
        >>> sound = torch.randn(2, 8000)
        >>> picture = magnitude(sound)
        >>> picture.shape
        torch.Size([2, 1, 129, 64])
        >>> torch.allclose(magnitude.render(sound, picture), sound, atol=1e-4)
        True
    """

    def __init__(self, *, sample_rate: int = 16000, n_fft: int = 1024, hop: int = 512) -> None:
        bands = n_fft // 2 + 1
        super().__init__(sample_rate=sample_rate, n_fft=n_fft, hop=hop, bands=bands, scale=None)

    def forward(self, sound: Tensor) -> Tensor:
        """Return the pictures of sounds, ``(B, 1, n_fft // 2 + 1, frames)``, >= 0."""
        return self._transform(sound).abs().log1p().unsqueeze(-3)

    def render(self, sound: Tensor, picture: Tensor) -> Tensor:
        """Return sounds that have the magnitudes of pictures, and the phase of other sounds."""
        spectrum = self._transform(sound)
        _check_mask(picture, sound, (1, *spectrum.shape[-2:]))
        magnitude = picture.squeeze(-3).to(sound).expm1()
        return self._back(torch.polar(magnitude, spectrum.angle()), sound)

    def invert(self, sound: Tensor, mask: Tensor) -> Tensor:
        """Return masked sounds, those of ``mask * picture``."""
        return self.render(sound, self(sound) * mask)

    def normalized_to(self, sounds: Iterable[Tensor]) -> Spectrogram:
        """Return itself, since nothing is normalized."""
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """What it was built from, by name."""
        return {name: getattr(self, name) for name in ["sample_rate", "n_fft", "hop"]}

    @property
    def silence(self) -> float:
        """Digital silence, which is 0."""
        return 0.0


class LogMel(nn.Module):
    """Mel bands of a :class:`LogMagnitude` picture, as most classifiers of sounds read them.

    The value is ``log(1 + mean magnitude of the band)``. As the first module of a classifier, it
    lets the masker explain every frequency: ``MaskingModel(nn.Sequential(LogMel(), classifier))``.
    :class:`~captum_masking.model.layouts.MelRows` maps the rows of the features back.

    Source:
        The features of Paissan et al. 2024; the hats are those of :class:`Spectrogram`.

    Example:
        >>> LogMel(sample_rate=8000, n_fft=256, bands=32)(torch.zeros(2, 1, 129, 64)).shape
        torch.Size([2, 1, 32, 64])
    """

    shares: Tensor

    def __init__(self, *, sample_rate: int = 16000, n_fft: int = 1024, bands: int = 80) -> None:
        super().__init__()
        hats = Spectrogram(sample_rate=sample_rate, n_fft=n_fft, hop=n_fft // 2, bands=bands)
        shares = hats.weights / hats.weights.sum(1, keepdim=True)
        self.register_buffer("shares", shares, persistent=False)

    def forward(self, picture: Tensor) -> Tensor:
        """Return ``(B, 1, bands, frames)``."""
        return (self.shares.to(picture) @ picture.expm1()).log1p()


def mix(sound: Tensor, other: Tensor, *, share: float = 0.8) -> Tensor:
    """Mix sounds with others, to test maps in the presence of a second sound.

    ``share * sound + (1 - share) * other``, each of norm 1, divided by the largest absolute value.

    Args:
        sound: ``(samples,)`` or ``(B, samples)``.
        other: Shaped like it: other clips, speech, or ``torch.randn_like(sound)``.
        share: Share of the sound, in (0, 1].

    Source:
        Paissan et al. 2024: 0.8, and each clip with two others.

    Example:
        >>> mix(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 5.0]))  # 0.8 and 0.2
        tensor([1.0000, 0.2500])
    """
    if sound.shape != other.shape or not 0 < share <= 1:
        raise ValueError(
            f"expected two sounds of one length and a share in (0, 1], but got "
            f"{tuple(sound.shape)}, {tuple(other.shape)} and {share}; cut the longer one."
        )
    least = torch.finfo(sound.dtype).tiny  # silence stays silent
    parts = (each / each.norm(dim=-1, keepdim=True).clamp(min=least) for each in (sound, other))
    mixed = share * next(parts) + (1 - share) * next(parts)
    return mixed / mixed.abs().amax(-1, keepdim=True).clamp(min=least)


def _check_sound(sound: Any, n_fft: int) -> None:
    if not (isinstance(sound, Tensor) and sound.is_floating_point()):
        got = sound.dtype if isinstance(sound, Tensor) else type(sound).__name__
        raise TypeError(
            f"a sound must be a floating-point tensor in [-1, 1], but got {got}; convert 16-bit "
            "samples with torch.as_tensor(samples) / 32768."
        )
    if sound.dim() not in (1, 2):
        raise ValueError(
            f"a sound must have shape (B, samples), or (samples,) for one, but got "
            f"{tuple(sound.shape)}; mix channels down first, with sound.mean(1)."
        )
    if sound.shape[-1] <= n_fft // 2:  # the padding mirrors that many samples
        raise ValueError(
            f"a sound must be longer than half a window of n_fft={n_fft} samples, but got "
            f"{sound.shape[-1]}; pad it, or take a shorter n_fft."
        )


def _check_mask(mask: Tensor, sound: Tensor, picture: tuple[int, ...]) -> None:
    expected = (*sound.shape[:-1], *picture)
    if tuple(mask.shape) != expected:
        raise ValueError(
            f"a mask on sound {tuple(sound.shape)} must have shape {expected}, like its "
            f"spectrogram, but got {tuple(mask.shape)}; take one channel of an attribution, "
            "attribution[:, :1], and the sound that the spectrogram was made of."
        )


def read_sound(
    file: str | os.PathLike[str], sample_rate: int, *, samples: int | None = None
) -> Tensor:
    """Read a sound file: channels mixed to one, resampled, cut or padded to a length.

    Args:
        file: WAV, FLAC, Ogg, MP3 or another format of ``soundfile``.
        sample_rate: Samples per second of the result.
        samples: Length of the result; a longer sound is cut, a shorter one is padded with silence.
            None keeps the length.

    Raises:
        ImportError: If soundfile is not installed.

    Example:
        >>> import tempfile
        >>> temporary = tempfile.TemporaryDirectory()
        >>> file = Path(temporary.name) / "quiet.wav"
        >>> write_sound(file, torch.full((44100,), 0.5), 44100)
        >>> read_sound(file, 22050, samples=30000).shape
        torch.Size([30000])
    """
    soundfile = needed("soundfile", by="sound files", run="soundfile")
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
    """Write a sound file; its suffix sets the format, and its folder is made if needed.

    Args:
        file: Ending in ``.wav``, ``.flac`` or ``.ogg``.
        sound: ``(samples,)`` in [-1, 1]; other values are clipped.
        sample_rate: Samples per second.
    """
    soundfile = needed("soundfile", by="sound files", run="soundfile")
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


class Clips(Dataset[tuple[Any, int]]):
    r"""Clips of one length with their class, read when asked for.

    The CSV file has a header and one row per clip, ``file,label``, and optionally ``fold`` and
    ``name``. ``file`` is relative to the CSV's folder, ``label`` and ``fold`` are whole numbers,
    ``name`` is the class name. Other columns are ignored.

    Args:
        csv: The CSV file.
        folds: The folds to use; None uses all.
        transform: Called with the sound ``(samples,)``; None gives the sound itself.
        sample_rate: Samples per second; other clips are resampled.
        seconds: Length; longer clips are cut, shorter ones padded with silence.

    Attributes:
        files: One path per clip.
        labels: One int per clip.
        names: Names by label, if the file has them.

    Source:
        Piczak 2015: the columns of ESC, whose folds keep clips of one recording together.

    Example:
        >>> import tempfile, torch

        >>> temporary = tempfile.TemporaryDirectory()
        >>> folder = Path(temporary.name)
        >>> write_sound(folder / "dog.wav", torch.zeros(8000), 8000)
        >>> _ = (folder / "clips.csv").write_text("file,label,name,fold\ndog.wav,2,dog,0\n")
        >>> clips = Clips(folder / "clips.csv", folds=[0], sample_rate=4000, seconds=2.0)
        >>> sound, label = clips[0]
        >>> sound.shape, label, clips.names
        (torch.Size([8000]), 2, {2: 'dog'})
    """

    def __init__(
        self,
        csv: str | os.PathLike[str],
        *,
        folds: Collection[int] | None = None,
        transform: Callable[[Tensor], Any] | None = None,
        sample_rate: int = 22050,
        seconds: float = 5.0,
    ) -> None:
        self.csv, self.folds, self.transform = Path(csv), folds, transform
        self.sample_rate, self.seconds = sample_rate, seconds
        needed = ["file", "label", *(["fold"] if folds is not None else [])]
        columns, rows = read_table(self.csv)
        check_columns(columns, needed, self.csv, "write a header such as file,label,name,fold.")
        rows = rows if folds is None else _of_folds(rows, folds, self.csv)
        self.files = [self.csv.parent / row["file"].strip() for _, row in rows]
        self.labels = [whole_number(row, "label", where) for where, row in rows]
        named = zip(self.labels, rows, strict=True)
        self.names = {label: row["name"] for label, (_, row) in named if row.get("name")}
        check_files_exist(self.files, "clip", self.csv)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        samples = round(self.seconds * self.sample_rate)
        sound = read_sound(self.files[index], self.sample_rate, samples=samples)
        return (sound if self.transform is None else self.transform(sound)), self.labels[index]

    def __repr__(self) -> str:
        names = ["folds", "transform", "sample_rate", "seconds"]
        options = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"Clips(csv={str(self.csv)!r}, {options})"


def _of_folds(rows: list[Any], folds: Collection[int], file: Path) -> list[Any]:
    fold_of = [whole_number(row, "fold", where) for where, row in rows]
    if not folds or not set(folds) <= set(fold_of):
        raise ValueError(
            f"folds must be some of {sorted(set(fold_of))}, those of {file}, but got {list(folds)}."
        )
    return [row for row, fold in zip(rows, fold_of, strict=True) if fold in folds]


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
        spectrogram: The spectrogram of the mask.
        sound: One sound.
        mask: ``(1, bands, frames)`` in [0, 1]; never rescaled, so maps compare.
        masked_in: The masked-in sound; None uses the mask as a gain.
        title: Title of the figure.

    Example:
        >>> import tempfile
        >>> spectrogram, sound = Spectrogram(), torch.randn(22050)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     draw_sound(f"{folder}/noise.png", spectrogram, sound, torch.ones(1, 64, 45))
    """
    from matplotlib.figure import Figure  # without pyplot: the user's backend stays as it is

    by_gain = spectrogram.invert(sound, mask)  # always, to check the mask
    heard = spectrogram.levels(by_gain if masked_in is None else masked_in)
    levels = spectrogram.levels(sound)
    top = levels.max().item()
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    decibels = {"cmap": "magma", "vmin": max(spectrogram.floor_db, top - 80), "vmax": top}
    _panel(axes[0], spectrogram, levels, "level, dB", **decibels)
    _panel(axes[1], spectrogram, mask, "mask", cmap="cividis", vmin=0, vmax=1)
    _panel(axes[2], spectrogram, heard, "masked-in sound, dB", **decibels)
    figure.suptitle(title, fontsize=10, parse_math=False)
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
