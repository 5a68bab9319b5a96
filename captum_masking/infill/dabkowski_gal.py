"""The mixture of infills of Dabkowski & Gal."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_masking.infill.blur import gaussian_blur
from captum_masking.infill.color import UniformColor
from captum_masking.infill.noise import Noise


class DabkowskiGal:
    """For each image at random: itself blurred, or a noisy random colour.

    Drawn from torch's global random numbers, as dropout draws.

    Args:
        blur: Probability of the blur, in ``[0, 1]``.
        sigma_px: Standard deviation of the blur in pixels, > 0.
        taps: Length of the blur's kernel, odd.
        std: Standard deviation of the noise, in units of the inputs, >= 0.
        color: Every channel of the random colour is uniform in ``[-color, color]``, >= 0.

    Raises:
        ValueError: If an argument lies outside its range.

    Source:
        Dabkowski & Gal 2017; constants of the released code, in the units of its inputs. Their
        recipe also adds noise of standard deviation 0.03 to the images themselves. An infill
        leaves the images alone: that noise is data augmentation, and belongs into the loader as
        ``inputs + 0.03 * torch.randn_like(inputs)``.

    Example:
        >>> inputs = torch.randn(8, 3, 16, 16)
        >>> DabkowskiGal(blur=0.0)(inputs, hole=torch.ones(8, 1, 16, 16)).abs().max() < 1
        tensor(True)
    """

    def __init__(
        self,
        *,
        blur: float = 0.5,
        sigma_px: float = 11.0,
        taps: int = 55,
        std: float = 0.11,
        color: float = 0.33,
    ) -> None:
        if not 0 <= blur <= 1:
            raise ValueError(f"blur must be a probability in [0, 1], but got {blur}.")
        if not sigma_px > 0 or taps < 1 or taps % 2 == 0:
            raise ValueError(
                f"sigma_px must be positive and taps odd, but got {sigma_px} and {taps}; "
                "an odd kernel has a middle, for example taps=55."
            )
        self.blur, self.sigma_px, self.taps, self.std, self.color = blur, sigma_px, taps, std, color
        self._noise, self._color = Noise(std), UniformColor(-color, color)

    def __call__(self, inputs: Tensor, hole: Tensor) -> Tensor:
        """Return one of the two infills for each image."""
        flat = self._color(inputs, hole) + self._noise(inputs, hole)
        blurred = gaussian_blur(inputs, self.sigma_px, self.taps // 2)
        chosen = torch.rand(len(inputs), device=inputs.device) < self.blur  # (B,)
        return torch.where(chosen.reshape(-1, *[1] * (inputs.dim() - 1)), blurred, flat)

    def __repr__(self) -> str:
        settings = f"blur={self.blur}, sigma_px={self.sigma_px}, taps={self.taps}"
        return f"DabkowskiGal({settings}, std={self.std}, color={self.color})"
