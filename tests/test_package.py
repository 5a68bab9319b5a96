"""Promises about what is installed: the wheel holds all the package needs, and says what it is."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from importlib.util import find_spec
from pathlib import Path

import pytest

import captum_masking

ROOT = Path(captum_masking.__file__).parents[1]
SOURCE = ("captum_masking", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")

pytestmark = pytest.mark.skipif(
    not (ROOT / "setup.py").exists() or find_spec("setuptools") is None,
    reason="needs the source and setuptools",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A wheel and a source archive, built from a copy, without isolation or network."""
    folder = tmp_path_factory.mktemp("source")
    for name in SOURCE:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(ROOT / name, folder / name)
    code = (
        "from setuptools import build_meta as build\n"
        "print(build.build_wheel('dist'), build.build_sdist('dist'))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:setuptools", "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    wheel, archive = done.stdout.split()[-2:]
    return folder / "dist" / wheel, folder / "dist" / archive, done.stdout + done.stderr


@pytest.fixture(scope="module")
def names(built):
    with zipfile.ZipFile(built[0]) as wheel:
        return set(wheel.namelist())


@pytest.fixture(scope="module")
def metadata(built):
    with zipfile.ZipFile(built[0]) as wheel:
        (name,) = (n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
        return Parser().parsestr(wheel.read(name).decode())


def test_the_wheel_holds_every_module_the_shipped_masker_and_the_marker_of_types(names):
    package = ROOT / "captum_masking"
    modules = {str(file.relative_to(ROOT)) for file in package.rglob("*.py")}
    zoo = {str(file.relative_to(ROOT)) for file in (package / "zoo").rglob("*.safetensors")}
    assert zoo and modules | zoo | {"captum_masking/py.typed"} <= names
    assert "captum_masking/zoo/efficientnet-lite0/model.safetensors" in names
    assert {f"captum_masking/benchmark/report.{end}" for end in ("html", "md")} <= names


def test_the_wheel_holds_nothing_else(names):
    tops = {name.split("/")[0] for name in names}
    version = captum_masking.__version__
    assert tops == {"captum_masking", f"captum_masking-{version}.dist-info"}
    assert not [name for name in names if name.endswith((".pyc", ".png", ".csv"))]


def test_the_metadata_says_what_it_is(metadata):
    assert metadata["Name"] == "captum-masking"
    assert metadata["Version"] == captum_masking.__version__
    assert metadata["License-Expression"] == "BSD-3-Clause" and metadata["License"] is None
    assert metadata["License-File"] == "LICENSE"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload().startswith("# captum_masking")
    pythons = [c.split(" :: ")[-1] for c in metadata.get_all("Classifier") if ":: 3." in c]
    assert pythons == ["3.11", "3.12", "3.13"]
    assert any(
        url.startswith("Paper, https://arxiv.org/") for url in metadata.get_all("Project-URL")
    )


def test_every_requirement_has_a_floor_or_belongs_to_an_extra(metadata):
    needed = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert {line.split(">=")[0] for line in needed} >= {"torch", "captum", "numpy"}
    assert all(">=" in line for line in needed)
    assert not [line for line in needed if "quantus" in line]


def test_the_extras_are_those_that_errors_and_docs_name(metadata):
    assert set(metadata.get_all("Provides-Extra")) == {
        *("app", "audio", "benchmark", "demo", "docs", "hub"),
        *("metrics", "tensorboard", "test"),
    }


def test_the_floors_are_those_that_the_oldest_job_installs(metadata):
    file = ROOT / ".github" / "oldest.txt"
    if not file.exists():
        pytest.skip("not in the source archive")
    lines = [line.split("#")[0].strip() for line in file.read_text().splitlines()]
    oldest = dict(line.split("==") for line in lines if line)
    needed = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    for name, floor in (line.split(">=") for line in needed):
        assert oldest[name] == floor or oldest[name].startswith(f"{floor}."), name


def test_building_warns_of_nothing_that_will_stop_working(built):
    assert "Deprecat" not in built[2] and "Unknown distribution option" not in built[2]


def test_the_source_archive_can_build_the_wheel_again(built):
    import tarfile

    with tarfile.open(built[1]) as archive:
        inside = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"setup.py", "pyproject.toml", "README.md", "LICENSE", "PKG-INFO"} <= inside
    assert "captum_masking/zoo/efficientnet-lite0/model.safetensors" in inside


def test_the_manifest_names_all_that_the_tests_read():
    text = (ROOT / "MANIFEST.in").read_text()
    read = {file.suffix for file in (ROOT / "tests").iterdir() if file.suffix not in (".pyc", "")}
    (line,) = (line for line in text.splitlines() if line.startswith("recursive-include tests "))
    assert read <= {pattern.removeprefix("*") for pattern in line.split()[2:]}
