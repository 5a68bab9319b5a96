"""From stored scores to the table: every column of every row with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from captum_masking.benchmark.measures import MEASURES, Measure
from captum_masking.benchmark.method import Method
from captum_masking.benchmark.result import Interval, Result, Row
from captum_masking.benchmark.statistic import Array, draw, halves, interval
from captum_masking.benchmark.store import Store

_RESAMPLES = 2000


class _Drawn(NamedTuple):
    """A column of a row: its number on all images, then in every resample."""

    numbers: Array
    chosen: list[float]


def summarize(
    store: Store,
    methods: Mapping[str, Method],
    firsts: Sequence[int],
    *,
    failures: Mapping[str, str],
    reference: str,
    seed: int,
    setting: dict[str, Any],
    notes: Sequence[str],
) -> Result:
    """Make the table of a benchmark from what is stored.

    Args:
        store: Holds the arrays of all batches of every method that did not fail.
        methods: The rows, in order.
        firsts: First image of each batch.
        failures: By name, why a method has no scores.
        reference: The row that the others are compared with; left out if it failed.
        seed: Of the split into halves and of the bootstrap.
        setting: Told in the report.
        notes: Likewise.

    Returns:
        Rows, intervals and differences. All rows are resampled alike, so that differences are
        paired; thresholds stay as chosen.

    Source:
        Own.
    """
    arrays = {name: store.read(name, firsts) for name in methods if name not in failures}
    correct = next((found["correct"] for found in arrays.values()), np.zeros(0))
    count = len(correct)
    parts, draws = halves(count, seed), draw(max(count, 1), resamples=_RESAMPLES, seed=seed)
    drawn = {name: _drawn(found, parts, draws) for name, found in arrays.items()}
    rows = [
        _row(name, method, store, arrays.get(name), drawn.get(name, {}), failures.get(name, ""))
        for name, method in methods.items()
    ]
    present = {key for found in drawn.values() for key in found}
    return Result(
        columns=[measure.column for measure in MEASURES if measure.column.key in present],
        rows=rows,
        images=count,
        setting={**setting, "accuracy": round(float(correct.mean()), 4) if count else None},
        notes=notes,
        differences=_differences(drawn, reference),
        reference=reference if reference in drawn else "",
        thresholds={name: _thresholds(found) for name, found in drawn.items()},
    )


def _drawn(arrays: dict[str, Array], parts: Array, draws: Array) -> dict[str, _Drawn]:
    measured = [measure for measure in MEASURES if measure.array in arrays]
    found = {m.column.key: _of(m, arrays[m.array], parts, draws) for m in measured}
    return {key: one for key, one in found.items() if np.isfinite(one.numbers[0])}


def _of(measure: Measure, array: Array, parts: Array, draws: Array) -> _Drawn:
    rows, chosen = measure.rows(array, parts)
    return _Drawn(measure.statistic(rows, draws), chosen)


def _row(
    name: str,
    method: Method,
    store: Store,
    arrays: dict[str, Array] | None,
    drawn: dict[str, _Drawn],
    failure: str,
) -> Row:
    return Row(
        name,
        method.family,
        method.settings,
        {key: interval(found.numbers) for key, found in drawn.items()},
        store.cost(name),
        0 if arrays is None else int(arrays["degenerate"].sum()),
        failure,
    )


def _differences(
    drawn: dict[str, dict[str, _Drawn]], reference: str
) -> dict[str, dict[str, Interval]]:
    """Return, by column, what each row has more than the reference."""
    differences: dict[str, dict[str, Interval]] = {}
    for name, found in drawn.items():
        for key, (numbers, _) in found.items():
            if name != reference and key in drawn.get(reference, {}):
                less = drawn[reference][key].numbers
                differences.setdefault(key, {})[name] = interval(numbers - less)
    return differences


def _thresholds(found: dict[str, _Drawn]) -> dict[str, list[float]]:
    return {key: one.chosen for key, one in found.items() if one.chosen}
