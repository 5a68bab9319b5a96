"""Promises of Opti-CAM and Score-CAM, most of them worked by hand on a line of pixels."""

from __future__ import annotations

import copy
import pickle
from functools import partial

import pytest
import torch
from networks import assert_same, cnn, everything
from torch import Tensor, nn

from captum_masking import MaskingModel
from captum_masking.methods import OptiCAM, ScoreCAM
from captum_masking.methods.base import normalized, probability, weighted
from captum_masking.parts.infill import Black, Color, Mean, Noise

both = pytest.mark.parametrize(
    "method", [partial(OptiCAM, steps=3), ScoreCAM], ids=["OptiCAM", "ScoreCAM"]
)


class Pixels(nn.Module):
    """Two maps of a picture 1 x 3, its first pixel and its second; the logit is w times x."""

    def __init__(self, weights: list[float]) -> None:
        super().__init__()
        self.maps = nn.Conv2d(1, 2, 1, bias=False)
        self.maps.register_forward_hook(lambda *_: torch.eye(3)[None, :2, None])
        self.weights = nn.Parameter(torch.tensor(weights, dtype=torch.float32))

    def forward(self, inputs: Tensor) -> Tensor:
        self.maps(inputs)
        score = (self.weights * inputs[:, 0, 0]).sum(1)
        return torch.stack([score, -score], dim=1)


PICTURE = torch.tensor([[[[1.0, 1.0, 1.0]]]])


def line(found: Tensor) -> list[float]:
    return found.flatten().tolist()


# Opti-CAM.


def test_one_map_is_the_answer_whatever_its_weight():
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    nn.init.ones_(network[0].weight), nn.init.zeros_(network[0].bias)
    image = torch.tensor([[[[1.0, 2.0, 5.0]]]])
    for found in (OptiCAM(network, "0", steps=3), ScoreCAM(network, "0")):
        torch.testing.assert_close(found.attribute(image, 0), (image - 1) / 4)


def test_opti_cam_leaves_out_the_map_that_speaks_against_the_class():
    # The mask is (1, (1 - s) / s, 0): the less of the second pixel, the higher the logit.
    found = line(OptiCAM(Pixels([1, -1, 0]), "maps").attribute(PICTURE, 0))
    assert found[0] == 1 and found[1] < 0.01 and found[2] == 0


def test_opti_cam_stays_where_it_starts_if_that_is_best():
    # Both pixels speak for the class, and with equal weights both are seen whole.
    assert line(OptiCAM(Pixels([2, 1, 0]), "maps").attribute(PICTURE, 0)) == [1, 1, 0]


def test_opti_cam_follows_the_target():
    found = line(OptiCAM(Pixels([1, -1, 0]), "maps").attribute(PICTURE, 1))
    assert found[1] == 1 and found[0] < 0.01


def test_opti_cam_finds_what_a_search_over_all_weights_finds():
    network = nn.Sequential(
        *(nn.Conv2d(3, 2, 3), nn.Tanh(), nn.Conv2d(2, 4, 3), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for part in network[::2]:
            getattr(part, "reset_parameters", lambda: None)()
        images = torch.randn(2, 3, 9, 9)
    found = OptiCAM(network, "1", lr=1.0).attribute(images, 1)
    with torch.no_grad():
        reached = network(found * images)[:, 1]
        shares = torch.linspace(0, 1, 1001)
        for image, score in zip(images, reached, strict=True):
            maps = network[:2](image[None]).expand(1001, -1, -1, -1)
            masks = normalized(weighted(maps, torch.stack([shares, 1 - shares], 1)), [9, 9])
            best = network(masks * image)[:, 1].max()
            assert float(best - score) < 1e-3 * float(best.abs())


def test_opti_cam_never_returns_less_than_its_start_or_fewer_steps(images):
    network, scores = cnn(dropout=0.0).eval(), []
    for steps in (1, 2, 5, 20):
        mask = OptiCAM(network, "5", steps=steps, lr=3.0).attribute(images, 1)
        scores.append(network(mask * images)[:, 1].detach())
    for fewer, more in zip(scores, scores[1:], strict=False):
        assert (more >= fewer - 1e-5).all()
    assert (scores[-1] > scores[0] + 1e-3).any()


def test_one_step_of_opti_cam_is_the_mean_of_the_maps(images):
    network = cnn(dropout=0.0).eval()
    found = OptiCAM(network, "5", steps=1).attribute(images, 1)
    expected = normalized(network[:6](images).mean(1, keepdim=True), [16, 16]).detach()
    torch.testing.assert_close(found, expected.expand_as(found))


def test_an_example_is_optimized_as_if_it_were_alone(images):
    method = OptiCAM(cnn(dropout=0.0).eval(), "5", steps=30)
    scale = torch.tensor([1.0, 1e-3, 1e3, 1.0, 0.0, 1.0])  # of very different gradients
    images = images * scale[:, None, None, None]
    together = method.attribute(images, [0, 1, 2, 3, 0, 1])
    alone = [method.attribute(x[None], t) for x, t in zip(images, [0, 1, 2, 3, 0, 1], strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-3, rtol=0)


def test_an_example_is_done_when_its_score_no_longer_changes(images):
    network, calls = cnn(dropout=0.0).eval(), []
    network.register_forward_hook(lambda *_: calls.append(1))
    OptiCAM(network, "5", steps=50, tolerance=1e9).attribute(images, 1)
    few = len(calls)
    calls.clear()
    OptiCAM(network, "5", steps=50, tolerance=0.0).attribute(images, 1)
    assert len(calls) == few + 48  # two scores tell of a change


# Score-CAM.


def test_score_cam_weighs_each_map_by_what_it_leaves():
    # Seen through one of the two maps the logits are 1 and -1.
    first, second, third = line(ScoreCAM(Pixels([1, -1, 0]), "maps").attribute(PICTURE, 0))
    assert first == 1 and third == 0
    assert second == pytest.approx(0.1192 / 0.8808, abs=1e-4)


def test_score_cam_as_its_authors_code_has_it():
    method = ScoreCAM(Pixels([1, -1, 0]), "maps", score=probability, weigh=lambda scores: scores)
    found = line(method.attribute(PICTURE, 0))  # of logits 1, -1 and -1, 1
    assert found == pytest.approx([1, 0.1192 / 0.8808, 0], abs=1e-4)


def test_maps_that_are_the_same_everywhere_hide_all():
    seen = []
    network = Pixels([1, 1, 1])
    network.maps.register_forward_hook(lambda *_: torch.ones(1, 2, 1, 3))
    network.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    found = ScoreCAM(network, "maps", infill=Color(7)).attribute(PICTURE, 0)
    assert (seen[-1] == 7).all() and line(found) == [0, 0, 0]


def test_score_cam_is_a_slow_loop_over_maps(images):
    network, size = cnn(dropout=0.0).eval(), (16, 16)
    with torch.no_grad():
        maps = network[:6](images)
        for row, image in enumerate(images):
            scores = [
                network(normalized(each[None, None], size) * image)[0, 2] for each in maps[row]
            ]
            weights = torch.stack(scores).softmax(0)
            total = sum(w * each for w, each in zip(weights, maps[row], strict=True))
            expected = normalized(total.relu()[None, None], size)[0].expand_as(image)
            for count in (1, 3, 100):
                method = ScoreCAM(network, "5")
                found = method.attribute(image[None], 2, perturbations_per_eval=count)
                torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=1e-4)


def test_score_cam_agrees_with_pytorch_grad_cam(images):
    library = pytest.importorskip("pytorch_grad_cam", reason="needs pip install pytorch-grad-cam")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    network = nn.Sequential(  # maps as large as the picture: theirs are enlarged otherwise
        *(nn.Conv2d(3, 6, 3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()),
        nn.Linear(24, 4),
    )
    theirs = library.ScoreCAM(model=copy.deepcopy(network), target_layers=[])
    copied = theirs.model
    theirs = library.ScoreCAM(model=copied, target_layers=[copied[1]])
    expected = theirs(images, [targets.ClassifierOutputTarget(2)] * len(images))
    found = ScoreCAM(network, "1").attribute(images, 2)[:, 0]
    torch.testing.assert_close(found, torch.from_numpy(expected), atol=1e-5, rtol=0)


def test_memory_is_that_of_so_many_copies(images):
    network, seen = cnn(dropout=0.0).eval(), []
    network.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    ScoreCAM(network, "5").attribute(images, 1, perturbations_per_eval=3)
    assert seen[-3:] == [3 * 6, 3 * 6, 2 * 6]  # of 8 maps


# Both.


@both
def test_a_layer_is_a_name_a_module_what_one_takes_or_found(method, images):
    network = cnn(dropout=0.0).eval()
    expected = method(network, "5").attribute(images, 1)
    for layer in (network[5], "6.input", None):
        assert torch.equal(method(network, layer).attribute(images, 1), expected)
    assert torch.equal(method(MaskingModel(network), "5").attribute(images, 1), expected)
    assert not torch.allclose(method(network, "2").attribute(images, 1), expected, atol=0.01)


@both
def test_a_layer_that_is_not_there_is_refused_by_the_nearest_name(method):
    with pytest.raises(ValueError, match="nearest: 5"):
        method(cnn(), "55")


@both
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_any_number_of_spatial_dimensions(method, dims):
    images = torch.randn(2, 3, *[16] * dims)
    found = method(cnn(dims=dims).eval()).attribute(images, 1)
    assert found.shape == images.shape and found.amin() == 0 and found.amax() == 1


@both
def test_tokens_are_laid_out_as_maps(method):
    pytest.importorskip("torchvision")
    from torchvision.models.vision_transformer import VisionTransformer

    network = VisionTransformer(32, 8, 2, 2, 12, 24, num_classes=3).eval()
    nn.init.normal_(network.heads.head.weight)
    layer = "encoder.layers.encoder_layer_1.ln_1"
    found = method(network, layer).attribute(torch.randn(2, 3, 32, 32), 1)
    assert found.shape == (2, 3, 32, 32) and found.amax() == 1


@both
def test_vectors_are_refused_in_words(method):
    network = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    with pytest.raises(ValueError, match="as many spatial sides as the maps of '1'"):
        method(network, "1").attribute(torch.randn(2, 4), 0)


@both
def test_a_function_has_no_layers_to_read(method, images):
    with pytest.raises(TypeError, match="pass the classifier itself"):
        method(lambda inputs: inputs.mean((2, 3))).attribute(images, 0)


@both
def test_several_inputs_are_masked_at_once(method):
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.color, self.depth = cnn(dropout=0.0), cnn(1, dropout=0.0)

        def forward(self, color: Tensor, depth: Tensor) -> Tensor:
            return self.color(color) + self.depth(depth)

    network, color, depth = Two().eval(), torch.randn(2, 3, 16, 16), torch.randn(2, 1, 32, 32)
    found = method(network, "color.5").attribute((color, depth), 1)
    assert [each.shape for each in found] == [color.shape, depth.shape]
    other = method(network, "color.5").attribute((color, 5 * depth), 1)
    assert not torch.equal(found[0], other[0])


@both
def test_holes_are_filled_by_the_infill(method, images):
    network = cnn(dropout=0.0).eval()
    plain, black, color = (
        method(network, "5", infill=fill).attribute(images, 1)
        for fill in (Mean(), Black(0.5, 0.25), Color(-2.0))
    )
    torch.testing.assert_close(black, color)
    assert not torch.allclose(plain, color, atol=0.01)


@both
def test_an_infill_that_draws_draws_the_same_for_each_image(method, images):
    before = torch.get_rng_state()
    method = method(cnn(dropout=0.0).eval(), "5", infill=Noise())
    together = method.attribute(images, 1)
    alone = torch.cat([method.attribute(image[None], 1) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-3, rtol=0)
    assert torch.equal(torch.get_rng_state(), before)


@both
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_it_leaves_no_gradient_and_asks_for_none_outside(method, context, images):
    network = cnn(dropout=0.0).eval()
    expected, before = method(network, "5").attribute(images, 1), everything(network)
    with context():
        found = method(network, "5").attribute(images.clone(), 1)
    torch.testing.assert_close(found, expected)
    assert_same(before, everything(network))


def test_a_classifier_that_cuts_gradients_is_refused_in_words(images):
    class Cut(nn.Sequential):
        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(inputs).detach()

    with pytest.raises(RuntimeError, match="gradients are cut"):
        OptiCAM(Cut(*cnn()), "5").attribute(images, 1)


@both
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_taken(method, dtype, images):
    found = method(cnn(dropout=0.0).eval().to(dtype), "5").attribute(images.to(dtype), 1)
    assert found.dtype == dtype and found.isfinite().all() and found.amax() == 1


@both
def test_a_classifier_that_answers_the_same_to_anything_gives_a_finite_map(method, images):
    network = cnn(dropout=0.0).eval()
    nn.init.zeros_(network[-1].weight)
    assert method(network, "5").attribute(images, 1).isfinite().all()
    assert method(network, "5").attribute(0 * images, 1).isfinite().all()


@both
def test_it_can_be_pickled(method, images):
    made = method(cnn(dropout=0.0).eval(), "5")
    again = pickle.loads(pickle.dumps(made))
    assert torch.equal(again.attribute(images, 1), made.attribute(images, 1))


@both
def test_a_bar_is_shown_where_asked_for(method, images, capsys):
    method(cnn(dropout=0.0).eval(), "5").attribute(images[:1], 1, show_progress=True)
    assert "CAM" in capsys.readouterr().err


def test_settings_that_make_no_sense_are_refused(images):
    for wrong in ({"steps": 0}, {"lr": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            OptiCAM(cnn(), **wrong)
    with pytest.raises(ValueError, match="perturbations_per_eval"):
        ScoreCAM(cnn()).attribute(images, 1, perturbations_per_eval=0)
