"""Classifiers that answer with probabilities, or one score: as their logits would be read."""

from __future__ import annotations

import copy
import warnings
from functools import partial

import pytest
import torch
from torch import nn

from captum_masking import MaskingModel, MaskingSaliency, MaskingTrainer, metrics
from captum_masking._base.captum import find_to_logits
from captum_masking.model.export import HeatmapModule
from captum_masking.model.files import CheckpointError
from captum_masking.model.taps import as_they_are, log_odds, log_probabilities
from captum_masking.parts.masker import Masker
from captum_masking.saliency.per_input import PerInput

LABELS = torch.tensor([0, 1, 1, 0])
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*has no masker:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*returns probabilities:UserWarning"),
    pytest.mark.filterwarnings("ignore:the target is not the predicted class:UserWarning"),
    pytest.mark.filterwarnings("ignore:the masker has collapsed:UserWarning"),
]


@pytest.fixture
def images():
    return torch.rand(4, 3, 24, 24, generator=torch.Generator().manual_seed(0))


def network(classes: int, *end: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes)]
    return nn.Sequential(*body, *head, *end).eval()


class InEval(nn.Softmax):
    """Probabilities in eval mode, logits in train mode, as some detectors answer."""

    def forward(self, logits):
        return logits if self.training else super().forward(logits)


class Centered(nn.Module):
    def forward(self, logits):
        return logits - logits.mean(1, keepdim=True)


class BothColumns(nn.Module):
    def forward(self, score):
        return torch.cat([1 - score.sigmoid(), score.sigmoid()], dim=1)


ENDS = {
    "softmax": (5, [nn.Softmax(1)], log_probabilities),
    "in eval mode": (5, [InEval(1)], log_probabilities),
    "log softmax": (5, [nn.LogSoftmax(1)], as_they_are),
    "two columns": (1, [BothColumns()], log_probabilities),
    "one sigmoid": (1, [nn.Sigmoid()], log_odds),
    "flat": (1, [nn.Sigmoid(), nn.Flatten(0)], log_odds),
    "sigmoids": (5, [nn.Sigmoid()], log_odds),
    "one logit": (1, [], as_they_are),
    "logits": (5, [], as_they_are),
}


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """Make a classifier, and one that answers with the logits behind the same probabilities."""
    classes, end, _ = ENDS[name]
    return network(classes, *end), network(classes)


@pytest.mark.parametrize("name", ENDS)
def test_the_kind_of_answer_is_found_in_the_dry_run(name):
    assert MaskingModel(pair(name)[0]).to_logits is ENDS[name][2]


@pytest.mark.parametrize("name", ENDS)
def test_masks_learned_from_probabilities_are_those_learned_from_logits(name, images):
    masks = []
    for classifier in pair(name):
        torch.manual_seed(1)
        model = MaskingModel(classifier, ["1", "3"])  # the default masker reads logits, too
        trainer = MaskingTrainer(model, train_classifier=name != "sigmoids")
        trainer.fit([(images, LABELS[:, None].float())], epochs=4, show_progress=False)
        masks.append(model.eval().mask(images).detach())
    torch.testing.assert_close(masks[0], masks[1], rtol=0, atol=2e-3)


@pytest.mark.parametrize("name", ["softmax", "one sigmoid", "flat", "sigmoids", "one logit"])
@pytest.mark.parametrize("target", [None, 1, torch.tensor([0, 1, 1, 0]), [0, 1, 1, 0]])
def test_masks_per_input_are_those_of_the_logits(name, target, images):
    masks = [
        MaskingSaliency(each, per_input=PerInput(steps=3)).attribute(images, target)
        for each in pair(name)
    ]
    torch.testing.assert_close(masks[0], masks[1], rtol=0, atol=1e-3)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize(
    ("name", "same"),
    [("softmax", Centered()), ("one sigmoid", nn.Identity()), ("one logit", nn.Identity())],
)
def test_evidence_is_that_of_the_logits(name, same, mode, images):
    classes, end, _ = ENDS[name]
    maps = []
    for classifier in (network(classes, *end), network(classes, same)):
        torch.manual_seed(1)
        model = MaskingModel(classifier, masker=partial(Masker, evidence=True))
        with mode():
            maps.append(MaskingSaliency(model).attribute(images, target=1))
        assert not torch.equal(maps[-1], MaskingSaliency(model).attribute(images, target=0))
    torch.testing.assert_close(*maps, rtol=0, atol=1e-4)


FORMS = [
    1,
    torch.tensor(1),
    torch.ones(4).long(),
    [1] * 4,
    [(1,)] * 4,
    (1,),
    torch.ones(4, 1).long(),
]


@pytest.mark.parametrize("target", FORMS)
@pytest.mark.parametrize("name", ["one sigmoid", "flat", "one logit"])
def test_one_score_takes_every_form_of_target(name, target, images):
    model = MaskingModel(pair(name)[0], masker=partial(Masker, classes=2))
    saliency = MaskingSaliency(model)
    expected = saliency.attribute(images, target=1)
    torch.testing.assert_close(saliency.attribute(images, target=target), expected)
    assert not torch.equal(saliency.attribute(images, target=0), expected)


@pytest.mark.parametrize("target", [2, -3, [0, 1, 2, 0], torch.tensor([0, 1])])
def test_one_score_has_two_classes_and_no_third(target, images):
    with pytest.raises(ValueError, match=r"target must be .*0\.\.1"):
        MaskingSaliency(MaskingModel(pair("one sigmoid")[0])).attribute(images, target=target)


def test_a_negative_is_read_as_class_0(images):
    classifier = pair("one sigmoid")[0]
    with torch.no_grad():
        classifier[6].bias -= classifier[:7](images).max() + 1
        logits, _ = MaskingModel(classifier).explain(images)
        assert logits.argmax(1).tolist() == [0, 0, 0, 0]
        torch.testing.assert_close(logits.softmax(1)[:, 1:], classifier(images))


def test_what_is_found_is_said_once_and_the_answer_of_the_model_is_the_classifiers(images):
    classifier = pair("softmax")[0]
    with pytest.warns(UserWarning, match="Sequential returns probabilities.*logarithms"):
        model = MaskingModel(classifier)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(model(images), classifier(images), rtol=0, atol=0)
        torch.testing.assert_close(model.explain(images)[0].softmax(1), classifier(images))
        assert MaskingModel(classifier).to_logits is log_probabilities


def test_what_a_function_answers_is_said_once_and_by_its_name(images):
    classifier = pair("softmax")[0]

    def classify(x):
        return classifier(x)

    saliency = MaskingSaliency(classify, per_input=PerInput(steps=1))
    with pytest.warns(UserWarning, match="classify returns probabilities"):
        saliency.attribute(images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        saliency.attribute(images)


def test_each_method_of_a_network_is_asked_for_itself(images):
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network(1)
            nn.init.constant_(self.network[6].weight, 0.01)
            nn.init.constant_(self.network[6].bias, 0.5)

        def forward(self, x):
            return self.network(x)

        def probability(self, x):
            return self(x).sigmoid()

    both, per_input = Both().eval(), PerInput(steps=2)
    expected = MaskingSaliency(both, per_input=per_input).attribute(images, target=1)
    masks = MaskingSaliency(both.probability, per_input=per_input).attribute(images, target=1)
    torch.testing.assert_close(masks, expected, rtol=0, atol=1e-4)


def test_a_score_out_of_tanh_is_no_probability(images):
    classifier = network(1, nn.Tanh())
    nn.init.constant_(classifier[6].bias, 9.0)
    assert MaskingModel(classifier).to_logits is as_they_are


def test_a_saved_model_remembers_and_so_do_a_gate_and_a_program(tmp_path, images):
    classifier = pair("one sigmoid")[0]
    model = MaskingModel(classifier).eval()
    model.save(tmp_path / "saved")
    loaded = MaskingModel.load(tmp_path / "saved", classifier)
    assert loaded.to_logits is log_odds
    program = torch.export.export(HeatmapModule(model), (images,)).module()
    torch.testing.assert_close(program(images), model.explain(images))
    torch.testing.assert_close(loaded.explain(images), model.explain(images))


def test_what_users_say_goes_first_and_is_asked_for_again(tmp_path, images):
    classifier = pair("softmax")[0]
    model = MaskingModel(classifier, to_logits=torch.logit)
    torch.testing.assert_close(model.explain(images)[0], classifier(images).logit())
    model.save(tmp_path / "saved")
    with pytest.raises(CheckpointError, match="to_logits is logit; pass it as to_logits"):
        MaskingModel.load(tmp_path / "saved", classifier)
    assert MaskingModel.load(tmp_path / "saved", classifier, to_logits=torch.logit)


@pytest.mark.parametrize("classes", [1, 2])
def test_logits_that_lie_in_0_to_1_by_chance_stay_logits(classes, images):
    classifier = network(classes)
    with torch.no_grad():
        classifier[6].weight *= 0.01
        classifier[6].bias.fill_(0.5)
    answer = classifier(images)
    assert ((answer > 0) & (answer < 1)).all()
    assert MaskingModel(classifier).to_logits is as_they_are
    by_value = find_to_logits(
        lambda x: classifier(x) * 1, answer, (images,), lambda x: classifier(x) * 1
    )
    assert by_value is as_they_are


def test_a_head_that_knows_nothing_yet_is_decided_later(images):
    classifier = network(1)
    nn.init.zeros_(classifier[6].weight)
    nn.init.zeros_(classifier[6].bias)
    model = MaskingModel(classifier)
    assert model.to_logits is None
    nn.init.normal_(classifier[6].weight)
    model.mask(images)
    assert model.to_logits is as_they_are


def test_a_masker_given_as_a_module_finds_out_at_the_first_call_in_train_mode_too(images):
    classifier = pair("in eval mode")[0].train()
    model = MaskingModel(classifier, ["1"], masker=Masker([8]))
    torch.testing.assert_close(model.explain(images)[0], classifier(images))  # logits, as they are
    assert model.to_logits is log_probabilities
    assert classifier.training


def test_gradients_live_where_probabilities_are_next_to_0_or_1():
    score = torch.tensor([[-40.0, 0.0, 12.0]], requires_grad=True)
    logits = log_probabilities(score.softmax(1))
    torch.testing.assert_close(logits, score - score.mean(), rtol=0, atol=1e-4)
    (slope,) = torch.autograd.grad(logits[0, 0] - logits[0, 1], score)
    torch.testing.assert_close(slope, torch.tensor([[1.0, -1.0, 0.0]]), rtol=0, atol=1e-4)
    (slope,) = torch.autograd.grad(log_odds(score.sigmoid())[0, 2], score)
    torch.testing.assert_close(slope[0, 2], torch.tensor(1.0), rtol=0.2, atol=0)


def test_metrics_of_probabilities_are_those_of_the_logits(images):
    masks = torch.rand(4, 1, 24, 24, generator=torch.Generator().manual_seed(1))
    for name in ("softmax", "one sigmoid"):
        of_each = [
            metrics.insertion(copy.deepcopy(each), images, masks, LABELS) for each in pair(name)
        ]
        torch.testing.assert_close(of_each[0], of_each[1])
