"""A class-agnostic mask times a gate that opens for the target."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate

from captum_masking._base.borrow import eval_mode
from captum_masking.parts.masker import (
    BATCH_NORMS,
    CONVOLUTIONS,
    EVIDENCE,
    Masker,
    MaskerBase,
    Question,
    linear,
)

__all__ = ["GatedMasker"]

# Cells without an object count little: the gate hardly shows there.
_FLOOR = 0.02


class Gate(nn.Module):
    """Where to look for a class: its evidence, spread over the object by two convolutions."""

    def __init__(self, channels: int, *, width: int = 32, dims: int = 2) -> None:
        super().__init__()
        convolution = CONVOLUTIONS[dims]
        # Batch statistics would depend on the number of composed images.
        norm = partial(nn.GroupNorm, 1)
        self.usual: Any = BATCH_NORMS[dims](EVIDENCE, affine=False)
        self.reduce = nn.Sequential(convolution(channels, width, 1), norm(width), nn.ReLU())
        self.spread = nn.Sequential(
            convolution(width + EVIDENCE, width, 3, padding=1), norm(width), nn.ReLU()
        )
        self.last = convolution(width + EVIDENCE, 1, 3, padding=1)
        _start_open(self.last)

    def forward(self, deepest: Tensor, evidence: Tensor) -> Tensor:
        """Return the gate's logits ``(B, 1, *grid)`` on the grid of the deepest features."""
        scaled = self._scaled(evidence).to(deepest)
        spread = self.spread(torch.cat([self.reduce(deepest), scaled], dim=1))
        return self.last(torch.cat([spread, scaled], dim=1))

    def _scaled(self, evidence: Tensor) -> Tensor:
        """Normalize evidence by running statistics, since logits have any scale."""
        if self.training:
            self.usual(evidence.to(self.usual.running_mean))  # updates mean and variance
        ones = [1] * (evidence.dim() - 2)
        mean = self.usual.running_mean.reshape(-1, *ones)
        variance = self.usual.running_var.reshape(-1, *ones)
        return (evidence.to(mean) - mean) / (variance + self.usual.eps).sqrt()


class GatedMasker(MaskerBase):
    """A class-agnostic masker times a gate that reads the classifier's evidence for the target.

    One class-agnostic mask gives the outlines for all classes. The gate selects the part that
    belongs to the target, and closes if there is none. Any number of classes is possible, also
    classes that never occurred in training.

    Both learn separately. In train mode the gate is open, and the mask learns by the loss of the
    paper. The gate learns by :meth:`gate_loss` where images of the class are. With one common loss,
    the gate would shrink to the most telling detail, and the mask would grow beyond the object.

    Args:
        width: As for :class:`~captum_masking.parts.masker.Masker`.
        gate_width: Channels of the gate's convolutions.
        lean: Added to the gate's logits in eval mode; negative values close the gate when it is
            uncertain. The default was chosen on images that no figure is reported on.
        evidence: Whether the masker reads the evidence too, here that for the target.

    Source:
        From two ideas: the masker of Phang et al. 2020 and the class selector of Dabkowski &
        Gal 2017, here by the classifier's gradient
        (:func:`~captum_masking.parts.evidence.evidence`).

    Example:
        >>> masker = GatedMasker([5, 3], width=4).eval()
        >>> features = [torch.rand(2, 5, 4, 4), torch.rand(2, 3, 2, 2)]
        >>> masker(features, (4, 4), Question(evidence=torch.rand(2, 3, 2, 2))).shape
        torch.Size([2, 1, 4, 4])
    """

    target_aware = True
    reads_evidence = True

    def __init__(
        self,
        channels: Sequence[int],
        *,
        width: int = 64,
        gate_width: int = 32,
        dims: int = 2,
        lean: float = -1.0,
        evidence: bool = False,
    ) -> None:
        super().__init__()
        self.settings = {
            "channels": list(channels),
            "width": width,
            "gate_width": gate_width,
            "dims": dims,
            "lean": lean,
            "evidence": evidence,
        }
        self.lean = lean
        self.masker = Masker(
            channels, width=width, dims=dims, evidence=evidence, target_aware=not evidence
        )
        self.gate = Gate(channels[-1], width=gate_width, dims=dims)

    @property
    def heads(self) -> list[nn.Module]:
        """The part that the loss trains."""
        return [self.masker]

    def forward(
        self, features: Sequence[Tensor], grid: Sequence[int], question: Question = Question()
    ) -> Tensor:
        mask_logits = self.masker(features, grid, question)
        if self.training:
            return mask_logits
        gate = self.gate(features[-1], question.evidence)
        return logit_of_product(mask_logits, linear(gate + self.lean, grid))

    def gate_loss(self, features: Sequence[Tensor], evidence: Tensor, shut: Tensor) -> Tensor:
        """Compute the gate's loss: it should be open on images of the class only.

        ``shut`` marks other images, ``(B, 1, *spatial)`` bool; ``spatial`` may be all ones. The
        loss is binary cross entropy in nats, averaged over cells of the deepest map with the mask
        as weight.
        """
        gate = self.gate(features[-1], evidence).float()
        # In eval mode, so that the gate's images do not change the batch statistics of the masker.
        with torch.no_grad(), eval_mode(self.masker):
            asked = Question(evidence=evidence)
            mask = self.masker(features, features[-1].shape[2:], asked).sigmoid().float()
        weight = mask + _FLOOR
        loss = binary_cross_entropy_with_logits(gate, _share(~shut, gate), weight, reduction="sum")
        return loss / weight.sum()


def _share(where: Tensor, like: Tensor) -> Tensor:
    """Return for each cell of a coarse map how much of it is in a region."""
    if all(side == 1 for side in where.shape[2:]):
        return where.to(like).expand_as(like)
    return interpolate(where.to(like), like.shape[2:], mode="area")


def logit_of_product(first: Tensor, second: Tensor) -> Tensor:
    """Compute the logit of the product of two probabilities that are given as logits."""
    # 1 / (s(a) s(b)) - 1 = exp(-a) + exp(-b) + exp(-a - b)
    return -torch.stack([-first, -second, -first - second]).logsumexp(0)


def _start_open(last: nn.Module) -> None:
    """Initialize a gate that is open and follows the evidence slightly; else the mask shrinks."""
    weight, bias = (parameter.detach() for parameter in last.parameters())
    cells = weight.flatten(2)  # (1, channels, 3 ** dims)
    cells.mul_(0.1)
    cells[:, -EVIDENCE:-1, cells.shape[2] // 2] = 0.5
    bias.fill_(2.0)
