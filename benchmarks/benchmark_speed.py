"""What judging a map costs in the benchmark beside the bare forward passes that its measures need.

Counts how many images each measure shows the classifier, and times it in turns with just as many
bare forward passes of the classifier as it is given. CPU seconds of one thread, so that other
work on the machine does not count. Photographs of 224 x 224, EfficientNet-Lite0 and its masker.

  python benchmarks/benchmark_speed.py --data val.csv --label-column label1k --json speed.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import torch
from shared import table
from torch import Tensor

import captum_masking
from captum_masking import zoo
from captum_masking._base.captum import as_they_are
from captum_masking.benchmark import default_methods
from captum_masking.benchmark.images import Images
from captum_masking.benchmark.measures import LONG, QUICK, Scores
from captum_masking.data import BoxedImages
from captum_masking.training.update import Folded

METHODS = ("MaskingSaliency", "Saliency")
# The two that call the method eleven times each are the method's own time.
MEASURES = {name: [name] for name in (*QUICK, *LONG) if name not in ("infidelity", "sensitivity")}
MEASURES |= {"quick": list(QUICK), "quick and long": list(MEASURES)}


def main() -> None:
    """Measure, print, write."""
    arguments = _arguments()
    torch.set_num_threads(1)
    model, preprocess = zoo.efficientnet_lite0()
    data = BoxedImages(arguments.data, transform=preprocess, label_column=arguments.label_column)
    images = Images(data, limit=16, seed=0, batch_size=16)
    found, _ = default_methods(model, images.example())
    classifier, rows = model.classifier.eval(), {}
    with Folded().lent(classifier, [images.example()], as_they_are) as judge:
        (batch,) = images.batches(judge, predicted=False)
        counted = _Counted(judge)
        for method in METHODS:
            maps = found[method].maps(batch.inputs.clone(), batch.target)
            for name, measures in MEASURES.items():
                scores = Scores(counted, measures)
                bare = torch.no_grad()(lambda: classifier(batch.inputs))

                def judged(
                    scores: Scores = scores, maps: Tensor = maps, method: str = method
                ) -> Any:
                    return scores(found[method], maps, batch, maps.mean((1, 2, 3)))

                rows[f"{method}, {name}"] = _row(counted, judged, bare, arguments.turns)
    lines = [[n, f"{r['forwards']:g}", *(f"{r[k]:.3g}" for k in KEYS)] for n, r in rows.items()]
    print(table(["map, measures", "forwards", "ms", "bare ms", "ratio"], lines))
    setting = {"captum_masking": captum_masking.__version__, "torch": torch.__version__}
    if arguments.json is not None:
        written = {"setting": {**setting, "threads": 1, "batch_size": 16}, "rows": rows}
        arguments.json.write_text(json.dumps(written, indent=1) + "\n")


KEYS = ("ms", "bare_ms", "ratio")


class _Counted(torch.nn.Module):
    """A classifier that counts the images it is shown."""

    def __init__(self, judge: torch.nn.Module) -> None:
        super().__init__()
        self.judge, self.seen = judge, []

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen.append(len(inputs))
        output: Tensor = self.judge(inputs)
        return output


def _row(
    counted: _Counted, judged: Callable[[], Any], bare: Callable[[], Any], turns: int
) -> dict[str, float | None]:
    counted.seen.clear()
    judged()
    forwards = sum(counted.seen) / 16
    times: list[Sequence[float]] = [(_seconds(judged), _seconds(bare)) for _ in range(turns)]
    own, passes = (1000 * median(each) / 16 for each in zip(*times, strict=True))
    bare_ms = forwards * passes
    ratio = median(mine / plain for mine, plain in times) / forwards if forwards else float("nan")
    return {"forwards": forwards, "ms": own, "bare_ms": bare_ms, "ratio": ratio}


def _seconds(run: Callable[[], Any]) -> float:
    began = process_time()
    run()
    return process_time() - began


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a CSV with boxes")
    parser.add_argument("--label-column", default="label")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
