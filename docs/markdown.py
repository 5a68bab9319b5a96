"""The few forms of Markdown that this project's own files use, as reStructuredText."""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath


def to_rst(text: str) -> str:
    r"""Convert headings below the first, lists, code and links.

    Links to ``docs/page.rst`` lead to the page; links to other files of the project keep their
    words only, since a page has no such neighbors.

    Example:
        >>> print(to_rst("# Title\n\n## Part\n\nSee `x` and [how](docs/how-it-works.rst).\n"))
        <BLANKLINE>
        Part
        ----
        <BLANKLINE>
        See ``x`` and :doc:`how <how-it-works>`.
    """
    return "\n".join(_lines(text.splitlines()))


def _lines(lines: list[str]) -> Iterator[str]:
    previous = ""
    for line in lines:
        heading = re.fullmatch(r"(#+) (.*)", line)
        if heading:
            title = _inline(re.sub(r"[\[\]]", "", heading[2]))
            if len(heading[1]) > 1:  # the first is the page's own
                yield from (title, "-~"[len(heading[1]) - 2] * len(title))
        elif line.startswith("    ") and not _is_listed(previous):
            if not previous.strip():
                yield from (".. code-block:: console", "")
            yield line
        else:
            yield _inline(line)
        previous = line if line.strip() or not _is_listed(previous) else previous


def _is_listed(line: str) -> bool:
    return bool(re.match(r"\s*(-|\d+\.) |   ?\S", line))


def _inline(line: str) -> str:
    code = r"(`[^`]+`)"
    return "".join(
        f"`{part}`" if re.fullmatch(code, part) else _links(part) for part in re.split(code, line)
    )


def _links(text: str) -> str:
    return re.sub(r"\[([^\]]+)\]\(([^)]+)\)", lambda found: _link(*found.groups()), text)


def _link(words: str, address: str) -> str:
    if "://" in address:
        return f"`{words} <{address}>`__"
    path = PurePosixPath(address)
    is_page = path.suffix == ".rst" and path.parent.name in ("docs", "")
    return f":doc:`{words} <{path.stem}>`" if is_page else words
