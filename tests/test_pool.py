"""Past classifiers: real copies, as many as asked for, drawn as often as asked for."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from networks import cnn, same_weights
from torch import nn

from captum_masking.parts.pool import History, Latest, OneJudge, Pool


def constant(value: float) -> nn.Linear:
    """A network that knows only one number, so that its copies can be told apart."""
    network = nn.Linear(1, 1)
    nn.init.constant_(network.weight, value)
    return network


def number(network: nn.Module) -> float:
    return network.weight.item()


def grow(pool: Pool, steps: int) -> nn.Linear:
    """Train for some steps: the weight is the number of the step, from 0."""
    network = constant(0.0)
    for step in range(steps):
        nn.init.constant_(network.weight, step)  # in place, as optimizers do
        pool.add(network)
    return network


def drawn(pool: Pool, times: int) -> Counter:
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


def test_the_first_classifier_alone_stays_that_of_the_first_step():
    pool, network = History(every=None, past=1.0), constant(1.0)
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


def test_before_it_has_a_past_the_live_classifier_judges():
    pool, network = History(every=1, past=1.0, after=3), constant(1.0)
    judges = []
    for _ in range(5):
        pool.add(network)
        judges.append(pool.draw() is network)
    assert judges == [True, True, True, False, False]
    assert len(pool.members) == 5  # copies are kept from the first step on


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


# First and last.


def test_first_and_last_are_drawn_and_nothing_between():
    pool = History(every=None)
    network = grow(pool, steps=7)
    nn.init.constant_(network.weight, 99.0)
    counts = drawn(pool, 1200)
    # half of them each, give or take five standard deviations of sqrt(1200 / 4) = 17
    assert set(counts) == {0, 99} and abs(counts[0] - 600) < 87


def test_past_is_the_share_of_draws_that_are_the_first():
    pool = History(every=None, past=0.25)
    network = grow(pool, steps=3)
    live = sum(pool.draw() is network for _ in range(1200))
    assert abs(live - 900) < 75  # as for a history


@pytest.mark.parametrize("past, number_drawn", [(0.0, 4), (1.0, 0)])
def test_first_and_last_at_either_end_is_the_last_or_the_first_alone(past, number_drawn):
    pool = History(every=None, past=past)
    grow(pool, steps=5)
    assert set(drawn(pool, 50)) == {number_drawn}


# What a draw costs.


@pytest.mark.parametrize(
    "pool", [History(every=None, past=1.0), History(past=1.0, every=2, size=1)], ids=repr
)
def test_the_same_member_twice_in_a_row_is_loaded_once(pool, monkeypatch):
    loads, load = [], nn.Linear.load_state_dict

    def counted(module, *arguments):
        loads.append(module)
        return load(module, *arguments)

    monkeypatch.setattr(nn.Linear, "load_state_dict", counted)
    network = constant(1.0)
    pool.add(network)
    assert {number(pool.draw()) for _ in range(9)} == {1} and len(loads) == 1
    nn.init.constant_(network.weight, 2.0)
    pool.add(network)  # nothing is kept at the second step
    assert number(pool.draw()) == 1 and len(loads) == 1
    pool.add(network)  # a history has another member at the third, in the same place
    expected = 2 if pool.every else 1
    assert number(pool.draw()) == expected == len(loads)


def test_a_drawn_copy_holds_no_gradients():
    pool, network = History(past=1.0), constant(1.0)
    network(torch.ones(1, 1)).sum().backward()
    pool.add(network)
    assert all(parameter.grad is None for parameter in pool.draw().parameters())
    assert network.weight.grad is not None


# States.


def test_the_state_of_a_history_holds_its_copies_and_nothing_of_the_live_classifier():
    pool = History(size=30, every=4)
    grow(pool, steps=10)
    state = pool.state_dict()
    assert [state[f"members.{place}.weight"].item() for place in range(3)] == [0, 4, 8]
    assert set(state) - {f"members.{p}.{n}" for p in range(3) for n in ("weight", "bias")} == {
        *("steps", "kept", "random"),
    }


def test_the_state_of_a_classifier_with_tied_and_strided_weights_shares_no_memory():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3))
    network.to(memory_format=torch.channels_last)
    network[1].weight = network[0].weight
    pool = History()
    pool.add(network)
    one, other = (pool.state_dict()[f"members.0.{index}.weight"] for index in range(2))
    assert one.is_contiguous() and one.data_ptr() != other.data_ptr() and torch.equal(one, other)


def test_a_small_history_refuses_the_state_of_a_larger_one():
    large, small = History(size=30, every=1), History(size=2, every=1)
    grow(large, steps=2)
    small.load_state_dict(large.state_dict())  # two fit
    grow(large, steps=1)
    before = small.state_dict()
    with pytest.raises(ValueError, match=r"at most 2 past.*but got 3.*size=3 or more"):
        small.load_state_dict(large.state_dict())
    assert small.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items())


def test_a_history_refuses_a_state_with_a_weight_missing():
    pool = History(every=1)
    grow(pool, steps=3)
    state = pool.state_dict()
    del state["members.1.bias"]
    with pytest.raises(ValueError, match=r"state of a History pool.*'members\.1\.bias'"):
        History().load_state_dict(state)


@pytest.mark.parametrize("lost", ["steps", "kept", "random"])
def test_a_state_without_what_decides_who_is_drawn_is_refused(lost):
    pool = History()
    grow(pool, steps=1)
    state = pool.state_dict()
    del state[lost]
    with pytest.raises(ValueError, match=rf"state of a History pool.*'{lost}'"):
        History().load_state_dict(state)


def test_a_state_with_a_broken_generator_is_refused():
    pool = History()
    grow(pool, steps=1)
    state = {**pool.state_dict(), "random": torch.zeros(3)}
    with pytest.raises(ValueError, match="random generator.*unchanged"):
        History().load_state_dict(state)


@pytest.mark.parametrize("every", [100, None])
def test_a_pool_restored_for_another_classifier_says_so_when_it_is_drawn_from(every):
    pool, fresh = History(every=every, past=1.0), History(every=every, past=1.0)
    grow(pool, steps=1)
    fresh.load_state_dict(pool.state_dict())
    fresh.add(nn.Linear(7, 7))
    with pytest.raises(RuntimeError, match=r"another classifier.*new pool"):
        for _ in range(20):
            fresh.draw()


# Numbers at the door.


@pytest.mark.parametrize("past", [-0.1, 1.1, float("nan")])
def test_past_must_be_a_probability(past):
    with pytest.raises(ValueError, match=rf"past must be a probability.*but got {past}"):
        History(past=past)


@pytest.mark.parametrize("name", ["size", "every"])
@pytest.mark.parametrize("count", [0, -3, 1.5])
def test_size_and_every_must_be_whole_numbers_from_one(name, count):
    kind = TypeError if isinstance(count, float) else ValueError
    with pytest.raises(kind, match=rf"{name} must be a whole number >= 1, but got {count}"):
        History(**{name: count})


# Another network as the judge.


def test_another_judge_is_drawn_always_and_goes_on_from_its_weights():
    judge, classifier = constant(2.0), constant(1.0)
    pool, fresh = OneJudge(judge), OneJudge(constant(5.0))
    pool.add(classifier)
    assert pool.draw() is judge
    fresh.load_state_dict(pool.state_dict())
    assert number(fresh.draw()) == number(judge)
    with pytest.raises(ValueError, match="state of a OneJudge pool"):
        fresh.load_state_dict({})
