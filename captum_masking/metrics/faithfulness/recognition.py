"""Is the image still recognized from its evidence, and no longer without it?"""

from __future__ import annotations

import torch
from torch import Tensor

from captum_masking._captum_compat import TargetType
from captum_masking.infill import Infill, Mean
from captum_masking.metrics.faithfulness.asking import Classifier
from captum_masking.metrics.faithfulness.masked import Masked, MaskedMean


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
