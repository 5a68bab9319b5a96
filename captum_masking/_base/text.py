"""Names of classes, and plain tables for the shell."""

from __future__ import annotations

import json
import operator
import os
import re
import unicodedata
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from numbers import Real
from pathlib import Path
from typing import Any

# ---- Names of classes

_NAMES = "a name for each output: a list, a dict by number, or a file with one name per line"
_NAMED = "give class_names (--class-names), in the order of the outputs, or a CSV with numbers."
_WORDNET = re.compile(r"n\d{8}")  # ImageNet numbers its classes in this order


def as_class_names(given: Any) -> tuple[str, ...]:
    """Read the class names of a network; an empty name stands for none."""
    if isinstance(given, str | os.PathLike):
        given = _names_in(Path(given))
    if isinstance(given, Mapping):
        by_name = all(isinstance(k, str) and not isinstance(v, str) for k, v in given.items())
        pairs = zip(given.values(), given, strict=True) if by_name else given.items()
        numbers = {whole(number): name for number, name in pairs}
        if None in numbers or len(numbers) < len(given):
            raise ValueError(f"class_names must be {_NAMES}, but got {str(dict(given)):.80}.")
        given = [numbers.get(n, "") for n in range(1 + max(numbers, default=-1))]  # type: ignore
    if isinstance(given, bytes | AbstractSet) or not isinstance(given, Iterable | None):
        raise TypeError(f"class_names must be {_NAMES}, but got {type(given).__name__}.")
    return () if given is None else tuple(map(_word, given))


class Named:
    """Turns class numbers into names, and back, with ``class_names``."""

    class_names: tuple[str, ...]

    def name(self, number: int) -> str:
        """Return the name of a class, or ``"class N"`` if it has none."""
        name = self.class_names[number] if 0 <= number < len(self.class_names) else ""
        name = f"{name} ({number})" if name and self.class_names.count(name) > 1 else name
        return name or f"class {number}"

    def number(self, target: int | str) -> int:
        """Return the number of a class from its number, name or part; digits match names first."""
        if hasattr(target, "__index__"):
            return self._known(operator.index(target))
        if not isinstance(target, str):
            raise TypeError(f"target must be one class, by number or name, but got {target!r}.")
        word = target.strip().lower()
        number = int(word) if word.lstrip("-").isdecimal() else None
        found = finder(self.class_names)(target.strip())
        if number is not None and not found:
            return self._known(number)
        if number is not None and found != [number] and 0 <= number < len(self.class_names):
            other = f"for number {number} give its name, {self.name(number)!r}"
            taken = f"target {target!r} means the class of that name, number {found[0]}"
            warnings.warn(f"{taken}; {other}.", stacklevel=2)
        lower = [name.lower() for name in self.class_names]
        found = found or [index for index, name in enumerate(lower) if word and word in name]
        if len(found) != 1:
            near = ", ".join(f"{index} {self.class_names[index]}" for index in found[:6])
            raise ValueError(
                f"target must name one class, but {target!r} fits {len(found)}"
                f"{f' ({near})' if near else ''}; give its number or its full name."
            )
        return found[0]

    def _known(self, number: int) -> int:
        if not 0 <= number < (len(self.class_names) or number + 1):
            there = f"{len(self.class_names) or 'unknown'} classes, counted from 0"
            raise ValueError(f"target must be one of {there}, but got {number}.")
        return number


def _names_in(file: Path) -> Any:
    if not file.is_file():
        raise ValueError(f"class_names must be {_NAMES}, but there is no file {str(file)!r}.")
    try:
        text = file.read_text(encoding="utf-8-sig")
        found = json.loads(text) if file.suffix == ".json" else text.rstrip().splitlines()
    except ValueError as error:
        raise ValueError(f"class_names must be {_NAMES}, but {file} is not: {error}.") from error
    return found.get("id2label", found) if isinstance(found, dict) else found


def _word(given: Any) -> str:
    value = given.item() if getattr(given, "ndim", None) == 0 else given  # numpy's and torch's
    value = value.decode(errors="backslashreplace") if isinstance(value, bytes) else value
    if not isinstance(value, str | Real | None):
        raise TypeError(f"class_names must be {_NAMES}, but one of them is {str(value):.80}.")
    text = "" if value is None else str(value).encode("utf-8", "backslashreplace").decode()
    return " ".join(text.split())


def whole(given: Any) -> int | None:
    """Read a whole number >= 0, also from its digits."""
    text = str(given).strip()
    return int(text) if text.isascii() and text.isdecimal() else None


def check_class_names(names: Sequence[str], outputs: int) -> None:
    """Check for one name per output of a network."""
    if names and len(names) != outputs:
        what = f"but got {len(names)} names for {outputs} outputs; an empty name means none"
        raise ValueError(f"class_names must be {_NAMES}, {what}.")


def finder(names: Sequence[str]) -> Callable[[str], list[int]]:
    """Return a function that finds the positions of a name, or else of similar spellings."""
    same, alike = defaultdict(list), defaultdict(list)
    for place, name in enumerate(names):
        if name:
            same[name].append(place)
            alike[_plain(name)].append(place)
    return lambda name: same.get(name) or alike.get(_plain(name)) or []


def _plain(name: str) -> str:
    """Remove differences of spelling: case, spaces, underscores, hyphens, leading zeros."""
    text = unicodedata.normalize("NFKC", name).casefold()
    text = re.sub(r"[\s_]+|(?<=\w)-(?=\w)", " ", text).strip()
    return str(int(text)) if text.isdecimal() else text


def number_classes(
    found: Sequence[str], names: Sequence[str] = (), outputs: int | None = None
) -> tuple[list[int], list[str], str]:
    """Number classes like a network; return numbers, names by number, and the rule as text."""
    places, numbers = list(map(finder(names), found)), [whole(name) for name in found]
    if any(places):
        return _one_each(found, places), list(names), ""
    if None not in numbers:
        labels = _as_numbered(found, numbers, outputs)  # type: ignore[arg-type]
        rule = f"its classes are named by numbers: {_pairs(found, labels)}"
    elif outputs in (None, len(found)) and (not names or all(map(_WORDNET.fullmatch, found))):
        labels = list(range(len(found)))
        in_words = any(re.search(r"\d", name) for name in found)
        rule = in_words * f"its classes are in the order of text: {_pairs(found, labels)}"
    elif names:
        labels, rule = _one_each(found, places), ""
    else:
        what = f"{len(found)} classes ({_few(found)}) are not the network's {outputs}"
        raise ValueError(f"{what}, and their order is unknown; {_NAMED}")
    if not names:
        shift = None if numbers[0] is None else numbers[0] - labels[0]
        size = max(labels) + 1 if outputs is None else outputs
        names = ["" if shift is None else str(label + shift) for label in range(size)]
        for label, name in zip(labels, found, strict=True):
            names[label] = name
    return labels, list(names), rule


def _one_each(found: Sequence[str], places: Sequence[list[int]]) -> list[int]:
    unknown = [name for name, place in zip(found, places, strict=True) if not place]
    if unknown:
        what = f"{len(unknown)} of {len(found)} do not: {_few(unknown)}; rename, or {_NAMED}"
        raise ValueError(f"classes must have the names of the network's, but {what}")
    of_each = defaultdict(list)
    for name, place in zip(found, places, strict=True):
        of_each[place[0]].append(name)
        if len(place) > 1 or len(of_each[place[0]]) > 1:
            what = f"{_few(of_each[place[0]])} fit {', '.join(map(str, place))}"
            raise ValueError(f"each class must be one of the network's, but {what}; {_NAMED}")
    return list(of_each)


def _as_numbered(found: Sequence[str], numbers: list[int], outputs: int | None) -> list[int]:
    """Use numbers directly if they fit, else as counted from 1, else in their order."""
    low, high, count = min(numbers), max(numbers), len(numbers)
    from_one = low > 0 and high == (count if outputs is None else outputs)
    if len(set(numbers)) == count:
        if from_one or outputs is None or high < outputs:
            return [number - from_one for number in numbers]
        if count == outputs:
            return list(range(count))
    what = f"{count} classes named by numbers ({_few(found)}) do not fit a network with {outputs}"
    raise ValueError(f"{what} outputs; {_NAMED}")


def _pairs(found: Sequence[str], labels: Sequence[int]) -> str:
    pairs = [f"{name!r} is class {label}" for name, label in zip(found, labels, strict=True)]
    return ", ".join(pairs if len(pairs) < 5 else [*pairs[:3], "...", pairs[-1]])


def _few(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:4])) + (", ..." if len(names) > 4 else "")


# ---- Tables

_TITLES = {
    "images": ("images", "{:.0f}"),
    "clean": ("accuracy, clean", "{:.1f} %"),
    "masked_in": ("accuracy, masked-in", "{:.1f} %"),
    "masked_out": ("accuracy, masked-out", "{:.1f} %"),
    "entropy_out": ("entropy, masked-out", "{:.2f} nats"),
    "area": ("mask area", "{:.1f} %"),
    "boxed_images": ("images with boxes", "{:.0f}"),
    "localization_error": ("LE, this model", "{:.1f} %"),
    "localization_error_centered_square": ("LE, centered square", "{:.1f} %"),
    "localization_error_whole_frame": ("LE, whole frame", "{:.1f} %"),
}


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format rows in columns; the first is left-aligned, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def describe(figures: Mapping[str, float]) -> str:
    """Format the figures of an evaluation as a table."""
    rows = [
        [title, form.format(100 * figures[key] if "%" in form else figures[key])]
        for key, (title, form) in _TITLES.items()
        if key in figures
    ]
    return table(["figure", "value"], rows)
