"""The benchmark's rows: Captum's methods, pytorch-grad-cam's, and baselines that know nothing."""

from __future__ import annotations

import sys
import warnings
from functools import cache

import numpy as np
import pytest
import torch
from networks import assert_same, cnn, everything, mixed_modes
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

import captum_masking.methods
from captum_masking.benchmark import trivial_methods
from captum_masking.benchmark.libraries import (
    CAMS,
    NAMES,
    RECIPES,
    RELATIVES,
    SLOW,
    cam_methods,
    captum_methods,
    default_methods,
    module_at,
    relative_methods,
    twin,
)
from captum_masking.cli import names
from captum_masking.metrics import masks_to_boxes, min_max

CAM_ROWS = [f"pytorch-grad-cam {kind}" for kind in CAMS]
TRIVIAL = ["whole frame", "centered square", "random", "edge detector"]
LEARNED = [*RECIPES, *CAM_ROWS]
each = pytest.mark.parametrize("name", [*LEARNED, *TRIVIAL])
each_learned = pytest.mark.parametrize("name", LEARNED)
TARGET = torch.tensor([2, 1])
EXAMPLE = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))


def row(name, classifier, layer="5", example=EXAMPLE):
    """Make one row, or skip the test where its library is missing."""
    if name in CAM_ROWS:
        pytest.importorskip("pytorch_grad_cam")
        return cam_methods(classifier, layer, example)[0][name]
    methods, left_out = captum_methods(classifier, layer, example)
    assert name in methods, left_out
    return methods[name]


@cache
def rows_of_cnn():
    """All rows of one classifier, made once: no test may change what another one finds."""
    made = [make(cnn(), "5", EXAMPLE)[0] for make in (captum_methods, cam_methods)]
    return {**made[0], **made[1], **trivial_methods()}


def shared(name):
    if name in CAM_ROWS:
        pytest.importorskip("pytorch_grad_cam")
    return rows_of_cnn()[name]


class Reused(nn.Module):
    """One activation, in place, for three calls, as in ResNet and EfficientNet-Lite."""

    def __init__(self, activation=nn.ReLU) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.activation = activation(inplace=True)
        self.head = nn.Linear(8, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        maps = self.activation(self.stem(inputs))
        maps = self.activation(self.block(maps) + maps)
        return self.head(self.activation(maps * 2).mean((2, 3)))


class Functional(nn.Module):
    def __init__(self, activation=functional.relu) -> None:
        super().__init__()
        self.first, self.second, self.relu = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.ReLU()
        self.activation = activation

    def forward(self, inputs: Tensor) -> Tensor:
        return self.relu(self.second(self.activation(self.first(inputs)))).mean((2, 3))


class OnlyPairs(nn.Module):
    """Refuses the doubled batches of DeepLift."""

    def __init__(self) -> None:
        super().__init__()
        self.network = cnn()

    def forward(self, inputs: Tensor) -> Tensor:
        if len(inputs) > 2:
            raise ArithmeticError("no more than\ntwo images")
        return self.network(inputs)


def linear(side=7):
    """The first logit is the sum of pixels times weights 1, 2, 3, … of alternating sign."""
    network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Flatten(), nn.Linear(side**2, 2))
    weights = torch.arange(1.0, side**2 + 1) * torch.tensor([1.0, -1.0]).repeat(side**2)[: side**2]
    with torch.no_grad():
        network[0].weight.fill_(1)
        network[2].weight.copy_(torch.stack([weights, -weights]))
        network[2].bias.zero_()
    return network, weights.reshape(1, 1, side, side)


def two_pixels():
    """Logit 0 of the pixels (a, b) is relu(a) - relu(b)."""
    network = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        network[2].weight.copy_(torch.tensor([[1.0, -1.0], [0.0, 1.0]]))
    return network


def explained(name, a, b):
    pixels = torch.tensor([[[[a, b]]]])
    example = torch.tensor([[[[8.0, 3.0]]]])
    method = row(name, two_pixels(), "0", example)
    return method.explain(pixels, torch.tensor([0])).flatten().tolist()


# What every row promises.


@each
@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (2, 1, 13, 22)], ids=str)
def test_maps_fit_the_images_and_are_finite(name, shape, device):
    inputs = torch.rand(shape).to(device)
    if name in TRIVIAL:
        method = trivial_methods()[name]
    else:
        method = row(name, cnn(shape[1]).to(device), example=inputs)
    maps = method.maps(inputs, TARGET.to(device))
    assert maps.shape == (2, 1, *shape[2:]) and maps.device == inputs.device
    assert maps.isfinite().all() and 0 <= maps.min() < maps.max() <= 1


@each
def test_maps_are_the_same_again_and_leave_random_numbers_images_and_silence(name, capsys):
    method, inputs = shared(name), EXAMPLE.clone()
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = method.maps(inputs, TARGET)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert torch.equal(inputs, EXAMPLE) and not inputs.requires_grad
    torch.rand(1), np.random.rand(1)
    torch.testing.assert_close(method.maps(inputs, TARGET), one, rtol=0, atol=0)
    assert capsys.readouterr() == ("", "")


@each
def test_a_batch_is_explained_as_its_images_are_one_by_one(name):
    inputs, target = torch.rand(3, 3, 16, 16), torch.tensor([0, 3, 1])
    method = shared(name)
    alone = [method.maps(inputs[[index]], target[[index]]) for index in range(3)]
    torch.testing.assert_close(method.maps(inputs, target), torch.cat(alone), atol=1e-4, rtol=1e-4)


@each
def test_maps_are_made_also_where_the_caller_takes_no_gradients(name):
    method = shared(name)
    with torch.no_grad():
        maps = method.maps(EXAMPLE, TARGET)
    assert torch.equal(maps, method.maps(EXAMPLE, TARGET))


@each_learned
def test_the_classifier_is_not_touched_and_a_failed_call_leaves_nothing_behind(name):
    classifier = mixed_modes(cnn())
    for parameter in classifier.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = everything(classifier)
    method = row(name, classifier)
    maps = method.maps(EXAMPLE, TARGET)
    with pytest.raises(RuntimeError):
        method.maps(torch.rand(2, 5, 16, 16), TARGET)  # too many channels
    assert torch.equal(method.maps(EXAMPLE, TARGET), maps)
    assert_same(before, everything(classifier))
    assert {name for name, _ in classifier.named_modules()} == {"", *map(str, range(10))}


@pytest.mark.parametrize("name", [n for n in LEARNED if not n.endswith("EigenCAM")])
def test_a_class_that_does_not_exist_is_an_error_not_a_map(name):
    method = shared(name)
    with pytest.raises((IndexError, AssertionError, RuntimeError)):
        method.maps(EXAMPLE, torch.tensor([99, 99]))
    assert method.maps(EXAMPLE, TARGET).isfinite().all()


@each_learned
def test_the_classifier_is_explained_as_it_answers_in_eval_mode(name):
    maps = row(name, cnn().eval()).maps(EXAMPLE, TARGET)
    assert torch.equal(shared(name).maps(EXAMPLE, TARGET), maps)  # made of one in train mode


def test_families_are_named_after_their_libraries():
    assert shared("Saliency").family == "captum"
    assert {method.family for method in trivial_methods().values()} == {"trivial"}


# Captum's methods, by hand.


def test_every_method_of_captum_applies_to_a_network_of_relus():
    methods, left_out = captum_methods(cnn(), "5", EXAMPLE)
    assert list(methods) == list(RECIPES) and len(methods) == 12 and not left_out


def test_saliency_is_the_length_of_the_gradient_summed_over_channels():
    classifier, inputs = cnn().eval(), EXAMPLE.clone().requires_grad_()
    logits = classifier(inputs)
    (gradient,) = torch.autograd.grad(logits[0, 2] + logits[1, 1], inputs)
    expected = gradient.abs().sum(1, keepdim=True)
    torch.testing.assert_close(row("Saliency", classifier).explain(EXAMPLE, TARGET), expected)


@pytest.mark.parametrize("name", ["InputXGradient", "IntegratedGradients", "FeatureAblation"])
def test_of_a_linear_classifier_the_evidence_is_weight_times_pixel(name):
    network, weights = linear()  # 7 x 7: each patch is a pixel
    inputs = torch.rand(2, 1, 7, 7)
    maps = row(name, network, "0", inputs).explain(inputs, torch.tensor([0, 1]))
    torch.testing.assert_close(maps, (weights * inputs).abs(), atol=1e-4, rtol=1e-4)


def test_occlusion_is_the_mean_drop_over_the_windows_that_cover_a_pixel():
    network, weights = linear()  # 7 x 7: windows of 2 x 2, one pixel apart
    inputs = torch.rand(1, 1, 7, 7)
    drops, covers = torch.zeros(7, 7), torch.zeros(7, 7)
    for y in range(6):
        for x in range(6):
            drops[y : y + 2, x : x + 2] += (weights * inputs)[0, 0, y : y + 2, x : x + 2].sum()
            covers[y : y + 2, x : x + 2] += 1
    maps = row("Occlusion", network, "0", inputs).explain(inputs, torch.tensor([0]))
    torch.testing.assert_close(maps[0, 0], (drops / covers).abs(), atol=1e-4, rtol=1e-4)


def test_grad_cam_is_the_positive_part_of_maps_weighted_by_their_mean_gradients():
    classifier = cnn().eval()
    maps = classifier[:6](EXAMPLE)
    logits = classifier[6:](maps)
    (gradient,) = torch.autograd.grad(logits[0, 2] + logits[1, 1], maps)
    cam = sum(gradient[:, c].mean((1, 2))[:, None, None] * maps[:, c] for c in range(8))
    expected = functional.interpolate(cam.clamp(min=0)[:, None], (16, 16), mode="bilinear")
    found = row("LayerGradCam", classifier).explain(EXAMPLE, TARGET)
    torch.testing.assert_close(found, expected.detach())


def test_guided_backprop_lets_only_positive_gradients_pass_a_relu():
    assert explained("Saliency", 1.0, 1.0) == [1, 1]
    assert explained("GuidedBackprop", 1.0, 1.0) == [1, 0]
    assert explained("GuidedBackprop", -1.0, 1.0) == [0, 0]


def test_deconvolution_lets_positive_gradients_pass_a_relu_whatever_its_input():
    assert explained("Saliency", -1.0, 1.0) == [0, 1]
    assert explained("Deconvolution", -1.0, 1.0) == [1, 0]


def test_deep_lift_shares_out_the_whole_change():
    assert explained("InputXGradient", 8.0, -3.0) == [8, 0]
    assert explained("DeepLift", 8.0, -3.0) == pytest.approx([8, 0])
    assert explained("DeepLift", 8.0, 3.0) == pytest.approx([8, 3])


@pytest.mark.parametrize(
    ("name", "images"),
    [
        *(("Saliency", 1), ("LayerGradCam", 1), ("Occlusion", 36 + 1)),
        *(("FeatureAblation", 49 + 1), ("IntegratedGradients", 50), ("NoiseTunnel", 10)),
        *(("GradientShap", 5), ("DeepLift", 2)),
    ],
)
def test_a_row_costs_as_many_forward_passes_as_its_settings_say(name, images):
    classifier, seen = cnn(), []
    classifier.register_forward_hook(lambda module, inputs, outputs: seen.append(len(outputs)))
    inputs = torch.rand(1, 3, 28, 28)
    method = row(name, classifier, example=inputs)
    seen.clear()
    method.maps(inputs, TARGET[:1])
    assert sum(seen) == images


def test_settings_say_what_is_passed_to_captum():
    methods, _ = captum_methods(cnn(), "5", EXAMPLE)
    assert "n_steps=50" in methods["IntegratedGradients"].settings
    assert "strides=Sevenths(count=1)" in methods["Occlusion"].settings


# What does not apply is left out, and says why.


def test_a_classifier_without_relu_has_no_guided_methods_nor_deep_lift():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Flatten(), nn.Linear(784, 3))
    _, left_out = captum_methods(network, "1", torch.randn(2, 3, 16, 16) * 3)
    assert set(left_out) == {"GuidedBackprop", "Deconvolution", "GuidedGradCam", "DeepLift"}
    assert "no ReLU" in left_out["Deconvolution"] and "no rule" in left_out["DeepLift"]


@pytest.mark.parametrize(
    "activation", [functional.relu, functional.relu6, torch.relu, Tensor.relu, Tensor.relu_]
)
def test_a_relu_that_is_a_mere_function_rules_the_guided_methods_out(activation):
    _, left_out = captum_methods(Functional(activation), "second", EXAMPLE)
    assert "1 of 2 ReLUs are calls of a function" in left_out["GuidedBackprop"]
    assert {"Deconvolution", "GuidedGradCam"} < set(left_out)


def test_where_deep_lift_raises_it_is_left_out_with_the_reason_in_one_line():
    methods, left_out = captum_methods(OnlyPairs(), "network.5", EXAMPLE)
    assert left_out == {"DeepLift": "ArithmeticError: no more than two images"}
    assert methods["GuidedBackprop"].maps(EXAMPLE, TARGET).isfinite().all()


def test_a_layer_without_maps_leaves_class_activation_maps_out():
    _, left_out = captum_methods(cnn(), "7", EXAMPLE)  # flattened
    assert set(left_out) == {"LayerGradCam", "GuidedGradCam"}
    assert left_out["LayerGradCam"].startswith("layer '7' gives (1, 8)")
    assert "layer '7'" in cam_methods(cnn(), "7", EXAMPLE)[1]["pytorch-grad-cam"]


@pytest.mark.parametrize("make", [captum_methods, cam_methods])
def test_a_layer_that_does_not_exist_is_an_error_that_names_others(make):
    with pytest.raises(ValueError, match="no '11'; nearest: 1"):
        make(cnn(), "11", EXAMPLE)


def test_relu6_rules_out_what_captum_has_no_rule_for():
    methods, left_out = captum_methods(Reused(nn.ReLU6), "block", EXAMPLE)
    assert set(left_out) == {"GuidedBackprop", "Deconvolution", "GuidedGradCam", "DeepLift"}
    reason = "3 activations are nn.ReLU6, whose gradient it does not change"
    assert left_out["GuidedBackprop"] == reason
    assert methods["Saliency"].maps(EXAMPLE, TARGET).isfinite().all()


def test_a_relu_that_is_called_three_times_is_guided_at_each_call():
    network = Reused().eval()
    methods, _ = captum_methods(network, "block", EXAMPLE)

    def rectify(values):  # the rule of guided backpropagation, by hand
        clipped = values.clamp(min=0)
        clipped.register_hook(lambda gradient: gradient.clamp(min=0))
        return clipped

    inputs = EXAMPLE.clone().requires_grad_()
    maps = rectify(network.stem(inputs))
    maps = rectify(network.block(maps) + maps)
    logits = network.head(rectify(maps * 2).mean((2, 3)))
    (gradient,) = torch.autograd.grad(logits.gather(1, TARGET[:, None]).sum(), inputs)
    found = methods["GuidedBackprop"].explain(EXAMPLE, TARGET)
    torch.testing.assert_close(found, gradient.abs().sum(1, keepdim=True))


# The copies on which methods work.


def test_a_twin_shares_the_weights_and_asks_for_no_gradient():
    classifier = cnn().train()
    network = twin(classifier)
    for one, other in zip(classifier.parameters(), network.parameters(), strict=True):
        assert one.data_ptr() == other.data_ptr() and not other.requires_grad
    assert classifier.training and not any(part.training for part in network.modules())


class Pooling(nn.Module):
    """Its last rectifier is a module, or a function: then only its pooling shows the map."""

    def __init__(self, relu) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 8, 3, 2), nn.AdaptiveAvgPool2d(1)
        self.relu, self.head = relu, nn.Linear(8, 4)
        self.load_state_dict(dict(zip(self.state_dict(), cnn_state(), strict=True)))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.pool(self.relu(self.conv(inputs))).flatten(1))


def cnn_state():
    generator = torch.Generator().manual_seed(1)
    shapes = [(8, 3, 3, 3), (8,), (4, 8), (4,)]
    return [torch.randn(shape, generator=generator) for shape in shapes]


@pytest.mark.parametrize("name", ["LayerGradCam", *CAM_ROWS])
def test_what_a_pooling_takes_is_read_as_the_output_of_a_module_is(name):
    classifier = Pooling(functional.relu)
    before = everything(classifier)
    found = row(name, classifier, "pool.input").maps(EXAMPLE, TARGET)
    assert torch.equal(found, row(name, Pooling(nn.ReLU()), "relu").maps(EXAMPLE, TARGET))
    assert torch.equal(found, row(name, classifier, "pool.input").maps(EXAMPLE, TARGET))
    opened = twin(classifier)
    module_at(opened, "pool.input")
    assert torch.equal(opened(EXAMPLE), classifier(EXAMPLE))
    assert_same(before, everything(classifier))


def test_grad_cam_of_what_is_pooled_is_the_class_activation_map():
    """Zhou et al. 2016: channels by the weights of the class; here its positive part."""
    classifier = Pooling(functional.relu)
    methods, _ = default_methods(classifier, EXAMPLE)
    assert "layer='pool.input'" in methods["LayerGradCam"].settings
    maps = functional.relu(classifier.conv(EXAMPLE))
    cam = sum(classifier.head.weight[TARGET, c, None, None] * maps[:, c] for c in range(8))
    cam = functional.interpolate(cam.clamp(min=0)[:, None], (16, 16), mode="bilinear")
    found = methods["LayerGradCam"].maps(EXAMPLE, TARGET)
    torch.testing.assert_close(found, min_max(cam.detach()))


@pytest.mark.parametrize("make", [Functional, Reused])
def test_a_network_that_pools_by_a_function_is_read_at_its_deepest_map(make):
    methods, _ = default_methods(make(), EXAMPLE)
    cam = methods["LayerGradCam"]
    assert not cam.variants and cam.maps(EXAMPLE, TARGET).isfinite().all()


# Our own that are not trained.


def test_every_method_of_ours_has_a_row_and_every_row_a_name_that_can_be_completed():
    assert set(RELATIVES) == {"PerInput", *captum_masking.methods.__all__}
    assert set(names.METHODS) == set(NAMES)


@pytest.mark.parametrize("name", RELATIVES)
def test_a_row_of_ours_is_what_the_method_finds_or_says_why_not(name, monkeypatch):
    few = captum_masking.methods.ExtremalPerturbation.__init__.__kwdefaults__
    monkeypatch.setitem(few, "steps", 50)
    classifier = cnn()
    before = everything(classifier)
    methods, left_out = relative_methods(classifier, "5", EXAMPLE, names=[name])
    assert methods.keys() ^ left_out.keys() == {name}
    if name in methods:
        maps = methods[name].maps(EXAMPLE, TARGET)
        again = methods[name].maps(EXAMPLE, TARGET)
        assert maps.shape == (2, 1, 16, 16) and torch.equal(maps, again)
        assert 0 <= maps.min() < maps.max() <= 1
    assert_same(before, everything(classifier))


def test_rows_that_are_named_are_made_whether_they_are_slow_or_not():
    methods, left_out = default_methods(cnn(), EXAMPLE, names=["Rise", "Saliency"])
    assert set(methods) == {"Rise", "Saliency"} and not left_out
    assert "Rise" in SLOW and "Rise" not in default_methods(cnn(), EXAMPLE)[0]


# pytorch-grad-cam.


@pytest.mark.parametrize("name", ["LayerGradCam", *CAM_ROWS[:2]])
def test_a_map_is_the_same_read_before_the_pooling_or_after_what_makes_it(name):
    before, after = row(name, cnn(), "6.input"), row(name, cnn(), "5")
    for _ in range(2):  # on the same twin
        expected = after.maps(EXAMPLE, TARGET)
        torch.testing.assert_close(before.maps(EXAMPLE, TARGET), expected)


def test_grad_cam_of_the_two_libraries_is_the_same():
    one, other = (shared(n).maps(EXAMPLE, TARGET) for n in ("LayerGradCam", CAM_ROWS[0]))
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", CAM_ROWS)
def test_the_slow_ones_are_those_with_a_forward_pass_for_each_channel(name):
    classifier, seen = cnn(), []
    classifier.register_forward_hook(lambda module, inputs, outputs: seen.append(len(outputs)))
    method = row(name, classifier)
    seen.clear()
    method.maps(EXAMPLE[:1], TARGET[:1])
    assert (sum(seen) > 8) == (name in SLOW)  # layer "5" has 8 channels


def test_ablation_cam_takes_layers_that_are_called_with_more_than_a_tensor():
    class Scaled(nn.Module):
        def forward(self, inputs, by=1):
            return inputs * by

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.layer, self.head = nn.Conv2d(3, 4, 3), Scaled(), nn.Linear(4, 4)

        def forward(self, inputs):
            return self.head(self.layer(self.stem(inputs), by=2).mean((2, 3)))

    maps = row(CAM_ROWS[-1], Network(), "layer").maps(EXAMPLE, TARGET)
    assert maps.shape == (2, 1, 16, 16)


def test_without_pytorch_grad_cam_its_rows_are_left_out_with_the_way_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    methods, left_out = cam_methods(cnn(), "5", EXAMPLE)
    assert not methods and "pip install grad-cam" in left_out["pytorch-grad-cam"]


# Baselines.


@pytest.mark.parametrize("size", [(16, 16), (5, 9), (224, 224)], ids=str)
def test_the_box_of_the_whole_frame_is_the_whole_frame(size):
    masks = trivial_methods()["whole frame"].maps(torch.rand(1, 3, *size), TARGET[:1])
    assert masks_to_boxes(masks).tolist() == [[0, 0, size[1], size[0]]]


def test_the_centred_square_covers_half_of_the_frame():
    masks = trivial_methods()["centered square"].maps(torch.rand(1, 3, 224, 224), TARGET[:1])
    assert masks_to_boxes(masks).tolist() == [[33, 33, 191, 191]]  # 158 = round(224 / sqrt(2))
    assert masks.sum() == 158**2


def test_noise_depends_on_the_image_alone():
    method, inputs = trivial_methods()["random"], EXAMPLE.clone()
    one, other = method.explain(inputs, TARGET)
    assert torch.equal(method.explain(inputs.flip(0), TARGET.flip(0))[0], other)
    assert not torch.equal(one, other)
    assert one.min() >= 0 and one.max() < 1 and abs(one.mean() - 0.5) < 0.1


def test_edges_are_those_of_scipy():
    inputs = EXAMPLE.double()
    slopes = [[[ndimage.sobel(c, a, mode="nearest") for c in i] for i in inputs] for a in (0, 1)]
    expected = np.sqrt((np.array(slopes) ** 2).sum((0, 2)))[:, None]
    found = trivial_methods()["edge detector"].explain(inputs, TARGET)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_masks_are_used_as_they_are_and_maps_are_scaled():
    methods = trivial_methods()
    assert [methods[name].is_mask for name in TRIVIAL] == [True, True, False, False]
    noise = methods["random"].explain(EXAMPLE, TARGET)
    assert torch.equal(methods["random"].maps(EXAMPLE, TARGET), min_max(noise))
