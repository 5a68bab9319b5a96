"""How checks are listed, run and worded."""

from __future__ import annotations

import copy
import itertools
import pickle
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from captum.attr import NoiseTunnel
from torch import Tensor, nn

from captum_masking import testing as answers
from captum_masking import testing as borrowing
from captum_masking import testing as decoding
from captum_masking import testing as state
from captum_masking import testing as targets
from captum_masking._base.borrow import given_back

__all__ = [
    "attribution_checks",
    "check_attribution",
    "check_masker",
    "masker_checks",
]


#: Raises an AssertionError that says what was expected, what came, and the way out.
Check = Callable[..., None]


def named(checks: Iterable[Check]) -> Iterator[tuple[str, Check]]:
    """Pair each check with its name, a sentence.

    Source:
        Own.

    Example:
        >>> def the_sky_is_blue() -> None: ...
        >>> next(named([the_sky_is_blue]))[0]
        'the_sky_is_blue'
    """
    return ((check.__name__, check) for check in checks)


def run_all(checks: Iterable[Check], *arguments: Any, **options: Any) -> None:
    """Run every check, and report together all that fail.

    Raises:
        AssertionError: If one fails, naming each.

    Source:
        Own; scikit-learn's ``check_estimator`` stops at the first.

    Example:
        >>> run_all([lambda number: None], 3)
    """
    failed = {}
    for name, check in named(checks):
        try:
            check(*arguments, **options)
        except AssertionError as error:
            failed[name] = error
    if failed:
        listed = "\n".join(f"- {name}: {error}" for name, error in failed.items())
        raise AssertionError(f"{len(failed)} checks failed:\n{listed}") from next(
            iter(failed.values())
        )


def expect(holds: object, expected: str, got: object, way_out: str) -> None:
    """Say what was expected, what came, and the way out, unless it holds.

    Raises:
        AssertionError: If it does not hold.

    Source:
        Own.

    Example:
        >>> expect(1 < 2, "order", "chaos", "sort first.")
    """
    if not holds:
        raise AssertionError(f"expected {expected}, but got {got}; {way_out}")


def expect_close(
    got: Tensor, wanted: Tensor, expected: str, way_out: str, *, tolerance: float = 1e-4
) -> None:
    """Expect two tensors to be the same but for rounding.

    Raises:
        AssertionError: If shapes differ, or a value by more than the tolerance, absolute and
            relative.

    Source:
        The tolerance is that of Captum's own suite for targets.

    Example:
        >>> expect_close(torch.ones(2), torch.ones(2), "the same", "look closer.")
    """
    if got.shape != wanted.shape:
        raise AssertionError(
            f"expected {expected}, but got shapes {tuple(got.shape)} and {tuple(wanted.shape)}; "
            f"{way_out}"
        )
    same = torch.isclose(got, wanted, atol=tolerance, rtol=tolerance, equal_nan=True)
    apart = f"{int((~same).sum())} of {same.numel()} values that differ"
    expect(same.all(), expected, apart, way_out)


def attempt(action: Callable[[], Any], expected: str, way_out: str) -> Any:
    """Return what an action returns; an error of its own becomes one that says what was expected.

    Raises:
        AssertionError: If the action raises anything.

    Source:
        Own.

    Example:
        >>> attempt(lambda: 3, "a number", "count.")
        3
    """
    try:
        return action()
    except Exception as error:
        raise AssertionError(
            f"expected {expected}, but got {type(error).__name__}: {error}; {way_out}"
        ) from error


# ---- All that someone who lends a module wants back.


def weights(module: nn.Module) -> dict[str, Any]:
    """Copy the state dict: weights, and statistics such as batch norm's."""
    return {name: _copy(value) for name, value in module.state_dict().items()}


def modes(module: nn.Module) -> dict[str, Any]:
    """Note which submodule is in train mode."""
    return {name: part.training for name, part in module.named_modules()}


def flags(module: nn.Module) -> dict[str, Any]:
    """Note which parameter asks for a gradient."""
    return {name: parameter.requires_grad for name, parameter in module.named_parameters()}


def gradients(module: nn.Module) -> dict[str, Any]:
    """Copy the gradients that are there."""
    return {name: _copy(parameter.grad) for name, parameter in module.named_parameters()}


def hooks(module: nn.Module) -> dict[str, Any]:
    """Note the hooks of every submodule, of every kind."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        f"{name}.{kind}": tuple(getattr(part, kind, ()))
        for name, part in module.named_modules()
        for kind in kinds
    }


def random_numbers(_: nn.Module) -> dict[str, Any]:
    """Copy the state of the global random numbers of torch, NumPy and Python."""
    # NumPy's state holds an array, whose comparison is no truth value: hence text.
    return {
        "torch": torch.get_rng_state(),
        "numpy": repr([np.asarray(part).tolist() for part in np.random.get_state()]),
        "random": random.getstate(),
    }


#: Everything that is given back, by what it is called in messages.
ASPECTS: dict[str, Callable[[nn.Module], dict[str, Any]]] = {
    "weights and statistics": weights,
    "train and eval modes": modes,
    "requires_grad flags": flags,
    "gradients": gradients,
    "hooks": hooks,
    "random numbers": random_numbers,
}


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """List what differs between two answers of one aspect, tensors bit by bit.

    Source:
        Own.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> before = flags(layer)
        >>> changed(before, flags(layer.requires_grad_(False)))
        ['weight', 'bias']
    """
    names = dict.fromkeys([*before, *after])
    return [name for name in names if not _same(before.get(name), after.get(name))]


@contextmanager
def borrowed(module: nn.Module) -> Iterator[None]:
    """Give back a module's modes, flags, weights and statistics, and torch's random numbers.

    Source:
        Own.

    Example:
        >>> layer = nn.BatchNorm1d(1)
        >>> with borrowed(layer):
        ...     _ = layer(torch.rand(4, 1))
        >>> layer.num_batches_tracked
        tensor(0)
    """
    before = weights(module)
    with given_back(module), torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in module.state_dict().items():
                    if isinstance(value, Tensor):
                        value.copy_(before[name])


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return (
            one.shape == other.shape
            and torch.equal(one.isnan(), other.isnan())
            and bool(((one == other) | one.isnan()).all())
        )
    return type(one) is type(other) and bool(one == other)


# ---- Checks of the map that comes back.


def explain(attribution: Any, inputs: Any, target: Any = 0, **options: Any) -> Any:
    """Call ``attribute``; an error becomes an ``AssertionError`` with the way out.

    Source:
        Own.

    Example:
        >>> from captum.attr import Saliency
        >>> explain(Saliency(lambda x: 2 * x), torch.ones(1, 1))
        tensor([[2.]])
    """
    return attempt(
        lambda: attribution.attribute(inputs, target=target, **options),
        "attribute(inputs, target=...) to return a map",
        "inputs come first; target, and what you pass as options, are keywords.",
    )


def the_map_has_the_shape_of_the_input(
    attribution: Any, model: nn.Module, inputs: Tensor, **options: Any
) -> None:
    """Captum's infidelity asks for it."""
    got = explain(attribution, inputs, **options)
    expect(
        isinstance(got, Tensor) and got.shape == inputs.shape,
        f"a tensor of shape {tuple(inputs.shape)}",
        tuple(got.shape) if isinstance(got, Tensor) else type(got).__name__,
        "repeat a map of one channel with .expand_as(inputs).clone().",
    )


def the_map_has_the_dtype_of_the_input(
    attribution: Any, model: nn.Module, inputs: Tensor, **options: Any
) -> None:
    """Maps are added to and compared with inputs."""
    got = explain(attribution, inputs, **options).dtype
    expect(
        got == inputs.dtype, f"a map of {inputs.dtype}", got, "return attribution.to(inputs.dtype)."
    )


def the_map_is_on_the_device_of_the_input(
    attribution: Any, model: nn.Module, inputs: Tensor, **options: Any
) -> None:
    """Maps are added to and compared with inputs."""
    got = explain(attribution, inputs, **options).device
    expect(got == inputs.device, f"a map on {inputs.device}", got, "move it there.")


def the_map_is_finite(attribution: Any, model: nn.Module, inputs: Tensor, **options: Any) -> None:
    """NaN spreads through every metric and breaks Captum's pictures."""
    good = explain(attribution, inputs, **options).isfinite()
    bad = f"{int((~good).sum())} of {good.numel()} values NaN or infinite"
    expect(good.all(), "finite values", bad, "look for a division by zero.")


def the_map_asks_for_no_gradient(
    attribution: Any, model: nn.Module, inputs: Tensor, **options: Any
) -> None:
    """A graph that hangs on to the map holds the model's memory."""
    got = explain(attribution, inputs, **options)
    expect(not got.requires_grad, "a detached map", "one with a graph", "return it .detach()-ed.")


def the_map_can_be_viewed_and_written_to(
    attribution: Any, model: nn.Module, inputs: Tensor, **options: Any
) -> None:
    """Captum's sensitivity_max flattens it; an expanded tensor fails there."""
    got = explain(attribution, inputs, **options)
    way_out = "return .expand_as(inputs).clone(memory_format=torch.contiguous_format)."
    attempt(lambda: got.view(len(got), -1), "a map that .view(N, -1) flattens", way_out)
    before = inputs.detach().clone()
    attempt(lambda: got.fill_(7), "a map with memory of its own", way_out)
    expect(torch.equal(inputs, before), "a map apart from the inputs", "a view of them", way_out)


def a_tuple_gives_a_tuple(
    attribution: Any, model: nn.Module, inputs: Tensor, **options: Any
) -> None:
    """Captum's sensitivity_max passes a tuple of one, and takes the map out of one."""
    got = explain(attribution, (inputs,), **options)
    way_out = "return (attribution,) if isinstance(inputs, tuple) else attribution."
    expect(
        isinstance(got, tuple) and len(got) == 1,
        "a tuple of one map for a tuple of one input",
        type(got).__name__,
        way_out,
    )
    bare = explain(attribution, inputs, **options)
    expect_close(got[0], bare, "the same map with and without a tuple", way_out)


def a_batch_gives_what_its_inputs_give_one_by_one(
    attribution: Any, model: nn.Module, inputs: Tensor, **options: Any
) -> None:
    """A map must not depend on what else is in the batch."""
    together = explain(attribution, inputs, **options)
    alone = torch.cat([explain(attribution, one, **options) for one in inputs.split(1)])
    expect_close(
        together,
        alone,
        "the same maps for a batch as for its inputs one by one",
        "hold the model in eval mode meanwhile, and average nothing over the batch.",
    )


def asking_twice_gives_the_same_map(
    attribution: Any, model: nn.Module, inputs: Tensor, **options: Any
) -> None:
    """A map that changes cannot be published."""
    first = explain(attribution, inputs, **options).clone()
    expect_close(
        explain(attribution, inputs, **options),
        first,
        "the same map when asked twice",
        "draw random numbers from a torch.Generator seeded at each call.",
        tolerance=1e-6,
    )


def it_works_without_gradients(
    attribution: Any, model: nn.Module, inputs: Tensor, **options: Any
) -> None:
    """NoiseTunnel and Captum's metrics call it under no_grad."""
    wanted = explain(attribution, inputs, **options)
    with torch.no_grad():
        got = explain(attribution, inputs, **options)
    expect_close(
        got, wanted, "the same map under no_grad", "switch gradients on inside with enable_grad()."
    )


def noise_tunnel_takes_it(
    attribution: Any, model: nn.Module, inputs: Tensor, **options: Any
) -> None:
    """Captum's NoiseTunnel calls the function behind the decorator of ``attribute``."""
    way_out = "decorate attribute with captum.log.log_usage, and define multiplies_by_inputs."
    with torch.random.fork_rng(devices=[inputs.device] if inputs.is_cuda else []):
        got = attempt(
            lambda: NoiseTunnel(attribution).attribute(inputs, nt_samples=2, target=0, **options),
            "NoiseTunnel(attribution) to work",
            way_out,
        )
    expect(got.shape == inputs.shape, f"shape {tuple(inputs.shape)}", tuple(got.shape), way_out)


def a_deep_copy_gives_the_same_map(
    attribution: Any, model: nn.Module, inputs: Tensor, **options: Any
) -> None:
    """Users send attributions to other processes."""
    way_out = "keep no open file, lock or generator in it, or define __deepcopy__."
    copied = attempt(lambda: copy.deepcopy(attribution), "copy.deepcopy to work", way_out)
    wanted = explain(attribution, inputs, **options)
    expect_close(explain(copied, inputs, **options), wanted, "the same map of a copy", way_out)


CHECKS: list[Check] = [
    the_map_has_the_shape_of_the_input,
    the_map_has_the_dtype_of_the_input,
    the_map_is_on_the_device_of_the_input,
    the_map_is_finite,
    the_map_asks_for_no_gradient,
    the_map_can_be_viewed_and_written_to,
    a_tuple_gives_a_tuple,
    a_batch_gives_what_its_inputs_give_one_by_one,
    asking_twice_gives_the_same_map,
    it_works_without_gradients,
    noise_tunnel_takes_it,
    a_deep_copy_gives_the_same_map,
]


# ---- Checks that an attribution gives back the model and the input as they were.

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


CHECKS_borrowing: list[Check] = [
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


# ---- Checks of the target, in every form that Captum takes.


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


CHECKS_targets: list[Check] = [
    every_form_of_a_target_gives_the_same_map,
    a_target_for_each_input_is_taken_input_by_input,
    a_wrong_target_is_refused,
]


# ---- Checks of mask logits, and of the masker that makes them.

_EVAL = "draw no random numbers and keep no state in eval mode."


def logits_have_one_channel_and_the_shape_of_the_grid(
    masker: nn.Module, channels: Sequence[int], dims: int = 2
) -> None:
    """Whatever the grid, larger or smaller than the features, and the size of the batch."""
    for batch, side in itertools.product((1, 2, 5), (1, 4, 9)):
        grid = [side + axis for axis in range(dims)]  # no two sides alike
        logits = _run(masker, _features(masker, channels, batch, dims), grid)
        expect(
            tuple(logits.shape) == (batch, 1, *grid),
            f"mask logits of shape {(batch, 1, *grid)}",
            tuple(logits.shape),
            "end in one channel, resampled to the grid that forward is given.",
        )


def a_batch_gives_what_its_examples_give_one_by_one(
    masker: nn.Module, channels: Sequence[int], dims: int = 2
) -> None:
    """In eval mode no example may depend on its neighbours."""
    features = _features(masker, channels, 3, dims)
    together = _run(masker, features)
    alone = [_run(masker, [maps[[row]] for maps in features]) for row in range(3)]
    expect_close(
        together,
        torch.cat(alone),
        "the same logits for a batch as for its examples one by one",
        "normalise over nothing that includes the batch axis in eval mode.",
    )


def asking_twice_gives_the_same_logits(
    masker: nn.Module, channels: Sequence[int], dims: int = 2
) -> None:
    """In eval mode, without random numbers."""
    features = _features(masker, channels, 2, dims)
    with borrowed(masker), torch.no_grad():  # once: it gives random numbers back
        first, second = (_call(masker.eval(), features) for _ in range(2))
    expect_close(second, first, "the same logits when asked twice", _EVAL)


def nothing_changes_in_eval_mode(masker: nn.Module, channels: Sequence[int], dims: int = 2) -> None:
    """Neither its state nor the features it is given, which are the classifier's."""
    features = _features(masker, channels, 2, dims)
    given = [maps.clone() for maps in features]
    with borrowed(masker):
        before = weights(masker)
        _call(masker.eval(), features)
        lost = changed(before, weights(masker))
    expect(not lost, "a masker that keeps its state", f"other {lost[:4]}", _EVAL)
    same = all(map(torch.equal, features, given))
    expect(same, "features left alone", "other values", "do without in-place operations on them.")


def every_parameter_gets_a_gradient(
    masker: nn.Module, channels: Sequence[int], dims: int = 2
) -> None:
    """In train mode; a parameter without one is never trained, and stops distributed training."""
    parameters = {name: p for name, p in masker.named_parameters() if p.requires_grad}
    expect(parameters, "a masker with parameters", "none", "register them as nn.Parameter.")
    with borrowed(masker), torch.enable_grad():
        logits = _call(masker.train(), _features(masker, channels, 4, dims))
        found = attempt(
            lambda: torch.autograd.grad(
                (logits * torch.randn_like(logits)).sum(),
                list(parameters.values()),
                allow_unused=True,
            ),
            "logits with a graph",
            "detach nothing on the way, and stay out of no_grad.",
        )
    dead = [
        name
        for name, gradient in zip(parameters, found, strict=True)
        if gradient is None or not gradient.isfinite().all() or not gradient.any()
    ]
    expect(
        not dead,
        "a finite gradient for every parameter, not zero everywhere",
        f"none for {dead[:4]}",
        "use every parameter in forward, or freeze it with requires_grad_(False).",
    )


def logits_are_finite_for_extreme_features(
    masker: nn.Module, channels: Sequence[int], dims: int = 2
) -> None:
    """Features may be all zero, constant, tiny or large, in either mode."""
    noise = _features(masker, channels, 4, dims)
    for name, scale, shift in (
        ("all zero", 0.0, 0.0),
        ("constant", 0.0, 1.0),
        ("tiny", 1e-30, 0.0),
        ("large", 1e4, 0.0),
        ("large and far from zero", 1.0, -1e4),
    ):
        features = [scale * maps + shift for maps in noise]
        for training in (False, True):
            logits = _run(masker, features, training=training)
            expect(
                logits.isfinite().all(),
                f"finite logits for features that are {name} (training={training})",
                f"{int((~logits.isfinite()).sum())} NaN or infinite values",
                "add an epsilon to divisions and square roots.",
            )


def a_state_dict_carries_all_that_matters(
    masker: nn.Module, channels: Sequence[int], dims: int = 2
) -> None:
    """A checkpoint is the settings and the state dict, and nothing else."""
    way_out = "register tensors with register_buffer, and list constructor arguments in settings."
    features = _features(masker, channels, 2, dims)
    with borrowed(masker):  # making one draws random numbers
        fresh = _fresh(masker)
    attempt(
        lambda: fresh.load_state_dict(copy.deepcopy(masker.state_dict())),
        "a state dict that load_state_dict takes",
        way_out,
    )
    expect_close(
        _run(fresh, features),
        _run(masker, features),
        "the same logits of a new masker with the old one's state dict",
        way_out,
    )


def a_deep_copy_gives_the_same_logits_and_is_independent(
    masker: nn.Module, channels: Sequence[int], dims: int = 2
) -> None:
    """Trainers keep copies of the best masker so far."""
    features = _features(masker, channels, 2, dims)
    wanted = _run(masker, features)
    copied = _copy_decoding(masker)
    expect_close(_run(copied, features), wanted, "the same logits of a copy", "copy all tensors.")
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.add_(1)
    way_out = "share no tensor with the copy."
    expect_close(_run(masker, features), wanted, "an original apart from its copy", way_out)


def a_pickled_copy_gives_the_same_logits(
    masker: nn.Module, channels: Sequence[int], dims: int = 2
) -> None:
    """Maskers travel to other processes."""
    way_out = "define its class at the top of a module, and keep no lambda or open file in it."
    features = _features(masker, channels, 2, dims)
    copied = attempt(lambda: pickle.loads(pickle.dumps(masker)), "pickle to work", way_out)
    wanted = _run(masker, features)
    expect_close(_run(copied, features), wanted, "the same logits of a pickled copy", way_out)


def it_works_in_other_precisions(masker: nn.Module, channels: Sequence[int], dims: int = 2) -> None:
    """Classifiers come in half, bfloat16 and double precision."""
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        converted = _copy_decoding(masker).to(dtype)
        features = [maps.to(dtype) for maps in _features(masker, channels, 2, dims)]
        logits = _run(converted, features)
        expect(
            logits.dtype == dtype and logits.isfinite().all(),
            f"finite logits of {dtype}",
            f"{logits.dtype}, finite: {bool(logits.isfinite().all())}",
            "make no tensor of a fixed dtype in forward.",
        )


CHECKS_decoding: list[Check] = [
    logits_have_one_channel_and_the_shape_of_the_grid,
    a_batch_gives_what_its_examples_give_one_by_one,
    asking_twice_gives_the_same_logits,
    nothing_changes_in_eval_mode,
    every_parameter_gets_a_gradient,
    logits_are_finite_for_extreme_features,
    a_state_dict_carries_all_that_matters,
    a_deep_copy_gives_the_same_logits_and_is_independent,
    a_pickled_copy_gives_the_same_logits,
    it_works_in_other_precisions,
]


def _features(masker: nn.Module, channels: Sequence[int], batch: int, dims: int) -> list[Tensor]:
    """Make feature maps, the finest first, from random numbers of their own."""
    random, like = torch.Generator().manual_seed(0), next(masker.parameters(), torch.zeros(()))
    sides = [max(2, 8 >> level) for level in range(len(channels))]
    return [
        torch.randn(batch, n, *[side] * dims, generator=random).to(like)
        for n, side in zip(channels, sides, strict=True)
    ]


def _run(
    masker: nn.Module,
    features: Sequence[Tensor],
    grid: Sequence[int] | None = None,
    *,
    training: bool = False,
) -> Tensor:
    """Call a masker in eval mode, or in train mode, and leave it as it was."""
    with borrowed(masker), torch.no_grad():
        return _call(masker.train(training), features, grid)


def _call(
    masker: nn.Module, features: Sequence[Tensor], grid: Sequence[int] | None = None
) -> Tensor:
    size = tuple(features[0].shape[2:] if grid is None else grid)
    asks, first = getattr(masker, "asks", ()), features[0]
    question: dict[str, Any] = {}
    if "target" in asks:
        question["target"] = torch.zeros(len(first), dtype=torch.long, device=first.device)
    if "area" in asks:
        question["area"] = torch.full((len(first),), 0.5, device=first.device)
    return attempt(
        lambda: masker(list(features), size, **question),
        f"masker(features, grid={size}) to return mask logits",
        "features are one map for each of the channels given.",
    )


def _copy_decoding(masker: nn.Module) -> nn.Module:
    way_out = "keep no open file, lock or generator in it, or define __deepcopy__."
    copied: nn.Module = attempt(lambda: copy.deepcopy(masker), "copy.deepcopy to work", way_out)
    return copied


def _fresh(masker: nn.Module) -> nn.Module:
    """Make another masker of the same kind with other weights."""
    settings = getattr(masker, "settings", None)
    if settings is not None:
        way_out = "list every constructor argument in settings, under its own name."
        made: nn.Module = attempt(
            lambda: type(masker)(**settings), "Class(**masker.settings) to work", way_out
        )
        return made.to(next(masker.parameters(), torch.zeros(())))
    other = _copy_decoding(masker)
    with torch.no_grad():
        for value in [*other.parameters(), *other.buffers()]:
            if value.is_floating_point():
                value.add_(1)
    return other


# ---- What a model, its trainer and its checkpoints ask of a masker, as a list of checks.


def masker_checks() -> Iterator[tuple[str, Check]]:
    """List the checks of a masker, as pairs of a name and a function.

    Each is called as ``check(masker, channels, dims=2)`` like :func:`check_masker`. In a test of
    your own::

        @pytest.mark.parametrize("name, check", masker_checks())
        def test_my_masker(name, check):
            check(MyMasker([8, 16]), [8, 16])

    Source:
        Own.

    Example:
        >>> [name for name, check in masker_checks()][0]
        'logits_have_one_channel_and_the_shape_of_the_grid'
    """
    return named(decoding.CHECKS)


def check_masker(
    masker: nn.Module, channels: Sequence[int] | None = None, *, dims: int | None = None
) -> None:
    """Run every check on a masker, and report all that fail. The masker is not changed.

    Args:
        masker: Called as ``masker(features, grid)``, and with ``target`` or ``area`` if its
            ``asks`` says so.
        channels: Of each feature map that it reads; None takes those in ``masker.settings``.
        dims: Spatial dimensions; None takes those in ``masker.settings``, or 2.

    Raises:
        AssertionError: If a check fails, naming each that does.
        ValueError: If there is no telling the channels.

    Source:
        Own, after scikit-learn's ``check_estimator``.

    Example:
        >>> from captum_masking.parts.masker import Masker
        >>> check_masker(Masker([5, 3], width=4))
    """
    settings = getattr(masker, "settings", {})
    channels = settings.get("channels") if channels is None else channels
    if channels is None:
        raise ValueError(
            f"{type(masker).__name__} does not say which feature maps it reads; pass channels, "
            "such as check_masker(masker, [8, 16])."
        )
    dims = settings.get("dims", 2) if dims is None else dims
    run_all(decoding.CHECKS, masker, channels, dims=dims)


# ---- What Captum, its tools and its users ask of an attribution, as a list of checks.


def attribution_checks() -> Iterator[tuple[str, Check]]:
    """List the checks of an attribution, as pairs of a name and a function.

    Each is called as ``check(attribution, model, inputs, **options)`` like
    :func:`check_attribution`, and raises an ``AssertionError`` that says what was expected, what
    came, and the way out. In a test of your own::

        @pytest.mark.parametrize("name, check", attribution_checks())
        def test_my_attribution(name, check):
            check(MyAttribution(model), model, inputs)

    Source:
        The rules are Captum 0.9's, as its suites, ``NoiseTunnel`` and its metrics ask for them.

    Example:
        >>> [name for name, check in attribution_checks()][:2]
        ['the_map_has_the_shape_of_the_input', 'the_map_has_the_dtype_of_the_input']
    """
    return named([*answers.CHECKS, *targets.CHECKS, *borrowing.CHECKS])


def check_attribution(attribution: Any, model: nn.Module, inputs: Tensor, **options: Any) -> None:
    """Run every check on an attribution, and report all that fail.

    Args:
        attribution: An instance made from the model; its ``attribute`` is called.
        model: The module that it explains, with two classes at least. It must not change; to see
            that it does not, leave parts of it in train mode.
        inputs: A batch of two or more, as the model takes it.
        **options: For every call of ``attribute``, such as ``additional_forward_args`` (without
            tensors that have a row per input) or fewer steps.

    Raises:
        AssertionError: If a check fails, naming each that does.
        ValueError: If there are fewer than two inputs.

    Source:
        Own, after scikit-learn's ``check_estimator``.

    Example:
        >>> import torch
        >>> from captum.attr import Saliency
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
        >>> check_attribution(Saliency(network), network, torch.rand(2, 1, 4, 4))
    """
    if len(inputs) < 2:
        raise ValueError(
            f"inputs must be a batch of two or more, to be explained together and one by one, but "
            f"got {len(inputs)}; repeat the example."
        )
    run_all((check for _, check in attribution_checks()), attribution, model, inputs, **options)
