"""Promises about sharing: what is pushed is what is saved, and what is fetched is what was pushed.

No network: the Hub's client is replaced by one that takes the same arguments and lays files out as
the Hub's own cache does; ``hf_hub_download`` is the real one.
"""

from __future__ import annotations

import json
import shutil
import sys
from types import SimpleNamespace
from unittest.mock import create_autospec

import pytest
import torch
from networks import cnn
from torch import nn

from captum_masking import MaskingModel
from captum_masking.model.files import CheckpointError
from captum_masking.model.hub import from_pretrained, model_card, push_to_hub

hub = pytest.importorskip("huggingface_hub")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FIGURES = {"images": 12, "clean": 0.75, "masked_in": 0.5, "area": 0.25}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A Hub that is a folder: what is uploaded is at once in the cache of this machine."""
    cache = tmp_path / "cache"
    calls = []

    def commit(repo_id, operations, **options):
        calls.append(options)
        place = cache / f"models--{repo_id.replace('/', '--')}"
        snapshot = place / "snapshots" / COMMIT
        shutil.rmtree(place, ignore_errors=True)
        snapshot.mkdir(parents=True)
        for operation in operations:
            with operation.as_file() as file:
                (snapshot / operation.path_in_repo).write_bytes(file.read())
        (place / "refs").mkdir()
        (place / "refs" / (options.get("revision", "main"))).write_text(COMMIT)
        return SimpleNamespace(commit_url=f"https://huggingface.co/{repo_id}/commit/0")

    api = create_autospec(hub.HfApi, instance=True)  # refuses arguments that the real one refuses
    api.create_commit.side_effect = commit
    made = create_autospec(hub.HfApi, return_value=api)
    monkeypatch.setattr(hub, "HfApi", made)
    return SimpleNamespace(path=cache, api=api, calls=calls, made=made)


def uploaded(cache, repo="me--masker"):
    return cache.path / f"models--{repo}" / "snapshots" / COMMIT


def fetch(cache, classifier, **options):
    return from_pretrained(
        "me/masker", classifier, cache_dir=cache.path, local_files_only=True, **options
    )


def test_a_model_that_is_pushed_comes_back_with_the_same_masks(cache, model, classifier, images):
    address = push_to_hub(model, "me/masker")
    assert address == "https://huggingface.co/me/masker/commit/0"
    back = fetch(cache, classifier)
    torch.testing.assert_close(back.mask(images), model.eval().mask(images), rtol=0, atol=0)
    assert not back.training


def test_the_classifier_comes_along_where_it_was_trained_along(cache, model, images):
    model.classifier_trained = True
    push_to_hub(model, "me/masker")
    other = cnn()
    nn.init.zeros_(next(other.parameters()))
    back = fetch(cache, other)
    torch.testing.assert_close(back(images), model.eval()(images), rtol=0, atol=0)


def test_the_repository_is_made_once_and_asked_for_as_told(cache, model):
    push_to_hub(model, "me/masker", private=True, token="secret", revision="v2")
    cache.made.assert_called_once_with(token="secret")
    cache.api.create_repo.assert_called_once_with("me/masker", private=True, exist_ok=True)
    assert cache.calls[0]["revision"] == "v2"
    assert (uploaded(cache).parents[1] / "refs" / "v2").exists()


def test_a_folder_is_pushed_file_by_file_and_nothing_else_of_it(cache, model, tmp_path):
    folder = tmp_path / "my-model"
    model.save(folder, notes={"spec": "torchvision:resnet18"})
    (folder / "evaluation.json").write_text(json.dumps(FIGURES))
    (folder / "diary.txt").write_text("private")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    push_to_hub(folder, "me/masker")
    names = {file.name for file in uploaded(cache).iterdir()}
    assert names == {"model.safetensors", "evaluation.json", "README.md"}
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_the_card_says_how_to_load_it_what_it_is_made_of_and_what_was_measured(cache, model):
    push_to_hub(model, "me/masker", figures=FIGURES, notes={"spec": "mine:net"}, license="mit")
    card = (uploaded(cache) / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: captum-masking\nlicense: mit\ntags:\n")
    assert 'from_pretrained("me/masker", classifier)' in card
    assert "layers: `" + ", ".join(model.layers) in card
    assert "classifier: `mine:net`" in card and "accuracy, masked-in  50.0 %" in card
    assert "follows the `target`" in card and "pass the same weights" in card


def test_the_card_invents_no_figures_and_no_license(model, tmp_path):
    model.save(tmp_path / "m")
    card = model_card(tmp_path / "m", "me/masker")
    assert "Measured" not in card and "license" not in card


def test_a_card_of_ones_own_is_uploaded_as_it_is(cache, model, tmp_path):
    model.save(tmp_path / "m")
    (tmp_path / "m" / "README.md").write_text("my words")
    push_to_hub(tmp_path / "m", "me/masker")
    assert (uploaded(cache) / "README.md").read_text() == "my words"


def test_what_is_no_saved_model_is_refused_before_the_hub_is_asked(cache, tmp_path):
    (tmp_path / "README.md").write_text("hello")
    with pytest.raises(CheckpointError, match="it has no model.safetensors"):
        push_to_hub(tmp_path, "me/masker")
    cache.made.assert_not_called()


def test_a_fetched_model_that_was_altered_is_refused(cache, model, classifier):
    push_to_hub(model, "me/masker")
    with (uploaded(cache) / "model.safetensors").open("ab") as stream:
        stream.write(b"0")
    with pytest.raises(CheckpointError, match="truncated, was altered"):
        fetch(cache, classifier)


def test_parts_of_ones_own_are_handed_in(cache, classifier, images):
    class Half(nn.Module):
        def forward(self, mask_logits):
            return 0 * mask_logits + 0.5

    push_to_hub(MaskingModel(classifier, sampler=Half()), "me/masker")
    back = fetch(cache, classifier, sampler=Half())
    assert (back.mask(images) == 0.5).all()


def test_a_folder_of_this_machine_is_read_without_the_hub(model, classifier, tmp_path, monkeypatch):
    model.save(tmp_path / "m")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert from_pretrained(tmp_path / "m", classifier).layers == model.layers


def test_what_is_not_in_the_cache_is_an_oserror_that_says_so(cache, classifier):
    with pytest.raises(OSError, match="(?i)local|cache"):
        fetch(cache, classifier)


def test_without_the_extra_the_error_names_it(model, classifier, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (
        lambda: push_to_hub(model, "me/masker"),
        lambda: from_pretrained("me/masker", classifier),
    ):
        with pytest.raises(ImportError, match=r"pip install 'captum-masking\[hub\]'"):
            call()
