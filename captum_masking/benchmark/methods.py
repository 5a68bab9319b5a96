"""The rows of a benchmark: methods that turn images and classes into maps."""

from __future__ import annotations

import random
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from captum.attr import Attribution, LayerAttribution
from torch import Tensor, nn
from torch.nn import functional

from captum_masking._base.borrow import module_of
from captum_masking.benchmark.result import TRIVIAL
from captum_masking.methods.base import Relative
from captum_masking.metrics.boxes import centered_square
from captum_masking.metrics.maps import min_max
from captum_masking.saliency.saliency import MaskingSaliency

#: Maps images ``(B, C, H, W)`` and classes ``(B,)`` to maps ``(B, 1, H, W)``, ``(B, H, W)``, or
#: attributions shaped as the images.
Explain = Callable[[Tensor, Tensor], Tensor]

#: Maps attributions and the size of the images to maps ``(B, 1, H, W)``.
Reduce = Callable[[Tensor, torch.Size], Tensor]


@dataclass(frozen=True)
class Method:
    """A row of a benchmark.

    Args:
        explain: Called as ``explain(inputs, target)``; may compute gradients.
        family: Library or kind; sorts and colors the rows.
        settings: Options as text, for the report.
        is_mask: Whether maps are masks in [0, 1] that are used unchanged; other maps are scaled
            from their minimum and maximum to [0, 1].
        module: The module it runs, kept in eval mode and restored; None if it is a copy.
        variants: The method with other settings, such as another layer. Each half of the images
            uses the variant that was best on the other half.

    Example:
        >>> method = Method(lambda inputs, target: inputs[:, :1], settings="the red channel")
        >>> method.maps(torch.tensor([[[[2.0, 4.0]]]]), torch.tensor([0]))
        tensor([[[[0., 1.]]]])
    """

    explain: Explain
    family: str = "yours"
    settings: str = ""
    is_mask: bool = False
    module: nn.Module | None = None
    variants: tuple[Method, ...] = ()

    def runs(self, name: str) -> dict[str, Method]:
        """Return the method and its variants by name."""
        others = {f"{name}, variant {i}": each for i, each in enumerate(self.variants, start=2)}
        return {name: self, **others}

    def maps(self, inputs: Tensor, target: Tensor) -> Tensor:
        """Return detached maps ``(B, 1, H, W)`` in [0, 1]; all NaN if any value is NaN."""
        maps = self.explain(inputs, target)
        _check_shape(maps, inputs)
        plane = _one_channel(maps.detach())
        scaled = plane.float() if self.is_mask else min_max(plane)
        _check_range(scaled)
        return scaled.to(inputs.device)


def as_method(given: Attribution | Explain | Method) -> Method:
    """Make a row of a Captum ``Attribution``, a callable or a :class:`Method`.

    Channels of attributions shaped like the images are reduced by the sum of absolute values, those
    of a layer by the positive part of their sum, which is enlarged. Our masks, and maps with one
    channel from a callable, stay unchanged. Our other methods are averaged over channels.

    Example:
        >>> from captum.attr import Saliency
        >>> as_method(Saliency(lambda inputs: inputs.flatten(1))).settings
        'Saliency'
    """
    if isinstance(given, Method):
        return given
    name = type(given).__name__
    if isinstance(given, Attribution):
        reduce, is_mask = of_layer if isinstance(given, LayerAttribution) else of_pixels, False
        if isinstance(given, MaskingSaliency):
            reduce, is_mask = (lambda attributions, size: attributions[:, :1]), True
        elif isinstance(given, Relative):
            reduce = mean_of_channels
        explain = _attributed(given, reduce, warn=is_mask)
        return Method(explain, settings=name, is_mask=is_mask, module=module_of(given.forward_func))
    if not callable(given):
        raise TypeError(
            f"a method must be a Captum Attribution or a callable as method(inputs, target), but "
            f"got {name}; wrap it in a lambda."
        )
    return Method(given, settings=getattr(given, "__name__", name), module=module_of(given))


def _attributed(attribution: Attribution, reduce: Reduce, *, warn: bool) -> Explain:
    def explain(inputs: Tensor, target: Tensor) -> Tensor:
        with nullcontext() if warn else warnings.catch_warnings(action="ignore"):
            return reduce(attribution.attribute(inputs, target=target), inputs.shape[2:])

    return explain


def of_pixels(attributions: Tensor, size: torch.Size) -> Tensor:
    return attributions.abs().sum(1, keepdim=True)


def mean_of_channels(attributions: Tensor, size: torch.Size) -> Tensor:
    return attributions.mean(1, keepdim=True)


def of_layer(attributions: Tensor, size: torch.Size) -> Tensor:
    """Return the positive part of a layer's sum over channels, enlarged, as in Grad-CAM."""
    coarse = attributions.sum(1, keepdim=True).clamp(min=0)
    return LayerAttribution.interpolate(coarse, tuple(size), "bilinear")


def _one_channel(maps: Tensor) -> Tensor:
    if maps.dim() == 3:
        return maps[:, None]
    return maps if maps.shape[1] == 1 else maps.abs().sum(1, keepdim=True)


def _check_shape(maps: Tensor, inputs: Tensor) -> None:
    if not isinstance(maps, Tensor):
        raise TypeError(f"expected the method to return a tensor, but got {type(maps).__name__}.")
    count, channels, height, width = inputs.shape
    fitting = [(count, c, height, width) for c in (1, channels)] + [(count, height, width)]
    if tuple(maps.shape) not in fitting:
        raise ValueError(
            f"expected maps of shape {fitting[0]} for images of shape {tuple(inputs.shape)}, but "
            f"got {tuple(maps.shape)}; enlarge them, for example by "
            "LayerAttribution.interpolate(maps, inputs.shape[2:], 'bilinear')."
        )


def _check_range(masks: Tensor) -> None:
    if bool(((masks < 0) | (masks > 1)).any()):
        raise ValueError(
            f"expected masks in [0, 1], but got values from {masks.min():.3g} to "
            f"{masks.max():.3g}; set is_mask=False to scale each map."
        )


# ---- The surroundings of a method: its own copy of the classifier, and random numbers.


@contextmanager
def random_states(device: torch.device, seed: int | None = None) -> Iterator[None]:
    """Restore the random states of torch, NumPy and Python afterwards; seed them if given."""
    python, numpy = random.getstate(), np.random.get_state()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        if device.type != "cpu":
            count = getattr(torch, device.type).device_count()
            stack.enter_context(torch.random.fork_rng(range(count), device_type=device.type))
        stack.callback(random.setstate, python)
        stack.callback(np.random.set_state, numpy)
        if seed is not None:
            torch.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
        yield


def one_by_one(explain: Explain) -> Explain:
    """Explain each image on its own from the same seed, independently of its batch."""

    def alone(image: Tensor, label: Tensor) -> Tensor:
        with random_states(image.device, seed=0):
            return explain(image[None], label[None])

    def each(inputs: Tensor, target: Tensor) -> Tensor:
        return torch.cat([alone(*pair) for pair in zip(inputs, target, strict=True)])

    return each


# ---- Baselines that do not use the classifier.

_SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))


def trivial_methods() -> dict[str, Method]:
    """Return the four baselines by name: the whole frame, a centered square, noise and edges.

    Source:
        Phang et al. 2020, baselines "max" and "center"; noise and edges: Adebayo et al. 2018.

    Example:
        >>> list(trivial_methods())
        ['whole frame', 'centered square', 'random', 'edge detector']
    """
    return {
        "whole frame": Method(_whole_frame, TRIVIAL, "1, except 0 in the last pixel", is_mask=True),
        "centered square": Method(_centered_square, TRIVIAL, "half of the area", is_mask=True),
        "random": Method(_noise, TRIVIAL, "uniform noise, seeded by the image"),
        "edge detector": Method(_edges, TRIVIAL, "Sobel, 3 x 3, norm over channels"),
    }


def _whole_frame(inputs: Tensor, target: Tensor) -> Tensor:
    masks = torch.ones_like(inputs[:, :1])
    masks[..., -1, -1] = 0  # a constant mask would have no box
    return masks


def _centered_square(inputs: Tensor, target: Tensor) -> Tensor:
    masks = torch.zeros_like(inputs[:, :1])
    x0, y0, x1, y1 = (int(end) for end in centered_square(*inputs.shape[2:]))
    masks[..., y0:y1, x0:x1] = 1
    return masks


def _noise(inputs: Tensor, target: Tensor) -> Tensor:
    return torch.stack([_noise_of(image) for image in inputs]).to(inputs.device)


def _noise_of(image: Tensor) -> Tensor:
    content = image.detach().cpu().float().contiguous().numpy().tobytes()
    generator = torch.Generator().manual_seed(zlib.crc32(content))
    return torch.rand(1, *image.shape[1:], generator=generator)


def _edges(inputs: Tensor, target: Tensor) -> Tensor:
    across = torch.tensor(_SOBEL, dtype=inputs.dtype, device=inputs.device)
    filters = torch.stack([across, across.T])[:, None]  # (2, 1, 3, 3)
    planes = inputs.flatten(0, 1)[:, None]  # (B * C, 1, H, W)
    slopes = functional.conv2d(functional.pad(planes, (1, 1, 1, 1), "replicate"), filters)
    return slopes.reshape(len(inputs), -1, *inputs.shape[2:]).norm(dim=1, keepdim=True)
