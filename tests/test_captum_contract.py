"""The rules of Captum's contract that test_saliency.py does not hold yet, for a MaskingModel.

Rules are numbered as there, in the project's list of what Captum 0.9 asks of an attribution class.
"""

from __future__ import annotations

import copy
import inspect
import typing

import pytest
import torch
from captum._utils.typing import TargetType, TensorOrTupleOfTensorsGeneric
from captum.attr import IntegratedGradients, NoiseTunnel, Saliency
from captum.metrics import infidelity, sensitivity_max
from networks import Lookup, cnn
from torch import Tensor, nn

from captum_masking import MaskingModel, MaskingSaliency
from captum_masking.parts.infill import Color
from captum_masking.parts.masker import Masker

PARAMETERS = inspect.signature(MaskingSaliency.attribute).parameters


@pytest.fixture
def saliency(model) -> MaskingSaliency:
    return MaskingSaliency(model.eval())


@pytest.fixture
def pair(images) -> Tensor:
    return images[:2]


@pytest.fixture
def lookup(device) -> MaskingSaliency:
    """Explains a classifier that needs a scale per image, and takes a switch."""
    lookup = Lookup(cnn()).to(device).eval()
    inner = MaskingModel(lookup.network)
    layers = ["network.2", "network.5"]
    return MaskingSaliency(MaskingModel(lookup, layers, masker=inner.masker, example_inputs=0))


def noisy(inputs: Tensor) -> tuple[Tensor, Tensor]:
    noise = 0.1 * torch.ones_like(inputs)
    return noise, inputs - noise


def test_c1_the_base_class_knows_the_forward_function(model):
    saliency = MaskingSaliency(forward_func=model)
    assert saliency.forward_func is model


def test_c2_inputs_and_target_are_taken_by_name_and_by_place(saliency, pair):
    by_place = saliency.attribute(pair, 1, None)
    by_name = saliency.attribute(inputs=pair, target=1, additional_forward_args=None)
    assert torch.equal(by_place, by_name)


def test_c2_the_first_arguments_stand_where_captums_own_have_them():
    ours = list(PARAMETERS)[:3]
    for method in (Saliency, IntegratedGradients):
        theirs = [p for p in inspect.signature(method.attribute).parameters if p in ours]
        assert theirs == ours


def test_c3_noise_tunnel_without_noise_gives_the_map_itself(saliency, pair):
    tunnel = NoiseTunnel(saliency).attribute(pair, nt_samples=2, stdevs=0.0, target=1)
    torch.testing.assert_close(tunnel, saliency.attribute(pair, target=1), atol=1e-5, rtol=0)


def test_c4_sensitivity_max_takes_a_tensor_and_a_tuple_of_one(saliency, pair):
    for inputs in (pair, (pair,)):
        assert sensitivity_max(saliency.attribute, inputs, target=1).isfinite().all()


def test_c5_and_c11_infidelity_takes_the_map_as_it_is(model, saliency, pair):
    attribution = saliency.attribute(pair, target=1)
    score = infidelity(model, noisy, pair, attribution, target=1, normalize=True)
    assert score.shape == (2,) and score.isfinite().all()


def test_c6_no_two_pixels_of_the_map_share_memory(saliency, pair):
    assert 0 not in saliency.attribute(pair, target=1).stride()


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_c10_additional_arguments_of_any_kind_are_passed_on_untouched(lookup, pair, parts):
    scale, switch = torch.ones(2, device=pair.device), object()
    arguments = (scale, switch) if parts > 1 else scale
    lookup.attribute(pair, target=1, additional_forward_args=arguments)
    *_, (batch, rows, seen) = lookup.forward_func.classifier.seen
    assert (batch, rows) == (2, (2,)) and (seen is switch if parts > 1 else seen is None)


TARGETS = [1, [0, 2], (3,), [(0,), (2,)], torch.tensor(1), torch.tensor([1]), torch.tensor([0, 2])]


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_c14_every_target_survives_being_repeated_for_noisy_copies(saliency, pair, target):
    target = target.to(pair.device) if isinstance(target, Tensor) else target
    options = {"nt_samples": 3, "stdevs": 0.0, "target": target}
    plain = saliency.attribute(pair, target=target)
    for size in (None, 1, 2):
        tunnel = NoiseTunnel(saliency).attribute(pair, nt_samples_batch_size=size, **options)
        torch.testing.assert_close(tunnel, plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_c14_every_target_survives_sensitivity_max_which_copies_and_repeats_it(
    saliency, pair, target
):
    target = target.to(pair.device) if isinstance(target, Tensor) else target
    change = sensitivity_max(saliency.attribute, pair, n_perturb_samples=3, target=target)
    assert change.shape == (2,) and change.isfinite().all()


def test_c14_additional_arguments_are_repeated_with_the_images(lookup, pair):
    scale = torch.tensor([1.0, 2.0], device=pair.device)
    NoiseTunnel(lookup).attribute(
        pair, nt_samples=3, target=1, additional_forward_args=(scale, "on")
    )
    assert lookup.forward_func.classifier.seen[-1] == (6, (6,), "on")
    change = sensitivity_max(
        lookup.attribute, pair, n_perturb_samples=3, target=1, additional_forward_args=(scale, "on")
    )
    assert change.isfinite().all()


def test_c14_no_keyword_has_to_be_given_and_every_default_can_be_copied():
    for name, parameter in list(PARAMETERS.items())[2:]:
        assert parameter.default is not inspect.Parameter.empty, name
        assert copy.deepcopy(parameter.default) == parameter.default


def test_c14_an_area_for_all_survives_noise_tunnel_and_sensitivity_max(device, pair):
    sized = MaskingModel(cnn().to(device), masker=lambda c, dims: Masker(c, dims=dims, sized=True))
    saliency = MaskingSaliency(sized.to(device))
    options = {"target": 1, "area": 0.3}
    plain = saliency.attribute(pair, **options)
    tunnel = NoiseTunnel(saliency).attribute(pair, nt_samples=2, stdevs=0.0, **options)
    torch.testing.assert_close(tunnel, plain, atol=1e-5, rtol=0)
    assert sensitivity_max(saliency.attribute, pair, **options).isfinite().all()


# C2 and C14: baselines, where Captum's methods take them.


FEW = {"target": 1, "steps": 5}
no_masker = pytest.mark.filterwarnings("ignore:.*has no masker:UserWarning")


def test_c2_a_call_of_integrated_gradients_by_name_is_a_call_of_ours(model, saliency, pair):
    arguments = {"inputs": pair, "baselines": 0 * pair, "target": [0, 2]}
    theirs = IntegratedGradients(model).attribute(**arguments)
    assert saliency.attribute(**arguments).shape == theirs.shape


@no_masker
@pytest.mark.parametrize("value", [0, 0.5, -2])
def test_c2_a_number_as_baseline_is_an_infill_of_that_color(classifier, pair, value):
    expected = MaskingSaliency(classifier, infill=Color(value)).attribute(pair, **FEW)
    found = MaskingSaliency(classifier).attribute(pair, baselines=value, **FEW)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@no_masker
def test_c2_the_evidence_is_where_the_input_differs_from_its_baseline(quadrants, device):
    image = torch.ones(1, 1, 8, 8, device=device)
    baseline = image.clone()
    baseline[..., 4:, :4] = 0  # only the third quarter can be taken away
    found = MaskingSaliency(quadrants).attribute(image, target=2, baselines=baseline)
    quarters = [half.mean().item() for rows in found.chunk(2, 2) for half in rows.chunk(2, 3)]
    assert quarters[2] > 0.7 and max(quarters[:2] + quarters[3:]) < 0.4


@no_masker
def test_c2_every_example_has_the_baseline_of_its_row(classifier, pair):
    saliency, baselines = MaskingSaliency(classifier), torch.randn_like(pair)
    together = saliency.attribute(pair, baselines=baselines, **FEW)
    rows = zip(pair.split(1), baselines.split(1), strict=True)
    alone = [saliency.attribute(image, baselines=baseline, **FEW) for image, baseline in rows]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=0)
    assert not torch.allclose(together, saliency.attribute(pair, **FEW), atol=1e-3)


@no_masker
def test_c2_one_baseline_serves_all_examples(classifier, pair):
    saliency, baseline = MaskingSaliency(classifier), torch.randn_like(pair[:1])
    expected = saliency.attribute(pair, baselines=baseline.repeat(2, 1, 1, 1), **FEW)
    for one in (baseline, (baseline,), baseline.clone().requires_grad_()):
        inputs = (pair,) if isinstance(one, tuple) else pair
        found = saliency.attribute(inputs, baselines=one, **FEW)
        assert torch.equal(found[0] if isinstance(one, tuple) else found, expected)


@no_masker
def test_c2_each_of_several_inputs_has_its_own_baseline(quadrants, pair):
    saliency = MaskingSaliency(lambda first, second: quadrants(first) + quadrants(second))
    found = saliency.attribute((pair, -pair), baselines=(0.5, torch.ones_like(pair)), **FEW)
    for index, value in enumerate((0.5, 1.0)):
        given = [0.0, 0.0]  # the mask of each input is found while the other is seen as it is
        given[index] = value
        expected = saliency.attribute((pair, -pair), baselines=tuple(given), **FEW)
        torch.testing.assert_close(found[index], expected[index], atol=1e-5, rtol=0)


def test_c2_baselines_do_not_change_the_map_of_a_masking_model(saliency, pair):
    expected = saliency.attribute(pair, target=1)
    for baselines in (0, 1.5, torch.randn_like(pair), torch.randn_like(pair[:1])):
        assert torch.equal(saliency.attribute(pair, target=1, baselines=baselines), expected)


@no_masker
@pytest.mark.parametrize("masked", [True, False], ids=["masking model", "plain classifier"])
def test_c2_baselines_that_do_not_fit_are_refused_in_words(classifier, pair, masked):
    saliency = MaskingSaliency(MaskingModel(classifier) if masked else classifier)
    for wrong in (pair[:, :1], pair[..., :8], pair[0], torch.cat([pair, pair]), torch.tensor(0.0)):
        with pytest.raises(ValueError, match=r"\(2, 3, 16, 16\).*or their mean"):
            saliency.attribute(pair, baselines=wrong, **FEW)
    with pytest.raises(ValueError, match="1 inputs, but got 2"):
        saliency.attribute(pair, baselines=(0, 0), **FEW)
    for wrong in ("black", True, [0.0], pair.cpu().numpy()):
        with pytest.raises(TypeError, match="tensors or numbers"):
            saliency.attribute(pair, baselines=wrong, **FEW)


@no_masker
def test_c14_baselines_are_repeated_with_the_images(classifier, pair):
    saliency, baselines = MaskingSaliency(classifier), torch.randn_like(pair)
    arguments = {"baselines": baselines, **FEW}
    plain = saliency.attribute(pair, **arguments)
    tunnel = NoiseTunnel(saliency).attribute(pair, nt_samples=3, stdevs=0.0, **arguments)
    torch.testing.assert_close(tunnel, plain, atol=1e-4, rtol=0)
    assert sensitivity_max(saliency.attribute, pair, **arguments).isfinite().all()


@no_masker
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_c15_baselines_made_without_gradients_are_taken(classifier, pair, context):
    saliency = MaskingSaliency(classifier)
    expected = saliency.attribute(pair, baselines=0.5, **FEW)
    with context():
        found = saliency.attribute(pair, baselines=torch.full_like(pair, 0.5), **FEW)
    torch.testing.assert_close(found, expected)


def test_c16_dropout_and_batch_norm_are_off_whatever_the_mode(classifier, pair):
    classifier[8].p = 0.9
    saliency = MaskingSaliency(MaskingModel(classifier).train())
    together = saliency.attribute(pair, target=[0, 1])
    alone = [saliency.attribute(image[None], target=t) for t, image in enumerate(pair)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=0)


def test_c19_the_types_are_captums_own_and_a_target_may_be_a_function_too():
    hints = typing.get_type_hints(MaskingSaliency.attribute.__wrapped__)
    assert hints["inputs"] is TensorOrTupleOfTensorsGeneric
    assert hints["return"] is TensorOrTupleOfTensorsGeneric
    assert {*typing.get_args(TargetType)} < {*typing.get_args(hints["target"])}


def test_c20_the_bar_is_off_unless_asked_for_and_there_is_none_without_a_loop(
    saliency, pair, capsys
):
    assert PARAMETERS["show_progress"].default is False
    assert "perturbations_per_eval" not in PARAMETERS  # nothing is perturbed
    saliency.attribute(pair, target=1, show_progress=True)
    assert "".join(capsys.readouterr()) == ""


def test_an_attribution_is_no_module_and_follows_the_model(saliency):
    assert not isinstance(saliency, nn.Module)
