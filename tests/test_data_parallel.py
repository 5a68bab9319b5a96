"""Models on several devices, and Captum's generic configurations on a GPU and in TorchScript.

Without a GPU, ``DataParallel`` calls the module inside: what is tested then is that the masking
model is found. The tests that need a GPU compare maps with those of one device to 1e-4, as
Captum's own suites for DataParallel and TorchScript do.
"""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from captum.attr import NoiseTunnel
from captum.metrics import sensitivity_max
from networks import Counted, assert_same, cnn, everything
from test_captum_generic import FEW, entries, with_masker
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from captum_masking import MaskingModel, MaskingSaliency
from captum_masking._base.checks import TargetError
from captum_masking.parts.sampler import Sigmoid

GPUS = torch.cuda.device_count()
needs_gpu = pytest.mark.skipif(GPUS == 0, reason="no CUDA device")

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*has no masker:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*Argument.*:UserWarning"),
]


@pytest.fixture
def device() -> torch.device:
    """Where DataParallel puts a module by itself: the first GPU, if there is one."""
    return torch.device("cuda:0" if GPUS else "cpu")


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """Convolutions on a GPU round to ten bits unless told not to."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def process_group(tmp_path) -> Iterator[None]:
    """Be the only process of a group, as in Captum's own test of DistributedDataParallel."""
    distributed = torch.distributed
    if not distributed.is_available():
        pytest.skip("torch is built without torch.distributed")
    store = f"file://{tmp_path / 'store'}"
    distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.fixture(params=["DataParallel", "DistributedDataParallel", "both"])
def wrap(request) -> Any:
    """A way to put a module on all devices."""
    if request.param == "DataParallel":
        return DataParallel
    request.getfixturevalue("process_group")
    if request.param == "DistributedDataParallel":
        return DistributedDataParallel
    return lambda module: DataParallel(DistributedDataParallel(module))


@pytest.fixture
def model(classifier) -> MaskingModel:
    return varied(MaskingModel(classifier, sampler=Sigmoid()))


@pytest.fixture
def pair(images) -> Tensor:
    return images[:2]


def varied(module: nn.Module) -> nn.Module:
    """Give a masker weights with which masks differ from pixel to pixel."""
    with torch.no_grad():
        for parameter in module.masker.parameters():
            if parameter.dim() > 1:
                parameter.copy_(2 * torch.randn(parameter.shape) / parameter[0].numel() ** 0.5)
    return module


# A masking model is found inside.


def test_a_wrapped_masking_model_gives_the_maps_of_the_bare_one(model, pair, wrap):
    expected = MaskingSaliency(model).attribute(pair, target=1)
    assert expected.std() > 0.05
    assert torch.equal(MaskingSaliency(wrap(model)).attribute(pair, target=1), expected)


def test_a_wrapped_masking_model_is_explained_in_one_pass_without_a_warning(device, pair, wrap):
    counted = Counted(cnn().to(device))
    saliency = MaskingSaliency(wrap(MaskingModel(counted)))
    counted.calls = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        saliency.attribute(pair)
    assert counted.calls == 1


def test_the_forward_function_stays_what_was_given(model, wrap):
    wrapped = wrap(model)
    assert MaskingSaliency(wrapped).forward_func is wrapped


def test_a_wrapped_model_and_all_in_it_stay_as_they_were(model, pair, wrap):
    wrapped = wrap(model.train())
    wrapped.training = False
    before = everything(wrapped)
    saliency = MaskingSaliency(wrapped)
    saliency.attribute(pair, target=1)
    with pytest.raises(TargetError):
        saliency.attribute(pair, target=(9999,) * 20)
    assert_same(before, everything(wrapped))


def test_a_wrapped_masking_model_still_refuses_what_the_bare_one_does(model, pair, wrap):
    saliency = MaskingSaliency(wrap(model))
    with pytest.raises(TypeError, match=r"2 tensors"):
        saliency.attribute((pair, pair), target=1)
    with pytest.raises(ValueError, match="3 channels"):
        saliency.attribute(pair[:, :2], target=1)


def test_captums_tools_take_a_wrapped_masking_model(model, pair, wrap):
    saliency = MaskingSaliency(wrap(model))
    expected = saliency.attribute(pair, target=1)
    tunnel = NoiseTunnel(saliency).attribute(pair, nt_samples=2, stdevs=0.0, target=1)
    torch.testing.assert_close(tunnel, expected, atol=1e-5, rtol=0)
    assert sensitivity_max(saliency.attribute, pair, target=1).isfinite().all()


def test_a_wrapped_masking_model_can_be_copied_and_sent_away(model, pair):
    saliency = MaskingSaliency(DataParallel(model))
    expected = saliency.attribute(pair, target=1)
    for copied in (copy.deepcopy(saliency), pickle.loads(pickle.dumps(saliency))):
        assert torch.equal(copied.attribute(pair, target=1), expected)


# Any other classifier is run as it is.


def test_a_wrapped_classifier_gives_the_maps_of_the_bare_one(classifier, images, wrap):
    expected = MaskingSaliency(classifier).attribute(images, target=1, **FEW)
    found = MaskingSaliency(wrap(classifier)).attribute(images, target=1, **FEW)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_a_wrapped_classifier_stays_as_it_was(classifier, pair, wrap):
    wrapped = wrap(classifier.train())
    before = everything(wrapped)
    MaskingSaliency(wrapped).attribute(pair, target=1, **FEW)
    with pytest.raises(TargetError):
        MaskingSaliency(wrapped).attribute(pair, target=(9999,) * 20, **FEW)
    assert_same(before, everything(wrapped))


# Captum's configurations in TorchScript; on the GPU too, where Captum runs its own.


def on(entries: list[dict[str, Any]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("entry", entries, ids=lambda entry: entry["name"])


MASKED = pytest.mark.parametrize("masked", [False, True], ids=["without", "with masker"])


PLACES = pytest.mark.parametrize("place", ["cpu", pytest.param("cuda", marks=needs_gpu)])


@PLACES
@on(entries())
def test_a_scripted_classifier_gives_the_maps_of_the_eager_one(entry, place):
    model, arguments = prepared(entry, masked=False, place=place)
    assert_same_maps(entry, (model, arguments), (scripted(model), arguments))


@PLACES
@on([each for each in entries() if "additional_forward_args" not in each["attribute_args"]])
def test_a_traced_classifier_gives_the_maps_of_the_eager_one(entry, place):
    model, arguments = prepared(entry, masked=False, place=place)
    assert_same_maps(entry, (model, arguments), (traced(model, arguments["inputs"]), arguments))


@needs_gpu
@on(entries())
def test_a_scripted_classifier_on_all_gpus_gives_the_maps_of_the_eager_one(entry):
    model, arguments = prepared(entry, masked=False, place="cuda")
    assert_same_maps(entry, (model, arguments), (DataParallel(scripted(model)), arguments))


def scripted(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit says that it is old
        return torch.jit.script(model)


def traced(model: nn.Module, inputs: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(model, inputs)  # tensors only: a trace takes no switches


# On GPUs: Captum's four ways to compare, each entry with a masker and without.


@needs_gpu
@MASKED
@on(entries())
def test_maps_on_a_gpu_are_those_on_the_cpu(entry, masked):
    model, arguments = prepared(entry, masked)
    there = copy.deepcopy(model).cuda(), moved(arguments, "cuda")
    assert_same_maps(entry, (model, arguments), there)


@needs_gpu
@pytest.mark.parametrize("order", ["default", "reversed"])
@MASKED
@on(entries())
def test_maps_of_data_parallel_are_those_of_one_gpu(entry, masked, order):
    model, arguments = prepared(entry, masked, "cuda")
    others = None if order == "default" else [0, *range(GPUS - 1, 0, -1)]
    assert_same_maps(entry, (model, arguments), (DataParallel(model, device_ids=others), arguments))


@needs_gpu
@MASKED
@on(entries())
def test_maps_of_distributed_data_parallel_are_those_of_one_gpu(process_group, entry, masked):
    model, arguments = prepared(entry, masked, "cuda")
    parallel = DistributedDataParallel(model, device_ids=[0], output_device=0)
    assert_same_maps(entry, (model, arguments), (parallel, arguments))


@needs_gpu
def test_inputs_that_are_not_where_the_model_is_are_refused_with_both_devices(model):
    with pytest.raises(ValueError, match=r"cpu.*cuda|cuda.*cpu"):
        MaskingSaliency(DataParallel(model)).attribute(torch.zeros(2, 3, 16, 16), target=1)


def prepared(
    entry: dict[str, Any], masked: bool, place: str = "cpu"
) -> tuple[nn.Module, dict[str, Any]]:
    entry = copy.deepcopy(entry)
    model, arguments = entry["model"], entry["attribute_args"]
    if masked:
        model = varied(with_masker(model, arguments))
    return model.to(place), moved(arguments, place)


def moved(arguments: Any, place: str) -> Any:
    if isinstance(arguments, dict):
        return {name: moved(value, place) for name, value in arguments.items()}
    if isinstance(arguments, tuple):
        return tuple(moved(value, place) for value in arguments)
    return arguments.to(place) if isinstance(arguments, Tensor) else arguments


def assert_same_maps(entry: dict[str, Any], *pairs: tuple[nn.Module, dict[str, Any]]) -> None:
    """Compare what two models give for their arguments, wherever they are."""
    maps = []
    for model, arguments in pairs:
        saliency: Any = MaskingSaliency(model)
        inside = getattr(model, "module", model)
        options = {} if isinstance(inside, MaskingModel) else FEW
        saliency = NoiseTunnel(saliency) if entry.get("noise_tunnel") else saliency
        maps.append(moved(saliency.attribute(**arguments, **options), "cpu"))
    torch.testing.assert_close(maps[1], maps[0], atol=1e-4, rtol=0)
