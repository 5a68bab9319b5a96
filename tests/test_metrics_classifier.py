"""Is it a good classifier: accuracy with parts hidden, and calibration, by hand and slowly."""

from __future__ import annotations

import pytest
import torch
from networks import Quadrants, assert_same, cnn, everything, mixed_modes
from torch import Tensor, nn

from captum_masking.metrics import calibration_error, most_salient, occluded_accuracy
from captum_masking.parts.infill import Noise


def hidden(height: int, width: int, **options) -> Tensor:
    """Return what is hidden of each image for each area, ``(areas, B, H, W)``."""
    seen = []
    classifier = lambda x: (seen.append(x), x.flatten(1)[:, :2])[1]  # noqa: E731
    target = torch.zeros(40, dtype=torch.long)
    options = {"batch_size": 64, **options}
    occluded_accuracy(classifier, 9 * torch.ones(40, 1, height, width), target, **options)
    return 1 - torch.cat(seen).reshape(-1, 40, height, width) / 9  # holes are 0


@pytest.mark.parametrize(("height", "width"), [(20, 20), (20, 40)])
def test_a_rectangle_of_the_area_lies_wholly_inside_at_every_place(height, width):
    areas = (0.09, 0.25, 0.49)
    holes = hidden(height, width, areas=areas)
    for hole, area in zip(holes, areas, strict=True):
        torch.testing.assert_close(hole.mean((1, 2)), torch.full((40,), area))
        rows, columns = hole.amax(2).sum(1), hole.amax(1).sum(1)
        torch.testing.assert_close(rows / height, columns / width)  # its proportions
        torch.testing.assert_close(rows * columns, hole.sum((1, 2)))  # one, and full
    assert holes[0].mean(0)[height // 2, width // 2] > 0
    assert len({tuple(each.flatten().tolist()) for each in holes[0]}) > 20
    assert (holes[0] <= holes[1]).float().mean() > 0.95  # larger ones around the smaller, nearly


def test_what_the_map_says_goes_first():
    masks = torch.rand(40, 1, 6, 5)
    holes = hidden(6, 5, masks=masks, areas=(0.2, 0.5))
    for hole, area in zip(holes, (0.2, 0.5), strict=True):
        assert_same(hole, most_salient(masks, area)[:, 0])


def test_accuracy_falls_where_the_evidence_is_hidden():
    """Of pictures whose second quarter is bright, hidden from the first pixel on."""
    picture = torch.zeros(1, 1, 4, 4)
    picture[:, :, :2, 2:], picture[:, :, 2:, :2] = 1.0, 0.6  # classes 1 and 2
    order = torch.arange(16.0).flip(0).reshape(1, 1, 4, 4)  # rows from above
    target = torch.tensor([1])
    found = occluded_accuracy(Quadrants(), picture, target, order, areas=(0.0, 0.25, 0.5))
    assert_same(found, torch.tensor([[1.0, 0.0, 0.0]]))  # 4, then 2 of its pixels at 1 against 2.4


def test_seeds_batches_and_infills_decide_what_they_should():
    torch.manual_seed(0)
    classifier, inputs, target = cnn(), torch.randn(30, 3, 16, 16), torch.arange(30) % 4
    found = occluded_accuracy(classifier, inputs, target)
    assert found.shape == (30, 5)
    assert_same(found, occluded_accuracy(classifier, inputs, target, batch_size=7))
    noisy = [occluded_accuracy(classifier, inputs, target, infill=Noise()) for _ in range(2)]
    assert_same(*noisy)
    numbers = hidden(20, 20, areas=(0.1,)), hidden(20, 20, areas=(0.1,), seed=1)
    assert not torch.equal(*numbers)


def slow_calibration_error(confidence: Tensor, right: Tensor, bins: int) -> float:
    total = 0.0
    for index in range(bins):
        inside = (confidence > index / bins) & (confidence <= (index + 1) / bins)
        if inside.any():
            gap = right[inside].double().mean() - confidence[inside].double().mean()
            total += inside.double().mean().item() * abs(gap.item())
    return total


@pytest.mark.parametrize("bins", [5, 15])
def test_calibration_is_the_mean_gap_between_confidence_and_accuracy(bins):
    torch.manual_seed(0)
    inputs, target = 2 * torch.randn(60, 1, 1, 4), torch.arange(60) % 4
    confidence, predicted = inputs.flatten(1).softmax(1).max(1)
    expected = slow_calibration_error(confidence, predicted == target, bins)
    found = calibration_error(nn.Flatten(), inputs, target, bins=bins, batch_size=16)
    assert found.item() == pytest.approx(expected, abs=1e-5)


def test_sure_and_right_is_calibrated_and_sure_and_wrong_is_not():
    inputs = torch.tensor([[[[0.0, 50.0]]]]).repeat(4, 1, 1, 1)
    for label, error in ((1, 0.0), (0, 1.0)):
        target = torch.full((4,), label)
        assert calibration_error(nn.Flatten(), inputs, target).item() == pytest.approx(error)


def test_the_classifier_and_random_numbers_are_left_alone():
    classifier, inputs, target = mixed_modes(cnn()), torch.randn(6, 3, 8, 8), torch.arange(6) % 4
    before, numbers = everything(classifier), torch.get_rng_state()
    occluded_accuracy(classifier, inputs, target, infill=Noise())
    calibration_error(classifier, inputs, target)
    assert_same(before, everything(classifier))
    assert torch.equal(numbers, torch.get_rng_state())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"target": torch.tensor([0, 9])}, "labels must lie in 0..3"),
        ({"target": torch.tensor([0])}, "labels must have shape"),
        ({"areas": (1.5,)}, "area must be a fraction"),
        ({"masks": torch.rand(2, 4, 4)}, "masks must have shape"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(given, words):
    known = {"target": torch.tensor([0, 1]), **given}
    with pytest.raises(ValueError, match=words):
        occluded_accuracy(cnn(), torch.randn(2, 3, 8, 8), **known)
