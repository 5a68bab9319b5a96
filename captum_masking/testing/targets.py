"""Checks of the target, in every form that Captum takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from captum_masking.testing.answers import explain
from captum_masking.testing.report import Check, expect, expect_close


def every_form_of_a_target_gives_the_same_map(
    attribution: Any, model: nn.Module, inputs: Tensor, **options: Any
) -> None:
    """Captum's users write one class as a number, a list, a tuple or a tensor."""
    count = len(inputs)
    forms: list[Any] = [(1,), [1] * count, [(1,)] * count]
    forms += [torch.tensor(1), torch.tensor([1]), torch.ones(count, dtype=torch.long)]
    wanted = explain(attribution, inputs, 1, **options)
    for form in forms:
        form = form.to(inputs.device) if isinstance(form, Tensor) else form
        got = explain(attribution, inputs, form, **options)
        expect_close(
            got,
            wanted,
            f"target={form!r} to mean target=1",
            "select outputs with captum._utils.common._select_targets.",
        )


def a_target_for_each_input_is_taken_input_by_input(
    attribution: Any, model: nn.Module, inputs: Tensor, **options: Any
) -> None:
    """A list or tensor of classes goes with the rows of the batch."""
    classes = [row % 2 for row in range(len(inputs))]
    alone = [
        explain(attribution, one, target, **options)
        for one, target in zip(inputs.split(1), classes, strict=True)
    ]
    for form in (classes, torch.tensor(classes, device=inputs.device)):
        expect_close(
            explain(attribution, inputs, form, **options),
            torch.cat(alone),
            f"target={form!r} to go row by row with the inputs",
            "index the output with one class a row.",
        )


def a_wrong_target_is_refused(
    attribution: Any, model: nn.Module, inputs: Tensor, **options: Any
) -> None:
    """A class that does not exist must not pass in silence."""
    short = [0] * (len(inputs) + 1)
    for target in (10**6, [10**6] * len(inputs), short, torch.tensor(short), 0.5):
        try:
            attribution.attribute(inputs, target=target, **options)
        except Exception:  # Captum's own methods raise AssertionError, IndexError, RuntimeError
            continue
        expect(
            False,
            f"target={target!r} to be refused with an error",
            "a map",
            "check it against the output even where it does not change the map.",
        )


CHECKS: list[Check] = [
    every_form_of_a_target_gives_the_same_map,
    a_target_for_each_input_is_taken_input_by_input,
    a_wrong_target_is_refused,
]
