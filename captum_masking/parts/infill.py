"""Infills: the content of the holes that a mask leaves.

An infill is called as ``infill(inputs, hole)`` with images ``(B, C, *spatial)`` and holes ``(B, 1,
*spatial)`` in ``[0, 1]``, 1 for missing; it returns pixels shaped like ``inputs``. Inputs are
normalized, so zero is the mean color of the data. Random infills use torch's global random state,
as dropout does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from captum_masking._base.borrow import evaluated, module_of
from captum_masking._base.checks import check_finite
from captum_masking.parts.masker import linear

__all__ = [
    "Black",
    "Blur",
    "Color",
    "DabkowskiGal",
    "Infill",
    "Inpainter",
    "Mean",
    "Noise",
    "RandomImage",
    "UniformColor",
    "VARIANTS",
]

#: Called as ``infill(inputs, hole)``; returns pixels shaped like ``inputs``.
Infill = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Mean:
    """The mean color of the data: zero, since inputs are normalized (not black).

    Source:
        Phang et al. 2020, the infill of the final model.

    Example:
        >>> Mean()(torch.ones(1, 1, 1, 2), hole=torch.ones(1, 1, 1, 2))
        tensor([[[[0., 0.]]]])
    """

    def __call__(self, inputs: Tensor, hole: Tensor) -> Tensor:
        return torch.zeros_like(inputs)


@dataclass(frozen=True)
class Color:
    """A given color.

    Args:
        color: In normalized units: one number, or one per channel.

    Example:
        >>> Color(color=(1.0, -1.0))(torch.zeros(1, 2, 2), hole=torch.ones(1, 1, 2))
        tensor([[[ 1.,  1.],
                 [-1., -1.]]])
    """

    color: float | Sequence[float]

    def __call__(self, inputs: Tensor, hole: Tensor) -> Tensor:
        return _paint(inputs, torch.as_tensor(self.color, dtype=inputs.dtype, device=inputs.device))


@dataclass(frozen=True)
class Black:
    """Black: what zero becomes when images are normalized, ``-mean / std``.

    Args:
        mean: Mean of the normalization, one number or one per channel.
        std: Its standard deviation, > 0, likewise.

    Example:
        >>> Black(mean=0.5, std=0.25)(torch.zeros(1, 1, 2), hole=torch.ones(1, 1, 2))
        tensor([[[-2., -2.]]])
    """

    mean: float | Sequence[float]
    std: float | Sequence[float]

    def __post_init__(self) -> None:
        if not (torch.as_tensor(self.std) > 0).all():
            raise ValueError(
                f"std must be positive, but got {self.std}; pass the constants of the inputs' "
                "normalization, as in Normalize(mean, std)."
            )

    def __call__(self, inputs: Tensor, hole: Tensor) -> Tensor:
        mean, std = (torch.as_tensor(value).to(inputs) for value in (self.mean, self.std))
        return _paint(inputs, -mean / std)


@dataclass(frozen=True)
class UniformColor:
    """One random color for each image: every channel uniform in ``[low, high]``, normalized.

    Source:
        Dabkowski & Gal 2017, but over the whole range of pixels.

    Example:
        >>> colors = UniformColor()(torch.zeros(2, 3, 8, 8), hole=torch.ones(2, 1, 8, 8))
        >>> colors.flatten(2).std(2).any(), colors.unique().numel()  # one for each channel
        (tensor(False), 6)
    """

    # Black and white of photographs with ImageNet's normalization are near -2.1 and 2.6; this is
    # the largest round range that every channel can show.
    low: float = -2.0
    high: float = 2.0

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(
                f"low must not be above high, but got {self.low} and {self.high}; swap them."
            )

    def __call__(self, inputs: Tensor, hole: Tensor) -> Tensor:
        return _paint(inputs, inputs.new_empty(inputs.shape[:2]).uniform_(self.low, self.high))


def _paint(inputs: Tensor, color: Tensor) -> Tensor:
    """Spread a color ``()``, ``(C,)`` or ``(B, C)`` over images."""
    if color.dim() and color.shape[-1] != inputs.shape[1]:
        raise ValueError(
            f"the color must have one value for each of the {inputs.shape[1]} channels of inputs "
            f"{tuple(inputs.shape)}, but got {color.shape[-1]}; give one number to paint all "
            "channels alike."
        )
    axes = [1] * (inputs.dim() - 2)
    return torch.zeros_like(inputs) + color.reshape(*color.shape, *axes)


@dataclass(frozen=True)
class Noise:
    """Gaussian noise around the mean color, independent for each pixel and channel.

    Args:
        std: In normalized units, >= 0; 1 is the spread of the data.

    Example:
        >>> Noise(std=3.0)(torch.zeros(1, 3, 8, 8), hole=torch.ones(1, 1, 8, 8)).shape
        torch.Size([1, 3, 8, 8])
    """

    std: float = 1.0

    def __post_init__(self) -> None:
        if not self.std >= 0:
            raise ValueError(
                f"std must be >= 0, but got {self.std}; 1.0 is the spread of the data."
            )

    def __call__(self, inputs: Tensor, hole: Tensor) -> Tensor:
        return self.std * torch.randn_like(inputs)


@dataclass(frozen=True)
class Blur:
    """The image itself, blurred beyond recognition.

    Args:
        sigma_px: Standard deviation of the Gaussian in pixels, > 0; the kernel ends at four of
            them. The published value is meant for a side of 224.

    Source:
        Phang et al. 2020: sigma 20, half-width 80, the whole original image blurred, zeros (the
        mean color) around it.

    Example:
        >>> spot = torch.zeros(1, 1, 5)
        >>> spot[..., 2] = 1
        >>> Blur(sigma_px=1.0)(spot, hole=torch.ones(1, 1, 5))
        tensor([[[0.0540, 0.2420, 0.3989, 0.2420, 0.0540]]])
    """

    sigma_px: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_px < float("inf"):
            raise ValueError(
                f"sigma_px must be positive, but got {self.sigma_px}; it is the blur's standard "
                "deviation in pixels, for example 20.0."
            )

    def __call__(self, inputs: Tensor, hole: Tensor) -> Tensor:
        return gaussian_blur(inputs, self.sigma_px, int(4 * self.sigma_px + 0.5))


def gaussian_blur(inputs: Tensor, sigma_px: float, half_width_px: int) -> Tensor:
    """Convolve with a truncated Gaussian along every spatial axis, with zeros around the image.

    As ``scipy.ndimage.gaussian_filter``, by FFT: a wide kernel costs no more than a narrow one.
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
    half = half[:side]  # further taps only reach the zeros around the image
    length = side + len(half) - 1  # padding, since FFT convolution is circular
    kernel = torch.cat([half, half.new_zeros(length - 2 * len(half) + 1), half[1:].flip(0)])
    spectrum = torch.fft.rfft(kernel).real.to(rows)  # real, since the kernel is symmetric
    return torch.fft.irfft(torch.fft.rfft(rows, length) * spectrum, length)[..., :side]


@dataclass(frozen=True, eq=False)
class RandomImage:
    """Another image, drawn at random for each image.

    Without a bank, it is a different image of the same batch, and no two images get the same one.

    Args:
        bank: Images to draw from, ``(N, C, *spatial)``, normalized like the inputs and resampled
            linearly to their size; None draws from the batch.

    Example:
        >>> RandomImage()(torch.tensor([[[1.0]], [[2.0]]]), hole=torch.ones(2, 1, 1)).flatten()
        tensor([2., 1.])
    """

    bank: Tensor | None = None

    def __post_init__(self) -> None:
        if self.bank is not None:
            _check_bank(self.bank)

    def __call__(self, inputs: Tensor, hole: Tensor) -> Tensor:
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
        bank = None if self.bank is None else f"<{len(self.bank)} images>"
        return f"RandomImage(bank={bank})"


def _partners(count: int) -> Tensor:
    """Draw a different index for each of ``range(count)``: the next one in a random cycle."""
    if count < 2:
        raise ValueError(
            f"a random other image needs a batch of two or more, but got {count}; pass images "
            "with RandomImage(bank=...), or load batches with drop_last=True."
        )
    order = torch.randperm(count)
    return torch.empty_like(order).scatter_(0, order, order.roll(1))


def _check_bank(bank: Any) -> None:
    if not isinstance(bank, Tensor) or not bank.is_floating_point():
        got = bank.dtype if isinstance(bank, Tensor) else type(bank).__name__
        raise TypeError(
            f"bank must be a floating-point tensor (N, C, *spatial), but got {got}; stack the "
            "images and normalize them like the inputs."
        )
    if bank.dim() < 3 or not bank.numel():
        raise ValueError(
            f"bank must hold images (N, C, *spatial), but got {tuple(bank.shape)}; one image "
            "alone needs a batch axis, bank[None]."
        )


@dataclass(frozen=True)
class Inpainter:
    """The output of an inpainting network: any module or function ``(image, hole) -> image``.

    The network gets the true hole: the background for masked-in images, the evidence for masked-out
    ones. It runs in eval mode and without gradient, so that the mask does not learn to steer it. It
    gets copies in its own precision, and its modes are restored.

    Args:
        network: Called as ``network(image, hole)`` with images ``(B, C, *spatial)``, whole and
            normalized, and ``hole`` ``(B, 1, *spatial)`` in ``[0, 1]``, 1 for missing; returns
            images of the same shape. It must hide the hole from itself.

    Source:
        Phang et al. 2020, learned infills. Differs: the published code gives its inpainters the
        masked-out hole on both sides.

    Example:
        >>> left_neighbor = lambda image, hole: image.roll(1, -1)
        >>> Inpainter(left_neighbor)(torch.tensor([[[1.0, 2.0]]]), hole=torch.ones(1, 1, 2))
        tensor([[[2., 1.]]])
    """

    network: Callable[[Tensor, Tensor], Tensor]

    def __post_init__(self) -> None:
        if not callable(self.network):
            raise TypeError(
                f"network must be callable as network(image, hole), but got {self.network!r}; pass "
                "a module or a function, or let inpainting.train_inpainter(loader) make one."
            )

    @torch.no_grad()
    def __call__(self, inputs: Tensor, hole: Tensor) -> Tensor:
        dtype = self._dtype(inputs)
        with evaluated(self.network) as network:
            pixels = network(inputs.to(dtype, copy=True), hole.to(dtype, copy=True))
        _check_pixels(pixels, inputs)
        return pixels.to(inputs.dtype)

    def _dtype(self, inputs: Tensor) -> torch.dtype:
        """Return the network's precision; refuse inputs on another device."""
        module = module_of(self.network)
        weights = (
            [p for p in module.parameters() if p.is_floating_point()] if module is not None else []
        )
        if weights and weights[0].device != inputs.device:
            raise ValueError(
                f"the inpainting network must be on the device of the inputs, {inputs.device}, but "
                f"is on {weights[0].device}; move it with "
                f"inpainter.network.to({str(inputs.device)!r})."
            )
        return weights[0].dtype if weights else inputs.dtype

    def __repr__(self) -> str:
        return f"Inpainter(network={getattr(self.network, '__qualname__', self.network)!s})"


def _check_pixels(pixels: Any, inputs: Tensor) -> None:
    if not isinstance(pixels, Tensor):
        raise TypeError(
            f"the inpainting network must return a tensor shaped like its inputs, but returned "
            f"{type(pixels).__name__}; wrap it in a function that returns the image alone."
        )
    if pixels.shape != inputs.shape:
        raise ValueError(
            f"the inpainting network must return images of shape {tuple(inputs.shape)}, but "
            f"returned {tuple(pixels.shape)}; wrap it in a function that resamples its inputs to "
            "a size that it can read, and its output back."
        )
    check_finite(
        pixels,
        "what the inpainting network returns",
        "look at its weights, and whether it divides by the size of a hole that can be empty.",
    )


@dataclass(frozen=True, kw_only=True)
class DabkowskiGal:
    """At random per image: the blurred image, or a noisy random color.

    Args:
        blur: Probability of the blur, in ``[0, 1]``.
        sigma_px: Standard deviation of the blur in pixels, > 0.
        taps: Length of the blur's kernel, odd.
        std: Standard deviation of the noise, in units of the inputs, >= 0.
        color: Every channel of the random color is uniform in ``[-color, color]``, >= 0.

    Source:
        Dabkowski & Gal 2017; constants of the released code, in the units of its inputs. They also
        add noise of standard deviation 0.03 to the images themselves, which is data augmentation
        and belongs into the loader.

    Example:
        >>> inputs = torch.randn(8, 3, 16, 16)
        >>> DabkowskiGal(blur=0.0)(inputs, hole=torch.ones(8, 1, 16, 16)).abs().max() < 1
        tensor(True)
    """

    blur: float = 0.5
    sigma_px: float = 11.0
    taps: int = 55
    std: float = 0.11
    color: float = 0.33

    def __post_init__(self) -> None:
        if not 0 <= self.blur <= 1:
            raise ValueError(f"blur must be a probability in [0, 1], but got {self.blur}.")
        if not self.sigma_px > 0 or self.taps < 1 or self.taps % 2 == 0:
            raise ValueError(
                f"sigma_px must be positive and taps odd, but got {self.sigma_px} and {self.taps}; "
                "an odd kernel has a middle, for example taps=55."
            )
        Noise(self.std)  # checks it
        UniformColor(-self.color, self.color)

    def __call__(self, inputs: Tensor, hole: Tensor) -> Tensor:
        flat = UniformColor(-self.color, self.color)(inputs, hole) + Noise(self.std)(inputs, hole)
        blurred = gaussian_blur(inputs, self.sigma_px, self.taps // 2)
        chosen = torch.rand(len(inputs), device=inputs.device) < self.blur  # (B,)
        return torch.where(chosen.reshape(-1, *[1] * (inputs.dim() - 1)), blurred, flat)


#: Infills without data or arguments, by name. Each runs through the contract tests and is a row
#: ``infill-NAME`` of the study; add new infills here.
VARIANTS: dict[str, Infill] = {
    "mean": Mean(),
    "blur": Blur(),
    "uniform-color": UniformColor(),
    "noise": Noise(),
    "random-image": RandomImage(),
    "dabkowski-gal": DabkowskiGal(),
}
