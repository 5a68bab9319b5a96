"""Promises of the mask statistics, against loops and by hand."""

from __future__ import annotations

import math
import statistics

import pytest
import torch

from captum_masking.metrics import (
    MaskStatistics,
    binarized_area,
    mask_area,
    mask_entropy,
    mask_sparseness,
    mask_total_variation,
)


@pytest.fixture
def masks():
    return torch.rand(5, 1, 4, 6, dtype=torch.float64)


def test_area_and_binarized_area_are_means(masks):
    rows = masks.flatten(1).tolist()
    means = [sum(row) / 24 for row in rows]
    torch.testing.assert_close(mask_area(masks), torch.tensor(means))
    above = [sum(v > mean for v in row) / 24 for row, mean in zip(rows, means, strict=True)]
    torch.testing.assert_close(binarized_area(masks), torch.tensor(above))


def test_entropy_agrees_with_a_loop_over_pixels_in_bits(masks):
    masks[0, 0, 0, :2] = torch.tensor([0.0, 1.0])

    def term(share):
        return -share * math.log2(share) if share > 0 else 0.0

    rows = masks.flatten(1).tolist()
    one_sided = torch.tensor([sum(map(term, row)) / 24 for row in rows])
    other = torch.tensor([sum(term(1 - v) for v in row) / 24 for row in rows])
    torch.testing.assert_close(mask_entropy(masks, published=True), one_sided)
    torch.testing.assert_close(mask_entropy(masks), one_sided + other)


def test_only_the_corrected_entropy_is_that_of_the_complement(masks):
    torch.testing.assert_close(mask_entropy(masks), mask_entropy(1 - masks))
    published = mask_entropy(masks, published=True)
    assert not torch.allclose(published, mask_entropy(1 - masks, published=True), atol=1e-3)


def test_total_variation_agrees_with_a_loop_over_pairs(masks):
    expected = []
    for rows in masks[:, 0].tolist():
        across = [(row[j + 1] - row[j]) ** 2 for row in rows for j in range(5)]
        down = [(rows[i + 1][j] - rows[i][j]) ** 2 for i in range(3) for j in range(6)]
        expected.append(statistics.fmean(across) + statistics.fmean(down))
    torch.testing.assert_close(mask_total_variation(masks), torch.tensor(expected))


def test_sparseness_is_half_the_mean_difference_of_pairs_over_the_mean(masks):
    # The Gini index by its other definition: sum |a - b| over all pairs / (2 N^2 mean).
    expected = []
    for row in masks.flatten(1).tolist():
        differences = sum(abs(a - b) for a in row for b in row)
        expected.append(differences / (2 * 24**2 * statistics.fmean(row)))
    torch.testing.assert_close(mask_sparseness(masks), torch.tensor(expected))
    torch.testing.assert_close(mask_sparseness(-masks), mask_sparseness(masks))


def test_the_spread_is_that_over_all_images_however_they_are_batched(masks):
    areas = masks.flatten(1).mean(1).tolist()
    expected = torch.tensor(statistics.pstdev(areas))
    metric = MaskStatistics()
    for start, end in [(0, 1), (1, 5)]:
        metric.update(masks[start:end])
    torch.testing.assert_close(metric.compute()["area_spread"], expected)


def test_the_metric_gives_the_mean_of_each_statistic_by_name(masks):
    metric = MaskStatistics()
    metric.update(masks)
    expected = {
        "area": mask_area(masks).mean(),
        "area_spread": mask_area(masks).std(correction=0),
        "binarized_area": binarized_area(masks).mean(),
        "entropy": mask_entropy(masks).mean(),
        "published_entropy": mask_entropy(masks, published=True).mean(),
        "total_variation": mask_total_variation(masks).mean(),
        "sparseness": mask_sparseness(masks).mean(),
        "not_finite": torch.tensor(0.0),
    }
    torch.testing.assert_close(
        dict(sorted(metric.compute().items())), dict(sorted(expected.items()))
    )


def test_masks_that_are_not_finite_are_left_out_and_counted(masks):
    broken = masks.clone()
    broken[1, 0, 2, 2], broken[3, 0, 0, 0] = math.nan, math.inf
    metric, without = MaskStatistics(), MaskStatistics()
    metric.update(broken)
    without.update(masks[[0, 2, 4]])
    said = metric.compute()
    assert said.pop("not_finite") == torch.tensor(0.4)
    assert without.compute().pop("not_finite") == 0
    torch.testing.assert_close(said, {k: v for k, v in without.compute().items() if k in said})
