"""Checks that an attribution gives back the model and the input as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from captum_masking.testing import state
from captum_masking.testing.answers import explain
from captum_masking.testing.report import Check, expect

_WAY_OUT = "borrow the model in a context manager that gives everything back in its finally."


def the_input_is_left_as_it_was(
    attribution: Any, model: nn.Module, inputs: Tensor, **options: Any
) -> None:
    """Values, ``requires_grad`` and ``grad`` of the input belong to the user."""
    for asks in (False, True):
        mine = inputs.detach().clone().requires_grad_(asks)
        mine.grad = torch.ones_like(mine)
        explain(attribution, mine, **options)
        grad = mine.grad
        kept = {
            "values": torch.equal(mine.detach(), inputs),
            "requires_grad": mine.requires_grad is asks,
            "grad": grad is not None and bool((grad == 1).all()),
        }
        lost = [name for name, same in kept.items() if not same]
        expect(not lost, "the input to be left alone", f"other {lost}", "work on a detached copy.")


def the_weights_and_statistics_stay(
    attribution: Any, model: nn.Module, inputs: Tensor, **options: Any
) -> None:
    """Batch norm in train mode changes its statistics at every pass."""
    _expect_kept("weights and statistics", attribution, model, inputs, **options)


def the_modes_stay(attribution: Any, model: nn.Module, inputs: Tensor, **options: Any) -> None:
    """Every submodule gets its own mode back."""
    _expect_kept("train and eval modes", attribution, model, inputs, **options)


def the_requires_grad_flags_stay(
    attribution: Any, model: nn.Module, inputs: Tensor, **options: Any
) -> None:
    """A frozen part stays frozen, a trained one trained."""
    _expect_kept("requires_grad flags", attribution, model, inputs, **options)


def the_gradients_stay(attribution: Any, model: nn.Module, inputs: Tensor, **options: Any) -> None:
    """Gradients that a user is accumulating are not added to."""
    _expect_kept("gradients", attribution, model, inputs, **options)


def no_hook_stays(attribution: Any, model: nn.Module, inputs: Tensor, **options: Any) -> None:
    """Hooks that stay slow the model down and keep memory."""
    _expect_kept("hooks", attribution, model, inputs, **options)


def random_numbers_are_given_back(
    attribution: Any, model: nn.Module, inputs: Tensor, **options: Any
) -> None:
    """An explanation in the middle of a training must not change the training."""
    _expect_kept("random numbers", attribution, model, inputs, **options)


def everything_is_given_back_after_a_wrong_target(
    attribution: Any, model: nn.Module, inputs: Tensor, **options: Any
) -> None:
    """Users correct the target and go on with the same model."""
    with _kept(model, list(state.ASPECTS), "a wrong target"), suppress(Exception):
        attribution.attribute(inputs, target=10**6, **options)


def everything_is_given_back_after_an_error_of_the_model(
    attribution: Any, model: nn.Module, inputs: Tensor, **options: Any
) -> None:
    """A model that runs out of memory half-way is still the user's model."""
    with _kept(model, list(state.ASPECTS), "an error of the model"):
        last = _last_to_run(attribution, model, inputs, **options)
        handle = last.register_forward_pre_hook(_fail)
        try:
            _expect_failure(lambda: attribution.attribute(inputs, target=0, **options))
        finally:
            handle.remove()


class _Failure(ArithmeticError):
    """The error of a model that fails on purpose."""


def _fail(*_: Any) -> None:
    raise _Failure


def _expect_kept(
    aspect: str, attribution: Any, model: nn.Module, inputs: Tensor, **options: Any
) -> None:
    with _kept(model, [aspect], "attribute"):
        explain(attribution, inputs, **options)


@contextmanager
def _kept(model: nn.Module, aspects: list[str], what: str) -> Iterator[None]:
    before = {aspect: state.ASPECTS[aspect](model) for aspect in aspects}
    yield
    for aspect, values in before.items():
        lost = state.changed(values, state.ASPECTS[aspect](model))
        expected = f"the {aspect} to be the same before and after {what}"
        expect(not lost, expected, f"other {lost[:4]}", _WAY_OUT)


def _expect_failure(action: Callable[[], Any]) -> None:
    try:
        action()
    except _Failure:
        return
    except Exception as error:  # wrapping it in an error of one's own is fine, as long as it shows
        if error.__cause__ is None and error.__context__ is None:
            raise AssertionError(
                f"expected the model's own error, but got {error!r}; let it through."
            ) from error
        return
    expect(False, "the model's error to reach the caller", "a map", "do not swallow errors.")


def _last_to_run(attribution: Any, model: nn.Module, inputs: Tensor, **options: Any) -> nn.Module:
    """Find the last submodule without children that runs: by then all hooks are in place."""
    ran: list[nn.Module] = []
    leaves = [part for part in model.modules() if not list(part.children())]
    handles = [leaf.register_forward_pre_hook(lambda leaf, _: ran.append(leaf)) for leaf in leaves]
    try:
        explain(attribution, inputs, **options)
    finally:
        for handle in handles:
            handle.remove()
    expect(
        ran,
        "the attribution to run the model",
        "no submodule that ran",
        "pass the module itself as model: hooks of compiled ones do not fire.",
    )
    return ran[-1]


CHECKS: list[Check] = [
    the_input_is_left_as_it_was,
    the_weights_and_statistics_stay,
    the_modes_stay,
    the_requires_grad_flags_stay,
    the_gradients_stay,
    no_hook_stays,
    random_numbers_are_given_back,
    everything_is_given_back_after_a_wrong_target,
    everything_is_given_back_after_an_error_of_the_model,
]
