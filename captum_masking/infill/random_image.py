"""Another image: of the batch, or of a bank."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_masking.masker import linear


class RandomImage:
    """Another image, drawn at random for each image.

    Without a bank it comes from the same batch, every other image equally likely and never the
    image itself; no two images of a batch get the same one. Drawn from torch's global random
    numbers, as dropout draws.

    Args:
        bank: Images to draw from, ``(N, C, *spatial)``, normalised like the inputs and resampled
            linearly to their size; None draws from the batch.

    Raises:
        TypeError: If the bank is not a floating-point tensor.
        ValueError: If the bank is empty or has no spatial axis; when called, if it does not fit
            the inputs, or if there is neither a bank nor a second image in the batch.

    Source:
        Own.

    Example:
        >>> RandomImage()(torch.tensor([[[1.0]], [[2.0]]]), hole=torch.ones(2, 1, 1)).flatten()
        tensor([2., 1.])
    """

    def __init__(self, bank: Tensor | None = None) -> None:
        if bank is not None:
            _check_bank(bank)
        self.bank = bank

    def __call__(self, inputs: Tensor, hole: Tensor) -> Tensor:
        """Return one other image for each of ``inputs``."""
        if self.bank is None:
            return inputs[_partners(len(inputs)).to(inputs.device)]
        if self.bank.dim() != inputs.dim() or self.bank.shape[1] != inputs.shape[1]:
            raise ValueError(
                f"the bank must hold images like the inputs {tuple(inputs.shape)}, but got "
                f"{tuple(self.bank.shape)}; only the size of its images may differ."
            )
        drawn = self.bank[torch.randint(len(self.bank), (len(inputs),)).to(self.bank.device)]
        return linear(drawn.to(inputs), inputs.shape[2:])

    def __repr__(self) -> str:
        shown = None if self.bank is None else f"<{len(self.bank)} images>"
        return f"RandomImage(bank={shown})"


def _partners(count: int) -> Tensor:
    """Draw another index for each of ``range(count)``: its successor in a random round."""
    if count < 2:
        raise ValueError(
            f"a random other image needs a batch of two or more, but got {count}; give images to "
            "draw from with RandomImage(bank=...), or load batches with drop_last=True."
        )
    order = torch.randperm(count)
    return torch.empty_like(order).scatter_(0, order, order.roll(1))


def _check_bank(bank: Tensor) -> None:
    if not isinstance(bank, Tensor) or not bank.is_floating_point():
        got = bank.dtype if isinstance(bank, Tensor) else type(bank).__name__
        raise TypeError(
            f"bank must be a floating-point tensor (N, C, *spatial), but got {got}; stack the "
            "images and normalise them like the inputs."
        )
    if bank.dim() < 3 or not bank.numel():
        raise ValueError(
            f"bank must hold images (N, C, *spatial), but got {tuple(bank.shape)}; one image "
            "alone needs a batch axis, bank[None]."
        )
