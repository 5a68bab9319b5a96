"""Captum's infidelity and max-sensitivity, for any attribution method as a function of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import captum.metrics
import torch
from torch import Generator, Tensor

from captum_masking._base.borrow import lent
from captum_masking._base.captum import TargetType, class_indices
from captum_masking._base.checks import check_logits
from captum_masking.metrics.classifier import Classifier, check_images, logits_of
from captum_masking.metrics.maps import facts, is_finite
from captum_masking.parts.infill import Infill, Mean
from captum_masking.parts.masking import fill

#: A Captum ``Attribution``, its ``attribute`` method, or a function called alike; returns maps
#: shaped like ``inputs``, ``(B, 1, H, W)`` or ``(B, H, W)``.
Attribute = Callable[..., Any]

#: ``(inputs, generator) -> inputs``: makes one change, drawn on the CPU, to all images alike.
Perturbation = Callable[[Tensor, Generator], Tensor]


@dataclass(frozen=True, kw_only=True)
class SquareRemoval:
    """Infill a square at a random place.

    ``side`` is a fraction of the image's shorter side, in (0, 1], and one pixel at least.

    Example:
        >>> SquareRemoval(side=0.5)(torch.ones(1, 1, 4, 4), torch.Generator()).sum()
        tensor(12.)
    """

    side: float = 0.25
    infill: Infill = Mean()

    def __post_init__(self) -> None:
        if not 0 < self.side <= 1:
            raise ValueError(
                f"side must be a fraction of the image's shorter side in (0, 1], but got "
                f"{self.side}."
            )

    def __call__(self, inputs: Tensor, generator: Generator) -> Tensor:
        size = inputs.shape[2:]
        side = max(1, round(self.side * min(size)))
        y, x = (int(torch.randint(n - side + 1, (), generator=generator)) for n in size)
        hole = torch.zeros_like(inputs[:, :1])
        hole[..., y : y + side, x : x + side] = 1
        return fill(inputs, hole, self.infill)


@dataclass(frozen=True, kw_only=True)
class UniformNoise:
    """Move every pixel and channel by up to a radius, in normalized units; Captum's default.

    Example:
        >>> changed = UniformNoise(radius=0.5)(torch.zeros(1, 1, 64, 64), torch.Generator())
        >>> bool(0.45 < changed.max() <= 0.5)
        True
    """

    radius: float = 0.02

    def __post_init__(self) -> None:
        if not self.radius >= 0:
            raise ValueError(f"radius must be 0 or more, but got {self.radius}; 0.02 is Captum's.")

    def __call__(self, inputs: Tensor, generator: Generator) -> Tensor:
        drawn = torch.rand(inputs.shape[1:], generator=generator) * 2 - 1
        return inputs + self.radius * drawn.to(inputs)


@dataclass(frozen=True, kw_only=True)
class NormalNoise:
    """Add Gaussian noise of a standard deviation, in normalized units, to every pixel and channel.

    Example:
        >>> changed = NormalNoise(std=3.0)(torch.zeros(1, 1, 64, 64), torch.Generator())
        >>> bool(2.9 < changed.std() < 3.1)
        True
    """

    std: float = 0.1

    def __post_init__(self) -> None:
        if not self.std >= 0:
            raise ValueError(
                f"std must be 0 or more, but got {self.std}; 1 is the spread of the data."
            )

    def __call__(self, inputs: Tensor, generator: Generator) -> Tensor:
        drawn = torch.randn(inputs.shape[1:], generator=generator)
        return inputs + self.std * drawn.to(inputs)


@facts(higher_is_better=False, highest=None)
def infidelity(
    classifier: Classifier,
    inputs: Tensor,
    attribute: Attribute,
    target: TargetType,
    *,
    perturbation: Perturbation = SquareRemoval(),
    samples: int = 10,  # Captum's default
    normalize: bool = True,
    multiplies_by_inputs: bool | None = None,
    seed: int = 0,
    batch_size: int = 32,
) -> Tensor:
    """Return the error of the map's prediction of how image changes change the target's logit.

    The mean over changes I of ``(sum(I * map) - (f(x) - f(x - I)))^2``, in squared logits, computed
    by Captum. Changes are the same for every image and method. All models, also that of a Captum
    ``Attribution``, run in eval mode; their modes, flags and gradients are restored.

    Args:
        attribute: Any Captum ``Attribution``, its ``attribute`` method, or a function called as
            ``attribute(inputs, target=target)`` with class indices ``(n,)``.
        perturbation: Makes the changes: `SquareRemoval`, `NormalNoise`, `UniformNoise`, or a
            function ``(inputs, generator) -> inputs`` that makes one change to all images.
        samples: Changes per image, >= 1.
        normalize: Scale each map by its best factor, to compare maps in other units than logits,
            such as masks.
        multiplies_by_inputs: Whether the map gives the contribution of pixels to the logit, as
            Integrated Gradients does, instead of its gradient. I is then a fraction of the input: 1
            where a pixel becomes zero. None takes the Captum method's value, and False for a
            function; use True for masks.

    Example:
        >>> from captum.attr import InputXGradient
        >>> linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        >>> inputs = torch.rand(2, 1, 4, 4)  # the map of a linear model predicts all
        >>> bool((infidelity(linear, inputs, InputXGradient(linear), target=1) < 1e-5).all())
        True
    """
    _check_samples(samples)
    with models_lent(classifier, attribute):
        explained = _Explained(classifier, inputs, attribute, target, batch_size)
        share = multiplies_by_inputs
        if share is None:
            share = bool(getattr(_owner(attribute), "multiplies_by_inputs", False))
        as_captum_calls = captum.metrics.infidelity_perturb_func_decorator(share)
        values = [
            captum.metrics.infidelity(
                explained.logits,
                as_captum_calls(_Same(perturbation, len(images), seed)),
                images,
                explained(images, classes),
                target=classes,
                n_perturb_samples=samples,
                max_examples_per_batch=_at_once(images, samples, batch_size),
                normalize=normalize,
            )
            for images, classes in explained.batches(batch_size)
        ]
    # Captum's sum of three terms can be slightly negative by rounding.
    return torch.cat(values).clamp(min=0).float()


@facts(higher_is_better=False, highest=None)
def max_sensitivity(
    classifier: Classifier,
    inputs: Tensor,
    attribute: Attribute,
    target: TargetType,
    *,
    perturbation: Perturbation = UniformNoise(),
    samples: int = 10,  # Captum's default
    seed: int = 0,
    batch_size: int = 32,
) -> Tensor:
    """Return the largest change of the map under small changes of the image.

    The maximum of ``|map(x) - map(changed x)| / |map(x)|`` in Euclidean norms, computed by Captum;
    a map of zeros is not divided by its norm. The target is that of the unchanged image. The
    arguments are those of `infidelity`.

    Example:
        >>> from captum.attr import Saliency
        >>> linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        >>> max_sensitivity(linear, torch.rand(2, 1, 4, 4), Saliency(linear), target=1)
        tensor([0., 0.])
    """
    _check_samples(samples)
    with models_lent(classifier, attribute):
        explained = _Explained(classifier, inputs, attribute, target, batch_size)
        values = [
            captum.metrics.sensitivity_max(
                explained,
                images,
                _Same(perturbation, len(images), seed),
                n_perturb_samples=samples,
                max_examples_per_batch=_at_once(images, samples, batch_size),
                target=classes,
            )
            for images, classes in explained.batches(batch_size)
        ]
    return torch.cat(values).float()


def models_lent(classifier: Any, attribute: Any) -> AbstractContextManager[None]:
    """Keep the classifier and the method's model in eval mode; restore both afterwards."""
    model = getattr(_owner(attribute), "forward_func", None)
    return lent(classifier, attribute, *([] if model is None else [model]))


def _owner(attribute: Any) -> Any:
    return getattr(getattr(attribute, "attribute", attribute), "__self__", None)


def _at_once(images: Tensor, samples: int, batch_size: int) -> int:
    """Return the number of images per call of Captum, within its bounds."""
    return min(max(batch_size, len(images)), len(images) * samples)


def _check_samples(samples: int) -> None:
    if samples < 1:
        raise ValueError(f"samples must be at least 1, but got {samples}.")


class _Explained:
    """Images, their classes, and a method that explains them."""

    def __init__(
        self,
        classifier: Classifier,
        inputs: Tensor,
        attribute: Attribute,
        target: Any,
        batch_size: int,
    ) -> None:
        check_images(classifier, inputs, batch_size)
        method = getattr(attribute, "attribute", attribute)
        if not callable(method):
            raise TypeError(
                f"attribute must be a Captum Attribution, its attribute method, or a function "
                f"called as attribute(inputs, target=target), but got {type(attribute).__name__}."
            )
        self.method, self.classifier = method, classifier
        self.inputs = inputs.detach().clone(memory_format=torch.contiguous_format)
        output = logits_of(classifier, self.inputs.split(batch_size))
        check_logits(output[:, None] if output.dim() == 1 else output)
        # A classifier with one score per image has no classes to choose from.
        self.takes_target = output[0].numel() > 1
        classes = class_indices(output, target)
        self.classes = classes if self.takes_target else torch.zeros_like(classes)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self.inputs.split(batch_size), self.classes.split(batch_size), strict=True)

    def logits(self, images: Tensor) -> Tensor:
        return self.classifier(images).reshape(len(images), -1)

    def __call__(self, images: Any, target: Tensor) -> Any:
        """Return the maps of images, shaped like them; those with NaN or infinity as zeros."""
        if isinstance(images, tuple):  # as Captum passes the unchanged images
            return (self(images[0], target),)
        classes = target.expand(len(images)) if self.takes_target else None
        with torch.enable_grad():
            maps = self.method(images.clone().requires_grad_(), target=classes)
        maps = maps[0] if isinstance(maps, tuple) else maps
        maps = _like(maps, images).detach().to(images)
        finite = is_finite(maps).reshape(-1, 1, 1, 1)
        return maps.where(finite, 0).contiguous()


def _like(maps: Any, images: Tensor) -> Tensor:
    if isinstance(maps, Tensor):
        wide = maps[:, None] if maps.dim() == 3 else maps
        if wide.shape in (images.shape, images[:, :1].shape):
            return wide.expand_as(images)
    got = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
    raise ValueError(
        f"attribute must return maps of shape {tuple(images.shape)}, as the inputs, or with one "
        f"channel or none, but returned {got}; resample them to the size of the inputs inside."
    )


class _Same:
    """Captum's ``perturb_func``: for each of several samples, one change to all images."""

    def __init__(self, perturbation: Perturbation, images: int, seed: int) -> None:
        self.perturbation, self.images = perturbation, images
        self.generator = Generator().manual_seed(seed)

    def __call__(self, repeated: Tensor) -> Tensor:
        """Return images ``(B * samples, C, H, W)``, image by image, changed."""
        blocks = repeated.reshape(self.images, -1, *repeated.shape[1:]).unbind(1)
        return torch.stack([self.perturbation(x, self.generator) for x in blocks], 1).flatten(0, 1)
