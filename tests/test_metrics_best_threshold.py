"""Promises of MaxBoxAcc and MaxBoxAccV2."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from captum_masking.metrics import MaxBoxAcc, MaxBoxAccV2, max_box_acc, max_box_acc_v2, min_max
from captum_masking.metrics.boxes import contour_area


def draw(*rows: str) -> Tensor:
    """Read a mask from rows of digits, tenths: "0" to "9"."""
    return torch.tensor([[float(cell) / 10 for cell in row] for row in rows])[None]


def random_case() -> tuple[Tensor, list[Tensor]]:
    """Twelve blobs on grids of 9 x 12, half of them piecewise constant, with one or two boxes."""
    coarse = torch.rand(12, 1, 4, 5, dtype=torch.float64) ** 2
    size = (9, 12)
    smooth = torch.nn.functional.interpolate(coarse[:6], size=size, mode="bilinear")
    blocks = torch.nn.functional.interpolate(coarse[6:], size=size)
    starts = [torch.rand(1 + i % 2, 2) * 7 - 1 for i in range(12)]
    boxes = [torch.cat([s, s + 2 + 5 * torch.rand_like(s)], 1) for s in starts]
    return torch.cat([smooth, blocks])[:, 0], boxes


# A slow loop, read off the definition.


def slow_ious(mask: Tensor, boxes: Tensor, threshold: float, largest: bool) -> float:
    values = [[int(value * 255) for value in row] for row in mask.tolist()]
    cut = int(threshold * max(map(max, values)))
    left = {(y, x) for y, row in enumerate(values) for x, v in enumerate(row) if v > cut}
    parts = []
    while left:
        part, edge = set(), [min(left)]
        while edge:
            y, x = edge.pop()
            if (y, x) in left:
                left.remove((y, x))
                part.add((y, x))
                edge += [(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        parts.append(part)
    parts = sorted(parts, key=len)[-1:] if largest else parts
    return max((slow_iou(p, box) for p in parts for box in boxes.tolist()), default=0.0)


def slow_iou(part: set[tuple[int, int]], box: list[float]) -> float:
    (y0, y1), (x0, x1) = ((min(at), max(at) + 1) for at in zip(*part, strict=True))
    width, height = min(x1, box[2]) - max(x0, box[0]), min(y1, box[3]) - max(y0, box[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((x1 - x0) * (y1 - y0) + (box[2] - box[0]) * (box[3] - box[1]) - shared)


def test_both_agree_with_a_slow_loop_written_from_the_definition():
    masks, boxes = random_case()
    steps, levels = np.arange(0, 1, 0.04), (0.3, 0.5, 0.7)

    def slow(largest):
        pairs = zip(masks, boxes, strict=True)
        ious = [[slow_ious(mask, b, t, largest) for t in steps] for mask, b in pairs]
        return torch.tensor(ious, dtype=torch.float64)

    found, found_v2 = slow(largest=True) >= 0.5, slow(largest=False)
    assert torch.equal(max_box_acc(masks, boxes, step=0.04), found)
    assert 0 < found.sum() < found.numel()
    expected = torch.stack([found_v2 >= level for level in levels], 1)
    assert torch.equal(max_box_acc_v2(masks, boxes, step=0.04), expected)
    assert (expected[:, 0] != expected[:, 2]).any()


# By hand.


def test_the_threshold_is_a_share_of_the_maximum_and_strict():
    # 0.8 * 255 = 204 and 0.4 * 255 = 102 = half of the maximum: on below one half only.
    mask, box = draw("48", "00"), [torch.tensor([[0, 0, 2, 1]])]
    found = max_box_acc_v2(mask, box, step=0.25, levels=[0.9])[0, 0]
    assert found.tolist() == [True, True, False, False]


def test_parts_hang_together_by_their_corners():
    mask, box = draw("900", "090", "009"), [torch.tensor([[0, 0, 3, 3]])]
    assert max_box_acc(mask, box).all()


def test_the_first_takes_the_largest_part_and_the_second_any():
    mask, small = draw("9900", "9900", "0000", "0009"), [torch.tensor([[3, 3, 4, 4]])]
    assert not max_box_acc(mask, small).any()
    assert max_box_acc_v2(mask, small).all()


def test_an_overlap_of_exactly_the_level_is_found():
    mask, box = draw("9900", "9900", "0000", "0000"), [torch.tensor([[0, 0, 2, 4]])]
    assert max_box_acc(mask, box).all()  # 4 / 8


def test_a_constant_map_is_the_whole_frame_and_zeros_and_nan_are_nothing():
    box = [torch.tensor([[0, 0, 3, 3]])]
    assert max_box_acc(torch.full((1, 3, 3), 0.3), box).all()
    for value in (0.0, float("nan")):
        assert not max_box_acc_v2(torch.full((1, 3, 3), value), box).any()


def test_specks_among_thousands_do_not_hide_the_object():
    noise = (torch.rand(1, 60, 60) > 0.85).float() * 0.2
    noise[:, 20:40, 10:30] = 1
    assert max_box_acc_v2(noise, [torch.tensor([[10, 20, 30, 40]])])[..., 20:].all()


# As published.


def test_published_boxes_count_their_end_as_a_pixel():
    mask = draw("000000", "099000", "099000", "000000", "000000", "000000")
    box = [torch.tensor([[1, 1, 3, 4]])]
    # Corrected 4 / 6; published 3 x 3 of 3 x 4, which passes 0.7.
    assert not max_box_acc_v2(mask, box, levels=[0.7]).any()
    assert max_box_acc_v2(mask, box, levels=[0.7], published=True).all()


def test_published_boxes_end_at_the_last_pixel():
    mask, box = torch.ones(1, 4, 4), [torch.tensor([[0, 0, 3, 3]])]
    # (0, 0, 4, 4) is held to (0, 0, 3, 3), the ends included on both sides.
    assert max_box_acc_v2(mask, box, levels=[1.0], published=True).all()


def test_the_published_largest_part_is_the_one_with_the_largest_contour():
    mask = draw("999999", "000000", "990000", "990000", "000000")
    line, block = torch.tensor([[0, 0, 6, 1]]), torch.tensor([[0, 2, 2, 4]])
    # Six pixels in a line, whose contour has no area, and four in a block, whose contour has 1.
    assert max_box_acc(mask, [line]).all() and not max_box_acc(mask, [block]).any()
    assert max_box_acc(mask, [block], published=True).all()
    assert not max_box_acc(mask, [line], published=True).any()


def test_the_published_second_version_also_takes_the_rims_of_holes():
    mask = torch.full((1, 11, 11), 0.9)
    mask[0, 5, 5] = 0
    rim = [torch.tensor([[4, 4, 7, 7]])]
    assert not max_box_acc_v2(mask, rim).any()
    assert max_box_acc_v2(mask, rim, published=True).all()


@pytest.mark.parametrize(
    "rows, area",
    [
        (["1111", "1111", "1111"], 6),  # (4 - 1) (3 - 1)
        (["1", "1"], 0),
        (["111", "101", "111"], 4),  # a hole counts
        (["010", "111", "010"], 2),  # a diamond with diagonals of 2
        (["11", "10"], 0.5),
        (["100", "010", "001"], 0),
    ],
)
def test_the_area_of_a_contour_runs_through_pixel_centers(rows, area):
    part = np.array([[cell == "1" for cell in row] for row in rows])
    assert contour_area(part) == area


def test_the_published_versions_agree_with_opencv():
    cv2 = pytest.importorskip("cv2")
    masks, boxes = random_case()
    steps = np.arange(0, 1, 0.04)

    def slow(mask, truth, threshold, largest):
        gray = (mask.numpy() * 255).astype(np.uint8)
        _, on = cv2.threshold(gray, int(threshold * gray.max()), 255, cv2.THRESH_BINARY)
        contours = cv2.findContours(on, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[-2]
        contours = [max(contours, key=cv2.contourArea)] if largest and contours else contours
        spans = [cv2.boundingRect(contour) for contour in contours] or [(0, 0, 0, 0)]
        found = [(x, y, min(x + w, 11), min(y + h, 8)) for x, y, w, h in spans]
        return max(iou(box, [int(v) for v in row]) for box in found for row in truth.tolist())

    def iou(a, b):
        width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) + 1 for i in (0, 1))
        shared = max(width, 0) * max(height, 0)
        areas = [(c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b)]
        return shared / (sum(areas) - shared)

    mine = max_box_acc(masks, boxes, step=0.04, published=True)
    mine_v2 = max_box_acc_v2(masks, boxes, step=0.04, published=True)
    for image, (mask, truth) in enumerate(zip(masks, boxes, strict=True)):
        first = torch.tensor([slow(mask, truth, t, True) >= 0.5 for t in steps])
        second = torch.tensor([slow(mask, truth, t, False) >= 0.3 for t in steps])
        assert torch.equal(mine[image], first) and torch.equal(mine_v2[image, 0], second)


# Over a data set.


def test_the_best_threshold_is_one_for_all_images():
    # The first is found below one half only, the second from one half on only.
    masks = torch.cat([draw("8400", "0000"), draw("8444", "4444")])
    boxes = [torch.tensor([[0, 0, 2, 1]]), torch.tensor([[0, 0, 1, 1]])]
    found = max_box_acc_v2(masks, boxes, step=0.25, levels=[0.9])[:, 0].tolist()
    assert found == [[True, True, False, False], [False, False, True, True]]
    metric = MaxBoxAccV2(step=0.25, levels=[0.9])
    metric.update(masks, boxes)
    assert metric.compute() == 0.5


def test_the_metrics_are_the_maxima_of_the_means():
    masks, boxes = random_case()
    first, second = MaxBoxAcc(step=0.1), MaxBoxAccV2(step=0.1)
    first.update(masks, boxes)
    second.update(masks, boxes)
    means = max_box_acc(masks, boxes, step=0.1).float().mean(0)
    assert first.compute() == means.max()
    assert means[round(float(first.best_threshold()) / 0.1)] == means.max()
    v2 = max_box_acc_v2(masks, boxes, step=0.1).float().mean(0)
    torch.testing.assert_close(second.compute(), (v2[0].max() + v2[1].max() + v2[2].max()) / 3)
    assert second.best_threshold().shape == (3,)


@pytest.mark.parametrize("step", [0, -0.1, 1.5, float("nan")])
def test_a_step_outside_the_unit_interval_is_refused(step):
    with pytest.raises(ValueError, match=r"step must be in \(0, 1\]"):
        MaxBoxAcc(step=step)


@pytest.mark.parametrize("levels", [[], [0.0], [1.2]])
def test_levels_that_are_no_ious_are_refused(levels):
    with pytest.raises(ValueError, match=r"levels must be IoUs in \(0, 1\]"):
        MaxBoxAccV2(levels=levels)


# Scaling a map.


def test_a_scaled_map_reaches_from_zero_to_one_and_a_constant_one_is_zero():
    maps = torch.tensor([[[-2.0, 0.0, 2.0]], [[7.0, 7.0, 7.0]], [[0.0, float("nan"), 1.0]]])
    scaled = min_max(maps)
    assert scaled[:2].tolist() == [[[0, 0.5, 1]], [[0, 0, 0]]]
    assert scaled[2].isnan().all()
    assert min_max(maps[:, None].half()).shape == (3, 1, 1, 3)
