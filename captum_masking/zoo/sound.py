"""Models of sounds: read a file, explain it, hear the masked-in sound."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from captum_masking._base.text import Named, as_class_names
from captum_masking.data.audio import LogMagnitude, read_sound
from captum_masking.model.files import CheckpointError, read_model
from captum_masking.model.model import MaskingModel
from captum_masking.viz import overlay
from captum_masking.zoo import Explanation, from_function

__all__ = ["SoundPreprocess", "is_of_sounds", "load_sounds"]


@dataclass(frozen=True)
class SoundPreprocess(Named):
    """Turn a sound into a :class:`~captum_masking.data.audio.LogMagnitude` picture.

    Call it with a file or a sound ``(samples,)`` at its rate. :func:`load_sounds` and
    ``captum-masking explain`` load models saved with ``model.save(folder,
    notes=preprocess.notes())``.

    Args:
        spec: ``package.module:function`` that makes the classifier.
        seconds: Longer sounds are cut, shorter ones continue in silence.
        class_names: One per output.

    Example:
        >>> preprocess = SoundPreprocess(sample_rate=8000, n_fft=256, hop=128, seconds=1.0)
        >>> preprocess(torch.zeros(8000)).shape
        torch.Size([1, 129, 64])
    """

    spec: str = ""
    sample_rate: int = 16000
    n_fft: int = 1024
    hop: int = 512
    seconds: float = 5.0
    class_names: tuple[str, ...] = field(default=(), repr=False)

    suffixes: ClassVar[tuple[str, ...]] = (".wav", ".flac", ".ogg", ".mp3")

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_names", as_class_names(self.class_names))

    @property
    def magnitude(self) -> LogMagnitude:
        """The spectrogram that makes the pictures."""
        return LogMagnitude(sample_rate=self.sample_rate, n_fft=self.n_fft, hop=self.hop)

    def __call__(self, sound: str | Path | Tensor) -> Tensor:
        """Return ``(1, frequencies, frames)``."""
        return self.ready(sound)[0]

    def notes(self) -> dict[str, Any]:
        """Return the settings as JSON values, for the ``notes`` of a saved model."""
        return {**asdict(self), "class_names": list(self.class_names)}

    def ready(self, sound: str | Path | Tensor) -> tuple[Tensor, Tensor]:
        """Return the picture of a sound, and the sound."""
        if not isinstance(sound, Tensor):
            samples = round(self.seconds * self.sample_rate)
            sound = read_sound(sound, self.sample_rate, samples=samples)
        return self.magnitude(sound), sound

    def shown(self, found: Explanation, sound: Tensor, mask: Tensor, other: str) -> Explanation:
        """Draw levels and map, low frequencies below, and make the masked-in sound."""
        magnitude, mask = self.magnitude, mask[0].cpu()
        parts = [sound, *(magnitude.invert(sound, m) for m in (mask, 1 - mask))]
        levels = [magnitude.levels(part)[0].flip(0).numpy() for part in parts]
        whole, *halves = (1 + (each - levels[0].max()) / 80 for each in levels)  # of 80 dB
        whole, *halves = (np.clip(each, 0, 1) for each in (whole, *halves))
        drawn = whole, overlay(whole, mask[0].flip(0)), *halves
        times = max(1, round(whole.shape[0] / whole.shape[1]))  # about as wide as high
        panels = [each.repeat(times, axis=1) for each in drawn]
        return found.with_panels(panels, other)._replace(heard=parts[1])


def is_of_sounds(folder: str | Path) -> bool:
    """Say whether a saved model explains sounds."""
    return Path(folder).is_dir() and "sample_rate" in read_model(folder)[0]["notes"]


@torch.inference_mode(False)
def load_sounds(folder: str | Path) -> tuple[MaskingModel, SoundPreprocess]:
    """Load a model of sounds with its classifier, in eval mode, and its preprocessing.

    Args:
        folder: Saved with :meth:`SoundPreprocess.notes`.
    """
    notes = read_model(folder)[0]["notes"]
    if not notes.get("spec") or "sample_rate" not in notes:
        reason = "it does not say how to make its classifier and read its sounds"
        raise CheckpointError(folder, reason, "save it with notes=SoundPreprocess(...).notes()")
    known = [each.name for each in fields(SoundPreprocess) if each.name in notes]
    preprocess = SoundPreprocess(**{name: notes[name] for name in known})
    classifier, _ = from_function(preprocess.spec)
    return MaskingModel.load(folder, classifier.eval()), preprocess
