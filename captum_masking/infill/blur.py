"""The image itself, blurred."""

from __future__ import annotations

import torch
from torch import Tensor


def gaussian_blur(inputs: Tensor, sigma_px: float, half_width_px: int) -> Tensor:
    """Convolve with a Gaussian along every spatial axis, with zeros around the image.

    The weights of the kernel sum to one, those that fall outside of the image included. Computed
    by FFT, so that a wide kernel costs no more than a narrow one.

    Args:
        inputs: ``(B, C, *spatial)``.
        sigma_px: Standard deviation in pixels, > 0.
        half_width_px: Taps on either side of the middle one.

    Returns:
        The blurred images, shaped like ``inputs``.

    Source:
        Own; the truncated kernel is that of ``scipy.ndimage.gaussian_filter``.

    Example:
        >>> gaussian_blur(torch.ones(1, 1, 3), sigma_px=0.6, half_width_px=1)  # taps .166 .667 .166
        tensor([[[0.8336, 1.0000, 0.8336]]])
    """
    distance = torch.arange(half_width_px + 1, dtype=torch.float64)
    half = (-0.5 * (distance / sigma_px).square()).exp()  # the middle tap and those to its right
    half = half / (half.sum() + half[1:].sum())
    pixels = inputs.float() if inputs.dtype.itemsize < 4 else inputs  # no FFT in half precision
    for axis in range(2, inputs.dim()):
        pixels = _convolve(pixels.movedim(axis, -1), half).movedim(-1, axis)
    return pixels.to(inputs.dtype)


def _convolve(rows: Tensor, half: Tensor) -> Tensor:
    """Convolve along the last axis with a symmetric kernel, given as its right half."""
    side = rows.shape[-1]
    half = half[:side]  # taps further out only ever meet the zeros around the image
    length = side + len(half) - 1  # room for the kernel's overhang: FFT goes round in circles
    kernel = torch.cat([half, half.new_zeros(length - 2 * len(half) + 1), half[1:].flip(0)])
    spectrum = torch.fft.rfft(kernel).real.to(rows)  # real, since the kernel is symmetric
    return torch.fft.irfft(torch.fft.rfft(rows, length) * spectrum, length)[..., :side]


class Blur:
    """The image itself, blurred beyond recognition.

    Args:
        sigma_px: Standard deviation of the Gaussian in pixels, > 0; the kernel ends at four of
            them. The published value is meant for a side of 224.

    Raises:
        ValueError: If ``sigma_px`` is not positive.

    Source:
        Phang et al. 2020: sigma 20, half-width 80, the whole original image blurred, zeros (the
        mean colour) around it.

    Example:
        >>> spot = torch.zeros(1, 1, 5)
        >>> spot[..., 2] = 1
        >>> Blur(sigma_px=1.0)(spot, hole=torch.ones(1, 1, 5))
        tensor([[[0.0540, 0.2420, 0.3989, 0.2420, 0.0540]]])
    """

    def __init__(self, sigma_px: float = 20.0) -> None:
        if not 0 < sigma_px < float("inf"):
            raise ValueError(
                f"sigma_px must be positive, but got {sigma_px}; it is the blur's standard "
                "deviation in pixels, for example 20.0."
            )
        self.sigma_px = sigma_px

    def __call__(self, inputs: Tensor, hole: Tensor) -> Tensor:
        """Return the images, blurred."""
        return gaussian_blur(inputs, self.sigma_px, int(4 * self.sigma_px + 0.5))

    def __repr__(self) -> str:
        return f"Blur(sigma_px={self.sigma_px})"
