"""Memory over a thousand calls: nothing that attribute makes stays, not a tensor and not a hook."""

from __future__ import annotations

import gc
import mmap
import os
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from captum_masking import MaskingSaliency
from captum_masking._base.checks import TargetError

STATM = Path("/proc/self/statm")  # Linux only: elsewhere the process's memory is not looked at
PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024 if STATM.exists() else 0
# A map of 2 x 3 x 16 x 16 floats is 6 KiB: one kept per call would be 6000 KiB after 1000 calls.
RESIDENT_SLACK_KIB = 3000
# Free lists and caches of Python and torch fill up slowly, by 10 to 25 KiB however many the calls.
PYTHON_SLACK_KIB = 64
TARGETS, WRONG = [0, [1, 2], torch.tensor([3, 0]), None], (9999,) * 20

pytestmark = pytest.mark.filterwarnings("ignore:.*has no masker:UserWarning")


class Growth:
    """What there is more of after many calls of a function than there was before."""

    def __init__(self, call: Callable[[int], object], network: nn.Module, *, warm_up: int) -> None:
        self.call, self.network = call, network
        self._repeat(warm_up)

    def over(self, calls: int) -> dict[str, float]:
        """Count tensors and hooks, and KiB of the process's memory, and then of Python's."""
        counted = {
            "tensors": _tensors,
            "hooks": lambda: _hooks(self.network),
            "resident_kib": _resident_kib,
            "device_bytes": _device_bytes,
        }
        before = {name: count() for name, count in counted.items()}
        self._repeat(calls)
        growth = {name: count() - before[name] for name, count in counted.items()}
        return {**growth, "python_kib": self._traced(calls // 5)}  # tracing is slow

    def _traced(self, calls: int) -> float:
        tracemalloc.start()
        self._repeat(calls // 5)  # what is made once, not at every call, is there by now
        before, _ = tracemalloc.get_traced_memory()
        self._repeat(calls)
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return (after - before) / 1024

    def _repeat(self, calls: int) -> None:
        for number in range(calls):
            self.call(number)
        gc.collect()


def _tensors() -> int:
    # By type: isinstance would ask lazy objects for their class, and wake them up.
    return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())


def _hooks(network: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(part, kind)) for part in network.modules() for kind in kinds)


def _resident_kib() -> int:
    return int(STATM.read_text().split()[1]) * PAGE_KIB if STATM.exists() else 0


def _device_bytes() -> int:
    return torch.cuda.memory_allocated() if torch.cuda.is_initialized() else 0


def assert_none(growth: dict[str, float]) -> None:
    assert growth["tensors"] == growth["hooks"] == growth["device_bytes"] == 0, growth
    assert growth["resident_kib"] < RESIDENT_SLACK_KIB, growth
    assert growth["python_kib"] < PYTHON_SLACK_KIB, growth


def explain(saliency: MaskingSaliency, images: Tensor, **options: Any) -> Callable[[int], None]:
    """Make a call of attribute: in a tuple at times, and every fifth time for a wrong target."""

    def call(number: int) -> None:
        target = WRONG if number % 5 == 4 else TARGETS[number % 5]
        inputs = (images,) if number % 7 == 0 else images
        try:
            saliency.attribute(inputs, target=target, **options)
        except TargetError:
            assert target is WRONG

    return call


@pytest.fixture(autouse=True)
def only_what_is_new() -> Iterator[None]:
    """Set aside all objects of before, which are a hundred times as many: collecting is fast."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def pair(images) -> Tensor:
    return images[:2]


def test_a_thousand_calls_with_a_masker_leave_nothing(model, pair):
    assert_none(Growth(explain(MaskingSaliency(model), pair), model, warm_up=100).over(1000))


def test_calls_that_optimise_a_mask_leave_nothing(classifier, pair):
    call = explain(MaskingSaliency(classifier), pair, steps=1)
    assert_none(Growth(call, classifier, warm_up=5).over(30))


# The scales can be trusted: each of the four sees what is left on purpose.


def left(network: nn.Module, leave: Callable[[int], object], calls: int = 100) -> dict[str, float]:
    return Growth(leave, network, warm_up=10).over(calls)


def test_a_tensor_that_is_kept_is_seen(model, pair):
    shelf, saliency = [], MaskingSaliency(model)
    growth = left(model, lambda number: shelf.append(saliency.attribute(pair, target=0)))
    assert growth["tensors"] == 100


def test_a_hook_that_is_kept_is_seen(classifier):
    leave = lambda number: classifier[3].register_forward_hook(lambda *_: None)  # noqa: E731
    assert left(classifier, leave)["hooks"] == 100


def test_an_object_that_is_kept_is_seen(classifier):
    shelf: list[list[None]] = []  # a list of 500 places is 4 KB
    growth = left(classifier, lambda number: shelf.append([None] * 500))
    assert growth["tensors"] == 0 and growth["python_kib"] > PYTHON_SLACK_KIB


@pytest.mark.skipif(not STATM.exists(), reason="the process's memory cannot be read here")
def test_memory_that_python_does_not_know_of_is_seen(classifier):
    shelf: list[mmap.mmap] = []  # pages of the system's own, as libraries in C take them

    def leave(number: int) -> None:
        shelf.append(mmap.mmap(-1, 1 << 17))
        shelf[-1].write(b"x" * (1 << 17))

    growth = left(classifier, leave)
    assert growth["tensors"] == 0 and growth["resident_kib"] > RESIDENT_SLACK_KIB
