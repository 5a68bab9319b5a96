"""Compare saliency methods on the same images."""

from __future__ import annotations

import fnmatch
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from captum_masking.benchmark.libraries import NAMES, default_methods, in_words, ours_of
from captum_masking.benchmark.methods import Method
from captum_masking.benchmark.report import text_table
from captum_masking.benchmark.result import digest
from captum_masking.benchmark.run import benchmark
from captum_masking.cli.command import Options
from captum_masking.cli.evaluate import as_asked, match_labels, reading
from captum_masking.data.images import BoxedImages, SegmentedImages, columns_of
from captum_masking.model.model import MaskingModel
from captum_masking.viz import to_pixels
from captum_masking.zoo import Preprocess, load


def run(options: Options) -> dict[str, Any]:
    """Run, print and write the benchmark."""
    loaded = [load(folder) for folder in options.model]
    model, preprocess = loaded[0][0], as_asked(options, loaded[0][1])
    images = read_images(options, model.classifier, preprocess)
    ours = _rows_of(options.model, [each for each, _ in loaded])
    methods, notes = wanted(options.methods, model, images, ours)
    result = benchmark(
        model,
        images,
        methods,
        out=options.out,
        limit=options.limit,
        predicted=options.predicted,
        check_accuracy=not options.untrained,
        measures=options.measures,
        batch_size=options.batch_size,
        curve_steps=options.curve_steps,
        cost_seconds=options.cost_seconds,
        curve_images=options.curve_images,
        seed=options.seed,
        to_picture=lambda image: to_pixels(image, preprocess.mean, preprocess.std),
        setting=setting(f"{options.data.parent.name}/{options.data.name}", preprocess.spec),
        notes=notes,
    )
    print(text_table(result))
    report = options.out / "report.html"
    print(f"\nReport: {report}")
    failed = {row.name: row.failure for row in result.rows if row.failure}
    return {"report": report, "failed": failed, **result.as_json()}


def read_images(options: Options, classifier: nn.Module, preprocess: Preprocess) -> BoxedImages:
    """Open the images, with pixel masks where the CSV names them."""
    settings: dict[str, Any] = {"transform": preprocess, **reading(preprocess)}
    if options.mask_column in columns_of(options.data):
        settings["mask_column"] = options.mask_column
        images: BoxedImages = SegmentedImages(options.data, **settings)
    else:
        images = BoxedImages(options.data, **settings)
    if not options.predicted:
        match_labels(images, classifier, preprocess)
    return images


def _rows_of(folders: Sequence[str], models: Sequence[MaskingModel]) -> dict[str, Method]:
    """Make one row per model, named by its folder if there are several."""
    rows = {}
    for folder, model in zip(folders, models, strict=True):
        short = Path(folder).name
        name = "MaskingSaliency" if len(models) == 1 else f"MaskingSaliency ({short})"
        rows[name] = ours_of(model, settings=f"{short}, weights {digest(model)}")
    if len(rows) < len(models):
        raise ValueError(
            f"--model: expected folders with different names, but got {', '.join(folders)}; "
            "rename one."
        )
    return rows


def wanted(
    patterns: str | None,
    model: MaskingModel,
    images: Dataset[Any],
    ours: Mapping[str, Method] | None = None,
) -> tuple[dict[str, Method], list[str]]:
    """Return rows by name, and a note on each method that does not apply to the model."""
    known = [*({NAMES[0]: None} if ours is None else ours), *NAMES[1:]]
    names = None if patterns is None else _matching(patterns.split(","), known)
    found, left_out = default_methods(model, images[0][0][None], names=names)
    if ours is not None:
        kept = {name: row for name, row in ours.items() if names is None or name in names}
        found = {**kept, **{name: row for name, row in found.items() if row.family != "ours"}}
    if not found:
        raise ValueError(f"--methods: no method applies; {'; '.join(in_words(left_out))}.")
    return found, in_words(left_out)


def _matching(patterns: Iterable[str], names: Iterable[str]) -> list[str]:
    """Return the names that match any pattern, in the order of ``names``.

    >>> _matching(["*cam", "saliency"], ["Saliency", "LayerGradCam", "Occlusion"])
    ['Saliency', 'LayerGradCam']
    """
    names, wanted = list(names), [pattern.strip().lower() for pattern in patterns]
    for pattern in wanted:
        if not fnmatch.filter(map(str.lower, names), pattern):
            raise ValueError(
                f"--methods: unknown method {pattern!r}; choose from {', '.join(names)}."
            )
    return [n for n in names if any(fnmatch.fnmatchcase(n.lower(), w) for w in wanted)]


def setting(data: str, classifier: str) -> dict[str, Any]:
    """Describe how a benchmark was made, without absolute paths."""
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    versions = {package: version(package) for package in ("captum", "torch", "numpy")}
    return {
        "command": " ".join(["captum-masking", *words]),
        "data": data,
        "classifier": classifier,
        "versions": {"python": platform.python_version(), **versions},
    }
