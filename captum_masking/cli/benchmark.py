"""Compare saliency methods on the same images: quality, cost and memory in one table.

Without --methods: every method of Captum that applies to the classifier, those of pytorch-grad-cam
if it is installed, and the model's own masks; always beside four trivial baselines. Further --model
folders add a row each, judged by the first one's classifier. Writes table.md, table.csv,
result.json, pictures and report.html; the same command again goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import fnmatch
import platform
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from captum_masking.benchmark.methods import Method, default_methods, in_words, ours_of
from captum_masking.benchmark.report import text_table
from captum_masking.benchmark.result import digest
from captum_masking.benchmark.run import benchmark
from captum_masking.cli.options import check_counts
from captum_masking.cli.pictures import match_labels
from captum_masking.data.images import BoxedImages, SegmentedImages, columns_of
from captum_masking.model.model import MaskingModel
from captum_masking.viz import to_pixels
from captum_masking.zoo import Preprocess, load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--data",
        required=True,
        type=Path,
        metavar="CSV",
        help="a CSV (with x0,y0,x1,y1 for boxes, trimap for pixel masks), or a folder per class",
    )
    parser.add_argument(
        "--model",
        required=True,
        action="append",
        metavar="DIR",
        help="written by train; the first one's classifier is explained, and judges all",
    )
    parser.add_argument(
        "--methods",
        metavar="NAME,...",
        help="rows, with * for any letters; default: all but the slowest",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="for the results")
    parser.add_argument("--limit", type=int, metavar="N", help="so many images, drawn by lot")
    parser.add_argument(
        "--predicted", action="store_true", help="explain the predicted class, not the label"
    )
    parser.add_argument(
        "--label-column", metavar="NAME", help="of the CSV; default: as the model was trained"
    )
    parser.add_argument(
        "--mask-column", default="trimap", metavar="NAME", help="of the CSV; default: trimap"
    )
    parser.add_argument(
        "--robustness",
        action="store_true",
        help="also infidelity and max-sensitivity: eleven more calls of each method",
    )
    parser.add_argument(
        "--curve-steps", type=int, default=10, metavar="N", help="of insertion; default: 10"
    )
    parser.add_argument(
        "--curve-images",
        type=int,
        metavar="N",
        help="insertion and deletion, most of the work, on so many of the images only",
    )
    parser.add_argument(
        "--cost-seconds", type=float, default=2.0, metavar="S", help="to time a method; default: 2"
    )
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="default: 16")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument(
        "--json", action="store_true", help="print what result.json holds, not the table"
    )


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure, print, write; return what was found."""
    check_counts(arguments, "limit", "batch_size", "curve_steps", "curve_images")
    models = [load(folder) for folder in arguments.model]
    model, preprocess = models[0]
    images = read_images(arguments, model.classifier, preprocess)
    methods, notes = choose(arguments, models, images)
    result = benchmark(
        model,
        images,
        methods,
        out=arguments.out,
        limit=arguments.limit,
        predicted=arguments.predicted,
        batch_size=arguments.batch_size,
        curve_steps=arguments.curve_steps,
        cost_seconds=arguments.cost_seconds,
        curve_images=arguments.curve_images,
        robustness=arguments.robustness,
        seed=arguments.seed,
        to_picture=lambda image: to_pixels(image, preprocess.mean, preprocess.std),
        setting=told(_data(arguments.data), preprocess.spec),
        notes=notes,
    )
    print(text_table(result))
    report = arguments.out / "report.html"
    print(f"\nReport: {report}")
    return {"report": report, **result.as_json()}


def read_images(
    arguments: argparse.Namespace, classifier: nn.Module, preprocess: Preprocess
) -> BoxedImages:
    """Open the images, with pixel masks where the CSV names them."""
    column = arguments.label_column or preprocess.label_column
    options: dict[str, Any] = {"transform": preprocess, "label_column": column}
    if arguments.mask_column in columns_of(arguments.data):
        return SegmentedImages(arguments.data, mask_column=arguments.mask_column, **options)
    images = BoxedImages(arguments.data, **options)
    if not arguments.predicted:
        match_labels(images, classifier, preprocess, arguments.data)
    return images


def choose(
    arguments: argparse.Namespace,
    models: list[tuple[MaskingModel, Preprocess]],
    images: BoxedImages,
) -> tuple[dict[str, Method], list[str]]:
    """Make the rows: one for each model, and those asked for.

    Returns:
        Rows by name, and a note for each method that does not apply.

    Raises:
        ValueError: If a name matches no row, or two models would share one.
    """
    ours = {
        _name(folder, len(models)): ours_of(
            one, settings=f"{Path(folder).name}, weights {digest(one)}"
        )
        for folder, (one, _) in zip(arguments.model, models, strict=True)
    }
    if len(ours) < len(models):
        raise ValueError(
            f"--model: rows are named by the folders, but got {', '.join(arguments.model)}; give "
            "folders of different names."
        )
    return wanted(arguments.methods, models[0][0], images, ours)


def wanted(
    patterns: str | None,
    model: MaskingModel,
    images: Dataset[Any],
    ours: Mapping[str, Method] | None = None,
) -> tuple[dict[str, Method], list[str]]:
    """Choose among the methods that apply to a model.

    Args:
        patterns: Names with commas between; None is all but the slowest.
        model: Its classifier is explained.
        images: Items ``(image, label)``; methods are tried on the first one.
        ours: Rows in place of the model's own.

    Returns:
        Rows by name, and a note for each method that does not apply.

    Raises:
        ValueError: If a name matches no row.

    Source:
        Own.
    """
    found, left_out = default_methods(model, images[0][0][None], slow=patterns is not None)
    if ours is not None:
        found = {**ours, **{name: row for name, row in found.items() if row.family != "ours"}}
    if patterns is None:
        return found, in_words(left_out)
    chosen = {name: found[name] for name in matching(patterns.split(","), found)}
    return chosen, in_words(left_out)


def matching(patterns: Iterable[str], names: Iterable[str]) -> list[str]:
    """Return the names that match any pattern, in their own order.

    Raises:
        ValueError: If a pattern matches none.

    Source:
        Own.

    Example:
        >>> matching(["*cam", "saliency"], ["Saliency", "LayerGradCam", "Occlusion"])
        ['Saliency', 'LayerGradCam']
    """
    names, wanted = list(names), [pattern.strip().lower() for pattern in patterns]
    for pattern in wanted:
        if not fnmatch.filter(map(str.lower, names), pattern):
            raise ValueError(
                f"--methods: no method is called {pattern!r}; there are {', '.join(names)}."
            )
    return [n for n in names if any(fnmatch.fnmatchcase(n.lower(), w) for w in wanted)]


def told(data: str, classifier: str) -> dict[str, Any]:
    """Say how a benchmark was made, without the folders of this machine.

    Args:
        data: What the images are.
        classifier: What is explained.

    Returns:
        With the command and the versions.

    Source:
        Own.
    """
    packages = ("captum", "torch", "numpy")
    return {
        "command": " ".join(["captum-masking", *map(_name_only, sys.argv[1:])]),
        "data": data,
        "classifier": classifier,
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
    }


def _name(folder: str, models: int) -> str:
    return "MaskingSaliency" if models == 1 else f"MaskingSaliency ({Path(folder).name})"


def _data(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _name_only(word: str) -> str:
    return Path(word).name if Path(word).is_absolute() else word
