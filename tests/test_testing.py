"""Promises of the checks that users run: ours pass, and nothing broken in one way passes its check.

For every check there is an object that is broken in just that way; no check that cannot fail.
"""

from __future__ import annotations

import copy
import itertools
import random
from functools import partial

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients, Occlusion, Saliency
from captum.log import log_usage
from networks import assert_same, cnn, everything, mixed_modes
from torch import Tensor, nn

from captum_masking import MaskingModel, MaskingSaliency
from captum_masking.parts.gate import GatedMasker
from captum_masking.parts.masker import ClassSelector, Masker, MaskPerClass, UNetMasker
from captum_masking.testing import (
    attribution_checks,
    check_attribution,
    check_masker,
    masker_checks,
)

CHANNELS = [5, 3]
ATTRIBUTION_CHECKS, MASKER_CHECKS = dict(attribution_checks()), dict(masker_checks())

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*has no masker:UserWarning", "ignore:Input Tensor:UserWarning"
)


# Ours pass.


@pytest.mark.parametrize(
    "make",
    [
        Masker,
        UNetMasker,
        partial(Masker, raw=[1]),
        partial(Masker, classes=3, sized=True),
        partial(Masker, evidence=True, target_aware=False),
        partial(GatedMasker, evidence=True),
        partial(ClassSelector, classes=3),
        partial(MaskPerClass, classes=3),
    ],
)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_our_maskers_pass(make, dims):
    check_masker(make(CHANNELS, width=4, dims=dims))


@pytest.mark.parametrize("name", ATTRIBUTION_CHECKS)
@pytest.mark.parametrize("masked", [True, False], ids=["masking model", "plain classifier"])
def test_our_attribution_passes(name, masked, images):
    classifier = mixed_modes(cnn())
    network = MaskingModel(classifier) if masked else classifier
    options = {} if masked else {"steps": 3}
    ATTRIBUTION_CHECKS[name](MaskingSaliency(network), network, images[:3], **options)


class CoarseOcclusion(Occlusion):
    """Occlusion that needs to be told nothing."""

    @log_usage(part_of_slo=True)
    def attribute(self, inputs, target=None):
        window = (3, 8, 8)
        return super().attribute.__wrapped__(self, inputs, window, strides=window, target=target)


@pytest.mark.parametrize("method", [Saliency, IntegratedGradients, CoarseOcclusion])
def test_captums_own_methods_pass_on_a_model_in_eval_mode(method, images):
    network = cnn().eval()
    check_attribution(method(network), network, images[:2])


# Every check fails on something.


class Sound(Saliency):
    """A sound attribution, to be broken: the gradient times the input, of a model in eval mode."""

    def broken(self, attribution: Tensor, inputs: Tensor) -> Tensor:
        return attribution

    @log_usage(part_of_slo=True)
    def attribute(self, inputs, target=None):
        alone = isinstance(inputs, Tensor)
        images = inputs if alone else inputs[0]
        with torch.random.fork_rng():
            attribution = super().attribute.__wrapped__(self, images.detach().clone(), target)
        attribution = self.broken(attribution.clone(), images)
        return attribution if alone else (attribution,)


def breaking(how) -> type:
    """Make a class whose map is ``how(attribution, inputs)``."""
    return type("Broken", (Sound,), {"broken": lambda self, a, x: how(a, x)})


def leaving(what) -> type:
    """Make a class that does ``what(model)`` after each call, right or not."""

    class Leaving(Sound):
        @log_usage(part_of_slo=True)
        def attribute(self, inputs, target=None):
            try:
                return Sound.attribute.__wrapped__(self, inputs, target)
            finally:
                what(self.forward_func)

    return Leaving


class ListsForTuples(Sound):
    @log_usage(part_of_slo=True)
    def attribute(self, inputs, target=None):
        answer = Sound.attribute.__wrapped__(self, inputs, target)
        return list(answer) if isinstance(answer, tuple) else answer


class NeedsGradients(Sound):
    @log_usage(part_of_slo=True)
    def attribute(self, inputs, target=None):
        assert torch.is_grad_enabled()
        return Sound.attribute.__wrapped__(self, inputs, target)


class Undecorated(Sound):
    def attribute(self, inputs, target=None):
        return Sound.attribute.__wrapped__(self, inputs, target)


class Uncopyable(Sound):
    def __deepcopy__(self, memo):
        raise TypeError("cannot be copied")


class OnlyInts(Sound):
    @log_usage(part_of_slo=True)
    def attribute(self, inputs, target=None):
        return Sound.attribute.__wrapped__(self, inputs, target if isinstance(target, int) else 0)


class FirstTargetForAll(Sound):
    @log_usage(part_of_slo=True)
    def attribute(self, inputs, target=None):
        one = torch.as_tensor(target).flatten()[0].item()
        return Sound.attribute.__wrapped__(self, inputs, one)


class IgnoresTarget(Sound):
    @log_usage(part_of_slo=True)
    def attribute(self, inputs, target=None):
        return Sound.attribute.__wrapped__(self, inputs, 0)


class ChangesInput(Sound):
    @log_usage(part_of_slo=True)
    def attribute(self, inputs, target=None):
        answer = Sound.attribute.__wrapped__(self, inputs, target)
        (inputs if isinstance(inputs, Tensor) else inputs[0]).data.add_(0.5)
        return answer


class Swallows(Sound):
    @log_usage(part_of_slo=True)
    def attribute(self, inputs, target=None):
        try:
            return Sound.attribute.__wrapped__(self, inputs, target)
        except ArithmeticError:
            return torch.zeros_like(inputs)


def train(model: nn.Module) -> None:
    model.train()


def thaw(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.requires_grad_()


def accumulate(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)


def nudge(model: nn.Module) -> None:
    next(iter(model.state_dict().values())).add_(0.1)


def hook(model: nn.Module) -> None:
    model[0].register_forward_hook(lambda *_: None)


def draw(model: nn.Module) -> None:
    torch.rand(1)


def draw_numpy(model: nn.Module) -> None:
    np.random.rand()


def draw_python(model: nn.Module) -> None:
    random.random()


COUNTER = itertools.count()
BROKEN_ATTRIBUTIONS = [
    ("the_map_has_the_shape_of_the_input", breaking(lambda a, x: a[:, :1])),
    ("the_map_has_the_shape_of_the_input", breaking(lambda a, x: a.tolist())),
    ("the_map_has_the_dtype_of_the_input", breaking(lambda a, x: a.double())),
    ("the_map_is_on_the_device_of_the_input", breaking(lambda a, x: a.to("meta"))),
    ("the_map_is_finite", breaking(lambda a, x: a / 0)),
    ("the_map_requires_no_gradient", breaking(lambda a, x: a.requires_grad_())),
    ("the_map_can_be_viewed_and_written_to", breaking(lambda a, x: a[:, :1].expand_as(x))),
    ("the_map_can_be_viewed_and_written_to", breaking(lambda a, x: a[:, :, :1].expand_as(x))),
    ("the_map_can_be_viewed_and_written_to", breaking(lambda a, x: x.detach())),
    ("a_tuple_gives_a_tuple", ListsForTuples),
    ("a_batch_gives_what_its_inputs_give_one_by_one", breaking(lambda a, x: a + len(a))),
    ("two_calls_give_the_same_map", breaking(lambda a, x: a + next(COUNTER))),
    ("it_works_without_gradients", NeedsGradients),
    ("it_works_without_gradients", breaking(lambda a, x: a + torch.is_grad_enabled())),
    ("noise_tunnel_accepts_it", Undecorated),
    ("a_deep_copy_gives_the_same_map", Uncopyable),
    ("every_form_of_a_target_gives_the_same_map", OnlyInts),
    ("a_target_for_each_input_is_taken_input_by_input", FirstTargetForAll),
    ("a_wrong_target_raises_an_error", IgnoresTarget),
    ("the_input_does_not_change", ChangesInput),
    ("the_weights_and_statistics_stay", leaving(nudge)),
    ("the_modes_stay", leaving(train)),
    ("the_requires_grad_flags_stay", leaving(thaw)),
    ("the_gradients_stay", leaving(accumulate)),
    ("no_hook_remains", leaving(hook)),
    ("random_numbers_are_restored", leaving(draw)),
    ("random_numbers_are_restored", leaving(draw_numpy)),
    ("random_numbers_are_restored", leaving(draw_python)),
    *(
        (name, leaving(what))
        for name in (
            "everything_is_restored_after_a_wrong_target",
            "everything_is_restored_after_an_error_of_the_model",
        )
        for what in (nudge, train, thaw, accumulate, hook, draw)
    ),
    ("everything_is_restored_after_an_error_of_the_model", Swallows),
]


@pytest.fixture
def network() -> nn.Module:
    network = cnn(dropout=0.0).eval()
    network[0].requires_grad_(False)
    return network


@pytest.mark.parametrize("name", ATTRIBUTION_CHECKS)
def test_a_sound_attribution_passes_every_check(name, network, images):
    ATTRIBUTION_CHECKS[name](Sound(network), network, images[:2])


@pytest.mark.parametrize("name, broken", BROKEN_ATTRIBUTIONS)
def test_an_attribution_that_breaks_a_promise_fails_its_check(name, broken, network, images):
    with pytest.raises(AssertionError, match=r"(?s)^expected .*, but got .*; "):
        ATTRIBUTION_CHECKS[name](broken(network), network, images[:2].clone())


def test_every_check_of_an_attribution_has_something_that_fails_it():
    assert {name for name, _ in BROKEN_ATTRIBUTIONS} == set(ATTRIBUTION_CHECKS)


class TwoFaults(Sound):
    def broken(self, attribution, inputs):
        return (attribution / 0).requires_grad_()


def test_all_failures_are_reported_together(network, images):
    with pytest.raises(AssertionError) as caught:
        check_attribution(TwoFaults(network), network, images[:2])
    message = str(caught.value)
    assert "the_map_is_finite: expected" in message
    assert "the_map_requires_no_gradient: expected" in message


def test_one_input_is_not_enough_to_compare(network, images):
    with pytest.raises(ValueError, match="at least two examples"):
        check_attribution(Sound(network), network, images[:1])


def test_the_checks_leave_no_trace_on_the_model(images):
    network = mixed_modes(cnn())
    saliency, before = MaskingSaliency(network), everything(network)
    check_attribution(saliency, network, images[:2], steps=1)
    assert_same(before, everything(network))


# Maskers.


class Small(nn.Module):
    """A sound masker of its own, to be broken: one convolution of the finest map."""

    def __init__(self, channels=(5, 3)) -> None:
        super().__init__()
        self.settings = {"channels": list(channels)}
        self.norm = nn.BatchNorm2d(channels[0])
        self.head = nn.Conv2d(channels[0], 1, 1)

    def forward(self, features, grid, question=None):
        logits = self.head(self.norm(features[0]))
        return nn.functional.interpolate(logits, tuple(grid), mode="nearest")


class GridOfTheFeatures(Small):
    def forward(self, features, grid, question=None):
        return self.head(self.norm(features[0]))


class TwoChannels(Small):
    def forward(self, features, grid, question=None):
        return super().forward(features, grid).repeat(1, 2, 1, 1)


class Raises(Small):
    def forward(self, features, grid, question=None):
        raise RuntimeError("not today")


class MixesBatch(Small):
    def forward(self, features, grid, question=None):
        logits = super().forward(features, grid)
        return logits - logits.mean()


class Random(Small):
    def forward(self, features, grid, question=None):
        logits = super().forward(features, grid)
        return logits + torch.rand_like(logits)


class Counts(Small):
    def __init__(self, channels=(5, 3)) -> None:
        super().__init__(channels)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, features, grid, question=None):
        self.calls += 1
        return super().forward(features, grid)


class InPlace(Small):
    def forward(self, features, grid, question=None):
        features[0].relu_()
        return super().forward(features, grid)


class Unused(Small):
    def __init__(self, channels=(5, 3)) -> None:
        super().__init__(channels)
        self.spare = nn.Linear(2, 2)


class Detached(Small):
    def forward(self, features, grid, question=None):
        return super().forward(features, grid).detach()


class NoParameters(nn.Module):
    def forward(self, features, grid, question=None):
        return features[0].new_zeros(len(features[0]), 1, *grid)


class Divides(Small):
    def forward(self, features, grid, question=None):
        spread = features[0].flatten(1).std(1).reshape(-1, 1, 1, 1)
        return super().forward([features[0] / spread], grid)


class Overflows(Small):
    def forward(self, features, grid, question=None):
        return super().forward([features[0].exp()], grid)


class HiddenTensor(Small):
    def __init__(self, channels=(5, 3)) -> None:
        super().__init__(channels)
        self.hidden = torch.rand(())  # in no state dict

    def forward(self, features, grid, question=None):
        return super().forward(features, grid) + self.hidden


class SharedWithCopies(Small):
    def __deepcopy__(self, memo):
        return self


class ForgetsInCopies(Small):
    def __deepcopy__(self, memo):
        return type(self)()


class StaleSettings(Small):
    def __init__(self, channels=(5, 3)) -> None:
        super().__init__(channels)
        self.settings = {"channels": [5, 3], "width": 4}


class Lambda(Small):
    def __init__(self, channels=(5, 3)) -> None:
        super().__init__(channels)
        self.activate = lambda x: x


class OnlySingle(Small):
    def forward(self, features, grid, question=None):
        return super().forward([features[0] + torch.ones(1, dtype=torch.float64)], grid)


class AnswersInSingle(Small):
    def forward(self, features, grid, question=None):
        return super().forward(features, grid).float()


BROKEN_MASKERS = [
    ("logits_have_one_channel_and_the_shape_of_the_grid", GridOfTheFeatures),
    ("logits_have_one_channel_and_the_shape_of_the_grid", TwoChannels),
    ("logits_have_one_channel_and_the_shape_of_the_grid", Raises),
    ("a_batch_gives_what_its_examples_give_one_by_one", MixesBatch),
    ("two_calls_give_the_same_logits", Random),
    ("nothing_changes_in_eval_mode", Counts),
    ("nothing_changes_in_eval_mode", InPlace),
    ("every_parameter_gets_a_gradient", Unused),
    ("every_parameter_gets_a_gradient", Detached),
    ("every_parameter_gets_a_gradient", NoParameters),
    ("logits_are_finite_for_extreme_features", Divides),
    ("logits_are_finite_for_extreme_features", Overflows),
    ("a_state_dict_carries_all_that_matters", HiddenTensor),
    ("a_state_dict_carries_all_that_matters", StaleSettings),
    ("a_deep_copy_gives_the_same_logits_and_is_independent", SharedWithCopies),
    ("a_deep_copy_gives_the_same_logits_and_is_independent", ForgetsInCopies),
    ("a_pickled_copy_gives_the_same_logits", Lambda),
    ("it_works_in_other_precisions", OnlySingle),
    ("it_works_in_other_precisions", AnswersInSingle),
]


@pytest.mark.parametrize("name", MASKER_CHECKS)
def test_a_sound_masker_passes_every_check(name):
    MASKER_CHECKS[name](Small(), CHANNELS)


@pytest.mark.parametrize("name, broken", BROKEN_MASKERS)
def test_a_masker_that_breaks_a_promise_fails_its_check(name, broken):
    with pytest.raises(AssertionError, match=r"(?s)^expected .*, but got .*; "):
        MASKER_CHECKS[name](broken(), CHANNELS)


def test_every_check_of_a_masker_has_something_that_fails_it():
    assert {name for name, _ in BROKEN_MASKERS} == set(MASKER_CHECKS)


def test_a_masker_of_one_module_and_no_settings_can_be_checked():
    masker = Small()
    del masker.settings
    check_masker(masker, CHANNELS)
    with pytest.raises(ValueError, match=r"check_masker\(masker, \[8, 16\]\)"):
        check_masker(masker)


def test_the_checks_leave_no_trace_on_the_masker():
    masker = mixed_modes(Small())
    before, random_state = everything(masker), torch.get_rng_state()
    check_masker(masker)
    assert_same(before, everything(masker))
    assert torch.equal(torch.get_rng_state(), random_state)


def test_a_frozen_parameter_needs_no_gradient():
    masker = Unused()
    masker.spare.requires_grad_(False)
    MASKER_CHECKS["every_parameter_gets_a_gradient"](masker, CHANNELS)
    assert copy.deepcopy(masker).state_dict().keys() == masker.state_dict().keys()
