"""Every method of ``captum_masking.methods`` keeps the contract of Captum's attributions."""

from __future__ import annotations

import copy
import inspect
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from captum.attr import NoiseTunnel
from captum.metrics import infidelity, sensitivity_max
from methods import METHODS
from networks import assert_same, everything, mixed_modes

import captum_masking.methods
from captum_masking import MaskingModel
from captum_masking.testing import attribution_checks

CHECKS = dict(attribution_checks())
each_method = pytest.mark.parametrize("name", METHODS)


def test_every_method_has_its_row():
    assert set(METHODS) == set(captum_masking.methods.__all__)


@each_method
@pytest.mark.parametrize("check", CHECKS)
def test_contract(name, check, device):
    row = METHODS[name]
    network = mixed_modes(row.network()).to(device)
    CHECKS[check](row.make(network), network, row.examples().to(device))


@each_method
def test_the_order_of_a_batch_does_not_matter(name):
    row = METHODS[name]
    method, inputs = row.make(row.network().eval()), row.examples()
    target = [0, 1, 1]
    turned = method.attribute(inputs.flip(0), target=target[::-1])
    torch.testing.assert_close(turned.flip(0), method.attribute(inputs, target=target))


@each_method
def test_a_target_may_be_a_function_of_what_the_model_returns(name):
    row = METHODS[name]
    method, inputs = row.make(row.network().eval()), row.examples()
    method.score = lambda logits, classes: logits.gather(1, classes[:, None])[:, 0]
    found = method.attribute(inputs, target=lambda logits: logits[:, 1])
    torch.testing.assert_close(found, method.attribute(inputs, target=1))


@each_method
def test_a_masking_model_is_explained_as_its_classifier(name):
    row = METHODS[name]
    network, inputs = row.network().eval(), row.examples()
    found = row.make(MaskingModel(network)).attribute(inputs, target=1)
    torch.testing.assert_close(found, row.make(network).attribute(inputs, target=1))


@each_method
def test_an_empty_batch_gives_an_empty_map(name):
    row = METHODS[name]
    inputs = row.examples()[:0]
    assert row.make(row.network()).attribute(inputs, target=0).shape == inputs.shape


@each_method
def test_arguments_stand_where_captums_own_have_them_and_have_defaults(name):
    parameters = inspect.signature(getattr(captum_masking.methods, name).attribute).parameters
    assert list(parameters)[1:4] == ["inputs", "target", "additional_forward_args"]
    assert "show_progress" not in parameters or parameters["show_progress"].default is False
    for parameter in list(parameters.values())[2:]:
        assert copy.deepcopy(parameter.default) == parameter.default


@each_method
def test_captums_tunnel_and_metrics_take_it(name):
    row = METHODS[name]
    network = row.network().eval()
    method, inputs = row.make(network), row.examples()
    found = method.attribute(inputs, target=1)
    tunnel = NoiseTunnel(method).attribute(inputs, nt_samples=2, stdevs=0.0, target=1)
    torch.testing.assert_close(tunnel, found, atol=1e-4, rtol=1e-4)
    noisy = lambda x: (0.1 * torch.ones_like(x), x - 0.1)  # noqa: E731
    assert infidelity(network, noisy, inputs, found, target=1).isfinite().all()
    assert sensitivity_max(method.attribute, (inputs,), target=1).isfinite().all()


@each_method
def test_threads_explain_one_model_at_once(name):
    row = METHODS[name]
    network = mixed_modes(row.network())
    method, before = row.make(network), everything(network)
    inputs = row.examples().split(1)
    with ThreadPoolExecutor(3) as pool:
        maps = list(pool.map(lambda one: method.attribute(one, target=1), inputs))
    assert_same(before, everything(network))
    for one, found in zip(inputs, maps, strict=True):
        torch.testing.assert_close(found, method.attribute(one, target=1), atol=1e-4, rtol=1e-4)


@each_method
def test_the_bar_is_off_unless_asked_for(name, capsys):
    row = METHODS[name]
    row.make(row.network()).attribute(row.examples(), target=0)
    assert capsys.readouterr() == ("", "")
