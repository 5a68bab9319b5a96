"""The cost of a map: milliseconds, forward passes of the classifier, and memory."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from captum_masking._base.checks import check_inputs
from captum_masking.benchmark.methods import Explain, random_states
from captum_masking.benchmark.result import Cost
from captum_masking.metrics.robustness import models_lent

_FEWEST_TURNS = 3
# On a CPU, each forward pass adds megabytes of profile; beyond both limits there is no figure.
_FORWARDS_PROFILED, _SECONDS_PROFILED = 100, 1.0


def measure_cost(
    explain: Explain,
    forward: Callable[[Tensor], Any],
    inputs: Tensor,
    target: Tensor,
    *,
    seconds: float = 2.0,
) -> Cost:
    """Measure the cost to explain a batch, relative to a forward pass of the classifier."""
    check_inputs(inputs)
    if len(inputs) == 0:
        raise ValueError("expected at least one image to measure the cost, but got none.")
    if not 0 < seconds < math.inf:
        raise ValueError(f"seconds must be a positive number, but got {seconds}.")
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
    """Time both in turns, beginning and ending with ``forward``."""
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
    # Silence the profiler's messages.
    quiet = patch.dict(os.environ, KINETO_LOG_LEVEL=os.environ.get("KINETO_LOG_LEVEL") or "6")
    with quiet, profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(file))
        trace = json.loads(file.read_text(encoding="utf-8"), object_hook=_memory_only)
    events = sorted(filter(None, trace["traceEvents"]), key=lambda event: event["ts"])
    # "Total Allocated" continues from earlier profiles; the sum of changes does not.
    return max(accumulate((event["args"]["Bytes"] for event in events), initial=0))


def _memory_only(read: dict[str, Any]) -> dict[str, Any] | None:
    return None if "ph" in read and read.get("name") != "[memory]" else read
