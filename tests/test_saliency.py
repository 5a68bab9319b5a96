"""The Captum contract, rule by rule, with a masker and without one.

Rules are numbered as in the project's list of what Captum 0.9 asks of an attribution class.
"""

from __future__ import annotations

import copy
import inspect
import pickle
import warnings
from functools import partial

import pytest
import torch
from captum.attr import Attribution, NoiseTunnel, visualization
from captum.metrics import infidelity, sensitivity_max
from networks import Broken, Counted, Lookup, Quadrants, assert_same, cnn, everything, mixed_modes
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from captum_masking import MaskingModel, MaskingSaliency, MaskingTrainer
from captum_masking._base.checks import TargetError
from captum_masking.saliency.per_input import PerInput
from captum_masking.training.gate import gated, train_gate

# An input optimized for few steps keeps every promise but that of being good.
FEW = {"steps": 3}
DISGUISES = ["module", "lambda", "bound method", "traced", "scripted", "exported", "compiled"]

pytestmark = pytest.mark.filterwarnings("ignore:.*has no masker:UserWarning")


@pytest.fixture(params=["masking model", "plain classifier"])
def network(request, device) -> nn.Module:
    """What a user explains: a model with a masker, and one without."""
    classifier = cnn().to(device)
    return MaskingModel(classifier) if request.param == "masking model" else classifier


@pytest.fixture
def saliency(network) -> MaskingSaliency:
    return MaskingSaliency(network)


@pytest.fixture
def pair(images) -> Tensor:
    return images[:2]


# C1: made from one argument.


def test_c1_one_positional_argument_makes_it_and_forward_func_is_kept(network):
    assert MaskingSaliency(network).forward_func is network


@pytest.mark.parametrize("disguise", DISGUISES)
def test_c1_any_callable_that_returns_logits_can_be_explained(disguises, disguise, pair):
    attribution = MaskingSaliency(disguises[disguise]).attribute(pair, target=1, **FEW)
    expected = MaskingSaliency(disguises["module"]).attribute(pair, target=1, **FEW)
    torch.testing.assert_close(attribution, expected, atol=1e-4, rtol=1e-4)


def test_c1_what_cannot_be_called_is_refused():
    with pytest.raises(TypeError, match="callable that returns logits, but got str"):
        MaskingSaliency("resnet50")


# C2: names and order of arguments.


def test_c2_arguments_are_named_and_ordered_as_in_captum():
    names = list(inspect.signature(MaskingSaliency.attribute).parameters)
    assert names[:4] == ["self", "inputs", "target", "additional_forward_args"]
    assert names[-1] == "show_progress"


# C3: NoiseTunnel looks for the function behind the decorator.


def test_c3_attribute_is_wrapped_as_captum_wraps_its_own():
    assert callable(MaskingSaliency.attribute.__wrapped__)


# C4: tensor to tensor, tuple to tuple.


def test_c4_a_tensor_gives_a_tensor_and_a_tuple_gives_a_tuple(saliency, pair):
    plain = saliency.attribute(pair, target=1, **FEW)
    in_tuple = saliency.attribute((pair,), target=1, **FEW)
    assert isinstance(plain, Tensor)
    assert isinstance(in_tuple, tuple) and len(in_tuple) == 1
    assert torch.equal(in_tuple[0], plain)


@pytest.mark.parametrize("wrap", [lambda x: [x], lambda x: x.cpu().numpy(), lambda x: {"x": x}])
def test_c4_lists_arrays_and_dictionaries_are_refused_as_captum_does(saliency, pair, wrap):
    with pytest.raises(AssertionError, match="tensor"):
        saliency.attribute(wrap(pair), target=1, **FEW)


def test_c4_two_inputs_for_a_model_of_one_are_refused_with_the_way_out(model, pair):
    with pytest.raises(TypeError, match=r"2 tensors.*additional_forward_args"):
        MaskingSaliency(model).attribute((pair, pair), target=1)


def test_c4_no_input_at_all_is_refused(saliency):
    with pytest.raises(TypeError, match="0 tensors"):
        saliency.attribute((), target=1)


def test_c4_inputs_of_which_some_have_more_examples_are_refused(pair):
    saliency = MaskingSaliency(lambda first, second: (first + second).mean((2, 3)))
    with pytest.raises(ValueError, match=r"\[2, 1\]"):
        saliency.attribute((pair, pair[:1]), target=1)


# C5 and C6: the shape of the input, in memory of its own.


@pytest.mark.parametrize("spatial", [(30,), (17, 29), (9, 7, 8)], ids=str)
@pytest.mark.parametrize("masked", [True, False], ids=["masking model", "plain classifier"])
def test_c5_the_attribution_has_the_shape_of_the_input(device, spatial, masked):
    classifier = cnn(3, dims=len(spatial)).to(device)
    inputs = torch.randn(2, 3, *spatial, device=device)
    saliency = MaskingSaliency(MaskingModel(classifier) if masked else classifier)
    assert saliency.attribute(inputs, target=1, **FEW).shape == inputs.shape


def test_c5_the_attribution_is_a_mask_and_the_same_for_every_channel(saliency, pair):
    attribution = saliency.attribute(pair, target=1, **FEW)
    assert 0 <= attribution.min() <= attribution.max() <= 1
    assert torch.equal(attribution, attribution[:, :1].expand_as(attribution))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_c6_the_attribution_can_be_viewed_and_written_to(saliency, pair, memory_format):
    inputs = pair.contiguous(memory_format=memory_format)
    attribution = saliency.attribute(inputs, target=1, **FEW)
    attribution.view(2, -1)
    attribution[0, 0, 0, 0] = 7
    assert (attribution == 7).sum() == 1


@pytest.mark.parametrize(
    "same",
    [
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
        lambda x: torch.cat([x, x], dim=3)[..., :16],
        lambda x: x.clone().requires_grad_(),
        lambda x: x.clone().requires_grad_() * 1,
        lambda x: nn.Parameter(x),
    ],
    ids=["channels last", "transposed", "a view", "a leaf", "no leaf", "a parameter"],
)
def test_c6_how_the_input_lies_in_memory_does_not_change_the_map(saliency, pair, same):
    expected = saliency.attribute(pair, target=1, **FEW)
    attribution = saliency.attribute(same(pair), target=1, **FEW)
    torch.testing.assert_close(attribution, expected, atol=1e-5, rtol=1e-4)


def test_c6_an_expanded_input_is_explained_like_its_copy(saliency, pair):
    expanded = pair[:1, :1].expand(2, 3, 16, 16)
    attribution = saliency.attribute(expanded, target=1, **FEW)
    expected = saliency.attribute(expanded.clone(), target=1, **FEW)
    torch.testing.assert_close(attribution, expected, atol=1e-5, rtol=1e-4)


# C7: detached, on the same device, of the same dtype, finite; nothing of the user's is changed.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("whole", [True, False], ids=["model of that dtype", "model of float32"])
def test_c7_the_attribution_has_dtype_and_device_of_the_input(network, pair, dtype, whole):
    network = network.to(dtype if whole else torch.float32)
    inputs = pair.to(dtype)
    attribution = MaskingSaliency(network).attribute(inputs, target=1, **FEW)
    assert (attribution.dtype, attribution.device) == (dtype, inputs.device)
    assert attribution.isfinite().all() and not attribution.requires_grad


@pytest.mark.parametrize("asks", [True, False])
@pytest.mark.parametrize("gradient", [True, False])
def test_c7_the_input_is_left_as_it_was(saliency, pair, asks, gradient):
    inputs = pair.clone().requires_grad_(asks)
    inputs.grad = torch.ones_like(inputs) if gradient else None
    saliency.attribute(inputs, target=1, **FEW)
    assert torch.equal(inputs, pair) and inputs.requires_grad is asks
    assert (inputs.grad is not None) is gradient
    assert not gradient or (inputs.grad == 1).all()


def test_c7_no_gradient_is_left_in_the_classifier(network, pair):
    MaskingSaliency(network).attribute(pair, target=1, **FEW)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_c7_an_empty_batch_gives_an_empty_map(saliency, pair):
    attribution = saliency.attribute(pair[:0], target=1, **FEW)
    assert attribution.shape == (0, 3, 16, 16) and attribution.dtype == pair.dtype


def test_c7_pixels_that_are_still_bytes_are_refused_with_the_cure(saliency, pair):
    with pytest.raises(TypeError, match=r"torch\.uint8.*255"):
        saliency.attribute(pair.to(torch.uint8), target=1)


def test_c7_inputs_on_another_device_are_refused_with_both_devices(saliency):
    with pytest.raises(ValueError, match="device.*meta"):
        saliency.attribute(torch.zeros(2, 3, 16, 16, device="meta"), target=1)


@pytest.mark.parametrize("answer", [lambda y: (y,), lambda y: {"logits": y}, lambda y: [y]])
def test_c7_logits_are_found_in_what_a_callable_returns(pair, answer):
    classifier = cnn().to(pair.device).eval()
    attribution = MaskingSaliency(lambda inputs: answer(classifier(inputs))).attribute(
        pair, target=1, **FEW
    )
    expected = MaskingSaliency(classifier).attribute(pair, target=1, **FEW)
    torch.testing.assert_close(attribution, expected)


@pytest.mark.parametrize("answer", [lambda y: None, lambda y: {"a": y, "b": y}, lambda y: y.numpy])
def test_c7_a_callable_that_returns_no_logits_is_refused_in_words(pair, answer):
    classifier = cnn().to(pair.device)
    with pytest.raises(TypeError, match="must return logits"):
        MaskingSaliency(lambda inputs: answer(classifier(inputs))).attribute(pair, target=1, **FEW)


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("error", [ValueError, RuntimeError])
def test_c7_a_wrong_number_of_channels_is_refused_in_words(network, pair, channels, error):
    before = everything(mixed_modes(network))
    wrong = torch.zeros(2, channels, 16, 16, device=pair.device)
    with pytest.raises(error, match=rf"must have 3 channels.*have {channels}.*second dimension"):
        MaskingSaliency(network).attribute(wrong, target=1, **FEW)
    assert_same(before, everything(network))


def test_c7_a_picture_without_a_batch_is_refused(network, pair):
    with pytest.raises(ValueError, match=r"inputs\[None\]|3 channels"):
        MaskingSaliency(network).attribute(pair[0, 0], target=1, **FEW)


# C8 and C9: targets.


def accepted(device) -> dict:
    """Forms of one target for two images, by what they mean."""
    long = {"device": device, "dtype": torch.long}
    return {
        (1, 1): [1, -3, (1,), [1, 1], [(1,), (1,)], torch.tensor(1, **long)]
        + [torch.tensor([1], **long), torch.tensor([1, 1], **long)]
        + [torch.tensor([1, 1], dtype=torch.int32, device=device)],
        (3, 3): [3, -1, (3,)],
        (0, 2): [[0, 2], torch.tensor([0, 2], **long), [(0,), (2,)]],
    }


def map_for(network, pair, target) -> Tensor:
    return MaskingSaliency(network).attribute(pair, target=target, **FEW)


@pytest.mark.parametrize("meaning", [(1, 1), (3, 3)])
def test_c8_every_form_of_a_target_for_all_images_gives_the_same_map(network, pair, meaning):
    forms = accepted(pair.device)[meaning]
    expected = map_for(network, pair, meaning[0])
    for form in forms:
        torch.testing.assert_close(map_for(network, pair, form), expected)


def test_c8_a_target_per_image_is_taken_image_by_image(network, pair):
    alone = [map_for(network, pair[[index]], target) for index, target in enumerate((0, 2))]
    for form in accepted(pair.device)[0, 2]:
        torch.testing.assert_close(
            map_for(network, pair, form), torch.cat(alone), atol=1e-4, rtol=1e-4
        )


def test_c8_no_target_means_the_predicted_class(network, pair):
    classifier = getattr(network, "classifier", network)
    predicted = copy.deepcopy(classifier).eval()(pair).argmax(1)
    assert torch.equal(map_for(network, pair, None), map_for(network, pair, predicted))


REFUSED = {
    "too large": 4,
    "too small": -5,
    "far too many": (9999,) * 20,
    "one too large": [0, 4],
    "one too large, as a tensor": torch.tensor([0, 9]),
    "wrong length": [0, 1, 2],
    "wrong length, as a tensor": torch.tensor([0, 1, 2]),
    "a column": torch.tensor([[0], [1]]),
    "a fraction": 1.0,
    "a fraction, as a tensor": torch.tensor(1.0),
    "fractions": [1.0, 2.0],
    "true": True,
    "truths": torch.tensor([True, False]),
    "text": "cat",
    "a tuple for two class dimensions": (0, 2),
    "too many dimensions": (0, 1, 1),
    "nothing": [],
}


@pytest.mark.parametrize("target", REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("error", [AssertionError, ValueError, IndexError])
def test_c9_a_wrong_target_is_refused_as_captum_and_python_do(network, pair, target, error):
    with pytest.raises(error) as caught:
        map_for(network, pair, target)
    assert isinstance(caught.value, TargetError)


@pytest.mark.parametrize("target", [4, torch.tensor([0, 9]), [0, 1, 2]])
def test_c9_the_error_names_the_range_the_shape_and_the_way_out(network, pair, target):
    with pytest.raises(TargetError, match=r"2 examples.*0\.\.3.*\(2, 4\).*but got.*target=None"):
        map_for(network, pair, target)


def test_c8_outputs_with_several_class_dimensions_take_tuples(pair):
    quadrants = Quadrants().to(pair.device)
    square = MaskingSaliency(lambda inputs: quadrants(inputs).reshape(-1, 2, 2))
    flat = MaskingSaliency(quadrants)
    torch.testing.assert_close(
        square.attribute(pair, target=(1, 0), **FEW), flat.attribute(pair, target=2, **FEW)
    )
    with pytest.raises(TargetError, match=r"0\.\.1 x 0\.\.1"):
        square.attribute(pair, target=(1, 2), **FEW)


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_c8_one_score_per_image_needs_no_target(pair, shape):
    score = MaskingSaliency(lambda inputs: inputs.mean((1, 2, 3)).reshape(shape))
    assert score.attribute(pair, **FEW).shape == pair.shape


# C10: more arguments for the classifier.


@pytest.fixture(params=["masking model", "plain classifier"])
def lookup(request, device):
    """A classifier with more arguments, counted, with a masker and without."""
    lookup = Lookup(cnn()).to(device).eval()
    if request.param == "plain classifier":
        return lookup, MaskingSaliency(lookup)
    inner = MaskingModel(lookup.network)
    model = MaskingModel(lookup, ["network.2", "network.5"], masker=inner.masker, example_inputs=0)
    return lookup, MaskingSaliency(model)


def test_c10_additional_arguments_reach_the_classifier(lookup, pair):
    classifier, saliency = lookup
    scale = torch.tensor([1.0, 2.0], device=pair.device)
    saliency.attribute(pair, target=1, additional_forward_args=(scale, "on"), **FEW)
    assert classifier.seen and all(
        (batch, rows, switch) in ((2, (2,), "on"), (4, (4,), "on"))
        for batch, rows, switch in classifier.seen
    )


def test_c10_a_single_argument_needs_no_tuple(lookup, pair):
    _, saliency = lookup
    scale = torch.tensor([1.0, 2.0], device=pair.device)
    bare = saliency.attribute(pair, target=1, additional_forward_args=scale, **FEW)
    wrapped = saliency.attribute(pair, target=1, additional_forward_args=(scale,), **FEW)
    assert torch.equal(bare, wrapped)


def test_c10_noise_tunnel_repeats_them(lookup, pair):
    _, saliency = lookup
    scale = torch.tensor([1.0, 2.0], device=pair.device)
    attribution = NoiseTunnel(saliency).attribute(
        pair, nt_samples=3, target=1, additional_forward_args=(scale, "on"), **FEW
    )
    assert attribution.shape == pair.shape


# C11 to C13: what it says of itself.


def test_c11_a_mask_is_not_multiplied_by_the_input(saliency):
    assert saliency.multiplies_by_inputs is False
    assert NoiseTunnel(saliency).multiplies_by_inputs is False


def test_c12_there_is_no_convergence_delta(saliency):
    assert saliency.has_convergence_delta() is False
    parameters = inspect.signature(MaskingSaliency.attribute).parameters
    assert "return_convergence_delta" not in parameters
    assert "compute_convergence_delta" not in vars(MaskingSaliency)


def test_c13_attribute_future_is_not_implemented(saliency):
    with pytest.raises(NotImplementedError):
        saliency.attribute_future()


# C15: under no_grad and inference_mode.


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("made", ["outside", "inside"])
def test_c15_it_works_where_gradients_are_switched_off(saliency, pair, context, made):
    expected = saliency.attribute(pair, target=1, **FEW)
    with context():
        inputs = pair.clone() if made == "inside" else pair
        attribution = saliency.attribute(inputs, target=1, **FEW)
    torch.testing.assert_close(attribution, expected)


# C16: images do not mix, and the model stays as it was.


def test_c16_a_batch_gives_what_its_images_give_one_by_one(saliency, images):
    together = saliency.attribute(images, target=1, **FEW)
    alone = torch.cat([saliency.attribute(image[None], target=1, **FEW) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)


def test_c16_a_batch_weakens_no_image_however_faint_the_loss(classifier, images):
    saliency = MaskingSaliency(
        classifier,
        objective=lambda judgement: 1e-7 * judgement.logits_in.sum(1).mean(),
        regularizer=lambda mask, judgement: 0 * mask.mean(),
    )
    together = saliency.attribute(images, target=1, **FEW)
    alone = torch.cat([saliency.attribute(image[None], target=1, **FEW) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)


def test_c16_a_model_in_train_mode_is_left_exactly_as_it_was(network, pair):
    mixed_modes(network)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = everything(network)
    MaskingSaliency(network).attribute(pair, target=1, **FEW)
    assert_same(before, everything(network))


def test_c16_the_map_does_not_depend_on_the_mode_of_the_model(network, pair):
    saliency = MaskingSaliency(network.train())
    train = saliency.attribute(pair, target=1, **FEW)
    network.eval()
    assert torch.equal(train, saliency.attribute(pair, target=1, **FEW))


def test_c16_asking_twice_gives_the_same_map_and_draws_no_random_numbers(saliency, pair):
    before = torch.get_rng_state()
    one, other = (saliency.attribute(pair, target=1, **FEW) for _ in range(2))
    assert torch.equal(one, other) and torch.equal(torch.get_rng_state(), before)


# C17: no hooks stay, nor anything else, after an error either.


@pytest.mark.parametrize("masked", [True, False], ids=["masking model", "plain classifier"])
@pytest.mark.parametrize("runs", [0, 1])
def test_c17_nothing_stays_behind_when_the_classifier_raises(device, pair, masked, runs):
    classifier = mixed_modes(Broken(cnn(), runs=10).to(device))
    network = MaskingModel(classifier) if masked else classifier
    saliency = MaskingSaliency(network)
    before = everything(network)
    classifier.runs = 0 if masked else runs
    with pytest.raises(ArithmeticError):
        saliency.attribute(pair, target=1, **FEW)
    assert_same(before, everything(network))


@pytest.mark.parametrize("target", [0, (9999,) * 20])
def test_c17_nothing_stays_behind_after_a_right_or_a_wrong_target(network, pair, target):
    before = everything(network)
    try:
        map_for(network, pair, target)
    except AssertionError:
        assert target != 0
    assert_same(before, everything(network))


# C18 and C21: a real class, with a name, that travels.


def test_c18_it_is_a_class_of_captums_kind_with_a_readable_name(saliency):
    assert inspect.isclass(MaskingSaliency) and issubclass(MaskingSaliency, Attribution)
    assert saliency.get_name() == "Masking Saliency"


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_c21_it_can_be_copied_and_sent_to_another_process(saliency, pair, copied):
    expected = saliency.attribute(pair, target=1, **FEW)
    torch.testing.assert_close(copied(saliency).attribute(pair, target=1, **FEW), expected)


# Captum's tools, unmodified.


@pytest.mark.parametrize("kind", ["smoothgrad", "smoothgrad_sq", "vargrad"])
@pytest.mark.parametrize("target", [1, [0, 2], None], ids=str)
def test_noise_tunnel_takes_it(saliency, pair, kind, target):
    attribution = NoiseTunnel(saliency).attribute(
        pair, nt_type=kind, nt_samples=4, nt_samples_batch_size=2, target=target, **FEW
    )
    assert attribution.shape == pair.shape and attribution.isfinite().all()


def test_noise_tunnel_takes_it_on_a_half_precision_model(network, pair):
    # Its noise is float32, on which Captum's own methods fail.
    saliency = MaskingSaliency(network.to(torch.bfloat16))
    attribution = NoiseTunnel(saliency).attribute(
        pair.to(torch.bfloat16), nt_samples=2, target=1, **FEW
    )
    assert attribution.isfinite().all()


def shake(inputs: Tensor) -> tuple[Tensor, Tensor]:
    noise = 0.1 * torch.randn_like(inputs)
    return noise, inputs - noise


@pytest.mark.parametrize("target", [1, [0, 2], torch.tensor([0, 2])], ids=str)
def test_infidelity_takes_it(network, pair, target):
    attribution = MaskingSaliency(network).attribute(pair, target=target, **FEW)
    score = infidelity(network.eval(), shake, pair, attribution, target=target, n_perturb_samples=3)
    assert score.shape == (2,) and score.isfinite().all()


@pytest.mark.parametrize("target", [1, [0, 2], torch.tensor([0, 2])], ids=str)
def test_sensitivity_max_takes_it(saliency, pair, target):
    score = sensitivity_max(saliency.attribute, pair, target=target, n_perturb_samples=3, **FEW)
    assert score.shape == (2,) and score.isfinite().all()


@pytest.mark.parametrize("method", ["heat_map", "blended_heat_map", "masked_image"])
def test_captum_draws_it(saliency, pair, method):
    matplotlib = pytest.importorskip("matplotlib")
    attribution = saliency.attribute(pair, target=1, **FEW)[0].permute(1, 2, 0).cpu().numpy()
    picture = pair[0].permute(1, 2, 0).sigmoid().cpu().numpy()
    figure, _ = visualization.visualize_image_attr(
        attribution, picture, method=method, sign="positive", use_pyplot=False
    )
    assert isinstance(figure, matplotlib.figure.Figure)


# With a masker: one pass, no warning, and a target that is checked but changes nothing.


def test_a_masking_model_is_explained_in_one_pass_of_its_classifier(device, pair):
    counted = Counted(cnn().to(device))
    saliency = MaskingSaliency(MaskingModel(counted))
    counted.calls = 0
    saliency.attribute(pair, target=1)
    assert counted.calls == 1


def test_the_attribution_of_a_masking_model_is_its_mask(model, pair):
    target = torch.ones(len(pair), dtype=torch.long, device=pair.device)
    attribution = MaskingSaliency(model).attribute(pair, target=1)
    assert torch.equal(attribution[:, :1], model.eval().mask(pair, target=target))


def test_the_target_does_not_change_the_map_of_a_model_told_nothing(classifier, pair):
    saliency = MaskingSaliency(MaskingModel(classifier, target_aware=False))
    assert torch.equal(saliency.attribute(pair, target=0), saliency.attribute(pair, target=3))


def test_a_masking_model_asked_for_what_it_sees_raises_no_warning(model, pair):
    predicted = model.eval()(pair).argmax(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MaskingSaliency(model).attribute(pair, target=predicted)


# Without a masker: said once, and the evidence is found.


@pytest.mark.filterwarnings("default::UserWarning")
def test_without_a_masker_one_warning_names_the_trainer(classifier, pair):
    saliency = MaskingSaliency(classifier)
    with pytest.warns(UserWarning) as caught:
        saliency.attribute(pair, target=1, **FEW)
        saliency.attribute(pair, target=2, **FEW)
    (warning,) = caught
    assert "MaskingTrainer(model).fit" in str(warning.message)
    assert warning.filename == __file__  # it points at the caller's line


def test_how_masks_are_optimised_can_be_said_in_full(classifier, pair):
    options = PerInput(steps=2, grid=3, area=0.25)
    attribution = MaskingSaliency(classifier, per_input=options).attribute(pair, target=1)
    expected = options(classifier, pair, 1)
    assert torch.equal(attribution[:, :1], expected)
    assert attribution.mean((1, 2, 3)).tolist() == pytest.approx([0.25, 0.25], abs=0.01)


def test_without_a_masker_an_area_is_the_budget_of_each_mask(classifier, pair):
    attribution = MaskingSaliency(classifier).attribute(pair, target=1, area=0.3, **FEW)
    assert attribution.mean((1, 2, 3)).tolist() == pytest.approx([0.3, 0.3], abs=0.01)


def test_without_a_masker_the_bar_appears_only_when_asked_for(classifier, pair, capsys):
    saliency = MaskingSaliency(classifier)
    saliency.attribute(pair, target=1, **FEW)
    assert "".join(capsys.readouterr()) == ""
    saliency.attribute(pair, target=1, show_progress=True, **FEW)
    assert "3/3" in "".join(capsys.readouterr())


@pytest.mark.parametrize("steps", [1, 5])
def test_steps_are_the_passes_that_are_paid_for(device, pair, steps):
    counted = Counted(cnn().to(device))
    MaskingSaliency(counted).attribute(pair, target=1, steps=steps)
    assert counted.calls <= 1 + 2 * steps


def bright(*quarters: int, side: int = 64) -> Tensor:
    """A dim picture with some bright quarters."""
    picture, half = 0.05 * torch.rand(1, 3, side, side), side // 2
    for quarter in quarters:
        top, left = divmod(quarter, 2)
        picture[..., top * half : (top + 1) * half, left * half : (left + 1) * half] += 1
    return picture


def quarter_means(attribution: Tensor) -> list[float]:
    rows = (part.chunk(2, dim=3) for part in attribution.chunk(2, dim=2))
    return [part.mean().item() for row in rows for part in row]


@pytest.mark.parametrize("quarter", range(4))
def test_the_evidence_is_found_where_it_was_planted(quadrants, device, quarter):
    picture = bright(quarter).to(device)
    means = quarter_means(MaskingSaliency(quadrants).attribute(picture, target=quarter))
    assert means[quarter] > 0.8
    assert all(mean < 0.25 for index, mean in enumerate(means) if index != quarter)


def test_the_map_of_a_plain_classifier_is_of_the_class_asked_for(quadrants, device):
    picture, saliency = bright(1, 2).to(device), MaskingSaliency(quadrants)
    one = quarter_means(saliency.attribute(picture, target=1))
    two = quarter_means(saliency.attribute(picture, target=2))
    assert one[1] > 3 * one[2] and two[2] > 3 * two[1]


def test_each_picture_of_a_batch_gets_its_own_evidence(quadrants, device):
    pictures = torch.cat([bright(0), bright(3)]).to(device)
    maps = MaskingSaliency(quadrants).attribute(pictures, target=[0, 3])
    assert quarter_means(maps[:1])[0] > 0.8 and quarter_means(maps[1:])[3] > 0.8


def test_infill_objective_and_regularizer_are_used(quadrants, device):
    seen = []

    def note(name, value):
        return lambda *arguments: seen.append(name) or value(*arguments)

    MaskingSaliency(
        quadrants,
        infill=note("infill", lambda inputs, hole: 0 * inputs),
        objective=note("objective", lambda judgement: judgement.logits_in.sum()),
        regularizer=note("regularizer", lambda mask, judgement: mask.mean()),
    ).attribute(bright(0).to(device), target=0, **FEW)
    assert set(seen) == {"infill", "objective", "regularizer"}


# A model in somebody's wrapper.


class Holds(nn.Module):
    """Hands its inputs to a model, as a Lightning module does."""

    def __init__(self, model, before=nn.Identity(), after=nn.Identity()):
        super().__init__()
        self.model, self.before, self.after = model, before, after

    def forward(self, inputs):
        return self.after(self.model(self.before(inputs)))


class Predictor:
    def __init__(self, model):
        self.model = model

    def predict(self, inputs):
        return self.model(inputs)


WRAPPERS = {
    "module": Holds,
    "sequential": nn.Sequential,
    "moving average": AveragedModel,
    "moving average on several devices": lambda model: nn.DataParallel(AveragedModel(model)),
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "compiled module": lambda model: torch.compile(Holds(model), backend="eager"),
    "method": lambda model: model.forward,
    "method of an object": lambda model: Predictor(model).predict,
    "partial": partial,
    "lambda": lambda model: lambda inputs: model(inputs),
    "decorated": lambda model: torch.no_grad()(model),
    "answers with a dict": lambda model: lambda inputs: {"logits": Holds(model)(inputs)},
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_model_is_found_in_a_wrapper_that_only_calls_it(model, images, wrap):
    mixed_modes(model)
    expected = MaskingSaliency(model).attribute(images)
    wrapped = wrap(model)
    before = everything(model)
    with warnings.catch_warnings(action="error"):
        saliency = MaskingSaliency(wrapped)
        found = [saliency.attribute(images) for _ in range(2)]
        said = copy.deepcopy(model).eval()(images).argmax(1)
        several = saliency.attribute_targets(images, said[:, None])
    assert all(torch.equal(each, expected) for each in found)
    assert torch.equal(several[:, 0], expected)
    assert_same(before, everything(model))


DOES_MORE = {
    "normalizes": lambda model: Holds(model, before=nn.InstanceNorm2d(3)),
    "mirrors": lambda model: lambda inputs: model(inputs.flip(-1)),
    "means": lambda model: lambda inputs: (model(inputs) + model(inputs.flip(-1))) / 2,
    "probabilities": lambda model: nn.Sequential(model, nn.Softmax(1)),
    "other order of classes": lambda model: lambda inputs: model(inputs).flip(1),
}


@pytest.mark.parametrize("wrap", DOES_MORE.values(), ids=DOES_MORE)
def test_a_wrapper_that_does_more_gets_masks_of_its_own_and_that_is_said(model, images, wrap):
    wrapped = wrap(model.eval())
    with pytest.warns(UserWarning, match="does more than call one MaskingModel"):
        found = MaskingSaliency(wrapped).attribute(images, target=1, steps=2)
    assert not torch.equal(found, MaskingSaliency(model).attribute(images, target=1))


def test_a_wrapper_is_looked_at_again_when_it_holds_another_model(model, images):
    wrapped = Holds(model)
    saliency = MaskingSaliency(wrapped)
    saliency.attribute(images)
    wrapped.model = other = MaskingModel(cnn(seed=5)).to(images.device)
    assert torch.equal(saliency.attribute(images), MaskingSaliency(other).attribute(images))


@pytest.mark.parametrize("take", [MaskingTrainer, gated, lambda model: train_gate(model, [])])
def test_what_trains_a_model_names_the_one_that_a_wrapper_holds(classifier, model, take):
    with pytest.raises(TypeError, match=r"got Holds; pass its \.model\."):
        take(Holds(model))
    with pytest.raises(TypeError, match=r"got Sequential; make one, MaskingModel\(classifier\)"):
        take(classifier)
    with pytest.raises(TypeError, match="MaskingModel already.*model.classifier"):
        MaskingModel(model)
