"""What each sampler promises beyond test_contract.py."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from captum_masking.parts.sampler import GumbelSigmoid, Sigmoid


def sampled(sampler: GumbelSigmoid, mask_logits: Tensor, seed: int = 1) -> Tensor:
    torch.manual_seed(seed)
    return sampler.train()(mask_logits)


def repeated(logit: float, times: int = 40_000, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.full((1, 1, times), logit, dtype=dtype)


# Sigmoid.


def test_sigmoid_turns_log_odds_into_probabilities():
    odds = torch.tensor([[[3.0, 1.0, 1 / 3]]])
    torch.testing.assert_close(Sigmoid()(odds.log()), torch.tensor([[[0.75, 0.5, 0.25]]]))


@pytest.mark.parametrize("train", [True, False])
def test_sigmoid_is_the_same_in_both_modes(train):
    mask = Sigmoid().train(train)(torch.tensor([[[math.log(4)]]]))
    assert mask.item() == pytest.approx(0.8)


def test_a_lean_moves_the_log_odds_of_shown_masks_and_not_of_those_in_training():
    sampler, mask_logits = Sigmoid(lean=-math.log(3)), torch.tensor([[[math.log(3)]]])
    assert sampler.eval()(mask_logits).item() == pytest.approx(0.5)
    assert sampler.train()(mask_logits).item() == pytest.approx(0.75)


def by_hand(mask: float, at: float, sharpness: float) -> float:
    """Odds to the power of the sharpness, relative to those of ``at``."""
    odds = (mask / (1 - mask) * (1 - at) / at) ** sharpness
    return odds / (1 + odds)


@pytest.mark.parametrize(
    "masks, at",
    [((0.1, 0.4), 0.375), ((0.01, 0.05), 0.2), ((0.8, 0.9), 0.5)],
    ids=["around 1.5 times its mean", "at least a fifth", "at most one half"],
)
def test_a_shown_mask_is_steeper(masks, at):
    logits = torch.tensor(masks, dtype=torch.float64).logit()[None, None]
    sampler = Sigmoid(sharpness=3.0)
    expected = [by_hand(mask, at, 3.0) for mask in masks]
    assert sampler.eval()(logits)[0, 0].tolist() == pytest.approx(expected)
    assert sampler.train()(logits)[0, 0].tolist() == pytest.approx(list(masks))


def test_each_example_has_a_mean_of_its_own_and_pixels_keep_their_order():
    logits = torch.randn(2, 1, 5, 5) * torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)
    sampler = Sigmoid(lean=-2.0, sharpness=2.0).eval()
    both = sampler(logits)
    torch.testing.assert_close(both, torch.cat([sampler(each[None]) for each in logits]))
    assert torch.equal(both.flatten(1).argsort(1), logits.flatten(1).argsort(1))


@pytest.mark.parametrize("sharpness", [0.0, -1.0, math.inf])
def test_a_sharpness_that_is_none_is_refused(sharpness):
    with pytest.raises(ValueError, match=f"positive number, but got {sharpness}"):
        Sigmoid(sharpness=sharpness)


# Gumbel: what is drawn.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("logit", [-5.0, -1.0, 0.0, 0.5, 3.0])
def test_a_value_is_one_with_the_probability_of_its_log_odds(logit, temperature, dtype):
    mask = sampled(GumbelSigmoid(temperature), repeated(logit, dtype=dtype))
    probability = 1 / (1 + math.exp(-logit))
    error = math.sqrt(probability * (1 - probability) / mask.numel())
    assert mask.float().mean().item() == pytest.approx(probability, abs=5 * error)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_hard_values_are_zero_or_one(dtype):
    mask = sampled(GumbelSigmoid(), torch.randn(2, 1, 30, 40).to(dtype))
    assert set(mask.unique().tolist()) == {0, 1}


def test_soft_values_lie_between_and_round_to_the_hard_ones():
    mask_logits = torch.randn(2, 1, 30, 40)
    hard = sampled(GumbelSigmoid(0.7), mask_logits)
    soft = sampled(GumbelSigmoid(0.7, hard=False), mask_logits)
    assert len(soft.unique()) > 2000 and torch.equal(hard, (soft > 0.5).float())


def test_a_soft_sample_equals_the_formula():
    mask_logits = torch.randn(2, 1, 30, 40, dtype=torch.float64)
    mask = sampled(GumbelSigmoid(0.7, hard=False), mask_logits)
    torch.manual_seed(1)
    u = torch.rand(2, 1, 30, 40, dtype=torch.float64)
    expected = 1 / (1 + (-(mask_logits + u.log() - (1 - u).log()) / 0.7).exp())
    torch.testing.assert_close(mask, expected)


@pytest.mark.parametrize("temperature", [0.1, 0.01, 0.001])
def test_soft_samples_approach_binary_ones_as_the_temperature_falls(temperature):
    mask = sampled(GumbelSigmoid(temperature, hard=False), repeated(0.0))
    # What lacks to 0 or 1 is sigmoid(-|x| / t), whose integral is 2 t log 2; the density of x
    # near 0 is 1/4; its square, 2 t (log 2 - 1/2) / 4, gives the error of the mean.
    expected = temperature * math.log(2) / 2
    error = math.sqrt(temperature * (math.log(2) - 0.5) / 2 / mask.numel())
    assert torch.minimum(mask, 1 - mask).mean().item() == pytest.approx(expected, abs=5 * error)


def test_the_global_seed_decides_what_is_drawn():
    mask_logits = torch.randn(2, 1, 30, 40)
    masks = [sampled(GumbelSigmoid(), mask_logits, seed) for seed in (1, 1, 2)]
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], masks[2])


def test_two_draws_differ_from_image_to_image_and_from_call_to_call():
    sampler, mask_logits = GumbelSigmoid(), torch.zeros(2, 1, 30, 40)
    one, other = sampler(mask_logits), sampler(mask_logits)
    assert not torch.equal(one, other) and not torch.equal(one[0], one[1])


# Gumbel: its gradient.


def test_the_straight_through_gradient_is_that_of_the_soft_sample():
    gradients = []
    for hard in (True, False):
        mask_logits = torch.linspace(-2, 2, 60, dtype=torch.float64).reshape(2, 1, 30)
        mask_logits.requires_grad_()
        mask = sampled(GumbelSigmoid(0.7, hard=hard), mask_logits)
        weights = torch.arange(60.0).reshape(2, 1, 30)
        gradients += torch.autograd.grad((mask * weights).sum(), mask_logits)
    assert gradients[0].any() and torch.equal(*gradients)


def test_the_gradient_of_a_soft_sample_is_that_of_the_formula():
    mask_logits = torch.randn(2, 1, 30, dtype=torch.float64, requires_grad=True)
    mask = sampled(GumbelSigmoid(0.5, hard=False), mask_logits)
    (gradient,) = torch.autograd.grad(mask.sum(), mask_logits)
    torch.testing.assert_close(gradient, (mask * (1 - mask) / 0.5).detach())


# Gumbel: at inference.


def test_in_eval_mode_a_logit_above_zero_is_one_as_published():
    mask_logits = torch.tensor([[[-3.0, -1e-30, 0.0, 1e-30, 3.0]]])
    assert GumbelSigmoid().eval()(mask_logits).tolist() == [[[0, 0, 0, 1, 1]]]


def test_in_eval_mode_the_probability_of_a_one_can_be_had_instead():
    odds = torch.tensor([[[3.0, 1.0, 1 / 3]]])
    mask = GumbelSigmoid(binary=False).eval()(odds.log())
    torch.testing.assert_close(mask, torch.tensor([[[0.75, 0.5, 0.25]]]))


def test_in_eval_mode_a_binary_mask_has_the_gradient_of_that_probability():
    mask_logits = torch.tensor([[[math.log(3), 0.0]]], requires_grad=True)
    GumbelSigmoid().eval()(mask_logits).sum().backward()
    assert mask_logits.grad.flatten().tolist() == pytest.approx([0.75 * 0.25, 0.25])


def test_in_eval_mode_no_random_number_is_drawn():
    before = torch.get_rng_state()
    GumbelSigmoid().eval()(torch.zeros(1, 1, 9))
    assert torch.equal(torch.get_rng_state(), before)


# Gumbel: a temperature that is learned.


def test_a_learned_temperature_starts_where_it_is_told_and_draws_the_same():
    mask_logits = torch.randn(2, 1, 30, 40)
    for temperature in (0.1, 2.0):
        fixed = sampled(GumbelSigmoid(temperature, hard=False), mask_logits)
        learned = sampled(GumbelSigmoid(temperature, hard=False, learnable=True), mask_logits)
        torch.testing.assert_close(learned, fixed)


@pytest.mark.parametrize("hard", [True, False])
def test_a_learned_temperature_gets_the_gradient_of_the_formula(hard):
    mask_logits = torch.randn(2, 1, 30, 40, dtype=torch.float64)
    sampler = GumbelSigmoid(0.5, hard=hard, learnable=True)
    sampled(sampler, mask_logits).square().mean().backward()
    # d sigmoid(x / t) / d log t = -s (1 - s) x / t = -s (1 - s) logit(s)
    soft = sampled(GumbelSigmoid(0.5, hard=False), mask_logits)
    slope = -soft * (1 - soft) * soft.logit()
    expected = (2 * ((soft > 0.5).float() if hard else soft) * slope).mean()
    assert sampler.log_temperature.grad.item() == pytest.approx(expected.item(), rel=1e-4)


def test_a_learned_temperature_stays_positive_however_it_is_pushed():
    sampler = GumbelSigmoid(learnable=True)
    with torch.no_grad():
        sampler.log_temperature -= 10
    mask = sampled(sampler, torch.randn(1, 1, 99, requires_grad=True))
    mask.sum().backward()
    assert mask.isfinite().all() and sampler.log_temperature.grad.isfinite()


def test_only_a_learned_temperature_is_a_parameter():
    assert not list(GumbelSigmoid().parameters())
    assert [name for name, _ in GumbelSigmoid(learnable=True).named_parameters()] == [
        "log_temperature"
    ]


def test_a_learned_temperature_is_kept_in_the_state():
    sampler, mask_logits = GumbelSigmoid(hard=False, learnable=True), torch.randn(2, 1, 30)
    with torch.no_grad():
        sampler.log_temperature += 1
    twin = GumbelSigmoid(**copy.deepcopy(sampler.settings))
    twin.load_state_dict(sampler.state_dict())
    assert torch.equal(sampled(sampler, mask_logits), sampled(twin, mask_logits))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_that_is_not_positive_is_refused_with_the_way_out(temperature):
    with pytest.raises(ValueError, match=rf"positive.*but got {temperature}.*learnable=True"):
        GumbelSigmoid(temperature)
