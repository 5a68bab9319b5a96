"""Promises of the localization metric, worked by hand on small grids."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from captum_masking.metrics import (
    MeanOf,
    best_box_iou,
    boxes_to_masks,
    boxes_to_pixels,
    centered_square,
    localization_error,
    localization_error_of_boxes,
    masks_to_boxes,
    om,
    whole_frame,
)
from captum_masking.metrics.boxes import best_box_iou_of_boxes, box_iou

NO_BOX = [0.0, 0.0, 0.0, 0.0]


def draw(*rows: str) -> Tensor:
    """Read a mask from rows of digits, "0" to "9"."""
    return torch.tensor([[float(cell) for cell in row] for row in rows])


def boxes_of(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


# The box of a mask.


def test_the_box_includes_the_last_row_and_column():
    mask = draw("00000", "00110", "00110", "00000")
    assert masks_to_boxes(mask[None]).tolist() == [[2, 1, 4, 3]]


def test_a_single_pixel_has_a_box_of_one_pixel():
    mask = draw("000", "000", "010")
    assert masks_to_boxes(mask[None]).tolist() == [[1, 2, 2, 3]]


def test_the_largest_part_wins_and_corners_do_not_connect():
    # Were corners to connect, the five ones would be one part of 3 x 3.
    mask = draw("1000", "0110", "0110", "0000")
    assert masks_to_boxes(mask[None]).tolist() == [[1, 1, 3, 3]]


def test_of_equal_parts_the_first_in_reading_order_wins():
    mask = draw("00011", "00000", "11000")
    assert masks_to_boxes(mask[None]).tolist() == [[3, 0, 5, 1]]


def test_the_part_with_most_pixels_wins_not_the_widest_box():
    mask = draw("111110", "100000", "000000", "000111", "000111", "000111")
    assert masks_to_boxes(mask[None]).tolist() == [[3, 3, 6, 6]]


def test_the_mask_is_cut_strictly_above_its_mean():
    # Mean (4 + 2 + 2) / 4 = 2: the two pixels at the mean are off.
    assert masks_to_boxes(draw("42", "20")[None]).tolist() == [[0, 0, 1, 1]]


def test_a_threshold_replaces_the_mean_and_is_strict_too():
    mask = draw("42", "20")[None]
    assert masks_to_boxes(mask, threshold=1.0).tolist() == [[0, 0, 2, 2]]
    assert masks_to_boxes(mask, threshold=4.0).tolist() == [NO_BOX]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, 0.3, 1 / 3, 0.7, 1.0])
def test_a_constant_mask_has_no_box_in_any_precision(value, dtype):
    masks = torch.full((1, 1, 224, 224), value, dtype=dtype)
    assert masks_to_boxes(masks).tolist() == [NO_BOX]


def test_a_mask_that_differs_in_the_last_bit_is_not_full():
    mask = torch.full((1, 50, 50), 0.3, dtype=torch.float64)
    mask[0, 7, 9] += 2**-54  # one unit in the last place of 0.3
    assert mask.unique().numel() == 2
    assert masks_to_boxes(mask).tolist() in ([[9, 7, 10, 8]], [NO_BOX])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("threshold", [None, 0.5])
def test_a_mask_that_is_not_finite_has_no_box(bad, threshold):
    mask = draw("0000", "0110", "0110", "0000")
    mask[0, 0] = bad
    assert masks_to_boxes(mask[None], threshold).tolist() == [NO_BOX]


def test_boolean_masks_have_the_box_of_their_true_pixels():
    mask = draw("000", "010", "011").bool()
    assert masks_to_boxes(mask[None, None]).tolist() == [[1, 1, 3, 3]]


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (8, 8), (2, 1, 1, 8, 8), (2, 1, 0, 8)])
def test_masks_of_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"\(B, 1, H, W\) or \(B, H, W\), but got \("):
        masks_to_boxes(torch.ones(shape))


def test_masks_and_boxes_are_not_changed_and_gradients_do_not_matter():
    masks = torch.rand(2, 1, 6, 6, requires_grad=True)
    before, boxes = masks.detach().clone(), [boxes_of([0, 0, 3, 3])] * 2
    localization_error(masks, boxes)
    assert torch.equal(masks, before)
    assert boxes[0].tolist() == [[0, 0, 3, 3]]


# Intersection over union.


def test_iou_of_boxes_worked_by_hand():
    boxes = boxes_of([0, 0, 2, 2], [1, 1, 2, 3])
    others = boxes_of([0, 0, 2, 2], [1, 0, 3, 2], [2, 0, 4, 2], [0.5, 0.5, 1.5, 1.5])
    # First: same 4/4; shifted 2/6; touching 0; inside 1/4. Second (area 2): 1/5, 1/5, 0, .25/2.75.
    expected = boxes_of([1, 1 / 3, 0, 1 / 4], [1 / 5, 1 / 5, 0, 1 / 11])
    torch.testing.assert_close(box_iou(boxes, others), expected)


def test_iou_with_an_empty_box_is_zero():
    empty = boxes_of([0, 0, 0, 0], [3, 3, 1, 1])
    assert box_iou(empty, torch.cat([empty, boxes_of([0, 0, 4, 4])])).tolist() == [[0, 0, 0]] * 2


def test_iou_is_the_one_of_torchvision():
    ops = pytest.importorskip("torchvision.ops")
    corners = torch.rand(2, 20, 4, generator=torch.Generator().manual_seed(0)).double() * 10
    boxes, others = (torch.cat([c[:, :2], c[:, :2] + c[:, 2:]], 1) for c in corners)
    torch.testing.assert_close(box_iou(boxes, others), ops.box_iou(boxes, others))


# The error of an image.


def test_an_overlap_of_exactly_one_half_is_a_miss():
    mask = draw("1100", "1100", "0000", "0000")[None]
    assert localization_error(mask, [boxes_of([0, 0, 2, 4])]).tolist() == [1]  # 4 / 8
    assert localization_error(mask, [boxes_of([0, 0, 2, 3])]).tolist() == [0]  # 4 / 6


def test_one_of_several_boxes_is_enough():
    mask = draw("0000", "0000", "0011", "0011")[None]
    miss, hit = [0, 0, 2, 2], [2, 2, 4, 4]
    assert localization_error(mask, [boxes_of(miss, hit)]).tolist() == [0]
    assert localization_error(mask, [boxes_of(miss, miss)]).tolist() == [1]


def test_a_box_beyond_the_frame_counts_with_its_whole_area():
    mask = draw("1100", "1100", "0000", "0000")[None]
    assert localization_error(mask, [boxes_of([-1, 0, 2, 2])]).tolist() == [0]  # 4 / 6
    assert localization_error(mask, [boxes_of([-2, 0, 2, 2])]).tolist() == [1]  # 4 / 8
    far = best_box_iou(mask, [boxes_of([-4, 0, 2, 2])])
    torch.testing.assert_close(far, torch.tensor([4 / 12]))


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0, float("nan")])
def test_a_mask_without_a_box_is_a_miss_even_of_the_whole_frame(value):
    masks = torch.full((1, 1, 5, 5), value)
    assert localization_error(masks, [boxes_of([0, 0, 5, 5])]).tolist() == [1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_error_is_float32_for_every_precision_of_the_mask(dtype):
    mask = draw("1100", "1100", "0000", "0000")[None].to(dtype)
    error = localization_error(mask, [torch.tensor([[0, 0, 2, 2]])])
    assert error.dtype == torch.float32
    assert error.tolist() == [0]


def test_masks_with_and_without_a_channel_score_the_same():
    masks, boxes = random_case()
    assert torch.equal(localization_error(masks, boxes), localization_error(masks[:, None], boxes))


def test_a_batch_scores_as_one_by_one():
    masks, boxes = random_case()
    singly = [localization_error(masks[i : i + 1], boxes[i : i + 1]) for i in range(len(masks))]
    assert torch.equal(localization_error(masks, boxes), torch.cat(singly))


def test_the_error_agrees_with_a_slow_loop_written_from_the_definition():
    masks, boxes = random_case()
    expected = [
        slow_error(mask.tolist(), rows.tolist()) for mask, rows in zip(masks, boxes, strict=True)
    ]
    assert localization_error(masks, boxes).tolist() == expected
    assert 0 < sum(expected) < len(expected)  # the case holds hits and misses


def random_case() -> tuple[Tensor, list[Tensor]]:
    """Sixty blobs on grids of 9 x 12, each with one to three boxes near or far."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(60, 1, 3, 4, generator=generator, dtype=torch.float64)
    masks = torch.nn.functional.interpolate(coarse, size=(9, 12), mode="bilinear")[:, 0]
    dice = random.Random(0)
    return masks, [boxes_of(*(random_box(dice) for _ in range(dice.randint(1, 3)))) for _ in masks]


def random_box(dice: random.Random) -> list[float]:
    (x0, x1), (y0, y1) = (sorted(dice.sample(range(side + 1), 2)) for side in (12, 9))
    return [x0, y0, x1, y1]


def slow_error(mask: list[list[float]], boxes: list[list[float]]) -> float:
    cells = {(y, x): value for y, row in enumerate(mask) for x, value in enumerate(row)}
    mean = sum(cells.values()) / len(cells)
    left = {cell for cell, value in cells.items() if value > mean}
    largest: set[tuple[int, int]] = set()
    while left:
        part, edge = set(), [min(left)]
        while edge:
            y, x = edge.pop()
            if (y, x) in left:
                left.remove((y, x))
                part.add((y, x))
                edge += [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        largest = part if len(part) > len(largest) else largest
    ys, xs = ([cell[axis] for cell in largest] for axis in (0, 1))
    inside = pixels_of(min(xs), min(ys), max(xs) + 1, max(ys) + 1)
    truths = [pixels_of(*map(int, box)) for box in boxes]
    return float(not any(len(inside & t) / len(inside | t) > 0.5 for t in truths))


def pixels_of(x0: int, y0: int, x1: int, y1: int) -> set[tuple[int, int]]:
    return {(y, x) for y in range(y0, y1) for x in range(x0, x1)}


# As published, and what else is made of the overlap.


def test_the_published_box_lacks_its_last_row_and_column():
    mask = draw("00000", "00111", "00111", "00000")[None]
    assert masks_to_boxes(mask, published=True).tolist() == [[2, 1, 4, 2]]


def test_the_published_box_of_a_single_pixel_is_empty_and_none_stays_none():
    masks = torch.stack([draw("000", "000", "010"), draw("000", "000", "000")])
    assert masks_to_boxes(masks, published=True).tolist() == [[1, 2, 1, 2], NO_BOX]


def test_the_published_error_can_differ_from_the_corrected():
    mask = draw("111", "111", "111")[None] * draw("110", "110", "000")
    # Corrected: 4 of 4. Published: the box is 1 x 1, its IoU 1 / 4.
    assert localization_error(mask, [boxes_of([0, 0, 2, 2])]).tolist() == [0]
    assert localization_error(mask, [boxes_of([0, 0, 2, 2])], published=True).tolist() == [1]


def test_published_boxes_are_cut_to_whole_pixels_towards_zero():
    mask = draw("11110", "11110", "00000")[None]  # its published box is (0, 0, 3, 1)
    box = [boxes_of([-0.9, 0.2, 3.9, 1.9])]  # becomes (0, 0, 3, 1)
    assert best_box_iou(mask, box, published=True).tolist() == [1]
    flat = [boxes_of([0.2, 0.2, 3.9, 0.9])]  # has no area left
    assert best_box_iou(mask, flat, published=True).tolist() == [0]


def test_the_best_of_the_boxes_counts():
    mask = draw("1100", "1100", "0000", "0000")[None]
    boxes = [boxes_of([2, 2, 4, 4], [0, 0, 4, 2], [1, 1, 3, 3])]  # 0; 4 / 8; 1 / 7
    assert best_box_iou(mask, boxes).tolist() == [0.5]


def test_the_error_is_the_best_overlap_held_against_one_half():
    masks, boxes = random_case()
    expected = (best_box_iou(masks, boxes) <= 0.5).float()
    assert torch.equal(localization_error(masks, boxes), expected)


def test_one_box_can_be_held_against_many_images():
    boxes = [boxes_of([0, 0, 4, 3]), boxes_of([0, 0, 2, 2])]
    assert best_box_iou_of_boxes(whole_frame(4, 4), boxes).tolist() == [0.75, 0.25]


def test_om_counts_an_object_that_is_found_but_not_recognized():
    mask = draw("1100", "1100", "0000", "0000").expand(4, 4, 4)
    hit, miss = boxes_of([0, 0, 2, 2]), boxes_of([2, 2, 4, 4])
    correct = torch.tensor([True, False, True, False])
    assert om(mask, [hit, hit, miss, miss], correct).tolist() == [0, 1, 1, 1]


def test_om_of_a_perfect_classifier_is_the_localization_error():
    masks, boxes = random_case()
    every = torch.ones(len(masks), dtype=torch.bool)
    assert torch.equal(om(masks, boxes, every), localization_error(masks, boxes))


def test_om_asks_for_one_boolean_an_image():
    with pytest.raises(ValueError, match=r"boolean .*shape \(1,\).*logits.argmax\(1\) == target"):
        om(torch.rand(1, 4, 4), [boxes_of([0, 0, 2, 2])], torch.tensor([1.0]))


def test_a_pixel_is_in_a_box_if_its_center_is():
    boxes = [boxes_of([0.5, 0, 2.5, 1]), boxes_of([-9, 0.6, 1, 9], [2, 0, 3, 1])]
    marked = boxes_to_masks(boxes, 2, 3).int().tolist()
    assert marked == [[[[1, 1, 0], [0, 0, 0]]], [[[0, 0, 1], [1, 0, 0]]]]


# Bad boxes.


def test_an_image_without_boxes_is_refused_by_its_number():
    with pytest.raises(ValueError, match=r"boxes\[1\] must hold at least one box.*omit images"):
        localization_error(torch.rand(2, 4, 4), [boxes_of([0, 0, 2, 2]), torch.empty(0, 4)])


def test_a_list_of_the_wrong_length_is_refused():
    with pytest.raises(ValueError, match="got 1 entries for 2 images; put"):
        localization_error(torch.rand(2, 4, 4), [boxes_of([0, 0, 2, 2])])


def test_a_flat_box_is_refused():
    with pytest.raises(ValueError, match=r"shape \(n, 4\), but got \(4,\); write one box as box"):
        localization_error(torch.rand(1, 4, 4), [torch.tensor([0, 0, 2, 2])])


def test_boxes_as_plain_lists_are_refused():
    with pytest.raises(TypeError, match=r"boxes\[0\] must be a tensor .* got list; convert"):
        localization_error(torch.rand(1, 4, 4), [[[0, 0, 2, 2]]])


@pytest.mark.parametrize("box", [[2, 2, 2, 4], [3, 0, 1, 4], [0, 0, float("nan"), 4]])
def test_an_empty_or_reversed_box_is_refused(box):
    with pytest.raises(ValueError, match=r"boxes\[0\] must be .* x0 < x1 .*convert"):
        localization_error(torch.rand(1, 4, 4), [boxes_of(box)])


def test_boxes_in_fractions_are_refused_and_the_cure_is_named():
    fractions = [boxes_of([0.1, 0.2, 0.5, 1.0])]
    mask = draw("0000", "0110", "0110", "0000")[None]
    with pytest.raises(ValueError, match=r"in pixels.* reach 3, .* boxes_to_pixels\(boxes"):
        localization_error(mask, fractions)
    with pytest.raises(ValueError, match=r"in pixels.* reach 224, .* boxes_to_pixels\(boxes"):
        localization_error_of_boxes(whole_frame(224, 224), fractions)


def test_fractions_can_be_held_against_fractions():
    boxes = [boxes_of([0.1, 0.2, 0.5, 1.0])]
    assert localization_error_of_boxes(boxes[0], boxes).tolist() == [0]


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="got 0 entries for 0 images"):
        localization_error_of_boxes(whole_frame(4, 4), [])


def test_predicted_boxes_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(B, 4\) or \(4,\), but got \(1, 1, 4, 4\); masks_to"):
        localization_error_of_boxes(torch.zeros(1, 1, 4, 4), [boxes_of([0, 0, 2, 2])])


def test_the_first_pixel_is_a_box_in_pixels_not_the_whole_frame():
    assert localization_error(draw("10", "00")[None], [boxes_of([0, 0, 1, 1])]).tolist() == [0]


# The metric.


def test_the_metric_is_the_mean_over_all_images_however_they_are_batched():
    masks, boxes = random_case()
    metric = MeanOf(localization_error)
    for start, end in [(0, 1), (1, 40), (40, 60)]:
        metric.update(masks[start:end], boxes[start:end])
    torch.testing.assert_close(metric.compute(), localization_error(masks, boxes).mean())


def test_the_metric_starts_again_after_reset():
    mask = draw("1100", "1100", "0000", "0000")[None]
    metric = MeanOf(localization_error)
    metric.update(mask, [boxes_of([2, 2, 4, 4])])
    assert metric.compute() == 1
    metric.reset()
    metric.update(mask, [boxes_of([0, 0, 2, 2])])
    assert metric.compute() == 0


def test_the_metric_says_that_lower_is_better_and_adds_up_over_processes():
    metric = MeanOf(localization_error)
    assert metric.higher_is_better is False
    assert {f.__name__ for f in metric._reductions.values()} == {"dim_zero_sum"}


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_the_metric_without_images_is_refused():
    with pytest.raises(RuntimeError, match="call update"):
        MeanOf(localization_error).compute()


# Fractions and baselines.


def test_fractions_become_pixels_of_width_and_height():
    boxes = boxes_to_pixels(boxes_of([0.25, 0.5, 1, 0.75]), height=8, width=100)
    assert boxes.tolist() == [[25, 4, 100, 6]]
    assert boxes_to_pixels(torch.empty(0, 4), 8, 8).shape == (0, 4)


def test_the_whole_frame_finds_objects_larger_than_half_of_it():
    boxes = [boxes_of([0, 0, 4, 2]), boxes_of([0, 0, 4, 3])]
    assert localization_error_of_boxes(whole_frame(4, 4), boxes).tolist() == [1, 0]


def test_the_centered_square_covers_half_of_the_frame_in_whole_pixels():
    assert centered_square(224, 224).tolist() == [33, 33, 191, 191]  # 224 * sqrt(0.5) = 158.4
    assert centered_square(224, 448, area=0.25).tolist() == [112, 56, 336, 168]
    assert centered_square(5, 5, area=1e-6).tolist() == [2, 2, 3, 3]


@pytest.mark.parametrize("area", [0, -0.5, 1.01, float("nan")])
def test_a_square_without_or_beyond_the_frame_is_refused(area):
    with pytest.raises(ValueError, match=r"fraction of the frame in \(0, 1\]"):
        centered_square(4, 4, area)


def test_a_mask_scores_as_its_box():
    masks, boxes = random_case()
    by_box = localization_error_of_boxes(masks_to_boxes(masks), boxes)
    assert torch.equal(localization_error(masks, boxes), by_box)
