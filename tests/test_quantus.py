"""Promises about Quantus: our maps in its metrics, its metrics as ours; most without Quantus."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients
from torch import nn

from captum_masking import MaskingModel, MaskingSaliency
from captum_masking.benchmark.quantus import Explainer, Score

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # targets that change nothing


class MeanOfMaps:
    """Stands for a metric of Quantus: called as one, a number an image."""

    def __call__(self, model, x_batch, y_batch, a_batch, s_batch, **options):
        assert all(isinstance(a, np.ndarray) for a in (x_batch, y_batch, a_batch))
        assert options["channel_first"] and callable(options["explain_func"])
        assert not model.training
        return list(a_batch.mean(axis=(1, 2, 3)))


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


def test_a_score_is_the_mean_over_all_images_whatever_the_batches(model, images, labels):
    maps = torch.rand(6, 1, 16, 16)
    score = Score(MeanOfMaps(), model.train())
    score.update(images[:4], labels[:4], maps[:4])
    score.update(images[4:], labels[4:], maps[4:])
    torch.testing.assert_close(score.compute(), maps.mean(), rtol=0, atol=1e-6)
    assert model.training
    assert not list(score.parameters())  # the model is not a part of the metric
    score.reset()
    with pytest.raises(RuntimeError, match="no image was scored"):
        score.compute()


@pytest.mark.parametrize("found", [[0.5], {"layer": [1.0]}, [[1.0, 2.0]] * 6, None])
def test_what_is_not_one_number_an_image_is_refused_with_the_way_out(model, images, labels, found):
    score = Score(lambda **options: found, model)
    with pytest.raises(TypeError, match="for each of 6 images.*return_auc_per_sample"):
        score.update(images, labels, torch.rand(6, 1, 16, 16))


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
        "randomisation": quantus.RandomLogit(num_classes=4, **QUIET),
        "localisation": quantus.RelevanceMassAccuracy(**QUIET),
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


def test_a_metric_of_quantus_is_one_of_ours_and_says_which_way_is_better(quantus, model, images):
    maps = torch.rand(6, 1, 16, 16)
    metric, labels = quantus.Sparseness(**QUIET), torch.zeros(6, dtype=torch.long)
    score = Score(metric, model)
    score.update(images, labels, maps)
    arrays = [tensor.cpu().numpy() for tensor in (images, labels, maps)]
    alone = metric(model.eval(), *arrays, None, device="cpu")
    torch.testing.assert_close(score.compute(), torch.tensor(np.mean(alone)).float())
    assert score.higher_is_better is True
    assert Score(quantus.MaxSensitivity(**QUIET), model).higher_is_better is False


def test_plain_classifiers_are_explained_by_optimising_each_mask(arrays):
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4))
    maps = Explainer()(classifier, arrays[0][:1], arrays[1][:1])
    assert maps.shape == (1, 1, 16, 16)
