"""Promises about saved models: what comes back, and what is refused."""

import json
import os
from functools import partial

import pytest
import torch
from torch import nn

from captum_masking import MaskingModel, MaskingTrainer, checkpoint
from captum_masking.checkpoint import CheckpointError
from captum_masking.masker import Masker, UNetMasker, nearest
from captum_masking.sampler import GumbelSigmoid


def small_classifier(width: int = 4) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 2, 1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 8, 3, 2, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


@pytest.fixture
def inputs() -> torch.Tensor:
    return torch.rand(2, 3, 24, 20)


@pytest.fixture
def saved(tmp_path):
    classifier = small_classifier()
    model = MaskingModel(classifier, stride=4, upsample=nearest)
    model.save(tmp_path / "model")
    return model.eval(), tmp_path / "model", classifier


def test_a_loaded_model_gives_the_same_logits_and_masks(saved, inputs):
    model, folder, classifier = saved
    loaded = MaskingModel.load(folder, classifier)
    for ours, theirs in zip(loaded.explain(inputs), model.explain(inputs), strict=True):
        assert torch.equal(ours, theirs)


def test_a_jointly_trained_classifier_is_saved_with_its_masker(tmp_path, inputs):
    model = MaskingModel(small_classifier())
    MaskingTrainer(model).step(inputs, torch.tensor([0, 1]))
    model.eval().save(tmp_path / "model")
    loaded = MaskingModel.load(tmp_path / "model", small_classifier())
    assert torch.equal(loaded(inputs), model(inputs))
    assert torch.equal(loaded.mask(inputs), model.mask(inputs))


def test_a_frozen_classifier_is_not_saved(saved):
    _, folder, _ = saved
    from safetensors.torch import load_file

    assert not [name for name in load_file(folder / "model.safetensors") if "classifier" in name]


def test_loading_a_masker_on_other_weights_warns(saved):
    _, folder, _ = saved
    with pytest.warns(UserWarning, match="other weights than this classifier's"):
        MaskingModel.load(folder, small_classifier())


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_flipped_bit_is_refused(saved, name):
    _, folder, classifier = saved
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match="config.json|model.safetensors"):
        MaskingModel.load(folder, classifier)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("keep", [0, 0.5])
def test_a_truncated_file_is_refused(saved, name, keep):
    _, folder, classifier = saved
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(keep * len(content))])
    with pytest.raises(CheckpointError, match=name):
        MaskingModel.load(folder, classifier)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_missing_file_is_named(saved, name):
    _, folder, classifier = saved
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"it has no {name}"):
        MaskingModel.load(folder, classifier)


def test_a_config_that_was_edited_is_refused(saved):
    _, folder, classifier = saved
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"stride": 8}))
    with pytest.raises(CheckpointError, match="config.json was altered"):
        MaskingModel.load(folder, classifier)


def test_another_architecture_is_refused_and_left_unchanged(tmp_path, inputs):
    model = MaskingModel(small_classifier())
    MaskingTrainer(model).step(inputs, torch.tensor([0, 1]))
    model.save(tmp_path / "model")
    other = small_classifier(width=6)
    before = checkpoint.fingerprint(other)
    with pytest.raises(CheckpointError, match="another architecture.*'classifier.0"):
        MaskingModel.load(tmp_path / "model", other)
    assert checkpoint.fingerprint(other) == before


def test_saving_again_replaces_the_model_and_leaves_nothing_beside_it(saved, inputs):
    model, folder, classifier = saved
    nn.init.ones_(model.masker.final.bias)
    model.save(folder)
    assert os.listdir(folder.parent) == ["model"]
    assert torch.equal(MaskingModel.load(folder, classifier).mask(inputs), model.mask(inputs))


def test_a_save_that_fails_leaves_the_old_model(saved, inputs, monkeypatch):
    model, folder, classifier = saved
    before = model.mask(inputs)
    nn.init.ones_(model.masker.final.bias)

    def full_disk(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint, "_to_disk", full_disk)
    with pytest.raises(OSError, match="No space left"):
        model.save(folder)
    assert os.listdir(folder.parent) == ["model"]
    assert torch.equal(MaskingModel.load(folder, classifier).mask(inputs), before)


def test_a_folder_of_something_else_is_not_overwritten(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="is not a saved model"):
        MaskingModel(small_classifier()).save(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_masker_of_ones_own_is_handed_over_at_loading(tmp_path, inputs):
    class OneConvolution(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv2d(8, 1, 1)

        def forward(self, features, grid):
            return self.convolution(features[-1])

    classifier = small_classifier().eval()
    model = MaskingModel(classifier, ["3"], masker=OneConvolution())
    model.save(tmp_path / "model")
    with pytest.raises(CheckpointError, match="OneConvolution; pass it as masker="):
        checkpoint.load_model(tmp_path / "model", classifier)
    loaded = checkpoint.load_model(tmp_path / "model", classifier, masker=OneConvolution())
    assert torch.equal(loaded.mask(inputs), model.mask(inputs))


@pytest.mark.parametrize(
    "parts",
    [
        {"masker": UNetMasker},
        {"masker": partial(Masker, width=8, classes=5, sized=True)},
        {"masker": partial(Masker, raw=[0])},
        {"sampler": GumbelSigmoid(temperature=0.7, learnable=True), "upsample_first": False},
    ],
    ids=["unet", "told class and size", "raw", "gumbel"],
)
def test_every_masker_and_sampler_of_the_package_comes_back_by_name(tmp_path, inputs, parts):
    classifier = small_classifier()
    model = MaskingModel(classifier, **parts)
    MaskingTrainer(model, train_classifier=False, lr=0.1).step(inputs, torch.tensor([0, 1]))
    model.eval().save(tmp_path / "model")
    loaded = MaskingModel.load(tmp_path / "model", classifier)
    assert loaded.recipe() == model.recipe()
    question = {"target": torch.tensor([3, 1])}
    assert torch.equal(loaded.mask(inputs, **question), model.mask(inputs, **question))
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
