"""Promises about saved models: what comes back, and what is refused."""

import errno
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_tuple_inputs import PictureAndNotes, examples
from torch import nn

from captum_masking import MaskingModel, MaskingTrainer
from captum_masking.model.files import CheckpointError, fingerprint
from captum_masking.model.layouts import ChannelsLast, OfInput, Tokens
from captum_masking.parts.masker import Masker, UNetMasker, nearest
from captum_masking.parts.other_maskers import MultiInputMasker
from captum_masking.parts.sampler import GumbelSigmoid


def killed_before(call: int, work: Callable[[], object]) -> bool:
    """Do some work in a process that dies, without any clean-up, before its n-th file operation.

    Returns whether it died; it did not if it was done before.
    """
    process = os.fork()
    if process == 0:
        status = 1
        try:
            _die_before(call)
            work()
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert status in (0, 9), "the work failed by itself"
    return status == 9


def _die_before(call: int) -> None:
    calls = 0
    operations = ("open", "shutil.", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod")

    def hook(event, _):
        nonlocal calls
        if event.startswith(operations):
            if calls == call:
                os._exit(9)
            calls += 1

    sys.addaudithook(hook)


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


def test_a_mask_made_sharper_after_training_is_saved_so(saved, inputs, tmp_path):
    model, _, classifier = saved
    model.sampler.lean, model.sampler.sharpness = 0.0, 3.0
    model.save(tmp_path / "sharper")
    loaded = MaskingModel.load(tmp_path / "sharper", classifier).eval()
    assert torch.equal(loaded.mask(inputs), model.mask(inputs))


def test_a_jointly_trained_classifier_is_saved_with_its_masker(tmp_path, inputs):
    model = MaskingModel(small_classifier())
    MaskingTrainer(model).step(inputs, torch.tensor([0, 1]))
    model.eval().save(tmp_path / "model")
    loaded = MaskingModel.load(tmp_path / "model", small_classifier())
    assert torch.equal(loaded(inputs), model(inputs))
    assert torch.equal(loaded.mask(inputs), model.mask(inputs))


def test_a_frozen_classifier_is_not_saved(saved):
    _, folder, _ = saved
    assert not [name for name in load_file(folder / "model.safetensors") if "classifier" in name]


def test_loading_a_masker_on_other_weights_warns(saved):
    _, folder, _ = saved
    with pytest.warns(UserWarning, match="other weights than this classifier's"):
        MaskingModel.load(folder, small_classifier())


@pytest.mark.parametrize("place", [20, 0.5, -1], ids=["config", "middle", "weights"])
def test_a_flipped_bit_is_refused(saved, place):
    _, folder, classifier = saved
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[int(place * len(content)) if isinstance(place, float) else place] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="model.safetensors: it .*altered"):
        MaskingModel.load(folder, classifier)


@pytest.mark.parametrize("keep", [0, 0.5])
def test_a_truncated_file_is_refused(saved, keep):
    _, folder, classifier = saved
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: int(keep * len(content))])
    with pytest.raises(CheckpointError, match="model.safetensors: it is truncated"):
        MaskingModel.load(folder, classifier)


def test_a_missing_file_is_named(saved):
    _, folder, classifier = saved
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="it has no model.safetensors"):
        MaskingModel.load(folder, classifier)


def test_a_config_that_was_edited_is_refused(saved):
    _, folder, classifier = saved
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes().replace(b'stride\\": 4', b'stride\\": 8'))
    with pytest.raises(CheckpointError, match="it was altered"):
        MaskingModel.load(folder, classifier)


def test_weights_of_something_else_are_refused(saved):
    model, folder, classifier = saved
    save_file({"weight": torch.ones(2)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="captum_masking did not write it"):
        MaskingModel.load(folder, classifier)


def test_a_model_of_the_older_version_is_refused_with_what_to_do(saved):
    model, folder, classifier = saved
    weights = {n: t for n, t in model.state_dict().items() if n.startswith("masker.")}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"format": 1}))
    words = "older versions, with a config.json .*build the model from that file.*load_state_dict"
    with pytest.raises(CheckpointError, match=words):
        MaskingModel.load(folder, classifier)


def test_another_architecture_is_refused_and_left_unchanged(tmp_path, inputs):
    model = MaskingModel(small_classifier())
    MaskingTrainer(model).step(inputs, torch.tensor([0, 1]))
    model.save(tmp_path / "model")
    other = small_classifier(width=6)
    before = fingerprint(other)
    with pytest.raises(CheckpointError, match="another architecture.*'classifier.0"):
        MaskingModel.load(tmp_path / "model", other)
    assert fingerprint(other) == before


def test_saving_again_replaces_the_model_and_leaves_nothing_beside_it(saved, inputs):
    model, folder, classifier = saved
    nn.init.ones_(model.masker.masker.final.bias)
    model.save(folder)
    assert os.listdir(folder.parent) == ["model"] and os.listdir(folder) == ["model.safetensors"]
    assert torch.equal(MaskingModel.load(folder, classifier).mask(inputs), model.mask(inputs))


def test_a_save_that_fails_leaves_the_old_model(saved, inputs, monkeypatch):
    model, folder, classifier = saved
    before = model.mask(inputs)
    nn.init.ones_(model.masker.masker.final.bias)

    def full_disk(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(
        OSError, match="could not save .*model.safetensors: No space left on device, with .*MiB"
    ):
        model.save(folder)
    assert os.listdir(folder) == ["model.safetensors"]
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

        def forward(self, features, grid, question):
            return self.convolution(features[-1])

    classifier = small_classifier().eval()
    model = MaskingModel(classifier, ["3"], masker=OneConvolution()).eval()
    model.save(tmp_path / "model")
    with pytest.raises(CheckpointError, match="OneConvolution; pass it as masker="):
        MaskingModel.load(tmp_path / "model", classifier)
    loaded = MaskingModel.load(tmp_path / "model", classifier, masker=OneConvolution())
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a process that can be copied")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_save_killed_at_any_moment_leaves_the_old_model_or_the_new(saved, inputs):
    model, folder, classifier = saved
    seen, call = [], 0
    died = True
    while died:
        before = MaskingModel.load(folder, classifier).mask(inputs)
        nn.init.constant_(model.masker.masker.final.bias, float(call + 1))
        after = model.mask(inputs)
        died = killed_before(call, lambda: model.save(folder))
        mask = MaskingModel.load(folder, classifier).mask(inputs)
        assert torch.equal(mask, before) or torch.equal(mask, after)
        seen.append(torch.equal(mask, after))
        call += 1
    assert len(seen) > 5 and not seen[0] and seen[-1]


def test_what_a_killed_save_left_is_not_taken_for_a_model(saved):
    _, folder, classifier = saved
    os.rename(folder / "model.safetensors", folder / ".tmp-1-model.safetensors")
    with pytest.raises(CheckpointError, match="it has no model.safetensors"):
        MaskingModel.load(folder, classifier)


def test_the_save_after_a_killed_one_clears_up(saved, inputs):
    model, folder, classifier = saved
    unfinished, at_work = (folder / f".tmp-{n}-model.safetensors" for n in (1, 2))
    unfinished.write_bytes(b"half")
    at_work.write_bytes(b"half")
    two_hours_ago = time.time() - 7200
    os.utime(unfinished, (two_hours_ago, two_hours_ago))
    model.save(folder)
    # One that was written to this very hour may be another process's.
    assert sorted(os.listdir(folder)) == [at_work.name, "model.safetensors"]
    assert torch.equal(MaskingModel.load(folder, classifier).mask(inputs), model.mask(inputs))


def test_where_a_link_points_to_is_replaced_and_not_the_link(saved, inputs):
    model, folder, classifier = saved
    link = folder.with_name("best")
    link.symlink_to(folder)
    nn.init.ones_(model.masker.masker.final.bias)
    model.save(link)
    assert link.is_symlink() and sorted(os.listdir(folder.parent)) == ["best", "model"]
    assert torch.equal(MaskingModel.load(folder, classifier).mask(inputs), model.mask(inputs))


def test_what_lies_beside_the_model_stays(saved):
    model, folder, _ = saved
    (folder / "README.md").write_text("my words")
    model.save(folder)
    assert sorted(os.listdir(folder)) == ["README.md", "model.safetensors"]


@pytest.mark.parametrize("how", ["layers", "own encoders", "function"])
def test_a_model_of_several_inputs_comes_back(tmp_path, how):
    classifier = PictureAndNotes().eval()
    classifier = classifier.forward if how == "function" else classifier
    if how != "own encoders":
        model = MaskingModel(classifier, example_inputs=examples(1)).eval()
    else:
        masker = MultiInputMasker([3, 2, 5], inputs=[(2, 3), (1, 2), (0, 5)], width=8, own=True)
        model = MaskingModel(classifier, masker=masker).eval()
    model.save(tmp_path / "model")
    loaded = MaskingModel.load(tmp_path / "model", classifier)
    assert loaded.recipe() == model.recipe() and loaded.inputs_taken == 3
    assert repr(loaded.layouts) == repr(model.layouts)
    inputs = examples()
    for ours, theirs in zip(loaded.mask(inputs), model.mask(inputs), strict=True):
        assert torch.equal(ours, theirs)


def test_a_layout_within_a_layout_comes_back(tmp_path):
    layouts = [OfInput(1, Tokens(prefix=1, stride=(2.0, 2.0))), OfInput(0, ChannelsLast())]
    masker = MultiInputMasker([8, 8], inputs=[(2, 3), (2, 3)])
    classifier = small_classifier()
    model = MaskingModel(classifier, ["0", "3"], layouts=layouts, masker=masker)
    model.save(tmp_path / "model")
    loaded = MaskingModel.load(tmp_path / "model", classifier)
    assert repr(list(loaded.layouts)) == repr(layouts)


def test_a_classifier_without_weights_comes_back(tmp_path):
    classifier = nn.Sequential(nn.AvgPool2d(2), nn.AvgPool2d(2), nn.Flatten())
    example = torch.rand(2, 3, 16, 16)
    model = MaskingModel(classifier, ["0", "1"], example_inputs=example).eval()
    model.save(tmp_path / "model")
    loaded = MaskingModel.load(tmp_path / "model", classifier)
    assert torch.equal(loaded.mask(example), model.mask(example))
