"""What each sampler promises beyond test_contract.py."""

from __future__ import annotations

import math

import pytest
import torch

from captum_masking.sampler import Sigmoid


def test_sigmoid_turns_log_odds_into_probabilities():
    odds = torch.tensor([[[3.0, 1.0, 1 / 3]]])
    torch.testing.assert_close(Sigmoid()(odds.log()), torch.tensor([[[0.75, 0.5, 0.25]]]))


@pytest.mark.parametrize("train", [True, False])
def test_sigmoid_is_the_same_in_both_modes(train):
    mask = Sigmoid().train(train)(torch.tensor([[[math.log(4)]]]))
    assert mask.item() == pytest.approx(0.8)
