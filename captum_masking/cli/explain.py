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

from captum_masking.data.images import read_picture
from captum_masking.viz import montage
from captum_masking.zoo import SHIPPED, explain, load


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
    name = arguments.model or SHIPPED[arguments.target is not None]
    model, preprocess = load(name)
    explained = [explain(model, preprocess, picture, arguments.target) for picture in pictures]
    outputs = [arguments.out / output for output in _file_names(arguments.pictures)]
    found = []
    for file, output, each in zip(arguments.pictures, outputs, explained, strict=True):
        montage([each.panels], output)
        print(f"{file}: {each} -> {output}")
        figures = each._replace(panels=())._asdict()
        del figures["panels"]
        found.append({"picture": file, "explained": output, **figures})
    return {"model": name, "pictures": found}


def _file_names(files: Sequence[str]) -> list[str]:
    """Name each output after its picture; equal names get a number."""
    names: list[str] = []
    for file in files:
        stem, count = Path(file).stem, 1
        while (name := f"{stem}{'' if count == 1 else f'-{count}'}-explained.png") in names:
            count += 1
        names.append(name)
    return names
