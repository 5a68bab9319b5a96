"""Every block of code in the README and in docs/ runs, every command parses, every link leads on.

What a page takes for granted (``classifier``, ``train_loader``, ``x`` and so on) is in ``world``
below, made small. What one page needs beyond that stands in the page itself, unseen by readers::

    .. run unseen:

       my_cnn = cnn(channels=1)

A block that cannot run here is compiled, and says why it is not run in a comment right above it::

    .. not run: it downloads weights

In the README both are HTML comments, ``<!-- run unseen: ... -->`` and ``<!-- not run: ... -->``.
"""

from __future__ import annotations

import ast
import doctest
import importlib.util
import re
import shlex
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import pytest
import torch
from networks import cnn
from PIL import Image
from torch.utils.data import DataLoader

import captum_masking
from captum_masking.benchmark import benchmark
from captum_masking.cli.main import app

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.rst"))]
FROM_ELSEWHERE = {"tutorials/index"}  # made of tutorials/ when the pages are built


class Block(NamedTuple):
    """What a page says in one language, and where; ``reason`` is why it is not run."""

    language: str
    line: int
    code: str
    reason: str | None = None


def name(page: Path) -> str:
    return page.name


def pages_with(language: str) -> list[Path]:
    return [page for page in PAGES if any(b.language == language for b in blocks(page))]


# Reading pages.


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    return _of_markdown(text) if page.suffix == ".md" else _of_rst(text)


def _of_markdown(text: str) -> Iterator[Block]:
    pattern = r"<!-- run unseen:(?P<unseen>.*?)-->|(?:<!-- not run:(?P<reason>[^>]*)-->\s*)?"
    pattern += r"^```(?P<language>\w+)\n(?P<code>.*?)^```"
    for found in re.finditer(pattern, text, flags=re.DOTALL | re.MULTILINE):
        group = "code" if found["unseen"] is None else "unseen"
        line = text.count("\n", 0, found.start(group)) + 1
        yield Block(found["language"] or "python", line, found[group], found["reason"])


def _of_rst(text: str) -> Iterator[Block]:
    lines, reason = text.splitlines(), None
    for number, line in enumerate(lines):
        found = re.fullmatch(r"( *)\.\. (run unseen:|not run: .+|code-block:: \w+)", line)
        if found:
            indent, what = len(found[1]), found[2]
            if what.startswith("not run:"):
                reason = what.removeprefix("not run:").strip()
                continue
            language = "python" if what == "run unseen:" else what.split()[-1]
            yield Block(language, number + 2, _indented(lines[number + 1 :], indent), reason)
        if line.strip():
            reason = None


def _indented(lines: list[str], indent: int) -> str:
    """Return the lines that stand further in than ``indent``, up to the first that does not."""
    block = []
    for line in lines:
        if line.strip() and len(line) - len(line.lstrip()) <= indent:
            break
        block.append(line if not re.fullmatch(r" +:[a-z-]+:.*", line) else "")
    return textwrap.dedent("\n".join(block)) + "\n"


# What readers are taken to have.


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A folder with a few small images to stand in, and the names that pages take for granted."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(matplotlib, "rcParams", matplotlib.rcParams.copy())
    _write_images(tmp_path)
    inputs, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    loader = DataLoader(list(zip(inputs, labels.tolist(), strict=True)), batch_size=4)
    model = captum_masking.MaskingModel(cnn())
    monkeypatch.setattr(captum_masking.MaskingTrainer, "fit", for_one_epoch())
    monkeypatch.setitem(benchmark.__kwdefaults__, "cost_seconds", 0.01)
    module = types.ModuleType("page")  # one that pickle finds classes in
    monkeypatch.setitem(sys.modules, "page", module)
    names = {
        "patch": monkeypatch,
        "cnn": cnn,
        "torch": torch,
        "nn": torch.nn,
        **{part: getattr(captum_masking, part) for part in captum_masking.__all__},
        **{"classifier": model.classifier, "model": model},
        **dict.fromkeys(("loader", "train_loader", "validation_loader"), loader),
        **{"x": inputs, "inputs": inputs, "images": inputs, "target": labels, "labels": labels},
        **{"preprocess": preprocess, "mean": [0.5] * 3, "std": [0.25] * 3},
    }
    module.__dict__.update(names)
    return module.__dict__


def for_one_epoch() -> Any:
    """``fit`` as it is, but for one epoch at most: what runs for one runs for ten."""
    fit = captum_masking.MaskingTrainer.fit

    def quick(trainer: Any, loader: Any, epochs: int = 1, **options: Any) -> Any:
        return fit(trainer, loader, min(epochs, 1), **options)

    return quick


def _write_images(folder: Path) -> None:
    rows = ["file,label,x0,y0,x1,y1"]
    for number in range(40):
        file = folder / f"photos/{'abcd'[number % 4]}/{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(255, (40, 48, 3), dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(file)
        rows.append(f"{file.relative_to(folder)},{number % 4},0.1,0.2,0.6,0.9")
    (folder / "train.csv").write_text("\n".join([*rows, ""]))
    (folder / "val.csv").write_text("\n".join([*rows[:5], ""]))


def preprocess(picture: Image.Image) -> torch.Tensor:
    pixels = torch.tensor(list(picture.resize((32, 32)).tobytes()), dtype=torch.float32)
    return (pixels.reshape(32, 32, 3).permute(2, 0, 1) / 255 - 0.5) / 0.25


# The promises.


@pytest.mark.filterwarnings("ignore::UserWarning")  # on what so short a training comes to
@pytest.mark.parametrize("page", pages_with("python"), ids=name)
def test_the_code_of_a_page_runs_from_top_to_bottom(page: Path, world: dict[str, Any]) -> None:
    for block in blocks(page):
        if block.language == "python":
            source = "\n" * (block.line - 1) + block.code  # errors then name the page's own line
            code = compile(source, str(page.relative_to(ROOT)), "exec")
            if block.reason is None:
                exec(code, world)


@pytest.mark.parametrize("page", pages_with("console"), ids=name)
def test_the_commands_of_a_page_are_ones_that_there_are(page: Path) -> None:
    for block in blocks(page):
        for command in _commands(block.code) if block.language == "console" else ():
            _check_command(shlex.split(command, comments=True))


def _commands(code: str) -> Iterator[str]:
    for line in code.replace("\\\n", " ").splitlines():
        yield line.split(" > ")[0].strip().removeprefix("$ ")  # where output goes is the shell's


def _check_command(words: list[str]) -> None:
    """Parse a command of ours; of others, see that the file or the target is there."""
    if "captum-masking" in words or "captum_masking" in words:
        start = words.index("captum-masking" if "captum-masking" in words else "captum_masking")
        arguments = [w for w in words[start + 1 :] if w != "..."]
        if "..." in words:  # what is left out, train cannot do without
            arguments += ["--classifier", "efficientnet-lite0"]
        if not words[0].startswith("_CAPTUM_MASKING_COMPLETE="):  # a script for the shell
            app.commands[arguments[0]].make_context(arguments[0], arguments[1:])
    elif words[:1] == ["python"] and words[1].endswith(".py"):
        assert (ROOT / words[1]).is_file(), f"there is no {words[1]}"
    elif words[:1] == ["make"]:
        makefile = (ROOT / "Makefile").read_text()
        assert re.search(rf"^{words[1]}:", makefile, flags=re.MULTILINE), f"no target {words[1]}"


def test_every_page_is_at_most_three_clicks_from_the_first() -> None:
    reached = {"index"}
    for _ in range(3):
        reached |= {entry for page in reached - FROM_ELSEWHERE for entry in _toctree(page)}
    pages = {page.stem for page in PAGES if page.suffix == ".rst"}
    assert pages - reached == set()
    assert reached - pages == FROM_ELSEWHERE


def _toctree(page: str) -> Iterator[str]:
    file = DOCS / f"{page}.rst"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    for number, line in enumerate(lines):
        if line == ".. toctree::":
            for entry in _indented(lines[number + 1 :], 0).split("\n"):
                if entry.strip():
                    yield re.sub(r".*<(.*)>", r"\1", entry.strip())


def _is_page(there: str) -> bool:
    """Whether a page is in docs/, or will be made of a tutorial."""
    return (DOCS / f"{there}.rst").is_file() or (ROOT / f"{there}.py").is_file()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_within_the_project_leads_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    labels = {label for each in DOCS.glob("*.rst") for label in _labels(each)} | {"genindex"}
    roles = r":(ref|doc):`(?:[^`<]*<)?([^`>]+)>?`"
    for kind, there in re.findall(roles, text):
        known = there in labels if kind == "ref" else _is_page(there)
        assert known or there in FROM_ELSEWHERE, f"{page.name}: no {kind} {there!r}"
    files = re.findall(r"^\s*(?:\.\. (?:image|figure|include)::|:file:) (\S+)", text, flags=re.M)
    if page.suffix == ".md":
        files = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)]
    missing = [f for f in files if f and ":" not in f and not (page.parent / f).exists()]
    assert missing == []


def _labels(page: Path) -> list[str]:
    return re.findall(r"^\.\. _([\w-]+):$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)


@pytest.mark.parametrize("file", ["addresses.py", "markdown.py", "tables.py"])
def test_the_examples_in_what_builds_the_pages_run(file: str) -> None:
    found = doctest.testmod(_module(DOCS / file))
    assert found.attempted and not found.failed


def test_the_messages_in_troubleshooting_are_those_that_the_package_raises() -> None:
    said = " ".join(_strings())
    page = (DOCS / "troubleshooting.rst").read_text(encoding="utf-8")
    quoted = re.findall(r"^ +\* - ``([^`]+)``", page, flags=re.MULTILINE)
    pieces = [piece.strip(" .") for message in quoted for piece in message.split("...")]
    assert len(pieces) > 20
    assert [piece for piece in pieces if piece not in said] == []


def _strings() -> Iterator[str]:
    """Every string in the package, with nothing in the places of its values."""
    for file in Path(captum_masking.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(p.value for p in node.values if isinstance(p, ast.Constant))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_every_table_of_measured_figures_is_there_and_shows_what_the_file_says() -> None:
    module = _module(DOCS / "tables.py")
    tables = module.TABLES
    shown = {
        found
        for page in PAGES
        for found in re.findall(r"^\.\. benchmark:: (\S+)$", page.read_text(), flags=re.MULTILINE)
    }
    assert shown == set(tables)
    assert all(table().strip() for table in tables.values())
    figures = [f for page in PAGES for f in re.findall(r":measured:`([^`]+)`", page.read_text())]
    assert figures and all(module.figure(figure) for figure in figures)


def _module(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
