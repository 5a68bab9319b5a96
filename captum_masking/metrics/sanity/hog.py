"""Histograms of oriented gradients: which edges a map has, and roughly where."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from captum_masking.metrics.localization.planes import planes_of

# Dalal & Triggs 2005; scikit-image's defaults.
ORIENTATIONS = 9  # of 20 degrees each, an edge and its opposite being the same
BLOCK_CELLS = 3
CLIP = 0.2  # "L2-Hys"
EPSILON = 1e-5


def hog_features(
    maps: Tensor, *, cell_px: int | None = None, block_cells: int = BLOCK_CELLS
) -> Tensor:
    """Describe each map by how much edge of each direction there is in each of its cells.

    Gradients are central differences, 0 along the border. Each cell adds up its gradients'
    lengths in nine classes of direction; overlapping blocks of cells are then scaled to unit
    length, clipped at 0.2 and scaled again.

    Args:
        maps: ``(B, 1, H, W)`` or ``(B, H, W)``, any dtype and device.
        cell_px: Side of a cell; what is left over at the right and lower border is not looked at.
            None is 16, or a third of the smaller side for maps below 48 pixels, so that there is
            at least one block.
        block_cells: Side of a block; all cells there are, if that is less.

    Returns:
        Float64 ``(B, N)``; zeros for a constant map, and for one without an inner pixel.

    Raises:
        ValueError: If the maps do not have one of these shapes, or a cell does not fit.

    Source:
        Dalal & Triggs 2005; agrees with ``skimage.feature.hog``, whose defaults these are. That
        small maps have smaller cells is our own.

    Example:
        >>> hog_features(torch.eye(224)[None]).shape  # 14 x 14 cells, 12 x 12 blocks of 9
        torch.Size([1, 11664])
    """
    planes = planes_of(maps)
    cell = _cell(planes, cell_px)
    histograms = _histograms(planes, cell)  # (B, O, rows, columns)
    block = min(block_cells, *histograms.shape[-2:])
    blocks = histograms.unfold(2, block, 1).unfold(3, block, 1)
    return _scaled(blocks.permute(0, 2, 3, 4, 5, 1).flatten(3)).flatten(1)


def _cell(planes: Tensor, cell_px: int | None) -> int:
    side = min(planes.shape[-2:])
    cell = max(1, min(16, side // BLOCK_CELLS)) if cell_px is None else cell_px
    if not 1 <= cell <= side:
        raise ValueError(
            f"cell_px must be 1 or more pixels and fit into maps of {tuple(planes.shape[-2:])}, "
            f"but got {cell_px}; None chooses a size that does."
        )
    return cell


def _histograms(planes: Tensor, cell: int) -> Tensor:
    down, across = torch.zeros_like(planes), torch.zeros_like(planes)
    down[:, 1:-1] = planes[:, 2:] - planes[:, :-2]
    across[:, :, 1:-1] = planes[:, :, 2:] - planes[:, :, :-2]
    degrees = torch.rad2deg(torch.atan2(down, across)).remainder(180)
    # Rounding can make a direction just below 0 one of 180 degrees, which is 0 again.
    classes = (degrees / (180 / ORIENTATIONS)).floor().long() % ORIENTATIONS
    lengths = torch.hypot(down, across)
    votes = [lengths.where(classes == o, 0) for o in range(ORIENTATIONS)]
    return avg_pool2d(torch.stack(votes, dim=1), cell)


def _scaled(blocks: Tensor) -> Tensor:
    clipped = _to_unit_length(blocks).clamp(max=CLIP)
    return _to_unit_length(clipped)


def _to_unit_length(blocks: Tensor) -> Tensor:
    return blocks / ((blocks**2).sum(-1, keepdim=True) + EPSILON**2).sqrt()
