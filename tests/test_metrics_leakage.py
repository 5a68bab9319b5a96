"""Promises of the leakage audit: it reads what is there, and nothing that is not."""

from __future__ import annotations

import math

import pytest
import torch

from captum_masking.metrics import Leakage, leakage
from captum_masking.metrics.leakage import _drawn


def shapes(count: int, side: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    """Discs, crosses and diamonds of random size in random places; boxes say nothing of which."""
    labels, masks = torch.arange(count) % 3, torch.zeros(count, 1, side, side)
    for mask, label in zip(masks[:, 0], labels.tolist(), strict=True):
        size = int(torch.randint(8, 17, ()))
        x0, y0 = torch.randint(0, side - size + 1, (2,)).tolist()
        x = (torch.arange(size) + 0.5) * 2 / size - 1
        y = x[:, None]
        kinds = [x**2 + y**2 <= 1, (x.abs() < 0.34) | (y.abs() < 0.34), x.abs() + y.abs() <= 1.2]
        mask[y0 : y0 + size, x0 : x0 + size] = kinds[label]
    return masks, labels


def squares(count: int, side: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    """Squares of one size, those of class 0 further left; all they say is where they are."""
    labels, masks = torch.arange(count) % 2, torch.zeros(count, 1, side, side)
    for mask, label in zip(masks[:, 0], labels.tolist(), strict=True):
        x0, y0 = int(torch.randint(0, 15, ())) + 22 * label, int(torch.randint(0, 37, ()))
        mask[y0 : y0 + 10, x0 : x0 + 10] = 1
    return masks, labels


def test_a_shape_that_encodes_the_class_is_read_and_is_not_in_the_boxes():
    found = leakage(*shapes(150))
    assert (found.masks, found.classes, found.chance) == (150, 3, pytest.approx(1 / 3))
    assert found.accuracy > 0.6
    assert found.box_accuracy < 1 / 3 + 4 * found.box_standard_error
    assert found.gives_away() and found.shape_gives_away()


def test_masks_that_do_not_depend_on_the_class_are_not_read():
    masks, _ = shapes(150)
    for seed in range(3):
        labels = torch.randint(0, 3, (150,), generator=torch.Generator().manual_seed(seed))
        found = leakage(masks, labels, folds=3)
        # A chance of one in 30,000 each, were it a fair guess.
        assert found.accuracy < found.chance + 4 * found.standard_error


def test_a_frequent_class_is_no_leakage():
    masks, _ = shapes(100)
    labels = (torch.rand(100) < 0.8).long()
    found = leakage(masks, labels)
    assert found.chance == max(labels.float().mean(), 1 - labels.float().mean())
    assert found.accuracy < found.chance + 4 * found.standard_error


def test_leakage_by_position_alone_is_in_the_boxes_too():
    found = leakage(*squares(100))
    assert found.accuracy > 0.9 and found.box_accuracy > 0.9
    assert found.gives_away() and not found.shape_gives_away()
    assert "size and position do" in found.sentence()


def test_the_same_call_gives_the_same_result_and_leaves_the_random_state_alone():
    masks, labels = shapes(60)
    state = torch.get_rng_state()
    found = leakage(masks, labels)
    assert torch.equal(torch.get_rng_state(), state)
    assert leakage(masks[:, 0].double(), labels.int()) == found
    assert eval(repr(found), {"Leakage": Leakage}) == found


def test_each_mask_is_read_once_by_one_who_has_not_seen_it_and_classes_are_dealt_evenly():
    masks = torch.rand(23, 1, 32, 32, dtype=torch.float64)
    labels = torch.tensor([5] * 14 + [9] * 9)
    calls = []

    def reader(seen, classes, unread):
        calls.append((seen, classes, unread))
        return torch.zeros(len(unread))

    leakage(masks, labels, folds=4, reader=reader)
    assert len(calls) == 8  # four folds of masks, then of boxes
    numbers = {mask.sum().item(): i for i, mask in enumerate(masks)}
    held_out = []
    for seen, classes, unread in calls[:4]:
        read = [numbers[mask.sum().item()] for mask in unread]
        learnt = [numbers[mask.sum().item()] for mask in seen]
        assert sorted(read + learnt) == list(range(23))
        assert classes.tolist() == [int(i >= 14) for i in learnt]
        assert sum(i < 14 for i in read) in (3, 4) and sum(i >= 14 for i in read) in (2, 3)
        held_out += read
    assert sorted(held_out) == list(range(23))


def test_numbers_are_worked_by_hand_for_a_reader_that_always_says_the_first_class():
    labels = torch.tensor([0, 0, 0, 1])

    def reader(seen, classes, unread):
        # Of masks, told by a pixel of one half, it says class 0; of boxes, class 1.
        return (unread.amax((1, 2, 3)) == 1).long()

    masks = torch.full((4, 1, 8, 8), 0.25)
    masks[..., :4, :4] = 0.5
    found = leakage(masks, labels, folds=2, reader=reader)
    # Right: 1 1 1 0 of masks, 0 0 0 1 of boxes; differences 1 1 1 -1.
    spread = math.sqrt(3 / 16) / 2
    expected = (4, 2, 0.75, 0.75, spread, 0.25, spread, 0.5, math.sqrt(3 / 4) / 2)
    for name, value in zip(Leakage.__dataclass_fields__, expected, strict=True):
        assert getattr(found, name) == pytest.approx(value), name


def test_boxes_are_drawn_as_rectangles_with_partly_covered_cells():
    drawn = _drawn(torch.tensor([[1.0, 2.0, 4.0, 6.0], [0, 0, 0, 0]]), 64, 64)
    expected = torch.zeros(2, 1, 32, 32, dtype=torch.float64)
    expected[0, 0, 1:3, 0], expected[0, 0, 1:3, 1] = 0.5, 1.0
    torch.testing.assert_close(drawn, expected)
    tall = _drawn(torch.tensor([[0.0, 0.0, 5.0, 3.0]]), 6, 10)
    assert torch.equal(tall[0, 0].nonzero().amax(0), torch.tensor([15, 15]))


def test_boxes_can_be_given():
    masks, labels = shapes(60)
    told = torch.tensor([[0.0, 0, 20, 20], [28, 28, 48, 48], [0, 28, 20, 48]])[labels]
    assert leakage(masks, labels, boxes=told).box_accuracy == 1


def test_masks_that_are_not_finite_are_read_as_empty_and_constants_are_fine():
    masks, labels = shapes(60)
    empty = masks.clone()
    masks[7, 0, 3, 3], empty[7] = math.nan, 0
    assert leakage(masks, labels) == leakage(empty, labels)
    blank = leakage(torch.full((60, 1, 8, 8), 0.5), labels)
    assert blank.accuracy <= blank.chance and not blank.gives_away()
    assert blank.sentence().startswith("No sign")


@pytest.mark.parametrize("side", [1, 7, 32, 100])
def test_masks_of_every_size_are_read(side):
    labels = torch.arange(20) % 2
    masks = labels.double()[:, None, None, None].expand(20, 1, side, side).clone()
    assert leakage(masks, labels).accuracy == 1


def test_what_cannot_be_audited_is_refused():
    masks, labels = shapes(12)
    for arguments, options, said in [
        ((masks.expand(-1, 3, -1, -1), labels), {}, "reduce an attribution"),
        ((9 * masks - 4, labels), {}, "min_max"),
        ((masks, labels[:5]), {}, "one per input"),
        ((masks, 0 * labels), {}, "at least two classes"),
        ((masks, labels), {"folds": 1}, "folds must be 2"),
        ((masks, labels), {"folds": 13}, "at most the number of masks, 12"),
        ((masks, labels), {"boxes": torch.zeros(3, 4)}, r"\(12, 4\)"),
    ]:
        with pytest.raises(ValueError, match=said):
            leakage(*arguments, **options)
    with pytest.raises(TypeError, match="integers"):
        leakage(masks, labels.float())
