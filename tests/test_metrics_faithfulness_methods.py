"""Promises of infidelity and max-sensitivity, for the method of anyone."""

from __future__ import annotations

import math
import pickle

import captum.attr
import captum.metrics
import pytest
import torch
from networks import Broken, assert_same, cnn, everything, mixed_modes
from torch import nn

from captum_masking import MaskingModel, MaskingSaliency
from captum_masking import metrics as m
from captum_masking.metrics import MeanOf
from captum_masking.parts.infill import Color, Mean

FUNCTIONS = {"infidelity": m.infidelity, "max_sensitivity": m.max_sensitivity}
each_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


@pytest.fixture
def images(device):
    return torch.randn(3, 3, 12, 12).to(device)


@pytest.fixture
def linear(device):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 4)).to(device)


def gradcam(network):
    """A function in place of an Attribution; its maps have one channel."""
    method = captum.attr.LayerGradCam(network, network[3])

    def attribute(inputs, target):
        maps = method.attribute(inputs, target=target)
        return captum.attr.LayerAttribution.interpolate(maps, inputs.shape[2:], "bilinear")

    return attribute


METHODS = {
    "Saliency": captum.attr.Saliency,
    "InputXGradient": captum.attr.InputXGradient,
    "IntegratedGradients": captum.attr.IntegratedGradients,
    "GradientShap": lambda network: captum.attr.GradientShap(network),
    "GuidedBackprop": captum.attr.GuidedBackprop,
    "Deconvolution": captum.attr.Deconvolution,
    "DeepLift": captum.attr.DeepLift,
    "FeatureAblation": captum.attr.FeatureAblation,
    "NoiseTunnel": lambda network: captum.attr.NoiseTunnel(captum.attr.Saliency(network)),
    "GradCAM": gradcam,
    "MaskingSaliency": lambda network: MaskingSaliency(MaskingModel(network)),
}
RANDOM = {"GradientShap", "NoiseTunnel"}


def built(name, network):
    method = METHODS[name](network)
    if name == "GradientShap":
        return lambda inputs, target: method.attribute(inputs, 0 * inputs, target=target)
    if name == "FeatureAblation":
        mask = (torch.arange(144) // 48).reshape(1, 1, 12, 12)
        return lambda inputs, target: method.attribute(
            inputs, target=target, feature_mask=mask.to(inputs.device)
        )
    return method


@each_function
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.filterwarnings("ignore:Setting (forward, )?backward hooks")
def test_any_method_is_scored_and_leaves_no_trace(function, name, images, device):
    network = cnn().to(device)
    method = built(name, network)
    for parameter in mixed_modes(network).parameters():
        parameter.grad = torch.ones_like(parameter)
    before, state, pixels = everything(network), torch.get_rng_state(), images.clone()
    scores = function(network, images, method, 1, samples=2)
    assert (scores.shape, scores.dtype, scores.device) == ((3,), torch.float32, images.device)
    assert (scores.isfinite() & (scores >= 0)).all() and not scores.requires_grad
    assert_same(before, everything(network))
    assert torch.equal(images, pixels) and images.grad is None
    assert name in RANDOM or torch.equal(torch.get_rng_state(), state)


@each_function
def test_a_method_that_runs_backward_leaves_no_gradients(function, images, classifier):
    def attribute(inputs, target):
        classifier(inputs)[torch.arange(len(inputs)), target].sum().backward()
        return inputs.grad

    before = everything(classifier)
    with_it = function(classifier, images, attribute, None, samples=2)
    assert_same(before, everything(classifier))
    # A Saliency of absolute values would differ: this is the plain gradient.
    method = captum.attr.Saliency(classifier)
    plain = lambda x, target: method.attribute(x, target=target, abs=False)  # noqa: E731
    torch.testing.assert_close(with_it, function(classifier, images, plain, None, samples=2))


@each_function
def test_a_batch_scores_as_one_by_one_whatever_the_batch_size(function, images, classifier):
    method = captum.attr.InputXGradient(classifier)
    target = torch.tensor([0, 3, 1], device=images.device)
    singly = [function(classifier, images[i : i + 1], method, target[i : i + 1]) for i in range(3)]
    for batch_size in (1, 2, 4, 32):
        values = function(classifier, images, method, target, batch_size=batch_size)
        torch.testing.assert_close(values, torch.cat(singly), atol=1e-6, rtol=1e-4)


@each_function
def test_the_seed_alone_decides_on_the_changes(function, images, classifier):
    method = captum.attr.Saliency(classifier)
    values = function(classifier, images, method, 0)
    torch.manual_seed(99)
    assert torch.equal(function(classifier, images, method, 0), values)
    assert not torch.equal(function(classifier, images, method, 0, seed=1), values)


@each_function
def test_an_attribution_and_its_method_are_the_same(function, images, linear):
    method = captum.attr.Saliency(linear)
    torch.testing.assert_close(
        function(linear, images, method.attribute, 1), function(linear, images, method, 1)
    )


@each_function
def test_all_comes_back_when_the_method_or_the_classifier_raises(function, images):
    network = mixed_modes(Broken(cnn(), runs=3))
    before = everything(network)
    with pytest.raises(ArithmeticError):
        function(network, images.cpu(), captum.attr.Saliency(network), 0, samples=9, batch_size=1)
    assert_same(before, everything(network))


@each_function
def test_it_runs_in_inference_mode(function, images, linear):
    with torch.inference_mode():
        values = function(linear, images + 0, captum.attr.Saliency(linear), 0)
    torch.testing.assert_close(
        values.clone(), function(linear, images, captum.attr.Saliency(linear), 0)
    )


@each_function
@pytest.mark.parametrize(
    ("attribute", "error", "match"),
    [
        (lambda x, target: x[..., ::2], ValueError, r"\(3, 3, 12, 12\).*returned \(3, 3, 12, 6\)"),
        (lambda x, target: None, ValueError, "returned NoneType"),
        (torch.zeros(1), TypeError, "attribute must be a Captum Attribution.*got Tensor"),
    ],
)
def test_what_is_no_method_or_gives_no_map_is_refused(
    function, attribute, error, match, images, linear
):
    with pytest.raises(error, match=match):
        function(linear, images, attribute, 0)


@each_function
def test_bad_arguments_are_refused(function, images, linear):
    method = captum.attr.Saliency(linear)
    with pytest.raises(ValueError, match="samples must be at least 1"):
        function(linear, images, method, 0, samples=0)
    with pytest.raises(ValueError, match=r"0\.\.3"):
        function(linear, images, method, 4)
    with pytest.raises(ValueError, match="inputs must be finite"):
        function(linear, images * math.nan, method, 0)


# Infidelity.


def test_infidelity_by_hand():
    # Logit 3a + b. Taking 1 off both pixels takes 4 off the logit; the map foretells 2 + 2.5.
    classifier = lambda x: torch.stack([x.flatten(1) @ torch.tensor([3.0, 1.0])] * 2, 1)  # noqa: E731
    attribute = lambda x, target: x * 0 + torch.tensor([2.0, 2.5])  # noqa: E731
    shift = lambda inputs, generator: inputs - 1  # noqa: E731
    inputs = torch.tensor([[[[5.0, 7.0]]]])
    options = {"perturbation": shift, "samples": 3}
    plain = m.infidelity(classifier, inputs, attribute, 0, normalize=False, **options)
    torch.testing.assert_close(plain, torch.tensor([(4.5 - 4) ** 2]))
    scaled = m.infidelity(classifier, inputs, attribute, 0, **options)
    torch.testing.assert_close(scaled, torch.tensor([0.0]))  # times 4 / 4.5
    # As fractions of the pixels: 2 / 5 + 2.5 / 7.
    shares = m.infidelity(
        classifier, inputs, attribute, 0, normalize=False, multiplies_by_inputs=True, **options
    )
    torch.testing.assert_close(shares, torch.tensor([(2 / 5 + 2.5 / 7 - 4) ** 2]))


@pytest.mark.parametrize("constant", [0.0, math.nan, math.inf])
def test_an_empty_map_and_one_with_nan_score_the_mean_square_of_the_changes(constant, linear):
    inputs = torch.randn(2, 3, 12, 12, device=next(linear.parameters()).device)
    noise = m.NormalNoise(std=0.5)
    generator = torch.Generator().manual_seed(7)
    squares = []
    for _ in range(4):
        change = linear(noise(inputs, generator)) - linear(inputs)
        squares.append(change[:, 2].detach() ** 2)
    scores = m.infidelity(
        linear,
        inputs,
        lambda x, target: torch.full_like(x[:, 0], constant),
        2,
        perturbation=noise,
        samples=4,
        seed=7,
    )
    torch.testing.assert_close(scores, torch.stack(squares).mean(0), atol=1e-6, rtol=1e-4)


def test_the_map_of_a_linear_model_is_faithful_and_a_shuffled_one_is_not(images, linear):
    for method in (captum.attr.InputXGradient, captum.attr.IntegratedGradients):
        assert (m.infidelity(linear, images, method(linear), 1) < 1e-6).all()
    plain = captum.attr.InputXGradient(linear)
    turned = lambda x, target: plain.attribute(x, target=target).flip(2)  # noqa: E731
    scores = m.infidelity(linear, images, turned, 1, multiplies_by_inputs=True)
    assert (scores > 1e-4).all()


@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not")
def test_infidelity_is_captums_for_the_same_changes(images, classifier):
    square = m.SquareRemoval(side=0.5, infill=Color(color=0.3))
    method = captum.attr.Saliency(classifier)
    classifier.eval()
    generator = torch.Generator().manual_seed(0)
    changed = [square(images, generator) for _ in range(5)]
    for normalize in (False, True):
        drawn = iter(changed)

        def one_by_one(inputs, drawn=drawn):
            moved = next(drawn)
            return inputs - moved, moved

        expected = captum.metrics.infidelity(
            classifier,
            one_by_one,
            images,
            method.attribute(images, target=1),
            target=1,
            n_perturb_samples=5,
            max_examples_per_batch=3,  # one change at a time
            normalize=normalize,
        )
        scores = m.infidelity(
            classifier, images, method, 1, perturbation=square, samples=5, normalize=normalize
        )
        torch.testing.assert_close(scores, expected, atol=1e-6, rtol=1e-4)


def test_a_classifier_with_one_score_is_scored_without_a_target(images):
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 1)).to(images.device)
    method = captum.attr.InputXGradient(network)
    for target in (None, 0, 1):
        assert (m.infidelity(network, images, method, target) < 1e-6).all()
    assert m.max_sensitivity(network, images, method, None).shape == (3,)


# Max-sensitivity.


def test_max_sensitivity_by_hand(images, linear):
    shifts = iter([0.1, 0.3, 0.2])
    shift = lambda inputs, generator: inputs + next(shifts)  # noqa: E731
    itself = lambda x, target: x  # noqa: E731
    scores = m.max_sensitivity(linear, images, itself, 0, perturbation=shift, samples=3)
    norms = images.flatten(1).norm(dim=1)
    torch.testing.assert_close(scores, 0.3 * math.sqrt(3 * 12 * 12) / norms)


def test_a_map_that_never_changes_is_not_sensitive_and_an_empty_one_not_divided(images, linear):
    constant = lambda x, target: torch.ones_like(x)  # noqa: E731
    assert not m.max_sensitivity(linear, images, constant, 0).any()
    shift = lambda inputs, generator: inputs + 1  # noqa: E731
    empty = lambda x, target: x - images[:1]  # noqa: E731
    scores = m.max_sensitivity(linear, images[:1], empty, 0, perturbation=shift, samples=1)
    torch.testing.assert_close(scores.cpu(), torch.tensor([math.sqrt(3 * 12 * 12)]))


def test_the_target_stays_that_of_the_unchanged_image(images, linear):
    seen = []

    def attribute(inputs, target):
        seen.append(target.tolist())
        return inputs

    predicted = linear(images).argmax(1).tolist()
    far = m.NormalNoise(std=100.0)
    m.max_sensitivity(linear, images, attribute, None, perturbation=far, samples=2)
    assert seen == [predicted, [label for label in predicted for _ in range(2)]]


# The changes.

CHANGES = [m.SquareRemoval(), m.SquareRemoval(side=0.01), m.UniformNoise(), m.NormalNoise()]


@pytest.mark.parametrize("change", CHANGES, ids=repr)
def test_a_change_is_the_same_for_all_images_and_drawn_anew(change, images):
    inputs = images[:1].expand(3, -1, -1, -1)
    generator = torch.Generator().manual_seed(0)
    once, again = change(inputs, generator), change(inputs, generator)
    assert torch.equal(once[0], once[2]) and not torch.equal(once, again)
    assert torch.equal(change(inputs[:1], torch.Generator().manual_seed(0)), once[:1])
    assert once.shape == inputs.shape and torch.equal(inputs, images[:1].expand(3, -1, -1, -1))
    names = {**vars(m), "Mean": Mean}
    assert repr(eval(repr(change), names)) == repr(change)


def test_a_square_has_the_asked_side_and_every_place_is_possible():
    inputs, generator = torch.ones(1, 2, 4, 6), torch.Generator().manual_seed(0)
    places = set()
    for _ in range(200):
        gone = 1 - m.SquareRemoval(side=0.5)(inputs, generator)[0, 0]
        ys, xs = gone.nonzero().unbind(1)
        assert gone.sum() == 4 and ys.max() - ys.min() == 1 and xs.max() - xs.min() == 1
        places.add((int(ys.min()), int(xs.min())))
    assert len(places) == 3 * 5


def test_changes_refuse_what_is_out_of_range():
    with pytest.raises(ValueError, match=r"side must be a fraction .* got 0"):
        m.SquareRemoval(side=0)
    with pytest.raises(ValueError, match="radius must be 0 or more"):
        m.UniformNoise(radius=-1.0)
    with pytest.raises(ValueError, match="std must be 0 or more"):
        m.NormalNoise(std=math.nan)
    with pytest.raises(ValueError, match="taps odd"):
        m.RiseBlur(taps=4)


# Classes.

METRICS = [
    MeanOf(m.infidelity, samples=3, multiplies_by_inputs=True),
    MeanOf(m.max_sensitivity, samples=3, perturbation=m.UniformNoise(radius=0.1)),
]
each_metric = pytest.mark.parametrize("metric", METRICS, ids=FUNCTIONS)


@each_metric
def test_metrics_in_chunks_equal_at_once_equal_merged(metric, images, classifier):
    method = captum.attr.Saliency(classifier)

    def filled(*parts):
        fresh = pickle.loads(pickle.dumps(metric))
        for part in parts:
            fresh.update(classifier, part, method, 1)
        return fresh

    one, halves = filled(images).compute(), (images[:1], images[1:])
    torch.testing.assert_close(filled(*halves).compute(), one)
    first, second = (filled(half) for half in halves)
    first.merge_state(second)
    torch.testing.assert_close(first.compute(), one)
    values = metric.function(classifier, images, method, 1, **metric.options)
    torch.testing.assert_close(one, values.mean())
    assert repr(eval(repr(metric), {**vars(m), "Mean": Mean})) == repr(metric)
    assert metric.higher_is_better is False and metric.plot_upper_bound is None
