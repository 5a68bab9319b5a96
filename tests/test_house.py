"""The plan of the house, as far as import-linter does not hold it."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections import Counter, defaultdict
from pathlib import Path

import captum_masking

ROOT = Path(captum_masking.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
PRIVATE_TO_CAPTUM = ROOT / "_base" / "captum.py"
OUTSIDE_THE_PLAN = {"__init__.py", "__main__.py", "py.typed", "__pycache__"}

# File names that stand in two folders, and how the folder makes the difference plain.
TWICE = {
    "__init__.py": "every folder has one",
    "attention.py": "how a network's is read, and maps made of it",
    "classifier.py": "how it is trained, and what it answers",
    "files.py": "any file written safely, and a model as a file",
    "gate.py": "the masker with a gate, and how that is trained",
    "images.py": "images to learn from, and images to judge methods by",
    "run.py": "one training, and one benchmark, from its first step to its last",
    "study.py": "the comparison, and its command",
}


def test_the_landing_has_at_most_fourteen_entries():
    entries = {entry.name for entry in ROOT.iterdir()} - OUTSIDE_THE_PLAN
    assert len(entries) <= 14, sorted(entries)


def test_the_package_stays_within_its_lines_and_files():
    lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in FILES)
    assert lines <= 27_438
    assert len(FILES) <= 108


def test_no_two_files_have_one_name_without_a_reason():
    names = Counter(file.name for file in FILES)
    assert {name for name, count in names.items() if count > 1} <= TWICE.keys()


def test_each_public_name_has_one_import_path():
    paths = defaultdict(set)
    for module in pkgutil.walk_packages(captum_masking.__path__, "captum_masking."):
        if not module.name.endswith("__main__"):
            for name in getattr(importlib.import_module(module.name), "__all__", ()):
                thing = getattr(importlib.import_module(module.name), name)
                paths[name, id(thing)].add(module.name)
    assert {name: sorted(found) for name, found in paths.items() if len(found) > 1} == {}


def test_captums_private_names_are_imported_in_one_file():
    private = {file for file in FILES if any("._" in name for name in imported_from_captum(file))}
    assert private == {PRIVATE_TO_CAPTUM}


def imported_from_captum(file: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return [name for name in names if name.startswith("captum.")]
