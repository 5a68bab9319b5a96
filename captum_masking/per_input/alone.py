"""Every input of a batch as if it were alone."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_masking.infill import Infill
from captum_masking.masking import mask_images
from captum_masking.objective import Judgement, Objective
from captum_masking.regularizer import Regularizer


def mask_alone(inputs: Tensor, mask: Tensor, infill: Infill, *, seed: int) -> Tensor:
    """Mask each image by itself, with the same random numbers for all.

    Args:
        inputs: ``(B, C, *spatial)``.
        mask: ``(B, 1, *spatial)``.
        infill: Given one image at a time.
        seed: Set anew before each image, so that its noise does not depend on its place in the
            batch. The caller gives torch's random state back.

    Returns:
        ``(2 * B, C, *spatial)``: all masked-in images, then all masked-out ones.

    Source:
        Own.

    Example:
        >>> mask_alone(torch.ones(2, 1, 1), torch.ones(2, 1, 1), lambda x, hole: 0 * x, seed=0)
        tensor([[[1.]], [[1.]], [[0.]], [[0.]]])
    """
    pairs = []
    for image, its_mask in zip(inputs.split(1), mask.split(1), strict=True):
        _seed(seed, inputs.device)
        pairs.append(mask_images(image, its_mask, infill))
    masked_in, masked_out = zip(*pairs, strict=True)
    return torch.cat([*masked_in, *masked_out])


def judge_alone(
    judgement: Judgement, mask: Tensor, objective: Objective, regularizer: Regularizer
) -> Tensor:
    """Return the loss of each image, as if it were a batch of one.

    A mean over the batch would weaken each image's gradient by the size of the batch, and some
    losses are no means.

    Args:
        judgement: Of the batch.
        mask: ``(B, 1, *spatial)``.
        objective: Of the judgement.
        regularizer: Of mask and judgement.

    Returns:
        ``(B,)``.

    Source:
        Own.

    Example:
        >>> logits = torch.tensor([[0.0, 2.0], [0.0, 4.0]])
        >>> said = Judgement(logits, logits, logits, target=torch.tensor([1, 1]))
        >>> mask, top = torch.zeros(2, 1, 1), lambda judgement: judgement.logits_in.max()
        >>> judge_alone(said, mask, top, lambda mask, judgement: mask.mean())
        tensor([2., 4.])
    """
    losses = []
    for row, its_mask in enumerate(mask.split(1)):
        said = judgement.only(slice(row, row + 1))
        losses.append(objective(said) + regularizer(its_mask, said))
    return torch.stack(losses)


class Stopping:
    """Knows which inputs are done: those whose loss has not improved for some steps.

    Args:
        patience: How many steps; None is never.
        batch: How many inputs.

    Source:
        Own.

    Example:
        >>> stopping = Stopping(patience=1, batch=1)
        >>> row = torch.tensor([0])
        >>> [stopping.go_on(row, torch.tensor([loss]), area=None).item() for loss in (3, 2, 2)]
        [True, True, False]
    """

    least = 1e-3  # an improvement by less counts as none, in units of the loss

    def __init__(self, patience: int | None, batch: int) -> None:
        self.patience = patience
        self.best = torch.full((batch,), torch.inf, dtype=torch.float64)
        self.waited = torch.zeros(batch, dtype=torch.long)
        self.area: float | None = None

    def go_on(self, rows: Tensor, losses: Tensor, area: float | None) -> Tensor:
        """Note the losses of some inputs; return for each of them whether to go on."""
        if self.patience is None:
            return torch.ones_like(rows, dtype=torch.bool)
        if area != self.area:  # losses under another budget do not compare
            self.best.fill_(torch.inf)
            self.area = area
        at, values = rows.cpu(), losses.double().cpu()
        better = values < self.best[at] - self.least
        self.best[at] = torch.where(better, values, self.best[at])
        self.waited[at] = torch.where(better, 0, self.waited[at] + 1)
        return (self.waited[at] < self.patience).to(rows.device)


def _seed(seed: int, device: torch.device) -> None:
    """Seed the generators that an infill on this device draws from, and no other device's."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
