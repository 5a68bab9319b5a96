"""Promises about sound: it comes back whole, a mask removes what it says, a masker finds a tone."""

from __future__ import annotations

import cmath
import csv
import math
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from captum_masking import FromScratch, MaskingModel, MaskingSaliency, MaskingTrainer
from captum_masking.data.audio import (
    Clips,
    Spectrogram,
    draw_sound,
    mel,
    read_sound,
    write_sound,
)
from captum_masking.parts.infill import Color
from captum_masking.parts.masking import mask_images

soundfile = pytest.importorskip("soundfile", reason="sound files are read by soundfile")

RATE = 8000


def tone(frequency: float, samples: int = 4000, amplitude: float = 1.0) -> Tensor:
    return amplitude * (2 * math.pi * frequency / RATE * torch.arange(samples).double()).sin()


def small(**options) -> Spectrogram:
    return Spectrogram(**{"sample_rate": RATE, "n_fft": 256, "hop": 128, "bands": 32, **options})


def every_frequency(**options) -> Spectrogram:
    return small(bands=129, scale=None, **options)


# Levels.


def test_a_sine_of_amplitude_1_has_0_db_in_its_band_and_a_tenth_of_it_20_less():
    row = 32  # 1000 Hz of 8000 / 256 = 31.25 Hz a band
    for amplitude, level in [(1.0, 0.0), (0.1, -20.0)]:
        levels = every_frequency().levels(tone(1000, amplitude=amplitude))[0, :, 5:25]
        torch.testing.assert_close(
            levels[row], torch.full((20,), level).double(), atol=0.01, rtol=0
        )
        # The Hann window spreads half of the amplitude to either side, and nothing further.
        beside = levels[[row - 1, row + 1]] - level
        assert (beside - 20 * math.log10(0.5)).abs().max() < 0.01
        assert levels[[row - 2, row + 2]].max() < level - 60


def test_levels_are_those_of_the_transform_written_as_loops():
    n_fft, hop, sound = 8, 3, torch.rand(14).double() * 2 - 1
    levels = Spectrogram(sample_rate=RATE, n_fft=n_fft, hop=hop, bands=5, scale=None).levels(sound)[
        0
    ]
    half = n_fft // 2
    longer = [*sound.tolist(), 0.0]  # to whole hops, 15
    mirrored = [*longer[half:0:-1], *longer, *longer[-2 : -2 - half : -1]]
    window = [0.5 - 0.5 * math.cos(2 * math.pi * n / n_fft) for n in range(n_fft)]
    assert levels.shape == (5, 6)
    for frame in range(6):
        for k in range(5):
            terms = (
                window[n] * mirrored[frame * hop + n] * cmath.exp(-2j * math.pi * k * n / n_fft)
                for n in range(n_fft)
            )
            magnitude = abs(sum(terms)) / (sum(window) / 2)
            assert levels[k, frame].item() == pytest.approx(20 * math.log10(magnitude), abs=1e-4)


def test_digital_silence_has_the_least_level():
    spectrogram = small(floor_db=-90.0, mean_db=-50.0, std_db=10.0)
    assert torch.equal(spectrogram(torch.zeros(2, 999)), torch.full((2, 1, 32, 9), -4.0))
    assert spectrogram.silence == -4.0


def test_each_frequency_is_shared_out_completely_between_its_two_bands():
    for spectrogram in (small(), Spectrogram(), every_frequency()):
        shares = spectrogram.weights
        torch.testing.assert_close(shares.sum(0), torch.ones(spectrogram.n_fft // 2 + 1))
        assert ((shares > 0).sum(0) <= 2).all()


def test_bands_lie_at_equal_distances_in_mel_from_0_hz_to_half_the_sample_rate():
    # Hats are broad: the mean of a band's frequencies lies near its center, not at it.
    pitches = mel(Spectrogram(n_fft=8192).frequencies)
    centers = torch.linspace(0, mel(torch.tensor(11025.0)).item(), 64)
    assert (pitches - centers)[1:-1].abs().max() < 5
    torch.testing.assert_close(every_frequency().weights, torch.eye(129))


def test_on_the_sounds_it_was_normalized_to_the_mean_is_0_and_the_spread_1():
    sounds = [0.1 * torch.randn(3, 4000), tone(700).float()]
    spectrogram = small().normalized_to(sounds)
    values = torch.cat([spectrogram(sound).flatten() for sound in sounds])
    assert abs(values.mean()) < 1e-3 and abs(values.std() - 1) < 1e-3


def test_a_batch_gives_what_its_sounds_give_one_by_one():
    spectrogram, sounds = small(), torch.randn(3, 4001)
    mask = torch.rand(3, 1, 32, 33)
    pictures, heard = spectrogram(sounds), spectrogram.invert(sounds, mask)
    for i in range(3):
        torch.testing.assert_close(spectrogram(sounds[i]), pictures[i])
        torch.testing.assert_close(spectrogram.invert(sounds[i], mask[i]), heard[i])


def test_the_picture_has_the_dtype_of_the_sound_and_gradients_reach_it():
    sound = torch.randn(1, 2000, dtype=torch.float64, requires_grad=True)
    picture = small()(sound)
    picture.sum().backward()
    assert picture.dtype == torch.float64 and sound.grad.isfinite().all() and sound.grad.any()


def test_a_spectrogram_is_rebuilt_from_its_repr_and_has_no_state_to_save():
    spectrogram = small(mean_db=-41.5, scale=None)
    twin = eval(repr(spectrogram))
    sound = torch.randn(1, 2000)
    assert repr(twin) == repr(spectrogram) and torch.equal(twin(sound), spectrogram(sound))
    assert not spectrogram.state_dict()


# And back.


@pytest.mark.parametrize("samples", [129, 1000, 4096, 4097, 5003])
@pytest.mark.parametrize("hop", [32, 100, 128])
def test_a_mask_of_ones_gives_the_sound_back(samples, hop):
    spectrogram, sound = small(hop=hop), torch.randn(2, samples)
    mask = torch.ones_like(spectrogram(sound))
    assert (spectrogram.invert(sound, mask) - sound).abs().max() < 1e-4


def test_a_mask_of_zeros_is_silence():
    spectrogram, sound = small(), torch.randn(2, 4001)
    assert not spectrogram.invert(sound, torch.zeros_like(spectrogram(sound))).any()


def test_what_is_masked_in_and_what_is_masked_out_sum_to_the_sound():
    spectrogram, sound = small(), torch.randn(2, 4001)
    mask = torch.rand_like(spectrogram(sound))
    halves = spectrogram.invert(sound, mask) + spectrogram.invert(sound, 1 - mask)
    assert (halves - sound).abs().max() < 1e-4


def test_the_sound_rendered_from_its_own_picture_is_the_sound():
    spectrogram, sound = small(), torch.randn(2, 4001)
    assert (spectrogram.render(sound, spectrogram(sound)) - sound).abs().max() < 1e-4


def test_a_picture_lighter_by_20_db_renders_a_sound_ten_times_as_loud():
    spectrogram, sound = small(std_db=10.0), torch.randn(2, 4001)
    louder = spectrogram.render(sound, spectrogram(sound) + 2.0)
    torch.testing.assert_close(louder, 10 * sound, atol=1e-3, rtol=0)


def test_rendering_a_hole_of_silence_mutes_it_to_the_least_level():
    spectrogram, sound = every_frequency(), tone(300) + tone(3500)
    picture, hole = spectrogram(sound), (every_frequency().frequencies > 1500)[None, :, None]
    muted = torch.where(hole, spectrogram.silence, picture)
    heard = spectrogram.render(sound, muted)
    assert (heard - tone(300))[256:-256].abs().max() < 1e-3
    assert spectrogram.levels(heard)[..., 3:-3][hole.expand_as(picture)[..., 3:-3]].max() < -75


@pytest.mark.parametrize("scale", [mel, None])
def test_masking_the_upper_half_of_the_band_removes_the_tone_there_and_keeps_the_other(scale):
    spectrogram = small(scale=scale)
    low, high = tone(300), tone(3500)
    mask = (spectrogram.frequencies < 1500).double()[None, :, None].expand(1, 32, 33)
    heard = spectrogram.invert(low + high, mask)
    inner = slice(256, -256)  # at both ends half a window sees a mirrored tone
    assert (heard - low)[inner].abs().max() < 1e-3
    assert (spectrogram.invert(low + high, 1 - mask) - high)[inner].abs().max() < 1e-3


def test_masking_the_later_frames_leaves_the_beginning_and_then_silence():
    spectrogram, sound = small(), torch.randn(4096)
    mask = (torch.arange(33) < 16).float().expand(1, 32, 33)  # frame 16 lies at sample 2048
    heard = spectrogram.invert(sound, mask)
    torch.testing.assert_close(heard[: 15 * 128], sound[: 15 * 128], atol=1e-4, rtol=0)
    assert heard[17 * 128 :].abs().max() < 1e-6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hop": 129}, "hop between 1 and half"),
        ({"n_fft": 255}, "n_fft must be even"),
        ({"bands": 1}, "bands must lie between 2 and n_fft // 2 \\+ 1 = 129, but got 1"),
        ({"bands": 120}, "bands=120 some of the lowest have none; take fewer bands"),
        ({"std_db": 0.0}, "must be positive"),
        ({"sample_rate": -1}, "must be positive"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        small(**options)


@pytest.mark.parametrize(
    ("sound", "error", "words"),
    [
        ([0.0] * 999, TypeError, "floating-point tensor .* got list"),
        (torch.zeros(999, dtype=torch.int16), TypeError, r"torch.int16; .* / 32768"),
        (torch.zeros(1, 2, 999), ValueError, r"\(1, 2, 999\); mix channels down"),
        (torch.zeros(2, 128), ValueError, "longer than half a window of n_fft=256.*got 128"),
    ],
)
def test_what_is_no_sound_is_refused(sound, error, words):
    with pytest.raises(error, match=words):
        small()(sound)


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(2, 1, 32, 9\).*got \(2, 3, 32, 9\).*attribution"):
        small().invert(torch.zeros(2, 999), torch.ones(2, 3, 32, 9))
    with pytest.raises(ValueError, match=r"\(2, 1, 32, 9\).*got \(1, 1, 32, 9\)"):
        small().render(torch.zeros(2, 999), torch.ones(1, 1, 32, 9))


@pytest.mark.parametrize("sounds", [[], [torch.zeros(999)]])
def test_there_is_no_normalizing_to_silence(sounds):
    with pytest.raises(ValueError, match=f"got {len(sounds)} with a spread of 0 dB"):
        small().normalized_to(sounds)


# Files.


def test_a_written_wav_is_read_again_to_16_bits(tmp_path):
    sound = tone(440, amplitude=0.5).float()
    write_sound(tmp_path / "new" / "tone.wav", sound, RATE)
    assert (read_sound(tmp_path / "new" / "tone.wav", RATE) - sound).abs().max() <= 1 / 32768


def test_a_written_ogg_is_read_again_nearly_and_in_its_pitch_after_resampling(tmp_path):
    write_sound(tmp_path / "tone.ogg", tone(1000, 16000, amplitude=0.5).float(), RATE)
    sound = read_sound(tmp_path / "tone.ogg", RATE // 2, samples=6000)
    strongest = torch.fft.rfft(sound).abs().argmax()
    assert strongest * (RATE / 2) / 6000 == 1000 and abs(sound.abs().max() - 0.5) < 0.05


def test_channels_are_mixed_to_one(tmp_path):
    soundfile.write(tmp_path / "stereo.wav", np.array([[0.5, 0.25]] * 100), RATE)
    assert torch.equal(read_sound(tmp_path / "stereo.wav", RATE), torch.full((100,), 0.375))


@pytest.mark.parametrize("rate", [RATE, RATE // 2, 11025])
def test_a_short_sound_continues_in_silence_and_a_long_one_is_cut(tmp_path, rate):
    write_sound(tmp_path / "loud.wav", torch.full((RATE,), 0.5), RATE)
    padded = read_sound(tmp_path / "loud.wav", rate, samples=2 * rate)
    assert len(padded) == 2 * rate and not padded[rate + 1 :].any()
    assert abs(padded[rate // 2] - 0.5) < 0.01
    cut = read_sound(tmp_path / "loud.wav", rate, samples=rate // 2)
    assert len(cut) == rate // 2 and (cut[100:-100] - 0.5).abs().max() < 0.01


def test_what_is_louder_than_a_file_can_hold_is_clipped(tmp_path):
    write_sound(tmp_path / "loud.wav", torch.tensor([-3.0, 3.0]), RATE)
    loudest = torch.tensor([-1.0, 1.0])
    assert (read_sound(tmp_path / "loud.wav", RATE) - loudest).abs().max() <= 1 / 32768


def test_files_that_are_no_sounds_are_refused(tmp_path):
    (tmp_path / "text.wav").write_text("no sound")
    with pytest.raises(ValueError, match="expected a sound file .*text.wav"):
        read_sound(tmp_path / "text.wav", RATE)
    with pytest.raises(FileNotFoundError, match="missing.wav does not exist"):
        read_sound(tmp_path / "missing.wav", RATE)
    with pytest.raises(ValueError, match="must end in .wav, .flac or .ogg, but got .*tone.xyz"):
        write_sound(tmp_path / "tone.xyz", torch.zeros(9), RATE)
    with pytest.raises(ValueError, match=r"one sound .* got shape \(2, 9\); .* one by one"):
        write_sound(tmp_path / "two.wav", torch.zeros(2, 9), RATE)


def test_without_soundfile_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    for call in (
        lambda: read_sound(tmp_path / "tone.wav", RATE),
        lambda: write_sound(tmp_path / "tone.wav", torch.zeros(9), RATE),
    ):
        with pytest.raises(ImportError, match="pip install soundfile"):
            call()


# Clips.


@pytest.fixture
def listed(tmp_path) -> Path:
    """Four clips of one second, two classes, two folds."""
    rows = [("file", "label", "name", "fold")]
    for index, (label, fold) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1)]):
        write_sound(tmp_path / f"{index}.wav", torch.full((RATE,), index / 8), RATE)
        rows.append((f"{index}.wav", label, ["dog", "rain"][label], fold))
    with (tmp_path / "clips.csv").open("w", newline="") as lines:
        csv.writer(lines).writerows(rows)
    return tmp_path / "clips.csv"


def test_clips_of_a_fold_come_with_their_labels_and_names(listed):
    clips = Clips(listed, folds=[1], sample_rate=RATE, seconds=0.5)
    assert len(clips) == 2 and clips.labels == [0, 1] and clips.names == {0: "dog", 1: "rain"}
    sound, label = clips[1]
    assert label == 1 and torch.equal(sound, torch.full((RATE // 2,), 3 / 8))
    assert len(Clips(listed)) == 4


def test_clips_become_batches_of_spectrograms(listed):
    clips = Clips(listed, transform=small(), sample_rate=RATE, seconds=0.5)
    pictures, labels = next(iter(DataLoader(clips, batch_size=4)))
    assert pictures.shape == (4, 1, 32, 33) and labels.tolist() == [0, 1, 0, 1]


def test_clips_are_rebuilt_from_their_repr(listed):
    clips = Clips(listed, folds=[0], sample_rate=RATE, seconds=0.5)
    assert repr(eval(repr(clips))) == repr(clips)


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        ("file,class\n0.wav,0\n", ValueError, r"expected the columns \['file', 'label', 'fold'\]"),
        (
            "file,label,fold\n0.wav,dog,0\n",
            ValueError,
            "whole number >= 0 in .*'label'.*'dog'",
        ),
        ("file,label,fold\n0.wav,0,1\n", ValueError, r"folds must be some of \[1\].*got \[0\]"),
        (
            "file,label,fold\n9.wav,0,0\n",
            FileNotFoundError,
            "1 of 1 do not.*first being .*9.wav",
        ),
    ],
)
def test_a_list_of_clips_that_is_none_is_refused(listed, content, error, words):
    listed.write_text(content)
    with pytest.raises(error, match=words):
        Clips(listed, folds=[0])


def test_a_list_of_clips_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.csv does not exist"):
        Clips(tmp_path / "none.csv")


# Pictures.


def test_a_sound_and_its_map_are_drawn_and_pyplot_is_left_alone(tmp_path):
    had = "matplotlib.pyplot" in sys.modules
    draw_sound(tmp_path / "new" / "a.png", small(), torch.zeros(4000), torch.zeros(1, 32, 33))
    assert (tmp_path / "new" / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"\(1, 32, 33\).*got \(1, 32, 9\)"):
        draw_sound(tmp_path / "b.png", small(), torch.zeros(4000), torch.zeros(1, 32, 9))
    assert ("matplotlib.pyplot" in sys.modules) == had


# The whole way: a tone in noise says the class, and the mask covers it.

TONES = [400.0, 1100.0, 2600.0]


def tones_in_noise(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sounds ``(count, 2048)``, classes, and where the tone sounds, ``(count, 17)`` of frames."""
    random = torch.Generator().manual_seed(seed)
    sounds = 0.1 * torch.randn(count, 2048, generator=random)
    labels = torch.randint(len(TONES), (count,), generator=random)
    starts = torch.randint(0, 9, (count, 1), generator=random) * 128
    samples = torch.arange(2048)
    on = (samples >= starts) & (samples < starts + 1024)
    tones = torch.stack([tone(f, 2048, amplitude=0.2).float() for f in TONES])
    frames = torch.arange(17) * 128
    return sounds + tones[labels] * on, labels, (frames >= starts) & (frames < starts + 1024)


def network() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(16 * 8 * 5, 3)),
    )


def test_the_mask_covers_the_tone_that_identifies_the_class_and_one_hears_it(device):
    sounds, labels, _ = tones_in_noise(200, seed=0)
    spectrogram = small(floor_db=-60.0).normalized_to([sounds])  # the noise has about -35 dB
    infill = Color(spectrogram.silence)
    examples = list(zip(spectrogram(sounds), labels, strict=True))
    loader = DataLoader(examples, batch_size=20, shuffle=True)
    model = MaskingModel(network(), example_inputs=examples[0][0][None]).to(device)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the masker has collapsed")  # at first
        options = {"train_classifier": FromScratch(), "infill": infill, "lr": 5e-3}
        MaskingTrainer(model, **options).fit(loader, 10, show_progress=False)

    sounds, labels, on = tones_in_noise(100, seed=1)
    pictures = spectrogram(sounds)
    with torch.no_grad():
        mask = MaskingSaliency(model).attribute(pictures.to(device), target=labels.to(device)).cpu()
    near = (spectrogram.frequencies - torch.tensor(TONES)[labels][:, None]).abs() < 250
    there = near[:, None, :, None] & on[:, None, None, :]  # (B, 1, bands, frames)
    assert mask[there].mean() > 0.2 and mask[there].mean() > 10 * mask[~there].mean()
    row = mask.mean(3).argmax(2)  # (B, 1), where the mask is widest
    assert near.gather(1, row).float().mean() > 0.95
    # And in the sound made of the masked-in picture, analyzed again; of a hole only, by chance.
    masked_in, _ = mask_images(pictures, mask, infill)
    mute, _ = mask_images(pictures, torch.zeros_like(mask), infill)
    heard, unheard = (spectrogram(spectrogram.render(sounds, p)) for p in (masked_in, mute))
    right = [accuracy(model, p.to(device), labels) for p in (pictures, heard, unheard)]
    assert right[0] > 0.95 and right[1] > 0.9 and right[2] < 0.7


@torch.no_grad()
def accuracy(model: MaskingModel, pictures: Tensor, labels: Tensor) -> float:
    return (model.eval()(pictures).argmax(1).cpu() == labels).float().mean().item()
