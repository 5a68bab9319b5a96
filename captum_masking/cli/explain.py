"""Explain pictures: where is the evidence, and what is left without it?

For each picture a PNG goes to --out: the picture with the class, the map, the picture masked in
and masked out, with the probabilities of the class in each. Works out of the box on ImageNet's
thousand classes; --model takes a folder written by `captum-masking train`. With --target, the map
is the evidence for that class, where the model is target-aware; the shipped one then is.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from captum_masking.cli.classifiers import SHIPPED_NAMES
from captum_masking.cli.load import load
from captum_masking.cli.pictures import explain_picture, read_picture
from captum_masking.viz import montage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("pictures", nargs="+", metavar="PICTURE", help="JPEG or PNG files")
    parser.add_argument(
        "--model",
        metavar="FOLDER|NAME",
        help="a folder written by train, or a shipped masker for EfficientNet-Lite0: "
        "efficientnet-lite0, or efficientnet-lite0-targets, which is taken where --target is given",
    )
    parser.add_argument(
        "--target",
        metavar="CLASS",
        help="number or name of the class that is asked for; default: the predicted one",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where PNGs go")
    parser.add_argument(
        "--json", action="store_true", help="print what was found as JSON, not a line a picture"
    )


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Explain every picture; nothing is written unless all of them can be read."""
    pictures = [read_picture(file) for file in arguments.pictures]
    name = arguments.model or SHIPPED_NAMES[arguments.target is not None]
    model, prepared = load(name)
    target = find_class(arguments.target, prepared.class_names)
    explained = [explain_picture(model, prepared, picture, target) for picture in pictures]
    outputs = [arguments.out / output for output in _file_names(arguments.pictures)]
    found = []
    for file, output, (panels, said) in zip(arguments.pictures, outputs, explained, strict=True):
        montage([panels], output)
        print(f"{file}: {said} -> {output}")
        found.append({"picture": file, "explained": output, **said._asdict()})
    return {"model": name, "pictures": found}


def find_class(target: str | None, names: Sequence[str]) -> int | None:
    """Find a class by number or by name.

    Args:
        target: A whole number, a name, or a part of just one name, in any case; or None.
        names: Of the classes.

    Returns:
        Its index, or None for None.

    Raises:
        ValueError: If no class, or more than one, is meant.

    Source:
        Own.

    Example:
        >>> find_class("espresso", ["cup", "Espresso maker"])
        1
    """
    if target is None:
        return None
    if target.lstrip("-").isdigit():
        return int(target)
    lower = [name.lower() for name in names]
    exact = [index for index, name in enumerate(lower) if name == target.lower()]
    found = exact or [index for index, name in enumerate(lower) if target.lower() in name]
    if len(found) != 1:
        near = ", ".join(f"{index} {names[index]}" for index in found[:6])
        raise ValueError(
            f"--target must name one class, but {target!r} fits {len(found)}"
            f"{f' ({near})' if near else ''}; give its number or its full name."
        )
    return found[0]


def _file_names(files: Sequence[str]) -> list[str]:
    """Name each output after its picture; equal names get a number."""
    names: list[str] = []
    for file in files:
        stem, count = Path(file).stem, 1
        while (name := f"{stem}{'' if count == 1 else f'-{count}'}-explained.png") in names:
            count += 1
        names.append(name)
    return names
