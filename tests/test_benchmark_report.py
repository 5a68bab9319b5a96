"""Promises about the report of a benchmark, on results made by hand."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from captum_masking.benchmark import Column, Cost, Interval, Result, Row, markdown, text_table
from captum_masking.benchmark.images import Sample
from captum_masking.benchmark.report import (
    best,
    contests,
    draw_cost_quality,
    draw_montage,
    family_colors,
    html,
    ranks,
    write_report,
)

ERROR = Column("error_at_best", "LE, %", "Where", False, 100, 1, "Objects missed.", headline=True)
INSERTION = Column("insertion", "insertion", "Order", True, 1, 2, "Area under a curve.")
AREA = Column("area", "area, %", "Shape", None, 100, 0, headline=True)

EVIL = "<script>alert('x')</script>"


def around(mean: float, half: float = 0.05) -> Interval:
    return Interval(mean, mean - half, mean + half)


def row(name: str, family: str, *values: float, forwards: float = 3.0) -> Row:
    """The values of `error_at_best`, `insertion` and `area`, as many as are given."""
    keys = [column.key for column in (ERROR, INSERTION, AREA)]
    found = {key: around(value) for key, value in zip(keys, values, strict=False)}
    return Row(name, family, "as shipped", found, Cost(10 * forwards, forwards, 64.0, 16))


def result(**changes: object) -> Result:
    """Ours wins in error, loses in insertion; the whole frame is better than both, but trivial."""
    given = {
        "columns": [ERROR, INSERTION, AREA],
        "rows": [
            row("frame", "trivial", 0.10, 0.99, 1.0, forwards=0.0),
            row("cam", "captum", 0.40, 0.70, 0.3),
            row("ours", "ours", 0.20, 0.60, 0.2, forwards=1.06),
            Row("broken", "captum", failure="RuntimeError: it\n  raised"),
        ],
        "images": 8,
        "setting": {"data": "pets.csv", "command": "captum-masking benchmark --out x", "seed": 0},
        "notes": ["The data have no pixel masks."],
        # What the others have more than ours.
        "differences": {
            "error_at_best": {"cam": Interval(0.20, 0.10, 0.30)},
            "insertion": {"cam": Interval(0.10, 0.04, 0.16)},
        },
        "reference": "ours",
        "thresholds": {"ours": {"error_at_best": [0.25, 0.3]}},
    }
    return Result(**{**given, **changes})  # type: ignore[arg-type]


def read_interval(value: dict) -> Interval:
    return Interval(**{end: math.nan if v is None else v for end, v in value.items()})


def read_row(row: dict) -> Row:
    """A row as the JSON file holds it."""
    values = {key: read_interval(value) for key, value in row["values"].items()}
    return Row(**{**row, "cost": row["cost"] and Cost(**row["cost"]), "values": values})


def cells(text: str, section: str) -> dict[str, list[str]]:
    """The first table after a heading of a Markdown text, by the first cell of its lines."""
    after = text.split(f"# {section}\n", 1)[1]
    block = re.search(r"(?:^\|.*\n?)+", after, flags=re.MULTILINE)
    assert block is not None
    lines = [line.strip("| ").split(" | ") for line in block[0].splitlines()]
    return {name: rest for name, *rest in lines}


class Page(HTMLParser):
    """Collects the tags and checks that each is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


# Values and places.


def test_the_best_is_never_a_trivial_row_and_follows_the_direction():
    assert best(result().frame(), ERROR) == {"ours"}  # 20 % against 40; the frame's 10 do not count
    assert best(result().frame(), INSERTION) == {"cam"}
    assert best(result().frame(), AREA) == set()


def test_rows_that_print_alike_are_equally_good():
    rows = [row("a", "f", 0.2001), row("b", "f", 0.2004), row("c", "f", 0.3)]
    frame = Result([ERROR], rows, images=1).frame()
    assert best(frame, ERROR) == {"a", "b"}
    assert ranks(frame, ERROR) == {"a": 0.0, "b": 0.0, "c": 1.0}


def test_a_value_that_is_no_number_is_no_value():
    rows = [row("a", "f", math.nan), row("b", "f", 0.5)]
    assert best(Result([ERROR], rows, images=1).frame(), ERROR) == {"b"}
    assert cells(markdown(Result([ERROR], rows, images=1)), "In short")["a"][0] == "–"


# Markdown.


def test_a_cell_holds_mean_and_interval_and_the_best_is_bold():
    lines = cells(markdown(result()), "In short")
    assert lines["method"] == ["LE, % ↓", "area, %", "forwards ↓", "ms/image ↓", "peak MB ↓"]
    assert lines["frame"] == ["10.0 [5.0, 15.0]", "100 [95, 105]", "0.00", "0.0", "64"]
    assert lines["ours"] == [
        "**20.0** [15.0, 25.0]",
        "20 [15, 25]",
        "**1.06**",
        "**10.6**",
        "**64**",
    ]
    assert lines["cam"][:2] == ["40.0 [35.0, 45.0]", "30 [25, 35]"]


def test_each_group_has_its_table_and_its_legend():
    text = markdown(result())
    assert cells(text, "Order")["cam"] == ["**0.70** [0.65, 0.75]"]
    assert "- insertion: Area under a curve." in text


def test_a_failed_row_has_dashes_and_its_reason_in_words():
    text = markdown(result())
    assert cells(text, "In short")["broken"] == ["–"] * 5
    assert "## Failed\n\n- broken (captum): RuntimeError: it raised" in text


def test_a_missing_column_shows_a_dash():
    rows = [row("frame", "trivial", 0.5), row("ours", "ours", 0.5, 0.6, 0.1)]
    assert cells(markdown(result(rows=rows)), "Order")["frame"] == ["–"]


def test_a_value_without_interval_stands_alone():
    alone = Row("a", "f", values={"error_at_best": Interval(0.5, math.nan, math.nan)})
    assert cells(markdown(Result([ERROR], [alone], images=1)), "In short")["a"][0] == "**50.0**"


def test_the_setting_the_command_the_notes_and_the_thresholds_are_told():
    text = markdown(result())
    assert "- images: 8\n- data: pets.csv\n- seed: 0\n" in text
    assert "\n    captum-masking benchmark --out x\n" in text
    assert "- The data have no pixel masks." in text
    assert cells(text, "Methods")["ours"] == ["ours", "as shipped", "LE, % 0.25, 0.3"]


def test_maps_that_held_nan_are_told():
    rows = [Row("a", "f", values={"error_at_best": around(0.5)}, degenerate=3)]
    assert "a: 3 of 8 maps held NaN or infinity" in markdown(result(rows=rows))


def test_names_cannot_break_a_table():
    text = markdown(result(rows=[row("a|b\n*c* $d$ <e>", "f", 0.5)]))
    assert r"| a\|b \*c\* \$d\$ \<e\> | **50.0** [45.0, 55.0] |" in text


def test_columns_of_one_title_are_told_apart():
    twins = [Column(key, "PxAP", key, True, headline=True) for key in ("boxes", "pixels")]
    header = cells(markdown(Result(twins, [row("a", "f")], images=1)), "In short")["method"]
    assert header[:2] == ["PxAP (boxes) ↑", "PxAP (pixels) ↑"]


def test_the_shell_gets_means_and_failures():
    lines = text_table(result()).splitlines()
    assert lines[0].split("  ")[0] == "method"
    assert lines[4].split() == ["ours", "20.0", "20", "1.06", "10.6", "64"]
    assert lines[5].split() == ["broken", "–", "–", "–", "–", "–"]
    assert lines[6] == "broken failed: RuntimeError: it raised"


# Wins and losses.


def test_wins_and_losses_are_told_alike():
    lines = cells(markdown(result()), "Against the best other method")
    # The other has 20 points of error more: ours has 20 less, which is better.
    assert lines["LE, % ↓"] == ["20.0", "cam", "40.0", "-20.0 [-30.0, -10.0]", "better"]
    assert lines["insertion ↑"] == ["0.60", "cam", "0.70", "-0.10 [-0.16, -0.04]", "worse"]
    assert "area, %" not in lines
    assert "- better in 1 of 2: LE, %\n- worse in 1 of 2: insertion\n" in markdown(result())


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.01, 0.2, "better"),
        (-0.2, -0.01, "worse"),
        (-0.01, 0.2, "undecided"),
        (0, 0.2, "undecided"),
    ],
)
def test_an_interval_that_holds_0_decides_nothing(low, high, word):
    differences = {"error_at_best": {"cam": Interval((low + high) / 2, low, high)}}
    (found,) = contests(result(columns=[ERROR], differences=differences)).values()
    assert [verdict.word for verdict in found] == [word]


def test_a_difference_that_was_not_computed_is_no_win():
    (found,) = contests(result(differences={})).values()
    assert [verdict.word for verdict in found] == ["not compared", "not compared"]
    assert "better in 0 of 2\n" in markdown(result(differences={}))


def test_a_sister_of_the_reference_does_not_hide_the_other_families():
    rows = [*result().rows, row("sister", "ours", 0.15, 0.65, 0.2)]
    found = contests(result(rows=rows))
    everyone, others = found["other method"], found["method of another family"]
    assert [verdict.other.name for verdict in everyone] == ["sister", "cam"]
    assert [verdict.other.name for verdict in others] == ["cam", "cam"]


@pytest.mark.parametrize("reference", ["", "broken", "frame of another world"])
def test_without_a_reference_there_are_no_wins(reference):
    assert "Wins and losses" not in markdown(result(reference=reference))
    assert "Wins and losses" not in html(result(reference=reference))


# HTML.


def test_the_page_needs_nothing_else(tmp_path):
    picture = tmp_path / "plot.png"
    assert draw_cost_quality(result(), "error_at_best", picture)
    page = Page(html(result(), picture.read_bytes(), [picture]))
    assert {image["src"].split(",")[0] for image in page.of("img")} == {"data:image/png;base64"}
    assert all(image["alt"] for image in page.of("img"))
    assert not page.of("script") and not page.of("link") and not page.of("a")
    assert not any(
        "http" in str(value) for _, a in page.tags for n, value in a.items() if n in ("src", "href")
    )
    assert "url(" not in html(result()) and "@import" not in html(result())


def test_what_the_user_named_is_escaped_everywhere():
    evil = row(EVIL, EVIL, 0.4, 0.7, 0.3)
    broken = Row(f"{EVIL}2", EVIL, failure=EVIL, degenerate=1)
    column = Column("error_at_best", EVIL, EVIL, False, 1, 1, EVIL, headline=True)
    page = html(
        result(
            columns=[column, INSERTION],
            rows=[evil, broken, row("other", "f", 0.3, 0.2)],
            setting={"command": EVIL, EVIL: {EVIL: [EVIL]}},
            notes=[EVIL],
            reference=EVIL,
            thresholds={EVIL: {"error_at_best": [0.5]}},
        )
    )
    assert not Page(page).of("script")
    assert "&lt;script&gt;" in page


def test_tables_say_what_they_are_and_heads_what_they_head():
    page = Page(html(result()))
    tables = len(page.of("table"))
    assert tables == len(page.of("caption")) == 6  # in short, wins, three groups, methods
    assert {head["scope"] for head in page.of("th")} == {"col", "row"}
    boxes = [box for box in page.of("div") if box.get("class") == "scroll"]
    assert len(boxes) == tables and all(box["aria-label"] for box in boxes)


def test_cells_are_shaded_by_rank_and_the_best_is_strong():
    page = html(result(columns=[INSERTION]))
    # 0.99, 0.70 and 0.60: first, middle and last of seven shades.
    assert '<td class="q0">0.99<small>[0.94, 1.04]</small></td>' in page
    assert '<td class="q3"><strong>0.70</strong><small>[0.65, 0.75]</small></td>' in page
    assert '<td class="q6">0.60<small>[0.55, 0.65]</small></td>' in page


def test_the_page_tells_failures_notes_verdicts_and_the_command():
    words = " ".join(" ".join(Page(html(result())).words).split())
    for told in (
        "broken (captum): RuntimeError: it raised",
        "captum, failed",
        "The data have no pixel masks.",
        "better in 1 of 2: LE, %",
        "worse in 1 of 2: insertion",
        "captum-masking benchmark --out x",
        "Area under a curve.",
    ):
        assert told in words


def test_one_row_is_enough():
    one = Result([ERROR], [row("a", "f", 0.5)], images=1)
    assert '<td class="q0"><strong>50.0</strong>' in html(one)
    assert "**50.0**" in markdown(one)


# Pictures.


def size_of(file) -> tuple[int, int]:
    header = file.read_bytes()[:24]
    assert header.startswith(b"\x89PNG")
    return int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")


def sample(names, side: int = 16) -> Sample:
    maps = {name: np.linspace(0, 1, side * side).reshape(side, side) for name in names}
    return Sample(np.full((side, side, 3), 0.5), maps, [(2, 2, 10, 12)])


def test_the_montage_wraps_and_grows_by_image(tmp_path):
    names = [f"method {number}" for number in range(20)]
    many = Result([ERROR], [Row(name, "f") for name in names], images=2)
    draw_montage([sample(names)], many, tmp_path / "one.png")
    draw_montage([sample(names)] * 2, many, tmp_path / "two.png")
    (width, height), twice = size_of(tmp_path / "one.png"), size_of(tmp_path / "two.png")
    assert width == 8 + 7 * (168 + 8)  # the image and 20 maps: three lines of seven
    assert twice == (width, 2 * height)


def test_the_montage_takes_gray_images_missing_maps_nan_and_any_name(tmp_path):
    gray = Sample(
        np.zeros((8, 8, 1)), {"a": torch.full((8, 8), math.nan)}, torch.tensor([[1, 1, 5, 5]])
    )
    names = ["a", r"$\frac$ and a name far too long for the two lines above a picture of a map"]
    rows = [Row(name, "f") for name in names] + [Row("nowhere", "f", failure="no map")]
    draw_montage([gray, sample(names, side=8)], Result([], rows, images=2), tmp_path / "m.png")
    assert size_of(tmp_path / "m.png")[0] == 8 + 3 * (168 + 8)  # not the row without any map


def test_a_montage_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one image"):
        draw_montage([], result(), tmp_path / "m.png")


def test_cost_and_quality_are_drawn_without_pyplot_and_whatever_the_names(tmp_path):
    import sys

    had = "matplotlib.pyplot" in sys.modules
    rows = [
        *result().rows,
        row(r"_$\frac$" + 60 * "x", "yours", 0.3),
        Row("free", "yours", values={"error_at_best": Interval(0.3, math.nan, math.nan)}),
    ]
    assert draw_cost_quality(result(rows=rows), "error_at_best", tmp_path / "plot.png")
    size_of(tmp_path / "plot.png")
    assert ("matplotlib.pyplot" in sys.modules) == had


def test_trivial_rows_alone_are_lines_and_no_row_is_no_plot(tmp_path):
    frame, *_, broken = result().rows
    assert draw_cost_quality(result(rows=[frame]), "error_at_best", tmp_path / "a.png")
    assert not draw_cost_quality(result(rows=[broken]), "error_at_best", tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()


def test_a_plot_of_an_unknown_column_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match="got 'sharpness'; choose from error_at_best, insertion, area"
    ):
        draw_cost_quality(result(), "sharpness", tmp_path / "plot.png")


def test_families_have_different_colors_and_trivial_is_gray():
    rows = [Row(str(n), f"family {n}") for n in range(6)] + [Row("frame", "trivial")]
    colors = family_colors(Result([], rows, images=1))
    assert len(set(colors.values())) == 7 and colors["trivial"] == "#767676"


# Files.


def test_a_report_is_tables_pictures_and_a_page(tmp_path):
    files = write_report(result(), [sample(["cam", "ours"])], tmp_path / "new" / "out")
    assert [file.name for file in files] == [
        "result.json",
        "table.md",
        "table.csv",
        "montage.png",
        "cost-quality-error_at_best.png",
        "report.html",
    ]
    assert sorted(files) == sorted((tmp_path / "new" / "out").iterdir())  # nothing staged is left
    assert files[1].read_text(encoding="utf-8") == markdown(result())
    sources = [image["src"] for image in Page(files[-1].read_text(encoding="utf-8")).of("img")]
    assert [source[:16] for source in sources] == ["data:image/png;b", "data:image/jpeg;"]


def test_without_samples_there_is_no_montage(tmp_path):
    names = [file.name for file in write_report(result(), [], tmp_path)]
    assert "montage.png" not in names and "report.html" in names


def test_without_boxes_the_saliency_metric_is_plotted_else_the_first_headline(tmp_path):
    metric = Column("saliency_metric", "SM", "Masked", False)
    other = Column("insertion", "insertion", "Order", True, headline=True)
    rows = [Row("a", "f", values={k: around(0.5) for k in ("insertion", "saliency_metric")})]
    both = write_report(Result([other, metric], rows, images=1), [], tmp_path)
    one = write_report(Result([other], rows, images=1), [], tmp_path)
    assert "cost-quality-saliency_metric.png" in [file.name for file in both]
    assert "cost-quality-insertion.png" in [file.name for file in one]


def test_a_report_of_failures_only_has_no_picture(tmp_path):
    files = write_report(result(rows=[result()["broken"]]), [], tmp_path)
    assert not [file for file in files if file.suffix == ".png"]
    assert "RuntimeError: it raised" in files[1].read_text(encoding="utf-8")


def test_the_json_comes_back_as_the_result_and_nan_as_null(tmp_path):
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    rows = [*result().rows, Row("nan", "f", values={"area": Interval(math.nan, 0.0, math.inf)})]
    given = result(rows=rows, setting={"seed": np.int64(3), "share": np.float32(0.5)})
    file = write_report(given, [], tmp_path)[0]
    read = json.loads(file.read_text(encoding="utf-8"), parse_constant=refuse)
    assert read["setting"] == {"seed": 3, "share": 0.5}
    assert read["rows"][-1]["values"] == {"area": {"mean": None, "low": 0.0, "high": None}}
    kept = [read_row(row) for row in read["rows"][:-1]]
    assert kept == list(result().rows)


COMMITTED = sorted((Path(__file__).parent.parent / "benchmarks").glob("*/result.json"))


@pytest.mark.parametrize("file", COMMITTED, ids=lambda file: file.parent.name)
def test_committed_results_are_printed_as_the_tables_beside_them(file):
    read = json.loads(file.read_text(encoding="utf-8"))
    gaps = {c: {n: read_interval(v) for n, v in d.items()} for c, d in read["differences"].items()}
    columns = [Column(**column) for column in read["columns"]]
    rows = [read_row(row) for row in read["rows"]]
    whole = Result(**{**read, "columns": columns, "rows": rows, "differences": gaps})
    assert markdown(whole) == file.with_name("table.md").read_text(encoding="utf-8")
    csv_text = file.with_name("table.csv").read_text(encoding="utf-8")
    assert whole.frame().to_csv(lineterminator="\n") == csv_text


def test_the_csv_holds_plain_numbers_and_nothing_where_there_is_none(tmp_path):
    file = write_report(result(), [], tmp_path)[2]
    lines = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"))))
    ours, broken = lines[2], lines[3]
    assert float(ours["error_at_best"]) == 0.2
    assert float(ours["error_at_best_low"]) == pytest.approx(0.15)
    assert ours["forwards"] == "1.06" and ours["batch_size"] == "16" and ours["failure"] == ""
    assert broken["error_at_best"] == broken["forwards"] == broken["batch_size"] == ""
    assert "it" in broken["failure"]


def test_an_interrupted_report_leaves_the_old_files(tmp_path, monkeypatch):
    from captum_masking.benchmark import report

    before = {file: file.read_bytes() for file in write_report(result(), [], tmp_path)}

    def stop(result, key, file):
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "draw_cost_quality", stop)
    with pytest.raises(KeyboardInterrupt):
        write_report(result(), [], tmp_path)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
