"""Past classifiers: real copies, as many as asked for, drawn as often as asked for."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from networks import cnn, same_weights
from torch import nn

from captum_masking.pool import Fixed, History, Latest


def constant(value: float) -> nn.Linear:
    """A network that knows only one number, so that its copies can be told apart."""
    network = nn.Linear(1, 1)
    nn.init.constant_(network.weight, value)
    return network


def number(network: nn.Module) -> float:
    return network.weight.item()


def grow(pool: History, steps: int) -> nn.Linear:
    """Train for some steps: the weight is the number of the step, from 0."""
    network = constant(0.0)
    for step in range(steps):
        nn.init.constant_(network.weight, step)  # in place, as optimizers do
        pool.add(network)
    return network


def drawn(pool: History, times: int) -> Counter:
    return Counter(number(pool.draw()) for _ in range(times))


def test_latest_is_the_live_classifier_always():
    pool, network = Latest(), constant(1.0)
    pool.add(network)
    nn.init.constant_(network.weight, 2.0)
    assert pool.draw() is network and number(pool.draw()) == 2


def test_latest_follows_another_classifier():
    pool, other = Latest(), constant(2.0)
    pool.add(constant(1.0))
    pool.add(other)
    assert pool.draw() is other


def test_fixed_stays_the_classifier_of_the_first_step():
    pool, network = Fixed(), constant(1.0)
    pool.add(network)
    nn.init.constant_(network.weight, 2.0)
    pool.add(network)
    assert number(pool.draw()) == 1


def test_the_copies_of_history_differ_from_the_live_weights_once_those_have_moved():
    # In the published code they alias the live weights of a classifier on the CPU.
    pool = History(size=5, every=1, past=1.0)
    network = grow(pool, steps=3)
    nn.init.constant_(network.weight, 99.0)
    assert set(drawn(pool, 100)) == {0, 1, 2}


def test_history_copies_running_statistics_as_well():
    pool, network = History(every=100, past=1.0), cnn()
    before = cnn()
    pool.add(network)
    network.train()(torch.randn(8, 3, 16, 16) + 3)
    assert same_weights(pool.draw(), before) and not same_weights(pool.draw(), network)


def test_history_takes_a_copy_at_the_first_step_and_then_every_so_often():
    pool = History(size=30, every=4, past=1.0)
    grow(pool, steps=10)
    assert set(drawn(pool, 200)) == {0, 4, 8}


def test_history_never_holds_more_copies_than_its_size():
    pool = History(size=3, every=1, past=1.0)
    network = constant(0.0)
    for step in range(20):
        nn.init.constant_(network.weight, step)
        pool.add(network)
        assert len(drawn(pool, 60)) <= 3


def test_in_a_full_history_the_newest_copy_replaces_another():
    pool = History(size=3, every=1, past=1.0)
    network = grow(pool, steps=3)
    for step in range(3, 20):
        before = set(drawn(pool, 100))
        nn.init.constant_(network.weight, step)
        pool.add(network)
        after = set(drawn(pool, 100))
        assert step in after and len(after) == 3 and len(after - before) == 1


def test_in_the_long_run_every_place_of_a_full_history_is_replaced():
    pool = History(size=3, every=1, past=1.0)
    grow(pool, steps=60)  # a place survives 57 random replacements with probability (2/3)^57
    assert min(drawn(pool, 100)) > 2


def test_every_copy_is_drawn_about_equally_often():
    pool = History(size=4, every=1, past=1.0)
    grow(pool, steps=4)
    counts = drawn(pool, 2000)
    # 500 each, give or take five standard deviations of sqrt(2000 / 4 * 3 / 4) = 19
    assert len(counts) == 4 and all(abs(count - 500) < 97 for count in counts.values())


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_with_past_one_the_live_classifier_is_never_drawn(steps):
    pool = History(size=2, every=1, past=1.0)
    network = grow(pool, steps)
    assert all(pool.draw() is not network for _ in range(100))


def test_with_past_zero_the_live_classifier_is_always_drawn():
    pool = History(every=1, past=0.0)
    network = grow(pool, steps=3)
    assert all(pool.draw() is network for _ in range(100))


def test_past_is_the_share_of_draws_that_are_copies():
    pool = History(every=1, past=0.25)
    network = grow(pool, steps=3)
    live = sum(pool.draw() is network for _ in range(1200))
    assert abs(live - 900) < 75  # five standard deviations of sqrt(1200 / 4 * 3 / 4) = 15


def test_the_same_seed_draws_the_same_and_another_seed_something_else():
    def draws(seed: int) -> list[float]:
        pool = History(every=1, past=0.5, seed=seed)
        grow(pool, steps=5)
        return [number(pool.draw()) for _ in range(50)]

    assert draws(1) == draws(1) != draws(2)


def test_a_drawn_copy_lies_on_the_device_of_the_classifier(device):
    pool, network = History(past=1.0), cnn().to(device)
    pool.add(network)
    assert {p.device.type for p in pool.draw().parameters()} == {device.type}


def test_a_drawn_copy_keeps_its_weights_while_the_live_classifier_trains():
    pool, network = History(past=1.0), constant(1.0)
    pool.add(network)
    judge = pool.draw()
    nn.init.constant_(network.weight, 2.0)
    assert number(judge) == 1
