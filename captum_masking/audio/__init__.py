"""Sounds as pictures of time and frequency, and a mask on them as a sound to listen to."""

from captum_masking.audio.clips import Clips
from captum_masking.audio.files import read_sound, write_sound
from captum_masking.audio.picture import draw_sound
from captum_masking.audio.spectrogram import Spectrogram, hertz, mel

__all__ = ["Clips", "Spectrogram", "draw_sound", "hertz", "mel", "read_sound", "write_sound"]
