"""What training says of itself: live figures, records, a CSV log, warnings."""

from __future__ import annotations

import csv
import math
import os
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from captum_masking.figures import Means, Record, summary


class Monitor:
    """Shows a bar per epoch, keeps a record per epoch, and says when something is wrong.

    Args:
        epochs: How many there will be.
        log: A CSV file, rewritten after each epoch, or None.
        show_progress: Whether to show the bars.

    Source:
        Own.

    Example:
        >>> monitor = Monitor(epochs=1, show_progress=False)
        >>> for batch in monitor.epoch([1, 2]):
        ...     monitor.add({"area": 0.5, "area_in_image_std": 0.1}, 1)
        >>> monitor.close({})["area"]
        0.5
    """

    def __init__(
        self, epochs: int, *, log: str | Path | None = None, show_progress: bool = True
    ) -> None:
        self.epochs = epochs
        self.log = None if log is None else Path(log)
        self.show_progress = show_progress
        self.records: list[Record] = []
        self.means = Means()
        self.skipped = 0  # steps of the running epoch

    def epoch(
        self, batches: Iterable, *, start: int = 0, total: int | None = None
    ) -> Iterator[Any]:
        """Give the batches of one epoch under a bar, of which ``start`` are done already."""
        self.started = time.perf_counter()
        name = f"epoch {len(self.records) + 1}/{self.epochs}"
        with tqdm(
            batches, name, total=total, initial=start, disable=not self.show_progress
        ) as self.bar:
            yield from self.bar

    def add(self, record: Record, count: int) -> None:
        """Take in one step's figures, and show the means so far.

        Of a step that was left out, for want of a finite loss or gradient, those that are finite.
        """
        if record.get("skipped"):
            self.skipped += 1
            finite = {name: value for name, value in record.items() if math.isfinite(value)}
            record = {name: value for name, value in finite.items() if name != "skipped"}
        self.means.add(record, count)
        if self.show_progress:
            self.bar.set_postfix_str(summary(self.means.record()), refresh=False)

    def close(self, validation: Record) -> Record:
        """End an epoch: warn, log, and return its record."""
        record = {"epoch": len(self.records) + 1.0, **self.means.record()}
        record |= {"skipped": float(self.skipped)} if self.skipped else {}
        record |= {f"val_{name}": value for name, value in validation.items()}
        record["seconds"] = time.perf_counter() - self.started
        self.records.append(record)
        self.means, self.skipped = Means(), 0
        if "area" in record:  # not while the classifier trains alone
            warn_if_collapsed(record)
        if self.show_progress and validation:
            tqdm.write(f"    validation: {summary(validation)}")
        if self.log is not None:
            self._write_log(self.log)
        return record

    def state_dict(self) -> dict[str, Any]:
        """Return the records, and the running means of an epoch that has not ended."""
        means = self.means.state_dict()
        return {"records": self.records, "means": means, "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.records = list(state["records"])
        self.means.load_state_dict(state["means"])
        self.skipped = state["skipped"]

    def _write_log(self, log: Path) -> None:
        try:
            write_csv(self.records, log)
        except OSError as error:  # no reason to lose a training
            warnings.warn(
                f"could not write the log {log}: {error.strerror}. The training goes on; the next "
                "epoch writes the whole log, if there is space and it may be written by then.",
                stacklevel=3,
            )


def warn_if_collapsed(record: Record) -> None:
    """Warn if masks are all ones, all zeros or constant.

    Args:
        record: Needs ``area`` and ``area_in_image_std``.

    Source:
        Own; the figures to look at are those that users of learned masks ask for.

    Example:
        >>> warn_if_collapsed({"area": 0.4, "area_in_image_std": 0.3})
    """
    area, spread = record["area"], record["area_in_image_std"]
    kind = (
        "all ones; raise the area weights"
        if area > 0.97
        else "all zeros; lower the area weights"
        if area < 0.03
        else "constant over each image; train longer, raise lr, or tap other layers"
        if spread < 0.02
        else None
    )
    if kind is not None:
        warnings.warn(
            f"the masker has collapsed: its masks are {kind}. Mean area {area:.3f}, spread within "
            f"an image {spread:.3f}; {summary(record)}.",
            stacklevel=2,
        )


def write_csv(records: list[Record], file: Path) -> None:
    """Write records to a CSV file, one row each, with nan for what a record does not have.

    Source:
        Own.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.new")  # a log that is being read is never half a one
    with beside.open("w", newline="", encoding="utf-8") as stream:
        names = dict.fromkeys(name for record in records for name in record)
        writer = csv.DictWriter(stream, list(names), restval="nan")
        writer.writeheader()
        writer.writerows(records)
    os.replace(beside, file)
