"""Promises of the metrics that hold a mask against pixels: PxAP, IoU and the pointing games."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from captum_masking.metrics import (
    MaxMaskIoU,
    PxAP,
    energy_pointing,
    grid_pointing,
    mask_iou,
    pointing_game,
    pxap,
)
from captum_masking.metrics.localization import mask_iou_by_threshold
from captum_masking.metrics.thresholds import average_precision, pixel_histograms
from captum_masking.parts.questions import mosaics


def row(*values: float) -> Tensor:
    return torch.tensor([[list(values)]], dtype=torch.float64)


def random_case(images: int = 4) -> tuple[Tensor, Tensor]:
    masks = torch.rand(images, 6, 8, dtype=torch.float64)
    masks[0] = (masks[0] * 4).round() / 4  # many ties, zeros and ones
    return masks, torch.rand(images, 6, 8) < 0.3


# PxAP.


def slow_average_precision(masks: Tensor, truth: Tensor, step: float) -> float:
    edges = [*np.arange(0, 1, step), 1.0, 2.0]
    pixels = list(zip(masks.flatten().tolist(), truth.flatten().tolist(), strict=True))
    score = recall = on = off = 0.0
    for low, high in reversed(list(zip(edges[:-1], edges[1:], strict=True))):
        on += sum(t for value, t in pixels if low <= value < high)
        off += sum(1 - t for value, t in pixels if low <= value < high)
        if on + off:
            gained = on / sum(t for _, t in pixels) - recall
            score, recall = score + on / (on + off) * gained, recall + gained
    return score


@pytest.mark.parametrize("step", [0.25, 0.01])
def test_pooled_precision_agrees_with_a_slow_loop_over_bins(step):
    masks, truth = random_case()
    metric = PxAP(step=step)
    metric.update(masks, truth)
    expected = torch.tensor(slow_average_precision(masks, truth, step))
    torch.testing.assert_close(metric.compute(), expected)
    singly = [slow_average_precision(*pair, step) for pair in zip(masks, truth, strict=True)]
    torch.testing.assert_close(pxap(masks, truth, step=step), torch.tensor(singly))


def test_precision_is_the_one_of_scikit_learn_for_maps_on_the_bins():
    metrics = pytest.importorskip("sklearn.metrics")
    masks, truth = random_case()
    masks = (masks * 10).floor().clamp(max=9) / 10 + 0.05  # one value a bin
    expected = metrics.average_precision_score(truth.flatten().numpy(), masks.flatten().numpy())
    metric = PxAP(step=0.1)
    metric.update(masks, truth)
    torch.testing.assert_close(metric.compute(), torch.tensor(expected).float())


def test_pixels_are_pooled_not_images():
    # Each image alone is perfect; the first one's object is paler than the second's background.
    masks = torch.cat([row(0.3, 0.1), row(0.9, 0.5)])
    truth = torch.cat([row(1, 0), row(1, 0)])
    assert pxap(masks, truth).tolist() == [1, 1]
    metric = PxAP()
    metric.update(masks, truth)
    torch.testing.assert_close(metric.compute(), torch.tensor(1 * 1 / 2 + 2 / 3 * 1 / 2))


def test_a_bin_holds_its_lower_edge_and_one_has_its_own():
    counts = pixel_histograms(row(0, 0.24, 0.25, 0.99, 1), row(1, 1, 1, 1, 1), step=0.25)
    assert counts.tolist() == [[[0] * 5, [2, 1, 0, 1, 1]]]


def test_ignored_pixels_are_in_no_histogram():
    ignore = torch.tensor([[[False, True, False]]])
    counts = pixel_histograms(row(0, 1, 1), row(0, 0, 1), step=0.5, ignore=ignore)
    assert counts.tolist() == [[[1, 0, 0], [0, 0, 1]]]
    with pytest.raises(ValueError, match=r"ignore must be boolean .*labels == 255"):
        pixel_histograms(row(0, 1, 1), row(0, 0, 1), ignore=ignore.int())


def test_a_histogram_without_object_has_no_precision():
    assert average_precision(torch.tensor([[3, 1], [0, 0]])).isnan()


# IoU with pixel masks.


def test_the_iou_agrees_with_a_slow_loop_at_every_threshold():
    masks, truth = random_case()
    ious = mask_iou_by_threshold(masks, truth, step=0.125)
    for mask, there, found in zip(masks, truth, ious, strict=True):
        expected = []
        for threshold in np.arange(0, 1, 0.125):
            on = {i for i, v in enumerate(mask.flatten().tolist()) if v > threshold}
            true = {i for i, t in enumerate(there.flatten().tolist()) if t}
            expected.append(len(on & true) / len(on | true))
        torch.testing.assert_close(found, torch.tensor(expected))


@pytest.mark.parametrize("threshold", [0.0, 0.25, 0.5, 0.75])
def test_the_iou_at_one_threshold_is_its_column(threshold):
    masks, truth = random_case()
    column = mask_iou_by_threshold(masks, truth, step=0.25)[:, int(threshold * 4)]
    torch.testing.assert_close(mask_iou(masks, truth, threshold=threshold), column)


def test_by_default_each_mask_is_cut_strictly_above_its_own_mean():
    masks = torch.cat([row(4, 2, 2, 0), row(0.4, 0.3, 0, 0)])  # means 2 and 0.175
    assert mask_iou(masks, torch.cat([row(1, 0, 0, 0), row(1, 1, 0, 0)])).tolist() == [1, 1]


def test_the_best_threshold_is_one_for_all_images():
    masks, truth = torch.cat([row(0.9, 0.3), row(0.9, 0.3)]), torch.cat([row(1, 1), row(1, 0)])
    metric = MaxMaskIoU(step=0.25)
    metric.update(masks, truth)
    # Below 0.3: 1 and 1/2. Above: 1/2 and 1. Never 1 and 1.
    assert metric.means().tolist() == [0.75] * 4
    assert (metric.compute(), metric.best_threshold()) == (0.75, 0.0)


# Pointing.


def test_the_greatest_value_hits_or_misses():
    masks = torch.cat([row(0, 3, -5), row(-3, -2, -1)])
    assert pointing_game(masks, torch.cat([row(0, 1, 0)] * 2)).tolist() == [1, 0]


def test_of_equal_maxima_the_share_on_the_object_counts():
    mask = row(7, 7, 0, 7)
    torch.testing.assert_close(pointing_game(mask, row(1, 0, 1, 1)), torch.tensor([2 / 3]))


@pytest.mark.parametrize("tolerance, hit", [(0, 0), (1.4, 0), (1.5, 1), (9, 1)])
def test_the_tolerance_is_a_distance_between_pixel_centers(tolerance, hit):
    mask = torch.zeros(1, 4, 4)
    mask[0, 0, 0] = 1
    box = [torch.tensor([[1, 1, 3, 3]])]  # the nearest pixel is one down and one across: 1.414
    assert pointing_game(mask, box, tolerance_px=tolerance).tolist() == [hit]


def test_a_negative_tolerance_is_refused():
    with pytest.raises(ValueError, match="tolerance_px must be at least 0, but got -1"):
        pointing_game(row(1.0), row(1), tolerance_px=-1)


def test_energy_is_the_share_of_positive_weight():
    masks = torch.cat([row(2, 6, -8), row(-1, -1, -1)])
    assert energy_pointing(masks, torch.cat([row(1, 0, 1)] * 2)).tolist() == [0.25, 0]


# Grids.


def test_a_mosaic_lays_its_images_in_reading_order():
    images = torch.arange(6.0)[:, None, None, None].expand(-1, 3, 2, 2)
    laid = mosaics(images, rows=1, columns=3)
    assert laid.shape == (2, 3, 2, 6)
    assert laid[1, 2].tolist() == [[3, 3, 4, 4, 5, 5]] * 2


@pytest.mark.parametrize("rows, columns", [(2, 2), (1, 3), (3, 2)])
def test_weight_on_one_image_of_a_mosaic_is_found_in_its_cell_only(rows, columns):
    cells = rows * columns
    lit = torch.eye(cells)[:, :, None, None, None].expand(-1, -1, 1, 4, 5)
    maps = mosaics(lit.reshape(-1, 1, 4, 5), rows, columns)  # map i is lit in cell i
    here, next_one = torch.arange(cells), (torch.arange(cells) + 1) % cells
    assert grid_pointing(maps, here, rows, columns).tolist() == [1] * cells
    assert grid_pointing(maps, next_one, rows, columns).tolist() == [0] * cells


def test_images_that_fill_no_mosaic_are_refused():
    with pytest.raises(ValueError, match=r"B \* 4, C, h, w.*leave out the last 2 images"):
        mosaics(torch.rand(6, 3, 2, 2))


@pytest.mark.parametrize(
    "cell, message",
    [
        (torch.tensor([4]), r"cell must lie in 0\.\.3"),
        (torch.tensor([0.0]), "one integer for each of the 1 maps"),
        (torch.tensor([0, 1]), "one integer for each of the 1 maps"),
    ],
)
def test_cells_that_are_not_there_are_refused(cell, message):
    with pytest.raises(ValueError, match=message):
        grid_pointing(torch.rand(1, 4, 4), cell)


def test_maps_that_do_not_divide_into_cells_are_refused():
    with pytest.raises(ValueError, match=r"divide into .* cells.*mosaics\("):
        grid_pointing(torch.rand(1, 5, 4), torch.tensor([0]))


# Bad truth.


@pytest.mark.parametrize("metric", [mask_iou, pointing_game, energy_pointing, pxap])
def test_pixel_masks_that_do_not_fit_are_refused(metric):
    masks = torch.rand(2, 4, 4)
    with pytest.raises(ValueError, match=r"shape of the masks, \(2, 4, 4\), but got \(2, 8, 8\)"):
        metric(masks, torch.ones(2, 8, 8))
    with pytest.raises(ValueError, match="0 and 1 only.*labels == label"):
        metric(masks, torch.full((2, 4, 4), 255))
    with pytest.raises(ValueError, match=r"images \[1\] have none; omit images"):
        metric(masks, torch.tensor([1, 0]).reshape(2, 1, 1).expand(2, 4, 4))
