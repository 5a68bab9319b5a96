"""A classifier and its masker in one module: logits as before, a mask for one more convolution."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from networks import (
    Counted,
    Flat,
    Halves,
    Lookup,
    Quadrants,
    assert_same,
    cnn,
    everything,
    mixed_modes,
)
from test_encoder import SkipInit
from torch import nn

from captum_masking import MaskingModel, MaskingSaliency, MaskingTrainer
from captum_masking._base.checks import TargetError
from captum_masking.parts.masker import Masker, nearest

# The classifier's answer.


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_the_logits_are_the_classifiers_own(model, images, train):
    model.train(train)
    torch.manual_seed(1)
    expected = copy.deepcopy(model.classifier)(images)
    torch.manual_seed(1)
    assert torch.equal(copy.deepcopy(model)(images), expected)
    torch.manual_seed(1)
    assert torch.equal(copy.deepcopy(model).explain(images)[0], expected)


def test_the_classifier_is_used_and_not_copied(classifier):
    assert MaskingModel(classifier).classifier is classifier


def test_building_the_model_leaves_the_classifier_as_it_was():
    classifier = mixed_modes(cnn())
    classifier[0].weight.grad = torch.ones_like(classifier[0].weight)
    before = everything(classifier)
    MaskingModel(classifier)
    assert_same(before, everything(classifier))


@pytest.mark.parametrize("ask", ["explain", "mask", "forward"])
def test_each_question_runs_the_classifier_once(device, images, ask):
    counted = Counted(cnn())
    model = MaskingModel(counted.to(device))
    counted.calls = 0
    getattr(model, ask)(images)
    assert counted.calls == 1


def test_explain_gives_what_forward_and_mask_give(model, images):
    logits, mask = model.eval().explain(images)
    assert torch.equal(logits, model(images)) and torch.equal(mask, model.mask(images))


# Classifiers that return more than logits.


class Pair(NamedTuple):
    logits: torch.Tensor
    aux_logits: torch.Tensor


class Late(NamedTuple):
    aux_logits: torch.Tensor
    logits: torch.Tensor


@dataclass
class Answer:
    logits: torch.Tensor
    loss: None = None


class Returns(nn.Module):
    """Wraps the logits of a network into something else."""

    def __init__(self, network, wrap):
        super().__init__()
        self.network, self.wrap = network, wrap

    def forward(self, inputs):
        return self.wrap(self.network(inputs))


FORMS = {
    "tensor": lambda logits: logits,
    "tuple": lambda logits: (logits, "more"),
    "list": lambda logits: [logits],
    "named tuple": lambda logits: Pair(logits, logits + 1),
    "logits not first": lambda logits: Late(logits + 1, logits),
    "object": lambda logits: Answer(logits),
    "dict": lambda logits: {"loss": logits.sum(), "logits": logits},
    "dict of one tensor": lambda logits: {"scores": logits, "name": "x"},
    "text first": lambda logits: ("no", logits),
    "nothing first": lambda logits: (None, logits),
    "loss first": lambda logits: (logits.sum(), logits),
    "loss of one device first": lambda logits: (logits.sum()[None], logits),
    "maps first": lambda logits: (logits[..., None, None].expand(-1, -1, 3, 3), logits),
    "lists first": lambda logits: ([logits, logits], logits),
    "classes first": lambda logits: (logits.argmax(1), logits),
    "object of other names": lambda logits: SimpleNamespace(loss=logits.sum(), scores=logits),
    "dict of other names": lambda logits: {"loss": logits.sum(), "prediction": logits},
}


@pytest.mark.parametrize("wrap", FORMS.values(), ids=FORMS.keys())
def test_the_logits_are_found_in_whatever_the_classifier_returns(classifier, images, wrap):
    expected = classifier.eval()(images)
    model = MaskingModel(Returns(classifier, wrap)).eval()
    assert torch.equal(model(images), expected)
    assert torch.equal(model.explain(images)[0], expected)
    target = torch.ones(len(images), dtype=torch.long, device=images.device)
    attribution = MaskingSaliency(model).attribute(images, target=1)
    assert torch.equal(attribution[:, :1], model.mask(images, target=target))


@pytest.mark.parametrize(
    "wrap, got",
    [
        (
            lambda logits: {"a": logits, "b": logits},
            r"dict of a torch.float32 torch.Size\(\[1, \d\]\), b torch",
        ),
        (
            lambda logits: (torch.cat([logits] * 4, 1), logits),
            r"tuple of torch.float32 torch.Size\(\[1, 16\]\), torch",
        ),
        (lambda logits: [{"boxes": torch.zeros(3, 4)} for _ in logits], "list of dict"),
        (lambda logits: logits.argmax(1), r"Tensor of torch.int64"),
        (lambda logits: None, "NoneType"),
        (lambda logits: (), "tuple"),
    ],
)
def test_an_answer_without_recognisable_logits_is_refused_in_words(classifier, images, wrap, got):
    with pytest.raises(TypeError, match=rf"must return logits.*{got}.*wrap it"):
        MaskingModel(Returns(classifier, wrap))(images)


def test_of_several_heads_the_first_is_taken_and_that_is_said(classifier, images):
    network = Returns(classifier, lambda logits: [logits, 2 * logits, 3 * logits]).eval()
    model = MaskingModel(network)
    with pytest.warns(UserWarning, match="returns 3 tensors of one shape.*first"):
        logits = model.explain(images)[0]
    assert torch.equal(logits, classifier(images))


@pytest.mark.parametrize("wrap", [lambda x: x.T, lambda x: x.mean(), lambda x: x[:2]])
@pytest.mark.parametrize("make", [MaskingModel, lambda network: network])
def test_an_answer_without_a_row_for_each_example_is_refused(classifier, images, wrap, make):
    assert len(images) not in (1, 4)
    with pytest.raises(ValueError, match=r"one row of logits per example, \d, but returned"):
        MaskingSaliency(make(Returns(classifier, wrap))).attribute(images, steps=1)


@pytest.mark.parametrize("make", [MaskingModel, lambda network: network])
def test_the_answer_for_one_example_may_be_squeezed(classifier, images, make):
    plain, squeezing = classifier.eval(), Returns(classifier, torch.squeeze).eval()
    models = [make(network) for network in (plain, squeezing)]
    if isinstance(models[1], MaskingModel):
        models[1].masker = models[0].masker
    for batch in (images[:1], images):
        maps = [MaskingSaliency(each).attribute(batch, 1, steps=1) for each in models]
        assert torch.equal(*maps)


@pytest.mark.parametrize("make", [MaskingModel, lambda network: network])
def test_a_class_of_each_place_is_no_predicted_class(classifier, images, make):
    network = Returns(classifier, lambda logits: logits[..., None, None].expand(-1, -1, 3, 5))
    saliency = MaskingSaliency(make(network.eval()))
    with pytest.raises(TargetError, match=r"target=None.*one score per class.*, 3, 5\).*average"):
        saliency.attribute(images, steps=1)
    assert saliency.attribute(images, (1, 2, 4), steps=1).shape == images.shape
    trainer = MaskingTrainer(MaskingModel(network))
    with pytest.raises(ValueError, match=r"shape \(B, classes\).*, 3, 5\).*segmentation"):
        trainer.step(images, torch.zeros(len(images), dtype=torch.long))


def test_a_future_is_refused_with_the_way_out(classifier, images):
    with pytest.raises(NotImplementedError, match=r"future.*\.wait\(\)"):
        MaskingModel(Returns(classifier, lambda logits: torch.futures.Future()))(images)


def test_auxiliary_heads_in_train_mode_do_not_disturb():
    models = pytest.importorskip("torchvision.models")
    with SkipInit():
        network = models.googlenet(weights=None, num_classes=4, init_weights=False)
    network.aux1 = network.aux2 = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = MaskingModel(network, example_inputs=torch.zeros(1, 3, 64, 64)).train()
    logits, mask = model.explain(torch.randn(2, 3, 64, 64))
    assert type(network(torch.randn(2, 3, 64, 64))).__name__ == "GoogLeNetOutputs"
    assert logits.shape == (2, 4) and mask.shape == (2, 1, 64, 64)


# The mask.


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_any_number_of_channels_gets_a_mask(channels, device):
    model = MaskingModel(cnn(channels).to(device))
    logits, mask = model.explain(torch.randn(2, channels, 20, 28, device=device))
    assert logits.shape == (2, 4) and mask.shape == (2, 1, 20, 28)


@pytest.mark.parametrize(
    "size", [(17, 17), (17, 97), (97, 18), (31, 64), (63, 33), (1, 1), (1, 50), (3, 2)], ids=str
)
@pytest.mark.parametrize("stride", [None, 1, 4, 5])
def test_any_height_and_width_gets_a_mask_of_its_own_size(size, stride, device):
    model = MaskingModel(cnn().to(device), stride=stride).eval()
    mask = model.mask(torch.randn(2, 3, *size, device=device))
    assert mask.shape == (2, 1, *size) and 0 <= mask.min() <= mask.max() <= 1


@pytest.mark.parametrize("spatial", [(50,), (17, 20), (9, 12, 10)], ids=["1-D", "2-D", "3-D"])
@pytest.mark.parametrize("upsample", [None, nearest], ids=["linear", "nearest"])
def test_signals_images_and_volumes_run_through_the_same_code(spatial, upsample, device):
    options = {} if upsample is None else {"upsample": upsample}
    model = MaskingModel(cnn(2, dims=len(spatial)).to(device), **options)
    inputs = torch.randn(3, 2, *spatial, device=device)
    logits, mask = model.train().explain(inputs)
    mask.mean().backward()
    assert logits.shape == (3, 4) and mask.shape == (3, 1, *spatial)
    assert all(p.grad is not None for p in model.masker.masker.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_the_mask_has_the_dtype_of_the_model(model, images, dtype):
    logits, mask = model.to(dtype).eval().explain(images.to(dtype))
    assert logits.dtype == mask.dtype == dtype and mask.isfinite().all()


def test_a_classifier_of_another_dtype_gets_a_masker_of_its_own(images):
    logits, mask = MaskingModel(cnn().double()).explain(images.double().cpu())
    assert logits.dtype == mask.dtype == torch.float64


def test_in_eval_mode_an_image_has_the_same_mask_alone_and_in_a_batch(model, images):
    model.eval()
    alone = torch.cat([model.mask(image[None]) for image in images])
    torch.testing.assert_close(model.mask(images), alone, atol=1e-5, rtol=1e-4)


def test_memory_layout_does_not_change_the_mask(model, images):
    mask = model.eval().mask(images)
    for same in (
        images.contiguous(memory_format=torch.channels_last),
        images.transpose(2, 3).contiguous().transpose(2, 3),
        torch.cat([images, images], dim=3)[..., :16],
    ):
        torch.testing.assert_close(model.mask(same), mask)


def test_the_mask_depends_on_the_image(model, images):
    one, other = model.eval().mask(images[:2])
    assert not torch.allclose(one, other)


def test_no_gradient_of_the_mask_reaches_the_classifier(model, images):
    images.requires_grad_()
    mask = model.train().mask(images)
    (mask * torch.randn_like(mask)).sum().backward()
    assert all(p.grad is None for p in model.classifier.parameters()) and images.grad is None
    assert all(p.grad is not None and p.grad.any() for p in model.masker.masker.parameters())


def test_gradients_of_the_logits_still_reach_the_classifier(model, images):
    logits, mask = model.train().explain(images)
    (logits.square().sum() + mask.sum()).backward()
    assert all(p.grad is not None for p in model.classifier.parameters())


def test_no_hook_stays_on_the_classifier(model, images):
    before = everything(model.classifier)["hooks"]
    model.explain(images)
    with pytest.raises(RuntimeError):
        model.explain(images[:, :2])  # two channels where three are expected
    assert everything(model.classifier)["hooks"] == before


# The grid and its way to the size of the input.


def test_stride_is_the_number_of_pixels_per_cell_of_the_grid(classifier, images):
    masker = Flat().to(images.device)
    model = MaskingModel(classifier, masker=masker, stride=4)
    model.mask(images)  # 16 x 16
    model.mask(images[..., :13])  # 13 pixels begin a fourth cell
    assert masker.grids == [(4, 4), (4, 4)]


def test_without_a_stride_the_grid_is_the_finest_map_read(classifier, images):
    masker = Flat().to(images.device)
    MaskingModel(classifier, ["5", "2"], masker=masker).mask(images)
    MaskingModel(classifier, ["5"], masker=masker).mask(images)
    assert masker.grids == [(8, 8), (4, 4)]


def test_with_nearest_upsampling_the_mask_is_constant_on_each_cell(classifier, images):
    model = MaskingModel(classifier, stride=4, upsample=nearest).eval()
    mask = model.mask(images)
    cells = mask[..., ::4, ::4]
    assert torch.equal(mask, cells.repeat_interleave(4, 2).repeat_interleave(4, 3))
    assert len(cells.unique()) > 1


class Step(nn.Module):
    """A sampler that knows only 0 and 1."""

    def forward(self, mask_logits):
        return (mask_logits > 0).to(mask_logits)


@pytest.mark.parametrize("upsample_first", [True, False])
def test_upsampling_before_the_sampler_keeps_edges_sharp_and_after_it_blurs_them(
    classifier, images, upsample_first
):
    # -1 and 1 side by side on a grid of two cells
    model = MaskingModel(
        classifier,
        masker=Halves(1.0).to(images.device),
        sampler=Step(),
        stride=8,
        upsample_first=upsample_first,
    )
    row = model.mask(images)[0, 0, 0]
    assert row[0] == 0 and row[-1] == 1 and (row.diff() >= 0).all()
    # Linear between the centers of the two cells, at pixels 3.5 and 11.5: grays of odd 16ths.
    grays = [] if upsample_first else [(2 * k + 1) / 16 for k in range(8)]
    assert [value for value in row.tolist() if 0 < value < 1] == pytest.approx(grays)


# Whatever subset of layers.


@pytest.mark.parametrize("layers", [["2"], ["5"], ["2", "5"], ["5", "2"], ["0", "3", "5"]], ids=str)
def test_any_subset_of_layers_can_be_read(classifier, images, layers):
    model = MaskingModel(classifier, layers)
    channels = {"0": 6, "2": 6, "3": 8, "5": 8}
    expected = Masker([channels[name] for name in layers])
    assert model.layers == tuple(layers)
    assert [p.shape for p in model.masker.parameters()] == [p.shape for p in expected.parameters()]
    assert model.mask(images).shape == (6, 1, 16, 16)


def test_an_example_replaces_the_guess_of_the_input_shape(device):
    class Scaled(nn.Module):  # its first convolution does not see the input's channels
        def __init__(self):
            super().__init__()
            self.network = cnn(6)

        def forward(self, inputs):
            return self.network(torch.cat([inputs, -inputs], dim=1))

    model = MaskingModel(Scaled().to(device), example_inputs=torch.zeros(1, 3, 16, 16).to(device))
    assert model.mask(torch.zeros(2, 3, 20, 20, device=device)).shape == (2, 1, 20, 20)


def test_further_arguments_reach_the_classifier(images):
    # Layers and masker are given: a dry run could not know the second argument.
    lookup, masker = Lookup(cnn()).to(images.device).eval(), Flat().to(images.device)
    model = MaskingModel(lookup, ["network.2"], masker=masker, example_inputs=images)
    logits, mask = model.explain(images, torch.full((6,), 2.0, device=images.device))
    assert torch.equal(logits, 2 * lookup.network(images)) and mask.shape == (6, 1, 16, 16)


# An ordinary module.


def test_the_state_dict_holds_the_classifier_and_the_masker(model, images):
    twin = MaskingModel(cnn(seed=5).to(images.device))
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin.eval().mask(images), model.eval().mask(images))
    assert torch.equal(twin(images), model(images))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_model_can_be_copied_and_sent_to_another_process(model, images, copied):
    twin = copied(model.eval())
    assert torch.equal(twin.mask(images), model.mask(images))
    assert twin.classifier is not model.classifier


def test_one_layer_may_be_named_without_a_list(classifier):
    assert MaskingModel(classifier, layers="5").layers == ("5",)


def test_a_model_prints_the_layers_it_reads(model):
    assert "layers=('2', '5')" in repr(model)


# Errors.


def test_a_classifier_that_is_no_module_is_refused_with_the_way_out():
    with pytest.raises(TypeError, match=r"torch\.nn\.Module.*function.*MaskingSaliency"):
        MaskingModel(lambda inputs: inputs)


def test_a_classifier_without_a_convolution_needs_an_example():
    with pytest.raises(ValueError, match=r"convolution.*example_inputs="):
        MaskingModel(Quadrants())


def test_a_classifier_that_refuses_every_guess_needs_an_example():
    class Picky(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = cnn()

        def forward(self, inputs):
            if inputs.shape[2:] != (48, 40):
                raise ValueError("48 x 40 or nothing")
            return self.network(inputs)

    with pytest.raises(ValueError, match=r"48 x 40 or nothing.*example_inputs="):
        MaskingModel(Picky())
    model = MaskingModel(Picky(), example_inputs=torch.zeros(1, 3, 48, 40))
    assert model.mask(torch.zeros(2, 3, 48, 40)).shape == (2, 1, 48, 40)


def test_a_layer_that_does_not_exist_is_refused_with_the_nearest(classifier):
    with pytest.raises(ValueError, match=r"no '22'.*nearest: 2"):
        MaskingModel(classifier, ["22"])


@pytest.mark.parametrize("layer, got", [("7", r"\(1, 8\)"), ("9", r"\(1, 4\)")])
def test_a_layer_without_a_feature_map_is_refused(classifier, layer, got):
    with pytest.raises(ValueError, match=rf"spatial.*'{layer}' gave {got}; tap another layer"):
        MaskingModel(classifier, [layer])


def test_a_layer_that_gives_no_tensor_is_refused():
    class Pair(nn.Module):
        def forward(self, maps):
            return {"first": maps, "second": maps}

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution, self.pair = nn.Conv2d(3, 4, 3), Pair()

        def forward(self, inputs):
            return self.pair(self.convolution(inputs))["first"].mean((2, 3))

    with pytest.raises(ValueError, match="'pair' gave dict; tap another layer"):
        MaskingModel(Network(), ["pair"])


def test_pixels_that_are_still_bytes_are_refused_with_the_cure(model):
    with pytest.raises(TypeError, match=r"torch\.uint8.*\.float\(\).*255"):
        model.explain(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))


def test_one_image_without_a_batch_is_refused_with_the_cure(device):
    model = MaskingModel(cnn(dims=1).to(device))
    with pytest.raises(ValueError, match=r"\(16, 16\).*inputs\[None\]"):
        model.explain(torch.zeros(16, 16, device=device))


def test_a_list_of_images_is_refused_with_the_cure(model):
    with pytest.raises(TypeError, match=r"tensor.*list.*torch\.as_tensor"):
        model.explain([[1.0]])


def test_a_layer_that_stops_running_is_an_error_and_never_an_old_map(model, images):
    model.explain(images)
    skipping = nn.Sequential(model.classifier[:2], nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.classifier.forward = skipping.forward
    with pytest.raises(RuntimeError, match="did not fire"):
        model.explain(images)


# Networks that have no weights yet, and those of another precision.


def lazy() -> nn.Sequential:
    body = nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 4, 3, 2), nn.ReLU()
    return nn.Sequential(*body, nn.Flatten(), nn.LazyLinear(4))


def test_a_lazy_network_takes_the_size_of_the_users_inputs(images):
    with pytest.raises(ValueError, match=r"5\.weight has no values yet; .*run a lazy network"):
        MaskingModel(lazy())
    with pytest.raises(ValueError, match=r"5\.weight has no values yet"):
        MaskingSaliency(lazy()).attribute(images)
    with pytest.raises(ValueError, match="has no values yet; load them"):
        MaskingModel(cnn().to("meta"))
    model = MaskingModel(lazy(), example_inputs=images)
    assert MaskingSaliency(model).attribute(images).shape == images.shape


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.filterwarnings("ignore:.*in another precision, cast the loaded model.*")
def test_a_model_is_loaded_round_a_classifier_of_another_precision(
    images, tmp_path, dtype, trained
):
    model = MaskingModel(cnn())
    model.classifier_trained = trained
    model.save(tmp_path)
    loaded = MaskingModel.load(tmp_path, cnn().to(dtype))
    found, expected = (MaskingSaliency(each).attribute(images) for each in (loaded, model))
    torch.testing.assert_close(found, expected, atol=0.01, rtol=0)
