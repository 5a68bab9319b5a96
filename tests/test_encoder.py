"""Taps: which layers are found, and that a tap that cannot work says so."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from networks import Broken, cnn, everything, mixed_modes
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from captum_masking import MaskingModel, MaskingSaliency, MaskingTrainer
from captum_masking.model.export import HeatmapModule
from captum_masking.model.layers import NoMapsError, find_layers, pooled_map
from captum_masking.model.layouts import ChannelsFirst, ChannelsLast, Tokens, layout_of
from captum_masking.model.taps import Taps, logits_of
from captum_masking.parts.masker import Masker
from captum_masking.parts.other_maskers import StandaloneMasker
from captum_masking.parts.regularizer import Area


class SkipInit(TorchFunctionMode):
    """Leaves weights unset: finding layers looks at shapes, and initializing VGG takes seconds."""

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
    network, example = torchvision_network("resnet50"), torch.zeros(1, 3, 64, 64)
    model = MaskingModel(network, masker=partial(Masker), example_inputs=example)
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


# Maps that are no maps yet: tokens, and channels last.


def numbered(height: int, width: int, prefix: int, channels: int = 2) -> torch.Tensor:
    """Tokens whose first channel is their row and whose second is their column; -1 for others."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    patches = torch.stack([rows, columns], dim=-1).reshape(1, -1, 2).float()
    return torch.cat([torch.full((1, prefix, channels), -1.0), patches], dim=1)


@pytest.mark.parametrize("grid", [(4, 4), (2, 6), (7, 3), (1, 5)], ids=str)
@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
def test_each_token_lands_on_the_patch_it_stands_for(grid, prefix):
    size = [8 * cells for cells in grid]
    layout = layout_of(numbered(*grid, prefix), size, grids=[grid])
    rows, columns = layout(numbered(*grid, prefix), size)[0]
    assert rows[:, 0].tolist() == list(range(grid[0])) and rows.var(1, correction=0).max() == 0
    assert columns[0].tolist() == list(range(grid[1])) and columns.var(0, correction=0).max() == 0


def test_the_grid_of_the_patch_embedding_tells_extra_tokens_from_patches():
    # 4 patches and 5 others make 9, which would also be a square.
    tokens = torch.zeros(1, 9, 8)
    assert layout_of(tokens, (32, 32), grids=[(2, 2)]).prefix == 5
    assert layout_of(tokens, (32, 32)).prefix == 0


@pytest.mark.parametrize("prefix, count", [(0, 196), (1, 197), (2, 198), (5, 201)])
def test_without_a_patch_embedding_the_shape_of_the_inputs_tells(prefix, count):
    assert layout_of(torch.zeros(1, count, 8), (224, 224)) == Tokens(prefix, (16, 16))


def test_tokens_follow_inputs_of_another_size():
    tokens = Tokens(prefix=1, stride=(16, 16))
    for size, grid in {(224, 224): (14, 14), (96, 160): (6, 10), (100, 170): (7, 11)}.items():
        assert tokens(torch.zeros(2, 1 + grid[0] * grid[1], 8), size).shape == (2, 8, *grid)
    # Overlapping patches, 16 pixels wide at every 10: 21 x 21 at 224, 44 x 44 at 448.
    overlapping = Tokens(prefix=1, stride=(224 / 21, 224 / 21))
    assert overlapping(torch.zeros(2, 1 + 44 * 44, 8), (448, 448)).shape == (2, 8, 44, 44)


def test_tokens_that_form_no_grid_are_refused():
    with pytest.raises(ValueError, match=r"197 patch tokens.*\(224, 224\).*layers="):
        Tokens(prefix=0, stride=(16, 16))(torch.zeros(1, 197, 8), (224, 224))


CHANNELS = {  # shape, size of the inputs, and where the channels are
    "stage 3 of Swin": ((1, 14, 14, 384), (224, 224), ChannelsLast),
    "stage 3 of ConvNeXt": ((1, 384, 14, 14), (224, 224), ChannelsFirst),
    "narrow, last": ((1, 6, 10, 8), (96, 160), ChannelsLast),
    "narrow, first": ((1, 8, 6, 10), (96, 160), ChannelsFirst),
    "a volume, last": ((1, 4, 6, 8, 5), (16, 24, 32), ChannelsLast),
    "a volume, first": ((1, 5, 4, 6, 8), (16, 24, 32), ChannelsFirst),
    "a long signal": ((1, 64, 16), (32,), ChannelsFirst),
}


@pytest.mark.parametrize("shape, size, kind", CHANNELS.values(), ids=CHANNELS.keys())
def test_the_shape_of_a_map_tells_where_its_channels_are(shape, size, kind):
    assert isinstance(layout_of(torch.zeros(shape), size), kind)
    assert layout_of(torch.zeros(shape), size)(torch.zeros(shape), size).shape[1] == (
        shape[1] if kind is ChannelsFirst else shape[-1]
    )


class Cube(nn.Module):
    """A map with as many channels as rows and columns, channels last for whoever reads it."""

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.patches, self.mix, self.last = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 8), last
        self.order = nn.Identity() if last else Movedim()

    def forward(self, inputs):
        maps = self.mix(self.patches(inputs).movedim(1, -1))
        return self.order(maps).mean((1, 2) if self.last else (2, 3))


class Movedim(nn.Module):
    def forward(self, maps):
        return maps.movedim(-1, 1)


@pytest.mark.parametrize(
    "last, layer, kind", [(True, "mix", ChannelsLast), (False, "order", ChannelsFirst)]
)
def test_where_the_shape_says_nothing_a_narrower_picture_does(last, layer, kind):
    network = Cube(last)
    (layout,) = MaskingModel(network, [layer], example_inputs=torch.zeros(1, 3, 32, 32)).layouts
    assert isinstance(layout, kind)


class ClassToken(nn.Module):
    """A transformer that reads its class token alone, or the mean of its patches."""

    def __init__(self, mean: bool, depth: int = 6, prefix: int = 1) -> None:
        super().__init__()
        self.patches, self.mean, self.prefix = nn.Conv2d(3, 8, 4, 4), mean, prefix
        layers = [nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(depth)]
        self.blocks = nn.Sequential(*layers)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 4)
        nn.init.zeros_(self.head.weight)  # as torchvision's starts

    def forward(self, inputs):
        patches = self.patches(inputs).flatten(2).transpose(1, 2)
        tokens = torch.cat([patches.new_ones(patches.shape[0], self.prefix, 8), patches], dim=1)
        tokens = self.norm(self.blocks(tokens))
        return self.head(tokens.mean(1) if self.mean else tokens[:, 0])


def test_a_transformer_is_read_at_its_last_block_whose_patches_reach_the_logits():
    example = torch.zeros(1, 3, 12, 20)
    assert find_layers(ClassToken(mean=True), example) == ["blocks.3", "blocks.5"]
    assert find_layers(ClassToken(mean=False), example) == ["blocks.2", "blocks.4"]
    assert find_layers(ClassToken(mean=False), example, count=1) == ["blocks.4"]
    assert find_layers(ClassToken(mean=True, depth=12), example) == ["blocks.7", "blocks.11"]


def test_a_transformer_of_one_block_that_uses_its_class_token_is_read_before_it():
    (layer,) = find_layers(ClassToken(mean=False, depth=1), torch.zeros(1, 3, 12, 20))
    assert layer == "patches"


def test_the_masks_of_a_transformer_are_laid_out_like_its_inputs():
    # Attention passes nothing on from patch to patch in a block without weights: each token then
    # says what its own patch shows, and so does the masker's grid.
    network = ClassToken(mean=True).eval()
    for block in network.blocks:
        nn.init.zeros_(block.self_attn.out_proj.weight)
    model = MaskingModel(network, example_inputs=torch.zeros(1, 3, 12, 20)).eval()
    picture = torch.zeros(1, 3, 12, 20)
    (before,), (_, height, width) = model.read((picture,))[1].maps[:1], (0, 2, 1)
    picture[..., 4 * height : 4 * height + 4, 4 * width : 4 * width + 4] = 1
    (after,) = model.read((picture,))[1].maps[:1]
    assert before.shape == (1, 8, 3, 5)
    changed = (after - before).abs().amax((0, 1)) > 1e-6
    assert changed.nonzero().tolist() == [[height, width]]


def test_a_network_that_names_its_stages_is_read_there():
    network = cnn()
    network.feature_info = [{"module": "0", "num_chs": 6}, {"module": "4", "num_chs": 8}]
    assert find_layers(network, torch.zeros(1, 3, 16, 16)) == ["0", "4"]


def test_layouts_are_decided_once_whatever_is_explained_later():
    model = MaskingModel(ClassToken(mean=False), example_inputs=torch.zeros(1, 3, 12, 20))
    layouts = model.layouts
    assert model.mask(torch.rand(2, 3, 20, 12)).shape == (2, 1, 20, 12)
    assert model.layouts is layouts


def test_without_a_dry_run_every_call_tells_the_same_and_writes_nothing():
    made = MaskingModel(ClassToken(mean=False), example_inputs=torch.zeros(1, 3, 12, 20)).eval()
    again = MaskingModel(made.classifier, made.layers, masker=made.masker).eval()
    images = torch.rand(2, 3, 12, 20)
    assert torch.equal(again.mask(images), made.mask(images))
    assert again.layouts is None


def test_a_saved_transformer_is_loaded_with_the_same_masks(tmp_path):
    made = MaskingModel(ClassToken(mean=False), example_inputs=torch.zeros(1, 3, 12, 20)).eval()
    made.save(tmp_path / "model")
    loaded = MaskingModel.load(tmp_path / "model", made.classifier.eval())
    images = torch.rand(2, 3, 12, 20)
    assert torch.equal(loaded.mask(images), made.mask(images))


# One pass.


def test_taps_give_the_answer_and_the_maps_in_the_order_of_the_names(images):
    network = cnn().eval().to(images.device)
    logits, (late, early) = Taps(network, ["5", "2"])(images)
    assert torch.equal(logits, network(images))
    assert torch.equal(early, network[:3](images)) and torch.equal(late, network[:6](images))


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


# What a module takes.


class Twice(nn.Module):
    """One activation runs twice, so that only the pooling tells where the last map is."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 8, 3, 2, 1)
        self.relu, self.pool = nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 4)

    def last_map(self, inputs: Tensor) -> Tensor:
        return self.relu(self.second(self.relu(self.first(inputs))))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.fc(self.pool(self.last_map(inputs)).flatten(1))


def test_taps_read_what_a_module_takes(images):
    network = Twice().to(images.device)
    before = everything(network)["hooks"]
    logits, (late, early) = Taps(network, ["pool.input", "first"])(images)
    assert torch.equal(logits, network(images)) and early.shape[1:] == (6, 8, 8)
    assert torch.equal(late, network.last_map(images))
    assert everything(network)["hooks"] == before


@pytest.mark.parametrize("grad", [True, False])
def test_the_logits_can_be_differentiated_by_what_a_module_takes(images, grad):
    network = Twice().to(images.device)
    with torch.set_grad_enabled(grad):
        logits, (late,) = Taps(network, ["pool.input"])(images, traced="pool.input")
    (slope,) = torch.autograd.grad(logits[:, 1].sum(), late)
    expected = network.fc.weight[1, :, None, None] / 16  # of 4 x 4 cells
    torch.testing.assert_close(slope, expected.expand_as(slope))
    assert torch.equal(late, network.last_map(images))


def test_a_child_that_is_called_input_is_read_itself(images):
    network = nn.Sequential()
    network.add_module("stem", nn.Sequential())
    network.stem.add_module("input", nn.Conv2d(3, 5, 1))
    _, (map,) = Taps(network.to(images.device), ["stem.input"])(images)
    assert torch.equal(map, network(images))


def test_the_input_of_a_module_that_runs_twice_is_refused(images):
    with pytest.raises(RuntimeError, match=r"'relu.input' ran 2 times"):
        Taps(Twice().to(images.device), ["relu.input"])(images)
    with pytest.raises(ValueError, match=r"no 'spool.input'; nearest: pool"):
        Taps(Twice(), ["spool.input"])


def test_a_module_that_takes_its_map_by_keyword_is_refused_in_words(images):
    network = Twice().to(images.device)
    network.forward = lambda inputs: network.fc(network.pool(input=inputs).mean((2, 3)))
    with pytest.raises(TypeError, match=r"'pool.input' to take a map first, by position"):
        Taps(network, ["pool.input"])(images)


def test_what_other_threads_give_a_module_is_not_read(images):
    class Busy(Twice):
        def last_map(self, inputs: Tensor) -> Tensor:
            with ThreadPoolExecutor(1) as pool:
                pool.submit(self.pool, torch.zeros(1, 8, 2, 2)).result()
            return super().last_map(inputs)

    network = Busy().to(images.device)
    _, (map,) = Taps(network, ["pool.input"])(images)
    assert torch.equal(map, network.last_map(images))


@pytest.mark.parametrize("aware", [True, False])
def test_a_model_on_what_a_module_takes_is_saved_and_exported(images, tmp_path, aware):
    network = Twice().to(images.device).eval()
    model = MaskingModel(network, ["first", "pool.input"], target_aware=aware).eval()
    model.save(tmp_path)
    loaded = MaskingModel.load(tmp_path, network)
    assert loaded.layers == ("first", "pool.input")
    assert torch.equal(loaded.mask(images), model.mask(images))
    if not aware:
        assert torch.equal(copy.deepcopy(HeatmapModule(model))(images)[1], model.mask(images))


# What is pooled.


def last_conv(*head: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1), *head)


class ConcatPool(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mean, self.most = nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1)

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat([self.mean(maps), self.most(maps)], 1)


def written_to(classifier: nn.Sequential) -> nn.Module:
    """The output of its last convolution is rectified in place, by a function, and then pooled."""
    classifier.forward = lambda inputs: classifier[3](classifier[:3](inputs).relu_())
    return classifier


POOLED = {
    "the module that makes it": (last_conv(nn.AdaptiveAvgPool2d(1)), "2"),
    "an activation in place": (last_conv(nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1)), "3"),
    "behind dropout": (last_conv(nn.Dropout(), nn.AvgPool2d(4)), "2"),
    "one activation for all": (Twice(), "pool.input"),
    "written to by a function": (written_to(last_conv(nn.AdaptiveAvgPool2d(1))), "3.input"),
    "two poolings in one": (written_to(last_conv(ConcatPool())), "3.input"),
    "one pooling for some cells": (last_conv(nn.AdaptiveAvgPool2d(2)), None),
    "no pooling": (last_conv(nn.Flatten()), None),
    "maps after the pooling": (
        last_conv(nn.AdaptiveAvgPool2d(1), nn.Upsample(scale_factor=4), nn.Flatten()),
        None,
    ),
}


@pytest.mark.parametrize("case", POOLED)
def test_the_map_that_a_classifier_pools_is_named(case):
    network, expected = POOLED[case]
    before = everything(network)["hooks"]
    for mode in (torch.enable_grad, torch.inference_mode):
        with mode():
            assert pooled_map(network, torch.zeros(2, 3, 16, 16)) == expected
    assert everything(network)["hooks"] == before


@pytest.mark.parametrize(
    ("name", "expected"),
    [("resnet18", "layer4"), ("squeezenet1_1", "classifier.2"), ("densenet121", None)],
)
def test_the_map_that_a_torchvision_network_pools_is_named(name, expected):
    assert pooled_map(torchvision_network(name), torch.zeros(1, 3, 64, 64)) == expected


def test_two_poolings_of_one_map_are_one_only_where_a_module_makes_it():
    network = last_conv(nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1))
    for before, expected in ((nn.Identity(), "2"), (nn.functional.relu_, None)):
        pooled = lambda maps: network[3](maps) + network[4](maps)  # noqa: E731
        network.forward = lambda x, f=before, pooled=pooled: pooled(f(network[:3](x)))
        assert pooled_map(network, torch.zeros(1, 3, 16, 16)) == expected


# What cannot be tapped.


def test_a_layer_that_does_not_exist_is_named_beside_the_nearest_ones():
    network = nn.Sequential()
    network.add_module("layer3", nn.Conv2d(1, 1, 1))
    network.add_module("layer4", nn.Conv2d(1, 1, 1))
    with pytest.raises(ValueError, match=r"no 'layer5'.*layer4.*named_modules"):
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


HIDDEN = ["lambda", "bound method", "traced", "scripted", "exported", "compiled"]


@pytest.mark.parametrize("disguise", HIDDEN)
def test_a_masking_model_of_a_classifier_without_hooks_names_the_cures(disguises, disguise):
    with pytest.raises(TypeError, match=r"example_inputs=.*StandaloneMasker"):
        MaskingModel(disguises[disguise])


@pytest.mark.parametrize("disguise", HIDDEN)
def test_given_an_example_a_classifier_without_hooks_gets_a_masker_with_its_own_encoder(
    disguises, images, disguise
):
    classifier, pair = disguises[disguise], images[:2]
    given = MaskingModel(classifier, masker=StandaloneMasker([3]).to(pair.device)).eval()
    model = MaskingModel(classifier, example_inputs=pair).eval()
    for each in (given, model):
        assert each.layers == () and isinstance(each.masker, StandaloneMasker)
        logits, mask = each.explain(pair)
        assert torch.equal(logits, classifier(pair)) and mask.shape == (2, 1, 16, 16)
        assert MaskingSaliency(each).attribute(pair, target=1).shape == pair.shape


@pytest.mark.parametrize("disguise", HIDDEN)
def test_a_masker_with_its_own_encoder_learns_from_a_classifier_it_cannot_see(
    disguises, images, labels, disguise
):
    model = MaskingModel(disguises[disguise], example_inputs=images[:2])
    weights, before = disguises["module"].state_dict(), copy.deepcopy(model.masker)
    kept = {name: value.clone() for name, value in weights.items()}
    MaskingTrainer(model, train_classifier=False).step(images, labels)
    assert all(torch.equal(weights[name], kept[name]) for name in kept)
    pairs = zip(model.masker.parameters(), before.parameters(), strict=True)
    assert all(not torch.equal(after, before) for after, before in pairs)
    assert all(parameter.grad is None for parameter in disguises["module"].parameters())


def test_a_classifier_without_a_layer_to_read_gets_one_too(quadrants, images):
    model = MaskingModel(quadrants, example_inputs=images)
    assert isinstance(model.masker, StandaloneMasker) and model.mask(images).shape == (6, 1, 16, 16)


def test_a_masker_with_its_own_encoder_never_looks_at_the_layers(classifier, images):
    model = MaskingModel(classifier, masker=StandaloneMasker)
    assert model.layers == () and model.classifier is classifier
    assert model.mask(images).shape == (6, 1, 16, 16)


def test_an_own_encoder_asks_for_class_and_size_as_any_masker(classifier, images):
    model = MaskingModel(classifier, masker=partial(StandaloneMasker, classes=4, sized=True)).eval()
    one, other = (model.mask(images, target=torch.full((6,), t), area=0.3) for t in (0, 3))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("dims", [1, 3])
def test_an_own_encoder_reads_signals_and_volumes(dims):
    inputs = torch.randn(2, 2, *[11] * dims)
    classifier = cnn(2, dims=dims)
    model = MaskingModel(lambda inputs: classifier(inputs), example_inputs=inputs)
    assert model.mask(inputs).shape == (2, 1, *[11] * dims)


# Vectors.


def mlp() -> nn.Sequential:
    layers = nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 4)
    return nn.Sequential(*layers)


def test_a_network_of_vectors_is_read_at_its_last_hidden_activations():
    assert find_layers(mlp(), torch.zeros(2, 10)) == ["1", "3"]
    assert find_layers(mlp(), torch.zeros(2, 10), count=1) == ["3"]


@pytest.mark.parametrize("hidden", [True, False], ids=["layers", "function"])
def test_vectors_get_one_mask_value_for_each_element(hidden):
    network, inputs = mlp(), torch.randn(5, 10)
    model = MaskingModel(network if hidden else network.forward, example_inputs=inputs).eval()
    logits, mask = model.explain(inputs)
    assert torch.equal(logits, network(inputs))
    assert mask.shape == (5, 10) and 0 <= mask.min() <= mask.max() <= 1
    assert len(mask[0].unique()) == 10 and not torch.equal(mask[0], mask[1])
    alone = torch.cat([model.mask(row[None]) for row in inputs])
    torch.testing.assert_close(mask, alone, atol=1e-5, rtol=0)
    assert torch.equal(MaskingSaliency(model).attribute(inputs, target=1), mask)


def test_masks_of_vectors_are_trained_to_keep_the_one_element_that_decides():
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():  # the sign of element 2 is the class, through two of the hidden units
        for parameter in network.parameters():
            parameter.zero_()
        network[0].weight[0, 2], network[0].weight[1, 2] = -5.0, 5.0
        network[2].weight[0, 0], network[2].weight[1, 1] = 1.0, 1.0
    inputs = torch.randn(64, 6)
    inputs[:, 2] = inputs[:, 2].sign() * (1 + inputs[:, 2].abs())
    model = MaskingModel(network, example_inputs=inputs)
    trainer = MaskingTrainer(
        model, train_classifier=False, regularizer=Area(weight_in=2.0, weight_out=2.0), lr=1e-2
    )
    trainer.fit([(inputs, (inputs[:, 2] > 0).long())] * 50, epochs=4, show_progress=False)
    mean = model.eval().mask(inputs).mean(0)
    assert mean[2] > 0.8 and mean[[0, 1, 3, 4, 5]].max() < 0.3


@pytest.mark.parametrize("shape", [(10,), ()])
def test_a_vector_without_a_batch_is_refused(shape):
    model = MaskingModel(mlp(), example_inputs=torch.zeros(2, 10))
    with pytest.raises(ValueError, match=r"\(B, F\).*inputs\[None\]"):
        model.mask(torch.zeros(shape))


# ---- Layers that run more than once in a pass


class Mirrored(nn.Module):
    """Looks at a mirrored copy too, one after the other or stacked; perhaps behind a stem."""

    def __init__(self, *, stacked: bool = False, stem: nn.Module | None = None) -> None:
        super().__init__()
        self.stem, self.network, self.stacked = stem or nn.Identity(), cnn(), stacked

    def forward(self, inputs: Tensor) -> Tensor:
        maps = self.stem(inputs)
        if self.stacked:
            return sum(self.network(torch.cat([maps, maps.flip(-1)])).chunk(2))
        return (self.network(maps) + self.network(maps.flip(-1))) / 2


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = cnn()

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return self.network(one) - self.network(other)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.cell, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        maps = self.first(inputs)
        for _ in range(3):
            maps = self.cell(maps).relu()
        return self.last(maps.mean((2, 3)))


@pytest.mark.parametrize(
    ("network", "layer", "times"),
    [(Mirrored(), "network.5", 2), (Recurrent(), "cell", 3), (Siamese(), "network.5", 2)],
)
@pytest.mark.parametrize("target_aware", [False, True])
def test_a_named_layer_that_runs_more_than_once_is_refused(network, layer, times, target_aware):
    inputs = (torch.randn(2, 3, 16, 16),) * (2 if isinstance(network, Siamese) else 1)
    with pytest.raises(RuntimeError, match=f"once.*'{layer}' ran {times} times.*inside the module"):
        MaskingModel(network, [layer], example_inputs=inputs, target_aware=target_aware)


def test_a_layer_that_comes_to_run_twice_is_refused_when_it_does():
    model = MaskingModel(cnn(), ["2", "5"])
    model.classifier, model.layers = Mirrored(), ("network.2", "network.5")
    with pytest.raises(RuntimeError, match="ran 2 times"):
        MaskingSaliency(model).attribute(torch.randn(1, 3, 16, 16))


def test_a_layer_that_sees_several_views_stacked_is_refused():
    with pytest.raises(RuntimeError, match=r"'network.2' gave 4 for 2: .*inside the module"):
        MaskingModel(Mirrored(stacked=True), ["network.2"], example_inputs=torch.ones(2, 3, 16, 16))


@pytest.mark.parametrize("stacked", [False, True])
def test_no_layer_is_guessed_where_all_run_more_than_once_and_the_cause_is_named(stacked):
    with pytest.raises(NoMapsError, match=r"more than once or on several views \(network.0"):
        MaskingModel(Mirrored(stacked=stacked))
    with pytest.warns(UserWarning, match="own encoder.*gets its own encoder"):
        model = MaskingModel(Mirrored(stacked=stacked), example_inputs=torch.ones(2, 3, 16, 16))
    assert not model.layers and model.mask(torch.ones(2, 3, 16, 16)).shape == (2, 1, 16, 16)


def test_deeper_layers_that_run_more_than_once_are_passed_over_in_words():
    network = Mirrored(stem=nn.Conv2d(3, 3, 3))
    with pytest.warns(UserWarning, match=r"reads \['stem'\].*more than once per pass: network.0"):
        assert find_layers(network, torch.ones(1, 3, 16, 16)) == ["stem"]


def test_shared_activations_and_heads_are_no_reason_for_words(recwarn):
    network = cnn()
    network[5] = network[2]  # as in torchvision's blocks
    assert find_layers(network, torch.ones(1, 3, 16, 16)) == ["1", "4"]
    assert not recwarn.list


def test_what_may_be_the_answer_beside_what_is_taken_is_said_or_refused():
    scores, wide, loss = torch.zeros(4), torch.zeros(4, 16), torch.zeros(())
    with pytest.warns(UserWarning, match="a number per example beside"):
        assert logits_of((scores, wide)) is wide
    assert logits_of((loss, (wide,))) is wide
    with pytest.raises(TypeError, match="must return logits"):
        logits_of(((torch.zeros(4, 5),), wide))
