"""Run all methods on the same images, batch by batch, and store each batch on disk."""

from __future__ import annotations

import copy
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from captum.attr import Attribution
from torch import Tensor, nn
from tqdm.auto import tqdm

from captum_masking._base.borrow import borrowed, eval_mode
from captum_masking._base.captum import as_they_are
from captum_masking._base.checks import check_recognized
from captum_masking.benchmark.cost import measure_cost
from captum_masking.benchmark.images import Batch, Images, stretched
from captum_masking.benchmark.libraries import default_methods, in_words
from captum_masking.benchmark.measures import Arrays, Chosen, Scores, asked, choose, summarize
from captum_masking.benchmark.methods import (
    Explain,
    Method,
    as_method,
    random_states,
    trivial_methods,
)
from captum_masking.benchmark.report import write_report
from captum_masking.benchmark.result import TRIVIAL, Result, Store, digest, needed
from captum_masking.model.model import MaskingModel
from captum_masking.training.update import Folded

#: Images in the montage, and in the batch that is timed.
SHOWN, TIMED = 6, 8


def benchmark(
    model: nn.Module,
    data: Any,
    methods: Mapping[str, Attribution | Explain | Method] | None = None,
    *,
    out: str | Path | None = None,
    limit: int | None = None,
    predicted: bool = False,
    check_accuracy: bool = True,
    measures: str | Iterable[str] = "quick",
    batch_size: int = 16,
    curve_steps: int = 10,
    curve_images: int | None = None,
    cost_seconds: float = 2.0,
    reference: str = "",
    seed: int = 0,
    to_picture: Callable[[Tensor], Any] | None = None,
    setting: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    show_progress: bool = True,
) -> Result:
    """Compare methods on the same images with the same classifier.

    The four trivial baselines are always included. A method that raises is dropped with its reason,
    and the others continue. A map with NaN counts as no evidence. The state of the model, and of
    every Captum ``Attribution``'s model, is restored.

    Args:
        model: The classifier that judges, or a ``MaskingModel`` with it.
        data: Items ``(image, label)`` of one shape. An attribute ``boxes``, one tensor ``(n, 4)``
            per image in fractions of the frame, adds metrics with boxes; a method
            ``pixel_mask(index, size)`` adds metrics with pixel masks.
        methods: By name, a Captum ``Attribution``, a callable ``(inputs, target) -> maps`` or a
            :class:`Method`; None takes :func:`default_methods`.
        out: A folder for tables, pictures and the report, which need pandas and jinja2. It also
            stores the measurements, so that the same call continues after an interruption; rows
            with changed settings are measured again.
        limit: Use a random sample of this size; None takes all images.
        predicted: Explain the predicted class instead of the label.
        check_accuracy: Whether to refuse labels that the classifier does not know.
        measures: Names, or one comma-separated text. ``quick`` is ``le`` (boxes), ``iou`` (pixel
            masks), ``masked``, ``sm``, ``equal`` (area) and ``maps``; ``all`` adds ``half``,
            ``curves``, ``infidelity`` and ``sensitivity``.
        curve_steps: Points per curve; RISE takes 28.
        curve_images: Number of images with curves, rounded up to whole batches; None takes all.
        cost_seconds: Time to time each method, unless three runs take longer.
        reference: The row to compare the others with, also at the area of its maps; empty takes the
            first row that is not trivial.
        seed: Seed of the sample, of the halves for thresholds, and of the bootstrap.
        to_picture: Turns an image into pixels ``(H, W, 1 or 3)`` in [0, 1] for the montage; None
            stretches each image to its own range.
        setting, notes: Facts by name, such as the command, and sentences for the report.

    Example:
        >>> from captum_masking.data import DigitsOnTextures
        >>> classifier = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 10))
        >>> result = benchmark(classifier, DigitsOnTextures(4), {}, cost_seconds=0.1)
        >>> [row.name for row in result.rows]
        ['whole frame', 'centered square', 'random', 'edge detector']
    """
    names = asked(measures)
    if out is not None:  # fail now, not after hours
        needed("pandas"), needed("jinja2")
    judge = copy.deepcopy(model.classifier if isinstance(model, MaskingModel) else model).eval()
    images = Images(data, limit=limit, seed=seed, batch_size=batch_size)
    if check_accuracy and not predicted:
        check_recognized(images.answers(judge))
    rows, left_out = _rows(methods, model, images, names)
    options = {
        "images": len(images),
        "explained": "the predicted class" if predicted else "the label",
        "measures": list(names),
        "curve_steps": curve_steps,
        "curve_images": curve_images,
        "batch_size": batch_size,
        "seed": seed,
    }
    first = next((name for name, row in rows.items() if row.family != TRIVIAL), "")
    with tempfile.TemporaryDirectory() as temporary:
        store = Store(Path(temporary if out is None else out))
        store.check_same({**options, "classifier": digest(judge), "data": images.digest()})
        scores = Scores(judge, names, curve_steps, curve_images)
        loop = _Loop(rows, judge, scores, store, seed, cost_seconds, reference or first)
        chosen = loop.run(images, predicted=predicted, show_progress=show_progress)
        result = summarize(
            store,
            rows,
            chosen,
            failures=loop.failures,
            reference=loop.reference,
            seed=seed,
            setting={**(setting or {}), **options},
            notes=[*notes, *_notes(images, left_out, names)],
        )
        if out is not None:
            shown = {row: best[0][0] for row, best in chosen.items()}
            samples = images.samples(store, shown, to_picture or stretched)
            write_report(result, samples, Path(out))
    return result


def _rows(
    methods: Mapping[str, Attribution | Explain | Method] | None,
    model: nn.Module,
    images: Images,
    measures: Sequence[str],
) -> tuple[dict[str, Method], dict[str, str]]:
    left_out: dict[str, str] = {}
    given: Mapping[str, Attribution | Explain | Method] = methods or {}
    if methods is None:
        given, left_out = default_methods(model, images.example())
    rows = {**trivial_methods(), **{n: as_method(m) for n, m in given.items()}}
    by_boxes, by_pixels = (name in measures for name in ("le", "iou"))
    if not (images.has_boxes and by_boxes or images.has_pixels and by_pixels):
        rows = {name: replace(row, variants=()) for name, row in rows.items()}  # nothing chooses
    return rows, left_out


def _notes(images: Images, left_out: Mapping[str, str], measures: Sequence[str]) -> list[str]:
    notes = in_words(left_out)
    if not images.has_boxes:
        notes.append("The data have no boxes, so the columns that need them are missing.")
    if not images.has_pixels:
        notes.append("The data have no pixel masks, so the columns that need them are missing.")
    others = [name for name in asked("all") if name not in measures]
    if others:
        notes.append(f"Not measured: {', '.join(others)} (see measures).")
    return notes


@dataclass
class _Loop:
    """Measures rows, stores the results, and the reasons of dropped methods."""

    rows: Mapping[str, Method]
    judge: nn.Module
    scores: Scores
    store: Store
    seed: int
    cost_seconds: float
    reference: str
    failures: dict[str, str] = field(default_factory=dict)
    measured: float = 0.0  # seconds, without those of costs

    def __post_init__(self) -> None:
        area = self.rows[self.reference].settings if self.reference in self.rows else ""
        self.methods = {k: run for n, row in self.rows.items() for k, run in row.runs(n).items()}
        settings = {n: f"{run.settings}; area: {area}" for n, run in self.methods.items()}
        self.store.forget_changed(settings)  # every row depends on that area

    def run(self, images: Images, *, predicted: bool, show_progress: bool) -> Chosen:
        total = len(images) * len(self.methods)
        # The others are measured at its area, too.
        names = sorted(self.methods, key=lambda name: name != self.reference)
        with (
            # Folded batch norm saves a fifth of the judge's time.
            Folded().lent(self.judge, [images.example(self.judge)], as_they_are) as judge,
            tqdm(total=total, unit="map", disable=not show_progress) as bar,
        ):
            self.scores = replace(self.scores, judge=judge)
            for batch in images.batches(judge, predicted=predicted):
                expected = not self.measured
                for name in names:
                    bar.set_postfix_str(name)
                    self._try(name, batch)
                    bar.update(len(batch.inputs))
                if expected and self.measured and show_progress:
                    self._say(len(images) - batch.first, len(batch.inputs))
        keys = {
            n: [k for k in row.runs(n) if k not in self.failures] for n, row in self.rows.items()
        }
        tried = {name: found for name, found in keys.items() if found}
        return choose(self.store, tried, range(0, len(images), images.batch_size), self.seed)

    def _say(self, left: int, batch: int) -> None:
        minutes = self.measured * left / batch / 60
        said = f"about {minutes:.1f} minutes for {left} images, estimated on the first {batch}"
        tqdm.write(f"{said} ({', '.join(self.scores.measures)})", file=sys.stderr)

    def _try(self, name: str, batch: Batch) -> None:
        if name in self.failures or self.store.has(name, batch.first):
            return
        method = self.methods[name]
        try:
            # Its own seed, so that an interrupted run draws the same numbers.
            with (
                _untouched(method.module),
                random_states(batch.inputs.device, self.seed + batch.first),
            ):
                arrays = self._measure(name, method, batch)
        except Exception as error:  # any method may raise anything; the others continue
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            self.failures[name] = f"failed after {batch.first} images: {reason}"
        else:
            self.store.write(name, batch.first, arrays)

    def _measure(self, name: str, method: Method, batch: Batch) -> Arrays:
        inputs, target = batch.inputs, batch.target
        began = perf_counter()
        maps = method.maps(inputs.clone(), target)
        own = name == self.reference
        areas = maps.mean((1, 2, 3)) if own else self._areas(batch)
        arrays = self.scores(method, maps, batch, areas)
        self.measured += perf_counter() - began
        if batch.first == 0:
            timed = inputs[:TIMED].clone(), target[:TIMED]
            cost = measure_cost(method.explain, self.judge, *timed, seconds=self.cost_seconds)
            self.store.write_cost(name, cost)
            self.store.write(name, "maps", {"maps": maps[:SHOWN, 0].half()})
        return arrays

    def _areas(self, batch: Batch) -> Tensor | None:
        """Return the area of the reference row's map per image, if there is one."""
        if not self.store.has(self.reference, batch.first):
            return None
        return torch.from_numpy(self.store.read(self.reference, [batch.first])["area"])


@contextmanager
def _untouched(module: nn.Module | None) -> Iterator[None]:
    """Keep a module in eval mode with gradients on; restore its state afterwards."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if module is not None:
            stack.enter_context(borrowed(module))
            stack.enter_context(eval_mode(module))
        yield
