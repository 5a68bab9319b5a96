"""The tables of a result, as Markdown and for the shell."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from captum_masking.benchmark.markdown.reading import (
    COSTS,
    DASH,
    arrow,
    best,
    facts,
    groups,
    limits,
    mean_of,
    remarks,
    short,
    thresholds,
    titled,
    value_of,
)
from captum_masking.benchmark.markdown.verdict import (
    WINS,
    WINS_LEGEND,
    Verdict,
    contests,
    signed,
    summary,
)
from captum_masking.benchmark.result import Column, Result, Row


def markdown(result: Result) -> str:
    """Lay out a result as Markdown.

    Args:
        result: Finished.

    Returns:
        The setting, the short table, wins and losses of the reference, what failed, one table a
        group of columns with its legend, the methods, and the notes. In bold the best value of
        a column that does not belong to a trivial row.

    Source:
        Own.
    """
    command = str(result.setting.get("command", ""))
    parts = [
        "# Benchmark of saliency methods",
        _list(f"{_plain(name)}: {_plain(text)}" for name, text in facts(result).items()),
        "\n".join(f"    {line}" for line in command.splitlines()),  # indented: nothing to escape
        "## In short",
        _table_of(result, short(result)),
        "Means over images with 95 % bootstrap intervals; ↑ higher is better, ↓ lower is better; "
        "in bold the best that is not trivial.",
        _list(_legend(result, column) for column in COSTS),
        *_wins(result),
        *_section("Failed", (_failure(row) for row in result.rows if row.failure)),
        *(
            part
            for name, columns in groups(result).items()
            for part in _group(result, name, columns)
        ),
        "## Methods",
        _methods(result),
        *_section("Notes", map(_plain, remarks(result))),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def text_table(result: Result) -> str:
    """Lay out the short table for the shell, without intervals; failures follow in words.

    Source:
        Own.
    """
    from captum_masking.cli.table import table  # the commands import this package

    columns = short(result)
    header = ["method", *(titled(result, column) for column in columns)]
    lines = [[_one_line(row.name), *(mean_of(row, c) for c in columns)] for row in result.rows]
    failed = [f"{row.name} failed: {row.failure}" for row in result.rows if row.failure]
    return "\n".join([table(header, lines), *map(_one_line, failed)])


def _table_of(result: Result, columns: Sequence[Column]) -> str:
    header = ["method", *(f"{titled(result, c)} {arrow(c)}".strip() for c in columns)]
    bold = [best(result, column) for column in columns]
    lines = [
        [
            _plain(row.name),
            *(_cell(row, c, row.name in names) for c, names in zip(columns, bold, strict=True)),
        ]
        for row in result.rows
    ]
    return _markdown_table(header, lines)


def _cell(row: Row, column: Column, is_best: bool) -> str:
    value = value_of(row, column)
    if value is None:
        return DASH
    mean = column.text(value.mean)
    return f"{f'**{mean}**' if is_best else mean} {limits(column, value)}".strip()


def _group(result: Result, name: str, columns: Sequence[Column]) -> list[str]:
    legend = _list(_legend(result, column) for column in columns)
    return [f"## {_plain(name)}", _table_of(result, columns), legend]


def _legend(result: Result, column: Column) -> str:
    return f"{_plain(titled(result, column))}: {_plain(column.legend)}" if column.legend else ""


def _wins(result: Result) -> list[str]:
    parts = [
        part
        for rivals, found in contests(result).items()
        for part in (
            f"### Against the best {rivals}",
            _list(map(_plain, summary(result, found))),
            _markdown_table(WINS, [_win_line(result, verdict) for verdict in found]),
        )
    ]
    title = f"## Wins and losses of {_plain(result.reference)}"
    return [title, WINS_LEGEND, *parts] if parts else []


def _win_line(result: Result, verdict: Verdict) -> list[str]:
    column, other = verdict.column, verdict.other
    return [
        f"{titled(result, column)} {arrow(column)}",
        column.text(verdict.own.mean),
        _plain(other.name),
        mean_of(other, column),
        signed(column, verdict.difference),
        verdict.word,
    ]


def _failure(row: Row) -> str:
    return f"{_plain(row.name)} ({_plain(row.family)}): {_plain(row.failure)}"


def _methods(result: Result) -> str:
    lines = [
        [_plain(text) or DASH for text in (r.name, r.family, r.settings, thresholds(result, r))]
        for r in result.rows
    ]
    return _markdown_table(["method", "family", "settings", "thresholds chosen"], lines)


def _section(title: str, lines: Iterable[str]) -> list[str]:
    listed = _list(lines)
    return [f"## {title}", listed] if listed else []


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines if line)


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *(["---:"] * (len(header) - 1))]
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, rule, *rows])


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _plain(text: str) -> str:
    """Take from a text what Markdown would read as more than text."""
    return re.sub(r"([\\`*_<>|\[\]&~$])", r"\\\1", _one_line(text))
