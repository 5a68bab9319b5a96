"""Promises of Attribution Mask: worked by hand, its fixed point, and any method inside it."""

from __future__ import annotations

import pytest
import torch
from captum.attr import DeepLift, InputXGradient, IntegratedGradients, NoiseTunnel, Saliency
from networks import assert_same, cnn, everything, mixed_modes
from torch import Tensor, nn

from captum_masking import MaskingModel, MaskingSaliency
from captum_masking._base.checks import TargetError
from captum_masking.methods import AttributionMask
from captum_masking.methods.attribution_mask import GradientTimesSign

WEIGHTS = torch.tensor([2.0, -1.0, 0.0])

pytestmark = pytest.mark.filterwarnings("ignore:Input Tensor 0 did not:UserWarning")


def linear(x: Tensor) -> Tensor:
    return torch.stack([(x * WEIGHTS).sum(1), 0 * x.sum(1)], dim=1)


class Patch(nn.Module):
    """Class 1 is the sum of one patch, the only pixels that count."""

    def forward(self, x: Tensor) -> Tensor:
        score = x[..., 2:5, 3:6].sum((1, 2, 3))
        return torch.stack([0 * score, score], dim=1)


# Worked by hand.


@pytest.mark.parametrize(
    "passes, mask", [(1, [1.0, 0.0, 1 / 3]), (2, [1.0, 0.0, 0.0]), (3, [1.0, 0.0, 0.0])]
)
def test_masks_of_a_linear_score_worked_by_hand(passes, mask):
    found = AttributionMask(linear, passes=passes).attribute(torch.ones(1, 3), target=0)
    torch.testing.assert_close(found, torch.tensor([mask]))


def test_gradient_times_sign_is_the_gradient_turned_by_the_sign_of_the_input():
    x = torch.tensor([[3.0, -4.0, -1.0], [0.0, 2.0, 1.0]])
    found = GradientTimesSign(linear).attribute(x, target=0)
    assert found.tolist() == [[2, 1, 0], [0, -1, 0]]


def test_each_channel_is_stretched_by_itself_unless_they_are_added_first():
    gain = torch.tensor([1.0, 10.0]).reshape(1, 2, 1, 1) * torch.tensor([1.0, 2.0, 4.0])
    score = lambda x: torch.stack([(x * gain).sum((1, 2, 3)), 0 * x.sum((1, 2, 3))], 1)  # noqa: E731
    found = AttributionMask(score, passes=1).attribute(torch.ones(1, 2, 1, 3), target=0)
    torch.testing.assert_close(found, torch.tensor([0, 1 / 3, 1]).expand(1, 2, 1, 3))
    mixed = torch.tensor([[[[1.0, 0, 0]], [[0, 0, 3.0]]]])
    score = lambda x: torch.stack([(x * mixed).sum((1, 2, 3)), 0 * x.sum((1, 2, 3))], 1)  # noqa: E731
    method = AttributionMask(score, passes=1, per_channel=False)
    found = method.attribute(torch.ones(1, 2, 1, 3), target=0)
    torch.testing.assert_close(found, torch.tensor([1 / 3, 0, 1]).expand(1, 2, 1, 3))


@pytest.mark.parametrize("method", [None, Saliency, InputXGradient, IntegratedGradients])
@pytest.mark.parametrize("passes", [1, 2, 5])
def test_the_patch_that_is_all_the_evidence_is_a_fixed_point(method, passes):
    x, patch = torch.ones(2, 3, 8, 8), torch.zeros(2, 3, 8, 8)
    patch[..., 2:5, 3:6] = 1
    inner = Patch() if method is None else method(Patch())
    found = AttributionMask(inner, passes=passes).attribute(x, target=1)
    torch.testing.assert_close(found, patch)


def test_what_is_masked_stays_masked():
    network, x = cnn(dropout=0.0), torch.randn(2, 3, 16, 16)
    first, second = (AttributionMask(network, passes=n).attribute(x, target=1) for n in (1, 2))
    assert (second <= first).all() and (second[first == 0] == 0).all()


def test_a_constant_attribution_is_an_empty_mask():
    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3))

    assert not AttributionMask(Mean()).attribute(torch.ones(1, 2, 4, 4), target=0).any()


# Any method.


@pytest.mark.parametrize("passes", [1, 3])
def test_any_method_is_asked_about_what_its_last_mask_kept(passes):
    network, x = cnn(dropout=0.0).eval(), torch.randn(2, 3, 16, 16)
    mask = torch.ones_like(x)
    for _ in range(passes):
        a = IntegratedGradients(network).attribute(x * mask, target=[3, 1], n_steps=7)
        least, most = a.amin((2, 3), keepdim=True), a.amax((2, 3), keepdim=True)
        mask = mask * (a - least) / (most - least)
    method = AttributionMask(IntegratedGradients(network), passes=passes)
    found = method.attribute(x, target=[3, 1], n_steps=7)
    torch.testing.assert_close(found, mask)


@pytest.mark.parametrize("wrap", [Saliency, DeepLift, lambda n: NoiseTunnel(Saliency(n))])
def test_the_network_is_left_as_it_was(wrap):
    network = mixed_modes(cnn())
    before, x = everything(network), torch.randn(2, 3, 16, 16)
    AttributionMask(wrap(network)).attribute(x, target=1)
    assert_same(before, everything(network))


def test_no_target_is_the_class_predicted_for_the_whole_picture():
    network, x = cnn(dropout=0.0).eval(), torch.randn(3, 3, 16, 16)
    method = AttributionMask(Saliency(network), passes=4)
    expected = method.attribute(x, target=network(x).argmax(1))
    assert torch.equal(method.attribute(x), expected)


def test_a_network_with_one_score_needs_no_target():
    found = AttributionMask(Saliency(lambda x: (x * WEIGHTS).sum(1)), passes=1)
    assert found.attribute(torch.ones(2, 3))[0].tolist() == [1, 0.5, 0]


def test_masks_of_this_package_go_in_too():
    network, x = cnn(dropout=0.0), torch.randn(2, 3, 16, 16)
    mask = AttributionMask(MaskingSaliency(MaskingModel(network))).attribute(x)
    assert mask.shape == x.shape and mask.amax((2, 3)).max() == 1


def test_a_function_of_the_output_is_a_target_of_ours_but_not_of_captums():
    network, x = cnn(dropout=0.0), torch.randn(2, 3, 16, 16)
    asked = lambda logits: logits[:, 2]  # noqa: E731
    ours = AttributionMask(network)
    assert torch.equal(ours.attribute(x, target=asked), ours.attribute(x, target=2))
    with pytest.raises(TargetError, match="must be a class for Saliency"):
        AttributionMask(Saliency(network)).attribute(x, target=asked)


def test_a_number_of_passes_below_one_is_refused():
    with pytest.raises(ValueError, match="passes"):
        AttributionMask(cnn(), passes=0)
