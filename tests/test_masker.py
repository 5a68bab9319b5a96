"""The masker's architecture, counted, and re-implemented in loops."""

from __future__ import annotations

import math
from functools import partial

import pytest
import slow
import torch
from torch import Tensor, nn

from captum_masking import FromScratch, MaskingModel, MaskingSaliency, MaskingTrainer
from captum_masking.parts.masker import Masker, Question, UNetMasker, linear, nearest
from captum_masking.parts.regularizer import SizeAsked

RESNET50 = {1: 256, 2: 512, 3: 1024, 4: 2048}  # channels of its stages


def random_relu_features(seed: int) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    shapes = (4, 1024, 14, 14), (4, 2048, 7, 7)
    return [torch.randn(shape, generator=random).relu() for shape in shapes]


@pytest.mark.parametrize(
    "stages, parameters",
    [([3, 4], 198_017), ([2, 3, 4], 231_489), ([1, 2, 3, 4], 248_577), ([4], 131_777)]
    + [([3], 66_241), ([1], 17_089)],
)
def test_the_masker_has_the_published_number_of_parameters(stages, parameters):
    masker = Masker([RESNET50[stage] for stage in stages])
    assert sum(parameter.numel() for parameter in masker.parameters()) == parameters


def test_a_raw_map_goes_past_its_convolution_as_layer_0_does_in_the_published_masker():
    masker = Masker([64, 256, 512, 1024, 2048], raw=[0])
    assert sum(parameter.numel() for parameter in masker.parameters()) == 249_153


def test_the_class_conditioned_masker_has_the_published_number_of_parameters():
    masker = Masker([1024, 2048], classes=1000)
    assert sum(parameter.numel() for parameter in masker.parameters()) == 270_209


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_the_masker_counts_its_parameters_in_any_number_of_dimensions(dims):
    masker = Masker([5, 7], width=4, dims=dims)
    expected = (5 + 7) * 4 + 2 * 2 * 4 + 8 * 3**dims + 1
    assert sum(parameter.numel() for parameter in masker.parameters()) == expected


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_masks_start_near_one_half_and_not_saturated(train):
    # With the published initialization 70 % of the values lie outside [0.05, 0.95].
    for seed in range(5):
        torch.manual_seed(seed)
        masker = Masker([1024, 2048]).train(train)
        with torch.no_grad():
            mask = masker(random_relu_features(seed), (14, 14)).sigmoid()
        assert abs(mask.mean() - 0.5) < 0.1, seed
        assert mask.min() > 0.05 and mask.max() < 0.95, seed


def test_masks_start_different_from_place_to_place():
    mask = Masker([1024, 2048])(random_relu_features(0), (14, 14)).sigmoid()
    assert mask.std() > 1e-3


def test_the_masker_equals_a_slow_loop_over_the_published_architecture():
    masker = Masker([3, 2], width=2).double().eval()
    for part in masker.modules():
        if isinstance(part, nn.BatchNorm2d):  # as after training: no statistic at its default
            for value in (part.weight, part.bias, part.running_mean):
                nn.init.normal_(value)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
    nn.init.normal_(masker.final.weight)
    nn.init.normal_(masker.final.bias)
    features = [torch.randn(1, 3, 4, 6).double(), torch.randn(1, 2, 2, 3).double()]
    grid = (4, 6)
    with torch.no_grad():
        mask_logits = masker(features, grid)[0, 0].tolist()

    planes = []  # four of them: two channels of each feature map, normalized and on the grid
    for reduce, maps in zip(masker.reduce, features, strict=True):
        convolution, norm, _ = reduce
        for k in range(2):
            plane = sum(convolution.weight[k, c, 0, 0] * maps[0, c] for c in range(maps.shape[1]))
            spread = (norm.running_var[k] + norm.eps).sqrt()
            plane = (plane - norm.running_mean[k]) / spread * norm.weight[k] + norm.bias[k]
            planes.append(slow.bilinear(plane.relu().tolist(), *grid))
    weight, bias = masker.final.weight[0].tolist(), masker.final.bias.item()
    for i in range(4):
        for j in range(6):
            logit = bias
            for plane, kernel in zip(planes, weight, strict=True):
                for di in (-1, 0, 1):
                    for dj in (-1, 0, 1):
                        if 0 <= i + di < 4 and 0 <= j + dj < 6:  # zeros around the map
                            logit += kernel[di + 1][dj + 1] * plane[i + di][j + dj]
            assert mask_logits[i][j] == pytest.approx(logit)


def test_the_order_of_channels_is_the_order_of_features():
    with pytest.raises(RuntimeError):
        Masker([3, 2])([torch.randn(1, 2, 4, 4), torch.randn(1, 3, 4, 4)], (4, 4))


def test_a_feature_map_too_few_is_refused():
    with pytest.raises(ValueError):
        Masker([3, 2])([torch.randn(1, 3, 4, 4)], (4, 4))


# Resampling.


def test_linear_resampling_equals_a_slow_loop():
    maps = torch.rand(1, 1, 4, 6, dtype=torch.float64)
    for size in [(8, 12), (9, 7), (3, 5)]:
        expected = torch.tensor(slow.bilinear(maps[0, 0].tolist(), *size)).double()
        torch.testing.assert_close(linear(maps, size)[0, 0], expected, check_dtype=False)


def test_nearest_resampling_repeats_each_cell():
    maps = torch.rand(2, 1, 3, 5)
    expected = maps.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    assert torch.equal(nearest(maps, (12, 20)), expected)


def test_resampling_keeps_a_constant_and_the_place_of_its_centre():
    assert linear(torch.full((1, 1, 3, 3), 0.3), (17, 31)).allclose(torch.tensor(0.3))
    ramp = torch.linspace(0, 1, 7).reshape(1, 1, 7)
    assert linear(ramp, [49])[0, 0, 24].item() == pytest.approx(0.5)
    assert math.isclose(nearest(ramp, [49])[0, 0, 24].item(), 0.5)


# What a masker can be told.


def random_features() -> list[Tensor]:
    return [torch.randn(3, 5, 4, 4), torch.randn(3, 7, 2, 2)]


def test_what_a_masker_is_told_is_a_constant_channel_of_every_map():
    # The same masker without the option, fed the constants by hand, gives the same logits.
    told = Masker([5, 7], width=4, classes=6, sized=True).eval()
    plain = Masker([5 + 4 + 1, 7 + 4 + 1], width=4).eval()
    plain.load_state_dict({k: v for k, v in told.state_dict().items() if "embedding" not in k})
    features, target, area = random_features(), torch.tensor([1, 5, 1]), torch.tensor([0.2, 0.5, 1])
    by_hand = []
    for maps in features:
        constants = torch.cat([told.embedding.weight[target], area[:, None]], dim=1)
        by_hand.append(
            torch.cat([maps, constants[..., None, None].expand(-1, -1, *maps.shape[2:])], 1)
        )
    expected = plain(by_hand, (4, 4))
    torch.testing.assert_close(told(features, (4, 4), Question(target, area)), expected)


def test_gradients_reach_every_parameter_of_a_masker_that_is_told_class_and_size():
    masker = Masker([5, 7], width=4, raw=[1], classes=2, sized=True)
    target, area = torch.tensor([0, 1, 0]), torch.tensor([0.2, 0.5, 0.9])
    mask_logits = masker(random_features(), (4, 4), Question(target, area))
    (mask_logits * torch.randn_like(mask_logits)).sum().backward()
    for name, parameter in masker.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


def test_the_map_follows_the_target_if_and_only_if_the_masker_is_told_the_class(classifier, images):
    plain = MaskingSaliency(MaskingModel(classifier, target_aware=False))
    assert torch.equal(plain.attribute(images, target=0), plain.attribute(images, target=3))
    told = MaskingSaliency(MaskingModel(classifier, masker=partial(Masker, classes=4)))
    one, other = (told.attribute(images, target=target) for target in (0, 3))
    assert (one != other).flatten(1).any(1).all()
    predicted = classifier.eval()(images).argmax(1)
    assert torch.equal(told.attribute(images), told.attribute(images, target=predicted))


def test_a_masker_that_is_told_a_size_learns_to_meet_it(classifier, images, labels):
    torch.manual_seed(0)
    model = MaskingModel(classifier, masker=partial(Masker, sized=True))
    regularizer = SizeAsked(weight_in=50.0, weight_out=50.0)
    trainer = MaskingTrainer(
        model, train_classifier=FromScratch(), regularizer=regularizer, lr=1e-2
    )
    trainer.fit([(images, labels)] * 30, epochs=10, show_progress=False)
    small, large = (
        MaskingSaliency(model).attribute(images, area=area).mean().item() for area in (0.3, 0.7)
    )
    assert small == pytest.approx(0.3, abs=0.12) and large == pytest.approx(0.7, abs=0.12)


@pytest.mark.parametrize("area", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_size_that_is_no_fraction_is_refused(classifier, images, area):
    model = MaskingModel(classifier, masker=partial(Masker, sized=True))
    with pytest.raises(ValueError, match=r"area must be a fraction .* between 0 and 1"):
        MaskingSaliency(model).attribute(images, area=area)


def test_a_size_asked_of_a_masker_that_takes_none_is_refused(model, images):
    with pytest.raises(ValueError, match=r"takes no area.*sized=True"):
        MaskingSaliency(model).attribute(images, area=0.5)


def test_masks_of_the_deeper_decoder_resolve_what_the_finest_map_resolves():
    # Only the finest map differs between the two images, in one cell: the logits differ there.
    torch.manual_seed(0)
    masker = UNetMasker([2, 3, 4], width=8).eval()
    features = [torch.randn(1, 2, 16, 16), torch.randn(1, 3, 8, 8), torch.randn(1, 4, 4, 4)]
    before = masker(features, (16, 16))
    features[0][..., 3, 12] += 5
    changed = (masker(features, (16, 16)) - before).abs()[0, 0]
    assert changed[3, 12] > 0 and changed[10:, :6].max() == 0


@pytest.mark.parametrize("make", [Masker, UNetMasker])
def test_a_masker_without_a_map_to_read_is_refused(make):
    with pytest.raises(ValueError, match="at least one feature map"):
        make([])


def test_a_raw_map_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"indices of the 2 feature maps, but got \[2\]"):
        Masker([3, 4], raw=[2])
