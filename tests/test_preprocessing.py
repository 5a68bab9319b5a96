"""What a network says about its pictures, in any form: mean, std, size, and that it normalizes."""

from __future__ import annotations

import json
import sys
import types
import warnings

import numpy as np
import pytest
import torch
from skimage.data import coffee
from torch import nn
from torchvision.transforms import Normalize

from captum_masking import MaskingModel, zoo
from captum_masking._base.checks import ChannelsError
from captum_masking._base.files import plain
from captum_masking.model.files import read_model
from captum_masking.zoo import Preprocess, load_classifier

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE = 48


def body(channels: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(channels, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3)]
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))


@pytest.fixture
def made(monkeypatch):
    """Return a function that names a network as users do, and loads it."""
    module = types.ModuleType("networks_of_a_user")
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def load(network: nn.Module, **options) -> tuple[nn.Module, Preprocess]:
        module.make = lambda: network
        return load_classifier(f"{module.__name__}:make", **options)

    return load


def saying(**attributes) -> nn.Module:
    network = body()
    for name, value in attributes.items():
        setattr(network, name, value)
    return network


class Own(nn.Module):
    """A network that does something to its pixels first."""

    def __init__(self, first):
        super().__init__()
        self.first, self.body = first, body()

    def forward(self, pixels):
        return self.body(self.first(pixels))


FORMS = {
    "tensor": torch.tensor,
    "parameter": lambda values: nn.Parameter(torch.tensor(values)),
    "as images": lambda values: torch.tensor(values).reshape(1, 3, 1, 1),
    "half": lambda values: torch.tensor(values).half(),
    "array": np.array,
    "of scalars": lambda values: [torch.tensor(value) for value in values],
    "of numpy's": lambda values: tuple(np.float32(value) for value in values),
    "of 255": lambda values: [255 * value for value in values],
}


@pytest.mark.filterwarnings("ignore:.*pixels in 0..255:UserWarning")
@pytest.mark.parametrize("form", FORMS)
def test_mean_and_std_in_any_form_give_the_same_pixels_and_can_be_saved(form, made):
    network = saying(mean=FORMS[form](MEAN), std=FORMS[form](STD))
    preprocess = made(network)[1]
    expected = Preprocess()(coffee())
    torch.testing.assert_close(preprocess(coffee()), expected, rtol=0, atol=1e-2)
    assert Preprocess(**json.loads(json.dumps(preprocess.notes()))) == preprocess


@pytest.mark.parametrize("value", [0.5, torch.tensor(0.5), np.float64(0.5), [0.5], 127.5])
def test_one_value_is_for_all_channels(value):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        preprocess = Preprocess(mean=value, std=value)
    assert (preprocess.mean, preprocess.std) == ((0.5,) * 3, (0.5,) * 3)


SIZES = [SIDE, torch.tensor(SIDE), np.int64(SIDE), (SIDE, SIDE), [3, SIDE, SIDE], float(SIDE)]


@pytest.mark.parametrize("size", [*SIZES, {"height": SIDE, "width": SIDE}, torch.Size([SIDE] * 2)])
def test_the_size_in_any_form_is_read_and_that_of_the_caller_goes_first(size, made):
    assert made(saying(image_size=size))[1].image_size == SIDE
    assert made(saying(image_size=size), image_size=64)[1].image_size == 64
    assert isinstance(Preprocess(image_size=size).image_size, int)


def test_what_timm_says_is_read_and_the_networks_own_word_goes_first(made):
    cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "input_size": (3, 96, 96)}
    preprocess = made(saying(pretrained_cfg=cfg, std=STD, mean=None))[1]
    assert preprocess.mean == (0.5,) * 3
    assert (preprocess.std, preprocess.image_size) == (STD, 96)


@pytest.mark.parametrize(
    ("labels", "names"),
    [({1: "dog", 0: "cat"}, ("cat", "dog")), ({0: "LABEL_0", 1: "LABEL_1"}, ())],
)
def test_class_names_of_hugging_face_are_taken_unless_it_made_them_up(made, labels, names):
    assert made(saying(config=types.SimpleNamespace(id2label=labels)))[1].class_names == names


def test_0_to_255_is_said():
    with pytest.warns(UserWarning, match=r"0\.\.255: both are divided"):
        preprocess = Preprocess(mean=(104, 117, 123), std=1)  # as Caffe's networks
    black = preprocess(np.zeros((4, 4, 3), dtype=np.uint8))
    torch.testing.assert_close(black[:, 0, 0], -torch.tensor([104.0, 117.0, 123.0]))


REFUSED = {
    "zero std": ({"std": (0.0, 0.2, 0.2)}, "std above 0"),
    "negative std": ({"std": -0.2}, "std above 0"),
    "NaN": ({"mean": (float("nan"), 0.5, 0.5)}, "finite"),
    "four channels": ({"mean": (0.5,) * 4}, "1 or 3 finite numbers.*RGB"),
    "mixed": ({"std": (58.0, 57.0, 57.0)}, r"both be for pixels in 0\.\.1, or both for 0\.\.255"),
    "swapped": ({"mean": STD, "std": MEAN}, "swapped"),
    "swapped, of 255": ({"mean": 58.0, "std": 123.0}, "swapped"),
    "text": ({"mean": "imagenet"}, "must be numbers"),
    "nothing": ({"image_size": None}, "must be numbers"),
    "no square": ({"image_size": (48, 64)}, "square.*--image-size"),
    "no pixels": ({"image_size": 0}, "square"),
    "half a pixel": ({"image_size": 48.5}, "whole number"),
}


@pytest.mark.filterwarnings("ignore:.*pixels in 0..255:UserWarning")
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_at_the_door(case):
    settings, message = REFUSED[case]
    with pytest.raises((ValueError, TypeError), match=message):
        Preprocess(**settings)


@pytest.mark.parametrize(("mean", "std"), [(0, 1), (0.1307, 0.3081), (127 / 255, 128 / 255)])
def test_usual_constants_pass_without_a_word(mean, std):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Preprocess(mean=mean, std=std).mean == (mean,) * 3


def test_a_gray_network_is_refused_in_words(made):
    with pytest.raises(ChannelsError, match="inputs must have 1 channels"):
        made(body(1))


class Buffers(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).reshape(1, 3, 1, 1))
        self.body = body()

    def forward(self, pixels):
        return self.body((pixels - self.mean) / self.std)


PIXELS = torch.tensor([123.0, 117.0, 104.0]).reshape(3, 1, 1)
NORMALIZE_THEMSELVES = {
    "torchvision": (lambda: nn.Sequential(Normalize(MEAN, STD), body()), 1),
    "buffers": (Buffers, 1),
    "to -1..1": (lambda: Own(lambda x: x * 2 - 1), 1),
    "in place, resized": (
        lambda: Own(lambda x: nn.functional.interpolate(x.clone().sub_(0.5).div_(0.2), (40, 40))),
        1,
    ),
    "Caffe's of 0..1": (lambda: Own(lambda x: x * 255 - PIXELS), 1),
    "Caffe's of 0..255": (lambda: Own(lambda x: (x - PIXELS) / 58), 255),
    "divided by 255": (lambda: Own(lambda x: x / 255), 255),
    "clipped": (lambda: Own(lambda x: x.clamp(0, 1)), 1),
}


@pytest.mark.parametrize("case", NORMALIZE_THEMSELVES)
def test_a_network_that_normalizes_itself_gets_the_pixels_and_that_is_said(case, made):
    make, scale = NORMALIZE_THEMSELVES[case]
    with pytest.warns(UserWarning, match=rf"normalizes pixels itself.*0\.\.{scale};"):
        network, preprocess = made(make(), image_size=SIDE)
    inputs = preprocess(coffee())[None]
    pixels = Preprocess(image_size=SIDE, mean=0, std=1)(coffee())[None]
    assert pixels.max() <= 1
    torch.testing.assert_close(network(inputs), make().eval()(scale * pixels), rtol=0, atol=1e-4)


def inception_like(x):  # takes pixels that are normalized as ImageNet's, and brings them to -1..1
    return x * 0.458 - 0.03


@pytest.mark.parametrize("first", [nn.BatchNorm2d(3), nn.Identity(), inception_like])
def test_others_get_normalized_pixels_without_a_word(first, made):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not made(Own(first))[0]._forward_pre_hooks


def test_the_user_has_the_last_word(made):
    network = Own(lambda x: x * 2 - 1)
    network.normalizes_itself = False
    assert not made(network)[0]._forward_pre_hooks
    network = body()
    network.normalizes_itself = True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(made(network)[0]._forward_pre_hooks) == 1


@pytest.mark.filterwarnings("ignore:.*normalizes pixels itself:UserWarning")
def test_a_saved_model_gives_the_pixels_too(made, tmp_path):
    network, preprocess = made(Buffers(), image_size=SIDE)
    model = MaskingModel(network).eval()
    model.save(tmp_path, notes=preprocess.notes())
    loaded, again = zoo.load(tmp_path)
    assert again == preprocess
    inputs = preprocess(coffee())[None]
    torch.testing.assert_close(loaded.explain(inputs), model.explain(inputs))


def test_no_note_and_no_setting_can_make_a_save_fail(tmp_path):
    notes = {"mean": torch.tensor(MEAN), "of": {1: np.float32(0.5)}, "nan": float("nan"), "x": body}
    model = MaskingModel(body(), stride=np.int64(4), example_inputs=torch.zeros(1, 3, 48, 48))
    model.save(tmp_path, notes=notes)
    assert read_model(tmp_path)[0]["notes"]["of"] == {"1": 0.5}
    assert MaskingModel.load(tmp_path, body()).stride == 4
    assert plain(torch.tensor([[1, 2]])) == [[1, 2]]
