"""Draw a picture's map, and the picture masked in and masked out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from captum_masking.cli.command import Options
from captum_masking.data.images import read_picture
from captum_masking.viz import montage
from captum_masking.zoo import SHIPPED, explain, load


def run(options: Options) -> dict[str, Any]:
    """Explain every picture; nothing is written unless all of them can be read."""
    pictures = [read_picture(file) for file in options.pictures]
    name = options.model or SHIPPED[options.target is not None]
    model, preprocess = load(name)
    explained = [explain(model, preprocess, picture, options.target) for picture in pictures]
    outputs = [options.out / output for output in _file_names(options.pictures)]
    found = []
    for file, output, each in zip(options.pictures, outputs, explained, strict=True):
        montage([each.panels], output)
        print(f"{file}: {each} -> {output}")
        figures = {key: value for key, value in each._asdict().items() if key != "panels"}
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
