"""Taps: which layers are found, and that a tap that cannot work says so."""

from __future__ import annotations

import pytest
import torch
from networks import Broken, cnn, everything, mixed_modes
from torch import nn
from torch.overrides import TorchFunctionMode

from captum_masking import MaskingModel
from captum_masking.encoder import Taps, find_layers


class SkipInit(TorchFunctionMode):
    """Leaves weights unset: finding layers looks at shapes, and initialising VGG takes seconds."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))


def torchvision_network(name: str) -> nn.Module:
    models = pytest.importorskip("torchvision.models")
    options = {"init_weights": False} if name == "googlenet" else {}
    with SkipInit():
        return getattr(models, name)(weights=None, num_classes=10, **options)


# Where the two deepest stages end, read off each architecture, and their channels. Where a name
# is one of several for the same map (a container and its last member), each is right.
STAGES = {
    "resnet18": (["layer3"], 256, ["layer4"], 512),
    "resnet50": (["layer3"], 1024, ["layer4"], 2048),
    "vgg11": (["features.19"], 512, ["features", "features.20"], 512),
    "mobilenet_v3_small": (["features.8"], 48, ["features", "features.12"], 576),
    "efficientnet_b0": (["features.5"], 112, ["features", "features.8"], 1280),
    "densenet121": (
        ["features.denseblock3", "features.transition3.conv"],
        None,  # 1024 before the transition, 512 after its convolution
        ["features", "features.norm5"],
        1024,
    ),
    "convnext_tiny": (["features.5", "features.6.0"], 384, ["features", "features.7"], 768),
    "googlenet": (["inception4e"], 832, ["inception5b"], 1024),
    "regnet_y_400mf": (
        ["trunk_output.block3"],
        208,
        ["trunk_output", "trunk_output.block4"],
        440,
    ),
}


@pytest.mark.parametrize("name", STAGES)
def test_the_two_deepest_resolutions_of_a_torchvision_network_are_found(name):
    example = torch.zeros(1, 3, 64, 64)
    network = torchvision_network(name).eval()
    layers = find_layers(network, example)
    with torch.no_grad():
        _, maps = Taps(network, layers)(example)
    assert [tuple(m.shape[2:]) for m in maps] == [(4, 4), (2, 2)]  # strides 16 and 32


@pytest.mark.parametrize("name", STAGES)
def test_a_torchvision_network_is_read_where_its_stages_end(name):
    finer, finer_channels, coarser, coarser_channels = STAGES[name]
    example = torch.zeros(1, 3, 64, 64)
    network = torchvision_network(name).eval()
    found = find_layers(network, example)
    assert found[0] in finer and found[1] in coarser
    with torch.no_grad():
        _, maps = Taps(network, found)(example)
    assert maps[0].shape[1] == (finer_channels or maps[0].shape[1])
    assert maps[1].shape[1] == coarser_channels


def test_resnet50_gets_the_published_masker():
    model = MaskingModel(torchvision_network("resnet50"), example_inputs=torch.zeros(1, 3, 64, 64))
    assert model.layers == ("layer3", "layer4")
    assert sum(parameter.numel() for parameter in model.masker.parameters()) == 198_017


def test_the_last_map_of_each_resolution_is_found_finer_first():
    network = nn.Sequential(
        *(nn.Conv2d(1, 2, 3, 1, 1), nn.Conv2d(2, 3, 3, 2, 1), nn.Conv2d(3, 4, 3, 1, 1)),
        *(nn.Conv2d(4, 5, 3, 2, 1), nn.Conv2d(5, 6, 3, 1, 1), nn.AdaptiveAvgPool2d(1)),
    )
    assert find_layers(network, torch.zeros(1, 1, 16, 16)) == ["2", "4"]


def test_a_network_of_one_resolution_is_read_once():
    network = nn.Sequential(nn.Conv2d(1, 2, 3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    assert find_layers(network, torch.zeros(1, 1, 8, 8)) == ["1"]


def test_a_pooled_map_of_one_pixel_is_not_a_feature_map():
    network = nn.Sequential(nn.Conv2d(1, 2, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Conv2d(2, 5, 1))
    assert find_layers(network, torch.zeros(1, 1, 8, 8)) == ["0"]


def test_a_network_without_feature_maps_is_told_to_name_layers():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    with pytest.raises(ValueError, match=r"feature maps.*\(1, 1, 8, 8\).*layers="):
        find_layers(network, torch.zeros(1, 1, 8, 8))


def test_finding_layers_leaves_the_classifier_as_it_was():
    network = mixed_modes(cnn())
    before = everything(network)
    find_layers(network, torch.randn(2, 3, 16, 16))
    after = everything(network)
    assert str(after) == str(before)


# One pass.


def test_taps_give_the_answer_and_the_maps_in_the_order_of_the_names(images):
    network = cnn().eval().to(images.device)
    logits, (late, early) = Taps(network, ["5", "2"])(images)
    assert torch.equal(logits, network(images))
    assert torch.equal(early, network[:3](images)) and torch.equal(late, network[:6](images))


def test_a_module_that_runs_twice_gives_its_last_output(images):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 3, 3, 1, 1)

        def forward(self, inputs):
            return self.layer(self.layer(inputs)).mean((2, 3))

    network = Twice().to(images.device)
    _, (maps,) = Taps(network, ["layer"])(images)
    torch.testing.assert_close(maps, network.layer(network.layer(images)))


def test_taps_pass_on_every_argument(lookup, images):
    scale = torch.arange(6.0, device=images.device)
    logits, _ = Taps(lookup.eval(), ["network.2"])(images, scale, "on")
    assert torch.equal(logits, lookup.network(images) * scale[:, None])
    assert lookup.seen == [(6, (6,), "on")]


def test_two_taps_on_one_classifier_do_not_disturb_each_other(images):
    network = cnn().eval().to(images.device)
    first, second = Taps(network, ["2"]), Taps(network, ["5"])
    (early,), (late,) = first(images)[1], second(images)[1]
    assert early.shape[1:] == (6, 8, 8) and late.shape[1:] == (8, 4, 4)
    assert torch.equal(first(images)[1][0], early)


def test_maps_of_the_pass_before_are_never_given_again(images):
    network = cnn().eval().to(images.device)
    taps = Taps(network, ["2"])
    (zeros,), (ones,) = taps(0 * images)[1], taps(0 * images + 1)[1]
    assert not torch.equal(zeros, ones)


def test_no_hook_stays(images):
    network = cnn().to(images.device)
    before = everything(network)["hooks"]
    Taps(network, ["2", "5"])(images)
    assert everything(network)["hooks"] == before


def test_no_hook_stays_when_the_classifier_raises(images):
    network = Broken(cnn(), runs=0).to(images.device)
    before = everything(network)["hooks"]
    with pytest.raises(ArithmeticError):
        Taps(network, ["network.2", "network.5"])(images)
    assert everything(network)["hooks"] == before


def test_no_hook_stays_when_finding_layers_fails():
    network = Broken(cnn(), runs=0)
    before = everything(network)["hooks"]
    with pytest.raises(ArithmeticError):
        find_layers(network, torch.zeros(1, 3, 16, 16))
    assert everything(network)["hooks"] == before


# What cannot be tapped.


def test_a_layer_that_does_not_exist_is_named_beside_the_nearest_ones():
    network = nn.Sequential()
    network.add_module("layer3", nn.Conv2d(1, 1, 1))
    network.add_module("layer4", nn.Conv2d(1, 1, 1))
    with pytest.raises(ValueError, match=r"none called 'layer5'.*layer4.*named_modules"):
        Taps(network, ["layer3", "layer5"])


@pytest.mark.parametrize("name", ["", "layers.0.conv"])
def test_a_name_far_from_any_layer_is_refused_with_examples(name):
    with pytest.raises(ValueError, match=r"nearest: \w+"):
        Taps(cnn(), [name])


def test_a_layer_that_never_runs_is_an_error_that_names_it_and_the_cure(images):
    network = cnn()
    network.spare = nn.Conv2d(3, 3, 1)
    network.forward = lambda inputs: network[:10](inputs)
    with pytest.raises(RuntimeError, match=r"\['spare'\] did not fire.*plain module"):
        Taps(network.to(images.device), ["2", "spare"])(images)


def test_a_traced_classifier_is_refused_with_the_cure(disguises, images):
    with pytest.raises(TypeError, match="traced.*eager"):
        Taps(disguises["traced"], ["2"])(images)


def test_a_scripted_classifier_is_refused_with_the_cure(disguises, images):
    with pytest.raises(TypeError, match="scripted.*eager"):
        Taps(disguises["scripted"], ["2"])(images)


def test_taps_on_a_compiled_classifier_never_go_silent(disguises, images):
    with pytest.raises(RuntimeError, match=r"did not fire.*compiled"):
        Taps(disguises["compiled"], ["_orig_mod.2"])(images[:2])


@pytest.mark.parametrize("disguise", ["traced", "scripted", "exported", "compiled"])
@pytest.mark.parametrize("example", [True, False], ids=["example given", "no example"])
def test_a_masking_model_of_a_classifier_without_hooks_names_the_cure(
    disguises, images, disguise, example
):
    example_inputs = images[:2] if example else None
    with pytest.raises((TypeError, ValueError, RuntimeError), match="eager|plain"):
        MaskingModel(disguises[disguise], example_inputs=example_inputs)
