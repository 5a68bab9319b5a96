"""Deletion and insertion: the target's probability as pixels are removed or added."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from captum_masking._base.captum import TargetType, class_indices
from captum_masking.metrics.classifier import (
    Classifier,
    check_images,
    check_maps,
    logits_of,
    probabilities_of,
    softmax,
)
from captum_masking.metrics.maps import facts, finite_planes
from captum_masking.parts.infill import Blur, Infill, Mean, gaussian_blur
from captum_masking.parts.masking import fill


class Curve(NamedTuple):
    """The target's probabilities ``(B, steps + 1)`` by the fraction of pixels replaced or restored.

    Example:
        >>> Curve(torch.tensor([0.0, 0.5, 1.0]), torch.tensor([[1.0, 0.5, 0.0]])).auc
        tensor([0.5000])
    """

    fractions: Tensor
    probabilities: Tensor

    @property
    def auc(self) -> Tensor:
        """The area under the curve by the trapezoid rule, ``(B,)``."""
        return torch.trapezoid(self.probabilities, self.fractions)


@dataclass(frozen=True, kw_only=True)
class RiseBlur:
    """The image that RISE's insertion starts from: blurred by a Gaussian of an odd number of taps.

    Source:
        Petsiuk et al. 2018 (RISE), with the 5 x 5 kernel of sigma 5 of the batched version in
        CA-Stream (Torres et al. 2024). A whole Gaussian is `Blur`.

    Example:
        >>> RiseBlur(sigma_px=0.6, taps=3)(torch.ones(1, 1, 3), hole=torch.ones(1, 1, 3))
        tensor([[[0.8336, 1.0000, 0.8336]]])
    """

    sigma_px: float = 5.0
    taps: int = 5

    def __post_init__(self) -> None:
        if not 0 < self.sigma_px < float("inf") or self.taps < 1 or self.taps % 2 == 0:
            raise ValueError(
                f"sigma_px must be positive and taps odd, but got {self.sigma_px} and {self.taps}; "
                "use for example taps=5."
            )

    def __call__(self, inputs: Tensor, hole: Tensor) -> Tensor:
        return gaussian_blur(inputs, self.sigma_px, self.taps // 2)


#: The protocol of RISE, for `deletion` or ``MeanOf(deletion, **RISE_DELETION)``: steps of eight
#: rows (1,792 pixels at 224 x 224, 28 steps), replaced by the mean color.
RISE_DELETION: dict[str, Any] = {"step_px": None, "infill": Mean()}

#: The protocol of RISE for `insertion`: the same steps, from a blurred image.
RISE_INSERTION: dict[str, Any] = {"step_px": None, "infill": RiseBlur()}


def deletion_curve(
    classifier: Classifier,
    inputs: Tensor,
    masks: Tensor,
    target: TargetType,
    *,
    step_px: int | None = None,
    infill: Infill = Mean(),
    every_step: bool = False,
    batch_size: int = 32,
    whole: Tensor | None = None,
) -> Curve:
    """Return the target's probability as the most salient pixels are replaced first.

    Equal values go in reading order: a constant map, or one with NaN, removes the image from top to
    bottom.

    Args:
        step_px: Pixels per step, >= 1; None is RISE's eight rows. The last step takes the rest.
        infill: Replaces the pixels.
        every_step: Whether to call the infill at each step with the current hole, as an inpainter
            needs, or once for the whole frame.
        whole: The classifier's logits of the images, if known; saves a pass.

    Example:
        >>> inputs = torch.tensor([[[[2.0, 0.0]]]])  # Flatten: the logits are the pixels
        >>> deletion_curve(torch.nn.Flatten(), inputs, inputs, target=0, step_px=1)
        Curve(fractions=tensor([0.0000, 0.5000, 1.0000]),
              probabilities=tensor([[0.8808, 0.5000, 0.5000]]))
    """
    run = Run(classifier, inputs, masks, step_px, infill, every_step, batch_size, False, whole)
    return run.curve(target)


def insertion_curve(
    classifier: Classifier,
    inputs: Tensor,
    masks: Tensor,
    target: TargetType,
    *,
    step_px: int | None = None,
    infill: Infill = Blur(sigma_px=5.0),  # RISE: sigma 5, see RiseBlur for its kernel
    every_step: bool = False,
    batch_size: int = 32,
    whole: Tensor | None = None,
) -> Curve:
    """Return the target's probability as the most salient pixels are restored first.

    As `deletion_curve`; ``infill`` gives the image to start from.

    Example:
        >>> inputs = torch.tensor([[[[2.0, 0.0]]]])
        >>> curve = insertion_curve(torch.nn.Flatten(), inputs, inputs, 0, step_px=1, infill=Mean())
        >>> curve.probabilities
        tensor([[0.5000, 0.8808, 0.8808]])
    """
    run = Run(classifier, inputs, masks, step_px, infill, every_step, batch_size, True, whole)
    return run.curve(target)


@facts(higher_is_better=False)
def deletion(
    classifier: Classifier, inputs: Tensor, masks: Tensor, target: TargetType, **options: Any
) -> Tensor:
    """Return the area under the `deletion_curve` of each image, with its options.

    RISE counts a shorter last step as a full one; at 224 x 224 there is none.

    Example:
        >>> inputs = torch.tensor([[[[2.0, 0.0]]]])  # 0.8808, 0.5, 0.5
        >>> deletion(torch.nn.Flatten(), inputs, inputs, target=0, step_px=1)
        tensor([0.5952])
    """
    return deletion_curve(classifier, inputs, masks, target, **options).auc


@facts(higher_is_better=True)
def insertion(
    classifier: Classifier, inputs: Tensor, masks: Tensor, target: TargetType, **options: Any
) -> Tensor:
    """Return the area under the `insertion_curve` of each image, with its options.

    Example:
        >>> inputs = torch.tensor([[[[2.0, 0.0]]]])  # 0.5, 0.8808, 0.8808
        >>> insertion(torch.nn.Flatten(), inputs, inputs, target=0, step_px=1, infill=Mean())
        tensor([0.7856])
    """
    return insertion_curve(classifier, inputs, masks, target, **options).auc


@dataclass(eq=False)
class Run:
    """One curve per image of a batch; the arguments are those of `deletion_curve`."""

    classifier: Classifier
    inputs: Tensor
    masks: Tensor
    step_px: int | None
    infill: Infill
    every_step: bool
    batch_size: int
    insert: bool
    whole: Tensor | None = None  # the logits of the images, where they are known

    def __post_init__(self) -> None:
        check_images(self.classifier, self.inputs, self.batch_size)
        check_maps(self.inputs, self.masks)
        self.inputs = self.inputs.detach()
        self.ranks = _ranks(self.masks).to(self.inputs.device)
        height, width = self.inputs.shape[2:]
        self.counts = counts_of(height, width, self.step_px).to(self.inputs.device)
        #: The logits of the whole images, which are one end of each curve.
        known, batches = self.whole, self.inputs.split(self.batch_size)
        self.logits = logits_of(self.classifier, batches) if known is None else known
        self.paint = None if self.every_step else self._painted()

    def curve(self, target: TargetType) -> Curve:
        rows = self.of_classes(class_indices(self.logits, target)[:, None])
        fractions = self.counts.float() / self.inputs[0, 0].numel()
        return Curve(fractions, rows[..., 0].float())

    def of_classes(self, classes: Tensor) -> Tensor:
        """Return the probabilities of some classes ``(B, L)`` as ``(B, steps + 1, L)``."""
        whole = softmax(self.logits).gather(1, classes)[:, None]
        counts = self.counts[:-1] if self.insert else self.counts[1:]
        rows = probabilities_of(self.classifier, self._stages(counts, classes))
        rows = rows.reshape(len(whole), len(counts), -1)
        return torch.cat([rows, whole] if self.insert else [whole, rows], dim=1)

    def _stages(self, counts: Tensor, classes: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each image at each step in batches."""
        everyone = torch.arange(len(self.inputs), device=self.inputs.device)
        for pairs in torch.cartesian_prod(everyone, counts).split(self.batch_size):
            images, taken = pairs.unbind(1)
            yield self._at(images, taken), classes[images]

    def _at(self, images: Tensor, taken: Tensor) -> Tensor:
        picked = self.ranks[images] < taken.reshape(-1, 1, 1, 1)
        hole = (~picked if self.insert else picked).to(self.inputs)
        paint = self.paint
        infill = self.infill if paint is None else lambda inputs, hole: paint[images]
        return fill(self.inputs[images], hole, infill)

    @torch.no_grad()
    def _painted(self) -> Tensor:
        batches = self.inputs.split(self.batch_size)
        return torch.cat([self.infill(x, torch.ones_like(x[:, :1])) for x in batches])


def _ranks(masks: Tensor) -> Tensor:
    """Return each pixel's rank ``(B, 1, H, W)``, 0 for the most salient."""
    order = finite_planes(masks).flatten(1).sort(dim=1, descending=True, stable=True).indices
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).reshape(-1, 1, *masks.shape[-2:])


def counts_of(height: int, width: int, step_px: int | None) -> Tensor:
    """Return the number of pixels at each point of the curve, from 0 to all."""
    pixels, step = height * width, 8 * width if step_px is None else step_px
    if step < 1:
        raise ValueError(
            f"step_px must be at least 1, but got {step_px}; None is eight rows of the image."
        )
    return torch.tensor([*range(0, pixels, int(step)), pixels])
