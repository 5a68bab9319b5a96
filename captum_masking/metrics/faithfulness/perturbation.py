"""Small changes to images, for metrics that ask what a change does to the answer or to the map."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from captum_masking.infill import Infill, Mean
from captum_masking.masking import fill

#: Called as ``perturbation(inputs, generator)``: draws one change from the generator, which is on
#: the CPU, and returns images ``(B, C, H, W)`` with this same change made to each. So the value
#: of an image depends neither on the others of its batch nor on the device.
Perturbation = Callable[[Tensor, Generator], Tensor]


class SquareRemoval:
    """A square at a random place is infilled.

    Args:
        side: Of the square, as a fraction of the image's shorter side, in (0, 1]; one pixel at
            least.
        infill: What fills the square.

    Raises:
        ValueError: If ``side`` leaves its range.

    Source:
        Yeh et al. 2019 remove squares from photographs; the side is our own choice.

    Example:
        >>> changed = SquareRemoval(side=0.5)(torch.ones(1, 1, 4, 4), torch.Generator())
        >>> changed.sum()
        tensor(12.)
    """

    def __init__(self, *, side: float = 0.25, infill: Infill = Mean()) -> None:
        if not 0 < side <= 1:
            raise ValueError(
                f"side must be a fraction of the image's shorter side in (0, 1], but got {side}."
            )
        self.side, self.infill = side, infill

    def __call__(self, inputs: Tensor, generator: Generator) -> Tensor:
        """Return the images without the square."""
        size = inputs.shape[2:]
        side = max(1, round(self.side * min(size)))
        y, x = (int(torch.randint(n - side + 1, (), generator=generator)) for n in size)
        hole = torch.zeros_like(inputs[:, :1])
        hole[..., y : y + side, x : x + side] = 1
        return fill(inputs, hole, self.infill)

    def __repr__(self) -> str:
        return f"SquareRemoval(side={self.side}, infill={self.infill!r})"


class UniformNoise:
    """Every pixel and channel moves by up to a radius: a ball in the maximum norm.

    Args:
        radius: In normalised units, >= 0.

    Raises:
        ValueError: If ``radius`` is negative.

    Source:
        Yeh et al. 2019, max-sensitivity; the radius is Captum's default.

    Example:
        >>> changed = UniformNoise(radius=0.5)(torch.zeros(1, 1, 64, 64), torch.Generator())
        >>> bool(0.45 < changed.max() <= 0.5)
        True
    """

    def __init__(self, *, radius: float = 0.02) -> None:
        if not radius >= 0:
            raise ValueError(f"radius must be 0 or more, but got {radius}; 0.02 is Captum's.")
        self.radius = radius

    def __call__(self, inputs: Tensor, generator: Generator) -> Tensor:
        """Return the images, moved."""
        drawn = torch.rand(inputs.shape[1:], generator=generator) * 2 - 1
        return inputs + self.radius * drawn.to(inputs)

    def __repr__(self) -> str:
        return f"UniformNoise(radius={self.radius})"


class NormalNoise:
    """Gaussian noise on every pixel and channel.

    Args:
        std: Standard deviation in normalised units, >= 0.

    Raises:
        ValueError: If ``std`` is negative.

    Source:
        Yeh et al. 2019, the noisy perturbation of infidelity; the deviation is our own choice.

    Example:
        >>> changed = NormalNoise(std=3.0)(torch.zeros(1, 1, 64, 64), torch.Generator())
        >>> bool(2.9 < changed.std() < 3.1)
        True
    """

    def __init__(self, *, std: float = 0.1) -> None:
        if not std >= 0:
            raise ValueError(f"std must be 0 or more, but got {std}; 1 is the spread of the data.")
        self.std = std

    def __call__(self, inputs: Tensor, generator: Generator) -> Tensor:
        """Return the images, noisy."""
        drawn = torch.randn(inputs.shape[1:], generator=generator)
        return inputs + self.std * drawn.to(inputs)

    def __repr__(self) -> str:
        return f"NormalNoise(std={self.std})"


class Same:
    """Captum's ``perturb_func``: for each of several samples, one change to all images.

    Args:
        perturbation: Makes the changes.
        images: Number of images in the batch, each repeated by Captum for every sample.
        seed: Of the changes.
    """

    def __init__(self, perturbation: Perturbation, images: int, seed: int) -> None:
        self.perturbation, self.images = perturbation, images
        self.generator = Generator().manual_seed(seed)

    def __call__(self, repeated: Tensor) -> Tensor:
        """Return images ``(B * samples, C, H, W)``, image by image, changed."""
        blocks = repeated.reshape(self.images, -1, *repeated.shape[1:]).unbind(1)
        return torch.stack([self.perturbation(x, self.generator) for x in blocks], 1).flatten(0, 1)
