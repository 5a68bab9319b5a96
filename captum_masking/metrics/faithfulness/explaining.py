"""Any attribution method as a function of images, whose models are given back as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from captum_masking.checks import check_logits
from captum_masking.metrics.faithfulness.asking import Classifier, answers, check_question
from captum_masking.metrics.localization.planes import is_finite
from captum_masking.modes import eval_mode, given_back, module_of
from captum_masking.target import class_indices

#: Called as ``attribute(inputs, target=target)``: the ``attribute`` method of any Captum
#: ``Attribution`` (or the object itself), or a function. Returns maps shaped like ``inputs``,
#: ``(B, 1, H, W)`` or ``(B, H, W)``.
Attribute = Callable[..., Any]


class Explained:
    """Images, their classes, and a method that explains them.

    Args:
        classifier: Whose answer is explained.
        inputs: ``(B, C, H, W)``.
        attribute: The method.
        target: Any form Captum takes.
        batch_size: Images shown to the classifier at a time.
    """

    def __init__(
        self,
        classifier: Classifier,
        inputs: Tensor,
        attribute: Attribute,
        target: Any,
        batch_size: int,
    ) -> None:
        check_question(classifier, inputs, batch_size)
        method = getattr(attribute, "attribute", attribute)
        if not callable(method):
            raise TypeError(
                f"attribute must be a Captum Attribution, its attribute method, or a function "
                f"called as attribute(inputs, target=target), but got {type(attribute).__name__}."
            )
        self.method, self.classifier = method, classifier
        self.inputs = inputs.detach().clone(memory_format=torch.contiguous_format)
        output = answers(classifier, self.inputs.split(batch_size))
        check_logits(output[:, None] if output.dim() == 1 else output)
        # A classifier with one score per image has no classes to choose from.
        self.takes_target = output[0].numel() > 1
        classes = class_indices(output, target)
        self.classes = classes if self.takes_target else torch.zeros_like(classes)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the images and their classes, some at a time."""
        return zip(self.inputs.split(batch_size), self.classes.split(batch_size), strict=True)

    def logits(self, images: Tensor) -> Tensor:
        """Return the classifier's logits or scores, ``(n, classes)``."""
        return self.classifier(images).reshape(len(images), -1)

    def __call__(self, images: Any, target: Tensor) -> Any:
        """Return the maps of images, shaped like them; those with NaN or infinity as zeros."""
        if isinstance(images, tuple):  # as Captum asks for the maps of the unchanged images
            return (self(images[0], target),)
        asked = target.expand(len(images)) if self.takes_target else None
        with torch.enable_grad():
            maps = self.method(images.clone().requires_grad_(), target=asked)
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


def owner_of(attribute: Any) -> Any:
    """Return the object whose method explains, such as a Captum ``Attribution``, or None."""
    return getattr(getattr(attribute, "attribute", attribute), "__self__", None)


@contextmanager
def borrowed(classifier: Classifier, attribute: Any) -> Iterator[None]:
    """Hold the classifier and the method's model in eval mode, then give all back.

    Gradients that the body leaves on parameters are dropped, and those from before put back.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        for function in (classifier, attribute, getattr(owner_of(attribute), "forward_func", None)):
            if function is not None:
                stack.enter_context(given_back(function))
                stack.enter_context(eval_mode(function))
                stack.enter_context(gradients_given_back(module_of(function)))
        yield


@contextmanager
def gradients_given_back(module: nn.Module | None) -> Iterator[None]:
    """Drop the gradients that the body leaves on parameters, and put back those from before."""
    gradients = [(p, p.grad) for p in module.parameters()] if module else []
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in reversed(gradients):
            parameter.grad = gradient
