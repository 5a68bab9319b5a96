"""What a map costs: milliseconds, forward passes of the classifier, and memory."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from captum_masking._base.checks import check_inputs
from captum_masking.benchmark.methods import Explain, random_states
from captum_masking.benchmark.result import Cost
from captum_masking.metrics.robustness import models_lent

_FEWEST_TURNS = 3
# On a CPU each forward pass leaves megabytes of profile behind: beyond both, no figure.
_FORWARDS_PROFILED, _SECONDS_PROFILED = 100, 1.0


def measure_cost(
    explain: Explain,
    forward: Callable[[Tensor], Any],
    inputs: Tensor,
    target: Tensor,
    *,
    seconds: float = 2.0,
) -> Cost:
    """Measure what it costs to explain a batch, beside a plain forward pass of the classifier.

    After one warm-up of each, forward pass and method are timed in turns, ``forward, method,
    forward, method, ..., forward``: at least three turns, and as many as fit into ``seconds``. A
    method that takes longer than ``seconds`` is timed once. One more run, which is not timed,
    measures memory; so a slow method runs three times in all.

    Each time of the method is divided by the mean of the forward passes just before and after it,
    so that a machine that is busy for a while slows both sides; medians are over turns.

    Modes, gradients and random states are given back. On a CPU the peak of memory is read from
    torch's profiler, which sees what torch allocates (and no scratch memory of other libraries),
    and is None for a method of more than 100 forward passes and a second; on a GPU it is that of
    torch's own allocator; elsewhere it is None.

    Raises:
        ValueError: If there is no image, or ``seconds`` is not positive.

    Example:
        >>> classifier = torch.nn.Conv2d(3, 8, 3)
        >>> inputs, target = torch.rand(2, 3, 32, 32), torch.tensor([0, 1])
        >>> explain = lambda inputs, target: classifier(inputs).mean(1)
        >>> cost = measure_cost(explain, classifier, inputs, target, seconds=0.01)
        >>> cost.batch_size, cost.forwards > 0.5
        (2, True)
    """
    _check(inputs, seconds)
    images = inputs.detach().clone()
    with models_lent(forward, explain), random_states(images.device):
        plain = timed(torch.no_grad()(partial(forward, images)), images.device)
        run = torch.enable_grad()(partial(explain, images, target))
        forwards, methods = in_turns(plain, timed(run, images.device), seconds)
        ratio = median(
            method / ((before + after) / 2)
            for method, (before, after) in zip(methods, pairwise(forwards), strict=True)
        )
        took = median(methods)
        short = ratio <= _FORWARDS_PROFILED or took <= _SECONDS_PROFILED
        memory_mb = peak_mb(run, images.device, profiled=short)
    return Cost(1000 * took / len(images), ratio, memory_mb, len(images))


def timed(run: Callable[[], Any], device: torch.device) -> Callable[[], float]:
    """Make a function that runs another one and returns the seconds it took."""

    def seconds() -> float:
        _synchronize(device)
        start = perf_counter()
        run()
        _synchronize(device)
        return perf_counter() - start

    return seconds


def in_turns(
    forward: Callable[[], float], method: Callable[[], float], seconds: float
) -> tuple[list[float], list[float]]:
    """Time both in turns; return one time more for ``forward``, which has the first and last."""
    forward(), method()  # the first run chooses algorithms and fills caches
    forwards, methods = [forward()], [method()]
    forwards.append(forward())
    if methods[0] > seconds:
        return forwards, methods
    while len(methods) < _FEWEST_TURNS or sum(forwards) + sum(methods) < seconds:
        methods.append(method())
        forwards.append(forward())
    return forwards, methods


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_mb(run: Callable[[], Any], device: torch.device, *, profiled: bool) -> float | None:
    """Return the peak of allocated memory during a run, on top of what was there before."""
    if device.type == "cuda":
        return _peak_on_gpu(run, device) / 1e6
    if device.type == "cpu" and profiled:
        return _peak_on_cpu(run) / 1e6
    return None


def _peak_on_gpu(run: Callable[[], Any], device: torch.device) -> int:
    _synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    _synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _peak_on_cpu(run: Callable[[], Any]) -> int:
    with _quiet(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(file))
        trace = json.loads(file.read_text(encoding="utf-8"), object_hook=_memory_only)
    events = sorted(filter(None, trace["traceEvents"]), key=lambda event: event["ts"])
    # "Total Allocated" goes on from earlier profiles; the sum of changes starts at this run.
    return max(accumulate((event["args"]["Bytes"] for event in events), initial=0))


def _memory_only(read: dict[str, Any]) -> dict[str, Any] | None:
    """Drop the events of a trace, as they are read, that are not about memory."""
    return None if "ph" in read and read.get("name") != "[memory]" else read


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the profiler from telling the shell that it starts and stops."""
    name = "KINETO_LOG_LEVEL"
    given = os.environ.get(name)
    os.environ[name] = given or "6"
    try:
        yield
    finally:
        if given is None:
            del os.environ[name]


def _check(inputs: Any, seconds: float) -> None:
    check_inputs(inputs)
    if len(inputs) == 0:
        raise ValueError("expected at least one image to measure the cost of, but got none.")
    if not 0 < seconds < math.inf:
        raise ValueError(f"seconds must be a positive number, but got {seconds}.")
