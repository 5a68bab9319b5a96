"""What is borrowed is given back: modes and flags of every part, also after an exception."""

from __future__ import annotations

import pytest
from networks import assert_same, cnn, everything, mixed_modes

from captum_masking._base.borrow import eval_mode, given_back, module_of

BORROWED = [eval_mode, given_back]


@pytest.fixture
def network():
    return mixed_modes(cnn())


def test_every_part_gets_its_own_mode_and_flag_back(network):
    before = everything(network)
    with given_back(network):
        network.train().requires_grad_(True)
    assert_same(before, everything(network))


def test_modes_and_flags_come_back_when_the_body_raises(network):
    before = everything(network)
    with pytest.raises(KeyboardInterrupt), given_back(network):
        network.train().requires_grad_(True)
        raise KeyboardInterrupt
    assert_same(before, everything(network))


def test_eval_mode_gives_every_part_its_own_mode_back_also_after_an_exception(network):
    before = everything(network)
    with pytest.raises(KeyboardInterrupt), eval_mode(network):
        network.train()
        raise KeyboardInterrupt
    assert_same(before, everything(network))


@pytest.mark.parametrize("borrow", BORROWED)
def test_borrowing_twice_gives_back_twice(network, borrow):
    before = everything(network)
    with borrow(network), eval_mode(network):
        assert not any(part.training for part in network.modules())
    assert_same(before, everything(network))


def test_meanwhile_every_part_is_in_eval_mode(network):
    with eval_mode(network):
        assert not any(part.training for part in network.modules())


def test_eval_mode_leaves_the_flags_alone(network):
    flags = everything(network)["flags"]
    with eval_mode(network):
        assert everything(network)["flags"] == flags


@pytest.mark.parametrize("borrow", BORROWED)
def test_the_module_behind_a_bound_method_is_borrowed(network, borrow):
    before = everything(network)
    with borrow(network.forward):
        network.train()
    assert_same(before, everything(network))


@pytest.mark.parametrize("borrow", BORROWED)
@pytest.mark.parametrize("function", [len, lambda inputs: inputs, {}.get])
def test_a_callable_without_a_module_is_left_alone(borrow, function):
    assert module_of(function) is None
    with borrow(function):
        pass
