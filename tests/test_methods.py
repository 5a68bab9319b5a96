"""Every method of ``captum_masking.methods`` keeps the contract of Captum's attributions."""

from __future__ import annotations

import pytest
import torch
from methods import METHODS
from networks import mixed_modes

import captum_masking.methods
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
def test_an_empty_batch_gives_an_empty_map(name):
    row = METHODS[name]
    inputs = row.examples()[:0]
    assert row.make(row.network()).attribute(inputs, target=0).shape == inputs.shape


@each_method
def test_the_bar_is_off_unless_asked_for(name, capsys):
    row = METHODS[name]
    row.make(row.network()).attribute(row.examples(), target=0)
    assert capsys.readouterr() == ("", "")
