"""The tutorials run as a reader runs them, and keep to the form in which they are rendered."""

from __future__ import annotations

import ast
import os
import re
import runpy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from accelerate.state import AcceleratorState
from matplotlib import pyplot as plt

HERE = Path(__file__).parents[1]
FOLDER = HERE / "tutorials"
TUTORIALS = sorted(FOLDER.glob("[0-9][0-9]_*.py"))

# What the page shows: a title, then two sentences or more before the first code.
PROMISED = {
    "01": "Quick start",
    "02": "Your own classifier and data",
    "03": "Frozen or joint",
    "04": "Swap an idea",
    "05": "Ten images a class",
    "06": "Compare with Captum's methods",
    "07": "Two",
    "08": "A vision transformer",
    "09": "Listen to the evidence",
    "10": "Is it faithful?",
    "11": "Train on a cluster",
    "12": "Add a method",
    "13": "What does a detector look at?",
    "14": "Color and depth",
}

each_tutorial = pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)


def docstring(tutorial: Path) -> str:
    return ast.get_docstring(ast.parse(tutorial.read_text())) or ""


def links(text: str) -> list[str]:
    """Targets of ``:doc:`target``` and ``:doc:`words <target>```."""
    return [a or b for a, b in re.findall(r":doc:`(?:[^`<]*<([^`>]+)>|([^`<]+))`", text)]


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to be in, no figure yet, no process group, and a warning of ours an error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(matplotlib, "rcParams", matplotlib.rcParams.copy())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    plt.close("all")
    AcceleratorState._reset_state(reset_partial_state=True)
    with warnings.catch_warnings():
        ours = r"captum_masking|__main__"
        warnings.filterwarnings("error", category=UserWarning, module=ours)
        yield tmp_path
    AcceleratorState._reset_state(reset_partial_state=True)
    plt.close("all")


# In this process, which has imported torch and all else: a fresh one takes longer for that than
# for some of the tutorials.
@each_tutorial
def test_a_tutorial_runs_and_shows_something(tutorial: Path, reader: Path, capsys: Any) -> None:
    runpy.run_path(str(tutorial), run_name="__main__")
    assert capsys.readouterr().out or plt.get_fignums()
    assert not list(reader.iterdir()), "a tutorial leaves files in the reader's folder"


def test_every_promised_tutorial_is_there_and_no_other() -> None:
    assert [path.name[:2] for path in TUTORIALS] == list(PROMISED)


@each_tutorial
def test_a_tutorial_opens_with_its_title_and_says_whom_it_is_for(tutorial: Path) -> None:
    title, underline, _, opening = docstring(tutorial).split("\n", 3)
    assert title.startswith(PROMISED[tutorial.name[:2]])
    assert underline == "=" * len(title)
    assert re.match(r"For [^:]+: you will ", " ".join(opening.split()))
    assert opening.strip().endswith(".")


@each_tutorial
def test_a_tutorial_opens_with_the_masker_that_ships(tutorial: Path) -> None:
    _, first, second, *_ = re.split(r"^# %%", tutorial.read_text(), flags=re.MULTILINE)
    assert "efficientnet_lite0()" in first + second


@each_tutorial
def test_a_tutorial_ends_with_an_exercise_and_three_links(tutorial: Path) -> None:
    exercise, after = (tutorial.read_text().rindex(word) for word in ("**Exercise.**", "**Next**"))
    closing = tutorial.read_text()[after:]
    assert exercise < after
    assert len(re.findall(r":(?:doc|ref):`", closing)) >= 3
    assert all(line.startswith("#") for line in closing.splitlines()[1:] if line)


@each_tutorial
def test_the_pages_that_a_tutorial_links_to_exist(tutorial: Path) -> None:
    for target in links(tutorial.read_text()):
        page = HERE / "docs" / f"{target[3:]}.rst" if target.startswith("../") else FOLDER / target
        assert page.exists() or page.with_suffix(".py").exists(), target


@each_tutorial
def test_a_tutorial_is_text_cells_and_short_code_cells(tutorial: Path) -> None:
    cells = re.split(r"^# %%", tutorial.read_text(), flags=re.MULTILINE)
    assert len(cells) >= 5
    codes = [[line for line in cell.splitlines() if line and line[0] != "#"] for cell in cells[1:]]
    assert max(map(len, codes)) <= 75


@each_tutorial
def test_a_tutorial_claims_something_that_it_checks(tutorial: Path) -> None:
    tree = ast.parse(tutorial.read_text())
    assert any(isinstance(node, ast.Assert) for node in ast.walk(tree))


@each_tutorial
def test_a_tutorial_names_no_folder_of_ours_and_downloads_nothing(tutorial: Path) -> None:
    text = tutorial.read_text()
    assert not re.search(r"""["'](/(home|root|tmp|work|Users)/|[A-Z]:\\)""", text)
    assert not re.search(r"urllib|requests\.get|download=True|load_state_dict_from_url", text)
