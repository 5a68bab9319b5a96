"""Faithfulness: the classifier's probabilities of masked-in and masked-out images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from captum_masking._base.captum import TargetType, as_class_logits, class_indices
from captum_masking._base.checks import check_labels
from captum_masking.metrics.classifier import (
    Classifier,
    check_images,
    check_maps,
    logits_of,
    of_class,
    softmax,
)
from captum_masking.metrics.curves import Run
from captum_masking.metrics.maps import check_unit_range, facts, finite_planes
from captum_masking.parts.infill import Infill, Mean
from captum_masking.parts.masking import mask_images


@dataclass(eq=False)
class Masked:
    """The classifier's probabilities ``(B, classes)`` of images, and of both masked images."""

    classifier: Classifier
    inputs: Tensor
    masks: Tensor
    target: Any
    infill: Infill
    batch_size: int
    whole: Tensor | None = None  # the logits of the images, where they are known

    def __post_init__(self) -> None:
        check_images(self.classifier, self.inputs, self.batch_size)
        check_maps(self.inputs, self.masks)
        check_unit_range(self.masks)
        self.inputs = self.inputs.detach()
        self.masks = finite_planes(self.masks)[:, None].clamp(0, 1).to(self.inputs)
        known, batches = self.whole, self.inputs.split(self.batch_size)
        output = logits_of(self.classifier, batches) if known is None else known
        self.clean, self.target = softmax(output), class_indices(output, self.target)

    @cached_property
    def masked_in(self) -> Tensor:
        return self._of_half(0)

    @cached_property
    def masked_out(self) -> Tensor:
        return self._of_half(1)

    # In the same batches as the clean images, so that a mask of ones gives identical numbers.
    @torch.no_grad()
    def _of_half(self, side: int) -> Tensor:
        batches = zip(
            self.inputs.split(self.batch_size), self.masks.split(self.batch_size), strict=True
        )
        halves = (mask_images(x, mask, self.infill)[side] for x, mask in batches)
        return softmax(logits_of(self.classifier, halves))

    def of_target(self, probabilities: Tensor) -> Tensor:
        return of_class(probabilities, self.target)

    def of_others(self, probabilities: Tensor) -> Tensor:
        """Return 1 - p of the target, without rounding errors near p = 1."""
        return probabilities.scatter(1, self.target[:, None], 0).sum(1)


SCORES: dict[str, Callable[[Masked], Tensor]] = {}


def _score(
    *, higher_is_better: bool, lowest: float = 0.0, highest: float | None = 1.0
) -> Callable[[Callable[[Masked], Tensor]], Callable[..., Tensor]]:
    """Turn a function of `Masked` into one of images, and add it to `masked_scores`."""

    def of_images(score: Callable[[Masked], Tensor]) -> Callable[..., Tensor]:
        def function(
            classifier: Classifier,
            inputs: Tensor,
            masks: Tensor,
            target: TargetType = None,
            *,
            infill: Infill = Mean(),
            batch_size: int = 32,
            whole: Tensor | None = None,
        ) -> Tensor:
            given = Masked(classifier, inputs, masks, target, infill, batch_size, whole)
            return score(given).float()

        SCORES[score.__name__] = score
        function.__name__ = function.__qualname__ = score.__name__
        function.__doc__ = score.__doc__
        return facts(higher_is_better=higher_is_better, lowest=lowest, highest=highest)(function)

    return of_images


@_score(higher_is_better=False)
def average_drop(masked: Masked) -> Tensor:
    """Return the share of the target's probability that is lost on the masked-in image (AD).

    ``relu(p - o) / p`` for a probability p on the whole image and o on the masked-in one; 0 where
    p is 0.

    Example:
        >>> inputs, masks = torch.tensor([[[[2.0, 1.0]]]]), torch.tensor([[[0.5, 0.5]]])
        >>> average_drop(torch.nn.Flatten(), inputs, masks, target=0)  # 0.7311 and 0.6225
        tensor([0.1486])
    """
    before, after = masked.of_target(masked.clean), masked.of_target(masked.masked_in)
    return torch.where(before > 0, (before - after).relu() / before, 0)


@_score(higher_is_better=True)
def average_gain(masked: Masked) -> Tensor:
    """Return the share of what the target lacks that the masked-in image adds (AG).

    ``relu(o - p) / (1 - p)`` with p and o as in `average_drop`; 0 where p is 1.

    Example:
        >>> inputs, masks = torch.tensor([[[[2.0, 1.0]]]]), torch.tensor([[[1.0, 0.0]]])
        >>> average_gain(torch.nn.Flatten(), inputs, masks, target=0)  # 0.7311 and 0.8808
        tensor([0.5568])
    """
    before, after = masked.of_others(masked.clean), masked.of_others(masked.masked_in)
    return torch.where(before > 0, (before - after).relu() / before, 0)


@_score(higher_is_better=True)
def average_increase(masked: Masked) -> Tensor:
    """Return 1 for each image whose target is more probable on the masked-in half, else 0 (AI).

    Example:
        >>> inputs, masks = torch.tensor([[[[2.0, 1.0]]]]), torch.tensor([[[1.0, 0.0]]])
        >>> average_increase(torch.nn.Flatten(), inputs, masks, target=0)  # 0.7311 and 0.8808
        tensor([1.])
    """
    return masked.of_target(masked.masked_in) > masked.of_target(masked.clean)


@_score(higher_is_better=True, lowest=-1.0)
def faithfulness_drop(masked: Masked) -> Tensor:
    """Return how much the target's probability falls when the evidence is masked out (FF).

    Example:
        >>> inputs, masks = torch.tensor([[[[2.0, 1.0]]]]), torch.tensor([[[1.0, 0.0]]])
        >>> faithfulness_drop(torch.nn.Flatten(), inputs, masks, target=0)  # 0.7311 and 0.2689
        tensor([0.4621])
    """
    return masked.of_target(masked.clean) - masked.of_target(masked.masked_out)


@_score(higher_is_better=True)
def fid_in(masked: Masked) -> Tensor:
    """Return 1 for each image whose masked-in half is classified as the whole, else 0 (Fid-In).

    It is `masked_in_accuracy` for the predicted class; the target is checked and not used.

    Example:
        >>> inputs, masks = torch.tensor([[[[2.0, 1.0]]]]), torch.tensor([[[0.0, 1.0]]])
        >>> fid_in(torch.nn.Flatten(), inputs, masks, target=0)  # logits 0 and 1
        tensor([0.])
    """
    return masked.masked_in.argmax(1) == masked.clean.argmax(1)


@_score(higher_is_better=True)
def masked_in_accuracy(masked: Masked) -> Tensor:
    """Return 1 for each image whose target comes first on the masked-in half, else 0.

    Example:
        >>> inputs, masks = torch.tensor([[[[2.0, 1.0]]]]), torch.tensor([[[1.0, 0.0]]])
        >>> masked_in_accuracy(torch.nn.Flatten(), inputs, masks, target=0)  # logits 2 and 0
        tensor([1.])
    """
    return masked.masked_in.argmax(1) == masked.target


@_score(higher_is_better=False)
def masked_out_accuracy(masked: Masked) -> Tensor:
    """Return 1 for each image whose target still comes first once masked out, else 0.

    Example:
        >>> inputs, masks = torch.tensor([[[[2.0, 1.0]]]]), torch.tensor([[[1.0, 0.0]]])
        >>> masked_out_accuracy(torch.nn.Flatten(), inputs, masks, target=0)  # logits 0 and 1
        tensor([0.])
    """
    return masked.masked_out.argmax(1) == masked.target


@_score(higher_is_better=True, highest=None)
def masked_out_entropy(masked: Masked) -> Tensor:
    """Return the entropy of the prediction on each masked-out image, 0 to log(classes) nats.

    The target is checked and not used. The objective of Phang et al. 2020 leaves out images that
    are not classified correctly; here all count.

    Example:
        >>> inputs, masks = torch.tensor([[[[2.0, 1.0]]]]), torch.tensor([[[1.0, 0.0]]])
        >>> masked_out_entropy(torch.nn.Flatten(), inputs, masks, target=0)  # 0.2689, 0.7311
        tensor([0.5822])
    """
    return torch.special.entr(masked.masked_out).sum(1)


def masked_scores(
    classifier: Classifier,
    inputs: Tensor,
    masks: Tensor,
    target: TargetType = None,
    *,
    infill: Infill = Mean(),
    batch_size: int = 32,
    whole: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return all scores from `average_drop` to `masked_out_entropy` by name.

    The eight scores take three passes over the images, or two if ``whole``, the classifier's logits
    of the images, is given.

    Example:
        >>> inputs, masks = torch.tensor([[[[2.0, 1.0]]]]), torch.tensor([[[1.0, 0.0]]])
        >>> masked_scores(torch.nn.Flatten(), inputs, masks, target=0)["faithfulness_drop"]
        tensor([0.4621])
    """
    masked = Masked(classifier, inputs, masks, target, infill, batch_size, whole)
    return {name: score(masked).float() for name, score in SCORES.items()}


@facts(higher_is_better=True)
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
    """Return how much of the target's confidence the map's pixels recover.

    ``min(max(eps, A) / min(alpha, p), 1)`` for the target's probability p on the whole image, and
    A, the mean of its probability over the points of the `insertion_curve`, both ends included.

    Args:
        alpha: Sufficient confidence, in (0, 1].
        eps: Confidence on infilled images that does not count, in [0, 1].
        infill: Gives the image to start from; published is the mean color.

    Example:
        >>> inputs = torch.tensor([[[[2.0, 0.0]]]])  # 0.5, 0.8808, 0.8808: the mean is 0.7539
        >>> completeness(torch.nn.Flatten(), inputs, inputs, target=0, step_px=1)
        tensor([0.8559])
    """
    options: dict[str, Any] = {"alpha": alpha, "eps": eps, "step_px": step_px, "infill": infill}
    pair = completeness_and_soundness(
        classifier, inputs, masks, target, batch_size=batch_size, **options
    )
    return pair[0]


@facts(higher_is_better=True)
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
    """Return how little the map's pixels raise the confidence in wrong labels; the worst label.

    The minimum over labels of ``min(max(beta, p) / A, 1)``, with p and A as in `completeness`. At
    1, no label gains from the selection of pixels.

    Args:
        masks: One map for all labels, or with several labels ``(B, L, H, W)``, one for each.
        labels: Integers ``(B,)``, one label per image, or ``(B, L)``, several. The wrong labels
            give soundness proper; published are the wrong ones and all.
        beta: Confidence that any label may get, in [0, 1].

    Example:
        >>> inputs = torch.tensor([[[[2.0, 0.0]]]])  # of class 1: 0.5, 0.5, 0.1192
        >>> map_of_1 = torch.tensor([[[[0.0, 1.0]]]])
        >>> soundness(torch.nn.Flatten(), inputs, map_of_1, torch.tensor([1]), step_px=1)
        tensor([0.3195])
    """
    _check_share("beta", beta)
    check_images(classifier, inputs, batch_size)
    worst = []
    for one, columns in _per_label(inputs, masks, labels):
        run = Run(classifier, inputs, one, step_px, infill, False, batch_size, insert=True)
        _check_range(columns, inputs, as_class_logits(run.logits).shape[1])
        whole, mean = _whole_and_mean(run, columns)
        worst.append(_ratio(whole.clamp(min=beta), mean).amin(1))
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
    whole: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return `completeness`, and `soundness` over all other labels, from one insertion curve.

    Soundness is 1 where there is no other label.

    Example:
        >>> inputs = torch.tensor([[[[2.0, 0.0]]]])  # of class 1: 0.5, 0.1192, 0.1192
        >>> completeness_and_soundness(torch.nn.Flatten(), inputs, inputs, target=0, step_px=1)
        (tensor([0.8559]), tensor([0.4843]))
    """
    _check_share("alpha", alpha, low=False)
    _check_share("eps", eps)
    _check_share("beta", beta)
    run = Run(classifier, inputs, masks, step_px, infill, False, batch_size, True, whole)
    count, classes = as_class_logits(run.logits).shape
    everyone = torch.arange(classes, device=run.logits.device).expand(count, classes)
    before, mean = _whole_and_mean(run, everyone)
    own = class_indices(run.logits, target)[:, None]
    complete = _ratio(mean.clamp(min=eps), before.clamp(max=alpha)).gather(1, own)[:, 0]
    sound = _ratio(before.clamp(min=beta), mean).scatter(1, own, 1).amin(1)
    return complete.float(), sound.float()


def _per_label(inputs: Tensor, masks: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Pair each map with its labels ``(B, L)``: one map for all labels, or one per label."""
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


def _whole_and_mean(run: Run, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probabilities of classes ``(B, L)`` on the whole image and over the curve."""
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
