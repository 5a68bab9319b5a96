"""The deployable module gives the model's own values: exported, traced and converted to ONNX."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from networks import assert_same, cnn, everything
from test_encoder import ClassToken, mlp
from test_families import FAMILIES, built
from torch import Tensor, nn

from captum_masking import MaskingModel
from captum_masking.model.export import HeatmapModule
from captum_masking.parts.other_maskers import StandaloneMasker

SIZES = {"cnn": (3, 20, 28), "vit": (3, 12, 20), "own encoder": (3, 20, 28), "vectors": (10,)}


def model_of(kind: str) -> MaskingModel:
    torch.manual_seed(0)
    example = torch.randn(2, *SIZES[kind])
    networks = {"cnn": cnn, "vit": lambda: ClassToken(mean=True), "own encoder": cnn}
    network = networks.get(kind, mlp)()
    options = {"masker": StandaloneMasker} if kind == "own encoder" else {}
    return MaskingModel(network, example_inputs=example, **options).eval()


@pytest.fixture(params=SIZES)
def case(request) -> tuple[MaskingModel, Tensor]:
    return model_of(request.param), torch.randn(2, *SIZES[request.param])


def assert_gives(module, model: MaskingModel, inputs: Tensor, **tolerance) -> None:
    with torch.no_grad():
        torch.testing.assert_close(tuple(module(inputs)), model.explain(inputs), **tolerance)


def test_it_gives_logits_and_mask_as_the_model_does(case):
    model, inputs = case
    assert_gives(HeatmapModule(model), model, inputs, rtol=0, atol=0)


def test_it_is_a_copy_that_leaves_the_model_alone(case):
    model, inputs = case
    model.train()
    before = everything(model)
    module = HeatmapModule(model)
    expected = module(inputs)
    assert_same(before, everything(model))
    nn.init.zeros_(next(model.classifier.parameters()))
    torch.testing.assert_close(module(inputs), expected, rtol=0, atol=0)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_it_can_be_copied_and_sent_to_another_process(case, copied):
    model, inputs = case
    twin = copied(HeatmapModule(model))
    assert_gives(twin, model, inputs)
    assert_gives(twin, model, inputs + 1)  # and reads its own layers, not the first module's


@pytest.mark.filterwarnings("ignore")
def test_it_is_exported_and_converted_to_onnx_with_the_same_values(case, tmp_path):
    model, inputs = case
    others = torch.randn(5, *inputs.shape[1:])
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(HeatmapModule(model), (inputs,), dynamic_shapes=({0: batch},))
    assert_gives(program.module(), model, inputs)
    assert_gives(program.module(), model, others)

    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    file, names = str(tmp_path / "heatmap.onnx"), ["logits", "mask"]
    torch.onnx.export(program, (), file, dynamo=True, verbose=False, output_names=names)
    session = runtime.InferenceSession(file)
    (given,), got = session.get_inputs(), [output.name for output in session.get_outputs()]
    arrays = session.run(None, {given.name: others.numpy()})
    assert got == names
    assert_gives(lambda _: map(torch.as_tensor, arrays), model, others, rtol=1e-4, atol=1e-5)


def test_it_is_traced_with_the_same_values(case):
    model, inputs = case
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the sizes that become constants
        traced = torch.jit.trace(HeatmapModule(model), inputs)
    assert_gives(traced, model, torch.randn_like(inputs))


@pytest.mark.parametrize(
    "name", ["resnet18", "swin", "timm vit_tiny_patch16_224", "ViTForImageClassification"]
)
def test_networks_of_the_families_are_exported_with_the_same_values(name):
    _, model = built(name)
    inputs = torch.randn(2, 3, *FAMILIES[name][1])
    program = torch.export.export(HeatmapModule(model), (inputs,)).module()
    assert_gives(program, model, torch.randn_like(inputs), rtol=1e-4, atol=1e-5)
