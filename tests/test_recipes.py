"""Promises about the recipes: constants as published, one change at a time, printed whole."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from networks import cnn
from torch import nn

from captum_masking import recipes
from captum_masking.parts import infill
from captum_masking.parts.inpainting import InpaintingNetwork, train_inpainter
from captum_masking.parts.masker import linear, nearest
from captum_masking.parts.objective import Classification, Dual, Entropy
from captum_masking.parts.pool import History, Latest
from captum_masking.recipes import ROWS, Setting, select
from captum_masking.training.update import parameters_of

pytestmark = pytest.mark.filterwarnings("ignore:the masker has collapsed")

CLASSES = 4  # of networks.cnn


@pytest.fixture(autouse=True)
def two_steps_of_inpainting(monkeypatch):
    """How well holes are filled is promised elsewhere; here the learned infill is learned fast."""
    quick = partial(train_inpainter, steps=2, network=InpaintingNetwork(3, width=4))
    monkeypatch.setattr(recipes, "train_inpainter", quick)


def five_stages() -> nn.Sequential:
    """A classifier with five resolutions, so that no two layer rows read the same."""
    widths = (3, 4, 5, 6, 7, 8)
    pairs = zip(widths, widths[1:], strict=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        stages = [nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.ReLU()) for a, b in pairs]
        head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))
        return nn.Sequential(*stages, *head)


def setting(seed: int = 0) -> Setting:
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    labels = [0, 1, 2, 3]
    return Setting(five_stages(), [(images, torch.tensor(labels))] * 2, labels, CLASSES)


@pytest.mark.parametrize("name", ROWS)
def test_every_row_trains_a_masker_and_prints_every_part_of_its_trainer(name):
    given = setting()
    trainer = ROWS[name].build(given)
    learning = parameters_of(trainer.masker_optimizer)
    before = [parameter.clone() for parameter in learning]
    (record,) = trainer.fit(given.loader, 1, show_progress=False)
    assert all(torch.tensor(value).isfinite() for value in record.values())
    assert any((a != b).any() for a, b in zip(before, learning, strict=True))
    printed = repr(trainer)
    for part in (trainer.infill, trainer.infill_out, trainer.objective, trainer.pool):
        assert repr(part) in printed
    assert repr(trainer.regularizer) in printed and trainer.model.recipe() in printed
    assert f"train_classifier={trainer.joint or False}" in printed and " at 0x" not in printed


@pytest.mark.parametrize("name", ROWS)
def test_only_rows_that_say_so_change_the_classifier(name):
    given = setting()
    before = {key: value.clone() for key, value in given.classifier.state_dict().items()}
    trainer = ROWS[name].build(given)
    trainer.fit(given.loader * 4, 1, show_progress=False)
    same = all(torch.equal(v, before[k]) for k, v in given.classifier.state_dict().items())
    assert same is (trainer.joint is None), name


def test_no_two_rows_print_the_same_recipe_unless_their_images_differ():
    torch.manual_seed(0)
    printed: dict[str, str] = {}
    for name, row in ROWS.items():
        text = f"{row.per_class} {row.class_step} {row.build(setting())!r}"
        assert text not in printed, f"{name} and {printed[text]} are the same"
        printed[text] = name


def test_fix_has_the_published_constants():
    trainer = recipes.fix(cnn())
    assert trainer.joint is None and isinstance(trainer.pool, Latest)
    area, variation = trainer.regularizer.terms
    assert (area.weight_in, area.weight_out) == (1.0, 10.0)
    assert (variation.weight, variation.border) == (0.002, 0.3)  # 0.001 on each of two sides
    model = trainer.model
    assert (model.stride, model.upsample, model.upsample_first) == (4, nearest, False)
    assert repr(trainer.objective) == repr(
        Dual(1.0, 1.0, inside=Classification(), outside=Entropy(gated=True))
    )
    (group,) = trainer.masker_optimizer.param_groups
    assert (group["lr"], group["weight_decay"], group["betas"]) == (1e-3, 1e-4, (0.9, 0.999))
    assert trainer.engine.max_gradient_norm == 10


@pytest.mark.parametrize(
    "recipe, pool", [(recipes.ca, History()), (recipes.ca_as_published, Latest())], ids=["ca", "as"]
)
def test_ca_has_the_published_constants(recipe, pool):
    trainer = recipe(cnn())
    area, variation = trainer.regularizer.terms
    assert (area.weight_in, area.weight_out, variation.weight) == (1.0, 15.0, 0.002)
    assert repr(trainer.pool) == repr(pool)
    (group,) = trainer.classifier.optimizer.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (1e-3, 0.9, 1e-4)
    assert trainer.joint.train_mode and trainer.joint.masker_first == 0


def test_the_pool_of_ca_has_the_published_constants():
    pool = recipes.ca(cnn()).pool
    assert (pool.size, pool.every, pool.past) == (30, 100, 0.5)


@pytest.mark.parametrize(
    "recipe, pool, weight, trained",
    [
        (recipes.zolna_f, Latest(), 2.5, False),
        (recipes.zolna_l, Latest(), 14.0, True),
        (recipes.zolna_fl, History(every=None), 7.5, True),
        (recipes.zolna_l100, History(every=100), 10.0, True),
        (recipes.zolna_l1000, History(every=1000), 10.0, True),
    ],
)
def test_the_predecessors_set_ups_have_their_constants(recipe, pool, weight, trained):
    trainer = recipe(cnn())
    assert repr(trainer.pool) == repr(pool) and (trainer.joint is not None) is trained
    assert (trainer.regularizer.weight_in, trainer.regularizer.weight_out) == (0.0, weight)
    assert trainer.objective.inside is None and repr(trainer.objective.outside) == repr(Entropy())
    assert recipe(cnn(), layers=["0"]).model.layers == ("0",)


def batch_norm_means(classifier: nn.Module) -> list[torch.Tensor]:
    return [m.running_mean.clone() for m in classifier.modules() if isinstance(m, nn.BatchNorm2d)]


def test_masked_images_move_batch_norm_statistics_in_ca_as_published_alone():
    # One step each on the same images: the clean pass moves the statistics alike, so what is
    # left between the two is what the masked images did.
    moved = []
    for recipe in (recipes.ca, recipes.ca_as_published):
        torch.manual_seed(0)
        classifier, inputs = cnn().eval(), torch.randn(4, 3, 16, 16)
        trainer = recipe(classifier)
        trainer.step(inputs, torch.arange(4))
        moved.append(batch_norm_means(classifier))
        clean = cnn().train()
        clean(inputs)
        same = all(
            torch.allclose(a, b) for a, b in zip(moved[-1], batch_norm_means(clean), strict=True)
        )
        assert same is (recipe is recipes.ca)


def test_ca_as_published_judges_with_the_live_classifier_alone():
    trainer = recipes.ca_as_published(cnn())
    judge = trainer.pool.draw
    for _ in range(8):
        trainer.step(torch.randn(4, 3, 16, 16), torch.arange(4))
        assert judge() is trainer.model.classifier


def test_a_recipe_takes_changes_to_the_model_and_to_the_trainer():
    for recipe in (recipes.frozen, recipes.joint, recipes.fix, recipes.ca, recipes.zolna_fl):
        trainer = recipe(cnn(), infill=infill.Blur(), lr=0.5, layers=["0"], upsample_first=True)
        (group,) = trainer.masker_optimizer.param_groups
        assert repr(trainer.infill) == repr(infill.Blur()) and group["lr"] == 0.5
        assert trainer.model.layers == ("0",) and trainer.model.upsample_first


def test_every_infill_that_needs_no_data_has_a_row():
    for name, part in infill.VARIANTS.items():
        if name != "mean":
            assert repr(ROWS[f"infill-{name}"].build(setting()).infill) == repr(part)


def test_the_learned_infill_is_fitted_on_the_loaders_images_before_the_masker():
    trainer = ROWS["infill-learned"].build(setting())
    assert isinstance(trainer.infill, infill.Inpainter)


@pytest.mark.parametrize("name", ["gumbel-hard", "gumbel-soft", "gumbel-learnable"])
def test_gumbel_rows_sample_on_the_grid_of_the_masker(name):
    model = ROWS[name].build(setting()).model.train()
    mask = model.mask(torch.randn(2, 3, 32, 32))
    assert not model.upsample_first and model.upsample is linear
    assert mask.min() >= 0 and mask.max() <= 1


def test_two_trainers_of_a_row_share_no_sampler():
    row, given = ROWS["gumbel-learnable"], setting()
    one, other = row.build(given).model.sampler, row.build(given).model.sampler
    assert one is not other and one.log_temperature is not other.log_temperature


STAGES = ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("count", [1, 3, 4, 5])
@pytest.mark.parametrize("stages", [None, STAGES])
def test_layer_rows_read_as_many_resolutions_as_they_say(count, stages):
    given = replace(setting(), stages=stages)
    assert list(ROWS[f"layers-{count}"].build(given).model.layers) == STAGES[-count:]
    assert ROWS["layers-second"].build(given).model.layers == ("3",)
    assert list(ROWS["unet"].build(given).model.layers) == STAGES[-4:]


def test_layer_rows_choose_among_the_stages_that_are_given():
    given = replace(setting(), stages=["1", "3"])
    assert ROWS["layers-second"].build(given).model.layers == ("1",)


def test_rows_are_selected_by_name_and_pattern_in_the_order_of_the_table():
    assert list(select("joint, frozen")) == ["frozen", "joint"]
    assert list(select("few-shot-*")) == [f"few-shot-{n}" for n in (1, 2, 5, 10, 20, 50, 100)]
    assert select("all") == ROWS


@pytest.mark.parametrize(
    "names, near", [("gumble", "gumbel"), ("infil-blur", "infill-blur"), ("", "frozen")]
)
def test_a_row_that_does_not_exist_is_refused_with_the_nearest_names(names, near):
    with pytest.raises(ValueError, match=rf"no row '{names}'; did you mean .*{near}"):
        select(names)


# A setting of masks for each input.


def test_meaningful_perturbations_have_the_published_penalty():
    cells = torch.rand(28, 28, dtype=torch.float64)
    rows = cells.diff(dim=0), cells.diff(dim=1)
    squares = torch.zeros_like(cells)
    squares[:-1] += rows[0] ** 2
    squares[:, :-1] += rows[1] ** 2
    expected = 1e-4 * cells.sum() + 1e-2 * squares.pow(1.5).sum()
    found = recipes.meaningful().regularizer(cells[None, None], None)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_meaningful_perturbations_cover_what_the_class_rests_on():
    x = torch.zeros(1, 1, 16, 16)
    x[..., 4:9, 5:10] = torch.rand(5, 5, generator=torch.Generator().manual_seed(0)) - 0.5
    edges = lambda x: 40 * x.diff(dim=-1).square().mean((1, 2, 3))  # noqa: E731
    classify = lambda x: torch.stack([0 * edges(x), edges(x) - 0.5], 1)  # noqa: E731
    how = recipes.meaningful(steps=60, grid=8, jitter_px=0)
    mask = how(classify, x, target=1)[0, 0]
    assert mask[4:9, 5:10].mean() > 0.6
    assert mask[12:].mean() < 0.2
