"""RISE: the mean of random masks, weighted by the score of each masked image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_masking._base.captum import TensorOrTupleOfTensorsGeneric, log_usage
from captum_masking._base.checks import check_count
from captum_masking.methods.base import Asked, Relative, Score, Target, filled, probability
from captum_masking.parts.infill import Infill, Mean
from captum_masking.parts.masker import linear


class Rise(Relative):
    r"""Average random masks, weighted by the score of each masked image.

    .. math:: S = \frac{1}{N p} \sum_k f(x \odot M_k)\, M_k

    Masks :math:`M_k` are coarse grids, with 1 in a cell with probability :math:`p` and else 0,
    enlarged linearly and shifted at random; a vector has one cell per element. All examples share
    the masks, so a batch gives the same maps as its examples one by one. Several inputs have their
    own masks and are masked at once. Only the sum and the masks of one forward pass are kept in
    memory.

    Args:
        forward_func: Any callable.
        masks: Number of masks, N. The paper takes 4000 for VGG-16 and 8000 for ResNet-50.
        cells: Cells along each side, or one number per side; at most one per pixel.
        keep: Probability of a visible cell, p, in (0, 1].
        infill, seed, score: See :mod:`captum_masking.methods`.

    Source:
        Petsiuk, Das & Saenko 2018 (arXiv 1806.07421), where holes are zero after normalization:
        the mean color.

    Example:
        >>> inputs = torch.tensor([[3.0, 0.0, 0.0, 0.0]])
        >>> sums = lambda x: torch.stack([x.sum(1), 0 * x.sum(1)], dim=1)
        >>> Rise(sums, masks=200).attribute(inputs, target=0).argmax()
        tensor(0)
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        *,
        masks: int = 4000,
        cells: int | Sequence[int] = 7,
        keep: float = 0.5,
        infill: Infill = Mean(),
        seed: int = 0,
        score: Score = probability,
    ) -> None:
        super().__init__(forward_func)
        check_count("masks", masks)
        for count in [cells] if isinstance(cells, int) else cells or [0]:
            check_count("cells", count)
        if not 0 < keep <= 1:
            raise ValueError(f"keep must be a probability in (0, 1], but got {keep}.")
        self.masks, self.cells, self.keep = masks, cells, keep
        self.infill, self.seed, self.score = infill, seed, score

    @log_usage(part_of_slo=True)
    def attribute(
        self,
        inputs: TensorOrTupleOfTensorsGeneric,
        target: Target = None,
        additional_forward_args: Any = None,
        *,
        perturbations_per_eval: int = 16,
        show_progress: bool = False,
    ) -> TensorOrTupleOfTensorsGeneric:
        """Attribute the score to places; arguments are those of :mod:`captum_masking.methods`.

        Returns:
            The mean score of the masks that show each position, shaped like ``inputs``.
        """
        check_count("perturbations_per_eval", perturbations_per_eval)

        @torch.no_grad()
        def find(asked: Asked) -> list[Tensor]:
            sums: list[Any] = [0.0] * len(asked.inputs)
            random = torch.Generator().manual_seed(self.seed)
            starts = range(0, self.masks, perturbations_per_eval)
            for first in tqdm(starts, "RISE", disable=not show_progress):
                count = min(perturbations_per_eval, self.masks - first)
                drawn = [[self._mask(x, random) for x in asked.inputs] for _ in range(count)]
                masks = [torch.cat(each) for each in zip(*drawn, strict=True)]
                scores = asked(*map(self._copies, asked.inputs, masks)).float()
                for index, mask in enumerate(masks):  # (count, B) and (count, 1, *spatial)
                    sums[index] += torch.tensordot(scores.reshape(count, -1), mask, ([0], [0]))
            return [total / (self.masks * self.keep) for total in sums]

        return self._explained(inputs, target, additional_forward_args, find, self.score)

    def _mask(self, like: Tensor, random: torch.Generator) -> Tensor:
        """Draw one mask of an input, ``(1, 1, *spatial)``."""
        size = like.shape[2:] or like.shape[1:]
        if like.dim() == 2:
            return (torch.rand(1, *size, generator=random) < self.keep).float().to(like.device)
        cells = [min(n, side) for n, side in zip(self._grid(size), size, strict=True)]
        steps = [math.ceil(side / n) for n, side in zip(cells, size, strict=True)]
        grid = torch.rand(1, 1, *[n + 1 for n in cells], generator=random) < self.keep
        whole = [(n + 1) * step for n, step in zip(cells, steps, strict=True)]
        mask = linear(grid.float().to(like.device), whole)
        for axis, (step, side) in enumerate(zip(steps, size, strict=True), start=2):
            mask = mask.narrow(axis, int(torch.randint(step, (), generator=random)), side)
        return mask

    def _grid(self, size: Sequence[int]) -> Sequence[int]:
        grid = [self.cells] * len(size) if isinstance(self.cells, int) else self.cells
        if len(grid) != len(size):
            raise ValueError(
                f"cells must be one number, or one for each of the {len(size)} spatial axes, "
                f"but got {self.cells}."
            )
        return grid

    def _copies(self, inputs: Tensor, masks: Tensor) -> Tensor:
        """Return every example under the first mask, then every one under the second, and so on."""
        copies = torch.cat([inputs] * len(masks))
        hole = 1 - masks.repeat_interleave(len(inputs), 0).to(inputs.dtype)
        return filled(copies, hole, self.infill, self.seed)
