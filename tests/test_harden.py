"""A copy of a classifier that answers on half of an image as the classifier does on the whole."""

from __future__ import annotations

import copy

import pytest
import torch
from networks import assert_same, cnn, everything
from torch import Tensor, nn
from torch.utils.data import DataLoader

from captum_masking import MaskingModel, MaskingTrainer
from captum_masking.data import DigitsOnTextures
from captum_masking.parts.infill import Mean
from captum_masking.parts.masking import masked_halves
from captum_masking.parts.pool import OneJudge
from captum_masking.training.classifier import _random_half, harden
from captum_masking.zoo import small_classifier


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_half_of_the_cells_are_drawn_for_each_image(dims):
    drawn = _random_half(torch.zeros(5, 3, *[24] * dims), cells=4)
    assert drawn.shape == (5, 1, *[24] * dims) and drawn.unique().tolist() == [0, 1]
    assert (drawn.flatten(1).mean(1) == 0.5).all()
    assert len({tuple(each.flatten().tolist()) for each in drawn}) > 1


def test_the_classifier_and_its_modes_stay_as_they_were(images):
    classifier = cnn().to(images.device).train()
    before = everything(classifier)
    judge = harden(classifier, [(images, None)], 2, show_progress=False)
    assert_same(everything(classifier), before)
    assert not judge.training and not any(p.requires_grad for p in judge.parameters())
    statistics = zip(judge.buffers(), classifier.buffers(), strict=True)
    assert all(torch.equal(a, b) for a, b in statistics)


def test_probabilities_harden_the_judge_as_the_logits_behind_them_do(images):
    """The answers of both are the same, so the weights learn the same."""
    torch.manual_seed(1)
    of_logits = harden(cnn(), [(images, None)], 3, show_progress=False)
    torch.manual_seed(1)
    with pytest.warns(UserWarning, match="probabilities"):
        answers = nn.Sequential(cnn(), nn.Softmax(1))
        of_answers = harden(answers, [(images, None)], 3, show_progress=False)[0]
    for name, weights in of_logits.state_dict().items():
        torch.testing.assert_close(of_answers.state_dict()[name], weights, msg=name)


@torch.no_grad()
def recognized(network: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    return float((network(inputs).argmax(1) == labels).float().mean())


def test_it_recognizes_more_halves_of_digits_and_as_many_whole_ones():
    pytest.importorskip("skimage.data")
    torch.manual_seed(0)
    classifier = small_classifier(trained=True)
    digits = DigitsOnTextures(512, size=48, seed=3)
    loader = DataLoader(digits, 32, shuffle=True)
    judge = harden(classifier, loader, 8, cells=3, show_progress=False)
    held_out = DigitsOnTextures(300, size=48, train=False, seed=4)
    inputs, labels = next(iter(DataLoader(held_out, len(held_out))))
    (halves,) = masked_halves(inputs, _random_half(inputs, 3), Mean())
    of_halves = labels.repeat(2)
    more = recognized(judge, halves, of_halves) - recognized(classifier, halves, of_halves)
    assert more > 0.05
    assert recognized(judge, inputs, labels) > recognized(classifier, inputs, labels) - 0.05


def test_a_masker_is_trained_by_the_judge_and_explains_the_classifier(images, labels):
    classifier = cnn(dropout=0.0).to(images.device)
    judge = harden(classifier, [(images, labels)], 3, lr=0.1, show_progress=False)
    model = MaskingModel(classifier, target_aware=False)
    other = copy.deepcopy(model)
    before = everything(classifier), everything(judge)
    for each, pool in ((model, OneJudge(judge)), (other, None)):
        trainer = MaskingTrainer(each, train_classifier=False, pool=pool)
        trainer.fit([(images, labels)] * 3, 2, show_progress=False)
    assert_same((everything(classifier), everything(judge)), before)
    assert torch.equal(model(images), other(images))
    assert not torch.equal(model.mask(images), other.mask(images))
