"""The objectives, worked by hand, by slow loops, and against the published code's values."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import slow
import torch
from parts import judgement

from captum_masking.objective import Dual, Judgement, KeepRecognizing, entropy

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


def test_dual_counts_entropy_only_where_the_clean_image_was_recognised():
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


def test_dual_falls_when_masked_in_is_recognised_and_when_masked_out_is_not():
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
    expected = slow.masker_loss(empty, *said, area_in=0, area_out=0, variation=0)
    assert Dual()(said).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
@pytest.mark.parametrize("side, dual", [("in", Dual(1.0, 0.0)), ("out", Dual(0.0, 1.0))])
def test_each_side_of_dual_equals_the_published_code(case, side, dual):
    rest = case[f"area_reg_{side}"] + case["tv"]  # what loss_in and loss_out hold beside it
    assert dual(published(case)).item() == pytest.approx(case[f"loss_{side}"] - rest, abs=1e-5)


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


def test_keep_recognizing_asks_for_masked_images_only_where_the_clean_one_is_recognised():
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


def test_keep_recognizing_falls_when_any_of_the_three_images_is_recognised_better():
    said = Judgement(
        *(torch.zeros(2, 3, requires_grad=True) for _ in range(3)), torch.tensor([0, 2])
    )
    as_published()(said).backward()
    for logits in said[:3]:
        assert (logits.grad.gather(1, said.target[:, None]) < 0).all()
