"""Promises of the cost of a method: by hand with a clock of our own, and against known memory."""

from __future__ import annotations

import itertools
import math
import random
import time

import numpy as np
import pytest
import torch
from captum.attr import Saliency
from networks import cnn

from captum_masking import MaskingModel, MaskingSaliency
from captum_masking.benchmark import cost
from captum_masking.benchmark.cost import measure_cost

FLOATS = 10_000_000  # 40 MB in float32


class Clock:
    """Time that passes only when it is told to; counts who was called."""

    def __init__(self, forward: float, method: float, slowdown: float = 0.0) -> None:
        self.now, self.calls, self.slowdown = 0.0, [], slowdown
        self.times = {"forward": forward, "method": method}

    def __call__(self) -> float:
        return self.now

    def run(self, name: str) -> None:
        self.calls.append(name)
        self.now += self.times[name] * (1 + self.slowdown * self.now)

    def forward(self, inputs):
        self.run("forward")

    def method(self, inputs, target):
        self.run("method")

    def measure(self, count: int = 4, **options):
        inputs, target = torch.zeros(count, 3, 2, 2), torch.zeros(count, dtype=torch.long)
        return measure_cost(self.method, self.forward, inputs, target, **options)


@pytest.fixture
def clock(monkeypatch):
    def make(*times: float, **more: float) -> Clock:
        made = Clock(*times, **more)
        monkeypatch.setattr(cost, "perf_counter", made)
        return made

    return make


# Time.


def test_a_method_three_times_as_slow_as_the_classifier_costs_three_forwards(clock):
    found = clock(0.1, 0.3).measure(count=4)
    assert found.forwards == pytest.approx(3)
    assert found.ms == pytest.approx(75)  # 0.3 s for 4 images
    assert found.batch_size == 4


def test_a_machine_that_slows_down_meanwhile_does_not_change_the_forwards(clock):
    # Three times as slow after 20 seconds; the straight ratio of first to last would be far off.
    assert clock(0.1, 0.3, slowdown=0.1).measure(seconds=20).forwards == pytest.approx(3, rel=0.01)


def test_one_interruption_changes_neither_figure(clock, monkeypatch):
    clock = clock(0.1, 0.3)
    plain = clock.method

    def method(inputs, target):
        clock.now += 50 if len(clock.calls) == 8 else 0
        plain(inputs, target)

    monkeypatch.setattr(clock, "method", method)
    found = clock.measure(seconds=60)
    assert (found.forwards, found.ms) == (pytest.approx(3), pytest.approx(75))


def test_forward_and_method_take_turns_after_one_warm_up_of_each(clock):
    clock = clock(1.0, 2.0)
    clock.measure(seconds=2.5)
    assert clock.calls == ["forward", "method"] * 4 + ["forward", "method"]
    # Warm-up; three turns and a last forward; and the run that measures memory.


def test_as_many_turns_are_taken_as_fit_into_the_seconds(clock):
    clock = clock(0.25, 0.25)  # turns of half a second, and one forward more
    clock.measure(seconds=4.2)
    assert clock.calls.count("method") == 1 + 8 + 1


def test_a_method_slower_than_the_seconds_is_timed_once(clock):
    clock = clock(1.0, 30.0)
    found = clock.measure(seconds=2)
    assert clock.calls.count("method") == 3  # warm-up, time, memory
    assert (found.forwards, found.ms) == (pytest.approx(30), pytest.approx(7500))


def test_what_is_really_eight_times_the_work_costs_about_eight_forwards(monkeypatch):
    monkeypatch.setattr(cost, "perf_counter", time.thread_time)  # blind to other processes
    weights = torch.randn(128, 128)
    forward = lambda inputs: [inputs @ weights for _ in range(4)]  # noqa: E731
    method = lambda inputs, target: [forward(inputs) for _ in range(8)]  # noqa: E731
    found = measure_cost(method, forward, torch.randn(2, 3, 128, 128), torch.zeros(2), seconds=0.2)
    assert 5 < found.forwards < 12


# Memory.


@pytest.fixture
def images(device):
    return torch.randn(2, 3, 16, 16, device=device)


@pytest.fixture
def memory_of(monkeypatch):
    """The memory of a method; a clock that ticks once a look makes it cost one forward."""
    monkeypatch.setattr(cost, "perf_counter", itertools.count().__next__)

    def memory(explain, images, forward=lambda inputs: None):
        return measure_cost(explain, forward, images, torch.tensor([0, 1])).memory_mb

    return memory


def two_of_three(inputs, target):
    """Allocate 3 x 40 MB, of which two live at once: 80 MB."""
    first = torch.empty(FLOATS, device=inputs.device)
    second = torch.empty(FLOATS, device=inputs.device)
    del first
    third = torch.empty(FLOATS, device=inputs.device)
    return second[:1] + third[:1]


def test_memory_is_the_most_that_lives_at_once(memory_of, images):
    assert memory_of(two_of_three, images) == pytest.approx(80, abs=0.01)


def test_memory_that_was_there_before_and_stays_does_not_count(memory_of, images):
    kept = [torch.empty(FLOATS, device=images.device)]

    def keep(inputs, target):
        kept.append(torch.empty(FLOATS // 4, device=inputs.device))  # 10 MB more with each run

    assert memory_of(keep, images) == pytest.approx(10, abs=0.01)
    assert memory_of(two_of_three, images) == pytest.approx(80, abs=0.01)


def test_memory_of_the_classifier_is_not_that_of_the_method(memory_of, images):
    forward = lambda inputs: torch.empty(FLOATS, device=inputs.device)  # noqa: E731
    assert memory_of(lambda inputs, target: None, images, forward) == 0


def test_memory_of_a_gradient_holds_the_activations_of_its_layers(memory_of, device):
    # Two activations of 2 x 8 x 256 x 256 floats, 4.2 MB each, live until the backward pass.
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 1), torch.nn.Sigmoid(), torch.nn.Flatten()
    ).to(device)
    inputs = torch.rand(2, 3, 256, 256, device=device)
    with_gradient = lambda x, t: Saliency(layers).attribute(x.requires_grad_(), target=t)  # noqa: E731
    without = lambda x, t: layers(x.detach()).detach()  # noqa: E731
    assert 2 * 4.19 < memory_of(with_gradient, inputs, layers) < 8 * 4.19
    assert memory_of(without, inputs, layers) >= 4.19


def test_memory_on_the_cpu_has_no_figure_beyond_a_hundred_forwards_and_a_second(clock):
    assert clock(0.02, 1.99).measure(seconds=1).memory_mb is not None
    assert clock(0.001, 0.99).measure(seconds=1).memory_mb is not None
    assert clock(0.02, 2.01).measure(seconds=1).memory_mb is None


def test_measuring_memory_writes_nothing_to_the_shell(memory_of, images, capfd, monkeypatch):
    monkeypatch.delenv("KINETO_LOG_LEVEL", raising=False)
    memory_of(two_of_three, images)
    assert capfd.readouterr() == ("", "")
    assert "KINETO_LOG_LEVEL" not in cost.os.environ


# What is given back.


def test_random_states_modes_gradients_and_inputs_are_given_back(classifier, images):
    classifier.train()
    statistics = {name: value.clone() for name, value in classifier.state_dict().items()}

    def explain(inputs, target):
        assert not classifier.training
        torch.rand(1), torch.rand(1, device=inputs.device), np.random.rand(), random.random()
        inputs.requires_grad_()
        classifier(inputs).sum().backward()
        with torch.no_grad():
            return inputs.mul_(2)

    kept = images.clone()
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    measure_cost(explain, classifier, images, torch.tensor([0, 1]), seconds=1e-6)
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
    assert classifier.training and all(p.grad is None for p in classifier.parameters())
    assert all(torch.equal(v, statistics[n]) for n, v in classifier.state_dict().items())
    assert torch.equal(images, kept) and not images.requires_grad


def test_all_is_given_back_when_the_method_raises(classifier, images):
    def explain(inputs, target):
        torch.rand(1), np.random.rand(), random.random()
        raise KeyError("halfway")

    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    with pytest.raises(KeyError, match="halfway"):
        measure_cost(explain, classifier, images, torch.tensor([0, 1]))
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
    assert classifier.training


def test_the_forward_runs_without_gradients_and_the_method_with_them(images):
    seen = {}
    with torch.no_grad():
        measure_cost(
            lambda inputs, target: seen.update(method=torch.is_grad_enabled()),
            lambda inputs: seen.update(forward=torch.is_grad_enabled()),
            images,
            torch.tensor([0, 1]),
            seconds=1e-6,
        )
    assert seen == {"forward": False, "method": True}


def test_masking_saliency_and_a_captum_method_can_be_measured(device, images):
    model = MaskingModel(cnn().to(device).eval())
    for attribution in (MaskingSaliency(model), Saliency(model.classifier)):
        found = measure_cost(
            lambda x, t, a=attribution: a.attribute(x.requires_grad_(), target=t),
            model.classifier,
            images,
            torch.tensor([0, 1]),
            seconds=0.01,
        )
        assert found.forwards > 0 and found.ms > 0 and found.memory_mb > 0


# What is refused.


@pytest.mark.parametrize("seconds", [0, -1.0, math.nan, math.inf])
def test_seconds_that_are_not_positive_are_refused(clock, seconds):
    with pytest.raises(ValueError, match="seconds must be a positive number"):
        clock(0.1, 0.1).measure(seconds=seconds)


def test_a_batch_without_images_is_refused(clock):
    with pytest.raises(ValueError, match="at least one image"):
        clock(0.1, 0.1).measure(count=0)
