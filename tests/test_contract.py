"""What every part promises, whoever wrote it. The parts are listed in parts.py."""

from __future__ import annotations

import copy
import inspect
import math
import pickle

import pytest
import torch
from networks import cnn, everything, same_weights
from parts import INFILLS, MASKERS, OBJECTIVES, POOLS, REGULARIZERS, SAMPLERS, UPSAMPLERS, judgement
from safetensors.torch import load, save
from torch import Tensor, nn

from captum_masking.parts import objective, pool, regularizer, sampler
from captum_masking.parts.masking import mask_images
from captum_masking.parts.objective import Judgement
from captum_masking.parts.pool import Pool

DTYPES = [torch.float32, torch.float64, torch.bfloat16]
SPATIAL = [(9,), (6, 9), (4, 5, 6)]


def _short(part: object) -> str:
    """Name a part: a function by its name, as its repr is another in every process."""
    return getattr(part, "__name__", " ".join(repr(part).split())[:60])


def each(parts: list, name: str = "part") -> pytest.MarkDecorator:
    return pytest.mark.parametrize(name, parts, ids=_short)


def smooth_mask(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Four masks, different from image to image and from pixel to pixel, none empty or full."""
    ramp = torch.linspace(0.1, 0.6, 4 * 5 * 7, dtype=torch.float64, device=device)
    return ramp.reshape(4, 1, 5, 7).to(dtype)


def rebuilt(part: object) -> object:
    """What the repr of a part says when it is read as code."""
    return eval(repr(part), {**vars(sampler), **vars(objective), **vars(regularizer), **vars(pool)})


def reorder(said: Judgement, order: list[int]) -> Judgement:
    return Judgement(*(None if part is None else part[order] for part in said))


# All of them.


@each([*INFILLS, *SAMPLERS, *OBJECTIVES, *REGULARIZERS, *POOLS])
def test_a_part_prints_its_recipe(part):
    printed = repr(part)
    assert " at 0x" not in printed
    for kind in [type(p) for p in getattr(part, "terms", [part])]:
        assert kind.__name__ in printed
    for parameter in inspect.signature(type(part)).parameters.values():
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            assert f"{parameter.name}={getattr(part, parameter.name)}" in printed


@each([*SAMPLERS, *OBJECTIVES, *REGULARIZERS, *POOLS])
def test_the_recipe_of_a_part_rebuilds_it(part):
    for one in getattr(part, "terms", [part]):
        assert type(rebuilt(one)) is type(one) and repr(rebuilt(one)) == repr(one)


@each([*INFILLS, *SAMPLERS, *OBJECTIVES, *REGULARIZERS, *POOLS, *MASKERS])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda part: pickle.loads(pickle.dumps(part))])
def test_a_part_can_be_copied_and_sent_to_another_process(part, copied):
    assert repr(copied(part)) == repr(part)


# Infills.


@each(INFILLS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("spatial", SPATIAL, ids=str)
def test_an_infill_gives_finite_pixels_shaped_like_the_inputs(
    part, dtype, spatial, channels, device
):
    inputs = torch.randn(2, channels, *spatial).to(device, dtype)
    for hole in (torch.zeros(2, 1, *spatial), torch.ones(2, 1, *spatial)):
        pixels = part(inputs, hole.to(inputs))
        assert (pixels.shape, pixels.dtype, pixels.device) == (inputs.shape, dtype, inputs.device)
        assert pixels.isfinite().all()


@each(INFILLS)
def test_an_infill_leaves_inputs_and_hole_alone(part, device):
    inputs, hole = torch.randn(2, 3, 6, 9, device=device), torch.rand(2, 1, 6, 9, device=device)
    before = inputs.clone(), hole.clone()
    part(inputs, hole)
    assert torch.equal(inputs, before[0]) and torch.equal(hole, before[1])


@each(INFILLS)
def test_gradients_reach_the_mask_through_both_masked_images(part, device):
    inputs = torch.rand(2, 3, 6, 9, dtype=torch.float64, device=device) + 0.5
    mask = torch.rand(2, 1, 6, 9, dtype=torch.float64, device=device, requires_grad=True)
    for masked in mask_images(inputs, mask, part):
        (gradient,) = torch.autograd.grad((masked * torch.rand_like(masked)).sum(), mask)
        assert gradient.isfinite().all() and gradient.flatten(1).any(1).all()


@each(INFILLS)
def test_without_a_hole_nothing_is_filled(part, device):
    inputs = torch.randn(2, 3, 6, 9, device=device)
    masked_in, _ = mask_images(inputs, torch.ones(2, 1, 6, 9, device=device), part)
    assert torch.equal(masked_in, inputs)


@each(INFILLS)
def test_a_full_hole_shows_only_the_infill(part, device):
    inputs, hole = torch.randn(2, 3, 6, 9, device=device), torch.ones(2, 1, 6, 9, device=device)
    torch.manual_seed(1)
    _, masked_out = mask_images(inputs, hole, part)
    assert masked_out.isfinite().all() and masked_out.shape == inputs.shape
    assert not torch.equal(masked_out, inputs)


# Samplers.


@each(SAMPLERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("spatial", SPATIAL, ids=str)
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_a_sampler_gives_a_mask_in_0_1_shaped_like_the_logits(part, dtype, spatial, train, device):
    mask_logits = (5 * torch.randn(2, 1, *spatial)).to(device, dtype)
    mask = copy.deepcopy(part).train(train)(mask_logits)
    assert (mask.shape, mask.dtype, mask.device) == (mask_logits.shape, dtype, mask_logits.device)
    assert 0 <= mask.min() <= mask.max() <= 1


@each(SAMPLERS)
def test_a_sampler_is_deterministic_in_eval_mode(part, device):
    part, mask_logits = copy.deepcopy(part).eval(), torch.randn(2, 1, 6, 9, device=device)
    assert torch.equal(part(mask_logits), part(mask_logits))


@each(SAMPLERS)
def test_a_higher_logit_never_gives_a_lower_mask_in_eval_mode(part, device):
    mask = copy.deepcopy(part).eval()(torch.linspace(-8, 8, 99, device=device).reshape(1, 1, 99))
    assert (mask.diff() >= 0).all() and mask[..., 0] < 0.1 and mask[..., -1] > 0.9


@each(SAMPLERS)
def test_gradients_reach_the_logits_through_a_sampler_in_train_mode(part, device):
    mask_logits = torch.randn(2, 1, 6, 9, device=device, requires_grad=True)
    copy.deepcopy(part).train()(mask_logits).sum().backward()
    assert mask_logits.grad.isfinite().all() and mask_logits.grad.any()


@each(SAMPLERS)
def test_a_sampler_survives_extreme_logits(part, device):
    mask_logits = torch.tensor([[[-1e4, 1e4]]], device=device, requires_grad=True)
    mask = copy.deepcopy(part).eval()(mask_logits)
    mask.sum().backward()
    assert mask.tolist() == [[[0, 1]]] and mask_logits.grad.isfinite().all()


@each(SAMPLERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_a_sampler_has_finite_gradients_at_extreme_logits(part, dtype, train, device):
    mask_logits = torch.tensor([[[-1e4, -50.0, 0.0, 50.0, 1e4]]], dtype=dtype, device=device)
    part = copy.deepcopy(part).train(train)
    part(mask_logits.requires_grad_()).sum().backward()
    gradients = [mask_logits.grad, *(parameter.grad for parameter in part.parameters())]
    assert all(g is None or g.isfinite().all() for g in gradients)


@each(SAMPLERS)
def test_a_sampler_leaves_the_logits_alone(part, device):
    mask_logits = torch.randn(2, 1, 6, 9, device=device)
    before = mask_logits.clone()
    part(mask_logits)
    assert torch.equal(mask_logits, before)


@each(SAMPLERS)
def test_a_sampler_is_rebuilt_from_its_settings_and_its_state(part, device):
    with torch.no_grad():
        part = copy.deepcopy(part)
        for parameter in part.parameters():
            parameter += 0.5
    twin, mask_logits = type(part)(**part.settings), torch.randn(2, 1, 6, 9, device=device)
    twin.load_state_dict(part.state_dict())
    torch.manual_seed(1)
    mask = part(mask_logits)
    torch.manual_seed(1)
    assert repr(twin) == repr(part) and torch.equal(twin(mask_logits), mask)


# Objectives.


@each(OBJECTIVES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_objective_gives_a_finite_scalar(part, dtype, device):
    loss = part(judgement(dtype, device))
    assert (loss.shape, loss.dtype, loss.device.type) == ((), dtype, device.type)
    assert loss.isfinite()


@each(OBJECTIVES)
def test_gradients_reach_the_masked_logits_through_an_objective(part, device):
    said = judgement(torch.float64, device)
    halves = [said.logits_in.requires_grad_(), said.logits_out.requires_grad_()]
    gradients = torch.autograd.grad(part(said), halves, allow_unused=True, materialize_grads=True)
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients)


@each(OBJECTIVES)
def test_an_objective_survives_a_classifier_that_is_very_sure(part, device):
    said = judgement(torch.float32, device)
    sure = Judgement(*(logits.mul(1e4).requires_grad_() for logits in said[:3]), said.target)
    part(sure).backward()
    gradients = [logits.grad for logits in sure[:3] if logits.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)


@each(OBJECTIVES)
def test_an_objective_of_a_batch_is_the_mean_over_its_images(part, device):
    said = judgement(torch.float64, device)
    alone = [part(reorder(said, [index])) for index in range(4)]
    assert part(said).item() == pytest.approx(sum(alone).item() / 4)


@each(OBJECTIVES)
def test_an_objective_leaves_the_judgement_alone(part, device):
    said, before = judgement(device=device), judgement(device=device)
    part(said)
    assert all(torch.equal(a, b) for a, b in zip(said[:5], before[:5], strict=True))


# Regularizers.


@each(REGULARIZERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_regularizer_gives_a_finite_scalar(part, dtype, device):
    loss = part(smooth_mask(dtype, device), judgement(dtype, device))
    assert (loss.shape, loss.dtype, loss.device.type) == ((), dtype, device.type)
    assert loss.isfinite()


@each(REGULARIZERS)
@pytest.mark.parametrize("spatial", SPATIAL, ids=str)
def test_a_regularizer_takes_masks_of_any_number_of_dimensions(part, spatial, device):
    mask = torch.rand(4, 1, *spatial, device=device)
    assert part(mask, judgement(device=device, spatial=spatial)).isfinite()


@each(REGULARIZERS)
def test_gradients_reach_the_mask_through_a_regularizer(part, device):
    mask = smooth_mask(torch.float64, device).requires_grad_()
    part(mask, judgement(torch.float64, device)).backward()
    assert mask.grad.isfinite().all() and mask.grad.any()


@each(REGULARIZERS)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_regularizer_is_finite_on_empty_and_full_masks(part, value, device):
    mask = torch.full((4, 1, 5, 7), value, device=device, requires_grad=True)
    loss = part(mask, judgement(device=device))
    loss.backward()
    assert loss.isfinite() and mask.grad.isfinite().all()


@each(REGULARIZERS)
def test_a_regularizer_of_a_batch_is_the_mean_over_its_images(part, device):
    mask, said = smooth_mask(torch.float64, device), judgement(torch.float64, device)
    alone = [part(mask[[index]], reorder(said, [index])) for index in range(4)]
    assert part(mask, said).item() == pytest.approx(sum(alone).item() / 4)


@each(REGULARIZERS)
def test_a_regularizer_leaves_mask_and_judgement_alone(part, device):
    mask, said = smooth_mask(torch.float32, device), judgement(device=device)
    part(mask, said)
    assert torch.equal(mask, smooth_mask(torch.float32, device))
    assert all(
        torch.equal(a, b) for a, b in zip(said[:5], judgement(device=device)[:5], strict=True)
    )


@each(REGULARIZERS)
def test_a_mask_with_one_pixel_along_an_axis_is_regularized(part, device):
    mask = torch.rand(4, 1, 1, 7, device=device)
    assert math.isfinite(part(mask, judgement(device=device)))


# Pools.


def draws(part: Pool, device: torch.device) -> list[tuple[nn.Module, nn.Module]]:
    """The live classifier and the judge of each of some steps."""
    part, classifier, drawn = copy.deepcopy(part), cnn().to(device), []
    for _ in range(8):
        part.add(classifier)
        drawn.append((classifier, part.draw()))
    return drawn


def step(part: Pool, seed: int, device: torch.device) -> tuple[nn.Module, nn.Module]:
    classifier = cnn(seed=seed).to(device)
    part.add(classifier)
    return classifier, part.draw()


@each(POOLS)
def test_an_empty_pool_says_that_something_must_be_added(part):
    with pytest.raises(RuntimeError, match=r"empty.*add\(classifier\)"):
        copy.deepcopy(part).draw()


@each(POOLS)
def test_a_drawn_judge_answers_like_the_classifier_that_was_added(part, device):
    part, classifier = copy.deepcopy(part), cnn().to(device).eval()
    part.add(classifier)
    inputs = torch.randn(2, 3, 16, 16, device=device)
    for _ in range(8):
        assert torch.equal(part.draw().eval()(inputs), classifier(inputs))


@each(POOLS)
def test_a_pool_leaves_the_classifier_alone(part, device):
    part, classifier = copy.deepcopy(part), cnn().to(device)
    before = everything(classifier)
    for _ in range(8):
        part.add(classifier)
        part.draw()
    after = everything(classifier)
    assert after["modes"] == before["modes"] and after["flags"] == before["flags"]
    assert after["hooks"] == before["hooks"]
    torch.testing.assert_close(after["weights"], before["weights"], rtol=0, atol=0)


@each(POOLS)
def test_a_judge_of_the_past_has_no_parameter_that_could_be_trained(part, device):
    for classifier, judge in draws(part, device):
        if judge is not classifier:
            shared = {id(p) for p in classifier.parameters()}
            assert not any(p.requires_grad or id(p) in shared for p in judge.parameters())


@each(POOLS)
def test_a_pool_draws_without_touching_the_global_random_numbers(part, device):
    part, classifier, before = copy.deepcopy(part), cnn().to(device), torch.get_rng_state()
    for _ in range(8):
        part.add(classifier)
        part.draw()
    assert torch.equal(torch.get_rng_state(), before)


@each(POOLS)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda part: pickle.loads(pickle.dumps(part))])
def test_a_copied_pool_goes_on_as_the_first_one_does(part, copied, device):
    part, classifier = copy.deepcopy(part), cnn().to(device)
    part.add(classifier)
    part.draw()
    twin = copied(part)
    for seed in range(1, 8):
        classifier = cnn(seed=seed).to(device)
        part.add(classifier)
        twin.add(classifier)
        one, other = part.draw(), twin.draw()
        assert (one is classifier) == (other is classifier) and same_weights(one, other)


@each(POOLS)
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_a_pool_restored_from_its_state_goes_on_as_the_first_one_does(part, steps, device):
    fresh, part = copy.deepcopy(part), copy.deepcopy(part)
    for seed in range(steps):
        step(part, seed, device)
    fresh.load_state_dict(load(save(part.state_dict())))  # by way of a safetensors file
    for seed in range(steps, steps + 12):
        (classifier, one), (own, other) = step(part, seed, device), step(fresh, seed, device)
        assert (one is classifier) == (other is own) and same_weights(one, other)
    assert_same_state(part.state_dict(), fresh.state_dict())


@each(POOLS)
def test_the_state_of_a_pool_is_on_the_cpu_and_shares_no_memory(part, device):
    part = copy.deepcopy(part)
    for seed in range(5):
        classifier, _ = step(part, seed, device)
    state = part.state_dict()
    assert all(value.device.type == "cpu" and value.is_contiguous() for value in state.values())
    places = [v.data_ptr() for v in (*state.values(), *classifier.state_dict().values())]
    assert len(places) == len(set(places))


@each(POOLS)
def test_a_restored_pool_keeps_its_own_copy_of_the_state(part, device):
    fresh, part = copy.deepcopy(part), copy.deepcopy(part)
    step(part, 0, device)
    state = part.state_dict()
    before = {name: value.clone() for name, value in state.items()}
    fresh.load_state_dict(state)
    for value in state.values():
        value.zero_()
    assert_same_state(fresh.state_dict(), before)


@each(POOLS)
def test_a_restored_pool_is_empty_until_the_live_classifier_is_added(part, device):
    fresh, part = copy.deepcopy(part), copy.deepcopy(part)
    step(part, 0, device)
    fresh.load_state_dict(part.state_dict())
    with pytest.raises(RuntimeError, match=r"empty.*add\(classifier\)"):
        fresh.draw()


@each(POOLS)
def test_a_pool_refuses_a_state_that_is_not_its_own(part, device):
    part = copy.deepcopy(part)
    before = part.state_dict()
    with pytest.raises(ValueError, match=f"state of a {type(part).__name__} pool.*'something'"):
        part.load_state_dict({**before, "something": torch.zeros(1)})
    assert_same_state(part.state_dict(), before)


def assert_same_state(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


# Ways to bring a mask to the size of the input.


@each(UPSAMPLERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [(19,), (11, 20), (5, 9, 7)], ids=str)
def test_an_upsampler_gives_the_size_asked_for_within_the_range_of_the_mask(
    part, dtype, size, device
):
    mask = torch.rand(2, 1, *[4] * len(size)).to(device, dtype)
    bigger = part(mask, size)
    assert (bigger.shape, bigger.dtype) == ((2, 1, *size), dtype)
    assert mask.min() <= bigger.min() <= bigger.max() <= mask.max()


@each(UPSAMPLERS)
def test_an_upsampler_keeps_a_mask_that_has_the_size_already(part, device):
    mask = torch.rand(2, 1, 5, 7, device=device)
    torch.testing.assert_close(part(mask, (5, 7)), mask)


@each(UPSAMPLERS)
def test_gradients_reach_every_cell_through_an_upsampler(part, device):
    mask = torch.rand(2, 1, 4, 4, device=device, requires_grad=True)
    part(mask, (11, 20)).sum().backward()
    assert (mask.grad > 0).all()


# Maskers.


def features(dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    return [torch.randn(2, n, 12 // n, 4).to(device, dtype) for n in (5, 3)]


@each(MASKERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("grid", [(2, 4), (7, 9), (1, 1)], ids=str)
def test_a_masker_gives_one_logit_per_cell_of_the_grid(part, dtype, grid, device):
    masker = copy.deepcopy(part).to(device, dtype)
    mask_logits = masker(features(dtype, device), grid)
    assert (mask_logits.shape, mask_logits.dtype) == ((2, 1, *grid), dtype)
    assert mask_logits.isfinite().all()


@each(MASKERS)
def test_gradients_reach_every_parameter_of_a_masker(part, device):
    masker = copy.deepcopy(part).to(device)
    mask_logits = masker(features(torch.float32, device), (4, 4))
    (mask_logits * torch.randn_like(mask_logits)).sum().backward()
    for name, parameter in masker.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


@each(MASKERS)
def test_a_masker_leaves_the_features_alone(part, device):
    maps = features(torch.float32, device)
    before = [m.clone() for m in maps]
    copy.deepcopy(part).to(device)(maps, (4, 4))
    assert all(torch.equal(a, b) for a, b in zip(maps, before, strict=True))


@each(MASKERS)
def test_in_eval_mode_a_masker_treats_each_image_on_its_own(part, device):
    masker, maps = copy.deepcopy(part).to(device).eval(), features(torch.float32, device)
    together = masker(maps, (4, 4))
    alone = torch.cat([masker([m[[index]] for m in maps], (4, 4)) for index in range(2)])
    torch.testing.assert_close(together, alone)
