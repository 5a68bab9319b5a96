"""The README's figures are those that were measured."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TABLE = re.search(
    r"(\| method \| LE.*?)\n\n", (ROOT / "README.md").read_text(encoding="utf-8"), re.S
)[1].splitlines()
NAMES = {
    "centered square of half the area": "centered square",
    "Captum NoiseTunnel (SmoothGrad)": "NoiseTunnel",
    "LayerCAM": "pytorch-grad-cam LayerCAM",
    "EigenGradCAM": "pytorch-grad-cam EigenGradCAM",
    "**MaskingSaliency**, frozen classifier": "MaskingSaliency (frozen1k)",
    "**MaskingSaliency**, trained jointly": "MaskingSaliency (j1k)",
}
SCORES = {
    "LE ↓": ("imagenet1k", "error_at_mean"),
    "LE, best cut ↓": ("imagenet1k", "error_at_best"),
    "pets: IoU ↑": ("pets", "mask_iou_at_best"),
    "SM ↓": ("imagenet1k", "saliency_metric"),
    "masked-in ↑": ("imagenet1k", "masked_in_accuracy"),
    "masked-out ↓": ("imagenet1k", "masked_out_accuracy"),
    "forwards ↓": ("imagenet1k", "forwards"),
}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.fixture(scope="module")
def measured() -> dict[tuple[str, str, str], float]:
    found = {}
    for data in ("imagenet1k", "pets"):
        text = (ROOT / "benchmarks" / data / "result.json").read_text(encoding="utf-8")
        for row in json.loads(text)["rows"]:
            for score, value in row["values"].items():
                if value is not None:
                    found[row["name"], data, score] = value["mean"]
            found[row["name"], data, "forwards"] = row["cost"]["forwards"]
    return found


@pytest.mark.parametrize("line", TABLE[2:])
def test_each_figure_of_the_table_is_the_one_that_was_measured(line, measured):
    name, *figures = cells(line)
    name = NAMES.get(name, name.removeprefix("Captum "))
    for column, figure in zip(cells(TABLE[0])[1:], figures, strict=True):
        data, score = SCORES[column]
        value = measured[name, data, score] * (100 if figure.endswith("%") else 1)
        digits = re.sub(r"[ %]", "", figure)
        after_point = len(digits.partition(".")[2])
        assert float(digits) == pytest.approx(value, abs=0.501 * 10**-after_point)
