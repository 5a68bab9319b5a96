"""Extremal perturbations: the smooth mask of a given area with the best score."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from tqdm.auto import tqdm

from captum_masking._base.captum import TensorOrTupleOfTensorsGeneric, log_usage
from captum_masking._base.checks import check_count
from captum_masking.methods.base import Asked, Relative, Score, Target, filled, logit
from captum_masking.model.taps import check_differentiable, cuts_in_words, gradients_of
from captum_masking.parts.infill import Infill, gaussian_blur
from captum_masking.parts.regularizer import SizeTarget
from captum_masking.saliency.per_input import of_area

_LEVELS = 8  # of blur, the last of which is the picture itself
_SHARPNESS = 20  # of the smooth maximum
_GROWTH = 1.0035**800  # of the area's weight, from the first step to the last
_LEAST = 1e-6  # value of a mask; log odds are finite


class ExtremalPerturbation(Relative):
    r"""Find the part of a given area that keeps the score high, or whose removal lowers it.

    .. math:: \max_m f(x \otimes m) - \lambda \,\| \mathrm{sort}(m) - r_a \|^2

    :math:`r_a` is 1 on the highest share :math:`a` and 0 below. A mask is a grid of cells in [0,
    1], each 1/32 of the shorter side, spread smoothly over their neighbors; a pixel is the smooth
    maximum of nearby cells. :math:`x \otimes m` is the picture where ``m`` is 1, with more blur for
    smaller ``m``; vectors fade to zero, with one cell per element. Several inputs are masked at
    once, each with that area.

    The masks of several areas are optimized separately, added and smoothed, so what is in small
    masks stands out.

    Args:
        forward_func: Any callable that can be differentiated.
        areas: One share of the image in (0, 1), or several.
        kept: Whether the masked-in picture should have a high score.
        removed: Whether the rest should have a low score. Both together, the paper's dual, double
            the cost.
        steps: Steps per area, each a forward and a backward pass. With fewer than 800, raise ``lr``
            in proportion.
        lr, weight: Learning rate, and initial weight of the area, for scores on the scale of
            logits.
        blur_px: Standard deviation of the strongest blur, for a shorter side of 224.
        infill: Fills holes in place of the blurs; see :mod:`captum_masking.methods`.
        smooth: Standard deviation of the final smoothing as a share of the shorter side; None is
            the published 0.09 for several areas, and 0 for one.
        seed, score: See :mod:`captum_masking.methods`.

    Source:
        Fong, Patrick & Vedaldi 2019 (arXiv 1910.08485), with their constants at a side of 224,
        elsewhere in proportion. Differs: the area is that of the image, without the margin around
        it that theirs counts, and exact: in the end, the log odds of each mask are shifted.

    Example:
        >>> from captum_masking.parts.infill import Mean
        >>> x = torch.zeros(1, 1, 12, 12)
        >>> x[..., :6, :] = 1  # the upper half is the evidence
        >>> sums = lambda x: torch.stack([x.sum((1, 2, 3)), 0 * x.sum((1, 2, 3))], dim=1)
        >>> half = ExtremalPerturbation(sums, areas=0.5, infill=Mean(), steps=300)
        >>> mask = half.attribute(x, target=0)
        >>> bool(mask[..., :5, :].min() > 0.8 and mask[..., 7:, :].max() < 0.2)
        True
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        *,
        areas: float | Sequence[float] = 0.1,
        kept: bool = True,
        removed: bool = False,
        steps: int = 800,
        lr: float = 0.01,
        weight: float = 300.0,
        blur_px: float = 20.0,
        infill: Infill | None = None,
        smooth: float | None = None,
        seed: int = 0,
        score: Score = logit,
    ) -> None:
        super().__init__(forward_func)
        several = tuple(areas) if isinstance(areas, Sequence) else (areas,)
        for area in several or (0.0,):
            SizeTarget(area, weight)  # checks them
        if not (kept or removed):
            raise ValueError("expected kept, removed or both to be True, but got neither.")
        check_count("steps", steps)
        if not blur_px > 0:
            raise ValueError(
                f"blur_px must be above 0, but got {blur_px}; the published value is 20.0."
            )
        self.areas, self.kept, self.removed = several, kept, removed
        self.steps, self.lr, self.weight, self.blur_px = steps, lr, weight, blur_px
        self.infill, self.smooth, self.seed, self.score = infill, smooth, seed, score

    @log_usage(part_of_slo=True)
    def attribute(
        self,
        inputs: TensorOrTupleOfTensorsGeneric,
        target: Target = None,
        additional_forward_args: Any = None,
        *,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
    ) -> TensorOrTupleOfTensorsGeneric:
        """Find the masks; arguments are those of :mod:`captum_masking.methods`.

        ``perturbations_per_eval`` is the number of areas at a time.

        Returns:
            The mask of the area, in ``[0, 1]``, or the smoothed sum of several; shaped like
            ``inputs``.
        """
        check_count("perturbations_per_eval", perturbations_per_eval)

        def find(asked: Asked) -> list[Tensor]:
            total = [x.new_zeros(()) for x in asked.inputs]
            for first in range(0, len(self.areas), perturbations_per_eval):
                areas = self.areas[first : first + perturbations_per_eval]
                masks = self._search(asked, areas, show_progress)
                for index, mask in enumerate(masks):
                    total[index] = total[index] + sum(mask.chunk(len(areas)))
            return [self._smoothed(each) for each in total]

        return self._explained(inputs, target, additional_forward_args, find, self.score)

    def _search(self, asked: Asked, areas: Sequence[float], bar: bool) -> list[Tensor]:
        """Return the masks of all examples for the first area, then for the next one."""
        inputs = [torch.cat([x] * len(areas)) for x in asked.inputs]
        shapes = [_Shape.of(x) for x in inputs]
        cells = [shape.start(x) for shape, x in zip(shapes, inputs, strict=True)]
        pyramids = [self._pyramid(x) for x in inputs]
        # Their dampening averages the gradients so far.
        optimizer = torch.optim.SGD(cells, lr=self.lr, momentum=0.9, dampening=0.9)
        signs, steps = [1] * self.kept + [-1] * self.removed, range(self.steps)
        for step in tqdm(steps, self.get_name(), disable=not bar):
            masks = [shape(each) for shape, each in zip(shapes, cells, strict=True)]
            sides = [masks] * self.kept + [[1 - m for m in masks]] * self.removed
            seen = [
                torch.cat([self._perturbed(x, blurs, side[index], step) for side in sides])
                for index, (x, blurs) in enumerate(zip(inputs, pyramids, strict=True))
            ]
            mirrored = [x.flip(-1) if step % 2 and x.dim() > 3 else x for x in seen]
            with cuts_in_words(asked.function):
                scores = asked(*mirrored).float()
                if not step:
                    check_differentiable(scores, asked.function)
                parts = zip(signs, scores.chunk(len(sides)), strict=True)
                reward = sum(sign * each.sum() for sign, each in parts)
                weight = self.weight * _GROWTH ** (step / self.steps)
                loss = _area_missed(masks, areas, weight) - reward
                for each, slope in zip(cells, gradients_of(loss, *cells), strict=True):
                    each.grad = slope
            optimizer.step()
            for each in cells:
                each.data.clamp_(0, 1)
        pairs = zip(shapes, cells, strict=True)
        return [_of_areas(shape(each).detach(), areas) for shape, each in pairs]

    def _pyramid(self, inputs: Tensor) -> Tensor:
        """Return the picture with less and less blur, ``(levels, B, C, *spatial)``."""
        if self.infill is not None:
            return inputs[None]
        if inputs.dim() == 2:
            return torch.stack([0 * inputs, inputs])
        most = self.blur_px * min(inputs.shape[2:]) / 224
        widths = [most * (1 - level / (_LEVELS - 1)) for level in range(_LEVELS - 1)]
        return torch.stack([*(_blurred(inputs, sigma_px) for sigma_px in widths), inputs])

    def _perturbed(self, inputs: Tensor, pyramid: Tensor, mask: Tensor, step: int) -> Tensor:
        """Return the picture where the mask is 1, with more blur where it is lower."""
        mask = mask.to(inputs.dtype)
        if self.infill is None:
            return _between(pyramid, mask)
        return filled(inputs, 1 - mask, self.infill, self.seed + step)

    def _smoothed(self, mask: Tensor) -> Tensor:
        share = (0.09 if len(self.areas) > 1 else 0.0) if self.smooth is None else self.smooth
        if not share or mask.dim() == 2:
            return mask
        return _blurred(mask, share * min(mask.shape[2:]))


@dataclass(frozen=True)
class _Shape:
    """Makes masks from cells of ``step_px`` pixels along every axis."""

    size: tuple[int, ...]
    step_px: int

    @classmethod
    def of(cls, inputs: Tensor) -> _Shape:
        size = tuple(inputs.shape[2:])  # none for vectors
        return cls(size, max(1, round(min(size) / 32)) if size else 1)

    def start(self, inputs: Tensor) -> Tensor:
        grid = [math.ceil(side / self.step_px) for side in self.size] or inputs.shape[1:]
        shape, dtype = (len(inputs), *grid), torch.promote_types(inputs.dtype, torch.float32)
        return torch.ones(shape, dtype=dtype, device=inputs.device, requires_grad=True)

    def __call__(self, cells: Tensor) -> Tensor:
        """Return ``sum(softmax(T * v) * v)``, ``v = cell * k(distance)`` of the cells around."""
        if not self.size:
            return cells
        axes, reach = len(self.size), 4  # sigma is three steps; further cells hardly count
        # Cells are replicated beyond the edge, so that the edge has no special role.
        around = pad(cells[:, None], [reach] * 2 * axes, mode="replicate")[:, 0]
        for axis in range(1, axes + 1):
            around = around.unfold(axis, 2 * reach + 1, 1)  # (B, *grid, *neighbors)
        for axis in range(axes):
            around = around.unsqueeze(2 * axis + 2)  # (B, rows, 1, columns, 1, *neighbors)
        values = (around * self._reaching(axes, reach).to(cells)).flatten(2 * axes + 1)
        most = torch.linalg.vecdot((_SHARPNESS * values).softmax(-1), values)
        whole = [cells.shape[axis] * self.step_px for axis in range(1, axes + 1)]
        mask = most.reshape(len(cells), 1, *whole)
        for axis, side in enumerate(self.size, start=2):
            mask = mask.narrow(axis, 0, side)
        return mask

    def _reaching(self, axes: int, reach: int) -> Tensor:
        """Return the weight of each neighbor at each pixel of a cell, laid out like ``around``.

        1 up to half of sigma, then a Gaussian.
        """
        pixels = (torch.arange(self.step_px) + 0.5) / self.step_px - 0.5  # from the cell's middle
        apart = pixels[:, None] - torch.arange(-reach, reach + 1)  # in steps, (step_px, neighbors)
        squares = torch.zeros(())
        for axis in range(axes):
            shape = [1] * 3 * axes
            shape[2 * axis + 1], shape[2 * axes + axis] = apart.shape
            squares = squares + apart.square().reshape(shape)
        return (-2 * (squares.sqrt() / 3 - 0.5).clamp_min(0).square()).exp()


def _area_missed(masks: Sequence[Tensor], areas: Sequence[float], weight: float) -> Tensor:
    """Return the penalty of all examples for wrong areas."""
    missed = masks[0].new_zeros(())
    for mask in masks:
        for area, its_mask in zip(areas, mask.chunk(len(areas)), strict=True):
            # Multiplied by the batch size, so that examples do not depend on the batch.
            missed = missed + len(its_mask) * SizeTarget(area, weight)(its_mask, None)
    return missed


def _of_areas(mask: Tensor, areas: Sequence[float]) -> Tensor:
    """Shift the log odds of masks, so that their means are the areas."""
    log_odds = mask.clamp(_LEAST, 1 - _LEAST).logit().chunk(len(areas))
    return torch.cat([of_area(each, area) for each, area in zip(log_odds, areas, strict=True)])


def _between(pyramid: Tensor, mask: Tensor) -> Tensor:
    """Interpolate linearly between the levels of a pyramid ``(levels, B, C, *spatial)``."""
    height = mask * (len(pyramid) - 1)
    below = height.detach().long().clamp_max(len(pyramid) - 2)
    at = below.expand_as(pyramid[0])[None]
    lower, upper = pyramid.gather(0, at)[0], pyramid.gather(0, at + 1)[0]
    return lower + (height - below) * (upper - lower)


def _blurred(images: Tensor, sigma_px: float) -> Tensor:
    """Blur with replicated edges, without a dark frame."""
    blurred, whole = (
        gaussian_blur(each, sigma_px, math.ceil(4 * sigma_px))
        for each in (images, torch.ones_like(images[:1, :1]))
    )
    return blurred / whole
