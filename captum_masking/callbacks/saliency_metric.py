"""The Saliency Metric of validation images: a figure of the masks that needs no boxes."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def saliency_metric_figure(
    model: Callable[[Tensor], Tensor], inputs: Tensor, target: Tensor, mask: Tensor
) -> dict[str, Tensor]:
    """Measure ``saliency_metric`` in validation: ``fit(..., figures=[saliency_metric_figure])``.

    The records then have ``val_saliency_metric``, lower is better, by which
    :class:`~captum_masking.callbacks.EarlyStopping` can end a training. It costs one more pass of
    the classifier over the validation images.

    Args:
        model: Judges the crops.
        inputs: Images ``(B, C, H, W)``, normalised so that zero is the mean color.
        target: The class of each, ``(B,)``.
        mask: ``(B, 1, H, W)``.

    Returns:
        ``saliency_metric``, the mean over the batch.

    Raises:
        ValueError: If the inputs are not images.

    Source:
        Dabkowski & Gal 2017; see :func:`~captum_masking.metrics.faithfulness.saliency_metric`.

    Example:
        >>> import torch
        >>> inputs = torch.tensor([[[[2.0, 2.0], [0.0, 0.0]]]])
        >>> mask = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])  # half; the crop is 2 everywhere
        >>> saliency_metric_figure(torch.nn.Flatten(), inputs, torch.tensor([0]), mask)
        {'saliency_metric': tensor(0.6931)}
    """
    from captum_masking.metrics import saliency_metric  # with torchmetrics: slow to import

    return {"saliency_metric": saliency_metric(model, inputs, mask, target).mean()}
