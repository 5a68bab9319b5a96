"""Ensembles of maskers: mean and spread by hand, one pass where one is enough, targets, pools."""

from __future__ import annotations

import copy

import pytest
import torch
from networks import Counted, Flat, assert_same, cnn, everything, mixed_modes
from torch import Tensor, nn

from captum_masking import MaskingModel, MaskingSaliency
from captum_masking.methods import Ensemble
from captum_masking.parts.pool import History
from captum_masking.parts.sampler import Sigmoid


def flat(mask: float, classifier: nn.Module) -> MaskingModel:
    """A model whose mask has one value everywhere."""
    logit = torch.tensor(mask).logit().item()
    return MaskingModel(classifier, masker=Flat(logit), sampler=Sigmoid())


def seeds(classifier: nn.Module, count: int = 3, **options) -> list[MaskingModel]:
    models = []
    for seed in range(count):
        torch.manual_seed(seed)
        models.append(MaskingModel(classifier, **options))
    return models


def test_mean_and_spread_worked_by_hand(classifier, images):
    ensemble = Ensemble([flat(mask, classifier) for mask in (0.2, 0.4, 0.9)])
    mean, spread = ensemble.attribute(images, target=0, return_std=True)
    torch.testing.assert_close(mean, torch.full_like(images, 0.5))
    expected = ((0.3**2 + 0.1**2 + 0.4**2) / 3) ** 0.5
    torch.testing.assert_close(spread, torch.full_like(images, expected))
    torch.testing.assert_close(ensemble.attribute(images, target=0), mean)


def test_the_mean_is_that_of_the_members_own_attributions(classifier, images):
    members = [*seeds(classifier), *seeds(cnn(seed=1), 2)]
    mean, spread = Ensemble(members).attribute(images, return_std=True)
    maps = torch.stack([MaskingSaliency(member).attribute(images) for member in members])
    torch.testing.assert_close(mean, maps.mean(0))
    torch.testing.assert_close(spread, ((maps - maps.mean(0)) ** 2).mean(0).sqrt())
    assert spread.max() > 0.01


def test_one_member_or_the_same_ones_have_no_spread(model, images):
    for given in (model, [model], [model, model]):
        mean, spread = Ensemble(given).attribute(images, return_std=True)
        torch.testing.assert_close(mean, MaskingSaliency(model).attribute(images))
        assert not spread.any()


def test_members_around_one_classifier_share_its_pass(images):
    one, other = Counted(cnn()), Counted(cnn(seed=1))
    layers = ["network.2", "network.5"]
    members = [*seeds(one, layers=layers), *seeds(other, 2, layers=layers)]
    members += seeds(one, 1, layers=layers[1:])  # reads another layer: its own pass
    ensemble = Ensemble(members)
    ensemble.attribute(images)  # finds out what the answers are
    one.calls = other.calls = 0
    ensemble.attribute(images, return_std=True)
    assert (one.calls, other.calls) == (2, 1)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_sequences_and_volumes_have_their_spread_too(dims):
    classifier = cnn(dims=dims)
    inputs = torch.randn(2, 3, *[16] * dims)
    mean, spread = Ensemble(seeds(classifier)).attribute(inputs, target=1, return_std=True)
    assert mean.shape == spread.shape == inputs.shape


def test_a_tuple_gives_tuples(model, images):
    mean, spread = Ensemble(model).attribute((images,), return_std=True)
    assert isinstance(mean, tuple) and isinstance(spread, tuple)


def test_masks_that_follow_a_class_do_so(classifier, images):
    ensemble = Ensemble(seeds(classifier, target_aware=True))
    maps = [ensemble.attribute(images, target=target) for target in (0, 1)]
    assert not torch.allclose(*maps)
    with pytest.raises(TypeError, match="these masks follow a class, but target is a callable"):
        ensemble.attribute(images, target=lambda logits: logits[:, 0])


@pytest.mark.filterwarnings("default")
def test_another_target_than_the_predicted_one_is_said_once(classifier, images, recwarn):
    ensemble = Ensemble(seeds(classifier, target_aware=False))
    for _ in range(2):
        ensemble.attribute(images, target=[0, 1, 2, 3, 0, 1])
    assert sum("do not depend on it" in str(each.message) for each in recwarn) == 1


def test_a_pools_past_classifiers_are_members(images):
    model, pool = MaskingModel(cnn()), History(every=1)
    for _ in range(3):
        pool.add(model.classifier)
        with torch.no_grad():
            for parameter in model.classifier.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    before = everything(model)
    ensemble = Ensemble.of_pool(model, pool)
    assert ensemble.members[0] is model and len(ensemble.members) == 4
    for member, weights in zip(ensemble.members[1:], pool.members, strict=True):
        assert_same(dict(member.classifier.state_dict()), weights)
        assert_same(member.masker.state_dict(), model.masker.state_dict())
    assert ensemble.attribute(images, return_std=True)[1].max() > 0
    assert_same(before, everything(model))


def test_nothing_is_left_on_any_member_also_after_an_error(images):
    members = [mixed_modes(MaskingModel(cnn(seed=seed))) for seed in (0, 1)]
    before = [everything(member) for member in members]
    ensemble = Ensemble(members)
    ensemble.attribute(images, return_std=True)
    with pytest.raises(AssertionError, match="in the range 0..3"):
        ensemble.attribute(images, target=9)
    assert_same(before, [everything(member) for member in members])


def test_a_copy_explains_alike(classifier, images):
    ensemble = Ensemble(seeds(classifier))
    assert_same(copy.deepcopy(ensemble).attribute(images), ensemble.attribute(images))


def two_inputs() -> MaskingModel:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = cnn(), cnn(seed=1)

        def forward(self, one: Tensor, two: Tensor) -> Tensor:
            return self.first(one) + self.second(two)

    return MaskingModel(Two(), example_inputs=(torch.zeros(2, 3, 16, 16),) * 2)


def test_several_inputs_have_a_spread_each(images):
    mean, spread = Ensemble([two_inputs(), two_inputs()]).attribute((images, images), return_std=1)
    assert len(mean) == len(spread) == 2


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (lambda: [], ValueError, "one or more masking models"),
        (lambda: [MaskingModel(cnn()), two_inputs()], ValueError, r"got 2 with \[1, 2\]"),
        (lambda: [cnn()], TypeError, "must be a MaskingModel, but got Sequential"),
    ],
)
def test_what_cannot_be_a_member_is_refused_in_words(given, error, words):
    with pytest.raises(error, match=words):
        Ensemble(given())
