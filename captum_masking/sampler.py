"""Mask logits to mask: random in ``train()``, deterministic in ``eval()``, like dropout."""

from __future__ import annotations

from torch import Tensor, nn


class Sigmoid(nn.Module):
    """A soft mask: each logit through the logistic function, the same in both modes.

    Source:
        Phang et al. 2020, the head of the final model.

    Example:
        >>> import torch
        >>> Sigmoid()(torch.zeros(1, 1, 1, 2))
        tensor([[[[0.5000, 0.5000]]]])
    """

    def forward(self, mask_logits: Tensor) -> Tensor:
        """Map logits ``(B, 1, *grid)`` to a mask of the same shape in ``[0, 1]``."""
        return mask_logits.sigmoid()
