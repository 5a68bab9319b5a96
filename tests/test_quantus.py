"""Promises about Quantus: our maps in its metrics; most without Quantus."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients
from torch import nn

from captum_masking import MaskingModel, MaskingSaliency
from captum_masking.benchmark.quantus import Explainer

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # targets that change nothing


@pytest.fixture
def arrays(images, labels):
    return images.cpu().numpy(), labels.cpu().numpy()


def test_a_map_is_one_channel_of_the_mask_as_a_float32_array(model, arrays, images, labels):
    maps = Explainer()(model=model, inputs=arrays[0], targets=arrays[1])
    expected = MaskingSaliency(model).attribute(images, target=labels)[:, :1]
    assert maps.dtype == np.float32 and maps.shape == (6, 1, 16, 16)
    np.testing.assert_array_equal(maps, expected.cpu().numpy())


def test_the_model_that_is_handed_in_is_explained_not_another(classifier, arrays):
    """Quantus draws weights anew and hands in the copy."""
    explain, first, second = Explainer(), MaskingModel(classifier), MaskingModel(classifier)
    assert not np.array_equal(explain(first, *arrays), explain(second, *arrays))


def test_double_precision_inputs_and_float_targets_are_taken(model, arrays):
    inputs, targets = arrays
    maps = Explainer()(model, inputs.astype(np.float64), targets.astype(np.float64))
    np.testing.assert_array_equal(maps, Explainer()(model, inputs, targets))


def test_what_quantus_adds_is_understood_and_the_rest_goes_to_attribute(model, arrays):
    Explainer()(model, *arrays, device="cpu", method="ours")
    with pytest.raises(ValueError, match="area"):
        Explainer()(model, *arrays, area=2.0)


def test_the_model_keeps_its_modes(model, arrays):
    model.train()
    Explainer()(model, *arrays)
    assert all(module.training for module in model.modules())


def test_another_method_of_captum_is_summed_over_channels_as_quantus_does(model, arrays):
    maps = Explainer(IntegratedGradients)(model.eval(), *arrays)
    inputs, target = (torch.as_tensor(values) for values in arrays)
    expected = IntegratedGradients(model).attribute(inputs, target=target).sum(1, keepdim=True)
    torch.testing.assert_close(torch.from_numpy(maps), expected.float())
    assert repr(Explainer(IntegratedGradients)) == "Explainer(IntegratedGradients)"


# With Quantus itself: pip install quantus.


@pytest.fixture
def quantus():
    return pytest.importorskip("quantus")


QUIET = {"disable_warnings": True}


def test_metrics_of_five_groups_take_our_maps(quantus, model, arrays):
    truth = np.zeros((6, 1, 16, 16), dtype=int)
    truth[:, :, 4:12, 4:12] = 1
    metrics = {
        "complexity": quantus.Sparseness(**QUIET),
        "robustness": quantus.MaxSensitivity(nr_samples=2, **QUIET),
        "randomization": quantus.RandomLogit(num_classes=4, **QUIET),
        "localization": quantus.RelevanceMassAccuracy(**QUIET),
        "faithfulness": quantus.FaithfulnessCorrelation(
            nr_runs=3, subset_size=16, return_aggregate=False, **QUIET
        ),
    }
    for group, metric in metrics.items():
        scores = metric(model.eval(), *arrays, None, truth, explain_func=Explainer(), device="cpu")
        assert len(scores) == 6 and np.isfinite(scores).all(), group


def test_random_logit_says_that_one_map_serves_every_target(quantus, model, arrays):
    metric = quantus.RandomLogit(num_classes=4, **QUIET)
    scores = metric(model.eval(), *arrays, None, None, explain_func=Explainer(), device="cpu")
    np.testing.assert_allclose(scores, 1.0, atol=1e-6)  # the map of another class is the same


def test_random_weights_change_the_map_in_mprt(quantus, model, arrays):
    metric = quantus.MPRT(**QUIET)
    found = metric(model.eval(), *arrays, None, None, explain_func=Explainer(), device="cpu")
    assert np.mean(found["original"]) > 0.99 > np.mean(list(found.values())[-1])


def test_evaluate_puts_ours_beside_a_method_of_captum(quantus, model, arrays):
    found = quantus.evaluate(
        metrics={"sparseness": quantus.Sparseness(**QUIET)},
        xai_methods={"ours": Explainer(), "gradients": Explainer(IntegratedGradients)},
        model=model.eval(),
        x_batch=arrays[0],
        y_batch=arrays[1],
        agg_func=np.mean,
        explain_func_kwargs={},
        call_kwargs={"": {"softmax": False, "device": "cpu"}},
    )
    assert set(found) == {"ours", "gradients"}


def test_plain_classifiers_are_explained_by_optimizing_each_mask(arrays):
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4))
    maps = Explainer()(classifier, arrays[0][:1], arrays[1][:1])
    assert maps.shape == (1, 1, 16, 16)
