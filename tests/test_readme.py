"""The README is short, and its figures are those that were measured."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
TABLE = re.search(r"(\| method \|.*?)\n\n", README, re.S)[1].splitlines()
NAMES = {
    "MaskingSaliency": "MaskingSaliency",
    "Captum LayerGradCam": "LayerGradCam",
    "Captum IntegratedGradients": "IntegratedGradients",
    "Captum Saliency": "Saliency",
    "pytorch-grad-cam HiResCAM": "pytorch-grad-cam HiResCAM",
    "pytorch-grad-cam LayerCAM": "pytorch-grad-cam LayerCAM",
    "pytorch-grad-cam Grad-CAM++": "pytorch-grad-cam GradCAMPlusPlus",
    "centered square of half the area": "centered square",
}
SCORES = {"missed ↓": "error_at_mean", "box IoU ↑": "box_iou", "forwards ↓": "forwards"}


def cells(line: str) -> list[str]:
    return [cell.strip().strip("*") for cell in line.strip("|").split("|")]


@pytest.fixture(scope="module")
def measured() -> dict[tuple[str, str], float]:
    costs = json.loads((ROOT / "benchmarks" / "attribute_cost.json").read_text(encoding="utf-8"))
    ours = costs["costs"]["efficientnet-lite0, batch 16"]["forwards"]
    found: dict[tuple[str, str], float] = {("MaskingSaliency", "forwards"): ours}
    for folder in ("shipped", "imagenet1k"):  # rows that the first lacks are of the second
        text = (ROOT / "benchmarks" / folder / "result.json").read_text(encoding="utf-8")
        for row in json.loads(text)["rows"]:
            for score in SCORES.values():
                value = row["values"].get(score)
                mean = row["cost"]["forwards"] if score == "forwards" else value and value["mean"]
                found.setdefault((row["name"], score), mean)
    return found


def test_it_is_read_in_one_sitting():
    assert len(README.splitlines()) <= 120


@pytest.mark.parametrize("line", TABLE[2:])
def test_each_figure_of_the_table_is_the_one_that_was_measured(line, measured):
    name, *figures = cells(line)
    columns = cells(TABLE[0])[1:]
    for column, figure in zip(columns, figures, strict=True):
        if column in SCORES:
            value = measured[NAMES[name], SCORES[column]] * (100 if figure.endswith("%") else 1)
            digits = re.sub(r"[ %]", "", figure)
            after_point = len(digits.partition(".")[2])
            assert float(digits) == pytest.approx(value, abs=0.501 * 10**-after_point)
