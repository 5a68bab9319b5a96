"""The objectives, worked by hand, by slow loops, and against the published code's values."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import slow
import torch
from parts import judgement

from captum_masking.parts.objective import (
    Classification,
    Dual,
    Entropy,
    Hinge,
    Judgement,
    KeepRecognizing,
    KLToPrior,
    class_prior,
    entropy,
)

CASES = json.loads(Path(__file__).with_name("published_loss.json").read_text(encoding="utf-8"))


def published(case: dict) -> Judgement:
    logits = (torch.tensor(case[name]) for name in ("logits", "logits_in", "logits_out"))
    return Judgement(*(rows.double() for rows in logits), torch.tensor(case["target"]))


# What was said of a batch.


def test_the_gates_of_a_judgement():
    said = judgement()
    assert said.correct.tolist() == [True, True, True, False]
    assert said.correct_in.tolist() == [True, True, False, False]
    assert said.correct_out.tolist() == [False, True, False, True]
    assert said.confused_out.tolist() == [True, False, True, False]


def test_an_image_misread_from_the_start_is_not_confused_by_masking():
    wrong, target = torch.tensor([[9.0, 0.0]]), torch.tensor([1])
    assert not Judgement(wrong, wrong, wrong, target).confused_out.any()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_gates_are_those_of_the_published_code(case):
    said = published(case)
    assert said.correct_in.double().mean() == case["correct_on_masked_in"]
    assert said.confused_out.double().mean() == case["confused_out"]


# Entropy.


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_entropy_of_no_idea_is_the_logarithm_of_the_number_of_classes(classes):
    assert entropy(torch.zeros(1, classes)).item() == pytest.approx(math.log(classes))


def test_entropy_of_a_sure_answer_is_zero_and_has_a_gradient():
    logits = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
    uncertainty = entropy(logits)
    uncertainty.sum().backward()
    assert uncertainty.tolist() == [0] and logits.grad.isfinite().all()


def test_entropy_of_one_to_three():
    # -(1/4 log 1/4 + 3/4 log 3/4)
    expected = 0.25 * math.log(4) + 0.75 * math.log(4 / 3)
    assert entropy(torch.tensor([[0.0, math.log(3)]])).item() == pytest.approx(expected)


def test_entropy_does_not_change_when_all_logits_are_shifted():
    logits = torch.randn(5, 7, dtype=torch.float64)
    torch.testing.assert_close(entropy(logits + 3), entropy(logits))


# The masker's objective.


def test_dual_worked_by_hand():
    # masked-in: the target has odds 3 to 1, so -log 3/4; masked-out: no idea between 2, log 2
    logits_in, logits_out = torch.tensor([[math.log(3), 0.0]]), torch.zeros(1, 2)
    said = Judgement(torch.tensor([[1.0, 0.0]]), logits_in, logits_out, torch.tensor([0]))
    assert Dual()(said).item() == pytest.approx(math.log(4 / 3) - math.log(2))
    assert Dual(weight_in=2.0)(said).item() == pytest.approx(2 * math.log(4 / 3) - math.log(2))
    assert Dual(weight_out=3.0)(said).item() == pytest.approx(math.log(4 / 3) - 3 * math.log(2))


def test_dual_counts_entropy_only_where_the_clean_image_was_recognized():
    right, wrong = torch.tensor([[5.0, 0.0]]), torch.tensor([[0.0, 5.0]])
    outside, target = torch.zeros(2, 2, requires_grad=True), torch.tensor([0, 0])
    certain = torch.tensor([[1e3, 0.0]] * 2)
    loss = Dual()(Judgement(torch.cat([right, wrong]), certain, outside, target))
    assert loss.item() == pytest.approx(-math.log(2) / 2)  # over the whole batch of two


def test_dual_does_not_push_masked_out_logits_of_a_misread_image():
    clean = torch.tensor([[5.0, 0.0], [0.0, 5.0]])  # the second is misread
    outside = torch.randn(2, 2, requires_grad=True)
    Dual()(Judgement(clean, clean, outside, torch.tensor([0, 0]))).backward()
    assert outside.grad[0].any() and not outside.grad[1].any()


def test_dual_falls_when_masked_in_is_recognized_and_when_masked_out_is_not():
    said = judgement(torch.float64)
    said = said._replace(logits_in=said.logits_in.requires_grad_())
    said = said._replace(logits_out=said.logits_out.requires_grad_())
    Dual()(said).backward()
    towards_target = torch.nn.functional.one_hot(said.target, 3).double()
    assert ((said.logits_in.grad * towards_target).sum(1) < 0).all()
    flatter = said.logits_out.detach().mean(1, keepdim=True) - said.logits_out.detach()
    assert ((said.logits_out.grad * flatter).sum(1)[said.correct] < 0).all()


def test_dual_equals_a_slow_loop_over_the_published_formula():
    said = Judgement(*torch.randn(3, 8, 5, dtype=torch.float64).unbind(), torch.randint(5, (8,)))
    empty = [[[0.0] * 2] * 2] * 8
    expected = slow.masker_loss(empty, *said[:5], area_in=0, area_out=0, variation=0)
    assert Dual()(said).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
@pytest.mark.parametrize("side, dual", [("in", Dual(1.0, 0.0)), ("out", Dual(0.0, 1.0))])
def test_each_side_of_dual_equals_the_published_code(case, side, dual):
    rest = case[f"area_reg_{side}"] + case["tv"]  # what loss_in and loss_out hold beside it
    assert dual(published(case)).item() + rest == pytest.approx(case[f"loss_{side}"], rel=1e-5)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_dual_with_an_absent_side_is_the_published_criterion_of_the_other(case):
    said = published(case)
    inside, outside = Dual(outside=None)(said).item(), Dual(inside=None)(said).item()
    rest_in, rest_out = (case[f"area_reg_{side}"] + case["tv"] for side in ("in", "out"))
    assert inside + rest_in == pytest.approx(case["loss_in"], rel=1e-5)
    assert outside + rest_out == pytest.approx(case["loss_out"], rel=1e-5)


# Criteria of one side.


def said_with(logits: torch.Tensor, target: list[int]) -> Judgement:
    return Judgement(logits, logits, logits, torch.tensor(target))


def test_classification_worked_by_hand():
    # the target has odds 3 to 1
    logits = torch.tensor([[math.log(3), 0.0]])
    said = said_with(logits, [0])
    assert Classification()(logits, said).tolist() == pytest.approx([math.log(4 / 3)])
    assert Classification(maximize=False)(logits, said).tolist() == pytest.approx(
        [-math.log(4 / 3)]
    )


def test_entropy_criterion_counts_images_recognized_clean_unless_ungated():
    clean, unsure = torch.tensor([[5.0, 0.0], [0.0, 5.0]]), torch.zeros(2, 2)
    said = Judgement(clean, unsure, unsure, torch.tensor([0, 0]))  # the second is misread
    assert Entropy()(unsure, said).tolist() == pytest.approx([-math.log(2), 0])
    assert Entropy(maximize=False)(unsure, said).tolist() == pytest.approx([math.log(2), 0])
    assert Entropy(gated=False)(unsure, said).tolist() == pytest.approx([-math.log(2)] * 2)


def test_hinge_worked_by_hand():
    # leads of the target over the best other: 2 - 1.5, 0 - 3
    logits, target = torch.tensor([[2.0, 1.5, -4.0], [3.0, 0.0, 1.0]]), [0, 1]
    said = said_with(logits, target)
    assert Hinge()(logits, said).tolist() == [0.5, 4]
    assert Hinge(margin=0.25)(logits, said).tolist() == [0, 3.25]
    assert Hinge(maximize=False, margin=5.0)(logits, said).tolist() == [5.5, 2]


@pytest.mark.parametrize("maximize, margin", [(True, 1.0), (False, 5.0)])
def test_hinge_equals_a_slow_loop(maximize, margin):
    logits, target = 3 * torch.randn(8, 5, dtype=torch.float64), [0, 1, 2, 3, 4, 0, 1, 2]
    expected = [
        slow.hinge(r, y, maximize, margin) for r, y in zip(logits.tolist(), target, strict=True)
    ]
    loss = Hinge(maximize=maximize, margin=margin)(logits, said_with(logits, target))
    assert loss.tolist() == pytest.approx(expected)


def test_a_hinge_that_is_satisfied_pushes_no_more():
    logits = torch.tensor([[3.0, 0.0], [0.5, 0.0]], requires_grad=True)
    Hinge()(logits, said_with(logits, [0, 0])).sum().backward()
    assert logits.grad.tolist() == [[0, 0], [-1, 1]]


def test_kl_to_prior_worked_by_hand():
    # prior 3/4, 1/4; prediction 1/2, 1/2
    logits = torch.zeros(1, 2, dtype=torch.float64)
    said, prior = said_with(logits, [0]), torch.tensor([0.75, 0.25])
    forward = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    backward = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert KLToPrior(prior)(logits, said).item() == pytest.approx(forward)
    assert KLToPrior(prior, reverse=True)(logits, said).item() == pytest.approx(backward)


@pytest.mark.parametrize("prior", [None, [0.1, 0.2, 0.3, 0.15, 0.25]])
def test_kl_to_prior_equals_a_slow_loop(prior):
    logits = torch.randn(8, 5, dtype=torch.float64)
    said, wanted = said_with(logits, [0] * 8), prior or [0.2] * 5
    predicted = [slow.softmax(row).tolist() for row in logits]
    forward = [slow.divergence(wanted, p) for p in predicted]
    backward = [slow.divergence(p, wanted) for p in predicted]
    assert KLToPrior(prior)(logits, said).tolist() == pytest.approx(forward)
    assert KLToPrior(prior, reverse=True)(logits, said).tolist() == pytest.approx(backward)


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_reverse_kl_to_a_uniform_prior_is_what_is_missing_to_the_greatest_entropy(classes):
    logits = torch.randn(4, classes, dtype=torch.float64)
    loss = KLToPrior(reverse=True)(logits, said_with(logits, [0] * 4))
    torch.testing.assert_close(loss, math.log(classes) - entropy(logits))


@pytest.mark.parametrize("reverse", [False, True])
def test_kl_is_zero_for_the_prior_itself_and_positive_otherwise(reverse):
    prior = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    logits = torch.stack([prior.log() + 7, torch.randn(3, dtype=torch.float64)])
    same, other = KLToPrior(prior, reverse=reverse)(logits, said_with(logits, [0, 0]))
    assert same.item() == pytest.approx(0, abs=1e-12) and other > 0


def test_forward_kl_does_not_ask_for_classes_that_the_prior_says_never_occur():
    logits = torch.tensor([[0.0, 0.0, -1e4]])
    assert KLToPrior([0.5, 0.5, 0.0])(logits, said_with(logits, [0])).item() == pytest.approx(0)


def test_gated_kl_counts_only_images_recognized_clean():
    clean, sure = torch.tensor([[5.0, 0.0], [0.0, 5.0]]), torch.tensor([[9.0, 0.0]] * 2)
    said = Judgement(clean, sure, sure, torch.tensor([0, 0]))
    first, second = KLToPrior(gated=True)(sure, said).tolist()
    assert first > 1 and second == 0 and KLToPrior()(sure, said)[1] > 1


def test_class_prior_counts_labels_and_gives_every_class_a_probability():
    # counts 3, 0, 1, each and one more, of 4 + 3
    for labels in ([0, 0, 2, 0], torch.tensor([0, 0, 2, 0]), iter([0, 0, 2, 0])):
        assert class_prior(labels, 3).tolist() == pytest.approx([4 / 7, 1 / 7, 2 / 7])
    little = class_prior([0, 0, 2, 0], 3, smoothing=0.1)
    assert little.tolist() == pytest.approx([3.1 / 4.3, 0.1 / 4.3, 1.1 / 4.3])


def test_class_prior_of_many_labels_is_their_share():
    labels = torch.arange(3).repeat_interleave(torch.tensor([5000, 3000, 2000]))
    assert class_prior(labels, 3).tolist() == pytest.approx([0.5, 0.3, 0.2], abs=1e-3)


def test_class_prior_is_a_prior():
    criterion = KLToPrior(class_prior([999, 3, 3], 1000), reverse=True)
    logits = torch.zeros(2, 1000)
    assert criterion(logits, said_with(logits, [0, 1])).isfinite().all()


# Criteria in a dual.


def test_dual_adds_the_weighted_means_of_its_criteria():
    said = judgement(torch.float64)
    inside, outside = Hinge(), KLToPrior()
    expected = 2 * inside(said.logits_in, said).mean() + 3 * outside(said.logits_out, said).mean()
    torch.testing.assert_close(Dual(2.0, 3.0, inside=inside, outside=outside)(said), expected)


def test_a_plain_function_is_a_criterion():
    dual = Dual(inside=lambda logits, judgement: logits[:, 0], outside=None)
    said = judgement()
    assert dual(said).item() == pytest.approx(said.logits_in[:, 0].mean().item())


def test_an_absent_side_gets_no_gradient_and_is_not_asked():
    def refuse(logits: torch.Tensor, said: Judgement) -> torch.Tensor:
        raise AssertionError("asked")

    said = judgement()
    said = said._replace(logits_out=said.logits_out.requires_grad_())
    for dual in (Dual(outside=None), Dual(weight_out=0.0), Dual(weight_out=0.0, outside=refuse)):
        assert not dual(said).requires_grad
    masked_out = Dual(inside=None)(said)
    assert masked_out.requires_grad


# Bad input.


@pytest.mark.parametrize(
    "build",
    [
        lambda: Dual(inside=None, outside=None),
        lambda: Dual(0.0, 0.0),
        lambda: Dual(weight_out=0.0, inside=None),
        lambda: Dual(weight_in=0.0, outside=None),
    ],
)
def test_a_dual_without_a_side_is_refused_with_the_way_out(build):
    with pytest.raises(ValueError, match=r"at least one side.*inside=.*outside="):
        build()


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
@pytest.mark.parametrize("kind", [Dual, KeepRecognizing])
@pytest.mark.parametrize("name", ["weight_in", "weight_out"])
def test_negative_and_infinite_weights_are_refused(kind, name, weight):
    with pytest.raises(ValueError, match=rf"{name} must be a finite number >= 0, but got {weight}"):
        kind(**{name: weight})


@pytest.mark.parametrize("criterion", ["entropy", Entropy, 1.0])
def test_what_is_no_criterion_is_refused_with_the_way_out(criterion):
    with pytest.raises(TypeError, match=r"inside must be callable.*Entropy\(\)"):
        Dual(inside=criterion)


def test_a_weight_that_is_no_number_is_refused():
    with pytest.raises(TypeError, match=r"weight_in must be a number, but got Entropy"):
        Dual(Entropy())


@pytest.mark.parametrize(
    "prior", [[0.5, 0.6], [1.5, -0.5], [], [[0.5, 0.5]], torch.tensor([math.nan, 1.0]), 1.0]
)
def test_a_prior_that_is_no_distribution_is_refused(prior):
    with pytest.raises(ValueError, match=r"prior must be non-negative.*sum to 1.*class_prior"):
        KLToPrior(prior)


def test_a_prior_with_a_zero_is_refused_where_it_is_divided_by():
    with pytest.raises(ValueError, match=r"zero for any class.*1 of 2.*class_prior"):
        KLToPrior([1.0, 0.0], reverse=True)


def test_a_prior_for_another_number_of_classes_is_refused():
    said = judgement()
    with pytest.raises(ValueError, match=r"classifier's 3 logits, but has 2"):
        KLToPrior([0.5, 0.5])(said.logits_out, said)


@pytest.mark.parametrize(
    "labels, error, message",
    [
        ([], ValueError, "must not be empty"),
        ([0, 3], ValueError, r"0\.\.2 for 3 classes, but got 0\.\.3"),
        ([-1, 0], ValueError, r"got -1\.\.0"),
        ([0.5], TypeError, "must be integers"),
        (torch.tensor([True]), TypeError, "must be integers"),
    ],
)
def test_class_prior_refuses_labels_that_are_no_classes(labels, error, message):
    with pytest.raises(error, match=message):
        class_prior(labels, 3)


def test_class_prior_refuses_to_smooth_by_nothing():
    with pytest.raises(ValueError, match="smoothing must be positive"):
        class_prior([0], 2, smoothing=0.0)


def test_hinge_refuses_a_classifier_with_one_logit_and_an_infinite_margin():
    logits = torch.zeros(1, 1)
    with pytest.raises(ValueError, match="two or more classes"):
        Hinge()(logits, said_with(logits, [0]))
    with pytest.raises(ValueError, match="margin must be finite"):
        Hinge(margin=math.inf)


# The classifier's objective.


def as_published() -> KeepRecognizing:
    return KeepRecognizing(weight_in=1.0, weight_out=1.0, gated=False)


def test_keep_recognizing_worked_by_hand():
    # odds 3 to 1 for, even, and 3 to 1 against the target: log 4/3, log 2, log 4
    rows = ([[math.log(3), 0.0]], [[0.0, 0.0]], [[0.0, math.log(3)]])
    said = Judgement(*(torch.tensor(row) for row in rows), torch.tensor([0]))
    clean, inside, outside = math.log(4 / 3), math.log(2), math.log(4)
    assert KeepRecognizing(1.0, 1.0)(said).item() == pytest.approx(clean + inside + outside)
    assert KeepRecognizing(0.5, 0.0)(said).item() == pytest.approx(clean + inside / 2)
    assert KeepRecognizing(0.0, 0.25)(said).item() == pytest.approx(clean + outside / 4)


def test_keep_recognizing_asks_for_masked_images_only_where_the_clean_one_is_recognized():
    # two images, the second misread: clean losses log 4/3 and log 4, masked ones log 2 each
    clean = torch.tensor([[math.log(3), 0.0], [0.0, math.log(3)]])
    said = Judgement(clean, torch.zeros(2, 2), torch.zeros(2, 2), torch.tensor([0, 0]))
    cleans = (math.log(4 / 3) + math.log(4)) / 2
    one_of_two = 2 * math.log(2) / 2
    assert KeepRecognizing()(said).item() == pytest.approx(cleans + one_of_two)
    assert as_published()(said).item() == pytest.approx(cleans + 2 * one_of_two)


def test_keep_recognizing_equals_a_slow_loop():
    said = Judgement(*torch.randn(3, 8, 5, dtype=torch.float64).unbind(), torch.randint(5, (8,)))
    expected = slow.classifier_loss(said[:3], said.target)
    assert as_published()(said).item() == pytest.approx(expected.item())


def test_keep_recognizing_falls_when_any_of_the_three_images_is_recognized_better():
    said = Judgement(
        *(torch.zeros(2, 3, requires_grad=True) for _ in range(3)), torch.tensor([0, 2])
    )
    as_published()(said).backward()
    for logits in said[:3]:
        assert (logits.grad.gather(1, said.target[:, None]) < 0).all()
