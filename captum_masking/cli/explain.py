"""Draw what a model sees in a picture: the picture, its map, masked in and masked out."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from captum_masking.cli.classifiers import SHIPPED_NAMES, Prepared, load
from captum_masking.data.images import read_picture
from captum_masking.model.model import MaskingModel
from captum_masking.parts.infill import Mean
from captum_masking.parts.masker import linear
from captum_masking.parts.masking import mask_images
from captum_masking.saliency.saliency import MaskingSaliency
from captum_masking.viz import Panel, montage, overlay

_LONGEST_SIDE = 512  # pictures are drawn no larger


class Said(NamedTuple):
    """What the classifier says of a picture and of its halves; printed as one line.

    Attributes:
        target: Number of the class that is meant.
        name: Its name.
        clean: Its probability in the picture.
        masked_in: In what the map keeps.
        masked_out: In what the map leaves.
        area: Of the map, a fraction of the picture.

    Source:
        Own.

    Example:
        >>> print(Said(285, "Egyptian cat", 0.791, 0.536, 0.681, 0.46))
        Egyptian cat 79.1%; masked-in 53.6%; masked-out 68.1%; mask area 46%
    """

    target: int
    name: str
    clean: float
    masked_in: float
    masked_out: float
    area: float

    def __str__(self) -> str:
        return (
            f"{self.name} {self.clean:.1%}; masked-in {self.masked_in:.1%}; "
            f"masked-out {self.masked_out:.1%}; mask area {self.area:.0%}"
        )


@torch.no_grad()
def explain_picture(
    model: MaskingModel, prepared: Prepared, picture: Any, target: int | None
) -> tuple[list[Panel], Said]:
    """Explain one picture.

    Args:
        model: Trained; its classifier is ``prepared.classifier``.
        prepared: Preprocessing and class names.
        picture: A PIL image.
        target: The class that is asked for; None is the predicted one.

    Returns:
        ``(panels, said)``: picture, map, masked-in, masked-out; and the same in words.

    Raises:
        TargetError: If the classifier has no such class.

    Source:
        Own.
    """
    inputs = prepared.read(picture)[None]
    mask = MaskingSaliency(model).attribute(inputs, target=target)[:, :1]
    images = torch.cat([inputs, *mask_images(inputs, mask, Mean())])
    probabilities = model(images).softmax(1)
    shown = int(probabilities[0].argmax()) if target is None else target
    clean, inside, outside = (float(p) for p in probabilities[:, shown])
    pixels = _shrink(picture)
    panels = [
        Panel(pixels, f"{prepared.name(shown)} {clean:.0%}"),
        *_halves(pixels, mask, prepared, inside, outside, _other(probabilities, shown, prepared)),
    ]
    said = Said(shown, prepared.name(shown), clean, inside, outside, float(mask.mean()))
    return panels, said


def _halves(
    pixels: np.ndarray, mask: Tensor, prepared: Prepared, inside: float, outside: float, other: str
) -> list[Panel]:
    """Draw the map and both masked pictures at the size of the picture."""
    large = linear(mask, pixels.shape[:2])[0, 0]
    keep = large.numpy()[..., None]
    fill = np.asarray(prepared.mean)
    return [
        Panel(overlay(pixels, large), f"evidence (area {mask.mean():.0%})"),
        Panel(keep * pixels + (1 - keep) * fill, f"masked-in {inside:.0%}"),
        Panel((1 - keep) * pixels + keep * fill, f"masked-out {outside:.0%}{other}"),
    ]


def _other(probabilities: Tensor, shown: int, prepared: Prepared) -> str:
    """Name what is seen instead once the evidence is gone."""
    seen = int(probabilities[2].argmax())
    name = prepared.name(seen)
    return "" if seen == shown else f"\n({name} {probabilities[2, seen]:.0%})"


def _shrink(picture: Any) -> np.ndarray:
    small = picture.copy()
    small.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    return np.asarray(small, dtype=np.float64) / 255


# ---- Explain pictures: where is the evidence, and what is left without it?
#
# For each picture a PNG goes to --out: the picture with the class, the map, the picture masked in
# and masked out, with the probabilities of the class in each. Works out of the box on ImageNet's
# thousand classes; --model takes a folder written by `captum-masking train`. With --target, the map
# is the evidence for that class, where the model is target-aware; the shipped one then is.


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
