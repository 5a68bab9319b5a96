"""Is it still the same classifier? Oracles by hand, slow copies of the formulas, and no trace."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from networks import assert_same, cnn, everything, mixed_modes
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from captum_masking.metrics import barrier, connectivity, convexity_gap


def linear(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double()


def batches(count: int = 3, size: int = 8, classes: int = 3, side: int = 2, seed: int = 5) -> list:
    torch.manual_seed(seed)
    return [
        (torch.randn(size, 3, side, side).double(), torch.randint(classes, (size,)))
        for _ in range(count)
    ]


PICTURES = batches(classes=4, side=16)


def pair(**options) -> tuple[nn.Module, nn.Module]:
    """Two classifiers with batch norm whose weights and statistics both differ."""
    first, second = (cnn(seed=seed, **options).double() for seed in (0, 1))
    for network in (first, second):
        for images, _ in PICTURES:
            network.train()(images)
    return first.eval(), second.eval()


# Losses: worked by hand, and held against a slow loop.


@pytest.mark.parametrize(
    ("losses", "height", "gap"),
    [
        ([0, 1, 0], 1, 1),
        ([0, 0, 1, 0, 2], 0, 1),
        ([0, 1, 1, 3], 0, 1 / 2),
        ([3, 1, 0, 1 / 2, 3], 0, 0),
        ([2, 2], 0, 0),
        ([1, 5, 3], 3, 3),
    ],
)
def test_barrier_and_gap_of_losses_worked_by_hand(losses, height, gap):
    assert barrier(losses) == pytest.approx(height)
    assert convexity_gap(losses) == pytest.approx(gap)


@pytest.mark.parametrize(
    ("losses", "chord", "mean_of_ends"), [([0, 1, 2], 0, 1), ([0, 3, 2], 2, 2), ([4, 0, 0], 0, 2)]
)
def test_a_plain_slope_has_a_barrier_above_the_mean_of_its_ends_alone(losses, chord, mean_of_ends):
    assert barrier(losses) == pytest.approx(chord)
    assert barrier(losses, above="mean_of_ends") == pytest.approx(mean_of_ends)


def slow_barrier(losses: list[float]) -> float:
    last = len(losses) - 1
    rises = [
        loss - ((1 - i / last) * losses[0] + i / last * losses[-1]) for i, loss in enumerate(losses)
    ]
    return max(0.0, *rises)


PATHS = torch.rand(20, 9, generator=torch.Generator().manual_seed(0)).tolist()


@pytest.mark.parametrize("losses", PATHS)
def test_both_are_the_formulas(losses):
    parts = [losses[i : j + 1] for i, j in itertools.combinations(range(len(losses)), 2)]
    assert barrier(losses) == pytest.approx(slow_barrier(losses))
    assert convexity_gap(losses) == pytest.approx(max(map(slow_barrier, parts)))


@pytest.mark.parametrize("losses", PATHS)
def test_the_gap_is_no_less_and_neither_knows_direction_or_slope(losses):
    sloped = [3 + 7 * i + loss for i, loss in enumerate(losses)]
    assert convexity_gap(losses) >= barrier(losses)
    for height in (barrier, convexity_gap):
        assert height(losses[::-1]) == pytest.approx(height(losses))
        assert height(sloped) == pytest.approx(height(losses), abs=1e-9)


@pytest.mark.parametrize("losses", [[1.0], [], [[0.0, 1.0]]])
def test_less_than_a_line_has_no_barrier(losses):
    with pytest.raises(ValueError, match="two or more numbers in a row"):
        barrier(losses)


def test_a_ground_that_is_not_known_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match="above must be one of .'chord', 'mean_of_ends'."):
        barrier([0, 1], above="floor")


# Networks.


@pytest.mark.parametrize("buffers", ["estimate", "interpolate", "first"])
def test_between_a_network_and_itself_there_is_nothing(buffers):
    network, _ = pair()
    found = connectivity(network, copy.deepcopy(network), PICTURES, buffers=buffers)
    assert found.barrier == found.convexity_gap == found.changed == 0
    assert len(set(found.losses.tolist())) == 1 and found.before == found.after
    assert found.examples == 24


def test_losses_convex_in_the_weights_have_no_barrier():
    found = connectivity(linear(0), linear(1), batches())
    assert found.barrier == pytest.approx(0, abs=1e-12)
    assert found.convexity_gap == pytest.approx(0, abs=1e-12)
    assert found.changed > 0 and found.losses[0] != found.losses[-1]


def test_hidden_units_in_another_order_are_the_same_network_behind_a_barrier():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    data = [(images, network(images).argmax(1)) for images, _ in batches()]
    other, order = copy.deepcopy(network), torch.arange(8).roll(3)
    with torch.no_grad():
        other[1].weight.copy_(network[1].weight[order])
        other[1].bias.copy_(network[1].bias[order])
        other[3].weight.copy_(network[3].weight[:, order])
    found = connectivity(network, other, data)
    torch.testing.assert_close(found.losses[0], found.losses[-1])
    assert found.changed == 0 and found.before == found.after == 1
    assert found.barrier > 0.01


def mixed(first: nn.Module, second: nn.Module, t: float, *, of: set[str]) -> nn.Module:
    """Half-way networks again, written from the formula; what is not named is the first's."""
    network, ends = copy.deepcopy(first), (first.state_dict(), second.state_dict())
    for name, value in network.state_dict().items():
        if name in of:
            value.copy_((1 - t) * ends[0][name] + t * ends[1][name])
    return network


@torch.no_grad()
def measured(network: nn.Module, data: list) -> tuple[float, float]:
    logits = torch.cat([network(images) for images, _ in data])
    labels = torch.cat([labels for _, labels in data])
    right = (logits.argmax(1) == labels).double().mean()
    return float(cross_entropy(logits, labels)), float(right)


@torch.no_grad()
def estimated(network: nn.Module, data: list) -> nn.Module:
    """PyTorch's own recalculation, which weighs batches alike: here they are of one size."""
    network.eval()
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.train().reset_running_stats()
        norm.momentum = None
    for images, _ in data:
        network(images)
    return network.eval()


@pytest.mark.parametrize("buffers", ["estimate", "interpolate", "first"])
def test_losses_and_accuracies_are_those_of_networks_mixed_by_hand(buffers):
    first, second = pair()
    weights = {name for name, _ in first.named_parameters()}
    floating = {name for name, value in first.state_dict().items() if value.is_floating_point()}
    found = connectivity(first, second, PICTURES, points=4, buffers=buffers)
    for place, t in enumerate((0, 1 / 3, 2 / 3, 1)):
        network = mixed(first, second, t, of=weights if buffers == "first" else floating)
        network = estimated(network, PICTURES) if buffers == "estimate" else network
        loss, accuracy = measured(network, PICTURES)
        assert found.losses[place].item() == pytest.approx(loss)
        assert found.accuracies[place].item() == pytest.approx(accuracy)


@pytest.mark.parametrize("buffers", ["estimate", "interpolate", "first"])
def test_before_after_and_changed_are_of_the_networks_as_they_are(buffers):
    first, second = pair()
    found = connectivity(first, second, PICTURES, buffers=buffers)
    said = [torch.cat([each(x).argmax(1) for x, _ in PICTURES]) for each in (first, second)]
    assert found.before == pytest.approx(measured(first, PICTURES)[1])
    assert found.after == pytest.approx(measured(second, PICTURES)[1])
    assert found.changed == pytest.approx((said[0] != said[1]).double().mean().item())


def test_statistics_weigh_examples_and_not_batches():
    network = nn.Sequential(nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
    images, labels = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    uneven = [(images[:20], labels[:20]), (images[20:], labels[20:])]
    found = connectivity(network, copy.deepcopy(network), uneven, points=2)
    network.eval()[0].running_mean.copy_(images.mean((0, 2, 3)))
    parts = images[:20].var((0, 2, 3)), images[20:].var((0, 2, 3))
    network[0].running_var.copy_((20 * parts[0] + 4 * parts[1]) / 24)
    assert found.losses[0].item() == pytest.approx(measured(network, uneven)[0])


class Tied(nn.Module):
    """One matrix forth and back, a whole number that is no weight, and a constant."""

    def __init__(self, seed: int, count: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.forth = nn.Linear(3, 3, bias=False).double()
        self.back = nn.Linear(3, 3, bias=False).double()
        self.back.weight = self.forth.weight
        self.register_buffer("count", torch.tensor(count))
        self.register_buffer("scale", torch.tensor(float(count)).double())

    def forward(self, inputs: Tensor) -> Tensor:
        assert self.count.dtype == torch.int64 and self.count in (10, 20)
        return self.back(self.forth(inputs.mean((2, 3))).relu()) * self.scale


def test_tied_weights_move_once_and_whole_numbers_not_at_all():
    first, second, data = Tied(0, 10), Tied(1, 20), batches()
    found = connectivity(first, second, data, points=3, buffers="interpolate")
    half = copy.deepcopy(first)
    with torch.no_grad():
        half.forth.weight.copy_((first.forth.weight + second.forth.weight) / 2)
        half.scale.fill_(15.0)
    assert found.losses[1].item() == pytest.approx(measured(half, data)[0])


def test_a_state_kept_from_before_does_for_the_first_network():
    first, second = pair()
    by_state = connectivity(copy.deepcopy(first.state_dict()), second, PICTURES, points=3)
    by_network = connectivity(first, second, PICTURES, points=3)
    assert_same(by_state.losses, by_network.losses)


def test_wrapped_in_data_parallel_they_are_the_same():
    first, second = pair()
    found = connectivity(nn.DataParallel(first), second, PICTURES, points=3)
    assert_same(found.losses, connectivity(first, second, PICTURES, points=3).losses)


def test_at_most_so_many_examples_are_read():
    first, second = linear(0), linear(1)
    found = connectivity(first, second, batches(3, 8), examples=10)
    images, labels = (torch.cat(parts)[:10] for parts in zip(*batches(3, 8), strict=True))
    assert found.examples == 10
    assert found.losses[0].item() == pytest.approx(measured(first, [(images, labels)])[0])


def test_answers_in_an_object_and_probabilities_are_read():
    class Answer(nn.Sequential):
        def forward(self, inputs: Tensor) -> dict[str, Tensor]:
            return {"logits": super().forward(inputs)}

    first, second = linear(0), linear(1)
    plain = connectivity(first, second, batches(), points=3)
    objects = connectivity(
        Answer(*first), Answer(*second), batches(), points=3, to_logits=lambda a: a["logits"]
    )
    assert_same(objects.losses, plain.losses)
    with pytest.warns(UserWarning, match="returns probabilities"):
        softmax = [nn.Sequential(*network, nn.Softmax(1)) for network in (first, second)]
        found = connectivity(*softmax, batches(), points=3)
    torch.testing.assert_close(found.losses, plain.losses)


def test_several_inputs_reach_the_network():
    class Both(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, inputs: Tensor, scale: Tensor) -> Tensor:
            return self.network(inputs) * scale[:, None]

    data = [((images, torch.ones(8).double()), labels) for images, labels in batches()]
    found = connectivity(Both(linear(0)), Both(linear(1)), data, points=3)
    assert_same(found.losses, connectivity(linear(0), linear(1), batches(), points=3).losses)


# No trace, and errors in words.


@pytest.mark.parametrize("buffers", ["estimate", "interpolate", "first"])
def test_nothing_is_left_on_networks_and_random_numbers(buffers):
    first, second = (mixed_modes(network) for network in pair())
    for parameter in [*first.parameters(), *second.parameters()]:
        parameter.grad = torch.randn_like(parameter) if parameter.requires_grad else None
    images, labels = (torch.cat(parts) for parts in zip(*PICTURES, strict=True))
    loader = DataLoader(TensorDataset(images, labels), 8, shuffle=True)
    before, numbers = [everything(first), everything(second)], torch.get_rng_state()
    connectivity(first, second, loader, points=3, buffers=buffers)
    with pytest.raises(ValueError, match="labels must lie in 0..3"):
        connectivity(first, second, [(images, labels + 9)], points=3, buffers=buffers)
    assert_same(before, [everything(first), everything(second)])
    assert torch.equal(numbers, torch.get_rng_state())


def test_a_shuffled_loader_gives_all_points_the_same_examples():
    network, _ = pair()
    images, labels = (torch.cat(parts) for parts in zip(*PICTURES, strict=True))
    loader = DataLoader(TensorDataset(images, labels), 8, shuffle=True)
    found = connectivity(network, copy.deepcopy(network), loader, examples=8)
    assert len(set(found.losses.tolist())) == 1


def test_it_works_where_no_gradients_are_made():
    first, second = pair()
    with torch.inference_mode():
        found = connectivity(first, second, PICTURES, points=3)
    assert_same(found.losses, connectivity(first, second, PICTURES, points=3).losses)
    assert not found.losses.requires_grad


def other_classes() -> nn.Module:
    return cnn(classes=5)


def another_layer() -> nn.Module:
    return nn.Sequential(*cnn(), nn.Linear(4, 4))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (other_classes, r"2 of 16 differ .*first '9.weight': \(4, 8\) .* and \(5, 8\) in the"),
        (another_layer, r"2 of 18 differ .*first '10.weight': missing in the first"),
    ],
)
def test_networks_of_other_weights_are_refused_in_words(make, words):
    with pytest.raises(ValueError, match=words):
        connectivity(cnn(), make(), PICTURES)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"points": 1}, "points must be a whole number >= 2"),
        ({"buffers": "mean"}, "buffers must be one of .'estimate', 'interpolate', 'first'."),
        ({"loader": []}, "must give images to read"),
        ({"loader": iter(PICTURES)}, "must be readable 2 times"),
        ({"loader": [(images[:1], labels[:1]) for images, labels in PICTURES]}, "two or more"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_words(options, words):
    first, second = pair()
    with pytest.raises(ValueError, match=words):
        connectivity(first, second, **{"loader": PICTURES, **options})


def test_it_is_said_in_one_line():
    found = connectivity(linear(0), linear(0), batches())
    assert "\n" not in str(found)
    assert str(found).startswith("barrier 0.000 nats, 0.0% of the predictions changed, accuracy ")
    assert str(found).endswith("on 24 examples")
