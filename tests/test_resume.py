"""A training that is saved and taken up again equals one that never stopped, bit by bit."""

from __future__ import annotations

import pytest
import torch
from networks import cnn

from captum_masking import FineTune, MaskingModel, MaskingTrainer
from captum_masking.pool import DrawnUnused, FirstAndLast, Fixed, History, Latest
from captum_masking.resume import load_training_state, training_state
from captum_masking.sampler import GumbelSigmoid

POOLS = [
    Latest,
    Fixed,
    FirstAndLast,
    lambda: History(size=2, every=2),
    lambda: DrawnUnused(size=2, every=2),
]


def build(how, pool, seed):
    torch.manual_seed(seed)
    sampler = GumbelSigmoid(temperature=0.5, hard=False)  # random, so that its state matters
    model = MaskingModel(cnn(dropout=0.0), sampler=sampler)
    return MaskingTrainer(model, train_classifier=how, pool=pool())


def weights(trainer):
    return {k: v.clone() for k, v in trainer.model.state_dict().items()}


@pytest.mark.parametrize("pool", POOLS, ids=["latest", "fixed", "first-last", "history", "unused"])
@pytest.mark.parametrize("how", [False, FineTune(lr=0.1)], ids=["frozen", "joint"])
def test_a_training_taken_up_again_equals_one_that_never_stopped(
    pool, how, images, labels, tmp_path
):
    trainer = build(how, pool, seed=0)
    for _ in range(7):
        trainer.step(images, labels)
    torch.save(training_state(trainer), tmp_path / "training.pt")
    for _ in range(7):
        trainer.step(images, labels)

    again = build(how, pool, seed=1)
    load_training_state(again, torch.load(tmp_path / "training.pt", weights_only=True))
    for _ in range(7):
        again.step(images, labels)
    for name, tensor in weights(trainer).items():
        assert torch.equal(tensor, weights(again)[name]), name


def test_a_state_does_not_move_with_the_training_it_was_taken_from(images, labels):
    trainer = build(FineTune(lr=0.1), Latest, seed=0)
    trainer.step(images, labels)
    state = training_state(trainer)
    before = {name: tensor.clone() for name, tensor in state["model"].items()}
    trainer.step(images, labels)
    assert all(torch.equal(state["model"][name], tensor) for name, tensor in before.items())
    assert any(not torch.equal(v, before[k]) for k, v in trainer.model.state_dict().items())


def test_a_state_of_another_kind_of_training_is_refused():
    joint, frozen = build(FineTune(), Latest, seed=0), build(False, Latest, seed=1)
    before = weights(frozen)
    with pytest.raises(ValueError, match=r"train_classifier: was FineTune\(.*, is False"):
        load_training_state(frozen, training_state(joint))
    assert all(torch.equal(tensor, weights(frozen)[name]) for name, tensor in before.items())
