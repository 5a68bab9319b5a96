"""Classifiers that keep gradients from the pixels: said at the first step, or made to work."""

from __future__ import annotations

import warnings

import pytest
import torch
from networks import assert_same, everything
from torch import nn
from torch.utils.checkpoint import checkpoint

from captum_masking import FineTune, FromScratch, MaskingModel, MaskingSaliency, MaskingTrainer
from captum_masking.parts.pool import History
from captum_masking.saliency.per_input import PerInput
from captum_masking.training.gate import train_gate

LABELS = torch.tensor([0, 1, 1, 0])
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*has no masker:UserWarning"),
    pytest.mark.filterwarnings("ignore:the masker has collapsed:UserWarning"),
    pytest.mark.filterwarnings("ignore:every parameter of this classifier:UserWarning"),
]


@pytest.fixture
def images():
    return torch.rand(4, 3, 24, 24, generator=torch.Generator().manual_seed(0))


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU()
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
        self.eval()

    def forward(self, x):
        return self.head(self.body(x))

    def learns(self):
        return any(parameter.requires_grad for parameter in self.parameters())


class NoGrad(Network):
    def forward(self, x):
        with torch.no_grad():
            features = self.body(x)
        return self.head(features)


class Inference(Network):
    @torch.inference_mode()
    def forward(self, x):
        return super().forward(x)


class Detached(Network):
    def forward(self, x):
        return self.head(self.body(x).detach())


class Data(Network):
    def forward(self, x):
        return super().forward(x.data)


class Numpy(Network):
    def forward(self, x):
        return super().forward(torch.from_numpy(x.detach().cpu().numpy()))


class NumpyAsIs(Network):
    def forward(self, x):
        return super().forward(torch.from_numpy(x.numpy()))


class InferenceBody(Network):
    def forward(self, x):
        with torch.inference_mode():
            features = self.body(x)
        return self.head(features)


class Integers(Network):
    def forward(self, x):
        return super().forward((x * 255).byte().float() / 255)


class Hard(Network):
    def forward(self, x):
        scores = super().forward(x) * 0 + x.mean((2, 3))
        return nn.functional.one_hot(scores.argmax(1), 3).float()


class Quantized(Network):
    def forward(self, x):
        return super().forward(torch.quantize_per_tensor(x, 0.01, 0, torch.qint8).dequantize())


class BodyIfLearning(Network):
    def forward(self, x):
        with torch.set_grad_enabled(self.learns()):
            features = self.body(x)
        return self.head(features)


class AllIfLearning(Network):
    def forward(self, x):
        with torch.set_grad_enabled(self.learns()):
            return super().forward(x)


class DetachedUnlessLearning(Network):
    def forward(self, x):
        features = self.body(x)
        return self.head(features if self.learns() else features.detach())


CUT = [NoGrad, Inference, InferenceBody, Detached, Data, Numpy, NumpyAsIs]
CUT += [Integers, Hard, Quantized]
CONDITIONAL = [BodyIfLearning, AllIfLearning, DetachedUnlessLearning]


@pytest.mark.filterwarnings("ignore:.*returns probabilities:UserWarning")
@pytest.mark.parametrize("kind", CUT)
@pytest.mark.parametrize("how", [False, True, FromScratch(), FromScratch(classifier_first=0.0)])
def test_a_training_without_gradients_is_refused_at_its_first_step(kind, how, images):
    model = MaskingModel(kind(), ["body.1", "body.3"])
    before = everything(model)
    trainer = MaskingTrainer(model, train_classifier=how)
    with pytest.raises(RuntimeError, match=f"{kind.__name__} to be differentiable.*requires_grad_"):
        trainer.fit([(images, LABELS)], epochs=1, show_progress=False)
    assert_same(everything(model), before)
    assert trainer.steps_done == 0


@pytest.mark.filterwarnings("ignore:.*returns probabilities:UserWarning")
@pytest.mark.parametrize("kind", CUT)
@pytest.mark.parametrize("wrap", [lambda network: network, lambda network: lambda x: network(x)])
def test_per_input_too(kind, wrap, images):
    with pytest.raises(RuntimeError, match="gradients are cut"):
        MaskingSaliency(wrap(kind())).attribute(images, target=1)


def test_networks_made_in_inference_mode(images):
    with torch.inference_mode():
        network = Network()
    with pytest.raises(RuntimeError, match="gradients are cut"):
        MaskingSaliency(network).attribute(images, target=1)
    with pytest.raises(RuntimeError, match="gradients are cut"):
        MaskingSaliency(MaskingModel(network, target_aware=True)).attribute(images, target=1)


def test_a_checkpoint_around_the_layers_that_evidence_is_read_from_is_said(images):
    class Checkpointed(Network):
        def forward(self, x):
            return checkpoint(super().forward, x, use_reentrant=False) ** 3  # no linear head

    model = MaskingModel(Checkpointed(), target_aware=True)
    trainer = MaskingTrainer(model, train_classifier=False)
    with pytest.raises(RuntimeError, match="again .a checkpoint.*classes="):
        trainer.step(images, LABELS)


@pytest.mark.parametrize("kind", CONDITIONAL)
@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_that_only_learning_networks_let_pass_are_there(kind, frozen, images):
    masks = []
    for classifier in (kind(), Network()):
        classifier.requires_grad_(not frozen)
        torch.manual_seed(1)
        model = MaskingModel(classifier, target_aware=True)
        before = everything(classifier)
        MaskingTrainer(model, train_classifier=False).fit(
            [(images, LABELS)], epochs=3, show_progress=False
        )
        assert_same(everything(classifier), before)
        assert all(parameter.grad is None for parameter in classifier.parameters())
        train_gate(model, [(images, LABELS)], epochs=1, show_progress=False)
        masks.append(MaskingSaliency(model).attribute(images, target=1))
    torch.testing.assert_close(masks[0], masks[1])


@pytest.mark.parametrize("kind", CONDITIONAL)
def test_past_classifiers_which_are_frozen_judge_with_gradients_too(kind, images):
    masks = []
    for classifier in (kind(), Network()):
        torch.manual_seed(1)
        model = MaskingModel(classifier)
        trainer = MaskingTrainer(
            model, train_classifier=FineTune(masker_first=0.0), pool=History(past=1.0)
        )
        trainer.fit([(images, LABELS)] * 2, epochs=2, show_progress=False)
        masks.append(model.eval().mask(images).detach())
    torch.testing.assert_close(*masks)


@pytest.mark.parametrize("kind", CONDITIONAL)
def test_and_so_they_are_in_joint_training_and_per_input(kind, images):
    found = []
    for classifier in (kind(), Network()):
        torch.manual_seed(1)
        model = MaskingModel(classifier)
        MaskingTrainer(model).fit([(images, LABELS)] * 2, epochs=3, show_progress=False)
        saliency = MaskingSaliency(classifier, per_input=PerInput(steps=3))
        found.append((model.eval().mask(images).detach(), saliency.attribute(images, target=1)))
        assert all(parameter.requires_grad for parameter in classifier.parameters())
    torch.testing.assert_close(found[0], found[1])


class Rounded(Network):
    def forward(self, x):
        return super().forward((x * 8).round() / 8)


def test_a_gradient_of_zero_is_said(images):
    with pytest.warns(UserWarning, match="Rounded answers with a gradient of exactly zero"):
        MaskingSaliency(Rounded()).attribute(images, target=1, steps=1)


class KnowsNothing(Network):
    def __init__(self):
        super().__init__()
        nn.init.zeros_(self.head[2].weight)


class DeadUnits(Network):
    def __init__(self):
        super().__init__()
        nn.init.constant_(self.body[2].bias, -1e3)


class OneAnswer(Network):
    def forward(self, x):
        return super().forward(x).detach() * 0 + torch.tensor([0.0, 2.0, 1.0])


@pytest.mark.parametrize("kind", [KnowsNothing, DeadUnits, OneAnswer])
def test_an_answer_that_never_changes_has_lost_no_gradient(kind, images):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*has no masker|the masker has collapsed")
        MaskingSaliency(kind()).attribute(images, target=1, steps=1)
        trainer = MaskingTrainer(MaskingModel(kind()), train_classifier=False)
        trainer.fit([(images, LABELS)], epochs=1, show_progress=False)


def test_constant_pictures_are_explained(images):
    MaskingSaliency(Network()).attribute(torch.zeros_like(images), target=1, steps=1)


def test_an_input_that_is_not_used_gets_a_map(images):
    first = Network()
    maps = MaskingSaliency(lambda x, y: first(x)).attribute((images, images), target=1, steps=1)
    assert [each.shape for each in maps] == [images.shape] * 2
