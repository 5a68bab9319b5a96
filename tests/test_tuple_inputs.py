"""Classifiers of several inputs: a mask for each, shaped like it."""

from __future__ import annotations

import copy

import pytest
import torch
from captum.attr import NoiseTunnel
from captum.metrics import infidelity, sensitivity_max
from networks import assert_same, cnn, everything, mixed_modes
from torch import Tensor, nn

from captum_masking import FineTune, MaskingModel, MaskingSaliency, MaskingTrainer
from captum_masking.model.export import HeatmapModule
from captum_masking.model.layouts import OfInput
from captum_masking.parts.masking import fill
from captum_masking.parts.other_maskers import MultiInputMasker

FEW = {"steps": 3}
pytestmark = pytest.mark.filterwarnings("ignore:.*has no masker:UserWarning")


class PictureAndNotes(nn.Module):
    """A picture, a signal and a few numbers, each through layers of its own, then together."""

    def __init__(self) -> None:
        super().__init__()
        self.picture, self.signal = cnn(3)[:8], cnn(2, dims=1)[:8]
        self.numbers = nn.Sequential(nn.Linear(5, 8), nn.ReLU())
        self.head = nn.Linear(24, 4)

    def forward(self, picture: Tensor, signal: Tensor, numbers: Tensor, scale=1.0) -> Tensor:
        parts = self.picture(picture), self.signal(signal), self.numbers(numbers)
        return self.head(torch.cat(parts, dim=1)) * scale


def examples(batch: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    shapes = (batch, 3, 16, 20), (batch, 2, 30), (batch, 5)
    return tuple(torch.randn(shape) for shape in shapes)  # type: ignore[return-value]


@pytest.fixture(params=["layers", "own encoders", "function", "no masker"])
def network(request):
    """What a user explains: with a masker that taps, with one that cannot, and without one."""
    classifier = PictureAndNotes().eval()
    if request.param == "layers":
        return MaskingModel(classifier, example_inputs=examples(1)).eval()
    if request.param == "function":
        return MaskingModel(classifier.forward, example_inputs=examples(1)).eval()
    sizes = [(2, 3), (1, 2), (0, 5)]
    if request.param == "own encoders":
        masker = MultiInputMasker([3, 2, 5], inputs=sizes, width=8, own=True)
        return MaskingModel(classifier, masker=masker).eval()
    return classifier


def test_layers_of_every_input_are_found():
    model = MaskingModel(PictureAndNotes(), example_inputs=examples(1))
    assert model.layers == ("picture.2", "picture.5", "signal.2", "signal.5", "numbers")
    assert [layout.index for layout in model.layouts] == [0, 0, 1, 1, 2]
    assert all(isinstance(layout, OfInput) for layout in model.layouts)


def test_every_input_gets_a_mask_and_the_logits_are_the_classifiers_own():
    classifier, inputs = PictureAndNotes().eval(), examples()
    model = MaskingModel(classifier, example_inputs=examples(1)).eval()
    logits, masks = model.explain(inputs)
    assert torch.equal(logits, classifier(*inputs)) and torch.equal(model(*inputs), logits)
    assert [tuple(mask.shape) for mask in masks] == [(4, 1, 16, 20), (4, 1, 30), (4, 5)]
    assert all(0 <= mask.min() <= mask.max() <= 1 for mask in masks)


def test_one_masker_reads_all():
    # The mask of every input depends on each of the inputs.
    model = MaskingModel(PictureAndNotes(), example_inputs=examples(1)).eval()
    inputs = examples()
    before = model.mask(inputs)
    for index in range(3):
        changed = tuple(x + 1 if i == index else x for i, x in enumerate(inputs))
        assert all(not torch.equal(*pair) for pair in zip(model.mask(changed), before, strict=True))


def test_attributions_are_shaped_as_the_inputs(network):
    inputs = examples()
    attributions = MaskingSaliency(network).attribute(inputs, target=1, **FEW)
    assert isinstance(attributions, tuple) and len(attributions) == 3
    for attribution, tensor in zip(attributions, inputs, strict=True):
        assert attribution.shape == tensor.shape and attribution.dtype == tensor.dtype
        assert 0 <= attribution.min() <= attribution.max() <= 1
        attribution.view(4, -1)


def test_a_batch_gives_what_its_examples_give_one_by_one(network):
    inputs, saliency = examples(), MaskingSaliency(network)
    together = saliency.attribute(inputs, target=1, **FEW)
    for row in range(4):
        one = tuple(x[row : row + 1] for x in inputs)
        for part, all_rows in zip(saliency.attribute(one, target=1, **FEW), together, strict=True):
            torch.testing.assert_close(part, all_rows[row : row + 1], atol=1e-4, rtol=0)


def test_an_empty_batch_gives_empty_maps(network):
    attributions = MaskingSaliency(network).attribute(examples(0), target=1, **FEW)
    assert [tuple(a.shape) for a in attributions] == [(0, 3, 16, 20), (0, 2, 30), (0, 5)]


def test_nothing_stays_behind(network):
    inputs = examples()
    before = everything(mixed_modes(network))
    random = torch.get_rng_state()
    MaskingSaliency(network).attribute(inputs, target=1, **FEW)
    assert_same(before, everything(network))
    assert torch.equal(torch.get_rng_state(), random)


def test_a_wrong_target_is_refused(network):
    with pytest.raises(AssertionError, match=r"0\.\.3"):
        MaskingSaliency(network).attribute(examples(), target=9, **FEW)


def test_additional_arguments_follow_the_inputs(network):
    inputs, saliency = examples(), MaskingSaliency(network)
    plain = saliency.attribute(inputs, target=1, **FEW)
    scaled = saliency.attribute(inputs, target=1, additional_forward_args=(1.0,), **FEW)
    assert all(torch.equal(*pair) for pair in zip(plain, scaled, strict=True))


def test_captums_tools_take_it(network):
    inputs, saliency = examples(2), MaskingSaliency(network)
    noisy = NoiseTunnel(saliency).attribute(inputs, nt_samples=2, target=1, **FEW)
    assert [a.shape for a in noisy] == [x.shape for x in inputs]
    assert (
        sensitivity_max(saliency.attribute, inputs, target=1, n_perturb_samples=2, **FEW)
        .isfinite()
        .all()
    )

    def shake(inputs):
        noise = tuple(0.1 * torch.randn_like(x) for x in inputs)
        return noise, tuple(x - n for x, n in zip(inputs, noise, strict=True))

    attributions = saliency.attribute(inputs, target=1, **FEW)
    forward = getattr(network, "classifier", network)
    score = infidelity(forward, shake, inputs, attributions, target=1, n_perturb_samples=2)
    assert score.isfinite().all()


def test_masks_of_all_inputs_learn_from_one_loss():
    # The classifier looks at nothing but the first number: that is what masks learn to keep.
    torch.manual_seed(0)
    classifier = PictureAndNotes().eval().requires_grad_(False)
    for part in (classifier.head, classifier.numbers[0]):
        nn.init.zeros_(part.weight)
    classifier.numbers[0].weight[0, 0], classifier.numbers[0].weight[1, 0] = 5.0, -5.0
    classifier.head.weight[0, 16], classifier.head.weight[1, 17] = 1.0, 1.0
    model = MaskingModel(classifier, example_inputs=examples(1))
    optimizer = torch.optim.Adam(model.masker.parameters(), lr=1e-2)
    for _ in range(60):
        inputs = examples(32)
        logits, masks = model.explain(inputs)
        kept = [
            fill(x, 1 - mask, lambda inputs, hole: 0 * inputs)
            for x, mask in zip(inputs, masks, strict=True)
        ]
        loss = nn.functional.cross_entropy(classifier(*kept), logits.argmax(1))
        loss = loss + sum(mask.mean() for mask in masks) / 3
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    picture, signal, numbers = model.eval().mask(examples(32))
    assert numbers[:, 0].mean() > 0.7
    assert max(picture.mean(), signal.mean(), numbers[:, 1:].mean()) < 0.3


def first_number_decides() -> PictureAndNotes:
    """Make a classifier that looks at nothing but the first number."""
    classifier = PictureAndNotes().eval()
    with torch.no_grad():
        for part in (classifier.head, classifier.numbers[0]):
            part.weight.zero_(), part.bias.zero_()
        classifier.numbers[0].weight[0, 0], classifier.numbers[0].weight[1, 0] = 5.0, -5.0
        classifier.head.weight[0, 16], classifier.head.weight[1, 17] = 1.0, 1.0
    return classifier


def batches_of_first_number(count: int) -> list:
    inputs = [examples(32) for _ in range(count)]
    return [(x, (x[2][:, 0] < 0).long()) for x in inputs]


def test_a_trainer_learns_the_masks_of_all_inputs():
    torch.manual_seed(0)
    classifier = first_number_decides()
    model = MaskingModel(classifier, example_inputs=examples(1))
    before = everything(classifier)
    trainer = MaskingTrainer(model, train_classifier=False, lr=1e-2)
    records = trainer.fit(batches_of_first_number(60), 1, show_progress=False)
    assert_same(before, everything(classifier))
    assert records[0]["clean"] > 0.95
    picture, signal, numbers = model.eval().mask(examples(32))
    others = max(picture.mean(), signal.mean(), numbers[:, 1:].mean())
    assert numbers[:, 0].mean() > 0.7 > 0.5 > others


def test_a_joint_training_of_several_inputs_moves_both_networks():
    model = MaskingModel(PictureAndNotes(), example_inputs=examples(1))
    before = copy.deepcopy(model)
    trainer = MaskingTrainer(model, train_classifier=FineTune(lr=0.1, masker_first=0.0))
    batches = [(examples(), torch.tensor([0, 1, 2, 3]))] * 3
    record = trainer.fit(batches, 1, validation=batches, show_progress=False)[-1]
    assert 0 <= record["val_area"] <= 1
    pairs = zip(before.parameters(), model.parameters(), strict=True)
    assert not any(torch.equal(old, new) for old, new in pairs)


def test_a_saved_model_of_several_inputs_comes_back(tmp_path):
    classifier, inputs = PictureAndNotes().eval(), examples()
    model = MaskingModel(classifier, example_inputs=examples(1)).eval()
    model.save(tmp_path / "model")
    again = MaskingModel.load(tmp_path / "model", classifier)
    assert all(torch.equal(*p) for p in zip(model.mask(inputs), again.mask(inputs), strict=True))


def test_further_arguments_in_the_dry_run_are_those_of_the_user():
    class Scaled(PictureAndNotes):
        def forward(self, picture, signal, numbers, scale):  # no default: the dry run needs it
            return super().forward(picture, signal, numbers, scale)

    classifier = Scaled().eval()
    model = MaskingModel(classifier, example_inputs=examples(1), additional_forward_args=(2.0,))
    inputs, saliency = examples(), MaskingSaliency(model)
    maps = saliency.attribute(inputs, target=1, additional_forward_args=(2.0,))
    assert [a.shape for a in maps] == [x.shape for x in inputs]


def test_a_model_of_one_input_refuses_two_with_the_way_out():
    model = MaskingModel(cnn())
    pair = torch.zeros(2, 3, 16, 16), torch.zeros(2, 3, 16, 16)
    with pytest.raises(TypeError, match=r"one tensor.*2 tensors.*example_inputs"):
        MaskingSaliency(model).attribute(pair, target=1)


def test_a_model_of_three_inputs_refuses_two_with_the_way_out():
    model = MaskingModel(PictureAndNotes(), example_inputs=examples(1))
    with pytest.raises(TypeError, match=r"3 tensors.*2 tensors"):
        MaskingSaliency(model).attribute(examples()[:2], target=1)


def test_it_is_exported_with_the_same_values():
    model, inputs = MaskingModel(PictureAndNotes(), example_inputs=examples(1)).eval(), examples()
    program = torch.export.export(HeatmapModule(model), inputs).module()
    logits, masks = program(*inputs)
    expected_logits, expected = model.explain(inputs)
    torch.testing.assert_close(logits, expected_logits)
    torch.testing.assert_close(masks, expected)
