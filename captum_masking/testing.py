"""Check your own maskers and attributions, by hand or in pytest.

Each check is a function whose name is its promise. If it fails, it raises an ``AssertionError``
with what it expected, what it got, and a way out.
"""

from __future__ import annotations

import copy
import itertools
import pickle
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from captum.attr import NoiseTunnel
from torch import Tensor, nn

from captum_masking._base import borrow
from captum_masking.parts.masker import EVIDENCE, Question

__all__ = ["attribution_checks", "check_attribution", "check_masker", "masker_checks"]

Check = Callable[..., None]


# ---- What users call


def check_attribution(attribution: Any, model: nn.Module, inputs: Tensor, **options: Any) -> None:
    """Run every check on an attribution, and report all that fail.

    Args:
        attribution: An object with ``attribute(inputs, target=...)``.
        model: The module that it explains, with at least two classes. Leave parts of it in train
            mode to check that they are restored.
        inputs: A batch of at least two examples.
        **options: Passed to each call of ``attribute``, such as fewer steps or
            ``additional_forward_args`` (without tensors of one row per example).

    Example:
        >>> from captum.attr import Saliency
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
        >>> check_attribution(Saliency(network), network, torch.rand(2, 1, 4, 4))
    """
    if len(inputs) < 2:
        raise ValueError(
            f"inputs must have at least two examples, which are explained together and one by one, "
            f"but got {len(inputs)}; repeat the example."
        )
    _run_all(attribution_checks(), attribution, model, inputs, **options)


def attribution_checks() -> Iterator[tuple[str, Check]]:
    """List the checks of an attribution as pairs of a name and a function.

    Call each like :func:`check_attribution`. In your own tests::

        @pytest.mark.parametrize("name, check", attribution_checks())
        def test_my_attribution(name, check):
            check(MyAttribution(model), model, inputs)

    Source:
        What the tests, the ``NoiseTunnel`` and the metrics of Captum 0.9 require.

    Example:
        >>> [name for name, check in attribution_checks()][:2]
        ['the_map_has_the_shape_of_the_input', 'the_map_has_the_dtype_of_the_input']
    """
    return ((name, _on(_Case, check)) for name, check in _ATTRIBUTION_CHECKS)


def check_masker(
    masker: nn.Module, channels: Sequence[int] | None = None, *, dims: int | None = None
) -> None:
    """Run every check on a masker, and report all that fail. The masker is not changed.

    Args:
        masker: Called as ``masker(features, grid, question)``.
        channels: Channels of each feature map; by default those in ``masker.settings``.
        dims: Spatial dimensions; by default those in ``masker.settings``, or 2.

    Example:
        >>> from captum_masking.parts.masker import Masker
        >>> check_masker(Masker([5, 3], width=4))
    """
    settings = getattr(masker, "settings", {})
    channels = settings.get("channels") if channels is None else channels
    if channels is None:
        raise ValueError(
            f"expected channels, but {type(masker).__name__} has none in its settings; pass them, "
            "such as check_masker(masker, [8, 16])."
        )
    dims = settings.get("dims", 2) if dims is None else dims
    _run_all(masker_checks(), masker, channels, dims=dims)


def masker_checks() -> Iterator[tuple[str, Check]]:
    """List the checks of a masker as pairs of a name and a function.

    Call each as ``check(masker, channels, dims=2)``. See :func:`attribution_checks` for how to use
    them in your own tests.

    Example:
        >>> [name for name, check in masker_checks()][0]
        'logits_have_one_channel_and_the_shape_of_the_grid'
    """
    return ((name, _on(_Masker, check)) for name, check in _MASKER_CHECKS)


def _on(kind: Callable[..., Any], check: Callable[[Any], None]) -> Check:
    return lambda *arguments, **options: check(kind(*arguments, **options))


def _named(*checks: Callable[[Any], None]) -> list[tuple[str, Callable[[Any], None]]]:
    return [(check.__name__, check) for check in checks]


def _run_all(checks: Iterable[tuple[str, Check]], *arguments: Any, **options: Any) -> None:
    failed = {}
    for name, check in checks:
        try:
            check(*arguments, **options)
        except AssertionError as error:
            failed[name] = error
    if failed:
        listed = "\n".join(f"- {name}: {error}" for name, error in failed.items())
        first = next(iter(failed.values()))
        raise AssertionError(f"{len(failed)} checks failed:\n{listed}") from first


# ---- Expectations


def _expect(holds: object, expected: str, got: object, way_out: str) -> None:
    if not holds:
        raise AssertionError(f"expected {expected}, but got {got}; {way_out}")


def _expect_close(
    got: Tensor, wanted: Tensor, expected: str, way_out: str, *, tolerance: float = 1e-4
) -> None:
    shapes = f"shapes {tuple(got.shape)} and {tuple(wanted.shape)}"
    _expect(got.shape == wanted.shape, expected, shapes, way_out)
    same = torch.isclose(got, wanted, atol=tolerance, rtol=tolerance, equal_nan=True)
    apart = f"{int((~same).sum())} of {same.numel()} values that differ"
    _expect(same.all(), expected, apart, way_out)


def _attempt(action: Callable[[], Any], expected: str, way_out: str) -> Any:
    """Return what an action returns; turn its error into an ``AssertionError``."""
    try:
        return action()
    except Exception as error:
        raise AssertionError(
            f"expected {expected}, but got {type(error).__name__}: {error}; {way_out}"
        ) from error


def _deep_copy(original: Any) -> Any:
    way_out = "store no open file, lock or generator in it, or define __deepcopy__."
    return _attempt(lambda: copy.deepcopy(original), "copy.deepcopy to work", way_out)


# ---- The state of a module


def _weights(module: nn.Module) -> dict[str, Any]:
    return {name: _copy(value) for name, value in module.state_dict().items()}


def _hooks(module: nn.Module) -> dict[str, Any]:
    return {
        f"{name}.{kind}": tuple(getattr(part, kind, ()))
        for name, part in module.named_modules()
        for kind in borrow.HOOKS
    }


def _random_numbers(_: nn.Module) -> dict[str, Any]:
    # As text, since NumPy's state holds an array, which == compares by element.
    return {
        "torch": torch.get_rng_state(),
        "numpy": repr([np.asarray(part).tolist() for part in np.random.get_state()]),
        "random": random.getstate(),
    }


_ASPECTS: dict[str, Callable[[nn.Module], dict[str, Any]]] = {  # by their names in messages
    "weights and statistics": _weights,
    "train and eval modes": lambda m: {n: part.training for n, part in m.named_modules()},
    "requires_grad flags": lambda m: {n: p.requires_grad for n, p in m.named_parameters()},
    "gradients": lambda m: {n: _copy(p.grad) for n, p in m.named_parameters()},
    "hooks": _hooks,
    "random numbers": _random_numbers,
}


def _changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    names = dict.fromkeys([*before, *after])
    return [name for name in names if not _same(before.get(name), after.get(name))]


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


@contextmanager
def _borrowed(module: nn.Module) -> Iterator[None]:
    with borrow.borrowed(module), torch.random.fork_rng(devices=[]):
        yield


# ---- Attributions: the map


class _Case:
    """An attribution, its model and inputs."""

    def __init__(self, attribution: Any, model: nn.Module, inputs: Tensor, **options: Any) -> None:
        self.attribution, self.model, self.inputs = attribution, model, inputs
        self.options = options

    def attribute(self, inputs: Any, target: Any) -> Any:
        return self.attribution.attribute(inputs, target=target, **self.options)

    def explain(self, inputs: Any = None, target: Any = 0) -> Any:
        return _attempt(
            lambda: self.attribute(self.inputs if inputs is None else inputs, target),
            "attribute(inputs, target=...) to return a map",
            "take inputs first, and target and your options as keywords.",
        )


def the_map_has_the_shape_of_the_input(case: _Case) -> None:
    """Captum's infidelity requires it."""
    got, inputs = case.explain(), case.inputs
    _expect(
        isinstance(got, Tensor) and got.shape == inputs.shape,
        f"a tensor of shape {tuple(inputs.shape)}",
        tuple(got.shape) if isinstance(got, Tensor) else type(got).__name__,
        "repeat a map of one channel with .expand_as(inputs).clone().",
    )


def the_map_has_the_dtype_of_the_input(case: _Case) -> None:
    got, wanted = case.explain().dtype, case.inputs.dtype
    _expect(got == wanted, f"a map of {wanted}", got, "return attribution.to(inputs.dtype).")


def the_map_is_on_the_device_of_the_input(case: _Case) -> None:
    got, wanted = case.explain().device, case.inputs.device
    _expect(got == wanted, f"a map on {wanted}", got, "move it there.")


def the_map_is_finite(case: _Case) -> None:
    good = case.explain().isfinite()
    bad = f"{int((~good).sum())} of {good.numel()} values NaN or infinite"
    _expect(good.all(), "finite values", bad, "look for a division by zero.")


def the_map_requires_no_gradient(case: _Case) -> None:
    has_graph = case.explain().requires_grad
    _expect(not has_graph, "a detached map", "one with a graph", "return attribution.detach().")


def the_map_can_be_viewed_and_written_to(case: _Case) -> None:
    """Captum's sensitivity_max flattens it; an expanded tensor cannot be flattened."""
    got = case.explain()
    way_out = "return .expand_as(inputs).clone(memory_format=torch.contiguous_format)."
    _attempt(lambda: got.view(len(got), -1), "a map that .view(N, -1) flattens", way_out)
    before = case.inputs.detach().clone()
    _attempt(lambda: got.fill_(7), "a map with its own memory", way_out)
    apart = torch.equal(case.inputs, before)
    _expect(apart, "a map that shares no memory with the inputs", "a view of them", way_out)


def a_tuple_gives_a_tuple(case: _Case) -> None:
    """Captum's sensitivity_max passes a tuple of one input and expects a tuple of one map."""
    got = case.explain((case.inputs,))
    way_out = "return (attribution,) if isinstance(inputs, tuple) else attribution."
    is_one, expected = isinstance(got, tuple) and len(got) == 1, "a tuple of one map for one input"
    _expect(is_one, expected, type(got).__name__, way_out)
    _expect_close(got[0], case.explain(), "the same map with and without a tuple", way_out)


def a_batch_gives_what_its_inputs_give_one_by_one(case: _Case) -> None:
    """A map must not depend on the rest of the batch."""
    alone = torch.cat([case.explain(one) for one in case.inputs.split(1)])
    way_out = "keep the model in eval mode during the call, and average nothing over the batch."
    expected = "the same maps for a batch as for its inputs one by one"
    _expect_close(case.explain(), alone, expected, way_out)


def two_calls_give_the_same_map(case: _Case) -> None:
    """Results must be reproducible."""
    way_out, first = "draw from a torch.Generator seeded in each call.", case.explain().clone()
    _expect_close(case.explain(), first, "the same map in two calls", way_out, tolerance=1e-6)


def it_works_without_gradients(case: _Case) -> None:
    wanted = case.explain()
    with torch.no_grad():
        got = case.explain()
    way_out = "use torch.enable_grad() inside attribute."
    _expect_close(got, wanted, "the same map under no_grad", way_out)


def noise_tunnel_accepts_it(case: _Case) -> None:
    """Captum's NoiseTunnel calls the undecorated ``attribute``."""
    way_out = "decorate attribute with captum.log.log_usage, and define multiplies_by_inputs."
    tunnel, inputs = NoiseTunnel(case.attribution), case.inputs
    with torch.random.fork_rng(devices=[inputs.device] if inputs.is_cuda else []):
        run = partial(tunnel.attribute, inputs, nt_samples=2, target=0, **case.options)
        got = _attempt(run, "NoiseTunnel(attribution) to work", way_out)
    _expect(got.shape == inputs.shape, f"shape {tuple(inputs.shape)}", tuple(got.shape), way_out)


def a_deep_copy_gives_the_same_map(case: _Case) -> None:
    copied = _Case(_deep_copy(case.attribution), case.model, case.inputs, **case.options)
    way_out = "copy everything that the map depends on."
    _expect_close(copied.explain(), case.explain(), "the same map of a copy", way_out)


# ---- Attributions: the target


def every_form_of_a_target_gives_the_same_map(case: _Case) -> None:
    """Captum's users write one class as a number, a list, a tuple or a tensor."""
    count, device = len(case.inputs), case.inputs.device
    tensors = [torch.tensor(1), torch.tensor([1]), torch.ones(count, dtype=torch.long)]
    wanted = case.explain(target=1)
    way_out = "select outputs with captum._utils.common._select_targets."
    for form in [(1,), [1] * count, [(1,)] * count, *(tensor.to(device) for tensor in tensors)]:
        expected = f"target={form!r} to mean target=1"
        _expect_close(case.explain(target=form), wanted, expected, way_out)


def a_target_for_each_input_is_taken_input_by_input(case: _Case) -> None:
    """A list or tensor of classes goes with the rows of the batch."""
    classes = [row % 2 for row in range(len(case.inputs))]
    pairs = zip(case.inputs.split(1), classes, strict=True)
    alone = torch.cat([case.explain(one, target) for one, target in pairs])
    for form in (classes, torch.tensor(classes, device=case.inputs.device)):
        expected = f"target={form!r} to give one class per example"
        way_out = "index the output with one class per row."
        _expect_close(case.explain(target=form), alone, expected, way_out)


def a_wrong_target_raises_an_error(case: _Case) -> None:
    """A class that does not exist must not pass silently."""
    short = [0] * (len(case.inputs) + 1)
    for target in (10**6, [10**6] * len(case.inputs), short, torch.tensor(short), 0.5):
        try:
            case.attribute(case.inputs, target)
        except Exception:  # Captum's own methods raise AssertionError, IndexError, RuntimeError
            continue
        way_out = "check the target against the output, even if the map does not depend on it."
        _expect(False, f"target={target!r} to raise an error", "a map", way_out)


# ---- Attributions: model and input do not change


def the_input_does_not_change(case: _Case) -> None:
    """Values, ``requires_grad`` and ``grad`` of the input belong to the user."""
    for requires_grad in (False, True):
        mine = case.inputs.detach().clone().requires_grad_(requires_grad)
        mine.grad = torch.ones_like(mine)
        case.explain(mine)
        grad = mine.grad
        kept = {
            "values": torch.equal(mine.detach(), case.inputs),
            "requires_grad": mine.requires_grad is requires_grad,
            "grad": grad is not None and bool((grad == 1).all()),
        }
        lost = [name for name, same in kept.items() if not same]
        _expect(not lost, "an unchanged input", f"other {lost}", "work on a detached copy.")


def everything_is_restored_after_a_wrong_target(case: _Case) -> None:
    with _kept(case.model, list(_ASPECTS), "a wrong target"), suppress(Exception):
        case.attribute(case.inputs, 10**6)


def everything_is_restored_after_an_error_of_the_model(case: _Case) -> None:
    """A model that runs out of memory must be restored, too."""
    with _kept(case.model, list(_ASPECTS), "an error of the model"):
        handle = _last_to_run(case).register_forward_pre_hook(_fail)
        try:
            _expect_failure(lambda: case.attribute(case.inputs, 0))
        finally:
            handle.remove()


def _stays(case: _Case, aspect: str) -> None:
    with _kept(case.model, [aspect], "attribute"):
        case.explain()


@contextmanager
def _kept(model: nn.Module, aspects: list[str], what: str) -> Iterator[None]:
    before = {aspect: _ASPECTS[aspect](model) for aspect in aspects}
    yield
    way_out = "restore the model in the finally of a context manager."
    for aspect, values in before.items():
        lost = _changed(values, _ASPECTS[aspect](model))
        expected = f"the {aspect} to be the same before and after {what}"
        _expect(not lost, expected, f"other {lost[:4]}", way_out)


class _Failure(ArithmeticError):
    """The error of a model that is made to fail."""


def _fail(*_: Any) -> None:
    raise _Failure


def _expect_failure(action: Callable[[], Any]) -> None:
    try:
        action()
    except _Failure:
        return
    except Exception as error:  # another error may wrap it, as long as it shows
        wrapped = error.__cause__ or error.__context__
        _expect(wrapped, "the model's own error", repr(error), "raise from it.")
        return
    _expect(False, "the model's error to reach the caller", "a map", "do not swallow errors.")


def _last_to_run(case: _Case) -> nn.Module:
    """Find the last leaf module that runs: all hooks are registered by then."""
    ran: list[nn.Module] = []
    leaves = [part for part in case.model.modules() if not list(part.children())]
    handles = [leaf.register_forward_pre_hook(lambda leaf, _: ran.append(leaf)) for leaf in leaves]
    try:
        case.explain()
    finally:
        for handle in handles:
            handle.remove()
    way_out = "pass the module itself, since hooks of compiled modules do not fire."
    _expect(ran, "the attribution to run the model", "no submodule that ran", way_out)
    return ran[-1]


_STAYS = {
    "the_weights_and_statistics_stay": "weights and statistics",  # batch norm's, in train mode
    "the_modes_stay": "train and eval modes",
    "the_requires_grad_flags_stay": "requires_grad flags",
    "the_gradients_stay": "gradients",  # which a user may be accumulating
    "no_hook_remains": "hooks",
    "random_numbers_are_restored": "random numbers",  # which a running training needs
}
_ATTRIBUTION_CHECKS: list[tuple[str, Callable[[_Case], None]]] = [
    *_named(
        the_map_has_the_shape_of_the_input,
        the_map_has_the_dtype_of_the_input,
        the_map_is_on_the_device_of_the_input,
        the_map_is_finite,
        the_map_requires_no_gradient,
        the_map_can_be_viewed_and_written_to,
        a_tuple_gives_a_tuple,
        a_batch_gives_what_its_inputs_give_one_by_one,
        two_calls_give_the_same_map,
        it_works_without_gradients,
        noise_tunnel_accepts_it,
        a_deep_copy_gives_the_same_map,
        every_form_of_a_target_gives_the_same_map,
        a_target_for_each_input_is_taken_input_by_input,
        a_wrong_target_raises_an_error,
        the_input_does_not_change,
        everything_is_restored_after_a_wrong_target,
        everything_is_restored_after_an_error_of_the_model,
    ),
    *((name, partial(_stays, aspect=aspect)) for name, aspect in _STAYS.items()),
]


# ---- Maskers

_EVAL = "in eval mode, draw no random numbers and change no state."


@dataclass(frozen=True)
class _Masker:
    """A masker and the shape of its feature maps."""

    masker: nn.Module
    channels: Sequence[int]
    dims: int = 2

    def features(self, batch: int = 2) -> list[Tensor]:
        """Make random feature maps, finest first, without advancing the global RNG."""
        like = next(self.masker.parameters(), torch.zeros(()))
        draw = torch.Generator().manual_seed(0)
        sides = [max(2, 8 >> level) for level in range(len(self.channels))]
        return [
            torch.randn(batch, n, *[side] * self.dims, generator=draw).to(like)
            for n, side in zip(self.channels, sides, strict=True)
        ]

    def run(
        self,
        features: Sequence[Tensor],
        grid: Sequence[int] | None = None,
        *,
        masker: nn.Module | None = None,
        training: bool = False,
    ) -> Tensor:
        masker = self.masker if masker is None else masker
        with _borrowed(masker), torch.no_grad():
            return _call(masker.train(training), features, grid)


def _call(
    masker: nn.Module, features: Sequence[Tensor], grid: Sequence[int] | None = None
) -> Tensor:
    size = tuple(features[0].shape[2:] if grid is None else grid)
    first = features[0]
    question = Question(
        target=torch.zeros(len(first), dtype=torch.long, device=first.device),
        area=torch.full((len(first),), 0.5, device=first.device),
        evidence=features[-1].mean(1, keepdim=True).repeat_interleave(EVIDENCE, 1),
    )
    return _attempt(
        lambda: masker(list(features), size, question),
        f"masker(features, grid={size}, question) to return mask logits",
        "read one feature map for each entry of channels; you may ignore the question.",
    )


def logits_have_one_channel_and_the_shape_of_the_grid(case: _Masker) -> None:
    """For every batch size, and grids larger or smaller than the features."""
    for batch, side in itertools.product((1, 2, 5), (1, 4, 9)):
        grid = [side + axis for axis in range(case.dims)]  # all sides differ
        logits = case.run(case.features(batch), grid)
        got, wanted = tuple(logits.shape), (batch, 1, *grid)
        way_out = "return one channel, resampled to the grid."
        _expect(got == wanted, f"mask logits of shape {wanted}", got, way_out)


def a_batch_gives_what_its_examples_give_one_by_one(case: _Masker) -> None:
    """In eval mode no example may depend on the others."""
    features = case.features(3)
    alone = torch.cat([case.run([maps[[row]] for maps in features]) for row in range(3)])
    way_out = "in eval mode, do not normalize over the batch axis."
    expected = "the same logits for a batch as for its examples one by one"
    _expect_close(case.run(features), alone, expected, way_out)


def two_calls_give_the_same_logits(case: _Masker) -> None:
    with _borrowed(case.masker), torch.no_grad():  # once, since it restores random numbers
        first, second = (_call(case.masker.eval(), case.features()) for _ in range(2))
    _expect_close(second, first, "the same logits in two calls", _EVAL)


def nothing_changes_in_eval_mode(case: _Masker) -> None:
    """Neither its state nor its features, which belong to the classifier."""
    features, given = case.features(), case.features()
    with _borrowed(case.masker):
        before = _weights(case.masker)
        _call(case.masker.eval(), features)
        lost = _changed(before, _weights(case.masker))
    _expect(not lost, "an unchanged state", f"other {lost[:4]}", _EVAL)
    same = all(map(torch.equal, features, given))
    _expect(same, "unchanged features", "other values", "change no feature in place.")


def every_parameter_gets_a_gradient(case: _Masker) -> None:
    """In train mode. A parameter without one never learns, and stops distributed training."""
    heads = nn.ModuleList(getattr(case.masker, "heads", [case.masker]))  # a gate learns apart
    parameters = {name: p for name, p in heads.named_parameters() if p.requires_grad}
    _expect(parameters, "a masker with parameters", "none", "register them as nn.Parameter.")
    with _borrowed(case.masker), torch.enable_grad():
        logits = _call(case.masker.train(), case.features(4))
        loss, learned = (logits * torch.randn_like(logits)).sum(), list(parameters.values())
        run = partial(torch.autograd.grad, loss, learned, allow_unused=True)
        way_out = "detach nothing, and do not use no_grad."
        found = _attempt(run, "logits with a graph", way_out)
    dead = [
        name
        for name, gradient in zip(parameters, found, strict=True)
        if gradient is None or not gradient.isfinite().all() or not gradient.any()
    ]
    way_out = "use every parameter in forward, or freeze it with requires_grad_(False)."
    expected = "a finite gradient for every parameter, not zero everywhere"
    _expect(not dead, expected, f"none for {dead[:4]}", way_out)


def logits_are_finite_for_extreme_features(case: _Masker) -> None:
    """Features may be all zero, constant, tiny or large, in either mode."""
    noise = case.features(4)
    for name, scale, shift in (
        ("all zero", 0.0, 0.0),
        ("constant", 0.0, 1.0),
        ("tiny", 1e-30, 0.0),
        ("large", 1e4, 0.0),
        ("large and far from zero", 1.0, -1e4),
    ):
        features = [scale * maps + shift for maps in noise]
        for training in (False, True):
            logits = case.run(features, training=training)
            _expect(
                logits.isfinite().all(),
                f"finite logits for features that are {name} (training={training})",
                f"{int((~logits.isfinite()).sum())} NaN or infinite values",
                "add an epsilon to divisions and square roots.",
            )


def a_state_dict_carries_all_that_matters(case: _Masker) -> None:
    """A checkpoint holds only the settings and the state dict."""
    way_out = "register tensors with register_buffer, and list constructor arguments in settings."
    with _borrowed(case.masker):  # a new masker draws random numbers
        fresh = _fresh(case.masker)
    load = partial(fresh.load_state_dict, copy.deepcopy(case.masker.state_dict()))
    _attempt(load, "a state dict that load_state_dict accepts", way_out)
    wanted, got = case.run(case.features()), case.run(case.features(), masker=fresh)
    expected = "the same logits from a new masker with the same state dict"
    _expect_close(got, wanted, expected, way_out)


def _fresh(masker: nn.Module) -> nn.Module:
    """Make a masker of the same class with other weights."""
    settings = getattr(masker, "settings", None)
    if settings is not None:
        way_out = "list every constructor argument in settings by name."
        make = partial(type(masker), **settings)
        made: nn.Module = _attempt(make, "Class(**masker.settings) to work", way_out)
        return made.to(next(masker.parameters(), torch.zeros(())))
    other: nn.Module = _deep_copy(masker)
    with torch.no_grad():
        for value in [*other.parameters(), *other.buffers()]:
            if value.is_floating_point():
                value.add_(1)
    return other


def a_deep_copy_gives_the_same_logits_and_is_independent(case: _Masker) -> None:
    """Training keeps copies of the best masker so far."""
    features, copied = case.features(), _deep_copy(case.masker)
    wanted, got = case.run(features), case.run(features, masker=copied)
    _expect_close(got, wanted, "the same logits of a copy", "copy all tensors.")
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.add_(1)
    way_out = "share no tensor with the copy."
    _expect_close(case.run(features), wanted, "a copy independent of the original", way_out)


def a_pickled_copy_gives_the_same_logits(case: _Masker) -> None:
    way_out = "define its class at the top of a module, and store no lambda or open file in it."
    copied = _attempt(lambda: pickle.loads(pickle.dumps(case.masker)), "pickle to work", way_out)
    wanted, got = case.run(case.features()), case.run(case.features(), masker=copied)
    _expect_close(got, wanted, "the same logits of a pickled copy", way_out)


def it_works_in_other_precisions(case: _Masker) -> None:
    """Classifiers come in half, bfloat16 and double precision."""
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        features = [maps.to(dtype) for maps in case.features()]
        logits = case.run(features, masker=_deep_copy(case.masker).to(dtype))
        _expect(
            logits.dtype == dtype and logits.isfinite().all(),
            f"finite logits of {dtype}",
            f"{logits.dtype}, finite: {bool(logits.isfinite().all())}",
            "create no tensor of a fixed dtype in forward.",
        )


_MASKER_CHECKS = _named(
    logits_have_one_channel_and_the_shape_of_the_grid,
    a_batch_gives_what_its_examples_give_one_by_one,
    two_calls_give_the_same_logits,
    nothing_changes_in_eval_mode,
    every_parameter_gets_a_gradient,
    logits_are_finite_for_extreme_features,
    a_state_dict_carries_all_that_matters,
    a_deep_copy_gives_the_same_logits_and_is_independent,
    a_pickled_copy_gives_the_same_logits,
    it_works_in_other_precisions,
)
