"""What every localization metric and mask statistic promises, be it a function or a class."""

from __future__ import annotations

import math
import pickle
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from captum_masking import metrics as m
from captum_masking.metrics import MeanOf
from captum_masking.metrics.localization import mask_iou_by_threshold


class Case(NamedTuple):
    """Masks with all that any metric holds against them."""

    masks: Tensor  # (B, 1, H, W)
    boxes: list[Tensor]
    region: Tensor  # (B, 1, H, W), boolean
    correct: Tensor
    cell: Tensor

    def part(self, start: int, end: int) -> Case:
        return Case(*(field[start:end] for field in self))

    def with_masks(self, masks: Tensor) -> Case:
        return self._replace(masks=masks)


def case(images: int = 9, height: int = 12, width: int = 16, dtype=torch.float64) -> Case:
    """Blobs with one to three boxes each, some beyond the frame, all fractional."""
    torch.manual_seed(1)
    coarse = torch.rand(images, 1, 3, 4, dtype=torch.float64)
    masks = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    starts = [torch.rand(1 + i % 3, 2, dtype=torch.float64) * 9 - 2 for i in range(images)]
    boxes = [torch.cat([s, s + 3 + 8 * torch.rand_like(s)], 1) for s in starts]
    region = m.boxes_to_masks(boxes, height, width)
    correct, cell = torch.arange(images) % 3 > 0, torch.arange(images) % 4
    return Case(masks.to(dtype), boxes, region, correct, cell)


# One value an image, or one row. Beside each: its values for a frame of 4 x 4 with the object in
# the first quarter, and the mask 0, 0.3, 1, NaN everywhere, and 1 at the first pixel only.

ENTROPY = -0.3 * math.log2(0.3) - 0.7 * math.log2(0.7)
NAN = math.nan
FUNCTIONS = {
    "best_box_iou": (lambda c: m.best_box_iou(c.masks, c.boxes), [0, 0, 0, 0, 1 / 4]),
    "best_box_iou published": (
        lambda c: m.best_box_iou(c.masks, c.boxes, published=True),
        [0, 0, 0, 0, 0],
    ),
    "localization_error": (lambda c: m.localization_error(c.masks, c.boxes), [1] * 5),
    "localization_error published": (
        lambda c: m.localization_error(c.masks, c.boxes, published=True),
        [1] * 5,
    ),
    "om": (lambda c: m.om(c.masks, c.boxes, c.correct), [1] * 5),
    # 0.3: P = 1/4, R = 0.3, 2 * 0.075 / 0.55. Ones: P = 1/4, R = 1. A pixel: P = 1, R = 1/4.
    "f1": (lambda c: m.f1(c.masks, c.boxes), [0, 3 / 11, 0.4, 0, 0.4]),
    "f1_mean": (lambda c: m.f1_mean(c.masks, c.boxes), [0, 3 / 11, 0.4, 0, 0.4]),
    "f1 published": (
        lambda c: m.f1(c.masks, c.boxes, published=True),
        [0, 3 / 11, 0.4, 0, 0.4],
    ),
    "max_box_acc": (
        lambda c: m.max_box_acc(c.masks, c.boxes, step=0.1).float().amax(1),
        [0] * 5,
    ),
    # A quarter is found at the level 0.2 by the whole frame and by one pixel of four.
    "max_box_acc_v2": (
        lambda c: m.max_box_acc_v2(c.masks, c.boxes, step=0.1, levels=[0.2]).float().amax((1, 2)),
        [0, 1, 1, 0, 1],
    ),
    # One value: a guess, 1/4. A pixel: 1 * 1/4 and 1/4 * 3/4.
    "pxap": (lambda c: m.pxap(c.masks, c.region), [1 / 4, 1 / 4, 1 / 4, 1 / 4, 7 / 16]),
    "pointing_game": (lambda c: m.pointing_game(c.masks, c.boxes), [1 / 4, 1 / 4, 1 / 4, 0, 1]),
    "pointing_game near": (
        lambda c: m.pointing_game(c.masks, c.region, tolerance_px=1.0),
        [1 / 2, 1 / 2, 1 / 2, 0, 1],  # the quarter and the four pixels at its sides
    ),
    "energy_pointing": (lambda c: m.energy_pointing(c.masks, c.boxes), [0, 1 / 4, 1 / 4, 0, 1]),
    "mask_iou": (lambda c: m.mask_iou(c.masks, c.region), [0, 0, 0, 0, 1 / 4]),
    "mask_iou cut": (
        lambda c: m.mask_iou(c.masks, c.region, threshold=0.2),
        [0, 1 / 4, 1 / 4, 0, 1 / 4],
    ),
    "mask_iou_by_threshold": (
        lambda c: mask_iou_by_threshold(c.masks, c.region).amax(1),
        [0, 1 / 4, 1 / 4, 0, 1 / 4],
    ),
    "grid_pointing": (lambda c: m.grid_pointing(c.masks, c.cell), [0, 1 / 4, 1 / 4, 0, 1]),
    "mask_area": (lambda c: m.mask_area(c.masks), [0, 0.3, 1, NAN, 1 / 16]),
    "binarized_area": (lambda c: m.binarized_area(c.masks), [0, 0, 0, NAN, 1 / 16]),
    "mask_entropy": (lambda c: m.mask_entropy(c.masks), [0, ENTROPY, 0, NAN, 0]),
    "mask_entropy published": (
        lambda c: m.mask_entropy(c.masks, published=True),
        [0, -0.3 * math.log2(0.3), 0, NAN, 0],
    ),
    # A corner: one of 12 pairs across, one of 12 down.
    "mask_total_variation": (lambda c: m.mask_total_variation(c.masks), [0, 0, 0, NAN, 1 / 6]),
    "mask_sparseness": (lambda c: m.mask_sparseness(c.masks), [0, 0, 0, NAN, 15 / 16]),
}
METRICS = {
    "best_box_iou": (MeanOf(m.best_box_iou), lambda c: (c.masks, c.boxes)),
    "best_box_iou published": (
        MeanOf(m.best_box_iou, published=True),
        lambda c: (c.masks, c.boxes),
    ),
    "localization_error": (MeanOf(m.localization_error), lambda c: (c.masks, c.boxes)),
    "localization_error published": (
        MeanOf(m.localization_error, published=True),
        lambda c: (c.masks, c.boxes),
    ),
    "om": (MeanOf(m.om), lambda c: (c.masks, c.boxes, c.correct)),
    "f1": (MeanOf(m.f1), lambda c: (c.masks, c.boxes)),
    "f1_mean": (MeanOf(m.f1_mean, published=True), lambda c: (c.masks, c.boxes)),
    "MaxBoxAcc": (m.MaxBoxAcc(step=0.1), lambda c: (c.masks, c.boxes)),
    "MaxBoxAccV2": (m.MaxBoxAccV2(step=0.1, levels=(0.2, 0.5)), lambda c: (c.masks, c.boxes)),
    "PxAP": (m.PxAP(step=0.01), lambda c: (c.masks, c.region)),
    "pointing_game": (MeanOf(m.pointing_game, tolerance_px=1.5), lambda c: (c.masks, c.region)),
    "energy_pointing": (MeanOf(m.energy_pointing), lambda c: (c.masks, c.boxes)),
    "mask_iou": (MeanOf(m.mask_iou), lambda c: (c.masks, c.region)),
    "MaxMaskIoU": (m.MaxMaskIoU(step=0.1), lambda c: (c.masks, c.region)),
    "grid_pointing": (MeanOf(m.grid_pointing, rows=2, columns=2), lambda c: (c.masks, c.cell)),
    "mask_area": (MeanOf(m.mask_area), lambda c: (c.masks,)),
    "MaskStatistics": (m.MaskStatistics(), lambda c: (c.masks,)),
}
# A perfect mask is not what they ask for, or the value is a dictionary.
UNORDERED = {"grid_pointing", "mask_area", "MaskStatistics", "om"}

each_function = pytest.mark.parametrize("name", FUNCTIONS)
each_metric = pytest.mark.parametrize("name", METRICS)


def on(said: Case, device: torch.device) -> Case:
    masks, boxes, region, correct, cell = said
    boxes = [b.to(device) for b in boxes]
    return Case(masks.to(device), boxes, region.to(device), correct.to(device), cell.to(device))


# Functions.


@each_function
def test_a_degenerate_mask_has_the_documented_value(name, device):
    function, expected = FUNCTIONS[name]
    masks = torch.zeros(5, 1, 4, 4)
    masks[1:4] = torch.tensor([0.3, 1.0, NAN]).reshape(3, 1, 1, 1)
    masks[4, 0, 0, 0] = 1
    boxes = [torch.tensor([[0, 0, 2, 2]])] * 5
    region = m.boxes_to_masks(boxes, 4, 4)
    said = Case(masks, boxes, region, torch.ones(5).bool(), torch.zeros(5).long())
    values = function(on(said, device)).cpu()
    # The published F1 adds 1e-6 to its denominators.
    torch.testing.assert_close(
        values, torch.tensor(expected).float(), atol=1e-5, rtol=1e-5, equal_nan=True
    )


@each_function
def test_a_frame_of_one_pixel_has_a_value(name):
    if name == "grid_pointing":  # has four cells at least
        return
    boxes, one = [torch.tensor([[0, 0, 1, 1]])] * 2, torch.ones(2).bool()
    said = Case(torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1), boxes, one[:, None, None], one, one)
    values = FUNCTIONS[name][0](said)
    assert ((values >= 0) & (values <= 1)).all()


@each_function
def test_infinity_counts_as_nan_does(name):
    function, _ = FUNCTIONS[name]
    said = case(2)
    broken = said.masks.clone()
    broken[:, :, 3, 5] = math.inf
    values, nan = function(said.with_masks(broken)), function(said.with_masks(broken * NAN))
    torch.testing.assert_close(values, nan, equal_nan=True)


@each_function
def test_a_batch_scores_as_one_by_one(name, device):
    function, said = FUNCTIONS[name][0], on(case(), device)
    singly = [function(said.part(i, i + 1)) for i in range(9)]
    torch.testing.assert_close(function(said), torch.cat(singly))


@each_function
def test_values_are_float32_one_an_image_on_the_masks_device(name, device):
    values = FUNCTIONS[name][0](on(case(), device))
    assert (values.dtype, values.shape, values.device.type) == (torch.float32, (9,), device.type)


@each_function
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_every_precision_of_the_same_mask_scores_the_same(name, dtype):
    function, said = FUNCTIONS[name][0], case()
    rounded = said.masks.to(dtype)
    torch.testing.assert_close(
        function(said.with_masks(rounded)), function(said.with_masks(rounded.float()))
    )


@each_function
def test_boolean_masks_score_as_zeros_and_ones(name):
    function, said = FUNCTIONS[name][0], case()
    on = said.masks > 0.5
    torch.testing.assert_close(
        function(said.with_masks(on)), function(said.with_masks(on.double()))
    )


@each_function
def test_masks_score_the_same_without_a_channel_and_are_left_alone(name):
    function, said = FUNCTIONS[name][0], case()
    masks = said.masks.clone().requires_grad_()
    values = function(said.with_masks(masks))
    assert torch.equal(masks, said.masks) and not values.requires_grad
    torch.testing.assert_close(function(said.with_masks(said.masks[:, 0])), values)


@each_function
def test_masks_of_another_shape_are_refused(name):
    said = case(2)
    with pytest.raises(ValueError, match=r"\(B, 1, H, W\) or \(B, H, W\), but got \(2, 3, 12, 16"):
        FUNCTIONS[name][0](said.with_masks(said.masks.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize(
    "name",
    [
        "f1",
        "f1_mean",
        "max_box_acc",
        "max_box_acc_v2",
        "pxap",
        "mask_iou_by_threshold",
        "mask_entropy",
    ],
)
def test_maps_that_must_lie_in_the_unit_range_are_refused_and_the_cure_is_named(name):
    function, said = FUNCTIONS[name][0], case(2)
    wide = 4 * said.masks - 1
    with pytest.raises(ValueError, match=r"in \[0, 1\], but got values from -.*min_max\(masks\)"):
        function(said.with_masks(wide))
    function(said.with_masks(m.min_max(wide)))


# Classes.


def filled(metric, arguments, *parts: Case):
    for part in parts:
        metric.update(*arguments(part))
    return metric


def fresh(name: str):
    metric, arguments = METRICS[name]
    return pickle.loads(pickle.dumps(metric)), arguments


@each_metric
def test_metrics_merged_from_two_halves_equal_one(name):
    whole, halves = case(), (case().part(0, 4), case().part(4, 9))
    one = filled(*fresh(name), whole).compute()
    two = filled(*fresh(name), *halves).compute()
    first, second = (filled(*fresh(name), half) for half in halves)
    first.merge_state(second)
    torch.testing.assert_close(two, one)
    torch.testing.assert_close(first.compute(), one)


@each_metric
def test_all_state_is_summed_over_processes_and_does_not_grow(name):
    metric, arguments = fresh(name)
    before = {state: value.shape for state, value in metric.metric_state.items()}
    filled(metric, arguments, case(), case())
    assert {state: value.shape for state, value in metric.metric_state.items()} == before
    assert {f.__name__ for f in metric._reductions.values()} == {"dim_zero_sum"}


@each_metric
def test_a_metric_starts_again_after_reset(name):
    metric, arguments = fresh(name)
    filled(metric, arguments, case().part(0, 2)).reset()
    again = filled(metric, arguments, case().part(2, 9)).compute()
    torch.testing.assert_close(again, filled(*fresh(name), case().part(2, 9)).compute())


@each_metric
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_a_metric_without_images_is_refused(name):
    with pytest.raises(RuntimeError, match=r"call update\("):
        fresh(name)[0].compute()


@each_metric
def test_a_metric_prints_its_recipe(name):
    metric = METRICS[name][0]
    assert repr(eval(repr(metric), vars(m))) == repr(metric)


@each_metric
def test_a_metric_takes_masks_from_any_device(name, device):
    metric, arguments = fresh(name)
    value = filled(metric, arguments, on(case(), device)).compute()
    torch.testing.assert_close(value, filled(*fresh(name), case()).compute())


@each_metric
def test_a_metric_can_be_plotted(name):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("Agg")
    figure, axes = filled(*fresh(name), case().part(0, 2)).plot()
    assert axes.get_lines()
    pyplot.close(figure)


@pytest.mark.parametrize("name", sorted(set(METRICS) - UNORDERED))
def test_a_perfect_mask_is_better_than_its_complement_and_both_are_within_bounds(name):
    boxes = [torch.tensor([[2, 3, 9, 8]]), torch.tensor([[5, 1, 15, 11]])]
    region = m.boxes_to_masks(boxes, 12, 16)
    said = Case(region.float(), boxes, region, torch.ones(2).bool(), torch.zeros(2))
    good, bad = (
        float(filled(*fresh(name), said.with_masks(masks)).compute())
        for masks in (region.float(), 1 - region.float())
    )
    metric = METRICS[name][0]
    assert (good > bad) == metric.higher_is_better and good != bad
    assert all(metric.plot_lower_bound <= v <= metric.plot_upper_bound for v in (good, bad))


# The mean of a function of one's own.


def brightness(images, scale=1.0):
    return scale * images.flatten(1).mean(1)


def test_the_mean_of_ones_own_function_says_nothing_of_better_and_has_no_bounds():
    metric = MeanOf(brightness, scale=2.0, sync_on_compute=False)
    metric.update(torch.tensor([[0.0], [1.0]]))
    metric.update(images=torch.tensor([[5.0]]))
    assert metric.compute() == 4
    assert repr(metric) == "MeanOf(brightness, scale=2.0)" and metric.sync_on_compute is False
    assert (metric.higher_is_better, metric.plot_lower_bound, metric.plot_upper_bound) == (
        None,
    ) * 3


def test_a_value_of_nan_makes_the_mean_nan():
    metric = MeanOf(m.mask_area)
    metric.update(torch.tensor([[[1.0]], [[NAN]]]))
    assert metric.compute().isnan()


def test_a_function_without_one_value_an_image_and_an_unknown_option_are_refused():
    with pytest.raises(ValueError, match=r"one value per image, \(B,\), but returned \(\)"):
        MeanOf(torch.mean).update(torch.ones(2))
    with pytest.raises(ValueError, match="color"):
        MeanOf(brightness, color=1)


def test_a_collection_does_not_take_two_metrics_for_one_that_begin_alike():
    from torchmetrics import MetricCollection

    names = {"plain": MeanOf(brightness), "scaled": MeanOf(brightness, scale=2.0)}
    collection = MetricCollection(names)
    for images in (torch.zeros(1, 1), torch.ones(1, 1)):
        collection.update(images)
    assert collection.compute() == {"plain": 0.5, "scaled": 1.0}
