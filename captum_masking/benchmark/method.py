"""One row of the benchmark: anything that maps images and classes to maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from captum.attr import Attribution, LayerAttribution
from torch import Tensor, nn

from captum_masking.benchmark.lending import quiet
from captum_masking.metrics import min_max
from captum_masking.modes import module_of
from captum_masking.saliency import MaskingSaliency

#: Maps images ``(B, C, H, W)`` and classes ``(B,)`` to maps ``(B, 1, H, W)``, ``(B, H, W)``, or
#: attributions shaped as the images.
Explain = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Method:
    """How a row makes its maps.

    Args:
        explain: Called as ``explain(inputs, target)``; may take gradients, and leave them.
        family: Of which library or kind it is; rows are sorted and colored by it.
        settings: What it was set to, in words, for the report.
        is_mask: Whether values are shares in [0, 1] that are used as they are; any other map is
            scaled so that its least value becomes 0 and its greatest 1.
        module: What it runs, to be held in eval mode and given back as it was; None if that is
            the benchmark's own copy.

    Source:
        Own.

    Example:
        >>> import torch
        >>> method = Method(lambda inputs, target: inputs[:, :1], settings="the red channel")
        >>> method.maps(torch.tensor([[[[2.0, 4.0]]]]), torch.tensor([0]))
        tensor([[[[0., 1.]]]])
    """

    explain: Explain
    family: str = "yours"
    settings: str = ""
    is_mask: bool = False
    module: nn.Module | None = None

    def maps(self, inputs: Tensor, target: Tensor) -> Tensor:
        """Return maps ``(B, 1, H, W)`` in [0, 1], detached; NaN all over where a value is NaN.

        Raises:
            TypeError: If the method does not return a tensor.
            ValueError: If its maps do not fit the images, or a mask leaves [0, 1].
        """
        maps = self.explain(inputs, target)
        _check_shape(maps, inputs)
        plane = one_channel(maps.detach())
        scaled = plane.float() if self.is_mask else min_max(plane)
        _check_range(scaled)
        return scaled.to(inputs.device)


def as_method(given: Attribution | Explain | Method) -> Method:
    """Take a Captum ``Attribution``, a callable or a :class:`Method` for a row.

    Attributions shaped as the images become one channel by the sum of absolute values; those of a
    layer by the positive part of their sum, enlarged to the images. What a callable returns in
    one channel is taken as it is.

    Args:
        given: The ``Attribution`` is called as ``given.attribute(inputs, target=target)``.

    Returns:
        The row. A :class:`~captum_masking.saliency.MaskingSaliency` is a mask, used as it is.

    Raises:
        TypeError: If it cannot be called.

    Source:
        Own; the reduction of layers is that of Grad-CAM (Selvaraju et al. 2017).

    Example:
        >>> from captum.attr import Saliency
        >>> as_method(Saliency(lambda inputs: inputs.flatten(1))).settings
        'Saliency'
    """
    if isinstance(given, Method):
        return given
    if isinstance(given, Attribution):
        return _of_attribution(given)
    name = type(given).__name__
    if not callable(given):
        raise TypeError(
            f"a method must be a Captum Attribution or a callable as method(inputs, target), but "
            f"got {name}; wrap it in a lambda."
        )
    return Method(given, settings=getattr(given, "__name__", name), module=module_of(given))


def _of_attribution(given: Attribution) -> Method:
    name, module = type(given).__name__, module_of(given.forward_func)
    if isinstance(given, LayerAttribution):
        return Method(lambda x, t: of_layer(given, x, t), settings=name, module=module)
    if isinstance(given, MaskingSaliency):
        explain = lambda x, t: given.attribute(x, target=t)[:, :1]  # noqa: E731
        return Method(explain, settings=name, is_mask=True, module=module)
    return Method(lambda x, t: absolute(given, x, t), settings=name, module=module)


def absolute(attribution: Attribution, inputs: Tensor, target: Tensor) -> Tensor:
    """Return the sum over channels of absolute attributions, ``(B, 1, H, W)``."""
    with quiet():
        return attribution.attribute(inputs, target=target).abs().sum(1, keepdim=True)


def of_layer(attribution: LayerAttribution, inputs: Tensor, target: Tensor) -> Tensor:
    """Return the positive part of a layer's attributions, summed and enlarged, ``(B, 1, H, W)``."""
    with quiet():
        coarse = attribution.attribute(inputs, target=target).sum(1, keepdim=True).clamp(min=0)
    return LayerAttribution.interpolate(coarse, tuple(inputs.shape[2:]), "bilinear")


def one_channel(maps: Tensor) -> Tensor:
    """Return maps as ``(B, 1, H, W)``: several channels by the sum of their absolute values."""
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
            f"{masks.max():.3g}; leave is_mask False to have each map scaled."
        )
