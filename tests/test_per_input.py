"""Promises of the masks that are optimized for each input."""

from __future__ import annotations

import copy
import math
import pickle
import random

import numpy as np
import pytest
import torch
from networks import Broken, Counted, Lookup, Quadrants, assert_same, cnn, everything, mixed_modes
from torch import Tensor, nn

from captum_masking._base.checks import TargetError
from captum_masking.parts import infill
from captum_masking.parts.masker import linear
from captum_masking.parts.objective import Dual, Judgement
from captum_masking.parts.regularizer import Area, Sum, TotalVariation, UngatedArea, smooth
from captum_masking.saliency.per_input import PerInput, of_area, shift

FEW = PerInput(steps=4)


@pytest.fixture
def network(device) -> nn.Module:
    return cnn(dropout=0.0).to(device).eval()


def planted(quarter: int, side: int = 32) -> Tensor:
    """A dim picture with one bright quarter, in reading order."""
    picture, half = 0.05 * torch.rand(1, 3, side, side), side // 2
    top, left = divmod(quarter, 2)
    picture[..., top * half : (top + 1) * half, left * half : (left + 1) * half] += 1
    return picture


# Shifts.


def test_a_shift_moves_by_whole_pixels_and_brings_in_zeros():
    image = torch.arange(1.0, 7).reshape(1, 1, 2, 3)  # 1 2 3 / 4 5 6
    assert shift(image, [1, 0]).tolist() == [[[[0, 0, 0], [1, 2, 3]]]]
    assert shift(image, [0, -1]).tolist() == [[[[2, 3, 0], [5, 6, 0]]]]
    assert shift(image, [-1, 2]).tolist() == [[[[0, 0, 4], [0, 0, 0]]]]


def test_a_shift_by_nothing_is_the_image_itself():
    image = torch.rand(1, 1, 2, 3)
    assert shift(image, [0, 0]) is image


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_shifts_agree_with_numpy_in_any_number_of_dimensions(axes):
    image = torch.rand(1, 1, *[5] * axes)
    pixels = [2, -1, 3][:axes]
    expected = np.roll(image.numpy(), pixels, axis=tuple(range(2, 2 + axes)))
    for axis, step in enumerate(pixels):
        rows = slice(0, step) if step > 0 else slice(step, None)
        expected[(slice(None), slice(None), *[slice(None)] * axis, rows)] = 0
    np.testing.assert_array_equal(shift(image, pixels), expected)


# Budgets.


@pytest.mark.parametrize("area", [0.01, 0.3, 0.5, 0.99])
@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0])
def test_masks_have_exactly_the_area_asked_for(area, spread):
    mask = of_area(spread * torch.randn(3, 1, 9, 7, dtype=torch.float64), area)
    torch.testing.assert_close(mask.mean((1, 2, 3)), torch.full((3,), area, dtype=torch.float64))
    assert 0 <= mask.min() <= mask.max() <= 1


def test_a_budget_keeps_the_order_of_the_logits():
    logits = torch.randn(1, 1, 50)
    assert torch.equal(of_area(logits, 0.2).argsort(), logits.argsort())


def test_the_gradient_of_a_budget_is_that_of_finite_differences():
    logits = torch.randn(2, 1, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: of_area(x, 0.3), (logits,))


def test_no_gradient_can_change_the_area_of_a_budget():
    logits = torch.randn(1, 1, 12, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(of_area(logits, 0.3).mean(), logits)
    assert gradient.abs().max() < 1e-12


def test_the_mask_found_has_the_budget(network, images):
    mask = PerInput(area=0.2, steps=4)(network, images, 1)
    torch.testing.assert_close(mask.mean((1, 2, 3)), torch.full((6,), 0.2), atol=1e-5, rtol=0)


def test_a_schedule_is_asked_at_every_step_and_the_mask_has_its_last_area(network, images):
    asked = []

    def halve(done: float) -> float:
        asked.append(done)
        return 1 - 0.5 * done

    mask = PerInput(area=halve, steps=4)(network, images, 1)
    assert asked == [0.25, 0.5, 0.75, 1.0, 1.0]
    torch.testing.assert_close(mask.mean((1, 2, 3)), torch.full((6,), 0.5), atol=1e-5, rtol=0)


def test_objective_and_regularizer_are_told_the_budget(network, images):
    told = []

    def note(judgement: Judgement) -> Tensor:
        told.append(judgement.area)
        return judgement.logits_in.mean()

    per_input = PerInput(
        area=lambda done: done / 2,
        steps=2,
        objective=note,
        regularizer=lambda mask, judgement: note(judgement),
    )
    per_input(network, images[:1], 1)
    torch.testing.assert_close(torch.cat(told), torch.tensor([0.25, 0.25, 0.5, 0.5]))


@pytest.mark.parametrize("area", [0.0, 1.0, -0.2, 1.5])
def test_a_budget_that_is_no_fraction_is_refused(area, network, images):
    with pytest.raises(ValueError, match="between 0 and 1"):
        PerInput(area=area)
    with pytest.raises(ValueError, match="between 0 and 1"):
        PerInput(area=lambda done: area)(network, images, 1)


@pytest.mark.parametrize("area", [torch.tensor([0.2, 0.3]), "small", True])
def test_a_budget_that_is_no_number_is_refused(area):
    with pytest.raises(TypeError, match="area must be one number in"):
        PerInput(area=area)


# Coarse and smooth.


def test_the_mask_is_interpolated_from_its_grid(network):
    images = torch.randn(2, 3, 24, 24)
    coarse = PerInput(grid=3, steps=5)(network, images, 1).logit()
    cells = coarse[:, :, 4::8, 4::8]  # next to the middles of the cells
    assert cells.shape == (2, 1, 3, 3)
    # Between the middles of two cells a bilinear map has no second difference.
    bend = coarse[:, :, 4:12, 5:11].diff(n=2, dim=3).abs().max()
    assert bend < 1e-4 < coarse.std()


@pytest.mark.parametrize(
    "grid, size, cells",
    [
        (14, (224, 224), [14, 14]),
        (14, (112, 224), [7, 14]),
        (14, (8, 8), [8, 8]),
        (4, (100,), [4]),
        (4, (30, 90), [2, 4]),
        ([2, 3], (20, 20), [2, 3]),
        (3, (7, 7, 21), [1, 1, 3]),
    ],
)
def test_the_grid_follows_the_longest_side_and_never_splits_a_pixel(grid, size, cells):
    assert PerInput(grid=grid).cells(size) == cells


def test_a_grid_of_too_many_sides_is_refused(network, images):
    with pytest.raises(ValueError, match="2 spatial axes"):
        PerInput(grid=[4])(network, images, 1)


@pytest.mark.parametrize("size", [(33,), (20, 12), (8, 9, 7)], ids=str)
def test_signals_images_and_volumes_are_masked_alike(size):
    inputs = torch.randn(2, 3, *size)
    mask = PerInput(steps=2, jitter_px=1, area=0.4)(cnn(dims=len(size)), inputs, 1)
    assert mask.shape == (2, 1, *size)


def test_vectors_are_masked_element_by_element():
    inputs = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.0, 3.0]])  # logit k is element k
    mask = PerInput(regularizer=Area())(lambda x: 3 * x, inputs, [0, 2])
    assert mask.shape == (2, 3)
    assert mask[0, 0] > 0.9 and mask[1, 2] > 0.9
    assert mask[0, 1:].max() < 0.9 * mask[0, 0] and mask[1, :2].max() < 0.9 * mask[1, 2]


# Every input on its own.


def together_and_alone(per_input: PerInput, network, images: Tensor) -> tuple[Tensor, Tensor]:
    target = [index % 4 for index in range(len(images))]
    together = per_input(network, images, target)
    pairs = zip(images.split(1), target, strict=True)
    return together, torch.cat([per_input(network, image, t) for image, t in pairs])


@pytest.mark.parametrize(
    "per_input",
    [
        FEW,
        FEW.but(area=0.3),
        FEW.but(area=lambda done: 0.9 - 0.5 * done),
        FEW.but(jitter_px=3),
        FEW.but(infill=infill.Noise()),
        FEW.but(infill=infill.UniformColor()),
        FEW.but(infill=infill.Blur(sigma_px=2.0)),
        FEW.but(steps=12, patience=1, lr=1.0),
        FEW.but(objective=lambda j: j.logits_in.max()),  # no mean over the batch
    ],
    ids=["plain", "area", "schedule", "jitter", "noise", "color", "blur", "patience", "maximum"],
)
def test_a_batch_gives_what_its_images_give_one_by_one(per_input, network, images):
    together, alone = together_and_alone(per_input, network, images)
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)


def test_a_mask_does_not_change_with_its_neighbors_or_its_place(network, images):
    per_input = FEW.but(jitter_px=2, infill=infill.Noise())
    masks = per_input(network, images, 1)
    order = torch.tensor([4, 0, 2])
    torch.testing.assert_close(
        per_input(network, images[order], 1), masks[order], atol=1e-4, rtol=0
    )


def test_an_infill_from_the_batch_is_refused_for_want_of_a_bank(network, images):
    with pytest.raises(ValueError, match="bank"):
        FEW.but(infill=infill.RandomImage())(network, images, 1)
    FEW.but(infill=infill.RandomImage(bank=images))(network, images, 1)


# The steps, against a slow loop written from the formulas.


def test_the_steps_are_those_of_adam_on_the_objective_and_the_regularizer(network, images):
    image, label, side = images[:1], 2, 16
    logits = torch.zeros(1, 1, 4, 4, requires_grad=True)
    first, second = torch.zeros(4, 4), torch.zeros(4, 4)
    clean = network(image)
    classes = clean.shape[1]
    for step in range(1, 4):
        mask = linear(logits, (side, side)).sigmoid()
        logits_in, logits_out = network(mask * image), network((1 - mask) * image)
        said = Judgement(clean, logits_in, logits_out, torch.tensor([label]))
        loss = Dual()(said) + smooth(variation=0.02 * math.log(classes))(mask, said)
        gradient = torch.autograd.grad(loss, logits)[0][0, 0]
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        mean, spread = first / (1 - 0.9**step), (second / (1 - 0.999**step)).sqrt()
        with torch.no_grad():
            logits[0, 0] -= 0.3 * mean / (spread + 1e-4)
    expected = linear(logits, (side, side)).sigmoid().detach()
    mask = PerInput(grid=4, steps=3, lr=0.3)(network, image, label)
    torch.testing.assert_close(mask, expected, atol=1e-5, rtol=0)


def test_jitter_moves_masked_images_by_up_to_so_many_pixels(device):
    seen = []

    def look(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return torch.stack([x.mean((1, 2, 3)), -x.mean((1, 2, 3))], dim=1)

    spot = torch.zeros(1, 1, 9, 9, device=device)
    spot[..., 4, 4] = 1
    PerInput(jitter_px=2, steps=40, lr=0.0)(look, spot, 0)
    places = [tuple(x[0, 0].nonzero()[0].tolist()) for x in seen[1:]]
    assert all(torch.equal(x[0] > 0, x[1] > 0) for x in seen[1:])  # both halves alike
    assert {row for row, _ in places} == {column for _, column in places} == {2, 3, 4, 5, 6}


# When an input is done.


def losses_taken(losses: list[float], **options) -> int:
    """Count the steps of a search whose losses are given."""
    given = iter(losses)
    per_input = PerInput(
        objective=lambda judgement: next(given) + 0 * judgement.logits_in.sum(),
        regularizer=lambda mask, judgement: 0 * mask.sum(),
        steps=len(losses),
        **options,
    )
    per_input(Quadrants(), planted(0), 0)
    return len(losses) - len(list(given))


def test_patience_ends_an_image_that_no_longer_improves():
    assert losses_taken([5.0, 4.0, 4.0, 3.0, 3.0, 3.5, 0.0], patience=2) == 6
    assert losses_taken([1.0, 1.0 - 9e-4, 0.0], patience=1) == 2  # too little counts as nothing


def test_a_new_budget_starts_the_waiting_again():
    def budget(done: float) -> float:
        return 0.9 if done <= 0.25 else 0.5

    assert losses_taken([1.0] * 4, patience=1, area=budget) == 3


class Mixed(nn.Module):
    """Counts the images it sees; those whose first pixel is 0 teach nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.sizes.append(len(inputs))
        score = inputs.flatten(1).mean(1)
        return torch.stack([score, -score], dim=1)


def test_an_image_that_is_done_costs_no_more_passes():
    network, flat = Mixed(), torch.zeros(1, 1, 8, 8)
    images = torch.cat([flat, flat + 1, flat])
    quiet = {"objective": Dual(outside=None), "regularizer": lambda mask, j: 0 * mask.mean()}
    PerInput(steps=6, patience=2, lr=1.0, **quiet)(network, images, 0)
    assert network.sizes[:4] == [3, 6, 6, 6]  # nothing to gain from a flat image: 1 + 2 steps
    assert network.sizes[4:] == [2, 2, 2]


def test_an_image_that_is_done_keeps_its_mask():
    flat = torch.zeros(1, 1, 8, 8)
    settings = {"steps": 8, "lr": 1.0, "objective": Dual(outside=None)}
    per_input = PerInput(patience=1, regularizer=lambda mask, j: 0 * mask.mean(), **settings)
    alone = per_input(Mixed(), flat, 0)
    beside = per_input(Mixed(), torch.cat([flat, flat + 1]), 0)
    torch.testing.assert_close(beside[:1], alone)
    assert (beside[1:] - beside[:1]).abs().max() > 0.1


def test_without_patience_all_steps_are_taken(device):
    counted = Counted(cnn()).to(device)
    PerInput(steps=5)(counted, torch.zeros(2, 3, 16, 16, device=device), 1)
    assert counted.calls == 1 + 5


# Deterministic, and nothing of the user's is changed.


@pytest.mark.parametrize("part", [infill.Noise(), infill.Mean()], ids=["noise", "mean"])
def test_the_same_seed_gives_the_same_mask_and_another_one_another(part, network, images):
    per_input = FEW.but(jitter_px=4, infill=part)
    one = per_input(network, images, 1)
    torch.rand(7)
    assert torch.equal(per_input(network, images, 1), one)
    assert not torch.equal(per_input.but(seed=1)(network, images, 1), one)


def test_a_random_infill_draws_anew_at_every_step(network, images):
    drawn = []

    def draw(inputs: Tensor, hole: Tensor) -> Tensor:
        drawn.append(torch.rand(()).item())
        return torch.zeros_like(inputs)

    FEW.but(infill=draw)(network, images[:2], 1)
    del drawn[:2]  # a first look, to see whether it draws
    assert len(drawn) == 4 * 2 * 2 and len(set(drawn)) == 4 * 2  # steps, sides; images alike


def test_random_numbers_are_given_back_also_after_an_error(network, images):
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()

    def fail(inputs: Tensor, hole: Tensor) -> Tensor:
        torch.rand(3)
        raise ArithmeticError

    FEW.but(infill=infill.Noise(), jitter_px=2)(network, images, 1)
    with pytest.raises(ArithmeticError):
        FEW.but(infill=fail)(network, images, 1)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]


@pytest.mark.parametrize("runs", [0, 1, 2])
def test_the_classifier_is_given_back_also_after_an_error(images, runs):
    classifier = mixed_modes(Broken(cnn(), runs=100))
    before = everything(classifier)
    FEW(classifier, images, 1)
    assert_same(before, everything(classifier))
    classifier.runs = runs
    with pytest.raises(ArithmeticError):
        FEW(classifier, images, 1)
    assert_same(before, everything(classifier))


def test_inputs_and_settings_are_left_alone(network, images):
    mine = images.clone().requires_grad_()
    per_input = FEW.but(jitter_px=2)
    shown = repr(per_input)
    per_input(network, mine, 1)
    assert torch.equal(mine, images) and mine.grad is None and repr(per_input) == shown


# In use.


@pytest.mark.parametrize(
    "options", [{}, {"area": 0.25}, {"jitter_px": 2}, {"patience": 30}], ids=str
)
@pytest.mark.parametrize("quarter", [0, 3])
def test_the_evidence_is_found_where_it_was_planted(options, quarter):
    mask = PerInput(grid=4, **options)(Quadrants(), planted(quarter), quarter)
    means = [part.mean() for rows in mask.chunk(2, 2) for part in rows.chunk(2, 3)]
    assert means[quarter] > 0.75 and sum(means) - means[quarter] < 0.6


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("area", [None, 0.3])
def test_masks_are_finite_in_every_precision(network, images, dtype, area):
    mask = PerInput(steps=8, area=area)(network.to(dtype), images.to(dtype), 1)
    assert mask.dtype == dtype and mask.isfinite().all()


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_it_works_where_gradients_are_switched_off(network, images, context):
    expected = FEW(network, images, 1)
    with context():
        torch.testing.assert_close(FEW(network, images.clone(), 1), expected)


def test_additional_arguments_go_with_their_image(images):
    lookup = Lookup(cnn(dropout=0.0)).eval()
    scale = torch.tensor([1.0, 2.0, 3.0])
    together = FEW(lookup, images[:3], 1, additional_forward_args=(scale, "on"))
    alone = [
        FEW(lookup, images[[row]], 1, additional_forward_args=(scale[[row]], "on"))
        for row in range(3)
    ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=0)


def test_rows_are_taken_and_repeated_only_of_arguments_that_have_them():
    calls = []

    def score(x: Tensor, *extra: Tensor | None) -> Tensor:
        calls.append([None if a is None else a.tolist() for a in extra])
        score = x.flatten(1).mean(1)
        return torch.stack([score, -score], dim=1)

    flat = torch.zeros(1, 1, 8, 8)  # with nothing to gain from: done after two steps
    extra = (torch.tensor([1.0, 2.0]), torch.tensor([5.0, 6.0, 7.0]), torch.tensor([9.0]), None)
    quiet = {"objective": Dual(outside=None), "regularizer": lambda mask, j: 0 * mask.mean()}
    per_input = PerInput(steps=3, patience=1, lr=1.0, **quiet)
    per_input(score, torch.cat([flat, flat + 1]), 0, additional_forward_args=extra)
    rest = [[5.0, 6.0, 7.0], [9.0], None]
    assert calls[0] == [[1.0, 2.0], *rest]
    assert calls[1] == calls[2] == [[1.0, 2.0, 1.0, 2.0], *rest]
    assert calls[3] == [[2.0, 2.0], *rest]


def test_a_wrong_target_is_refused(network, images):
    with pytest.raises(TargetError):
        FEW(network, images, 4)


# Settings.


def test_settings_are_stored_under_their_names_and_changed_in_copies():
    regularizer = Sum(UngatedArea(), TotalVariation())
    per_input = PerInput(steps=7, regularizer=regularizer)
    changed = per_input.but(area=0.2, steps=None)
    assert (per_input.area, changed.area, changed.steps) == (None, 0.2, 7)
    assert changed.regularizer is regularizer
    with pytest.raises(TypeError, match="stepps"):
        per_input.but(stepps=3)


def test_it_prints_every_setting_and_can_be_rebuilt_from_that():
    names = {**vars(infill), "Dual": Dual, "PerInput": PerInput}
    from captum_masking.parts import objective

    names.update(vars(objective))
    per_input = PerInput(regularizer=UngatedArea(weight=2.0), grid=(3, 4), patience=5, area=0.2)
    again = eval(repr(per_input), {**names, "UngatedArea": UngatedArea})  # our own text
    assert repr(again) == repr(per_input) and "jitter_px=" in repr(per_input)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_it_can_be_copied_and_sent_to_another_process(copied):
    assert repr(copied(PerInput(area=0.3))) == repr(PerInput(area=0.3))


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"patience": 0}, {"grid": 0}, {"grid": []}, {"jitter_px": -1}, {"lr": -1.0}]
    + [{"lr": math.nan}],
    ids=str,
)
def test_numbers_out_of_range_are_refused_by_name(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name} must be (a whole number >=|at least|>=)"):
        PerInput(**wrong)
