"""Promises about the paper's own checkpoints: what they become, and what is never run."""

from __future__ import annotations

import os
import pickle
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet18, resnet50

from captum_masking import MaskingModel
from captum_masking.model.files import CheckpointError
from captum_masking.model.published import load_published
from captum_masking.parts.sampler import GumbelSigmoid, Sigmoid

# Values of the published masker. Ours are its 1x1 weights and its features turned together into
# the 64 directions the weights read, of 1,024 and 2,048: their products stay what they were.
TURNED = Path(__file__).parent / "published_masker.npz"
WHOLE = Path(__file__).parents[2] / "shared" / "spec" / "published_masker.npz"
CHANNELS = (64, 256, 512, 1024, 2048)
CLASSES = 7
ARGS = {"masker_use_layers": "3,4", "epochs": 60, "lr": 0.001, "infill": None}


@pytest.fixture(scope="session")
def classifier() -> dict[str, Tensor]:
    """Weights of a ResNet-50 that make a small file: all are views of one random row."""
    with torch.device("meta"):
        state = resnet50(weights=None, num_classes=CLASSES).state_dict()
    row = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    weights = {}
    for name, value in state.items():
        view = row.as_strided(value.shape, [1] * value.dim())
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(3)
        elif value.dim() > 1:
            fan_in = value[0].numel()
            weights[name] = (row / 4 / fan_in**0.5).as_strided(value.shape, [1] * value.dim())
        else:
            weights[name] = view.abs() + 0.5 if "var" in name else 1 + 0.1 * view
    return weights


def masker(layers: list[int], told: int = 0) -> dict[str, Tensor]:
    """Random weights under the published names; ``told`` channels are appended to each map."""
    state = {}
    for layer in layers:
        name = f"conv1x1_{layer}"
        if layer or len(layers) == 1:
            fan_in = CHANNELS[layer] + told
            state[f"{name}.0.weight"] = torch.randn(64, fan_in, 1, 1) / fan_in**0.5
            state[f"{name}.1.weight"] = torch.rand(64) + 0.5
            state[f"{name}.1.bias"] = torch.randn(64) / 4
            state[f"{name}.1.running_mean"] = torch.randn(64) / 4
            state[f"{name}.1.running_var"] = torch.rand(64) + 0.5
            state[f"{name}.1.num_batches_tracked"] = torch.tensor(5)
    state["final.0.weight"] = torch.randn(1, 64 * len(layers), 3, 3) / 20
    state["final.0.bias"] = torch.randn(1) / 20
    return state


@pytest.fixture
def content(classifier) -> dict:
    return {
        "epoch": 60,
        "state_dict_classifier": classifier,
        "state_dict_masker": masker([3, 4]),
        "optimizer_classifier": {"state": {}, "param_groups": [{"lr": 0.001}]},
        "optimizer_masker": {"state": {}, "param_groups": [{"lr": 0.001}]},
        "args": dict(ARGS),
    }


@pytest.fixture
def load(tmp_path):
    """Save something as the published code would, and load it as ours does."""

    def save_and_load(content, **options) -> MaskingModel:
        torch.save(content, tmp_path / "ca.chk", **options)
        return load_published(tmp_path / "ca.chk")

    return save_and_load


def published_mask(
    network: nn.Module, state: dict[str, Tensor], layers: list[int], images: Tensor, mode: str
) -> Tensor:
    """Compute the published mask step by step, as in the paper's table of layers."""
    maps = [network.maxpool(network.relu(network.bn1(network.conv1(images))))]
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        maps.append(stage(maps[-1]))
    joined = []
    for layer in layers:
        plane = maps[layer]
        if layer or len(layers) == 1:
            w = {key.split(".", 1)[1]: v for key, v in state.items() if f"1x1_{layer}." in key}
            plane = F.conv2d(plane, w["0.weight"])
            plane = (plane - w["1.running_mean"].reshape(1, 64, 1, 1)) / (
                w["1.running_var"].reshape(1, 64, 1, 1) + 1e-5
            ).sqrt()
            plane = plane * w["1.weight"].reshape(1, 64, 1, 1) + w["1.bias"].reshape(1, 64, 1, 1)
            times = 2 ** max(layer - 1, 0)
            plane = F.interpolate(
                plane.clamp(min=0), scale_factor=times, mode="bilinear", align_corners=False
            )
        joined.append(plane)
    logits = F.conv2d(torch.cat(joined, 1), state["final.0.weight"], state["final.0.bias"], 1, 1)
    corners = {} if mode == "nearest" else {"align_corners": False}
    return F.interpolate(logits.sigmoid(), scale_factor=4, mode=mode, **corners)


# The published values.


def assert_published_mask(model: MaskingModel, oracle: dict[str, np.ndarray]) -> None:
    features = [torch.from_numpy(oracle[name]).double() for name in ("layer3", "layer4")]
    features = [
        F.pad(maps, (0, 0, 0, 0, 0, CHANNELS[layer] - maps.shape[1]))
        for layer, maps in zip((3, 4), features, strict=True)
    ]
    with torch.no_grad():
        mask = model.sampler(model.masker.double()(features, (56, 56)))
    expected = torch.from_numpy(oracle["mask_56"]).double()
    # Logits reach +-95: rounded to float32, as the published ones are, they are 4e-6 off, and so
    # are masks near 1/2; masks near 0 are by ten times that, relative to themselves.
    torch.testing.assert_close(mask, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(mask.log(), expected.log(), rtol=1e-5, atol=1e-5)
    assert (mask - expected).norm() < 1e-5 * expected.norm()


def test_the_masker_gives_the_published_mask_for_turned_features(content, load):
    oracle = dict(np.load(TURNED))
    names = [name for name in oracle if name.startswith("weights/")]
    state = {name.removeprefix("weights/"): torch.from_numpy(oracle[name]) for name in names}
    for layer in (3, 4):
        weight = state[f"conv1x1_{layer}.0.weight"]
        padding = (0, 0, 0, 0, 0, CHANNELS[layer] - weight.shape[1])
        state[f"conv1x1_{layer}.0.weight"] = F.pad(weight, padding)
    assert_published_mask(load(content | {"state_dict_masker": state}), oracle)


@pytest.mark.skipif(not WHOLE.exists(), reason="needs the published weights, which are not here")
def test_the_masker_gives_the_published_mask(content, load):
    oracle = dict(np.load(WHOLE))
    names = [name for name in oracle if name.startswith("weights/")]
    state = {name.removeprefix("weights/"): torch.from_numpy(oracle[name]) for name in names}
    assert_published_mask(load(content | {"state_dict_masker": state}), oracle)


@pytest.mark.parametrize(
    "layers, mode",
    [([3, 4], "nearest"), ([0, 1, 2, 3, 4], "nearest"), ([1, 2], "bilinear"), ([0], "nearest")],
)
def test_the_mask_equals_a_step_by_step_computation(content, load, layers, mode):
    state = masker(layers)
    args = {"masker_use_layers": ",".join(map(str, layers)), "upsample": mode}
    model = load(content | {"state_dict_masker": state, "args": args})
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        mask = model.mask(images)
        expected = published_mask(model.classifier, state, layers, images, mode)
    assert mask.std() > 0.01
    torch.testing.assert_close(mask, expected, rtol=1e-5, atol=1e-5)


def test_the_classifier_is_the_one_in_the_file(content, load):
    network = resnet50(weights=None, num_classes=CLASSES).eval()
    network.load_state_dict(content["state_dict_classifier"])
    images = torch.randn(2, 3, 64, 64)
    model = load(content)
    with torch.no_grad():
        assert torch.equal(model(images), network(images))


# What a loaded model is.


def test_the_mask_is_constant_on_blocks_of_4_by_4_pixels(content, load):
    with torch.no_grad():
        mask = load(content).mask(torch.rand(1, 3, 224, 224))
    assert mask.shape == (1, 1, 224, 224)
    blocks = mask.reshape(56, 4, 56, 4)
    assert torch.equal(blocks, blocks[:, :1, :, :1].expand_as(blocks))
    assert len(mask.unique()) > 100


def test_a_loaded_model_can_be_saved_with_its_classifier_and_loaded_again(content, load, tmp_path):
    model, images = load(content), torch.randn(1, 3, 64, 64)
    model.save(tmp_path / "model")
    again = MaskingModel.load(tmp_path / "model", resnet50(weights=None, num_classes=CLASSES))
    with torch.no_grad():
        for ours, theirs in zip(again.explain(images), model.explain(images), strict=True):
            assert torch.equal(ours, theirs)


def test_a_loaded_model_is_in_eval_mode_and_can_be_trained_further(content, load):
    model = load(content)
    assert not any(module.training for module in model.modules())
    parameters = list(model.parameters())
    assert all(p.requires_grad and p.device.type == "cpu" for p in parameters)
    starts = {p.untyped_storage().data_ptr() for p in parameters}
    assert len(starts) == len(parameters)  # in the file they share memory
    assert all(p.is_contiguous() for p in parameters)


def test_the_front_door_loads_published_checkpoints(content, tmp_path):
    torch.save(content, tmp_path / "ca.chk")
    model = load_published(tmp_path / "ca.chk")
    assert model.layers == ("layer3", "layer4") and model.classifier_trained


def test_loading_leaves_the_random_state_alone(content, load):
    before = torch.get_rng_state()
    load(content)
    assert torch.equal(torch.get_rng_state(), before)


# Forms of the file.


def masks_of(model: MaskingModel) -> Tensor:
    with torch.no_grad():
        return model.mask(torch.ones(1, 3, 32, 32).cumsum(3) / 16)


def older_names(content: dict) -> dict:
    rest = {key: value for key, value in content.items() if key != "state_dict_masker"}
    return rest | {"state_dict_decoder": content["state_dict_masker"]}


def data_parallel(content: dict) -> dict:
    keys = "state_dict_classifier", "state_dict_masker"
    return content | {key: {f"module.{n}": v for n, v in content[key].items()} for key in keys}


def uncounted(content: dict) -> dict:
    keys = "state_dict_classifier", "state_dict_masker"
    kept = {k: {n: v for n, v in content[k].items() if "batches" not in n} for k in keys}
    return content | kept


def parameters(content: dict) -> dict:
    state = content["state_dict_masker"]
    return content | {
        "state_dict_masker": {
            name: nn.Parameter(value, requires_grad=value.is_floating_point())
            for name, value in state.items()
        }
    }


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content | {"args": Namespace(**ARGS)},
        lambda content: content | {"args": Namespace(**ARGS, nested=Namespace(a=[1, (2, "b")]))},
        lambda content: content | {"args": None},
        lambda content: content | {"args": {"masker_use_layers": None}},
        lambda content: content | {"args": {"masker_use_layers": [3, 4]}},
        lambda content: content | {"args": {"masker_use_layers": "all of them"}},
        lambda content: {key: value for key, value in content.items() if key != "args"},
        older_names,
        data_parallel,
        uncounted,
        parameters,
    ],
    ids=["namespace", "nested namespaces", "args None", "no layers", "list of layers", "other"]
    + ["no args", "older names", "data parallel", "batches not counted", "parameters"],
)
def test_every_form_of_the_content_gives_the_same_masker(content, load, change):
    loaded = load(change(content))
    expected = {
        name.replace("conv1x1_3", "reduce.0").replace("conv1x1_4", "reduce.1"): value
        for name, value in content["state_dict_masker"].items()
    }
    expected = {name.replace("final.0", "final"): value for name, value in expected.items()}
    state = loaded.masker.state_dict()
    assert state.keys() == expected.keys() and loaded.layers == ("layer3", "layer4")
    for name in state:
        assert "batches" in name or torch.equal(state[name], expected[name]), name


@pytest.mark.parametrize("args", [dict(ARGS), Namespace(**ARGS)], ids=["dict", "namespace"])
def test_the_older_format_of_files_gives_the_same_model(content, load, args):
    models = [
        load(content | {"args": args}, _use_new_zipfile_serialization=zipped)
        for zipped in (True, False)
    ]
    assert torch.equal(*map(masks_of, models))


def test_weights_in_half_precision_become_floats(content, load):
    state = content["state_dict_masker"]
    halves = {n: v.half() if v.is_floating_point() else v for n, v in state.items()}
    model = load(content | {"state_dict_masker": halves})
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("key", ["upsample", "final_upsample_mode"])
def test_the_final_upsampling_is_read_under_either_key(content, load, key):
    mask = masks_of(load(content | {"args": ARGS | {key: "bilinear"}}))
    blocks = mask.reshape(8, 4, 8, 4)
    assert not torch.equal(blocks, blocks[:, :1, :, :1].expand_as(blocks))


def test_a_masker_that_is_told_a_size_asks_for_one(content, load):
    model = load(content | {"state_dict_masker": masker([3, 4], told=1)})
    images = torch.rand(2, 3, 32, 32)
    assert model.sized and not model.target_aware
    assert not torch.equal(model.mask(images, area=0.3), model.mask(images, area=0.7))


def test_a_masker_that_is_told_a_class_has_the_published_number_of_parameters(content, load):
    state = masker([3, 4], told=64) | {"embedding.weight": torch.randn(1000, 64)}
    model = load(content | {"state_dict_masker": state})
    assert model.target_aware and not model.sized
    assert sum(parameter.numel() for parameter in model.masker.parameters()) == 270_209
    images = torch.rand(2, 3, 32, 32)
    masks = [model.mask(images, target=torch.tensor([k, k])) for k in (0, 1)]
    assert not torch.equal(*masks)


# Gumbel heads.


def test_without_gumbel_in_the_args_the_mask_is_a_sigmoid(content, load):
    assert isinstance(load(content | {"args": ARGS | {"apply_gumbel": False}}).sampler, Sigmoid)


def test_a_gumbel_head_is_binary_once_loaded(content, load):
    args = ARGS | {"apply_gumbel": True, "apply_gumbel_tau": 0.5}
    model, soft = load(content | {"args": args}), load(content)
    assert isinstance(model.sampler, GumbelSigmoid)
    assert repr(model.sampler) == repr(GumbelSigmoid(0.5))
    assert torch.equal(masks_of(model), (masks_of(soft) > 0.5).float())


@pytest.mark.parametrize(
    "more, expected",
    [
        ({}, GumbelSigmoid(0.1)),
        ({"gumbel_tau": 0.3, "gumbel_output_mode": "soft"}, GumbelSigmoid(0.3, hard=False)),
        ({"tau": -1}, GumbelSigmoid(0.1, learnable=True)),
    ],
    ids=["default", "soft", "learnable"],
)
def test_the_temperature_and_the_mode_come_from_the_args(content, load, more, expected):
    model = load(content | {"args": ARGS | {"apply_gumbel": True} | more})
    assert repr(model.sampler) == repr(expected)


def test_a_learned_temperature_comes_from_the_weights(content, load):
    state = content["state_dict_masker"] | {"gumbel.tau": torch.tensor([0.25])}
    args = ARGS | {"apply_gumbel": True, "tau": -1}
    model = load(content | {"state_dict_masker": state, "args": args})
    assert repr(model.sampler) == repr(GumbelSigmoid(0.25, learnable=True))


# What is never run.


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older format"])
@pytest.mark.parametrize(
    "hide",
    [
        lambda content, bomb: bomb,
        lambda content, bomb: content | {"args": bomb},
        lambda content, bomb: content | {"args": Namespace(**ARGS, more=bomb)},
        lambda content, bomb: content | {"state_dict_masker": {"final.0.bias": bomb}},
    ],
    ids=["the file", "args", "in the namespace", "a weight"],
)
def test_a_malicious_pickle_is_named_and_does_not_run(content, load, tmp_path, hide, zipped):
    bomb = Bomb(tmp_path / "boom")
    with pytest.raises(CheckpointError, match=rf"ca\.chk.*pickled {os.name}\.mkdir.*can run code"):
        load(hide(content, bomb), _use_new_zipfile_serialization=zipped)
    assert not (tmp_path / "boom").exists()
    pickle.loads(pickle.dumps(bomb))
    assert (tmp_path / "boom").exists()  # it would have


def test_a_bare_malicious_pickle_does_not_run(tmp_path):
    (tmp_path / "ca.chk").write_bytes(pickle.dumps(Bomb(tmp_path / "boom"), protocol=2))
    with pytest.raises(CheckpointError):
        load_published(tmp_path / "ca.chk")
    assert not (tmp_path / "boom").exists()


def test_a_whole_pickled_module_is_refused(content, load):
    with pytest.raises(CheckpointError, match=r"pickled torch\.nn\.modules"):
        load(content | {"state_dict_masker": nn.Linear(1, 1)})


@pytest.mark.parametrize("before", [[], [Namespace]], ids=["not allowed before", "allowed before"])
def test_what_torch_allows_is_the_same_afterwards(content, load, before):
    with torch.serialization.safe_globals(before):
        load(content | {"args": Namespace(**ARGS)})
        assert (Namespace in torch.serialization.get_safe_globals()) == bool(before)
        with pytest.raises(CheckpointError):
            load(content | {"args": Bomb(Path("never"))})
        assert (Namespace in torch.serialization.get_safe_globals()) == bool(before)


# What is refused.


def test_a_file_that_is_not_there_or_is_a_folder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.chk: there is no file.*ca\.chk"):
        load_published(tmp_path / "none.chk")
    with pytest.raises(CheckpointError, match=r"a folder.*MaskingModel\.load"):
        load_published(tmp_path)


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: b"no checkpoint", lambda data: data[: len(data) // 2]]
)
def test_a_damaged_file_is_refused(content, tmp_path, damage):
    file = tmp_path / "ca.chk"
    torch.save(content, file)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(CheckpointError, match=r"cannot load .*ca\.chk.*torch\.load cannot read it"):
        load_published(file)


def without(content: dict, key: str, weight: str | None = None) -> dict:
    if weight is None:
        return {k: v for k, v in content.items() if k != key}
    return content | {key: {k: v for k, v in content[key].items() if k != weight}}


def with_masker(content: dict, **weights: Tensor) -> dict:
    named = {name.replace("__", "."): value for name, value in weights.items()}
    return content | {"state_dict_masker": content["state_dict_masker"] | named}


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda c: [1, 2], "expected a dict in it, but it holds a list"),
        (lambda c: {"weight": torch.zeros(1)}, r"no state_dict_classifier, only \['weight'\]"),
        (lambda c: without(c, "state_dict_masker"), "no state_dict_masker or state_dict_decoder"),
        (lambda c: c | {"state_dict_masker": [1]}, "state_dict_masker to map names to tensors"),
        (lambda c: c | {"state_dict_masker": {"a": 1}}, "to map names to tensors"),
        (lambda c: c | {"state_dict_masker": {}}, "expected a masker with conv1x1_0 to 4"),
        (lambda c: without(c, "state_dict_classifier", "fc.weight"), "no matrix fc.weight"),
        (
            lambda c: without(c, "state_dict_classifier", "layer2.0.conv1.weight"),
            r"1 weights of its classifier.*'layer2.0.conv1.weight': .*\(128, 256, 1, 1\), got none",
        ),
        (
            lambda c: c | {"state_dict_classifier": resnet18(num_classes=2).state_dict()},
            "weights of its classifier differ",
        ),
        (
            lambda c: without(c, "state_dict_masker", "conv1x1_3.1.bias"),
            r"1 weights of its masker.*'reduce.0.1.bias': expected \(64,\), got none",
        ),
        (
            lambda c: without(c, "state_dict_masker", "conv1x1_4.0.weight"),
            "no convolution conv1x1_4",
        ),
        (lambda c: without(c, "state_dict_masker", "final.0.weight"), "expected a masker"),
        (
            lambda c: with_masker(c, final__0__weight=torch.zeros(1, 100, 3, 3)),
            r"reads 100 channels, but the layers \[3, 4\]",
        ),
        (
            lambda c: with_masker(c, conv1x1_4__0__weight=torch.zeros(64, 512, 1, 1)),
            "reads 512 channels from layer 4, but ResNet-50 has 2048",
        ),
        (lambda c: with_masker(c, extra=torch.zeros(3, 3)), r"unknown use, \['extra'\]"),
        (
            lambda c: c | {"args": {"masker_use_layers": "2,4"}},
            r"layers \[2, 4\].*weights \[3, 4\]",
        ),
        (
            lambda c: c | {"args": {"masker_use_layers": "4,3"}},
            r"layers \[4, 3\].*weights \[3, 4\]",
        ),
        (lambda c: c | {"args": [3, 4]}, r"a dict or a Namespace as args, but got \[3, 4\]"),
        (lambda c: c | {"args": {"upsample": "bicubic"}}, "one final upsampling.*bicubic"),
        (
            lambda c: c | {"args": {"upsample": "nearest", "final_upsample_mode": "bilinear"}},
            "one final upsampling",
        ),
        (lambda c: c | {"state_dict_masker": masker([3, 4], told=65)}, "a class and an area"),
        (
            lambda c: c | {"state_dict_masker": masker([0, 4], told=1), "args": None},
            "cannot read layer 0",
        ),
        (lambda c: c | {"state_dict_masker": masker([3, 4], told=64)}, "weights of its masker"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_with_the_reason(content, load, change, reason):
    with pytest.raises(CheckpointError, match=rf"ca\.chk: .*{reason}.*; give a checkpoint"):
        load(change(content))
