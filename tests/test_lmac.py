"""Promises about listenable maps: their domain, their losses, their guide, and what is heard."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy, cosine_similarity

from captum_masking import MaskingModel, recipes
from captum_masking.data.audio import (
    LogMagnitude,
    LogMel,
    Spectrogram,
    mix,
)
from captum_masking.model.layouts import MelRows
from captum_masking.parts.infill import Mean
from captum_masking.parts.masker import UNetMasker
from captum_masking.parts.masking import mask_images
from captum_masking.parts.objective import Judgement
from captum_masking.parts.questions import AsPredicted
from captum_masking.parts.regularizer import GuidedByInput, UngatedArea

RATE = 8000


def small() -> LogMagnitude:
    return LogMagnitude(sample_rate=RATE, n_fft=256, hop=128)


def classifier(classes: int = 2) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        LogMel(sample_rate=RATE, n_fft=256, bands=32),
        *(nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes)),
    ).eval()


def trainer(network: nn.Module, pictures: Tensor, **changes):
    layouts = [MelRows(RATE / 2), MelRows(RATE / 2)]
    made = {"masker": partial(UNetMasker, width=8), "example_inputs": pictures[:1]}
    return recipes.lmac(network, layers=["3", "6"], layouts=layouts, **made, **changes)


# The domain: log(1 + |S|), where a mask takes a share.


def test_the_picture_is_the_log_of_one_plus_the_magnitude_of_torchs_transform():
    sound = torch.randn(2, 1280)
    spectrum = torch.stft(sound, 256, 128, window=torch.hann_window(256), return_complex=True)
    torch.testing.assert_close(small()(sound)[:, 0], (1 + spectrum.abs()).log())


@pytest.mark.parametrize("samples", [129, 1000, 4097])
def test_a_mask_of_ones_gives_the_sound_back_and_zeros_give_silence(samples):
    magnitude, sound = small(), torch.randn(2, samples)
    picture = magnitude(sound)
    ones = torch.ones_like(picture)
    masked_in, masked_out = mask_images(picture, ones, Mean())
    assert torch.equal(masked_in, picture) and not masked_out.any()
    assert (magnitude.invert(sound, ones) - sound).abs().max() < 1e-4
    assert not magnitude.invert(sound, 0 * ones).any()
    assert torch.equal(mask_images(picture, 0 * ones, Mean())[1], picture)


def test_a_mask_of_one_half_leaves_the_root_of_one_plus_the_magnitude_less_one():
    # A constant sound has one frequency, 0 Hz; amplitude c / 128 has |S| = c in the middle, since
    # the window of 256 sums to 128. Of 3 it leaves sqrt(4) - 1 = 1; a gain would leave 1.5.
    magnitude = small()
    sound = torch.full((1280,), 3 / 128, dtype=torch.float64)
    half = torch.full_like(magnitude(sound), 0.5)
    heard = magnitude.invert(sound, half)[400:800]
    # The window's neighbor has |S| = 1.5 and takes its own share, sqrt(2.5) - 1.
    assert magnitude(sound)[0, 0, 5].expm1() == pytest.approx(3)
    masked = (magnitude(sound) * half)[0, :, 5].expm1()
    assert masked[0].item() == pytest.approx(1) and masked[1].item() == pytest.approx(2.5**0.5 - 1)
    assert 1 / 3 < heard.mean() / sound[0] < 1 / 2


def test_bands_are_means_of_magnitudes_and_silence_is_zero():
    front, spectrogram = LogMel(sample_rate=RATE, n_fft=256, bands=32), small()
    hats = Spectrogram(sample_rate=RATE, n_fft=256, hop=128, bands=32).weights
    picture = spectrogram(torch.randn(1, 1280))
    expected = torch.empty(1, 1, 32, 11)
    for band in range(32):
        share = hats[band] / hats[band].sum()
        expected[0, 0, band] = (share[:, None] * picture[0, 0].expm1()).sum(0).log1p()
    torch.testing.assert_close(front(picture), expected)
    assert not front(torch.zeros(1, 1, 129, 3)).any()


def test_a_tone_lies_in_the_row_of_its_frequency_once_the_rows_of_bands_are_led_back():
    front, magnitude = LogMel(sample_rate=RATE, n_fft=256, bands=32), small()
    for frequency in (500, 1500, 3000):
        sound = (2 * math.pi * frequency / RATE * torch.arange(1280)).sin()
        rows = MelRows(RATE / 2, stride=1)(front(magnitude(sound)[None]), size=(129, 11))
        assert rows.shape == (1, 1, 129, 11)
        assert abs(rows[0, 0, :, 5].argmax() * RATE / 256 - frequency) < 150


def test_settings_are_printed_and_there_is_nothing_to_normalize():
    magnitude = small()
    assert repr(magnitude) == "LogMagnitude(sample_rate=8000, n_fft=256, hop=128)"
    assert magnitude.normalized_to([]) is magnitude and magnitude.silence == 0


# Mixtures.


def test_a_mixture_has_the_shares_at_norm_one_and_a_peak_of_one():
    first, second = torch.randn(3, 500), 7 * torch.randn(3, 500)
    mixed = mix(first, second, share=0.8)
    for row in range(3):
        slow = 0.8 * first[row] / first[row].norm() + 0.2 * second[row] / second[row].norm()
        torch.testing.assert_close(mixed[row], slow / slow.abs().max())
    assert not mix(torch.zeros(9), torch.zeros(9)).any()
    with pytest.raises(ValueError, match=r"one length .* got \(9,\), \(8,\) .* cut the longer"):
        mix(torch.zeros(9), torch.zeros(8))
    with pytest.raises(ValueError, match="a share in"):
        mix(torch.zeros(9), torch.zeros(9), share=0.0)


# The losses.


def test_of_two_classes_the_objective_is_4_softplus_in_less_a_fifth_softplus_out():
    # Of logits (z, -z) and target 0: CE = log(1 + exp(-2 z)).
    objective = trainer(classifier(), torch.rand(1, 1, 129, 11)).objective
    inside, outside = 0.7, -0.3
    logits = torch.tensor([[inside, -inside]]), torch.tensor([[outside, -outside]])
    judgement = Judgement(torch.zeros(1, 2), *logits, target=torch.tensor([0]))
    expected = 4 * math.log1p(math.exp(-2 * inside)) - 0.2 * math.log1p(math.exp(-2 * outside))
    assert objective(judgement).item() == pytest.approx(expected)


def test_the_area_is_four_tenths_of_the_sum_over_a_batch():
    mask = torch.rand(8, 1, 4, 5)
    regularizer = trainer(classifier(), torch.rand(1, 1, 129, 11), batch_size=8).regularizer
    torch.testing.assert_close(regularizer(mask, None), 0.4 * mask.mean((1, 2, 3)).sum())


def test_without_an_area_the_gradient_of_both_sides_reaches_the_masker_through_the_classifier():
    network, pictures = classifier(), small()(torch.randn(4, 1280))
    for weights in ((4.0, 0.0), (0.0, 0.2)):
        published = trainer(network, pictures).objective
        objective = replace(published, weight_in=weights[0], weight_out=weights[1])
        parts = {"objective": objective, "regularizer": UngatedArea(0.0), "weight_decay": 0.0}
        made = trainer(network, pictures, **parts)
        before = [p.detach().clone() for p in made.model.masker.final.parameters()]
        made.step(pictures, torch.zeros(4, dtype=torch.long))
        after = list(made.model.masker.final.parameters())
        assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_masker_learns_of_what_is_predicted_and_never_of_the_label():
    network, pictures = classifier(), small()(torch.randn(6, 1280))
    with torch.no_grad():
        predicted = network(pictures).argmax(1)
    weights = []
    for labels in (predicted, 1 - predicted):
        torch.manual_seed(1)
        made = trainer(network, pictures)
        record = made.step(pictures, labels)
        assert record["clean"] == 1
        weights.append(torch.cat([p.detach().flatten() for p in made.model.masker.parameters()]))
    assert torch.equal(*weights)
    posed = AsPredicted(sized=True).ask((pictures,), predicted)
    assert posed.given(torch.eye(6)).area.shape == (6,)


# The guide.


def test_a_mask_that_is_the_guide_costs_nothing_and_one_of_one_half_log_2():
    inputs = torch.tensor([[[[10.0, 3.5, 3.4, 0.0]]]])
    judgement = Judgement(*[torch.zeros(1, 2)] * 3, torch.tensor([0]), inputs=inputs)
    guide = torch.tensor([[[[1.0, 1.0, 0.0, 0.0]]]])  # at least 0.35 of 10
    guided = GuidedByInput(UngatedArea())
    assert guided(guide, judgement) == 0
    assert guided(torch.full_like(guide, 0.5), judgement).item() == pytest.approx(4 * math.log(2))


def test_guided_and_other_masks_count_as_in_the_loop():
    torch.manual_seed(0)
    inputs = torch.rand(6, 1, 4, 5)
    mask = torch.rand(6, 1, 4, 5, requires_grad=True)
    guided = GuidedByInput(UngatedArea(2.0), weight=3.0, similarity=0.85)
    judgement = Judgement(*[torch.zeros(6, 2)] * 3, torch.zeros(6, dtype=torch.long), inputs=inputs)
    losses, kinds = [], set()
    for x, m in zip(inputs, mask, strict=True):
        kept = cosine_similarity(x.flatten(), (m * x).flatten(), dim=0) >= 0.85
        kinds.add(bool(kept))
        guide = (x >= 0.35 * x.max()).float()
        losses.append(3 * binary_cross_entropy(m, guide) if kept else 2 * m.mean())
    assert kinds == {True, False}
    torch.testing.assert_close(guided(mask, judgement), torch.stack(losses).mean())
    sure = mask.detach().round().requires_grad_()
    guided(sure, judgement).backward()
    assert sure.grad.isfinite().all()


def test_the_guide_is_the_input_of_a_training_and_without_one_an_error_says_so():
    pictures = small()(torch.randn(4, 1280))
    made = trainer(classifier(), pictures, regularizer=GuidedByInput(UngatedArea()))
    assert math.isfinite(made.step(pictures, torch.zeros(4, dtype=torch.long))["loss"])
    judgement = Judgement(*[torch.zeros(1, 2)] * 3, torch.tensor([0]))
    with pytest.raises(RuntimeError, match="compares each mask with its input"):
        GuidedByInput(UngatedArea())(torch.ones(1, 1, 2, 2), judgement)


def test_a_saved_model_leads_its_rows_back_as_before(tmp_path):
    network, pictures = classifier(), small()(torch.randn(2, 1280))
    model = trainer(network, pictures).model.eval()
    model.save(tmp_path / "heard")
    loaded = MaskingModel.load(tmp_path / "heard", network)
    assert loaded.layouts == (MelRows(RATE / 2), MelRows(RATE / 2))
    assert torch.equal(loaded.mask(pictures), model.mask(pictures))
