"""What is borrowed is given back: modes and flags of every part, also after an exception."""

from __future__ import annotations

import pytest
import torch
from captum.attr import Saliency
from networks import assert_same, cnn, everything, mixed_modes
from torch import nn

from captum_masking import MaskingModel, MaskingSaliency, MaskingTrainer
from captum_masking._base.borrow import eval_mode, given_back, module_of
from captum_masking.metrics.curves import deletion
from captum_masking.metrics.robustness import infidelity
from captum_masking.parts.infill import Mean
from captum_masking.parts.masking import mask_images
from captum_masking.saliency.per_input import PerInput

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


class Long(nn.Module):
    """A network that has a length, which is zero: so does a list of parts that has none."""

    def __init__(self) -> None:
        super().__init__()
        self.network = cnn()

    def forward(self, *inputs):
        return self.network(*inputs)

    def __len__(self) -> int:
        return 0


class Untold(Long):
    """A network whose length cannot be told, as that of a compiled one of most classes."""

    def __len__(self) -> int:
        raise TypeError("it has none")


class Part(Long):
    """A part of a training that has a length of zero, and no more."""

    def forward(self, *arguments):
        return (
            arguments[0].abs() if isinstance(arguments[0], torch.Tensor) else self.loss(*arguments)
        )

    @staticmethod
    def loss(judgement):
        return judgement.logits_in.square().mean()


NETWORKS = [Long, Untold, lambda: torch.compile(Long(), backend="eager")]


@pytest.mark.parametrize("make", NETWORKS)
def test_a_network_is_never_asked_for_its_length(make):
    network, inputs = mixed_modes(make()), torch.randn(2, 3, 16, 16)
    before = everything(network)
    with pytest.warns(UserWarning, match="has no masker"):
        MaskingSaliency(network, per_input=PerInput(steps=1)).attribute(inputs, target=1)
    deletion(network, inputs, torch.rand(2, 1, 16, 16), torch.tensor([0, 1]), step_px=64)
    infidelity(network, inputs, Saliency(network), 1, samples=2)
    for borrow in BORROWED:
        with borrow(network):
            network.train()
    assert_same(everything(network), before)


@pytest.mark.parametrize("make", [Long, Untold])
def test_a_frozen_network_of_no_length_stays_bit_by_bit(make):
    network = make()
    trainer = MaskingTrainer(MaskingModel(network), train_classifier=False)
    network.train()
    before = everything(network)
    trainer.step(torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 3]))
    assert_same(everything(network), before)


def test_parts_of_no_length_are_not_replaced_by_defaults():
    part, images = Part(), torch.randn(2, 3, 8, 8)
    trainer = MaskingTrainer(MaskingModel(cnn()), objective=part, regularizer=part, infill=part)
    assert trainer.objective is trainer.regularizer is trainer.infill is part
    masked_out = mask_images(images, torch.ones(2, 1, 8, 8), Mean(), part)[1]
    assert torch.equal(masked_out, images.abs())
