"""Promises about the study: what it runs, where it goes on, and what its figures may say."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from test_cli import folder  # noqa: F401  (a fixture: twelve pictures with boxes, a classifier)

from captum_masking.benchmark import Interval
from captum_masking.benchmark.study import (
    CLAIMS,
    Claim,
    difference,
    judge_claims,
    read_runs,
    summarize,
)
from captum_masking.cli.main import main
from captum_masking.recipes import ROWS, Row


def study(*more, rows="frozen,infill-noise", seeds="1"):
    common = ["--data", "data.csv", "--val", "data.csv", "--classifier", "my_classifiers:small"]
    sizes = ["--image-size", "32", "--batch-size", "4", "--epochs", "1"]
    chosen = ["--rows", rows, "--seeds", seeds, "--out", "study"]
    return main(["study", *common, *sizes, *chosen, *more])


def test_a_study_ends_in_a_table_as_markdown_csv_json_and_pictures(folder, capsys):  # noqa: F811
    assert study(seeds="2") == 0
    printed = capsys.readouterr().out
    out = folder / "study"
    assert (out / "table.md").read_text().strip() == printed.strip()
    for name in ("| frozen | 2 | 12 |", "| infill-noise | 2 | 12 |", "image size: 32", "torch"):
        assert name in printed
    with (out / "table.csv").open() as stream:
        rows = {row["row"]: row for row in csv.DictReader(stream)}
    assert set(rows) == {"frozen", "infill-noise"}
    assert (out / "table.png").read_bytes()[:4] == b"\x89PNG"
    runs = [json.loads(file.read_text()) for file in (out / "runs").glob("frozen-*.json")]
    assert float(rows["frozen"]["error"]) == pytest.approx(
        100 * np.mean([r["error"] for r in runs])
    )
    assert {run["seed"] for run in runs} == {0, 1} and all(len(r["box_iou"]) == 12 for r in runs)
    assert all("MaskingTrainer(" in run["recipe"] for run in runs)
    assert json.loads((out / "table.json").read_text())["facts"]["epochs"] == 1


def test_a_study_goes_on_where_it_stopped(folder, capsys):  # noqa: F811
    assert study(rows="frozen") == 0
    file = folder / "study" / "runs" / "frozen-0.json"
    before = file.stat().st_mtime_ns
    capsys.readouterr()
    assert study(rows="frozen,gumbel-hard") == 0
    assert file.stat().st_mtime_ns == before
    assert "1 runs to do" in capsys.readouterr().err
    assert list(read_runs(folder / "study")) == ["frozen", "gumbel-hard"]


def test_a_run_depends_on_its_seed_and_on_nothing_that_ran_before(folder):  # noqa: F811
    def scores(name):
        content = json.loads((folder / "study" / "runs" / f"{name}.json").read_text())
        return [content[column] for column in ("area", "box_iou", "f1")]

    assert study(rows="frozen,infill-noise", seeds="2") == 0
    together = scores("infill-noise-1")
    assert scores("frozen-0") != scores("frozen-1")
    for file in (folder / "study" / "runs").glob("*.json"):
        file.unlink()
    torch.rand(7)
    assert study(rows="infill-noise", seeds="2") == 0
    assert scores("infill-noise-1") == together


def test_runs_of_another_setting_are_not_mixed_into_a_table(folder, capsys):  # noqa: F811
    assert study(rows="frozen") == 0
    assert study("--epochs", "2", rows="frozen") == 1
    assert "epochs 1, but got 2; use the same, or another --out" in capsys.readouterr().err


def test_every_row_is_held_at_the_area_that_is_asked_for(folder):  # noqa: F811
    assert study("--area", "0.2", rows="frozen,zolna-f,out-entropy,gumbel-hard") == 0
    runs = read_runs(folder / "study")
    assert json.loads((folder / "study" / "study.json").read_text())["areas"] == [0.2]
    assert all("area=0.2" in run["recipe"] for row in runs.values() for run in row)


def test_each_run_chooses_its_area_on_images_that_it_does_not_report(folder):  # noqa: F811
    def run(*areas):
        out = folder / "study"
        assert study(*(word for area in areas for word in ("--area", area)), rows="frozen") == 0
        found = json.loads((out / "runs" / "frozen-0.json").read_text())
        facts = json.loads((out / "study.json").read_text())
        shutil.rmtree(out)
        return found, facts["validation images"]

    alone = {float(area): run(area)[0] for area in ("0.1", "0.6")}
    both, reported = run("0.1", "0.6")
    missed = {area: sum(found["error"][1::2]) for area, found in alone.items()}
    assert both["area_held"] == min(missed, key=missed.get) and reported == 6
    for column in ("error", "box_iou", "clean", "clean_before", "area"):
        assert both[column] == alone[both["area_held"]][column][::2]


def test_few_shot_rows_take_as_many_steps_as_the_others(folder):  # noqa: F811
    assert study(rows="frozen,few-shot-2,half-the-classes") == 0
    runs = read_runs(folder / "study")
    assert runs["half-the-classes"][0]["images"] == 6  # of one class in two
    assert runs["frozen"][0]["images"] == 12 and runs["few-shot-2"][0]["images"] == 4
    assert len(runs["few-shot-2"][0]["error"]) == 12


def test_rows_that_ask_for_more_images_than_there_are_are_left_out_aloud(folder, capsys):  # noqa: F811
    assert study(rows="frozen,few-shot-100") == 0
    said = capsys.readouterr()
    assert "few-shot-100 is left out" in said.err and "| frozen |" in said.out


def test_a_row_that_fails_does_not_keep_the_others_from_running(folder, capsys, monkeypatch):  # noqa: F811
    def fail(setting):
        raise RuntimeError("a part of mine broke")

    monkeypatch.setitem(ROWS, "joint", Row(fail))
    assert study(rows="frozen,joint,gumbel-hard") == 1
    said = capsys.readouterr()
    assert "1 runs failed" in said.err and "joint, seed 0: a part of mine broke" in said.err
    assert list(read_runs(folder / "study")) == ["frozen", "gumbel-hard"]
    assert "| gumbel-hard |" in said.out


@pytest.mark.parametrize(
    "more, message",
    [
        (["--rows", "frosen"], "no row 'frosen'; did you mean frozen"),
        (["--val", "nowhere.csv"], "nowhere.csv"),
        (["--rows", "few-shot-100"], "few-shot|per_class|100"),
    ],
)
def test_bad_input_of_a_study_is_one_clear_line(folder, capsys, more, message):  # noqa: F811
    assert study(*more) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("captum-masking: error: ")
    assert any(part in error for part in message.split("|"))


# Statistics.


def test_the_difference_of_two_rows_is_that_of_their_means():
    one, other = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[0.0, 1.0]])
    assert difference(one, other).mean == 2.0  # 2.5 - 0.5


def test_the_interval_of_paired_images_is_narrow_where_rows_move_together():
    random = np.random.default_rng(0)
    hard = random.normal(size=(1, 400)) * 30  # how hard an image is, for both rows
    one, other = hard + random.normal(size=(3, 400)) + 5, hard + random.normal(size=(3, 400))
    paired = difference(one, other)
    shuffled = difference(one, other[:, random.permutation(400)])
    assert 4.5 < paired.low < paired.mean < paired.high < 5.5
    assert shuffled.high - shuffled.low > 5 * (paired.high - paired.low)


def test_seeds_are_paired_where_both_rows_have_as_many():
    # What a seed does to both rows alike (here: 0, 50 or 100 points) is no difference of theirs.
    luck = np.array([[0.0], [50.0], [100.0]]) + np.zeros((3, 40))
    paired, unpaired = difference(luck + 5, luck), difference(luck + 5, luck[:2])
    assert paired == Interval(5.0, 5.0, 5.0)
    assert unpaired.high - unpaired.low > 50


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(1)
    covered = 0
    for trial in range(100):
        images = random.normal(size=(1, 80))
        rows = [images + random.normal(size=(1, 80)) for _ in range(2)]  # no true difference
        gap = difference(rows[0], rows[1], resamples=400, seed=trial)
        covered += gap.low <= 0 <= gap.high
    assert 88 <= covered <= 100


def test_rows_on_different_images_are_not_compared():
    with pytest.raises(ValueError, match="same images.*got 3 and 4"):
        difference(np.zeros((1, 3)), np.zeros((1, 4)))


@pytest.mark.parametrize(
    "low, high, gain, verdict",
    [
        (0.0, np.inf, (2, 1, 3), "confirmed"),  # beats: the whole interval above zero
        (0.0, np.inf, (-2, -3, -1), "refuted"),
        (0.0, np.inf, (1, -1, 3), "undecided"),
        (-np.inf, 0.0, (-2, -3, -1), "confirmed"),  # does not beat
        (-np.inf, 0.0, (2, 1, 3), "refuted"),
        (-0.7, np.inf, (0, -0.5, 0.5), "confirmed"),  # costs at most 0.7
        (-0.7, np.inf, (-2, -3, -1), "refuted"),
        (-0.7, np.inf, (0, -1.5, 0.5), "undecided"),
    ],
)
def test_a_claim_is_confirmed_or_refuted_only_by_a_whole_interval(low, high, gain, verdict):
    assert Claim("", "a", "b", low, high).verdict(Interval(*gain)) == verdict


def test_claims_speak_of_rows_that_exist_and_only_where_both_were_run():
    assert all(claim.row in ROWS and claim.other in ROWS for claim in CLAIMS)
    errors = {"frozen": np.full((2, 9), 30.0), "out-entropy": np.full((2, 9), 40.0)}
    ious = {"frozen": np.full((2, 9), 60.0), "out-entropy": np.full((2, 9), 50.0)}
    ((text, rows, gain, verdict, iou_gain, iou_verdict),) = judge_claims(errors, ious)
    assert "masked-out only" in text and rows == "frozen / out-entropy"
    assert gain.startswith("+10.0") and iou_gain.startswith("+10.0")
    assert verdict == iou_verdict == "confirmed"


def test_a_summary_gives_mean_and_spread_over_seeds():
    row = {name: [0.0, 1.0] for name in ("box_iou", "f1", "area", "masked_in", "masked_out")}
    row |= {"clean": [1, 1], "clean_before": [1, 0], "max_box_acc_v2": 0.5, "images": 7}
    runs = {"frozen": [{**row, "error": [1, 0]}, {**row, "error": [1, 1]}]}  # 50 and 100 points
    (line,) = summarize(runs)
    assert (line["error"], line["seeds"], line["images"]) == (75.0, 2, 7)
    assert line["error_std"] == pytest.approx(35.3553, abs=1e-3)  # sqrt(((-25)^2 + 25^2) / 1)
    assert (line["clean_before"], line["clean"], line["max_box_acc_v2"]) == (50.0, 100.0, 50.0)
