"""Promises about models of sounds: explain writes the picture of each, and what its mask leaves."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from captum_masking import recipes, zoo
from captum_masking.cli.main import main
from captum_masking.data.audio import read_sound, write_sound
from captum_masking.model.files import CheckpointError
from captum_masking.model.layouts import MelRows
from captum_masking.zoo.sound import SoundPreprocess, load_sounds

pytest.importorskip("soundfile", reason="sound files are read by soundfile")

RATE = 8000

NETWORK = """
import torch
from torch import nn
from captum_masking.data.audio import LogMel

def network():
    torch.manual_seed(0)
    return nn.Sequential(
        LogMel(sample_rate=8000, n_fft=256, bands=32),
        *(nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2)),
    )
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a model of sounds, the module of its classifier, and two sounds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "sounds_for_tests.py").write_text(NETWORK)
    monkeypatch.delitem(sys.modules, "sounds_for_tests", raising=False)
    preprocess = SoundPreprocess(
        spec="sounds_for_tests:network",
        sample_rate=RATE,
        n_fft=256,
        hop=128,
        seconds=0.2,
        class_names=["low", "high"],
    )
    classifier, _ = zoo.from_function(preprocess.spec)
    example, rows = preprocess(torch.randn(1600))[None], [MelRows(RATE / 2)]
    model = recipes.lmac(classifier, layers=["6"], layouts=rows, example_inputs=example).model
    model.save(tmp_path / "model", notes=preprocess.notes())
    for name in ("a", "b"):
        write_sound(tmp_path / "sounds" / f"{name}.wav", 0.1 * torch.randn(1600), RATE)
    (tmp_path / "sounds" / "notes.txt").write_text("no sound")
    return tmp_path


def test_explain_writes_the_picture_of_each_sound_and_what_its_mask_leaves(folder, capsys):
    command = ["explain", "sounds", "--model", "model", "--out", "maps", "--json"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)["pictures"]
    assert [Path(each["heard"]).name for each in found] == ["a-explained.wav", "b-explained.wav"]
    model, preprocess = load_sounds("model")
    picture, sound = preprocess.ready("sounds/a.wav")
    with torch.no_grad():
        mask = model.mask(picture[None])
        probabilities = model(picture[None]).softmax(1)[0]
    assert found[0]["target"] == probabilities.argmax() and found[0]["name"] in ("low", "high")
    assert found[0]["clean"] == pytest.approx(probabilities.max().item(), abs=1e-5)
    heard = read_sound("maps/a-explained.wav", RATE)
    expected = preprocess.magnitude.invert(sound, mask[0])
    assert (heard - expected).abs().max() <= 1 / 32768 + 1e-6
    assert Path("maps/a-explained.png").stat().st_size > 1000
    assert main([*command, "--skip-existing"]) == 0
    assert len(json.loads(capsys.readouterr().out)["skipped"]) == 2
    assert main(["explain", "sounds", "maps", "--model", "model", "--out", "maps"]) == 1
    assert "expected sounds (.wav .flac .ogg .mp3) in maps" in capsys.readouterr().err


def test_explain_takes_a_target_and_names_what_is_no_sound(folder, capsys):
    words = ["sounds/a.wav", "sounds/notes.txt", "--target", "high", "--json"]
    assert main(["explain", *words, "--model", "model", "--out", "maps"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in document["pictures"]] == ["high"]
    assert list(document["failed"]) == ["sounds/notes.txt"]
    assert main(["explain", "sounds", "--model", "model", "--out", "m", "--range", "0", "1"]) == 1
    assert "explains sounds" in capsys.readouterr().err


def test_a_model_of_sounds_is_not_taken_for_one_of_pictures(folder):
    with pytest.raises(CheckpointError, match="explains sounds; use captum_masking.zoo.sound"):
        zoo.load("model")
    model, _ = load_sounds("model")
    model.save("bare")
    with pytest.raises(CheckpointError, match=r"save it with notes=SoundPreprocess\(...\).notes"):
        load_sounds("bare")


def test_silence_is_explained_without_a_complaint(folder):
    model, preprocess = load_sounds("model")
    found = zoo.explain(model, preprocess, torch.zeros(1600))
    assert not found.heard.any() and len(found.panels) == 4
    assert all(np.isfinite(panel.pixels).all() for panel in found.panels)
