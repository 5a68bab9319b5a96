"""What the classifier says of many images: in eval mode, without gradients, a few at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from captum_masking._base.borrow import eval_mode, module_of
from captum_masking._base.captum import TargetType
from captum_masking._base.checks import check_finite, check_inputs, check_output, check_same_device
from captum_masking._base.target import as_class_logits
from captum_masking.metrics.maps import check_masks, double
from captum_masking.metrics.mean import MeanOverImages

#: Maps images ``(B, C, H, W)`` to logits ``(B, classes)``. A module is held in eval mode and given
#: its modes back; what a lambda hides cannot be reached, so put that into eval mode first.
Classifier = Callable[[Tensor], Tensor]


@torch.no_grad()
def answers(classifier: Classifier, batches: Iterable[Tensor]) -> Tensor:
    """Return the classifier's output on all batches, which may be made while it runs.

    Raises:
        TypeError: If the output is no tensor.
        ValueError: If it does not have one row per image.
    """
    return torch.cat([output for _, output in _answered(classifier, ((x, x) for x in batches))])


@torch.no_grad()
def probabilities(classifier: Classifier, batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the probabilities of some classes of each image.

    Args:
        classifier: Gives the logits.
        batches: Pairs of images ``(n, C, H, W)`` and their classes ``(n, L)``.

    Returns:
        ``(N, L)`` in double precision, over all batches.
    """
    pairs = _answered(classifier, batches)
    return torch.cat([softmax(output).gather(1, classes) for classes, output in pairs])


def _answered(
    classifier: Classifier, batches: Iterable[tuple[Tensor, Tensor]]
) -> Iterator[tuple[Tensor, Tensor]]:
    with eval_mode(classifier):
        for images, labels in batches:
            output = classifier(images)
            _check_rows(output, images)
            yield labels, output


def softmax(output: Tensor) -> Tensor:
    """Return the probabilities ``(B, classes)`` in double precision where the device has it."""
    return double(as_class_logits(output)).softmax(1)


def chosen(values: Tensor, classes: Tensor) -> Tensor:
    """Return of each row ``(B, classes)`` the value of its class, ``(B,)``."""
    return values.gather(1, classes[:, None])[:, 0]


def check_question(classifier: Any, inputs: Any, batch_size: int = 1) -> None:
    """Refuse images that cannot be shown to the classifier.

    Raises:
        TypeError: If the classifier is not callable, or the inputs are no floating-point tensor.
        ValueError: If the inputs are not images, are not finite or lie on another device, or the
            batch size is less than one.
    """
    if not callable(classifier):
        raise TypeError(
            f"classifier must be callable as classifier(inputs), but got "
            f"{type(classifier).__name__}; give a module or a function that returns logits."
        )
    check_inputs(inputs)
    if inputs.dim() != 4 or not inputs.numel():
        raise ValueError(
            f"inputs must be images (B, C, H, W), at least one, but got {tuple(inputs.shape)}; "
            "add a batch dimension with inputs[None] if this is one image."
        )
    check_finite(inputs, "inputs", "remove or repair these images.")
    check_same_device(inputs, module_of(classifier))
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more images, but got {batch_size}.")


def check_maps(inputs: Tensor, masks: Tensor) -> None:
    """Refuse masks that do not cover the images pixel by pixel.

    Raises:
        ValueError: Naming both shapes.
    """
    check_masks(masks)
    batch, _, height, width = inputs.shape
    if (len(masks), *masks.shape[-2:]) != (batch, height, width):
        raise ValueError(
            f"masks must have shape {(batch, 1, height, width)} or {(batch, height, width)} to "
            f"match inputs of shape {tuple(inputs.shape)}, but got {tuple(masks.shape)}; "
            "resample the maps to the images' size first."
        )


def _check_rows(output: Any, images: Tensor) -> None:
    check_output(output)
    if output.dim() == 0 or len(output) != len(images):
        raise ValueError(
            f"the classifier must return one row of logits per image, {len(images)}, but returned "
            f"{tuple(output.shape)}; wrap it in a function that does."
        )


# ---- The mean over images of any function that scores maps by what a classifier says.


class MeanScore(MeanOverImages):
    """Adds up ``score(classifier, inputs, masks, target, **options)`` over batches.

    The classifier is handed to ``update``, not kept: it is not moved, saved or copied with the
    metric. All metrics take the same arguments, so that a ``torchmetrics.MetricCollection`` can
    update them together.

    Args:
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Own.

    Example:
        >>> import torch
        >>> class Confidence(MeanScore):
        ...     score = staticmethod(lambda classifier, inputs, masks, target: classifier(inputs))
        >>> metric = Confidence()
        >>> metric.update(lambda inputs: inputs[:, 0], torch.tensor([[0.25], [0.75]]), None)
        >>> metric.compute()
        tensor(0.5000)
    """

    score: ClassVar[Callable[..., Tensor]]
    #: Names of the constructor's arguments that the function takes.
    options: ClassVar[tuple[str, ...]] = ()

    def update(
        self, classifier: Classifier, inputs: Tensor, masks: Tensor, target: TargetType = None
    ) -> None:
        """Score a batch; the arguments are those of the function that this is the mean of."""
        options = {name: getattr(self, name) for name in self.options}
        self.add(type(self).score(classifier, inputs, masks, target, **options))

    def __repr__(self) -> str:
        options: dict[str, Any] = {name: getattr(self, name) for name in self.options}
        settings = ", ".join(f"{name}={value!r}" for name, value in options.items())
        return f"{type(self).__name__}({settings})"
