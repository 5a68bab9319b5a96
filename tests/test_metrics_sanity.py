"""Promises of the sanity checks: similarities against other libraries, models given back whole."""

from __future__ import annotations

import math
import pickle
from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
from captum.attr import GuidedBackprop, Saliency
from networks import assert_same, cnn, everything, mixed_modes
from scipy import stats
from skimage.feature import hog
from skimage.metrics import structural_similarity
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from captum_masking import MaskingModel, MaskingSaliency
from captum_masking.data import labels_of
from captum_masking.metrics import MapSimilarity, min_max
from captum_masking.metrics import sanity as s

NAN = math.nan
every_similarity = pytest.mark.parametrize("name", s.SIMILARITIES)


@pytest.fixture
def maps():
    return torch.randn(4, 1, 50, 70, dtype=torch.float64)


@pytest.fixture
def others(maps):
    return maps + torch.randn_like(maps)


def rows_of(*tensors):
    return zip(*(tensor.flatten(1).numpy() for tensor in tensors), strict=True)


def planes_of(*tensors):
    return zip(*(tensor[:, 0].numpy() for tensor in tensors), strict=True)


# Similarities.


@pytest.mark.parametrize("round_to", [None, 1], ids=["no ties", "ties"])
def test_spearman_agrees_with_scipy(maps, others, round_to):
    if round_to:
        maps, others = maps.round(decimals=0), others.round(decimals=0)
    expected = [stats.spearmanr(a, b).statistic for a, b in rows_of(maps, others)]
    torch.testing.assert_close(s.spearman(maps, others), torch.tensor(expected).float())


@pytest.mark.parametrize("center", [0.0, 0.5])
def test_absolute_spearman_agrees_with_scipy_on_distances(maps, others, center):
    pairs = rows_of((maps - center).abs(), (others - center).abs())
    expected = torch.tensor([stats.spearmanr(a, b).statistic for a, b in pairs]).float()
    torch.testing.assert_close(s.absolute_spearman(maps, others, center=center), expected)


@pytest.mark.parametrize("window_px", [5, 7])
def test_ssim_agrees_with_scikit_image(maps, others, window_px):
    def by_library(pairs):
        values = [structural_similarity(a, b, win_size=window_px, data_range=1.0) for a, b in pairs]
        return torch.tensor(values).float()

    pairs = planes_of(min_max(maps), min_max(others))
    torch.testing.assert_close(s.ssim(maps, others, window_px=window_px), by_library(pairs))
    masks, other_masks = maps.sigmoid(), others.sigmoid()
    as_they_are = s.ssim(masks, other_masks, window_px=window_px, value_range=1.0)
    torch.testing.assert_close(as_they_are, by_library(planes_of(masks, other_masks)))


def test_ssim_of_one_window_is_worked_by_hand():
    point = torch.zeros(1, 5, 5)
    point[0, 1, 2] = 8.0  # scaled to 1: mean 1 / 25, sample variance (1 / 25 - 1 / 625) 25 / 24
    expected = 1e-4 / (1 / 625 + 1e-4) * 9e-4 / (1 / 25 + 9e-4)
    torch.testing.assert_close(s.ssim(point, 0 * point), torch.tensor([expected]))


@pytest.mark.parametrize("cell_px, block_cells", [(16, 3), (8, 2), (7, 1), (None, 3)])
def test_hog_features_agree_with_scikit_image(maps, cell_px, block_cells):
    cells = (cell_px or 16,) * 2
    expected = [
        hog(plane, pixels_per_cell=cells, cells_per_block=(block_cells,) * 2)
        for (plane,) in planes_of(maps)
    ]
    # Its cells are single precision.
    features = s.hog_features(maps, cell_px=cell_px, block_cells=block_cells)
    np.testing.assert_allclose(features.numpy(), np.stack(expected), atol=1e-6)


@pytest.mark.parametrize("side, cell", [(224, 16), (48, 16), (47, 15), (8, 2), (3, 1)])
def test_hog_similarity_agrees_with_scikit_image_also_with_small_maps(side, cell):
    maps = torch.rand(2, 2, side, side, dtype=torch.float64)
    pairs = planes_of(*(min_max(m).unsqueeze(1) for m in maps))
    features = [[hog(p, pixels_per_cell=(cell, cell)) for p in pair] for pair in pairs]
    expected = [np.corrcoef(*pair)[0, 1] for pair in features]
    torch.testing.assert_close(s.hog_similarity(*maps), torch.tensor(expected).float())


@every_similarity
def test_a_degenerate_map_has_the_documented_value(name):
    something = torch.rand(5, 1, 16, 16)
    maps, others = something.clone(), something.clone()
    maps[1] = 0.3  # against something
    maps[2], others[2] = 0.3, 0.9  # against another constant
    maps[3, 0, 0, 0] = NAN
    others[4, 0, 0, 0] = math.inf
    values = s.SIMILARITIES[name](maps, others)
    constant = s.ssim(torch.zeros(1, 16, 16), others[1])[0] if name == "ssim" else 0.0
    expected = torch.tensor([1.0, constant, 1.0, NAN, NAN])
    torch.testing.assert_close(values, expected, equal_nan=True)


@every_similarity
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 2), (4, 3)], ids=str)
def test_the_smallest_maps_have_a_value(name, shape):
    maps = torch.rand(3, *shape)
    values = s.SIMILARITIES[name](maps, maps.flip(0))
    assert values.isfinite().all() and (values.abs() <= 1).all()
    torch.testing.assert_close(s.SIMILARITIES[name](maps, maps), torch.ones(3))


@every_similarity
def test_a_similarity_is_symmetric_and_blind_to_scale(name, maps, others):
    similarity = s.SIMILARITIES[name]
    values = similarity(maps, others)
    assert (values > 0).all() and (values < 0.9).all()
    torch.testing.assert_close(similarity(others, maps), values)
    offset = 0 if name == "absolute_spearman" else -7  # an offset moves its center
    torch.testing.assert_close(similarity(5 * maps + offset, others), values)


@every_similarity
def test_a_batch_is_compared_as_one_by_one_whatever_its_form(name, maps, others, device):
    similarity = s.SIMILARITIES[name]
    values = similarity(maps.to(device), others.to(device))
    assert (values.dtype, values.shape, values.device.type) == (torch.float32, (4,), device.type)
    singly = [similarity(maps[i : i + 1], others[i : i + 1, 0]) for i in range(4)]
    torch.testing.assert_close(values.cpu(), torch.cat(singly))
    half, other_half = maps.half(), others.half().requires_grad_()
    torch.testing.assert_close(
        similarity(half, other_half), similarity(half.double(), other_half.detach().double())
    )


@every_similarity
def test_maps_of_another_shape_are_refused(name):
    similarity = s.SIMILARITIES[name]
    with pytest.raises(ValueError, match=r"\(2, 3, 8, 8\); reduce an attribution over its channel"):
        similarity(torch.rand(2, 3, 8, 8), torch.rand(2, 1, 8, 8))
    with pytest.raises(ValueError, match=r"same shape, but got \(2, .*8\) and \(3, 8, 8\)"):
        similarity(torch.rand(2, 1, 8, 8), torch.rand(3, 8, 8))


def test_options_out_of_range_are_refused():
    maps = torch.rand(1, 8, 8)
    for options, said in [
        ({"window_px": 0}, "window_px must be at least 1"),
        ({"value_range": 0}, "None"),
    ]:
        with pytest.raises(ValueError, match=said):
            s.ssim(maps, maps, **options)
    for cell_px in (0, 9):
        with pytest.raises(ValueError, match=f"got {cell_px}; None chooses"):
            s.hog_features(maps, cell_px=cell_px)


# The accumulator.


def test_map_similarity_is_the_mean_over_finite_pairs_however_they_come(maps, others):
    maps[2, 0, 0, 0] = NAN
    values = s.compare_maps(maps, others)
    expected = {name: v[[0, 1, 3]].mean() for name, v in values.items()}
    expected["not_finite"] = torch.tensor(0.25)
    first, second = (pickle.loads(pickle.dumps(MapSimilarity())) for _ in range(2))
    first.update(maps[:1], others[:1])
    second.update(maps[1:], others[1:])
    first.merge_state(second)
    torch.testing.assert_close(first.compute(), expected)
    assert {f.__name__ for f in first._reductions.values()} == {"dim_zero_sum"}


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_map_similarity_without_a_finite_pair_is_refused():
    metric = MapSimilarity()
    metric.update(torch.full((1, 8, 8), NAN), torch.rand(1, 8, 8))
    with pytest.raises(RuntimeError, match="all 1 images had NaN.*call update"):
        metric.compute()


def test_map_similarity_prints_what_rebuilds_it_and_can_be_plotted(maps):
    chosen = {"ssim": partial(s.ssim, window_px=7), "spearman": s.spearman}
    metric = MapSimilarity(similarities=chosen)
    again = eval(repr(metric), {**vars(s), "partial": partial, "MapSimilarity": MapSimilarity})
    assert repr(again) == repr(metric) and "window_px=7" in repr(metric)
    again.update(maps, maps)
    assert list(again.compute()) == ["ssim", "spearman", "not_finite"]
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("Agg")
    figure, _ = again.plot()
    pyplot.close(figure)


# Random weights.


def test_randomize_draws_what_building_the_layer_draws():
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Linear(3, 4))
    network[1](torch.rand(2, 3, 5, 5))  # moves its statistics
    s.randomize(network, seed=5)
    torch.manual_seed(5)
    fresh = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Linear(3, 4))
    assert_same(fresh.state_dict(), network.state_dict())


def test_a_module_without_reset_parameters_is_drawn_by_the_documented_rule():
    module = nn.Module()
    module.matrix = nn.Parameter(torch.full((300, 25), 9.0))
    module.vector = nn.Parameter(torch.full((400,), 9.0), requires_grad=False)
    module.number = nn.Parameter(torch.tensor(9.0))
    s.randomize(module)
    for values, bound in [(module.matrix, 25**-0.5), (module.vector, 400**-0.5)]:
        assert 0.9 * bound < values.abs().max() <= bound
        torch.testing.assert_close(values.std(), torch.tensor(bound / 3**0.5), rtol=0.1, atol=0)
    assert module.number.abs() <= 1 and not module.vector.requires_grad


def test_layers_are_the_modules_that_own_parameters_in_their_order():
    network = nn.Sequential(nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()), nn.Linear(2, 2))
    network[1].inner = nn.Linear(2, 2)
    shared = nn.Sequential(network, network[1])
    assert list(s.layers_of(network)) == ["0.0", "1", "1.inner"]
    assert list(s.layers_of(shared)) == ["0.0.0", "0.1", "0.1.inner"]
    staged = s.layers_of(network, depth=1)
    assert {name: len(parts) for name, parts in staged.items()} == {"0": 1, "1": 2}
    assert list(s.layers_of(network, depth=1, prefix="a.b")) == ["a.b.0", "a.b.1"]
    assert list(s.layers_of(nn.Linear(1, 1), prefix="classifier")) == ["classifier"]


def test_classifier_and_masker_layers_share_nothing_and_are_the_whole_model(model):
    parts = [
        *s.layers_of(model.classifier, prefix="classifier").items(),
        *s.layers_of(model.masker, prefix="masker").items(),
    ]
    assert {name.split(".")[0] for name, _ in parts} == {"classifier", "masker"}
    for name, modules in parts:
        assert modules == (model.get_submodule(name),)
    owned = [p for _, (module,) in parts for p in module.parameters(recurse=False)]
    assert len(owned) == len(set(owned)) and set(owned) == set(model.parameters())


class Watched:
    """Maps that show which layers of a network are no longer as they were."""

    def __init__(self, network: nn.Module) -> None:
        self.network, self.trained = network, deepcopy(network.state_dict())
        self.changed: list[set[str]] = []
        self.weights: list[dict] = []

    def __call__(self):
        now = self.network.state_dict()
        changed = {k for k, v in now.items() if not torch.equal(v, self.trained[k])}
        self.changed.append({k.rsplit(".", 1)[0] for k in changed})
        self.weights.append(deepcopy(now))
        return torch.stack([v.flatten()[:4].reshape(2, 2) for v in now.values()])


def chain():
    return nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(3)))


def test_cascading_randomizes_from_the_last_layer_down_and_independent_one_at_a_time():
    network = chain()
    watched, alone = Watched(network), Watched(network)
    found = s.cascading(network, watched, seed=3)
    found_alone = s.independent(network, alone, seed=3)
    assert list(found) == list(found_alone) == ["2", "1", "0"]
    assert watched.changed == [set(), {"2"}, {"2", "1"}, {"2", "1", "0"}]
    assert alone.changed == [set(), {"2"}, {"1"}, {"0"}]
    for step, name in enumerate(found, start=1):  # the same weights either way
        key = f"{name}.weight"
        assert torch.equal(watched.weights[step][key], alone.weights[step][key])
    # Images here are layers: after one step only the last is another map.
    torch.testing.assert_close(found["2"]["spearman"][:2], torch.ones(2))
    before, after = watched.trained["2.weight"][0], watched.weights[1]["2.weight"][0]
    expected = stats.spearmanr(before, after).statistic
    torch.testing.assert_close(found["2"]["spearman"][2], torch.tensor(expected).float())


def test_a_layer_can_be_a_module_with_all_that_is_in_it():
    network = nn.Sequential(chain(), nn.Linear(4, 4, bias=False))
    watched = Watched(network)
    assert list(s.independent(network, watched, layers={"all three": network[0]})) == ["all three"]
    assert watched.changed == [set(), {"0.0", "0.1", "0.2"}]


def test_another_seed_draws_other_weights_and_each_layer_its_own():
    network = chain()
    runs = []
    for seed in (0, 0, 1):
        watched = Watched(network)
        s.cascading(network, watched, seed=seed)
        runs.append(watched.weights[-1])
    assert_same(runs[0], runs[1])
    assert not torch.equal(runs[0]["0.weight"], runs[2]["0.weight"])
    assert not torch.equal(runs[0]["0.weight"], runs[0]["1.weight"])


class Careless:
    """Maps by someone who leaves everything lying about, and at last raises."""

    def __init__(self, network: nn.Module, images, runs: int) -> None:
        self.network, self.images, self.runs = network, images, runs

    def __call__(self):
        self.runs -= 1
        self.network.train()
        part = next(p for p in self.network.modules() if isinstance(p, nn.BatchNorm2d))
        part.register_forward_hook(lambda *_: None)
        part.register_forward_pre_hook(lambda *_: None)
        self.network.requires_grad_(True)
        images = self.images.clone().requires_grad_()
        self.network(images).sum().backward()  # statistics move, gradients gather
        part.running_mean = part.running_mean + 1  # another tensor
        if self.runs < 0:
            raise ArithmeticError("no map")
        return images.grad.sum(1) * torch.rand(())


@pytest.mark.parametrize("check", [s.cascading, s.independent])
@pytest.mark.parametrize("runs", [99, 2, 0], ids=["to the end", "raises halfway", "raises first"])
def test_the_model_and_the_random_state_are_given_back_bit_by_bit(check, runs, images):
    network = mixed_modes(cnn())
    some = [p for p in network.parameters() if p.requires_grad][0]
    some.grad = torch.rand_like(some)
    before, tensors = everything(network), [*network.parameters(), *network.buffers(), some.grad]
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    try:
        check(network, Careless(network, images, runs))
        assert runs == 99
    except ArithmeticError:
        assert runs < 99
    assert torch.equal(torch.rand(3), expected)
    assert_same(before, everything(network))
    after = [*network.parameters(), *network.buffers(), some.grad]
    assert all(a is b for a, b in zip(tensors, after, strict=True))


def test_a_random_method_draws_the_same_numbers_each_time():
    found = s.cascading(chain(), lambda: torch.rand(2, 1, 16, 16))
    for values in found.values():
        for value in values.values():
            torch.testing.assert_close(value, torch.ones(2))


@pytest.mark.filterwarnings("ignore:Input Tensor 0", "ignore:Setting backward hooks")
def test_a_map_that_ignores_the_model_does_not_change_and_one_that_reads_it_does(images):
    network = cnn().eval()
    edges = s.cascading(network, lambda: images.diff(dim=-1, append=images[..., :1]).sum(1))
    saliency = GuidedBackprop(network)
    maps = partial(saliency.attribute, images, target=0)
    guided = s.cascading(network, lambda: maps().sum(1))
    for name in s.layers_of(network):
        torch.testing.assert_close(edges[name]["hog"], torch.ones(6))
    first = next(iter(s.layers_of(network)))
    assert guided[first]["spearman"].abs().mean() < 0.5


@pytest.mark.parametrize(("layers", "reads_head"), [(["2", "5"], False), (None, True)])
def test_the_mask_changes_with_what_it_reads_and_not_with_a_head_that_it_does_not(
    classifier, images, layers, reads_head
):
    model = MaskingModel(classifier, layers, target_aware=False)
    saliency = MaskingSaliency(model)

    def maps():
        return saliency.attribute(images)[:, :1]

    by_masker = s.independent(model, maps, layers=s.layers_of(model.masker, prefix="masker"))
    by_classifier = s.independent(
        model, maps, layers=s.layers_of(model.classifier, prefix="classifier")
    )
    head = next(iter(by_classifier))  # the last layer comes first
    assert isinstance(model.get_submodule(head), nn.Linear)
    stays = torch.isclose(by_classifier[head]["spearman"], torch.ones(6), rtol=0, atol=1e-5)
    assert not stays.any() if reads_head else stays.all()
    assert (by_masker["masker.final"]["spearman"] < 0.99).all()
    assert (by_classifier["classifier.0"]["spearman"] < 0.99).all()


def test_a_model_that_goes_constant_or_infinite_is_told_apart(images):
    network = nn.Sequential(nn.Conv2d(3, 1, 1), nn.Conv2d(1, 1, 1, bias=False))

    def break_first(module):
        nn.init.constant_(module.weight, 0.0 if module is network[1] else NAN)

    found = s.cascading(network, lambda: network(images).detach(), rule=break_first)
    torch.testing.assert_close(found["1"]["spearman"], torch.zeros(6))
    assert found["0"]["spearman"].isnan().all()


def test_what_cannot_be_randomized_is_refused(images):
    network = chain()
    with pytest.raises(ValueError, match="got none; layers_of"):
        s.cascading(network, Watched(network), layers={})
    with pytest.raises(ValueError, match=r"\['0'\]"):
        s.independent(network, Watched(network), layers={"0": [nn.Linear(1, 1)]})
    with pytest.raises(ValueError, match="ReLU has none"):
        s.cascading(nn.ReLU(), lambda: images)
    with pytest.raises(ValueError, match="depth must be at least 1"):
        s.layers_of(network, depth=0)
    saliency, images = Saliency(cnn()), images.requires_grad_()
    with pytest.raises(ValueError, match="reduce an attribution over its channels"):
        s.cascading(saliency.forward_func, lambda: saliency.attribute(images, target=0))


def test_a_sampler_with_a_parameter_belongs_to_neither():
    from captum_masking.parts.sampler import GumbelSigmoid

    model = MaskingModel(cnn(), sampler=GumbelSigmoid(learnable=True))
    names = {
        *s.layers_of(model.classifier, prefix="classifier"),
        *s.layers_of(model.masker, prefix="masker"),
    }
    assert set(s.layers_of(model)) - names == {"sampler"}


# Random labels.


def pictures(labels):
    return TensorDataset(torch.arange(float(len(labels)))[:, None], torch.tensor(labels))


def test_permuted_labels_keep_their_counts_and_the_images_their_places():
    labels = [7] * 90 + [3] * 10
    state = torch.get_rng_state()
    found = s.shuffled_labels(pictures(labels), seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert sorted(found.labels) == sorted(labels) and found.labels != labels
    assert s.shuffled_labels(pictures(labels), seed=1).labels == found.labels
    assert s.shuffled_labels(pictures(labels), seed=2).labels != found.labels
    assert labels_of(found) == found.labels
    ((images, given),) = DataLoader(found, batch_size=100)
    assert torch.equal(images[:, 0], torch.arange(100.0)) and given.tolist() == found.labels


def test_published_labels_are_uniform_over_the_classes_that_occur():
    found = s.shuffled_labels(pictures([7] * 900 + [3] * 100), published=True).labels
    assert set(found) == {3, 7}
    assert abs(found.count(3) - 500) < 4 * (1000 / 4) ** 0.5  # four standard deviations


@pytest.mark.parametrize("published", [True, False])
def test_shuffled_labels_say_nothing_about_the_true_ones(published):
    labels = [i % 4 for i in range(2000)]
    found = s.shuffled_labels(pictures(labels), published=published).labels
    kept = sum(a == b for a, b in zip(labels, found, strict=True))
    assert abs(kept - 500) < 4 * (2000 * 3 / 16) ** 0.5


def test_other_labels_leave_the_rest_of_an_item_alone():
    dataset = TensorDataset(torch.zeros(2, 1), torch.tensor([0, 1]), torch.tensor([5, 6]))
    assert s.Relabeled(dataset, [9, 8])[1][1:] == (8, torch.tensor(6))
    with pytest.raises(ValueError, match="got 1 for 2 images"):
        s.Relabeled(dataset, [9])
