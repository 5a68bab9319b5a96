"""Captum's infidelity and max-sensitivity: what small changes do to the answer and to the map."""

from __future__ import annotations

from typing import Any

import captum.metrics
import torch
from torch import Tensor

from captum_masking._captum_compat import TargetType
from captum_masking.metrics.faithfulness.asking import Classifier
from captum_masking.metrics.faithfulness.explaining import (
    Attribute,
    Explained,
    borrowed,
    owner_of,
)
from captum_masking.metrics.faithfulness.means import MeanScore
from captum_masking.metrics.faithfulness.perturbation import (
    Perturbation,
    Same,
    SquareRemoval,
    UniformNoise,
)


def infidelity(
    classifier: Classifier,
    inputs: Tensor,
    attribute: Attribute,
    target: TargetType,
    *,
    perturbation: Perturbation = SquareRemoval(),
    samples: int = 10,  # Captum's default
    normalize: bool = True,
    multiplies_by_inputs: bool | None = None,
    seed: int = 0,
    batch_size: int = 32,
) -> Tensor:
    """Return how badly the map foretells what changes to the image do to the target's logit.

    The mean over changes I of ``(sum(I * map) - (f(x) - f(x - I)))^2``; lower is better, 0 is
    perfect.

    Changes are drawn from a generator of their own: the same for every image, every method and
    every call with this seed; torch's global random numbers move only if the method draws from
    them. All models are held in eval mode, and given back with the modes, flags and gradients
    that they had; so are those of a Captum ``Attribution``.

    Args:
        classifier: Called as ``classifier(inputs)``; returns logits ``(B, classes)``, or one
            score per image.
        inputs: ``(B, C, H, W)``, floating point.
        attribute: Any Captum ``Attribution``, its ``attribute`` method, or a function called as
            ``attribute(inputs, target=target)``. Maps with NaN or infinity count as zeros.
        target: Any form Captum takes; None is the class predicted for the whole image. The
            method gets the indices ``(n,)`` of its images.
        perturbation: Makes the changes: `SquareRemoval`, `NormalNoise`, `UniformNoise`.
        samples: Changes per image, >= 1.
        normalize: Scale each map by the one number that suits it best, so that maps in other
            units than logits, such as masks, can be compared.
        multiplies_by_inputs: Whether the map says what pixels add to the logit, as in Integrated
            Gradients, rather than how fast it grows with them. Then I is taken as a fraction of
            the input: 1 where a pixel is replaced by zero. None asks the Captum method, and is
            False for a function; True suits masks.
        seed: Of the changes.
        batch_size: Images shown to the classifier, and to the method, at a time.

    Returns:
        Float32 ``(B,)``, >= 0, in squared logits, on the device of ``inputs``. A map of zeros
        scores the mean square of the changes in logit.

    Raises:
        ValueError: If inputs are not finite, maps have another shape, or an argument leaves its
            range.
        TypeError: If the classifier or ``attribute`` is not callable, or inputs are not floating
            point.
        TargetError: If the target does not name one class for each image.

    Source:
        Yeh et al. 2019, infidelity, computed by Captum.

    Example:
        >>> from captum.attr import InputXGradient
        >>> linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        >>> inputs = torch.rand(2, 1, 4, 4)  # the map of a linear model foretells everything
        >>> bool((infidelity(linear, inputs, InputXGradient(linear), target=1) < 1e-5).all())
        True
    """
    _check_samples(samples)
    with borrowed(classifier, attribute):
        said = Explained(classifier, inputs, attribute, target, batch_size)
        share = _multiplies(attribute) if multiplies_by_inputs is None else multiplies_by_inputs
        as_captum_asks = captum.metrics.infidelity_perturb_func_decorator(share)
        values = [
            captum.metrics.infidelity(
                said.logits,
                as_captum_asks(Same(perturbation, len(images), seed)),
                images,
                said(images, classes),
                target=classes,
                n_perturb_samples=samples,
                max_examples_per_batch=_at_once(images, samples, batch_size),
                normalize=normalize,
            )
            for images, classes in said.batches(batch_size)
        ]
    # Captum's sum of three terms can end a rounding error below zero.
    return torch.cat(values).clamp(min=0).float()


def max_sensitivity(
    classifier: Classifier,
    inputs: Tensor,
    attribute: Attribute,
    target: TargetType,
    *,
    perturbation: Perturbation = UniformNoise(),
    samples: int = 10,  # Captum's default
    seed: int = 0,
    batch_size: int = 32,
) -> Tensor:
    """Return how much the map can change when the image hardly does; lower is better.

    The greatest over changes of ``|map(x) - map(changed x)| / |map(x)|``, Euclidean norms. The
    target stays that of the unchanged image.

    Changes are drawn, and models given back, as in `infidelity`.

    Args:
        classifier: As in `infidelity`; says what the target is.
        inputs: As in `infidelity`.
        attribute: As in `infidelity`.
        target: As in `infidelity`.
        perturbation: Makes the changes, as in `infidelity`.
        samples: Changes per image, >= 1.
        seed: Of the changes.
        batch_size: Images handed to the method at a time.

    Returns:
        Float32 ``(B,)``, >= 0, on the device of ``inputs``; 0 for a map that never changes. Where
        the map of the image itself is zero it is not divided by its norm.

    Raises:
        ValueError: As `infidelity` does.
        TypeError: As `infidelity` does.
        TargetError: As `infidelity` does.

    Source:
        Yeh et al. 2019, max-sensitivity, computed by Captum.

    Example:
        >>> from captum.attr import Saliency
        >>> linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        >>> inputs = torch.rand(2, 1, 4, 4)  # the gradient of a linear model is the same anywhere
        >>> max_sensitivity(linear, inputs, Saliency(linear), target=1)
        tensor([0., 0.])
    """
    _check_samples(samples)
    with borrowed(classifier, attribute):
        said = Explained(classifier, inputs, attribute, target, batch_size)
        values = [
            captum.metrics.sensitivity_max(
                said,
                images,
                Same(perturbation, len(images), seed),
                n_perturb_samples=samples,
                max_examples_per_batch=_at_once(images, samples, batch_size),
                target=classes,
            )
            for images, classes in said.batches(batch_size)
        ]
    return torch.cat(values).float()


def _at_once(images: Tensor, samples: int, batch_size: int) -> int:
    """Return how many images Captum may show at a time; it warns beyond these bounds."""
    return min(max(batch_size, len(images)), len(images) * samples)


def _multiplies(attribute: Attribute) -> bool:
    return bool(getattr(owner_of(attribute), "multiplies_by_inputs", False))


def _check_samples(samples: int) -> None:
    if samples < 1:
        raise ValueError(f"samples must be 1 or more changes per image, but got {samples}.")


class MethodMean(MeanScore):
    """Mean over images of a function of an attribution method in place of its maps.

    Args:
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Own.

    Example:
        >>> issubclass(Infidelity, MethodMean)
        True
    """

    plot_upper_bound = None

    def update(  # type: ignore[override]
        self,
        classifier: Classifier,
        inputs: Tensor,
        attribute: Attribute,
        target: TargetType = None,
    ) -> None:
        """Score a batch; the arguments are those of the function that this is the mean of."""
        super().update(classifier, inputs, attribute, target)  # type: ignore[arg-type]


class Infidelity(MethodMean):
    """Mean over images of `infidelity`.

    Args:
        perturbation: As in `infidelity`.
        samples: As in `infidelity`.
        normalize: As in `infidelity`.
        multiplies_by_inputs: As in `infidelity`.
        seed: As in `infidelity`.
        batch_size: As in `infidelity`.
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Yeh et al. 2019, infidelity.

    Example:
        >>> from captum.attr import InputXGradient
        >>> linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        >>> metric = Infidelity()
        >>> metric.update(linear, torch.rand(2, 1, 4, 4), InputXGradient(linear), target=1)
        >>> bool(metric.compute() < 1e-5)
        True
    """

    higher_is_better = False
    score = staticmethod(infidelity)
    options = (
        "perturbation",
        "samples",
        "normalize",
        "multiplies_by_inputs",
        "seed",
        "batch_size",
    )

    def __init__(
        self,
        *,
        perturbation: Perturbation = SquareRemoval(),
        samples: int = 10,
        normalize: bool = True,
        multiplies_by_inputs: bool | None = None,
        seed: int = 0,
        batch_size: int = 32,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.perturbation, self.samples, self.normalize = perturbation, samples, normalize
        self.multiplies_by_inputs = multiplies_by_inputs
        self.seed, self.batch_size = seed, batch_size


class MaxSensitivity(MethodMean):
    """Mean over images of `max_sensitivity`.

    Args:
        perturbation: As in `max_sensitivity`.
        samples: As in `max_sensitivity`.
        seed: As in `max_sensitivity`.
        batch_size: As in `max_sensitivity`.
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Yeh et al. 2019, max-sensitivity.

    Example:
        >>> from captum.attr import Saliency
        >>> linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        >>> metric = MaxSensitivity()
        >>> metric.update(linear, torch.rand(2, 1, 4, 4), Saliency(linear), target=1)
        >>> metric.compute()
        tensor(0.)
    """

    higher_is_better = False
    score = staticmethod(max_sensitivity)
    options = ("perturbation", "samples", "seed", "batch_size")

    def __init__(
        self,
        *,
        perturbation: Perturbation = UniformNoise(),
        samples: int = 10,
        seed: int = 0,
        batch_size: int = 32,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.perturbation, self.samples = perturbation, samples
        self.seed, self.batch_size = seed, batch_size
