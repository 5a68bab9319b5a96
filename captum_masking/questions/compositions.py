"""Images of several classes out of images of one: ``composition(inputs, rows) -> images``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from captum_masking.masker import linear

#: Called as ``composition(inputs, rows)`` with images ``(B, C, *spatial)`` and indices
#: ``(n, parts)`` of those that go together; returns ``(n, C, *spatial)`` in which a share of each
#: can be seen. Its attribute ``parts`` says how many it takes, ``dims`` of how many spatial
#: dimensions they may be.
Composition = Callable[[Tensor, Tensor], Tensor]


class Quarters:
    """Four images in a 2 x 2 mosaic, each at half its size.

    Source:
        The mosaics of the grid pointing game (Boehle et al. 2021), here to learn from.

    Example:
        >>> inputs = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 1, 4, 4)
        >>> Quarters()(inputs, torch.tensor([[3, 1, 0, 2]]))[0, 0, ::2, ::2]
        tensor([[3., 1.],
                [0., 2.]])
    """

    parts, dims = 4, (2,)

    def __call__(self, inputs: Tensor, rows: Tensor) -> Tensor:
        """Make one mosaic of each row of indices, in reading order."""
        height, width = inputs.shape[2:]
        cells = _shrunk(inputs[rows.flatten()], (-(-height // 2), -(-width // 2)))
        from captum_masking.metrics.localization import mosaics  # it brings torchmetrics

        return mosaics(cells)[..., :height, :width]

    def __repr__(self) -> str:
        return "Quarters()"


class Halves:
    """Half of one image beside half of another, along any axis, both at full size.

    Source:
        Own.

    Example:
        >>> inputs = torch.arange(2.0).reshape(2, 1, 1).expand(2, 1, 4)
        >>> Halves()(inputs, torch.tensor([[1, 0]]))
        tensor([[[1., 1., 0., 0.]]])
    """

    parts, dims = 2, (1, 2, 3)

    def __call__(self, inputs: Tensor, rows: Tensor) -> Tensor:
        """Cut both images of each pair at random, and lay them side by side along one axis."""
        axis = int(torch.randint(2, inputs.dim(), ()))
        side = inputs.shape[axis]
        first, second = side // 2, side - side // 2
        start = [int(torch.randint(side - length + 1, ())) for length in (first, second)]
        left = inputs[rows[:, 0]].narrow(axis, start[0], first)
        return torch.cat([left, inputs[rows[:, 1]].narrow(axis, start[1], second)], dim=axis)

    def __repr__(self) -> str:
        return "Halves()"


class Pasted:
    """One image at half its size, pasted somewhere into another.

    Source:
        Own.

    Example:
        >>> inputs = torch.arange(2.0).reshape(2, 1, 1, 1).expand(2, 1, 4, 4)
        >>> Pasted()(inputs, torch.tensor([[0, 1]])).sum()
        tensor(4.)
    """

    parts, dims = 2, (2,)

    def __call__(self, inputs: Tensor, rows: Tensor) -> Tensor:
        """Paste the second image of each pair into the first."""
        sides = [max(1, side // 2) for side in inputs.shape[2:]]
        images, small = inputs[rows[:, 0]].clone(), _shrunk(inputs[rows[:, 1]], sides)
        for image, piece in zip(images, small, strict=True):
            place = image
            for axis, side in enumerate(sides, start=1):
                start = int(torch.randint(image.shape[axis] - side + 1, ()))
                place = place.narrow(axis, start, side)
            place.copy_(piece)
        return images

    def __repr__(self) -> str:
        return "Pasted()"


def _shrunk(images: Tensor, size: Sequence[int]) -> Tensor:
    """Resample images to a smaller size, without aliasing."""
    if images.dim() != 4:
        return linear(images, size)
    return interpolate(images, tuple(size), mode="bilinear", antialias=True)
