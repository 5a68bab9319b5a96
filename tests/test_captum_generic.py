"""Captum's generic configurations, run on our attributions: targets, and hooks that must not stay.

``captum.testing`` ships the table of models and arguments that Captum's own suites go through.
Here are the entries for methods that attribute to inputs and are called with ``inputs``,
``target``, ``additional_forward_args`` and ``baselines`` (one for each example, not a set of them
for all), each as Captum's users have it (no masker) and, where the model can be tapped, with a
masker; then the methods that explain any callable, as ``methods.py`` lists them.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch
from captum.attr import Attribution, LayerAttribution, NeuronAttribution, NoiseTunnel
from captum.testing.attr.helpers.gen_test_utils import (
    gen_test_name,
    parse_test_config,
    should_create_generated_test,
)
from captum.testing.attr.helpers.test_config import config
from captum.testing.helpers.basic_models import BasicModel_ConvNet
from methods import METHODS
from networks import assert_same, everything
from torch import Tensor, nn

from captum_masking import MaskingModel, MaskingSaliency

FEW = {"steps": 3}
MASKED, OPTIMIZED = "with masker", "without"
KINDS = [OPTIMIZED, MASKED, *(name for name, row in METHODS.items() if row.anywhere)]
# Arguments of NoiseTunnel, and those that every attribution has.
OURS = {"inputs", "target", "additional_forward_args", "baselines"}
TUNNEL = {"nt_samples", "nt_samples_batch_size", "stdevs"}

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*has no masker:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*Argument.*:UserWarning"),
]


def entries() -> list[dict[str, Any]]:
    """Entries of the table that a method with our arguments runs, and one of our own.

    The table has no convolutional network with one class per image: that one is added.
    """
    inputs, target = torch.randn(4, 1, 10, 10), [0, 1, 3, 0]
    kinds = {
        "conv_single_target": {"target": 1},
        "conv_multi_target": {"target": target},
        "conv_tensor_target": {"target": torch.tensor(target)},
        "conv_multiple_tuple_target": {"target": [(t,) for t in target]},
        "conv_multi_target_nt": {"target": target, "nt_samples": 4, "stdevs": 0.0},
    }
    own = [
        {
            "name": name,
            "algorithms": [],
            "model": BasicModel_ConvNet(),
            "attribute_args": {"inputs": inputs, **arguments},
            "noise_tunnel": "nt_samples" in arguments,
        }
        for name, arguments in kinds.items()
    ]
    return [entry for entry in config if _is_ours(entry)] + own


def _is_ours(entry: dict[str, Any]) -> bool:
    algorithms, _, arguments, layer, noise_tunnel, set_of_baselines = parse_test_config(entry)
    to_inputs = not any(issubclass(a, (LayerAttribution, NeuronAttribution)) for a in algorithms)
    known = OURS | TUNNEL if noise_tunnel else OURS
    plain = to_inputs and layer is None and not set_of_baselines
    return plain and set(arguments) <= known


def runs(*, noise_tunnel: bool | None = None) -> pytest.MarkDecorator:
    """Run a test on every entry, with every kind of attribution that takes its arguments."""
    parameters = []
    for entry in entries():
        tunnel = entry.get("noise_tunnel", False)
        if noise_tunnel is not None and tunnel is not noise_tunnel:
            continue
        for kind in KINDS:
            if kind in METHODS and "baselines" in entry["attribute_args"]:
                continue
            name = gen_test_name(kind, entry["name"], MaskingSaliency, tunnel)
            parameters.append(pytest.param(entry, kind, id=name))
    return pytest.mark.parametrize("entry, kind", parameters)


def with_masker(model: nn.Module, arguments: dict[str, Any]) -> MaskingModel:
    """Give the model of an entry a masker, by a dry run on the entry's own arguments."""
    extra = arguments.get("additional_forward_args", ())
    extra = extra if isinstance(extra, tuple) else (extra,)
    return MaskingModel(model, example_inputs=arguments["inputs"], additional_forward_args=extra)


def prepare(entry: dict[str, Any], kind: str) -> tuple[Attribution, nn.Module, dict[str, Any]]:
    """Make the attribution of an entry, and the arguments for it, both fresh."""
    _, model, arguments, _, noise_tunnel, _ = parse_test_config(copy.deepcopy(entry))
    if kind == MASKED:
        model = with_masker(model, arguments)
    make = METHODS[kind].make if kind in METHODS else MaskingSaliency
    attribution: Attribution = make(model)
    arguments = {**arguments, **FEW} if kind == OPTIMIZED else arguments
    return (NoiseTunnel(attribution) if noise_tunnel else attribution), model, arguments


def test_the_table_is_read():
    names = {entry["name"] for entry in entries()}
    assert {"basic_multi_input_multi_target", "basic_multiple_tuple_target_nt"} <= names
    assert "basic_multiple_tuple_target_with_baselines" in names and len(names) >= 20
    assert should_create_generated_test(MaskingSaliency)


# Targets: a batch gives what its examples give one by one.


def _row(value: Any, row: int, batch: int) -> Any:
    """Take what belongs to one example; None where the argument goes with none."""
    if isinstance(value, Tensor) and value.dim() > 0:
        return value[[row]] if len(value) == batch else value
    if isinstance(value, list) and len(value) == batch:
        return value[row]
    return value


def _rows(value: Any, row: int, batch: int) -> Any:
    if isinstance(value, tuple):
        return tuple(_row(part, row, batch) for part in value)
    return _row(value, row, batch)


@runs()
def test_a_batch_gives_what_its_examples_give_one_by_one(entry, kind):
    attribution, model, arguments = prepare(entry, kind)
    if entry["name"] == "conv_single_target" and kind == "AttributionMask":
        model.double()  # the gradients that it stretches are 1e-8: rounding, in single precision
        arguments["inputs"] = arguments["inputs"].double()
    inputs = arguments["inputs"]
    batch = len(inputs[0] if isinstance(inputs, tuple) else inputs)
    together = _as_tuple(attribution.attribute(**arguments))
    for row in range(batch):
        split = {
            name: _row(value, row, batch) if name == "target" else _rows(value, row, batch)
            for name, value in arguments.items()
        }
        alone = _as_tuple(attribution.attribute(**split))
        assert len(together) == len(alone)
        for whole, one in zip(together, alone, strict=True):
            torch.testing.assert_close(whole[[row]], one, atol=1e-4, rtol=1e-4)


@runs()
def test_every_input_gets_a_map_of_its_shape(entry, kind):
    attribution, _, arguments = prepare(entry, kind)
    maps = attribution.attribute(**arguments)
    assert isinstance(maps, tuple) is isinstance(arguments["inputs"], tuple)
    for one, inputs in zip(_as_tuple(maps), _as_tuple(arguments["inputs"]), strict=True):
        assert one.shape == inputs.shape and one.dtype == inputs.dtype


def _as_tuple(value: Any) -> tuple:
    return value if isinstance(value, tuple) else (value,)


# Hooks: none stays, whatever happens.


@runs()
def test_nothing_stays_on_the_model(entry, kind):
    attribution, model, arguments = prepare(entry, kind)
    before = everything(model)
    attribution.attribute(**arguments)
    assert_same(before, everything(model))


@runs()
def test_nothing_stays_on_the_model_after_a_wrong_target(entry, kind):
    attribution, model, arguments = prepare(entry, kind)
    before = everything(model)
    with pytest.raises(AssertionError):
        attribution.attribute(**{**arguments, "target": (9999,) * 20})
    assert_same(before, everything(model))


class Raising(nn.Module):
    """Raises in place of the module it stands for."""

    def forward(self, *inputs: Any) -> Any:
        raise ArithmeticError("this module raises")


def _leaves(model: nn.Module) -> list[str]:
    return [name for name, part in model.named_modules() if name and not list(part.children())]


@runs(noise_tunnel=False)
def test_nothing_stays_on_the_model_after_a_module_has_raised(entry, kind):
    attribution, model, arguments = prepare(entry, kind)
    network = model.classifier if kind == MASKED else model
    *_, last = _used(network, attribution, arguments)
    parent, _, name = last.rpartition(".")
    setattr(network.get_submodule(parent), name, Raising())
    before = everything(model)
    with pytest.raises(ArithmeticError):
        attribution.attribute(**arguments)
    assert_same(before, everything(model))


def _used(network: nn.Module, attribution: Attribution, arguments: dict[str, Any]) -> list[str]:
    """Names of the modules that run, in order."""
    ran: list[str] = []
    handles = [
        network.get_submodule(name).register_forward_pre_hook(
            lambda *_, name=name: ran.append(name)
        )
        for name in _leaves(network)
    ]
    attribution.attribute(**arguments)
    for handle in handles:
        handle.remove()
    return ran


def test_the_arguments_of_the_table_are_ours():
    ours = inspect.signature(MaskingSaliency.attribute).parameters
    assert set(ours) >= OURS
