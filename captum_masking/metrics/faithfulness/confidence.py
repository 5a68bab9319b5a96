"""How much of the target's probability do the masked images keep?"""

from __future__ import annotations

import torch
from torch import Tensor

from captum_masking._captum_compat import TargetType
from captum_masking.infill import Infill, Mean
from captum_masking.metrics.faithfulness.asking import Classifier
from captum_masking.metrics.faithfulness.masked import Masked, MaskedMean


def average_drop(
    classifier: Classifier,
    inputs: Tensor,
    masks: Tensor,
    target: TargetType,
    *,
    infill: Infill = Mean(),
    batch_size: int = 32,
) -> Tensor:
    """Return the share of the target's probability that is lost on the masked-in image.

    ``relu(p - o) / p`` for a probability p on the whole image and o on the masked-in one; lower is
    better.

    Args:
        classifier: Called as ``classifier(inputs)``; returns logits ``(B, classes)``.
        inputs: ``(B, C, H, W)``, floating point.
        masks: ``(B, 1, H, W)`` or ``(B, H, W)`` in [0, 1]; an attribution is scaled first with
            `min_max`. One with NaN or infinity counts as zeros.
        target: Any form Captum takes; None is the class predicted for the whole image.
        infill: What fills the holes.
        batch_size: Images shown to the classifier at a time.

    Returns:
        Float32 ``(B,)`` in [0, 1] on the device of ``inputs``; 0 where p is 0. A mask of zeros
        shows nothing but infill.

    Raises:
        ValueError: If shapes do not fit, a mask leaves [0, 1], or inputs are not finite.
        TypeError: If the classifier is not callable, or inputs are not floating point.
        TargetError: If the target does not name one class for each image.

    Source:
        Zhang et al. 2024 (Opti-CAM), AD, after Chattopadhay et al. 2018; there in percent.

    Example:
        >>> inputs, masks = torch.tensor([[[[2.0, 1.0]]]]), torch.tensor([[[0.5, 0.5]]])
        >>> average_drop(torch.nn.Flatten(), inputs, masks, target=0)  # 0.7311 and 0.6225
        tensor([0.1486])
    """
    said = Masked(classifier, inputs, masks, target, infill=infill, batch_size=batch_size)
    return _average_drop(said).float()


def _average_drop(said: Masked) -> Tensor:
    before, after = said.of_target(said.clean), said.of_target(said.masked_in)
    return torch.where(before > 0, (before - after).relu() / before, 0)


def average_gain(
    classifier: Classifier,
    inputs: Tensor,
    masks: Tensor,
    target: TargetType,
    *,
    infill: Infill = Mean(),
    batch_size: int = 32,
) -> Tensor:
    """Return the share of what the target lacks that the masked-in image adds.

    ``relu(o - p) / (1 - p)`` with p and o as in `average_drop`; higher is better.

    Args:
        classifier: As in `average_drop`.
        inputs: As in `average_drop`.
        masks: As in `average_drop`.
        target: As in `average_drop`.
        infill: As in `average_drop`.
        batch_size: As in `average_drop`.

    Returns:
        Float32 ``(B,)`` in [0, 1] on the device of ``inputs``; 0 where p is 1.

    Raises:
        ValueError: As `average_drop` does.
        TypeError: As `average_drop` does.
        TargetError: As `average_drop` does.

    Source:
        Zhang et al. 2024 (Opti-CAM), AG; there in percent.

    Example:
        >>> inputs, masks = torch.tensor([[[[2.0, 1.0]]]]), torch.tensor([[[1.0, 0.0]]])
        >>> average_gain(torch.nn.Flatten(), inputs, masks, target=0)  # 0.7311 and 0.8808
        tensor([0.5568])
    """
    said = Masked(classifier, inputs, masks, target, infill=infill, batch_size=batch_size)
    return _average_gain(said).float()


def _average_gain(said: Masked) -> Tensor:
    before, after = said.of_others(said.clean), said.of_others(said.masked_in)
    return torch.where(before > 0, (before - after).relu() / before, 0)


def average_increase(
    classifier: Classifier,
    inputs: Tensor,
    masks: Tensor,
    target: TargetType,
    *,
    infill: Infill = Mean(),
    batch_size: int = 32,
) -> Tensor:
    """Say of each image whether the target is more probable on its masked-in half.

    ``o > p`` with p and o as in `average_drop`; higher is better.

    Args:
        classifier: As in `average_drop`.
        inputs: As in `average_drop`.
        masks: As in `average_drop`.
        target: As in `average_drop`.
        infill: As in `average_drop`.
        batch_size: As in `average_drop`.

    Returns:
        Float32 ``(B,)`` on the device of ``inputs``: 1 where it is, 0 where not. A mask of ones
        changes nothing and scores 0.

    Raises:
        ValueError: As `average_drop` does.
        TypeError: As `average_drop` does.
        TargetError: As `average_drop` does.

    Source:
        Zhang et al. 2024 (Opti-CAM), AI; there in percent.

    Example:
        >>> inputs, masks = torch.tensor([[[[2.0, 1.0]]]]), torch.tensor([[[1.0, 0.0]]])
        >>> average_increase(torch.nn.Flatten(), inputs, masks, target=0)  # 0.7311 and 0.8808
        tensor([1.])
    """
    said = Masked(classifier, inputs, masks, target, infill=infill, batch_size=batch_size)
    return _average_increase(said).float()


def _average_increase(said: Masked) -> Tensor:
    return said.of_target(said.masked_in) > said.of_target(said.clean)


def faithfulness_drop(
    classifier: Classifier,
    inputs: Tensor,
    masks: Tensor,
    target: TargetType,
    *,
    infill: Infill = Mean(),
    batch_size: int = 32,
) -> Tensor:
    """Return how much the target's probability falls when the evidence is masked out.

    p on the whole image minus that on the masked-out one; higher is better.

    Args:
        classifier: As in `average_drop`.
        inputs: As in `average_drop`.
        masks: As in `average_drop`.
        target: As in `average_drop`.
        infill: As in `average_drop`.
        batch_size: As in `average_drop`.

    Returns:
        Float32 ``(B,)`` in [-1, 1] on the device of ``inputs``. A mask of zeros takes nothing
        out and scores 0.

    Raises:
        ValueError: As `average_drop` does.
        TypeError: As `average_drop` does.
        TargetError: As `average_drop` does.

    Source:
        Paissan et al. 2024 (L-MAC), FF.

    Example:
        >>> inputs, masks = torch.tensor([[[[2.0, 1.0]]]]), torch.tensor([[[1.0, 0.0]]])
        >>> faithfulness_drop(torch.nn.Flatten(), inputs, masks, target=0)  # 0.7311 and 0.2689
        tensor([0.4621])
    """
    said = Masked(classifier, inputs, masks, target, infill=infill, batch_size=batch_size)
    return _faithfulness_drop(said).float()


def _faithfulness_drop(said: Masked) -> Tensor:
    return said.of_target(said.clean) - said.of_target(said.masked_out)


class AverageDrop(MaskedMean):
    """Mean over images of `average_drop`.

    Args:
        infill: What fills the holes.
        batch_size: Images shown to the classifier at a time.
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Zhang et al. 2024 (Opti-CAM), AD; there in percent.

    Example:
        >>> metric = AverageDrop()
        >>> inputs, masks = torch.tensor([[[[2.0, 1.0]]]]), torch.tensor([[[0.5, 0.5]]])
        >>> metric.update(torch.nn.Flatten(), inputs, masks, target=0)
        >>> metric.compute()
        tensor(0.1486)
    """

    higher_is_better = False
    score = staticmethod(average_drop)


class AverageGain(MaskedMean):
    """Mean over images of `average_gain`.

    Args:
        infill: What fills the holes.
        batch_size: Images shown to the classifier at a time.
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Zhang et al. 2024 (Opti-CAM), AG; there in percent.

    Example:
        >>> metric = AverageGain()
        >>> inputs, masks = torch.tensor([[[[2.0, 1.0]]]]), torch.tensor([[[1.0, 0.0]]])
        >>> metric.update(torch.nn.Flatten(), inputs, masks, target=0)
        >>> metric.compute()
        tensor(0.5568)
    """

    higher_is_better = True
    score = staticmethod(average_gain)


class AverageIncrease(MaskedMean):
    """Mean over images of `average_increase`.

    Args:
        infill: What fills the holes.
        batch_size: Images shown to the classifier at a time.
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Zhang et al. 2024 (Opti-CAM), AI; there in percent.

    Example:
        >>> metric = AverageIncrease()
        >>> inputs, masks = torch.tensor([[[[2.0, 1.0]]]]), torch.tensor([[[1.0, 0.0]]])
        >>> metric.update(torch.nn.Flatten(), inputs, masks, target=0)
        >>> metric.compute()
        tensor(1.)
    """

    higher_is_better = True
    score = staticmethod(average_increase)


class FaithfulnessDrop(MaskedMean):
    """Mean over images of `faithfulness_drop`.

    Args:
        infill: What fills the holes.
        batch_size: Images shown to the classifier at a time.
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Paissan et al. 2024 (L-MAC), FF.

    Example:
        >>> metric = FaithfulnessDrop()
        >>> inputs, masks = torch.tensor([[[[2.0, 1.0]]]]), torch.tensor([[[1.0, 0.0]]])
        >>> metric.update(torch.nn.Flatten(), inputs, masks, target=0)
        >>> metric.compute()
        tensor(0.4621)
    """

    higher_is_better = True
    plot_lower_bound = -1.0
    score = staticmethod(faithfulness_drop)
