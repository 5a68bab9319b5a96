"""What a classifier says of whole images and of their masked halves, asked for when needed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from captum_masking._base.captum import TargetType
from captum_masking._base.checks import check_labels
from captum_masking._base.target import as_class_logits, class_indices
from captum_masking.metrics.answers import (
    Classifier,
    MeanScore,
    answers,
    check_maps,
    check_question,
    chosen,
    softmax,
)
from captum_masking.metrics.curves import Run
from captum_masking.metrics.maps import check_unit_range, finite_planes
from captum_masking.metrics.mean import ImageMetric
from captum_masking.parts.infill import Infill, Mean
from captum_masking.parts.masking import mask_images


class Masked:
    """Images, their masks in [0, 1], and the classifier's probabilities ``(B, classes)``.

    Masks with NaN or infinity count as zeros, no evidence. Each of the three answers costs one
    pass of the classifier over the images, the first time that it is asked for.
    """

    def __init__(
        self,
        classifier: Classifier,
        inputs: Tensor,
        masks: Tensor,
        target: TargetType,
        *,
        infill: Infill,
        batch_size: int,
    ) -> None:
        check_question(classifier, inputs, batch_size)
        check_maps(inputs, masks)
        check_unit_range(masks)
        self.classifier, self.inputs = classifier, inputs.detach()
        self.infill, self.batch_size = infill, batch_size
        self.masks = finite_planes(masks)[:, None].clamp(0, 1).to(inputs)
        output = answers(classifier, self.inputs.split(batch_size))
        self.clean, self.target = softmax(output), class_indices(output, target)

    @cached_property
    def masked_in(self) -> Tensor:
        """Of the evidence on infilled surroundings."""
        return self._ask(0)

    @cached_property
    def masked_out(self) -> Tensor:
        """Of the surroundings, with the evidence infilled."""
        return self._ask(1)

    # In the same batches as the clean images: a mask of ones then gives the very same numbers.
    @torch.no_grad()
    def _ask(self, side: int) -> Tensor:
        batches = zip(
            self.inputs.split(self.batch_size), self.masks.split(self.batch_size), strict=True
        )
        shown = (mask_images(x, mask, self.infill)[side] for x, mask in batches)
        return softmax(answers(self.classifier, shown))

    def of_target(self, probabilities: Tensor) -> Tensor:
        """Return the target's share of probabilities ``(B, classes)``, ``(B,)``."""
        return chosen(probabilities, self.target)

    def of_others(self, probabilities: Tensor) -> Tensor:
        """Return what the target leaves to the others: 1 - p, without its rounding near p = 1."""
        return probabilities.scatter(1, self.target[:, None], 0).sum(1)


class MaskedMean(MeanScore):
    """Mean over images of a function of masked images.

    Args:
        infill: What fills the holes.
        batch_size: Images shown to the classifier at a time.
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Own.

    Example:
        >>> isinstance(FidIn(), MaskedMean), FidIn()
        (True, FidIn(infill=Mean(), batch_size=32))
    """

    options = ("infill", "batch_size")

    def __init__(self, *, infill: Infill = Mean(), batch_size: int = 32, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.infill, self.batch_size = infill, batch_size


# ---- How much of the target's probability do the masked images keep?


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


# ---- Is the image still recognized from its evidence, and no longer without it?


def masked_in_accuracy(
    classifier: Classifier,
    inputs: Tensor,
    masks: Tensor,
    target: TargetType,
    *,
    infill: Infill = Mean(),
    batch_size: int = 32,
) -> Tensor:
    """Say of each image whether the target comes first on its masked-in half; higher is better.

    Args:
        classifier: Called as ``classifier(inputs)``; returns logits ``(B, classes)``.
        inputs: ``(B, C, H, W)``, floating point.
        masks: ``(B, 1, H, W)`` or ``(B, H, W)`` in [0, 1]; an attribution is scaled first with
            `min_max`. One with NaN or infinity counts as zeros.
        target: Any form Captum takes; None is the class predicted for the whole image.
        infill: What fills the holes.
        batch_size: Images shown to the classifier at a time.

    Returns:
        Float32 ``(B,)`` on the device of ``inputs``: 1 where it does, 0 where not. A mask of zeros
        shows nothing but infill, one of ones the whole image.

    Raises:
        ValueError: If shapes do not fit, a mask leaves [0, 1], or inputs are not finite.
        TypeError: If the classifier is not callable, or inputs are not floating point.
        TargetError: If the target does not name one class for each image.

    Source:
        Phang et al. 2020, the accuracy on masked-in images.

    Example:
        >>> inputs, masks = torch.tensor([[[[2.0, 1.0]]]]), torch.tensor([[[1.0, 0.0]]])
        >>> masked_in_accuracy(torch.nn.Flatten(), inputs, masks, target=0)  # logits 2 and 0
        tensor([1.])
    """
    said = Masked(classifier, inputs, masks, target, infill=infill, batch_size=batch_size)
    return _masked_in_accuracy(said).float()


def _masked_in_accuracy(said: Masked) -> Tensor:
    return said.masked_in.argmax(1) == said.target


def masked_out_accuracy(
    classifier: Classifier,
    inputs: Tensor,
    masks: Tensor,
    target: TargetType,
    *,
    infill: Infill = Mean(),
    batch_size: int = 32,
) -> Tensor:
    """Say of each image whether the target still comes first once masked out; lower is better.

    Args:
        classifier: As in `masked_in_accuracy`.
        inputs: As in `masked_in_accuracy`.
        masks: As in `masked_in_accuracy`.
        target: As in `masked_in_accuracy`.
        infill: As in `masked_in_accuracy`.
        batch_size: As in `masked_in_accuracy`.

    Returns:
        Float32 ``(B,)`` on the device of ``inputs``: 1 where it does, 0 where not. A mask of zeros
        takes nothing out.

    Raises:
        ValueError: As `masked_in_accuracy` does.
        TypeError: As `masked_in_accuracy` does.
        TargetError: As `masked_in_accuracy` does.

    Source:
        Phang et al. 2020, the accuracy on masked-out images.

    Example:
        >>> inputs, masks = torch.tensor([[[[2.0, 1.0]]]]), torch.tensor([[[1.0, 0.0]]])
        >>> masked_out_accuracy(torch.nn.Flatten(), inputs, masks, target=0)  # logits 0 and 1
        tensor([0.])
    """
    said = Masked(classifier, inputs, masks, target, infill=infill, batch_size=batch_size)
    return _masked_out_accuracy(said).float()


def _masked_out_accuracy(said: Masked) -> Tensor:
    return said.masked_out.argmax(1) == said.target


def masked_out_entropy(
    classifier: Classifier,
    inputs: Tensor,
    masks: Tensor,
    target: TargetType = None,
    *,
    infill: Infill = Mean(),
    batch_size: int = 32,
) -> Tensor:
    """Return the entropy of the prediction on each masked-out image; higher is better.

    Args:
        classifier: As in `masked_in_accuracy`.
        inputs: As in `masked_in_accuracy`.
        masks: As in `masked_in_accuracy`.
        target: Plays no part; taken, and checked, so that all these functions are called alike.
        infill: As in `masked_in_accuracy`.
        batch_size: As in `masked_in_accuracy`.

    Returns:
        Float32 ``(B,)`` in nats, between 0 and log(classes), on the device of ``inputs``; for a
        mask of zeros the entropy of the prediction on the whole image.

    Raises:
        ValueError: As `masked_in_accuracy` does.
        TypeError: As `masked_in_accuracy` does.
        TargetError: As `masked_in_accuracy` does.

    Source:
        Phang et al. 2020, the masked-out objective. Its loss leaves out images that are not
        classified correctly; here all count.

    Example:
        >>> inputs, masks = torch.tensor([[[[2.0, 1.0]]]]), torch.tensor([[[1.0, 0.0]]])
        >>> masked_out_entropy(torch.nn.Flatten(), inputs, masks, target=0)  # 0.2689, 0.7311
        tensor([0.5822])
    """
    said = Masked(classifier, inputs, masks, target, infill=infill, batch_size=batch_size)
    return _masked_out_entropy(said).float()


def _masked_out_entropy(said: Masked) -> Tensor:
    return torch.special.entr(said.masked_out).sum(1)


def fid_in(
    classifier: Classifier,
    inputs: Tensor,
    masks: Tensor,
    target: TargetType = None,
    *,
    infill: Infill = Mean(),
    batch_size: int = 32,
) -> Tensor:
    """Say of each image whether its masked-in half is classified as the whole; higher is better.

    It is `masked_in_accuracy` for the predicted class.

    Args:
        classifier: As in `masked_in_accuracy`.
        inputs: As in `masked_in_accuracy`.
        masks: As in `masked_in_accuracy`.
        target: Plays no part; taken, and checked, so that all these functions are called alike.
        infill: As in `masked_in_accuracy`.
        batch_size: As in `masked_in_accuracy`.

    Returns:
        Float32 ``(B,)`` on the device of ``inputs``: 1 where the two predictions agree, 0
        where not.

    Raises:
        ValueError: As `masked_in_accuracy` does.
        TypeError: As `masked_in_accuracy` does.
        TargetError: As `masked_in_accuracy` does.

    Source:
        Paissan et al. 2024 (L-MAC), Fid-In.

    Example:
        >>> inputs, masks = torch.tensor([[[[2.0, 1.0]]]]), torch.tensor([[[0.0, 1.0]]])
        >>> fid_in(torch.nn.Flatten(), inputs, masks, target=0)  # logits 0 and 1
        tensor([0.])
    """
    said = Masked(classifier, inputs, masks, target, infill=infill, batch_size=batch_size)
    return _fid_in(said).float()


def _fid_in(said: Masked) -> Tensor:
    return said.masked_in.argmax(1) == said.clean.argmax(1)


class MaskedInAccuracy(MaskedMean):
    """Mean over images of `masked_in_accuracy`.

    Args:
        infill: What fills the holes.
        batch_size: Images shown to the classifier at a time.
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Phang et al. 2020, the accuracy on masked-in images.

    Example:
        >>> metric = MaskedInAccuracy()
        >>> inputs, masks = torch.tensor([[[[2.0, 1.0]]]]), torch.tensor([[[1.0, 0.0]]])
        >>> metric.update(torch.nn.Flatten(), inputs, masks, target=0)
        >>> metric.compute()
        tensor(1.)
    """

    higher_is_better = True
    score = staticmethod(masked_in_accuracy)


class MaskedOutAccuracy(MaskedMean):
    """Mean over images of `masked_out_accuracy`.

    Args:
        infill: What fills the holes.
        batch_size: Images shown to the classifier at a time.
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Phang et al. 2020, the accuracy on masked-out images.

    Example:
        >>> metric = MaskedOutAccuracy()
        >>> inputs, masks = torch.tensor([[[[2.0, 1.0]]]]), torch.tensor([[[1.0, 0.0]]])
        >>> metric.update(torch.nn.Flatten(), inputs, masks, target=0)
        >>> metric.compute()
        tensor(0.)
    """

    higher_is_better = False
    score = staticmethod(masked_out_accuracy)


class MaskedOutEntropy(MaskedMean):
    """Mean over images of `masked_out_entropy`.

    Args:
        infill: What fills the holes.
        batch_size: Images shown to the classifier at a time.
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Phang et al. 2020, the masked-out objective; in nats.

    Example:
        >>> metric = MaskedOutEntropy()
        >>> inputs, masks = torch.tensor([[[[2.0, 1.0]]]]), torch.tensor([[[1.0, 0.0]]])
        >>> metric.update(torch.nn.Flatten(), inputs, masks, target=0)
        >>> metric.compute()
        tensor(0.5822)
    """

    higher_is_better = True
    plot_upper_bound = None  # log(classes)
    score = staticmethod(masked_out_entropy)


class FidIn(MaskedMean):
    """Mean over images of `fid_in`.

    Args:
        infill: What fills the holes.
        batch_size: Images shown to the classifier at a time.
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Paissan et al. 2024 (L-MAC), Fid-In.

    Example:
        >>> metric = FidIn()
        >>> inputs, masks = torch.tensor([[[[2.0, 1.0]]]]), torch.tensor([[[0.0, 1.0]]])
        >>> metric.update(torch.nn.Flatten(), inputs, masks, target=0)
        >>> metric.compute()
        tensor(0.)
    """

    higher_is_better = True
    score = staticmethod(fid_in)


# ---- Is the map a proof? It should convince of what the classifier believes, and of nothing else.


def completeness(
    classifier: Classifier,
    inputs: Tensor,
    masks: Tensor,
    target: TargetType,
    *,
    alpha: float = 1.0,  # alpha and eps as in the published evaluation
    eps: float = 0.1,
    step_px: int | None = None,
    infill: Infill = Mean(),
    batch_size: int = 32,
) -> Tensor:
    """Return how far the map convinces the classifier of what it believes; higher is better.

    ``min(max(eps, A) / min(alpha, p), 1)`` for the target's probability p on the whole image, and
    A, the mean of its probability over the points of the insertion curve, both ends included.

    Args:
        classifier: As in `deletion_curve`.
        inputs: As in `deletion_curve`.
        masks: As in `deletion_curve`.
        target: As in `deletion_curve`.
        alpha: Confidence that is enough, in (0, 1].
        eps: Confidence on infilled images that is not held against the map, in [0, 1].
        step_px: As in `deletion_curve`.
        infill: Gives the image to start from; published is the mean color.
        batch_size: As in `deletion_curve`.

    Returns:
        Float32 ``(B,)`` in [0, 1] on the device of ``inputs``; 1 where p is 0. A constant map,
        and one with NaN or infinity, restores the image from top to bottom.

    Raises:
        ValueError: If shapes do not fit, inputs are not finite, or an argument leaves its range.
        TypeError: If the classifier is not callable, or inputs are not floating point.
        TargetError: If the target does not name one class for each image.

    Source:
        Gupta et al. 2022, completeness as evaluated in their code.

    Example:
        >>> inputs = torch.tensor([[[[2.0, 0.0]]]])  # 0.5, 0.8808, 0.8808: the mean is 0.7539
        >>> completeness(torch.nn.Flatten(), inputs, inputs, target=0, step_px=1)
        tensor([0.8559])
    """
    _check_share("alpha", alpha, low=False)
    _check_share("eps", eps)
    run = Run(classifier, inputs, masks, step_px, infill, False, batch_size, insert=True)
    believed, shown = _believed_and_shown(run, class_indices(run.whole, target)[:, None])
    return _ratio(shown.clamp(min=eps), believed.clamp(max=alpha))[:, 0].float()


def soundness(
    classifier: Classifier,
    inputs: Tensor,
    masks: Tensor,
    labels: Tensor,
    *,
    beta: float = 0.1,  # as in the published evaluation
    step_px: int | None = None,
    infill: Infill = Mean(),
    batch_size: int = 32,
) -> Tensor:
    """Return how little the map convinces of what the classifier does not believe: worst label.

    ``min(max(beta, p) / A, 1)`` with p and A as in `completeness`, for each label given; the
    least of them is returned. Higher is better: at 1 no label gains from the selection of pixels.

    Args:
        classifier: As in `deletion_curve`.
        inputs: As in `deletion_curve`.
        masks: ``(B, 1, H, W)`` or ``(B, H, W)``, one map for all labels; or with several labels
            ``(B, L, H, W)``, the map of each label. Any scale: only the order counts.
        labels: Integers ``(B,)``, one label an image, or ``(B, L)``, several. The wrong labels
            ask for soundness proper; published are the wrong ones and all.
        beta: Confidence that any label may get, in [0, 1].
        step_px: As in `deletion_curve`.
        infill: Gives the image to start from; published is the mean color.
        batch_size: As in `deletion_curve`.

    Returns:
        Float32 ``(B,)`` in [0, 1] on the device of ``inputs``; 1 where the curve is 0. A constant
        map, and one with NaN or infinity, restores the image from top to bottom.

    Raises:
        ValueError: If shapes do not fit, inputs are not finite, a label is out of range, or an
            argument leaves its range.
        TypeError: If the classifier is not callable, inputs are not floating point, or labels
            not integers.

    Source:
        Gupta et al. 2022, soundness as evaluated in their code: worst over labels.

    Example:
        >>> inputs = torch.tensor([[[[2.0, 0.0]]]])  # of class 1: 0.5, 0.5, 0.1192
        >>> map_of_1 = torch.tensor([[[[0.0, 1.0]]]])
        >>> soundness(torch.nn.Flatten(), inputs, map_of_1, torch.tensor([1]), step_px=1)
        tensor([0.3195])
    """
    _check_share("beta", beta)
    check_question(classifier, inputs, batch_size)
    worst = []
    for one, asked in _per_label(inputs, masks, labels):
        run = Run(classifier, inputs, one, step_px, infill, False, batch_size, insert=True)
        _check_range(asked, inputs, as_class_logits(run.whole).shape[1])
        believed, shown = _believed_and_shown(run, asked)
        worst.append(_ratio(believed.clamp(min=beta), shown).amin(1))
    return torch.stack(worst).amin(0).float()


def completeness_and_soundness(
    classifier: Classifier,
    inputs: Tensor,
    masks: Tensor,
    target: TargetType,
    *,
    alpha: float = 1.0,
    eps: float = 0.1,
    beta: float = 0.1,
    step_px: int | None = None,
    infill: Infill = Mean(),
    batch_size: int = 32,
) -> tuple[Tensor, Tensor]:
    """Return `completeness`, and `soundness` over all other labels, from one insertion curve.

    Args:
        classifier: As in `deletion_curve`.
        inputs: As in `deletion_curve`.
        masks: As in `deletion_curve`.
        target: As in `deletion_curve`.
        alpha: As in `completeness`.
        eps: As in `completeness`.
        beta: As in `soundness`.
        step_px: As in `deletion_curve`.
        infill: Gives the image to start from.
        batch_size: As in `deletion_curve`.

    Returns:
        Two of float32 ``(B,)`` in [0, 1]; soundness is 1 where there is no other label.

    Raises:
        ValueError: As `completeness` does.
        TypeError: As `completeness` does.
        TargetError: As `completeness` does.

    Source:
        Gupta et al. 2022, as `completeness` and `soundness`, for half their price.

    Example:
        >>> inputs = torch.tensor([[[[2.0, 0.0]]]])  # of class 1: 0.5, 0.1192, 0.1192
        >>> completeness_and_soundness(torch.nn.Flatten(), inputs, inputs, target=0, step_px=1)
        (tensor([0.8559]), tensor([0.4843]))
    """
    _check_share("alpha", alpha, low=False)
    _check_share("eps", eps)
    _check_share("beta", beta)
    run = Run(classifier, inputs, masks, step_px, infill, False, batch_size, insert=True)
    count, classes = as_class_logits(run.whole).shape
    everyone = torch.arange(classes, device=run.whole.device).expand(count, classes)
    believed, shown = _believed_and_shown(run, everyone)
    asked = class_indices(run.whole, target)[:, None]
    complete = _ratio(shown.clamp(min=eps), believed.clamp(max=alpha)).gather(1, asked)[:, 0]
    sound = _ratio(believed.clamp(min=beta), shown).scatter(1, asked, 1).amin(1)
    return complete.float(), sound.float()


def _per_label(inputs: Tensor, masks: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Pair each map with its labels ``(B, L)``: one map with all of them, or each with its own."""
    if not isinstance(labels, Tensor) or labels.dim() not in (1, 2) or not labels.numel():
        got = tuple(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(
            f"labels must be a tensor of integers ({len(inputs)},) or ({len(inputs)}, L), but got "
            f"{got}; the same labels for all images are labels.expand({len(inputs)}, -1)."
        )
    columns = labels[:, None] if labels.dim() == 1 else labels
    _check_range(columns, inputs)
    columns = columns.to(inputs.device).long()
    several = masks.dim() == 4 and masks.shape[1] == columns.shape[1] > 1
    if several:
        return list(zip(masks.split(1, 1), columns.split(1, 1), strict=True))
    return [(masks, columns)]


def _check_range(labels: Tensor, inputs: Tensor, classes: int | None = None) -> None:
    for column in labels.unbind(1):
        check_labels(column, inputs, classes)


def _believed_and_shown(run: Run, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Return of each class ``(B, L)`` its probability on the whole image and over the curve."""
    rows = run.of_classes(classes)  # (B, steps + 1, L); the last step is the whole image
    return rows[:, -1], rows.mean(1)


def _ratio(top: Tensor, bottom: Tensor) -> Tensor:
    """Divide, at most 1; 1 where there is nothing to divide by."""
    return torch.where(bottom > 0, top / bottom, 1).clamp(max=1)


def _check_share(name: str, share: float, *, low: bool = True) -> None:
    if not (0 <= share <= 1 if low else 0 < share <= 1):
        raise ValueError(
            f"{name} must be a probability in {'[' if low else '('}0, 1], but got {share}."
        )


class Completeness(MeanScore):
    """Mean over images of `completeness`.

    Args:
        alpha: As in `completeness`.
        eps: As in `completeness`.
        step_px: As in `deletion_curve`.
        infill: Gives the image to start from.
        batch_size: As in `deletion_curve`.
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Gupta et al. 2022, completeness.

    Example:
        >>> metric, inputs = Completeness(step_px=1), torch.tensor([[[[2.0, 0.0]]]])
        >>> metric.update(torch.nn.Flatten(), inputs, inputs, target=0)
        >>> metric.compute()
        tensor(0.8559)
    """

    higher_is_better = True
    score = staticmethod(completeness)
    options = ("alpha", "eps", "step_px", "infill", "batch_size")

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        eps: float = 0.1,
        step_px: int | None = None,
        infill: Infill = Mean(),
        batch_size: int = 32,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.alpha, self.eps, self.step_px = alpha, eps, step_px
        self.infill, self.batch_size = infill, batch_size


class Soundness(MeanScore):
    """Mean over images of `soundness`, each at its worst label.

    Args:
        beta: As in `soundness`.
        step_px: As in `deletion_curve`.
        infill: Gives the image to start from.
        batch_size: As in `deletion_curve`.
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Gupta et al. 2022, soundness, worst over labels.

    Example:
        >>> metric, inputs = Soundness(step_px=1), torch.tensor([[[[2.0, 0.0]]]])
        >>> metric.update(torch.nn.Flatten(), inputs, 1 - inputs, torch.tensor([1]))
        >>> metric.compute()
        tensor(0.3195)
    """

    higher_is_better = True
    score = staticmethod(soundness)
    options = ("beta", "step_px", "infill", "batch_size")

    def __init__(
        self,
        *,
        beta: float = 0.1,
        step_px: int | None = None,
        infill: Infill = Mean(),
        batch_size: int = 32,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.beta, self.step_px = beta, step_px
        self.infill, self.batch_size = infill, batch_size


# ---- All scores of masked images at once, for the price of three passes of the classifier.

_SCORES: dict[str, Callable[[Masked], Tensor]] = {
    "average_drop": _average_drop,
    "average_gain": _average_gain,
    "average_increase": _average_increase,
    "faithfulness_drop": _faithfulness_drop,
    "fid_in": _fid_in,
    "masked_in_accuracy": _masked_in_accuracy,
    "masked_out_accuracy": _masked_out_accuracy,
    "masked_out_entropy": _masked_out_entropy,
}


def masked_scores(
    classifier: Classifier,
    inputs: Tensor,
    masks: Tensor,
    target: TargetType,
    *,
    infill: Infill = Mean(),
    batch_size: int = 32,
) -> dict[str, Tensor]:
    """Return all scores of masked images by name; each is documented at the function of that name.

    Args:
        classifier: As in `average_drop`.
        inputs: As in `average_drop`.
        masks: As in `average_drop`.
        target: As in `average_drop`.
        infill: As in `average_drop`.
        batch_size: As in `average_drop`.

    Returns:
        Float32 ``(B,)`` each, on the device of ``inputs``: ``average_drop``, ``average_gain``,
        ``average_increase``, ``faithfulness_drop``, ``fid_in``, ``masked_in_accuracy``,
        ``masked_out_accuracy``, ``masked_out_entropy``.

    Raises:
        ValueError: As `average_drop` does.
        TypeError: As `average_drop` does.
        TargetError: As `average_drop` does.

    Source:
        Those of the functions; together they cost three passes over the images, not twenty.

    Example:
        >>> inputs, masks = torch.tensor([[[[2.0, 1.0]]]]), torch.tensor([[[1.0, 0.0]]])
        >>> masked_scores(torch.nn.Flatten(), inputs, masks, target=0)["faithfulness_drop"]
        tensor([0.4621])
    """
    said = Masked(classifier, inputs, masks, target, infill=infill, batch_size=batch_size)
    return {name: score(said).float() for name, score in _SCORES.items()}


class MaskedScores(ImageMetric):
    """Means over images of all `masked_scores`, by name.

    Args:
        infill: What fills the holes.
        batch_size: Images shown to the classifier at a time.
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Those of the functions.

    Example:
        >>> metric = MaskedScores()
        >>> inputs, masks = torch.tensor([[[[2.0, 1.0]]]]), torch.tensor([[[1.0, 0.0]]])
        >>> metric.update(torch.nn.Flatten(), inputs, masks, target=0)
        >>> metric.compute()["masked_in_accuracy"]
        tensor(1.)
    """

    higher_is_better = None
    plot_lower_bound = -1.0
    plot_upper_bound = None  # the entropy reaches log(classes)
    totals: Tensor
    seen: Tensor

    def __init__(self, *, infill: Infill = Mean(), batch_size: int = 32, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.infill, self.batch_size = infill, batch_size
        totals = torch.zeros(len(_SCORES), dtype=torch.float64)
        self.add_state("totals", totals, dist_reduce_fx="sum")
        self.add_state("seen", torch.tensor(0), dist_reduce_fx="sum")

    def update(
        self, classifier: Classifier, inputs: Tensor, masks: Tensor, target: TargetType = None
    ) -> None:
        """Score a batch; the arguments are those of `masked_scores`."""
        scores = masked_scores(
            classifier, inputs, masks, target, infill=self.infill, batch_size=self.batch_size
        )
        self.totals += torch.stack(list(scores.values())).to(self.totals).sum(1)
        self.seen += len(inputs)

    def compute(self) -> dict[str, Tensor]:
        """Return the means by name, float32 scalars.

        Raises:
            RuntimeError: If no image was scored.
        """
        if self.seen == 0:
            raise RuntimeError("no image was scored: call update(...) before compute().")
        return dict(zip(_SCORES, (self.totals / self.seen).float(), strict=True))

    def __repr__(self) -> str:
        return f"MaskedScores(infill={self.infill!r}, batch_size={self.batch_size})"
