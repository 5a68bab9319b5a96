"""Listen to the evidence
======================

For users who classify sounds: you will train a classifier of calls in noise, and listen to the
evidence alone, and to the sound without it. A spectrogram is a picture, so the masker is the same
as for photographs.
"""

import base64
import io
import math
import wave
from functools import partial

import torch
from skimage.data import coffee
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from captum_masking import MaskingModel, MaskingSaliency, MaskingTrainer, zoo
from captum_masking.data.audio import LogMagnitude, LogMel, Spectrogram
from captum_masking.metrics import energy_pointing
from captum_masking.model.layouts import MelRows
from captum_masking.parts.infill import Mean
from captum_masking.parts.masker import UNetMasker
from captum_masking.parts.masking import mask_images
from captum_masking.recipes import lmac
from captum_masking.viz import Panel, overlay, show, to_pixels

# sphinx_gallery_thumbnail_number = 2

# %%
# From pictures to sounds
# -----------------------
#
# The masker that ships with the package splits a photograph into the evidence and the rest. You see
# both. The same split of a sound is something to listen to.

show([zoo.explain(*zoo.efficientnet_lite0(), coffee()).panels], width=2.2)

# %%
# Calls in noise
# --------------
#
# A clip lasts one second. It contains a call of 0.45 seconds, of one of four kinds, at a random
# time and pitch. Noise and a steady hum, also at a random pitch, say nothing about the kind. We
# also keep the call alone, to know where the evidence is.

RATE = 8000
KINDS = ["rising", "falling", "warble", "pulses"]


def call(kind: str) -> Tensor:
    """Make a call, ``(3600,)``."""
    at = torch.linspace(0, 1, 3600)
    low, span = 600 + 900 * torch.rand(2)
    pitch = {
        "rising": low + span * at,
        "falling": low + span * (1 - at),
        "warble": low + span * (1 + torch.sin(8 * math.pi * at)) / 2,
        "pulses": (low + span / 2).expand(3600),
    }[kind]
    tone = torch.sin(2 * math.pi * pitch.cumsum(0) / RATE) * torch.hann_window(3600)
    return 0.5 * tone * ((torch.sin(10 * math.pi * at) > 0) if kind == "pulses" else 1)


def clip(kind: str) -> tuple[Tensor, Tensor]:
    """Make a clip ``(8000,)``, and the same with nothing but its call."""
    alone = torch.zeros(RATE)
    start = int(torch.randint(RATE - 3600, ()))
    alone[start : start + 3600] = call(kind)
    hum = torch.sin(2 * math.pi * (300 + 3000 * torch.rand(())) * torch.arange(RATE) / RATE)
    return alone + 0.1 * hum + 0.02 * torch.randn(RATE), alone


def clips(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Make sounds, the calls alone, and their kinds ``(count,)``."""
    kinds = torch.arange(count) % len(KINDS)
    sounds, alone = zip(*(clip(KINDS[kind]) for kind in kinds), strict=True)
    return torch.stack(sounds), torch.stack(alone), kinds


torch.manual_seed(0)
train_sounds, _, train_kinds = clips(800)
sounds, alone, kinds = clips(200)

# %%
# This player lets you listen on this page. To write files, use
# :func:`~captum_masking.data.audio.write_sound`.


class Player:
    """Sounds with a title each, as buttons on a page."""

    def __init__(self, **sounds: Tensor) -> None:
        self.sounds = sounds

    def _repr_html_(self) -> str:
        each = (f"<div>{name}<br>{self.audio(sound)}</div>" for name, sound in self.sounds.items())
        return f'<div style="display: flex; flex-wrap: wrap; gap: 1em">{"".join(each)}</div>'

    def __repr__(self) -> str:
        return f"Player({', '.join(self.sounds)})"

    @staticmethod
    def audio(sound: Tensor) -> str:
        """Embed a sound ``(samples,)`` as a WAV file of 16 bits."""
        file = io.BytesIO()
        with wave.open(file, "wb") as written:
            written.setparams((1, 2, RATE, 0, "NONE", ""))
            written.writeframes((32767 * sound.clamp(-1, 1)).short().numpy().tobytes())
        data = base64.b64encode(file.getvalue()).decode()
        return f'<audio controls style="width: 10em" src="data:audio/wav;base64,{data}"></audio>'


Player(**dict(zip(KINDS, sounds, strict=False)))

# %%
# The same four clips as pictures: time runs to the right, pitch upwards. The horizontal line is the
# hum:

spectrogram = Spectrogram(sample_rate=RATE, n_fft=256, hop=125, bands=32, floor_db=-80)
spectrogram = spectrogram.normalized_to([train_sounds])
train_inputs, inputs = spectrogram(train_sounds), spectrogram(sounds)


def picture(of: Tensor) -> object:
    """Return the pixels of one spectrogram ``(1, bands, frames)``, high pitch on top."""
    return to_pixels(of.flip(-2), [0.3], [0.18])


show([[Panel(picture(inputs[kind]), name) for kind, name in enumerate(KINDS)]], width=2.4)

# %%
# The classifier
# --------------
#
# The classifier has four convolutions, and reads these pictures of 32 bands and 65 frames.


def block(before: int, after: int, stride: int) -> nn.Sequential:
    """Make a convolution with batch norm."""
    convolution = nn.Conv2d(before, after, 3, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU())


def network() -> nn.Sequential:
    """Make the classifier."""
    return nn.Sequential(
        *(block(1, 16, 2), block(16, 32, 2), block(32, 64, 1), block(64, 64, 1)),
        *(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(64, len(KINDS))),
    )


def train(classifier: nn.Module, inputs: Tensor) -> nn.Module:
    """Train a classifier on the pictures of the training clips."""
    loader = DataLoader(TensorDataset(inputs, train_kinds), 32, shuffle=True, drop_last=True)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=2e-3)
    for _ in range(6):
        for pictures, labels in loader:
            optimizer.zero_grad()
            cross_entropy(classifier(pictures), labels).backward()
            optimizer.step()
    return classifier.eval()


classifier = train(network(), train_inputs)
with torch.no_grad():
    accuracy = (classifier(inputs).argmax(1) == kinds).float().mean()
print(f"recognized: {accuracy:.0%} of {len(kinds)} clips that were not trained on")

# %%
# The masker
# ----------
#
# Pass ``example_inputs``, because a spectrogram is not as wide as it is high. The infill is the
# mean level, so the removed part sounds like the noise elsewhere.

model = MaskingModel(classifier, example_inputs=train_inputs[:1])
trainer = MaskingTrainer(model, train_classifier=False, infill=Mean(), lr=6e-3)
loader = DataLoader(TensorDataset(train_inputs, train_kinds), 32, shuffle=True, drop_last=True)
trainer.fit(loader, epochs=2, show_progress=False)

mask = MaskingSaliency(model).attribute(inputs)
masked_in, masked_out = mask_images(inputs, mask, Mean())
show(
    [
        [
            Panel(picture(inputs[kind]), KINDS[kind]),
            Panel(overlay(picture(inputs[kind]), mask[kind].flip(-2)), "evidence"),
            Panel(picture(masked_in[kind]), "masked-in"),
            Panel(picture(masked_out[kind]), "masked-out"),
        ]
        for kind in range(len(KINDS))
    ],
    width=2.4,
)

# %%
# The evidence contains neither the hum nor the noise. The masked-out sound keeps the faint ends of
# the call.
#
# Listen
# ------
#
# :meth:`~captum_masking.data.audio.Spectrogram.render` converts a masked picture back to sound. It
# gives each band of the clip the level it has in the picture, and keeps the phase. You hear what
# the classifier was shown.

evidence = spectrogram.render(sounds, masked_in)
rest = spectrogram.render(sounds, masked_out)

Player(**{"rising call": sounds[0], "its evidence": evidence[0], "the rest": rest[0]})

# %%
# And a warble:

Player(**{"warble": sounds[2], "its evidence": evidence[2], "the rest": rest[2]})

# %%
# What the classifier hears
# -------------------------
#
# The classifier can now be tested on the sounds that you heard.


@torch.no_grad()
def recognized(heard: Tensor) -> Tensor:
    """Return which sounds are recognized, ``(B,)``."""
    return (classifier(spectrogram(heard)).argmax(1) == kinds).float()


for name, heard in (("clips", sounds), ("evidence", evidence), ("rest", rest)):
    each = [f"{name} {recognized(heard)[kinds == k].mean():.0%}" for k, name in enumerate(KINDS)]
    print(f"{name:<9} {recognized(heard).mean():>4.0%}   ({', '.join(each)})")

# %%
# The evidence is enough, and the rest contains little: with four kinds, guessing is right in 25 %.
# Compare the kinds, too. The classifier has no class for "nothing", and gives mostly the same
# answer when it hears little. In the rest it recognizes the faint ends.
#
# We know where the calls are: in the bands and frames in which the call alone is louder than -40
# dB.

truth = spectrogram.levels(alone) > -40
share = energy_pointing(mask, truth).mean()
print(f"of the masks' weight {share:.0%} lies on the call, which is {truth.float().mean():.1%}")

assert share > 0.35

# %%
# The other weight lies mostly around the call: the mask is predicted on a coarser grid than the
# picture, and is trained to be smooth.
#
# A mask as a gain
# ----------------
#
# The other way back to sound, :meth:`~captum_masking.data.audio.Spectrogram.invert`, multiplies
# each band by the mask. The two halves then add up to the clip. But the removed part is now silent,
# and the classifier has never heard silence; it knows noise of the mean level:

by_gain = spectrogram.invert(sounds, mask)
for name, heard in (("rendered", evidence), ("as a gain", by_gain)):
    print(f"evidence {name:<10} recognized in {recognized(heard).mean():.0%}")

Player(**{"rendered": evidence[0], "as a gain": by_gain[0]})

# %%
# The second sounds cleaner to you. But whether the classifier recognizes it is another question,
# and depends on the infill.
#
# Every frequency
# ---------------
#
# L-MAC (Paissan et al. 2024) masks every frequency. Its picture is log(1 + magnitude), whose zero
# is silence, so the removed part is silent for you and for the classifier. The classifier computes
# the bands itself, by :class:`~captum_masking.data.audio.LogMel`, so the rows of its feature maps
# are in mel; :class:`~captum_masking.model.layouts.MelRows` converts them to the rows of the
# picture. The masker learns the class that the frozen classifier predicts.

magnitude = LogMagnitude(sample_rate=RATE, n_fft=256, hop=125)
front = LogMel(sample_rate=RATE, n_fft=256, bands=32)
listener = train(nn.Sequential(front, *network()), magnitude(train_sounds))
trainer = lmac(
    listener,
    layers=["2", "4"],
    layouts=[MelRows(highest_hz=RATE / 2, stride=2)] * 2,
    masker=partial(UNetMasker, width=16),
    example_inputs=magnitude(train_sounds[:1]),
    lr=6e-3,  # few steps
)
pictures = magnitude(train_sounds)
loader = DataLoader(TensorDataset(pictures, train_kinds), 16, shuffle=True, drop_last=True)
trainer.fit(loader, epochs=3, show_progress=False)

mask = MaskingSaliency(trainer.model).attribute(magnitude(sounds))
heard = magnitude.invert(sounds, mask)

Player(**{"rising call": sounds[0], "its evidence": heard[0], "warble": sounds[2], "its": heard[2]})

# %%
# How much of what you hear is the call? Its bins are those where it is louder than the rest.

there = magnitude(alone) > magnitude(sounds - alone)


def of_the_call(heard: Tensor) -> float:
    """Return the share of the energy of sounds that is in these bins."""
    energy = magnitude(heard).expm1().square()
    return float((energy * there).sum() / energy.sum())


rest = magnitude.invert(sounds, 1 - mask)
for name, each in (("clips", sounds), ("evidence", heard), ("rest", rest)):
    print(f"{name:<9} {of_the_call(each):.0%} of the energy is the call's")

assert of_the_call(heard) > of_the_call(sounds) + 0.1 > of_the_call(rest)

# %%
# :doc:`../audio` has the measures of the paper, and how the model is kept for
# ``captum-masking explain``, which takes sound files.
#
# **Exercise.** Train a classifier that has heard silence: in its training, set a random stretch of
# each picture to ``spectrogram.silence``. Train its masker with
# ``infill=Color(spectrogram.silence)`` of :mod:`captum_masking.parts.infill`. Is the evidence
# recognized as a gain?
#
# **Next**: :doc:`../audio` for figures on recorded sounds, and sound files; :doc:`04_swap_an_idea`
# on infills; :doc:`../own-data`.
