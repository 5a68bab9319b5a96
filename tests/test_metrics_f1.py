"""Promises of F1 on the continuous mask."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from captum_masking.metrics import f1, f1_mean


def slow_f1(mask: Tensor, box: list[int], epsilon: float) -> float:
    """F1 with one box of whole pixels, read off the formula."""
    x0, y0, x1, y1 = box
    inside = total = 0.0
    for y, row in enumerate(mask.tolist()):
        for x, value in enumerate(row):
            total += value
            inside += value if x0 <= x < x1 and y0 <= y < y1 else 0.0
    precision, recall = inside / (total + epsilon), inside / ((x1 - x0) * (y1 - y0))
    return 2 * precision * recall / (precision + recall + epsilon) if inside else 0.0


@pytest.mark.parametrize("published", [False, True])
def test_f1_agrees_with_a_slow_loop_over_pixels_for_best_and_mean(published):
    masks = torch.rand(6, 7, 9, dtype=torch.float64)
    rows = [[0, 0, 4, 5], [-3, 2, 5, 12], [3, 3, 4, 4], [20, 20, 22, 22]]
    lists = [rows[: 1 + image % 4] for image in range(6)]
    scores = [
        [slow_f1(mask, row, 1e-6 if published else 0.0) for row in boxes]
        for mask, boxes in zip(masks, lists, strict=True)
    ]
    boxes = [torch.tensor(each) for each in lists]
    best, mean = torch.tensor([[max(s), sum(s) / len(s)] for s in scores]).unbind(1)
    torch.testing.assert_close(f1(masks, boxes, published=published), best)
    torch.testing.assert_close(f1_mean(masks, boxes, published=published), mean)


def test_a_box_beyond_the_frame_counts_with_its_whole_area():
    mask, box = torch.ones(1, 2, 2), torch.tensor([[0, 0, 2, 6]])
    torch.testing.assert_close(f1(mask, [box]), torch.tensor([0.5]))  # P = 1, R = 4 / 12


def test_a_box_that_cuts_a_pixel_counts_it_in_part_and_as_published_not():
    mask = torch.tensor([[[1.0, 1.0, 0.0]]])
    box = [torch.tensor([[0.0, 0.0, 1.5, 1.0]])]
    # 1.5 of 2 inside, all of the box covered; published: 1 of 2 in the box (0, 0, 1, 1).
    torch.testing.assert_close(f1(mask, box), torch.tensor([2 * 0.75 / 1.75]))
    torch.testing.assert_close(f1(mask, box, published=True), torch.tensor([2 * 0.5 / 1.5]))


def test_the_published_epsilon_keeps_a_perfect_mask_just_below_one():
    mask, box = torch.ones(1, 1, 1, dtype=torch.float64), [torch.tensor([[0, 0, 1, 1]])]
    assert f1(mask, box).item() == 1
    assert 1 - 3e-6 < f1(mask, box, published=True).item() < 1


def test_a_box_without_whole_pixels_scores_zero_as_published():
    mask, box = torch.ones(1, 4, 4), [torch.tensor([[1.2, 0.0, 1.9, 4.0]])]
    assert f1(mask, box, published=True).item() == 0


def test_boxes_in_fractions_are_refused():
    with pytest.raises(ValueError, match=r"reach 4, .*boxes_to_pixels"):
        f1(torch.rand(1, 4, 4), [torch.tensor([[0.0, 0.0, 0.5, 1.0]])])
