"""Masks optimized per image beside a trained masker: quality and cost on photographs with boxes.

Rows are the shipped masker, settings of ``PerInput``, a centered square and the whole frame;
all on the same images, for the class in the label column. ``--first`` and ``--images`` cut a slice,
so that settings can be chosen on one and reported on another.

  python benchmarks/per_input.py --data val.csv --label-column label1k --first 48 --images 48 \
      --json per_input.json
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import captum
import torch
from shared import keep_freed_memory, table
from torch import Tensor

import captum_masking
from captum_masking import zoo
from captum_masking._base.borrow import eval_mode
from captum_masking.data import BoxedImages
from captum_masking.metrics import (
    boxes_to_pixels,
    centered_square,
    localization_error,
    localization_error_of_boxes,
    whole_frame,
)
from captum_masking.model.model import MaskingModel
from captum_masking.parts.infill import Blur, Mean
from captum_masking.parts.masking import mask_images
from captum_masking.parts.regularizer import smooth
from captum_masking.saliency.per_input import PerInput

#: What is compared; the first is the default.
SETTINGS = {
    "per input": PerInput(),
    "as smooth as a trained masker": PerInput(regularizer=smooth()),
    "the same, 100 small steps, grid 14": PerInput(
        regularizer=smooth(), steps=100, lr=0.1, grid=14
    ),
    "grid 14": PerInput(grid=14),
    "jitter 16 px": PerInput(jitter_px=16),
    "a quarter of the image": PerInput(area=0.25),
    "from all to a quarter": PerInput(area=lambda done: 0.99 - 0.74 * done),
    "blurred infill": PerInput(infill=Blur()),
    "patience 5": PerInput(patience=5),
}


class Photographs(NamedTuple):
    """A slice of a data set.

    Attributes:
        inputs: ``(N, 3, H, W)``.
        target: ``(N,)``.
        boxes: In pixels, one tensor ``(n, 4)`` an image.

    Source:
        Own.
    """

    inputs: Tensor
    target: Tensor
    boxes: list[Tensor]


class Row(NamedTuple):
    """How one way to make masks did; fractions of the images.

    Attributes:
        missed: Localization error.
        masked_in: Accuracy on masked-in images.
        masked_out: Accuracy on masked-out images.
        area: Mean of the masks.
        forwards: Processor time in units of the classifier's forward pass of the same images.
        passes: Images that went through the classifier, for each image explained.

    Source:
        Own.
    """

    missed: float
    masked_in: float | None = None
    masked_out: float | None = None
    area: float | None = None
    forwards: float = 0.0
    passes: float = 0.0


class Counting:
    """A classifier that counts the images it sees."""

    def __init__(self, model: MaskingModel) -> None:
        self.model, self.images = model, 0

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the logits of ``inputs``."""
        self.images += len(inputs)
        return self.model.classifier(inputs)


def main() -> None:
    """Score, print, write."""
    arguments = _arguments()
    keep_freed_memory()
    model, preprocess = zoo.load(arguments.model)
    data = BoxedImages(arguments.data, transform=preprocess, label_column=arguments.label_column)
    photographs = read(data, range(arguments.first, arguments.first + arguments.images))
    chosen = {name: SETTINGS[name] for name in arguments.only or SETTINGS}
    rows = compare(model, photographs, chosen, batch_size=arguments.batch_size)
    print(f"images {arguments.first}..{arguments.first + arguments.images - 1}")
    print(describe(rows))
    write(arguments, {name: row._asdict() for name, row in rows.items()}, chosen)


def read(data: BoxedImages, indices: range) -> Photographs:
    """Load some images of a data set."""
    inputs, target = zip(*(data[index] for index in indices), strict=True)
    height, width = inputs[0].shape[1:]
    boxes = [boxes_to_pixels(data.boxes[index], height, width) for index in indices]
    return Photographs(torch.stack(inputs), torch.tensor(target), boxes)


def compare(
    model: MaskingModel,
    photographs: Photographs,
    settings: dict[str, PerInput],
    *,
    batch_size: int,
) -> dict[str, Row]:
    """Score the trivial boxes, the trained masker, and every setting."""
    size = photographs.inputs.shape[2:]
    rows = {
        name: Row(missed=float(localization_error_of_boxes(box, photographs.boxes).mean()))
        for name, box in (
            ("whole frame", whole_frame(*size)),
            ("centered square", centered_square(*size)),
        )
    }
    with eval_mode(model):
        torch.no_grad()(model)(photographs.inputs[:2])  # warm up
        forward = _seconds(lambda x, _: torch.no_grad()(model)(x), photographs, batch_size)[1]
        trained = torch.no_grad()(lambda inputs, _: model.mask(inputs))
        rows["trained masker"] = score(model, trained, photographs, forward, batch_size, 1.0)
        for name, setting in settings.items():
            counting = Counting(model)
            setting.but(steps=1)(
                counting, photographs.inputs[:2], photographs.target[:2]
            )  # warm up
            counting.images = 0
            row = score(
                model,
                lambda x, t, setting=setting, counting=counting: setting(counting, x, t),
                photographs,
                forward,
                batch_size,
            )
            rows[name] = row._replace(passes=counting.images / len(photographs.inputs))
            print(name, rows[name], file=sys.stderr, flush=True)
    return rows


@torch.no_grad()
def score(
    model: MaskingModel,
    method: Callable[[Tensor, Tensor], Tensor],
    photographs: Photographs,
    forward: float,
    batch_size: int,
    passes: float = 0.0,
) -> Row:
    """Score one way to make masks; the classifier itself judges them, under the mean infill."""
    mask, seconds = _seconds(method, photographs, batch_size)
    masked = mask_images(photographs.inputs, mask, Mean())
    right = [
        (torch.cat([model(x).argmax(1) for x in side.split(batch_size)]) == photographs.target)
        for side in masked
    ]
    return Row(
        missed=float(localization_error(mask, photographs.boxes).mean()),
        masked_in=float(right[0].float().mean()),
        masked_out=float(right[1].float().mean()),
        area=float(mask.mean()),
        forwards=seconds / forward,
        passes=passes,
    )


def _seconds(
    method: Callable[[Tensor, Tensor], Tensor], photographs: Photographs, batch_size: int
) -> tuple[Tensor, float]:
    inputs = photographs.inputs.split(batch_size)
    target = photographs.target.split(batch_size)
    started = time.process_time()  # of this process, so that a busy machine counts for less
    answers = [method(x, t) for x, t in zip(inputs, target, strict=True)]
    return torch.cat(answers), time.process_time() - started


def describe(rows: dict[str, Row]) -> str:
    """Lay out the rows as a table."""
    percent = lambda value: "" if value is None else f"{100 * value:.1f} %"  # noqa: E731
    return table(
        ["method", "LE", "masked-in", "masked-out", "area", "forwards", "passes"],
        [
            [
                name,
                percent(row.missed),
                percent(row.masked_in),
                percent(row.masked_out),
                percent(row.area),
                f"{row.forwards:.1f}",
                f"{row.passes:.0f}",
            ]
            for name, row in rows.items()
        ],
    )


def write(arguments: argparse.Namespace, rows: dict, settings: dict[str, PerInput]) -> None:
    """Write the JSON: what was run, with what, and what came out."""
    result = {
        "command": shlex.join([Path(sys.argv[0]).name, *map(_name_only, sys.argv[1:])]),
        "versions": {
            "captum_masking": captum_masking.__version__,
            "captum": captum.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "seed": {name: setting.seed for name, setting in settings.items()},
        "settings": {name: _without_address(setting) for name, setting in settings.items()},
        "images": [arguments.first, arguments.first + arguments.images],
        "rows": rows,
    }
    arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _without_address(setting: PerInput) -> str:
    words = repr(setting).split(" at 0x")
    return words[0] + ("" if len(words) == 1 else ">" + words[1].partition(">")[2])


def _name_only(word: str) -> str:
    """Leave folders of this machine out of what is published."""
    return Path(word).name if "/" in word else word


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="CSV with boxes")
    parser.add_argument("--label-column", default="label")
    parser.add_argument("--model", default="efficientnet-lite0")
    parser.add_argument("--first", type=int, default=0, metavar="N")
    parser.add_argument("--images", type=int, default=48, metavar="N")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N")
    parser.add_argument("--only", action="append", metavar="SETTING", choices=list(SETTINGS))
    parser.add_argument("--json", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
