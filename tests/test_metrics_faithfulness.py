"""What every faithfulness metric promises, and each one's definition in loops and by hand."""

from __future__ import annotations

import math
import pickle
from typing import NamedTuple

import pytest
import torch
from networks import Broken, Counted, Quadrants, assert_same, cnn, everything, mixed_modes
from torch import Tensor, nn

from captum_masking import metrics as m
from captum_masking._base.checks import TargetError
from captum_masking.metrics import MeanOf
from captum_masking.metrics.boxes import salient_boxes
from captum_masking.metrics.curves import counts_of
from captum_masking.metrics.saliency_metric import saliency_metric_of_boxes
from captum_masking.parts import infill
from captum_masking.parts.infill import Color, Mean

NAN = math.nan


class Case(NamedTuple):
    """A classifier, images, their maps in [0, 1], the class asked for and a wrong one."""

    classifier: nn.Module
    inputs: Tensor  # (B, 3, 8, 12)
    masks: Tensor
    target: Tensor
    wrong: Tensor

    def part(self, start: int, end: int) -> Case:
        return Case(self.classifier, *(field[start:end] for field in self[1:]))


def case(images: int = 5, device: torch.device | str = "cpu") -> Case:
    torch.manual_seed(1)
    inputs = torch.randn(images, 3, 8, 12, dtype=torch.float64)
    coarse = torch.rand(images, 1, 4, 3, dtype=torch.float64)
    masks = coarse.repeat_interleave(2, 2).repeat_interleave(4, 3)  # ties
    target = torch.arange(images) % 4
    tensors = [t.to(device) for t in (inputs, masks, target, (target + 1) % 4)]
    return Case(cnn().double().to(device), *tensors)


# The classifier's logits are the four pixels of the image 0, 0, 0, 2, and the target is the last.
P, HALF, WRONG = math.e**2 / (math.e**2 + 3), math.e / (math.e + 3), 1 / (math.e**2 + 3)
LATE, SOON = (4 / 4 + P) / 5, (1 / 4 + 4 * P) / 5  # means of the points of the insertion curve
LATE_WRONG, SOON_WRONG = (4 / 4 + WRONG) / 5, (1 / 4 + 4 * WRONG) / 5


def entropy(p):
    rest = (1 - p) / 3
    return -p * math.log(p) - 3 * rest * math.log(rest)


# Beside each its values for the masks 0, 0.5, 1, NaN everywhere, and 1 at the last pixel only.
FUNCTIONS = {
    # 0, 0.5, 1 and NaN delete from top to bottom: p, p, p, p, 1/4. The pixel: p, then 1/4.
    "deletion": (
        lambda c, **o: m.deletion(c.classifier, c.inputs, c.masks, c.target, step_px=1, **o),
        [0.75 * P + (P + 1 / 4) / 8] * 4 + [(P + 1 / 4) / 8 + 3 / 16],
    ),
    "insertion": (
        lambda c, **o: m.insertion(
            c.classifier, c.inputs, c.masks, c.target, step_px=1, infill=Mean(), **o
        ),
        [3 / 16 + (P + 1 / 4) / 8] * 4 + [(P + 1 / 4) / 8 + 0.75 * P],
    ),
    "average_drop": (
        lambda c, **o: m.average_drop(c.classifier, c.inputs, c.masks, c.target, **o),
        [1 - 1 / 4 / P, 1 - HALF / P, 0, 1 - 1 / 4 / P, 0],
    ),
    "average_gain": (
        lambda c, **o: m.average_gain(c.classifier, c.inputs, c.masks, c.target, **o),
        [0] * 5,
    ),
    "average_increase": (
        lambda c, **o: m.average_increase(c.classifier, c.inputs, c.masks, c.target, **o),
        [0] * 5,
    ),
    "faithfulness_drop": (
        lambda c, **o: m.faithfulness_drop(c.classifier, c.inputs, c.masks, c.target, **o),
        [0, P - HALF, P - 1 / 4, 0, P - 1 / 4],
    ),
    "fid_in": (  # where all logits are 0, the first class comes first
        lambda c, **o: m.fid_in(c.classifier, c.inputs, c.masks, c.target, **o),
        [0, 1, 1, 0, 1],
    ),
    "masked_in_accuracy": (
        lambda c, **o: m.masked_in_accuracy(c.classifier, c.inputs, c.masks, c.target, **o),
        [0, 1, 1, 0, 1],
    ),
    "masked_out_accuracy": (
        lambda c, **o: m.masked_out_accuracy(c.classifier, c.inputs, c.masks, c.target, **o),
        [1, 1, 0, 1, 0],
    ),
    "masked_out_entropy": (
        lambda c, **o: m.masked_out_entropy(c.classifier, c.inputs, c.masks, c.target, **o),
        [entropy(P), entropy(HALF), math.log(4), entropy(P), math.log(4)],
    ),
    # No box: an image of zeros. The pixel: enlarged it is 2 everywhere, of a quarter's area.
    "saliency_metric": (
        lambda c, **o: m.saliency_metric(c.classifier, c.inputs, c.masks, c.target, **o),
        [math.log(0.05 * 4)] * 4 + [0],
    ),
    "saliency_metric published": (
        lambda c, **o: m.saliency_metric(
            c.classifier, c.inputs, c.masks, c.target, published=True, **o
        ),
        [math.log(0.05 * 4)] * 5,
    ),
    "completeness": (
        lambda c, **o: m.completeness(c.classifier, c.inputs, c.masks, c.target, step_px=1, **o),
        [LATE / P] * 4 + [SOON / P],
    ),
    "soundness": (
        lambda c, **o: m.soundness(c.classifier, c.inputs, c.masks, c.wrong, step_px=1, **o),
        [0.1 / LATE_WRONG] * 4 + [0.1 / SOON_WRONG],
    ),
}
IN_UNIT_RANGE = [
    "average_drop",
    "average_gain",
    "average_increase",
    "faithfulness_drop",
    "fid_in",
    "masked_in_accuracy",
    "masked_out_accuracy",
    "masked_out_entropy",
]
METRICS = {
    "deletion": MeanOf(m.deletion, step_px=20),
    "deletion RISE": MeanOf(m.deletion, **m.RISE_DELETION),
    "insertion": MeanOf(m.insertion, step_px=20, infill=Color(color=0.5), batch_size=3),
    "insertion RISE": MeanOf(m.insertion, **m.RISE_INSERTION),
    "average_drop": MeanOf(m.average_drop),
    "average_gain": MeanOf(m.average_gain),
    "average_increase": MeanOf(m.average_increase),
    "faithfulness_drop": MeanOf(m.faithfulness_drop, infill=Color(color=-0.5)),
    "fid_in": MeanOf(m.fid_in),
    "masked_in_accuracy": MeanOf(m.masked_in_accuracy),
    "masked_out_accuracy": MeanOf(m.masked_out_accuracy),
    "masked_out_entropy": MeanOf(m.masked_out_entropy, batch_size=2),
    "MaskedScores": m.MaskedScores(),
    "saliency_metric": MeanOf(m.saliency_metric),
    "saliency_metric published": MeanOf(m.saliency_metric, threshold=0.7, published=True),
    "completeness": MeanOf(m.completeness, alpha=0.9, eps=0.05, step_px=20),
    "soundness": MeanOf(m.soundness, beta=0.2, step_px=20),
}
LOWER_IS_BETTER = {"deletion", "average_drop", "masked_out_accuracy", "saliency_metric"}

each_function = pytest.mark.parametrize("name", FUNCTIONS)
each_metric = pytest.mark.parametrize("name", METRICS)


# Functions.


@each_function
def test_a_degenerate_mask_has_the_documented_value(name, device):
    function, expected = FUNCTIONS[name]
    masks = torch.zeros(5, 1, 2, 2)
    masks[1:4] = torch.tensor([0.5, 1.0, NAN]).reshape(3, 1, 1, 1)
    masks[4, 0, 1, 1] = 1
    inputs = torch.tensor([0.0, 0.0, 0.0, 2.0]).reshape(1, 1, 2, 2).repeat(5, 1, 1, 1)
    target = torch.full((5,), 3, device=device)
    said = Case(nn.Flatten(), inputs.to(device), masks.to(device), target, 0 * target)
    torch.testing.assert_close(function(said).cpu(), torch.tensor(expected).float())
    masks[3, 0, 0, 0] = math.inf
    torch.testing.assert_close(function(said).cpu(), torch.tensor(expected).float())


@each_function
def test_an_image_of_one_pixel_has_a_value(name):
    ones = torch.ones(2, 1, 1, 1)
    labels = torch.zeros(2).long()
    masks = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1)
    said = Case(lambda x: x.flatten(1).repeat(1, 2), ones, masks, labels, labels)
    assert FUNCTIONS[name][0](said).isfinite().all()


@each_function
def test_a_batch_scores_as_one_by_one_whatever_the_batch_size(name, device):
    function, said = FUNCTIONS[name][0], case(device=device)
    singly = torch.cat([function(said.part(i, i + 1)) for i in range(5)])
    torch.testing.assert_close(function(said), singly)
    torch.testing.assert_close(function(said, batch_size=2), singly)


@each_function
def test_values_are_float32_one_an_image_on_the_device_of_the_inputs(name, device):
    said = case(3, device)
    values = FUNCTIONS[name][0](said._replace(masks=said.masks.cpu()))
    assert (values.dtype, values.shape, values.device.type) == (torch.float32, (3,), device.type)


@each_function
def test_the_classifier_is_asked_in_eval_mode_without_gradients_and_given_back(name):
    said = case(2)
    expected = FUNCTIONS[name][0](said._replace(classifier=cnn().double().eval()))
    classifier = mixed_modes(cnn().double())
    before = everything(classifier)
    inputs, masks = said.inputs.clone().requires_grad_(), said.masks.clone().requires_grad_()
    values = FUNCTIONS[name][0](said._replace(classifier=classifier, inputs=inputs, masks=masks))
    assert_same(before, everything(classifier))
    assert not values.requires_grad and inputs.grad is None and torch.equal(inputs, said.inputs)
    torch.testing.assert_close(values, expected)


@each_function
def test_modes_come_back_when_the_classifier_raises(name):
    classifier = Broken(cnn().double(), runs=1)
    before = everything(mixed_modes(classifier))
    with pytest.raises(ArithmeticError):
        FUNCTIONS[name][0](case(2)._replace(classifier=classifier), batch_size=1)
    assert_same(before, everything(classifier))


@each_function
def test_the_classifier_never_sees_more_images_than_the_batch_size(name):
    seen, said = [], case(5)

    def classifier(inputs):
        seen.append(len(inputs))
        return inputs.mean((2, 3)) @ torch.ones(3, 4, dtype=inputs.dtype)

    FUNCTIONS[name][0](said._replace(classifier=classifier), batch_size=3)
    assert max(seen) == 3


@each_function
def test_maps_may_come_without_a_channel(name):
    function, said = FUNCTIONS[name][0], case(2)
    torch.testing.assert_close(function(said._replace(masks=said.masks[:, 0])), function(said))


@each_function
def test_maps_of_another_shape_are_refused(name):
    function, said = FUNCTIONS[name][0], case(2)
    with pytest.raises(ValueError, match=r"\(B, 1, H, W\) or \(B, H, W\), but got \(2, 3, 8, 12"):
        function(said._replace(masks=said.masks.expand(-1, 3, -1, -1)))
    match = r"\(2, 1, 8, 12\) or \(2, 8, 12\) to match .* got \(2, 1, 4, 6\); resample"
    with pytest.raises(ValueError, match=match):
        function(said._replace(masks=said.masks[..., ::2, ::2]))


@each_function
def test_a_wrong_target_is_refused(name):
    said = case(2)
    wrong = torch.tensor([0, 4])
    with pytest.raises(ValueError, match=r"0\.\.3"):
        FUNCTIONS[name][0](said._replace(target=wrong, wrong=wrong))


@each_function
@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"classifier": "resnet50"}, TypeError, "callable as classifier.inputs., but got str"),
        ({"inputs": torch.zeros(2, 3, 8, 12).long()}, TypeError, "floating point"),
        ({"inputs": torch.full((2, 3, 8, 12), NAN)}, ValueError, "inputs must be finite"),
        ({"inputs": torch.zeros(3, 8, 12)}, ValueError, r"images \(B, C, H, W\).*\(3, 8, 12\)"),
        ({"classifier": lambda x: [x]}, TypeError, "must return a tensor of logits"),
        ({"classifier": lambda x: torch.zeros(1, 4)}, ValueError, r"per example, 2, .*\(1, 4\)"),
    ],
)
def test_what_cannot_be_asked_is_refused(name, change, error, match):
    with pytest.raises(error, match=match):
        FUNCTIONS[name][0](case(2)._replace(**change))


@each_function
def test_a_batch_size_of_zero_is_refused(name):
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        FUNCTIONS[name][0](case(2), batch_size=0)


@pytest.mark.parametrize("name", IN_UNIT_RANGE)
def test_masks_that_leave_the_unit_range_are_refused_and_the_cure_is_named(name):
    function, said = FUNCTIONS[name][0], case(2)
    wide = 4 * said.masks - 1
    with pytest.raises(ValueError, match=r"in \[0, 1\], but got values from -.*min_max\(masks\)"):
        function(said._replace(masks=wide))
    function(said._replace(masks=m.min_max(wide)))


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - set(IN_UNIT_RANGE)))
def test_only_the_order_of_other_maps_counts_or_what_lies_above_the_mean(name):
    function, said = FUNCTIONS[name][0], case(2)
    torch.testing.assert_close(function(said._replace(masks=7 * said.masks - 3)), function(said))


@pytest.mark.parametrize("target", [1, [1, 1], torch.tensor(1), torch.tensor([1, 1])])
def test_targets_come_in_all_of_captums_forms(target):
    said = case(2)
    for name in sorted(set(FUNCTIONS) - {"soundness"}):
        function = FUNCTIONS[name][0]
        expected = function(said._replace(target=torch.tensor([1, 1])))
        torch.testing.assert_close(function(said._replace(target=target)), expected)


def test_without_a_target_it_is_the_class_predicted_for_the_whole_image():
    said = case(5)
    predicted = cnn().double().eval()(said.inputs).argmax(1)
    for name in sorted(set(FUNCTIONS) - {"soundness"}):
        function = FUNCTIONS[name][0]
        expected = function(said._replace(target=predicted))
        torch.testing.assert_close(function(said._replace(target=None)), expected)


def test_one_score_per_image_is_read_as_a_binary_logit():
    inputs, mask = torch.tensor([[[[2.0, 0.0]]]]), torch.tensor([[[[1.0, 0.0]]]])
    p, drop = 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(-2)) - 0.5
    classifier = lambda x: x.sum((1, 2, 3))  # noqa: E731
    values = m.faithfulness_drop(classifier, inputs, mask, target=1)
    torch.testing.assert_close(values, torch.tensor([drop]))
    curve = m.deletion_curve(classifier, inputs, mask, target=None, step_px=1)
    torch.testing.assert_close(curve.probabilities, torch.tensor([[p, 0.5, 0.5]]))


# Deletion and insertion.


def slow_curve(case: Case, i: int, step: int, *, insert: bool, color: float = 0.0):
    """One image, pixel by pixel: fractions and probabilities."""
    classifier, image, mask = case.classifier.eval(), case.inputs[i], case.masks[i, 0]
    height, width = mask.shape
    pixels = [(-float(mask[y, x]), y, x) for y in range(height) for x in range(width)]
    shown = torch.full_like(image, color) if insert else image.clone()
    points, order = [], sorted(pixels)
    for taken in range(len(order) + 1):
        if taken % step == 0 or taken == len(order):
            logits = classifier(shown[None])[0].detach()
            p = logits[case.target[i]].exp() / logits.exp().sum()
            points.append((taken / len(order), float(p)))
        if taken < len(order):
            _, y, x = order[taken]
            shown[:, y, x] = image[:, y, x] if insert else color
    return points


def area(points):
    pairs = zip(points, points[1:], strict=False)
    return sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairs)


@pytest.mark.parametrize("insert", [False, True])
@pytest.mark.parametrize("step", [24, 35])  # 96 pixels: four steps, or two and a shorter one
def test_curve_and_area_agree_with_a_loop_over_pixels(insert, step):
    said = case(3)
    slow = [slow_curve(said, i, step, insert=insert, color=0.5) for i in range(3)]
    function = m.insertion_curve if insert else m.deletion_curve
    curve = function(*said[:4], step_px=step, infill=Color(color=0.5))
    expected = torch.tensor([[p for _, p in points] for points in slow])
    torch.testing.assert_close(curve.probabilities, expected)
    torch.testing.assert_close(curve.fractions, torch.tensor([x for x, _ in slow[0]]))
    torch.testing.assert_close(curve.auc, torch.tensor([area(points) for points in slow]))


def test_a_shorter_last_step_weighs_less():
    inputs = torch.tensor([[[[0.0, 0.0, 2.0]]]])
    curve = m.deletion_curve(nn.Flatten(), inputs, -inputs, target=2, step_px=2)
    p = math.e**2 / (math.e**2 + 2)
    torch.testing.assert_close(curve.fractions, torch.tensor([0, 2 / 3, 1]))
    torch.testing.assert_close(curve.auc, torch.tensor([2 / 3 * p + 1 / 3 * (p + 1 / 3) / 2]))


def test_a_perfect_map_beats_its_inverse(quadrants):
    inputs = torch.rand(4, 3, 32, 32, device=quadrants.gain.device) / 4
    perfect = torch.zeros_like(inputs[:, :1])
    for k in range(4):
        y, x = 16 * (k // 2), 16 * (k % 2)
        quarter = (slice(y, y + 16), slice(x, x + 16))
        inputs[(k, slice(None), *quarter)] += 1
        perfect[(k, 0, *quarter)] = 1
    target = torch.arange(4, device=inputs.device)
    for name, metric in METRICS.items():
        if name in ("MaskedScores", "soundness", "saliency_metric published", "average_gain"):
            continue
        good, bad = (pickle.loads(pickle.dumps(metric)) for _ in "ab")
        good.update(quadrants, inputs, perfect, target)
        bad.update(quadrants, inputs, 1 - perfect, target)
        one, other = float(good.compute()), float(bad.compute())
        assert (one > other) == metric.higher_is_better and one != other, name
        assert one >= metric.plot_lower_bound and other >= metric.plot_lower_bound
        top = metric.plot_upper_bound
        assert top is None or max(one, other) <= top


def test_equal_values_go_in_reading_order():
    inputs = torch.tensor([[[[3.0, 2.0], [1.0, 4.0]]]])
    mask = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])
    shown = []

    def classifier(images):
        shown.append(images.flatten(1))
        return images.flatten(1)

    m.deletion_curve(classifier, inputs, mask, 0, step_px=1)
    expected = [[3, 0, 1, 4], [3, 0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert shown[1].tolist() == expected


def test_rise_takes_eight_rows_a_step():
    counts = counts_of(224, 224, None)
    assert len(counts) == 29 and counts[1] == 1792 and counts[-1] == 224 * 224
    assert counts_of(20, 30, None).tolist() == [0, 240, 480, 600]


def test_rise_starts_from_an_image_blurred_by_five_taps():
    images = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    taps = torch.tensor([math.exp(-(d**2) / 50) for d in (-2, -1, 0, 1, 2)], dtype=torch.float64)
    kernel = (taps[:, None] * taps) / taps.sum() ** 2
    expected = nn.functional.conv2d(images, kernel.expand(3, 1, 5, 5), padding=2, groups=3)
    blur = m.RISE_INSERTION["infill"]
    torch.testing.assert_close(blur(images, images[:, :1]), expected)
    shown = []
    m.insertion(lambda x: shown.append(x) or x.mean((2, 3)), images, images[:, 0], 0, infill=blur)
    torch.testing.assert_close(shown[1][0], expected[0])


def test_the_infill_is_told_the_frame_once_or_every_steps_hole():
    inputs, holes = torch.rand(2, 1, 2, 2), []

    def paint(images, hole):
        holes.append(hole)
        return 0 * images

    arguments = (nn.Flatten(), inputs, inputs, 0)
    once = m.deletion(*arguments, step_px=2, infill=paint)
    assert [hole.tolist() for hole in holes] == [torch.ones(2, 1, 2, 2).tolist()]
    holes.clear()
    torch.testing.assert_close(
        m.deletion(*arguments, step_px=2, infill=paint, every_step=True), once
    )
    assert torch.cat(holes).sum((1, 2, 3)).tolist() == [2, 4, 2, 4]
    holes.clear()
    m.insertion(*arguments, step_px=2, infill=paint, every_step=True)
    assert torch.cat(holes).sum((1, 2, 3)).tolist() == [4, 2, 4, 2]


def test_a_step_of_no_pixel_is_refused():
    with pytest.raises(ValueError, match="step_px must be at least 1, but got 0"):
        m.deletion(*case(1)[:4], step_px=0)


def test_a_curve_asks_for_each_of_its_points_once():
    said = case(4)
    counted = Counted(said.classifier)
    m.deletion(counted, *said[1:4], step_px=24, batch_size=4)
    assert counted.calls == 5


# Masked images.


def slow_masked(said: Case, color: float):
    """Probabilities of whole, masked-in and masked-out images, one after another."""
    classifier = said.classifier.eval()
    for x, mask, y in zip(said.inputs, said.masks, said.target.tolist(), strict=True):
        halves = [x, mask * x + (1 - mask) * color, (1 - mask) * x + mask * color]
        yield (y, *(classifier(half[None])[0].detach().softmax(0).tolist() for half in halves))


def test_scores_of_masked_images_agree_with_their_formulas():
    said = case(5)._replace(classifier=Quadrants(20.0).double())
    expected = {name: [] for name in IN_UNIT_RANGE}
    for y, whole, inside, outside in slow_masked(said, 0.25):
        p, o = whole[y], inside[y]
        first = {"whole": whole.index(max(whole)), "in": inside.index(max(inside))}
        expected["average_drop"].append(max(0, p - o) / p)
        expected["average_gain"].append(max(0, o - p) / (1 - p))
        expected["average_increase"].append(o > p)
        expected["faithfulness_drop"].append(p - outside[y])
        expected["fid_in"].append(first["whole"] == first["in"])
        expected["masked_in_accuracy"].append(first["in"] == y)
        expected["masked_out_accuracy"].append(outside.index(max(outside)) == y)
        expected["masked_out_entropy"].append(-sum(q * math.log(q) for q in outside))
    paint = Color(color=0.25)
    for name, values in expected.items():
        scores = getattr(m, name)(*said[:4], infill=paint)
        torch.testing.assert_close(scores, torch.tensor(values).float(), msg=name)
        torch.testing.assert_close(m.masked_scores(*said[:4], infill=paint)[name], scores)
    assert 0 < sum(expected["average_increase"]) < 5  # both branches of the formulas


def test_all_scores_together_cost_three_passes():
    counted, said = Counted(cnn().double()), case(3)
    m.masked_scores(counted, *said[1:4])
    assert counted.calls == 3
    m.average_drop(counted, *said[1:4])
    assert counted.calls == 5


def test_a_gain_is_exact_where_the_target_is_all_but_certain():
    inputs = torch.tensor([[[[60.0, 0.0]]]])  # 1 - p is e^-60: no double holds 1 minus that
    scores = m.average_gain(
        nn.Flatten(), inputs, torch.ones(1, 1, 1, 2) * 0.5, 0, infill=lambda x, hole: x + 2 * x
    )  # masked-in: 120, 0
    torch.testing.assert_close(scores, torch.tensor([1.0]))
    more = m.average_gain(
        nn.Flatten(), inputs, torch.tensor([[[0.0, 1.0]]]), 0, infill=lambda x, hole: x + 1
    )  # masked-in: 61, 0
    torch.testing.assert_close(more, torch.tensor([1 - 1 / math.e]))


def test_nothing_to_lose_and_nothing_to_gain_score_zero():
    inputs = torch.tensor([[[[2000.0, 0.0]]]])  # probabilities 1 and 0
    ones = torch.ones(1, 1, 2)
    assert m.average_drop(nn.Flatten(), inputs, ones, 1) == 0
    assert m.average_gain(nn.Flatten(), inputs, 0 * ones, 0) == 0


def test_a_mask_of_ones_increases_nothing():
    said = case(5)
    ones = torch.ones_like(said.masks)
    values = m.average_increase(said.classifier, said.inputs, ones, said.target, batch_size=2)
    assert not values.any()


def test_fid_in_is_masked_in_accuracy_for_the_predicted_class():
    said = case(5)._replace(target=None)
    assert torch.equal(m.fid_in(*said[:4]), m.masked_in_accuracy(*said[:4]))


# Saliency Metric.


def cubic(plane, height, width):
    """Resize by cubic convolution with a = -0.75, half-pixel centers and repeated borders."""

    def weight(d):
        d = abs(d)
        if d <= 1:
            return 1.25 * d**3 - 2.25 * d**2 + 1
        return -0.75 * d**3 + 3.75 * d**2 - 6 * d + 3 if d < 2 else 0.0

    def line(values, length):
        out = []
        for i in range(length):
            place = (i + 0.5) * len(values) / length - 0.5
            near = range(math.floor(place) - 1, math.floor(place) + 3)
            inside = [min(max(j, 0), len(values) - 1) for j in near]
            terms = zip(near, inside, strict=True)
            out.append(sum(weight(place - j) * values[k] for j, k in terms))
        return out

    rows = [line(row, width) for row in plane]
    columns = [line(column, height) for column in zip(*rows, strict=True)]
    return [list(row) for row in zip(*columns, strict=True)]


def slow_saliency_metric(said: Case, i: int, box) -> float:
    x0, y0, x1, y1 = box
    image, (height, width) = said.inputs[i], said.inputs.shape[2:]
    crop = [cubic(channel[y0:y1, x0:x1].tolist(), height, width) for channel in image]
    logits = said.classifier.eval()(torch.tensor(crop, dtype=torch.float64)[None])[0].detach()
    share = (x1 - x0) * (y1 - y0) / (height * width)
    y = int(said.target[i])
    return math.log(max(share, 0.05)) - float(logits[y] - logits.exp().sum().log())


def test_the_published_box_holds_the_largest_part_and_the_defined_one_all_parts():
    said = case(1)
    masks = torch.zeros_like(said.masks)
    masks[0, 0, 2:6, 3:8] = 1
    masks[0, 0, 7, 10] = 1
    said = said._replace(masks=masks)
    rows = {False: (3, 2, 11, 8), True: (3, 2, 7, 5)}
    for published, box in rows.items():
        expected = torch.tensor([slow_saliency_metric(said, 0, box)])
        values = m.saliency_metric(*said[:4], published=published)
        torch.testing.assert_close(values, expected, atol=1e-5, rtol=1e-5)
    largest = saliency_metric_of_boxes(*said[:2], m.masks_to_boxes(masks), said.target)
    expected = torch.tensor([slow_saliency_metric(said, 0, (3, 2, 8, 6))])
    torch.testing.assert_close(largest, expected, atol=1e-5, rtol=1e-5)


def test_salient_boxes_agree_with_a_loop_over_pixels():
    masks = torch.rand(6, 1, 5, 7) ** 4
    expected = []
    for plane in masks[:, 0]:
        on = [(y, x) for y in range(5) for x in range(7) if plane[y, x] > plane.double().mean()]
        ys, xs = zip(*on, strict=True)
        expected.append([min(xs), min(ys), max(xs) + 1, max(ys) + 1])
    assert salient_boxes(masks).tolist() == expected


def test_a_threshold_makes_a_constant_mask_the_whole_frame():
    said = case(2)
    ones = torch.ones_like(said.masks)
    values = m.saliency_metric(said.classifier, said.inputs, ones, said.target, threshold=0.5)
    probabilities = said.classifier.eval()(said.inputs).detach().softmax(1)
    expected = -probabilities[torch.arange(2), said.target].log()  # area 1, the crop is the image
    torch.testing.assert_close(values, expected.float())
    frame = saliency_metric_of_boxes(*said[:2], m.whole_frame(8, 12), said.target)
    torch.testing.assert_close(frame, values)


def test_boxes_are_rounded_clipped_and_empty_outside_the_frame():
    said = case(3)
    box = torch.tensor([[2.4, -3.0, 7.6, 99.0], [20.0, 0.0, 30.0, 8.0], [NAN, 0.0, 4.0, 4.0]])
    whole = torch.tensor([[2, 0, 8, 8], [0, 0, 0, 0], [0, 0, 4, 4]])
    score = lambda boxes: saliency_metric_of_boxes(*said[:2], boxes, said.target)  # noqa: E731
    torch.testing.assert_close(score(box), score(whole))
    with pytest.raises(ValueError, match="each of 3 images.*got 2 boxes"):
        score(box[:2])


# Completeness and soundness.


def test_completeness_and_soundness_follow_from_the_insertion_curve():
    said = case(4)._replace(classifier=Quadrants(20.0).double())
    options = {"step_px": 20, "infill": Color(color=0.25)}
    complete = m.completeness(*said[:4], alpha=0.5, eps=0.3, **options).tolist()
    sound = m.soundness(*said[:3], said.target, beta=0.05, **options).tolist()
    for i in range(4):
        points = [p for _, p in slow_curve(said, i, 20, insert=True, color=0.25)]
        shown, p = sum(points) / len(points), points[-1]
        assert complete[i] == pytest.approx(min(max(0.3, shown) / min(0.5, p), 1), abs=1e-6)
        assert sound[i] == pytest.approx(min(max(0.05, p) / shown, 1), abs=1e-6)


def test_soundness_is_that_of_the_worst_label():
    said = case(3)._replace(classifier=Quadrants(20.0).double())
    labels = torch.stack([(said.target + k) % 4 for k in (1, 2, 3)], 1)
    singly = [m.soundness(*said[:3], column) for column in labels.unbind(1)]
    worst = torch.stack(singly).amin(0)
    torch.testing.assert_close(m.soundness(*said[:3], labels), worst)
    own = torch.rand(3, 3, 8, 12, dtype=torch.float64)  # a map for each label
    singly = [m.soundness(*said[:2], own[:, k], labels[:, k]) for k in range(3)]
    torch.testing.assert_close(m.soundness(*said[:2], own, labels), torch.stack(singly).amin(0))


def test_nothing_to_divide_by_counts_as_complete_and_sound():
    inputs = torch.tensor([[[[2000.0, 0.0]]]])  # class 1 has probability 0 as soon as 0 is shown
    options = {"step_px": 1, "infill": Color(color=torch.tensor([1000.0]))}
    shifted = lambda x: x.flatten(1) * torch.tensor([1.0, -1.0])  # noqa: E731
    assert m.completeness(shifted, inputs, inputs, 1, eps=0.0, **options) == 1
    assert m.soundness(shifted, inputs, inputs, torch.tensor([1]), beta=0.0, **options) == 1


def test_labels_and_constants_out_of_range_are_refused():
    said = case(2)
    with pytest.raises(ValueError, match=r"tensor of integers \(2,\) or \(2, L\), but got int"):
        m.soundness(*said[:3], 1)
    with pytest.raises(ValueError, match=r"shape \(2,\), one per input"):
        m.soundness(*said[:3], torch.tensor([0, 1, 2]))
    with pytest.raises(TypeError, match="integers"):
        m.soundness(*said[:3], torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match=r"alpha must be a probability in \(0, 1\], but got 0"):
        m.completeness(*said[:4], alpha=0)
    with pytest.raises(ValueError, match=r"beta must be a probability in \[0, 1\], but got 2"):
        m.soundness(*said[:3], said.wrong, beta=2)


def test_target_errors_are_captums():
    with pytest.raises(TargetError):
        m.deletion(*case(2)[:3], 9)


# Classes.


def fresh(name: str):
    return pickle.loads(pickle.dumps(METRICS[name]))


def filled(metric, *parts: Case):
    for part in parts:
        last = part.wrong if "soundness" in repr(metric) else part.target
        metric.update(part.classifier, part.inputs, part.masks, last)
    return metric


@each_metric
def test_metrics_in_chunks_equal_at_once_equal_merged(name):
    whole, halves = case(), (case().part(0, 2), case().part(2, 5))
    one = filled(fresh(name), whole).compute()
    torch.testing.assert_close(filled(fresh(name), *halves).compute(), one)
    first, second = (filled(fresh(name), half) for half in halves)
    first.merge_state(second)
    torch.testing.assert_close(first.compute(), one)


@each_metric
def test_all_state_is_summed_over_processes_and_holds_no_classifier(name):
    metric = filled(fresh(name), case(2))
    assert {f.__name__ for f in metric._reductions.values()} == {"dim_zero_sum"}
    assert not list(metric.parameters()) and not list(metric.children())


@each_metric
def test_a_metric_is_the_mean_of_its_function(name):
    said, metric = case(), METRICS[name]
    if name == "MaskedScores":
        scores = m.masked_scores(*said[:4])
        torch.testing.assert_close(
            filled(fresh(name), said).compute(), {k: v.mean() for k, v in scores.items()}
        )
        return
    last = said.wrong if name == "soundness" else said.target
    values = metric.function(*said[:3], last, **metric.options)
    torch.testing.assert_close(filled(fresh(name), said).compute(), values.mean())
    assert metric.higher_is_better is (name.split()[0] not in LOWER_IS_BETTER)
    low, high = metric.plot_lower_bound, metric.plot_upper_bound
    assert (values >= low).all() and (high is None or (values <= high).all())


@each_metric
def test_a_metric_starts_again_after_reset(name):
    metric = filled(fresh(name), case(2))
    metric.reset()
    said = case()
    torch.testing.assert_close(filled(metric, said).compute(), filled(fresh(name), said).compute())


@each_metric
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_a_metric_without_images_is_refused(name):
    with pytest.raises(RuntimeError, match=r"call update\("):
        fresh(name).compute()


@each_metric
def test_a_metric_prints_its_recipe(name):
    metric = METRICS[name]
    assert repr(eval(repr(metric), {**vars(infill), **vars(m)})) == repr(metric)


@each_metric
def test_a_metric_can_be_plotted(name):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("Agg")
    figure, axes = filled(fresh(name), case(2)).plot()
    assert axes.get_lines()
    pyplot.close(figure)


def test_a_collection_updates_all_metrics_with_the_same_arguments():
    from torchmetrics import MetricCollection

    said = case(2)
    names = ("deletion", "average_drop", "saliency_metric")
    collection = MetricCollection({name: MeanOf(getattr(m, name)) for name in names})
    collection.update(*said[:4])
    expected = m.average_drop(*said[:4]).mean()
    torch.testing.assert_close(collection.compute()["average_drop"], expected)
