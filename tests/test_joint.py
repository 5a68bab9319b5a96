"""Promises of the study of joint training, ``benchmarks/joint.py``, on a tiny run."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from networks import same_weights

from captum_masking.metrics import PxAP

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def joint():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        spec = importlib.util.spec_from_file_location("joint", BENCHMARKS / "joint.py")
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "joint", module)  # where dataclasses look for it
        spec.loader.exec_module(module)
        yield module


def squares(joint, count: int):
    """Pictures of 32 px; a red or green square of 12 px is in one half of them or the other."""
    random = torch.Generator().manual_seed(count)
    pixels = torch.randint(100, 150, (count, 3, 32, 32), generator=random, dtype=torch.uint8)
    labels, masks, boxes = torch.arange(count) % 2, torch.zeros(count, 1, 32, 32).bool(), []
    for row, label in enumerate(labels.tolist()):
        top, left = torch.randint(20, (2,), generator=random).tolist()
        pixels[row, label, top : top + 12, left : left + 12] = 255
        masks[row, :, top : top + 12, left : left + 12] = True
        boxes.append(torch.tensor([[left, top, left + 12, top + 12]]))
    return joint.Images(pixels, labels, boxes, masks)


@pytest.fixture
def lab(joint, tmp_path):
    setting = joint.Setting(None, (32, 16), 2, area=0.3, classifier_steps=3, steps=4)
    images = squares(joint, 16)
    return joint.Lab(setting, squares(joint, 32), images, images, 0, tmp_path)


def test_every_arm_gives_its_masker_the_same_steps_under_the_same_rates(joint, lab):
    rates = {}
    for arm, train in joint.ARMS.items():
        trainer = train(lab)
        assert trainer.records[-1]["masker_steps"] == 4, arm
        schedule = trainer.run.schedules[trainer.masker_optimizer]
        parts = schedule.current.lengths if trainer.joint is None else schedule.lengths
        rates[arm] = parts
    assert set(map(tuple, rates.values())) == {(2, 2)}


def test_frozen_arms_explain_the_classifier_and_joint_arms_another(joint, lab):
    plain = lab.plain()
    assert same_weights(joint.ARMS["both sides, frozen"](lab).model.classifier, plain)
    assert not same_weights(joint.ARMS["both sides, joint"](lab).model.classifier, plain)
    new = joint.ARMS["new masker on joint's classifier"](lab).model.classifier
    assert same_weights(new, lab.of_joint()) and not same_weights(new, plain)


def test_the_pxap_of_a_run_is_that_of_all_pixels(joint):
    images = squares(joint, 8)
    maps = torch.rand(8, 1, 32, 32, generator=torch.Generator().manual_seed(0)) / 2
    maps[:, :, :16] += images.masks[:, :, :16] * 0.4
    pooled = PxAP()
    pooled.update(maps, images.masks)
    each = joint.by_pixels(maps, images)["pxap"]
    assert float(each.mean()) == pytest.approx(float(pooled.compute()), abs=1e-5)
    # Without one image, to first order: what each contributes is its share.
    rest = PxAP()
    rest.update(maps[1:], images.masks[1:])
    expected = float(each[1:].mean())
    assert float(rest.compute()) == pytest.approx(expected, abs=0.1 * float(each.std()))


def test_a_study_goes_on_where_it_stopped_and_ends_in_tables(joint, tmp_path, monkeypatch):
    setting = joint.Setting(
        lambda data, counts: tuple(squares(joint, count) for count in counts),
        *((32, 16), 2, 0.3, 3, 2),
    )
    monkeypatch.setitem(joint.SETTINGS, "digits", setting)
    file, arms = tmp_path / "out" / "digits.json", ["both sides, frozen", "both sides, joint"]
    joint.run("digits", None, file, tmp_path, 1, arms[:1])
    first = json.loads(file.read_text())["runs"]["both sides, frozen/0"]
    joint.run("digits", None, file, tmp_path, 1, arms)
    document = json.loads(file.read_text())
    assert list(document["runs"]) == ["both sides, frozen/0", "both sides, joint/0"]
    assert document["runs"]["both sides, frozen/0"] == first  # with its seconds: it did not run
    assert {"barrier", "changed"} <= document["runs"]["both sides, joint/0"].keys()
    text = joint.tables(document)
    assert "| both sides, joint | 1 |" in text and "both sides, joint − both sides, frozen" in text
