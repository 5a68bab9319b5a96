"""Is the map a proof? It should convince of what the classifier believes, and of nothing else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from captum_masking._captum_compat import TargetType
from captum_masking.checks import check_labels
from captum_masking.infill import Infill, Mean
from captum_masking.metrics.faithfulness.asking import Classifier, check_question
from captum_masking.metrics.faithfulness.curve import Run
from captum_masking.metrics.faithfulness.means import MeanScore
from captum_masking.target import as_class_logits, class_indices


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
