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
