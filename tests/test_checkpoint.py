"""Promises about saved models: what comes back, and what is refused."""

import errno
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial

import pytest
import torch
from test_tuple_inputs import PictureAndNotes, examples
from torch import nn

from captum_masking import MaskingModel, MaskingTrainer
from captum_masking.model.files import CheckpointError
from captum_masking.model.layouts import ChannelsLast, OfInput, Tokens
from captum_masking.parts.masker import Masker, UNetMasker, nearest
from captum_masking.parts.other_maskers import JointMasker
from captum_masking.parts.sampler import GumbelSigmoid
from captum_masking.training import checkpoint


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
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(
        OSError, match="could not save .*model: No space left on device, with .*MiB"
    ):
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a process that can be copied")
@pytest.mark.filterwarnings("ignore:.*was killed before:UserWarning")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_save_killed_at_any_moment_leaves_the_old_model_or_the_new(saved, inputs):
    model, folder, classifier = saved
    seen, call = [], 0
    died = True
    while died:
        before = MaskingModel.load(folder, classifier).mask(inputs)
        nn.init.constant_(model.masker.final.bias, float(call + 1))
        after = model.mask(inputs)
        died = killed_before(call, lambda: model.save(folder))
        mask = MaskingModel.load(folder, classifier).mask(inputs)
        assert torch.equal(mask, before) or torch.equal(mask, after)
        seen.append(torch.equal(mask, after))
        call += 1
    assert len(seen) > 10 and not seen[0] and seen[-1]


def leave_as_killed(folder):
    """Bring a saved model to the moment between the two renames of a save that replaces it."""
    os.rename(folder, folder.with_name(f".{folder.name}.old-0123abcd"))


def test_a_model_set_aside_by_a_killed_save_is_found_with_a_warning(saved, inputs):
    model, folder, classifier = saved
    leave_as_killed(folder)
    with pytest.warns(UserWarning, match="was killed before the new files were in place"):
        loaded = MaskingModel.load(folder, classifier)
    assert torch.equal(loaded.mask(inputs), model.mask(inputs))
    with pytest.warns(UserWarning, match="was killed"):
        assert checkpoint.read_config(folder)["stride"] == 4


def test_what_a_killed_save_left_of_another_model_is_not_taken(saved):
    _, folder, classifier = saved
    leave_as_killed(folder)
    for name in ("mode", "model.old", "old-0123abcd"):
        with pytest.raises(CheckpointError, match="it has no config.json"):
            MaskingModel.load(folder.with_name(name), classifier)


def test_the_save_after_a_killed_one_clears_up(saved, inputs):
    model, folder, classifier = saved
    leave_as_killed(folder)
    unfinished = folder.with_name(".model.new-01234567")
    at_work = folder.with_name(".model.new-76543210")
    unfinished.mkdir()
    at_work.mkdir()
    two_hours_ago = time.time() - 7200
    os.utime(unfinished, (two_hours_ago, two_hours_ago))
    model.save(folder)
    # One that was written to this very hour may be another process's.
    assert sorted(os.listdir(folder.parent)) == [at_work.name, "model"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(MaskingModel.load(folder, classifier).mask(inputs), model.mask(inputs))


def test_where_a_link_points_to_is_replaced_and_not_the_link(saved, inputs):
    model, folder, classifier = saved
    link = folder.with_name("best")
    link.symlink_to(folder)
    nn.init.ones_(model.masker.final.bias)
    model.save(link)
    assert link.is_symlink() and sorted(os.listdir(folder.parent)) == ["best", "model"]
    assert torch.equal(MaskingModel.load(folder, classifier).mask(inputs), model.mask(inputs))
    leave_as_killed(folder)
    with pytest.warns(UserWarning, match="was killed"):
        MaskingModel.load(link, classifier)


@pytest.mark.parametrize("how", ["layers", "own encoders", "function"])
def test_a_model_of_several_inputs_comes_back(tmp_path, how):
    classifier = PictureAndNotes().eval()
    classifier = classifier.forward if how == "function" else classifier
    if how != "own encoders":
        model = MaskingModel(classifier, example_inputs=examples(1)).eval()
    else:
        masker = JointMasker([3, 2, 5], inputs=[(2, 3), (1, 2), (0, 5)], width=8, own=True)
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
    masker = JointMasker([8, 8], inputs=[(2, 3), (2, 3)])
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
