"""The grid pointing game: of several images in one frame, does the map find the target's?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from captum_masking.metrics.localization.checks import check_masks
from captum_masking.metrics.localization.planes import finite_planes
from captum_masking.metrics.mean import MeanOverImages


def mosaics(inputs: Tensor, rows: int = 2, columns: int = 2) -> Tensor:
    """Lay images side by side, each ``rows x columns`` of them into one mosaic.

    Explain each mosaic once for the class of each of its images, and hand the maps to
    `grid_pointing` with the number of the image's cell. The images of a mosaic should be of
    different classes, and such that the classifier is sure of them.

    Args:
        inputs: ``(B * rows * columns, C, h, w)``: the cells of the first mosaic in reading order,
            then those of the second.
        rows: Images on top of each other.
        columns: Images side by side.

    Returns:
        ``(B, C, rows * h, columns * w)``.

    Raises:
        ValueError: If the images do not fill whole mosaics.

    Source:
        Boehle et al. 2021 (CoDA-Nets), the grid pointing game.

    Example:
        >>> mosaics(torch.arange(4.0).reshape(4, 1, 1, 1))
        tensor([[[[0., 1.],
                  [2., 3.]]]])
    """
    cells = rows * columns
    if inputs.dim() != 4 or not len(inputs) or len(inputs) % cells:
        raise ValueError(
            f"inputs must have shape (B * {cells}, C, h, w) for mosaics of {rows} x {columns}, but "
            f"got {tuple(inputs.shape)}; leave out the last {len(inputs) % cells} images."
        )
    channels, height, width = inputs.shape[1:]
    grid = inputs.reshape(-1, rows, columns, channels, height, width)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, rows * height, columns * width)


def grid_pointing(masks: Tensor, cell: Tensor, rows: int = 2, columns: int = 2) -> Tensor:
    """Return the share of each map's positive weight that lies in the target's cell.

    Args:
        masks: Maps of mosaics, ``(B, 1, H, W)`` or ``(B, H, W)`` on any scale, any dtype and
            device; negative values count as 0. H is a multiple of ``rows``, W of ``columns``.
        cell: Integers ``(B,)``: the cell, in reading order from 0, whose class was explained.
        rows: Images on top of each other.
        columns: Images side by side.

    Returns:
        Float32 ``(B,)`` in [0, 1] on the masks' device. A map that does not tell the cells apart,
        a constant one too, scores 1 / (rows * columns); one without positive values, or with NaN
        or infinity, 0.

    Raises:
        ValueError: If shapes do not fit or there is no such cell.

    Source:
        Boehle et al. 2021 (CoDA-Nets), the grid pointing game.

    Example:
        >>> grid_pointing(torch.tensor([[[3.0, 0.0], [-2.0, 1.0]]]), torch.tensor([0]))
        tensor([0.7500])
    """
    check_masks(masks)
    _check_cells(masks, cell, rows, columns)
    height, width = masks.shape[-2] // rows, masks.shape[-1] // columns
    weight = finite_planes(masks).clamp(min=0).reshape(-1, rows, height, columns, width)
    weight = weight.sum((2, 4)).flatten(1)  # (B, cells)
    inside = weight.gather(1, cell.long().to(weight.device)[:, None])[:, 0]
    return torch.where(inside > 0, inside / weight.sum(1), torch.zeros_like(inside)).float()


def _check_cells(masks: Tensor, cell: Tensor, rows: int, columns: int) -> None:
    if masks.shape[-2] % rows or masks.shape[-1] % columns:
        raise ValueError(
            f"maps of mosaics of {rows} x {columns} images must divide into as many cells, but "
            f"have shape {tuple(masks.shape)}; make the mosaics with mosaics(...)."
        )
    if cell.shape != masks.shape[:1] or cell.is_floating_point():
        raise ValueError(
            f"cell must hold one integer for each of the {len(masks)} maps, but got {cell.dtype} "
            f"of shape {tuple(cell.shape)}."
        )
    if not ((cell >= 0) & (cell < rows * columns)).all():
        raise ValueError(
            f"cell must lie in 0..{rows * columns - 1}, reading order, but got {cell.tolist()}."
        )


class GridPointing(MeanOverImages):
    """Mean over maps of the share of weight in the target's cell; see `grid_pointing`.

    Args:
        rows: As in `grid_pointing`.
        columns: As in `grid_pointing`.
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Boehle et al. 2021 (CoDA-Nets), the grid pointing game.

    Example:
        >>> metric = GridPointing()
        >>> metric.update(torch.ones(1, 1, 4, 4), torch.tensor([3]))
        >>> metric.compute()
        tensor(0.2500)
    """

    higher_is_better = True

    def __init__(self, *, rows: int = 2, columns: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rows, self.columns = rows, columns

    def update(self, masks: Tensor, cell: Tensor) -> None:
        """Score a batch; the arguments are those of `grid_pointing`."""
        self.add(grid_pointing(masks, cell, self.rows, self.columns))

    def __repr__(self) -> str:
        return f"GridPointing(rows={self.rows}, columns={self.columns})"
