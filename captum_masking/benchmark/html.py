"""A result as one HTML file that needs nothing else: no network, no script, no other file."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

from captum_masking.benchmark.markdown.reading import (
    DASH,
    arrow,
    best,
    facts,
    groups,
    limits,
    mean_of,
    ranks,
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
from captum_masking.benchmark.pictures import family_colors
from captum_masking.benchmark.result import Column, Result, Row

Picture = bytes | str | Path

_SHADES = 7  # from the best, q0, to the worst, q6
_WORDS = ("best other", "settings", "thresholds chosen")  # columns that hold no numbers
_LEFT = ' class="words"'

_STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--paper:#fff;--soft:#5b6470;--line:#d5dae0;
--good:0,114,178;--bad:230,120,0}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ed;--paper:#14171b;--soft:#a3adb8;--line:#363d46;
--good:60,160,230;--bad:240,140,30}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:82rem;margin:auto;padding:1rem}
h1{font-size:1.6rem;line-height:1.2}h2{font-size:1.2rem;margin:2.2rem 0 .6rem}
p,ul,dl{max-width:48rem}li,dd,pre{overflow-wrap:anywhere}
pre{white-space:pre-wrap;padding:.7rem;border:1px solid var(--line);border-radius:6px}
dt{font-weight:600}dd{margin:0 0 .4rem;color:var(--soft)}
.facts{display:grid;grid-template-columns:max-content 1fr;gap:.1rem .9rem}
.facts dt{max-width:9rem;overflow-wrap:anywhere}.facts dd{margin:0}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:6px;margin:.6rem 0}
table{border-collapse:separate;border-spacing:0;width:100%;font-size:.86rem;
font-variant-numeric:tabular-nums}
caption{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
th,td{padding:.3rem .55rem;border-bottom:1px solid var(--line);text-align:right;vertical-align:top}
tr:last-child>*{border-bottom:0}
td{white-space:nowrap}td.words{white-space:normal;min-width:8rem;max-width:30rem;
overflow-wrap:break-word}.words{text-align:left}
thead th{vertical-align:bottom;background:var(--paper);color:var(--soft);font-weight:600}
th:first-child{position:sticky;left:0;z-index:1;background:var(--paper);text-align:left;
min-width:7.5rem;max-width:15rem;overflow-wrap:anywhere}
tbody th{font-weight:500;border-left:5px solid var(--family,transparent)}
small{display:block;color:var(--soft);font-size:.75em}
.q0{background:rgba(var(--good),.30)}.q1{background:rgba(var(--good),.20)}
.q2{background:rgba(var(--good),.10)}.q4{background:rgba(var(--bad),.08)}
.q5{background:rgba(var(--bad),.16)}.q6{background:rgba(var(--bad),.24)}
.better{background:rgba(var(--good),.25)}.worse{background:rgba(var(--bad),.25)}
figure{margin:1rem 0}figcaption{color:var(--soft);font-size:.9rem}
img{display:block;width:100%;background:#fff}.plot img{max-width:62rem}.wide img{min-width:60rem}
@media(max-width:40rem){main{padding:.7rem}table{font-size:.8rem}
th:first-child{max-width:8rem}.plot img{min-width:34rem}}
"""

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>Benchmark of saliency methods</title>
<style>$style</style>
</head>
<body>
<main>
<h1>Benchmark of saliency methods</h1>
$body
</main>
</body>
</html>
""")


def html(
    result: Result, montage_png: Picture | None = None, plot_pngs: Sequence[Picture] = ()
) -> str:
    """Lay out a result as one page, its pictures inside.

    Args:
        result: Finished.
        montage_png: Of :func:`~captum_masking.benchmark.pictures.draw_montage`, its bytes or its
            file, or the same as JPEG; None leaves it out.
        plot_pngs: Of :func:`~captum_masking.benchmark.pictures.draw_cost_quality`.

    Returns:
        The page; whatever the user named is escaped.

    Source:
        Own.
    """
    plots = [
        _figure(
            plot, "plot", "Cost against quality, bars: 95 % intervals. Lines across: trivial maps."
        )
        for plot in plot_pngs
    ]
    body = [
        _setting(result),
        _short(result),
        *_wins(result),
        *_failures(result),
        *(["<h2>Cost against quality</h2>", *plots] if plots else []),
        *_montage(montage_png),
        *(_group(result, name, columns) for name, columns in groups(result).items()),
        _methods(result),
        *_list("Notes", remarks(result)),
    ]
    return _PAGE.substitute(style=_STYLE, body="\n".join(body))


def _setting(result: Result) -> str:
    listed = "".join(f"<dt>{escape(n)}</dt><dd>{escape(v)}</dd>" for n, v in facts(result).items())
    command = escape(str(result.setting.get("command", "")))
    repeat = f"<h2>Command to repeat</h2><pre><code>{command}</code></pre>" if command else ""
    return f'<dl class="facts">{listed}</dl>{repeat}'


def _short(result: Result) -> str:
    return (
        "<h2>In short</h2><p>Means over images, and below them 95 % bootstrap intervals. "
        "↑ higher is better, ↓ lower is better. Blue cells rank well within their column, orange "
        "ones badly; in bold the best that is not trivial.</p>"
        + _scores(result, "In short: the main scores and the cost", short(result))
        + _legend(result, short(result))
    )


def _group(result: Result, name: str, columns: Sequence[Column]) -> str:
    table = _scores(result, name, columns)
    return f"<h2>{escape(name)}</h2>{table}{_legend(result, columns)}"


def _legend(result: Result, columns: Sequence[Column]) -> str:
    lines = (
        f"<dt>{escape(titled(result, c))}</dt><dd>{escape(c.legend)}</dd>"
        for c in columns
        if c.legend
    )
    return f"<details><summary>What the columns mean</summary><dl>{''.join(lines)}</dl></details>"


def _scores(result: Result, caption: str, columns: Sequence[Column]) -> str:
    places = [ranks(result.rows, column) for column in columns]
    bold = [best(result, column) for column in columns]
    colors = family_colors(result)
    lines = [
        _head(row, colors)
        + "".join(
            _cell(row, column, place.get(row.name), row.name in names)
            for column, place, names in zip(columns, places, bold, strict=True)
        )
        for row in result.rows
    ]
    return _table(caption, ["method", *(_title(result, column) for column in columns)], lines)


def _title(result: Result, column: Column) -> str:
    return f"{titled(result, column)}\N{NO-BREAK SPACE}{arrow(column)}".strip()


def _head(row: Row, colors: Mapping[str, str]) -> str:
    kind = f"<small>{escape(row.family)}{', failed' if row.failure else ''}</small>"
    style = f"--family:{colors[row.family]}"
    return f'<th scope="row" style="{style}">{_breakable(row.name)}{kind}</th>'


def _breakable(name: str) -> str:
    """Escape a name and let it break where a word ends: InputXGradient, my_method."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[a-z0-9]_)(?=[a-zA-Z])", "<wbr>", escape(name))


def _cell(row: Row, column: Column, place: float | None, is_best: bool) -> str:
    value = value_of(row, column)
    if value is None:
        return f"<td>{DASH}</td>"
    shade = "" if place is None else f' class="q{round(place * (_SHADES - 1))}"'
    mean = column.text(value.mean)
    strong = f"<strong>{mean}</strong>" if is_best else mean
    ends = limits(column, value)
    return f"<td{shade}>{strong}{f'<small>{ends}</small>' if ends else ''}</td>"


def _wins(result: Result) -> list[str]:
    title = f"Wins and losses of {result.reference}"
    parts = [
        f"<h3>Against the best {escape(rivals)}</h3>"
        f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in summary(result, found))}</ul>"
        "<details><summary>Column by column</summary>"
        f"{_table(f'{title} against the best {rivals}', WINS, _win_lines(result, found))}</details>"
        for rivals, found in contests(result).items()
    ]
    return [f"<h2>{escape(title)}</h2><p>{WINS_LEGEND}</p>", *parts] if parts else []


def _win_lines(result: Result, found: Sequence[Verdict]) -> list[str]:
    return [
        f'<th scope="row">{escape(_title(result, verdict.column))}</th>'
        f"<td>{verdict.column.text(verdict.own.mean)}</td>"
        f'<td class="words">{escape(verdict.other.name)}</td>'
        f"<td>{mean_of(verdict.other, verdict.column)}</td>"
        f"<td>{signed(verdict.column, verdict.difference)}</td>"
        f'<td class="{verdict.word.replace(" ", "-")}">{verdict.word}</td>'
        for verdict in found
    ]


def _failures(result: Result) -> list[str]:
    failed = [row for row in result.rows if row.failure]
    return _list("Failed", (f"{row.name} ({row.family}): {row.failure}" for row in failed))


def _methods(result: Result) -> str:
    colors = family_colors(result)
    lines = [
        _head(row, colors)
        + "".join(
            f'<td class="words">{escape(text) or DASH}</td>'
            for text in (row.settings, thresholds(result, row))
        )
        for row in result.rows
    ]
    table = _table("Methods", ["method", "settings", "thresholds chosen"], lines)
    return f"<h2>Methods</h2>{table}"


def _montage(picture: Picture | None) -> list[str]:
    if picture is None:
        return []
    text = (
        "The same images under all methods: dark is no evidence, bright is all; true boxes white."
    )
    return ["<h2>The same images under all methods</h2>", _figure(picture, "wide", text)]


def _figure(picture: Picture, kind: str, text: str) -> str:
    content = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
    coding = "jpeg" if content.startswith(b"\xff\xd8") else "png"
    source = f"data:image/{coding};base64,{base64.b64encode(content).decode()}"
    box = f'<div class="scroll" tabindex="0" role="region" aria-label="{text}">'
    image = f'{box}<img alt="{text}" src="{source}"></div>'
    return f'<figure class="{kind}">{image}<figcaption>{text}</figcaption></figure>'


def _table(caption: str, header: Sequence[str], lines: Iterable[str]) -> str:
    """Make a table of lines of cells in a box that scrolls; cells come as HTML."""
    titles = "".join(
        f'<th scope="col"{_LEFT if title in _WORDS else ""}>{escape(title)}</th>'
        for title in header
    )
    rows = "\n".join(f"<tr>{line}</tr>" for line in lines)
    name = escape(caption)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{name}"><table>'
        f"<caption>{name}</caption><thead><tr>{titles}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _list(title: str, lines: Iterable[str]) -> list[str]:
    listed = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return [f"<h2>{title}</h2><ul>{listed}</ul>"] if listed else []
