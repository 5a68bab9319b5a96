"""Hidden activations to one mask logit for each element of a vector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ElementMasker(nn.Module):
    """Each hidden vector to ``width`` numbers, and a linear layer from all of them to logits.

    Args:
        channels: Length of each hidden vector, in the order they are given to ``forward``.
        elements: Length of the inputs, one logit for each.
        width: Length of each hidden vector after its own linear layer, normalised.

    Raises:
        ValueError: If there is no hidden vector to read.

    Source:
        Own: :class:`~captum_masking.masker.Masker` for inputs without space. Layers are normalised
        one example at a time, so that a batch of one can be trained on.

    Example:
        >>> ElementMasker([64, 32], elements=10)([torch.rand(2, 64), torch.rand(2, 32)], ()).shape
        torch.Size([2, 10])
    """

    def __init__(self, channels: Sequence[int], *, elements: int, width: int = 64) -> None:
        super().__init__()
        if not channels:
            raise ValueError(
                "a masker must read at least one hidden vector, but got channels=[]; name the "
                "modules to read with MaskingModel(classifier, layers=[...])."
            )
        self.settings = {"channels": list(channels), "elements": elements, "width": width}
        self.reduce = nn.ModuleList(
            nn.Sequential(nn.Linear(n, width), nn.LayerNorm(width), nn.ReLU()) for n in channels
        )
        self.final = nn.Linear(width * len(channels), elements)
        nn.init.normal_(self.final.weight, std=0.01)  # masks start near one half
        nn.init.zeros_(self.final.bias)

    def forward(self, features: Sequence[Tensor], grid: Sequence[int] = ()) -> Tensor:
        """Map hidden vectors ``(B, channels)`` to mask logits ``(B, elements)``; no grid."""
        reduced = [reduce(v) for reduce, v in zip(self.reduce, features, strict=True)]
        return self.final(torch.cat(reduced, dim=1))
