"""Baselines that know nothing of the classifier: what beats none of them has found nothing."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor
from torch.nn import functional

from captum_masking.benchmark.method import Method
from captum_masking.metrics import centered_square

_SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))


def trivial_methods() -> dict[str, Method]:
    """Make the four baselines: the whole frame, a centred square, noise and edges.

    Returns:
        Methods by name, of the family ``"trivial"``.

    Source:
        Phang et al. 2020, baselines "max" and "center"; noise and edges are those of sanity
        checks (Adebayo et al. 2018).

    Example:
        >>> list(trivial_methods())
        ['whole frame', 'centred square', 'random', 'edge detector']
    """
    return {
        "whole frame": Method(whole_frame, "trivial", "1, but 0 in the last pixel", is_mask=True),
        "centred square": Method(centred_square, "trivial", "half of the area", is_mask=True),
        "random": Method(random, "trivial", "uniform noise, seeded by the image"),
        "edge detector": Method(edges, "trivial", "Sobel, 3 x 3, norm over channels"),
    }


def whole_frame(inputs: Tensor, target: Tensor) -> Tensor:
    """Return masks of ones with a zero in the last pixel: a constant mask would have no box.

    Source:
        Phang et al. 2020, baseline "max".

    Example:
        >>> whole_frame(torch.zeros(1, 3, 2, 2), torch.tensor([0]))
        tensor([[[[1., 1.],
                  [1., 0.]]]])
    """
    masks = torch.ones_like(inputs[:, :1])
    masks[..., -1, -1] = 0
    return masks


def centred_square(inputs: Tensor, target: Tensor) -> Tensor:
    """Return masks of the box of :func:`~captum_masking.metrics.localization.centered_square`.

    Source:
        Dabkowski & Gal 2017, baseline "centre box", half of the area.

    Example:
        >>> int(centred_square(torch.zeros(1, 3, 224, 224), torch.tensor([0])).sum()) == 158**2
        True
    """
    masks = torch.zeros_like(inputs[:, :1])
    height, width = inputs.shape[2:]
    x0, y0, x1, y1 = (int(end) for end in centered_square(height, width))
    masks[..., y0:y1, x0:x1] = 1
    return masks


def random(inputs: Tensor, target: Tensor) -> Tensor:
    """Return uniform noise in [0, 1): the same for the same image in any batch, and on any device.

    Source:
        Own.

    Example:
        >>> random(torch.zeros(2, 3, 8, 8), torch.tensor([0, 1])).shape
        torch.Size([2, 1, 8, 8])
    """
    return torch.stack([_noise(image) for image in inputs]).to(inputs.device)


def edges(inputs: Tensor, target: Tensor) -> Tensor:
    """Return the length of the gradient of all channels, by Sobel's filters, edges replicated.

    Source:
        Sobel & Feldman 1968.

    Example:
        >>> edges(torch.tensor([[[[0.0, 0.0, 1.0, 1.0]]]]), torch.tensor([0]))
        tensor([[[[0., 4., 4., 0.]]]])
    """
    across = torch.tensor(_SOBEL, dtype=inputs.dtype, device=inputs.device)
    filters = torch.stack([across, across.T])[:, None]  # (2, 1, 3, 3)
    planes = inputs.flatten(0, 1)[:, None]  # (B * C, 1, H, W)
    slopes = functional.conv2d(functional.pad(planes, (1, 1, 1, 1), "replicate"), filters)
    return slopes.reshape(len(inputs), -1, *inputs.shape[2:]).norm(dim=1, keepdim=True)


def _noise(image: Tensor) -> Tensor:
    content = image.detach().cpu().float().contiguous().numpy().tobytes()
    generator = torch.Generator().manual_seed(zlib.crc32(content))
    return torch.rand(1, *image.shape[1:], generator=generator)
