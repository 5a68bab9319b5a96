"""Errors say what was expected, what came, and the way out; what other files do not cover."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from captum_masking._base import checks

IMAGES = torch.zeros(2, 3, 8, 8)


@pytest.mark.parametrize("caught", [AssertionError, ValueError, IndexError])
def test_a_target_error_is_what_captum_raises_and_what_python_would(caught):
    with pytest.raises(caught, match="no such class"):
        raise checks.TargetError("no such class")


def test_inputs_on_another_device_are_refused_with_both_devices():
    with pytest.raises(ValueError, match=r"device cpu.*are on meta.*inputs\.to\('cpu'\)"):
        checks.check_same_device(IMAGES.to("meta"), nn.Linear(1, 1))


@pytest.mark.parametrize("module", [None, nn.ReLU()])
def test_without_parameters_any_device_will_do(module):
    checks.check_same_device(IMAGES, module)


@pytest.mark.parametrize("answer", [None, {"logits": 1}, (IMAGES,)])
def test_an_answer_that_is_no_tensor_is_refused_with_a_way_to_wrap_it(answer):
    with pytest.raises(TypeError, match=rf"{type(answer).__name__}; wrap it"):
        checks.check_logits(answer)


@pytest.mark.parametrize("shape", [(2,), (2, 4, 3, 3)])
def test_an_answer_that_is_no_row_per_example_is_refused(shape):
    with pytest.raises(ValueError, match=r"\(B, classes\), but returned \(2,.*wrap it"):
        checks.check_logits(torch.zeros(shape))


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64, torch.uint8])
def test_labels_of_any_integer_type_are_taken(dtype):
    checks.check_labels(torch.tensor([0, 3], dtype=dtype), IMAGES, classes=4)


@pytest.mark.parametrize("labels", [torch.tensor([0.0, 1.0]), torch.tensor([True, False]), [0, 1]])
def test_labels_that_are_no_integers_are_refused(labels):
    with pytest.raises(TypeError, match=r"tensor of integers \(B,\), but got .*class indices"):
        checks.check_labels(labels, IMAGES)


@pytest.mark.parametrize("labels", [[0], [0, 1, 2], [[0], [1]]], ids=str)
def test_labels_that_are_not_one_per_input_are_refused(labels):
    with pytest.raises(ValueError, match=r"\(2,\), one per input, but got"):
        checks.check_labels(torch.tensor(labels), IMAGES)


@pytest.mark.parametrize("labels, got", [([0, 4], r"0\.\.4"), ([-1, 3], r"-1\.\.3")])
def test_labels_out_of_range_are_refused_with_the_range(labels, got):
    with pytest.raises(ValueError, match=rf"0\.\.3 .*got {got}; check the label column"):
        checks.check_labels(torch.tensor(labels), IMAGES, classes=4)


def test_values_that_are_not_finite_are_counted_and_placed():
    inputs = IMAGES.clone()
    inputs[1, 0, 0, :3] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    with pytest.raises(ValueError, match=r"3 of 384 values.*examples \[1\].*look at the data"):
        checks.check_finite(inputs, "inputs", "look at the data.")


def test_a_tensor_of_numbers_is_finite():
    checks.check_finite(torch.tensor([3.4e38, -3.4e38, 0]), "inputs", "")


@pytest.mark.parametrize("classes", [1, 4])
def test_an_empty_batch_has_no_label_out_of_range(classes):
    checks.check_labels(torch.zeros(0, dtype=torch.long), IMAGES[:0], classes=classes)


@pytest.mark.parametrize("value", [1, 3, True + 1, torch.tensor(2), np.int64(5)])
def test_whole_numbers_of_any_type_count(value):
    checks.check_count("steps", value)


@pytest.mark.parametrize(
    ("value", "error"),
    [(0, ValueError), (-3, ValueError), (1.5, TypeError), (2.0, TypeError), ("2", TypeError)]
    + [(None, TypeError), (True, TypeError), (float("nan"), TypeError)],
)
def test_a_count_that_is_none_is_refused_by_name(value, error):
    with pytest.raises(error, match=rf"steps must be a whole number >= 1, but got {value!r}; go"):
        checks.check_count("steps", value, way_out="go.")


# Whether a trained classifier knows the labels.


def recognized(answers, labels, classes):
    checks.check_recognized([(torch.eye(classes)[answers], torch.as_tensor(labels))])


TWELVE = torch.arange(120) % 12
AS_TEXT = torch.tensor([sorted(range(12), key=str).index(number) for number in range(12)])
DRAWN = torch.randint(12, (120,), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (
            (TWELVE - 1) % 12,
            r"right for 0 of 120.*120 are with.*order \(label 0 as 11, label 1 as 0",
        ),
        (AS_TEXT[TWELVE], r"right for 20 of 120.*120 are with.*\(label 2 as 4, label 3 as 5"),
        (
            DRAWN,
            r"right for \d of 120 clean examples, of 12 of its 12 classes, as if .*; check the",
        ),
        (torch.full((120,), 3), r"right for 10 of 120.*check_accuracy=False \(--untrained\)"),
    ],
    ids=["counted from 1", "in the order of text", "drawn", "always the same"],
)
def test_labels_that_a_classifier_does_not_know_are_refused(answers, words):
    with pytest.raises(ValueError, match=words):
        recognized(answers, TWELVE, 12)


def test_two_classes_that_are_swapped_are_refused():
    labels = torch.arange(20) % 2
    with pytest.raises(ValueError, match="right for 0 of 20"):
        recognized(1 - labels, labels, 2)


@pytest.mark.parametrize(
    ("answers", "labels", "classes"),
    [
        (torch.where(torch.arange(120) % 4 == 0, TWELVE, DRAWN), TWELVE, 12),  # knows a quarter
        (torch.tensor([1, 2, 0]), [0, 1, 2], 3),  # three examples tell nothing
        (torch.arange(200) % 10 // 3, [0] * 200, 12),  # one class, recognized seldom
        (torch.zeros(200).long(), [0] * 190 + [1] * 10, 2),  # nearly all are of one class
        (torch.zeros(0).long(), [], 2),
    ],
)
def test_a_weak_classifier_and_few_examples_pass(recwarn, answers, labels, classes):
    recognized(answers, labels, classes)
    assert not recwarn.list


def test_with_too_few_examples_for_an_error_there_is_a_warning():
    with pytest.warns(UserWarning, match="right for 1 of 12 clean examples"):
        recognized(torch.full((12,), 3), TWELVE[:12], 12)
