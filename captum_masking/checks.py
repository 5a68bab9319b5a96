"""The wording of every user error: what was expected, what came, and the way out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class TargetError(AssertionError, ValueError, IndexError):
    """A target that does not name one class per example.

    It is an ``AssertionError`` and an ``IndexError``, as Captum raises, and a ``ValueError``, as
    Python would.

    Source:
        Own.

    Example:
        >>> issubclass(TargetError, AssertionError) and issubclass(TargetError, ValueError)
        True
    """


class InputsError(AssertionError, TypeError):
    """Inputs that are no tensor: an ``AssertionError``, as in Captum, and a ``TypeError``.

    Source:
        Own.

    Example:
        >>> issubclass(InputsError, AssertionError) and issubclass(InputsError, TypeError)
        True
    """


def check_mask_shape(mask: Tensor, inputs: Tensor) -> None:
    """Refuse a mask that is not ``(B, 1, *spatial)`` for inputs ``(B, C, *spatial)``.

    Vectors ``(B, F)`` have masks of their own shape: one value for each element.

    Raises:
        ValueError: Naming both shapes.

    Source:
        Own.

    Example:
        >>> check_mask_shape(torch.ones(2, 1, 4, 4), torch.ones(2, 3, 4, 4))
    """
    expected = (inputs.shape[0], 1, *inputs.shape[2:]) if inputs.dim() > 2 else tuple(inputs.shape)
    if tuple(mask.shape) != expected:
        raise ValueError(
            f"mask must have shape {expected} to match inputs of shape {tuple(inputs.shape)}, "
            f"but got {tuple(mask.shape)}; upsample the mask to the input's size first."
        )


def check_area(area: Any, asks: Sequence[str] = ("area",), *, examples: int | None = None) -> None:
    """Refuse a size that is no fraction of the image, or that nobody asked for.

    Args:
        area: A number, a tensor, or None.
        asks: What the masker wants to be told.
        examples: How many a tensor must be for; None takes any number.

    Raises:
        TypeError: If it is neither a number nor a tensor of numbers.
        ValueError: If the masker takes no size, or one is not between 0 and 1.

    Source:
        Own.

    Example:
        >>> check_area(0.3)
    """
    if area is not None and "area" not in asks:
        raise ValueError(
            f"area={area} was asked for, but this model's masker takes no size; train one that "
            "does: MaskingModel(classifier, masker=partial(Masker, sized=True))."
        )
    if area is None:
        return
    if isinstance(area, bool) or not isinstance(area, (int, float, Tensor)):
        raise TypeError(
            f"area must be a number or a tensor with one for each example, but got {area!r}; "
            "give a fraction of the image, such as 0.3."
        )
    if isinstance(area, Tensor) and examples is not None and area.shape not in ((), (examples,)):
        raise ValueError(
            f"area must be one number or one for each of {examples} examples, but got a tensor of "
            f"shape {tuple(area.shape)}; give area[:{examples}] or a single number."
        )
    if not all(0 < a < 1 for a in torch.as_tensor(area).flatten().tolist()):
        raise ValueError(
            f"area must be a fraction of the image between 0 and 1, both excluded, but got {area}."
        )


def check_inputs(inputs: Any, *, vectors: bool = False) -> None:
    """Refuse inputs that no classifier of images or signals can read.

    Args:
        inputs: Anything.
        vectors: Whether vectors ``(B, F)`` are taken too.

    Raises:
        InputsError: If ``inputs`` is not a tensor.
        TypeError: If it is not floating point, or sparse.
        ValueError: If it has no batch, channel and spatial dimension.

    Source:
        Own.

    Example:
        >>> check_inputs(torch.rand(1, 3, 8, 8))
    """
    if not isinstance(inputs, Tensor):
        raise InputsError(
            f"inputs must be a tensor (B, C, *spatial), but got {type(inputs).__name__}; "
            "convert it with torch.as_tensor(...) first."
        )
    if not inputs.is_floating_point():
        raise TypeError(
            f"inputs must be floating point, but got {inputs.dtype}; convert with .float(), "
            "divide by 255 if these are pixels, and normalise as the classifier expects."
        )
    if inputs.layout != torch.strided:
        raise TypeError(
            f"inputs must be a dense tensor, but got {inputs.layout}; convert with .to_dense()."
        )
    if inputs.dim() < (2 if vectors else 3):
        raise ValueError(
            f"inputs must have shape (B, C, *spatial){' or (B, F)' if vectors else ''}, but got "
            f"{tuple(inputs.shape)}; add a batch dimension with inputs[None] if this is one "
            "example."
        )
    if 0 in inputs.shape[1:]:
        raise ValueError(
            f"inputs must have a size of at least one, but got shape {tuple(inputs.shape)}; only "
            "the batch may be empty."
        )


def check_output(output: Any) -> None:
    """Refuse a classifier's answer that is not a tensor.

    Raises:
        TypeError: Naming what came.

    Source:
        Own.

    Example:
        >>> check_output(torch.zeros(2, 10))
    """
    if not isinstance(output, Tensor):
        raise TypeError(
            f"the classifier must return a tensor of logits (B, classes), but returned "
            f"{type(output).__name__}; wrap it, for example in a function returning output.logits."
        )


def check_logits(logits: Any) -> None:
    """Refuse a classifier's answer that is not ``(B, classes)`` logits.

    Raises:
        TypeError: If the answer is not a tensor.
        ValueError: If it does not have two dimensions.

    Source:
        Own.

    Example:
        >>> check_logits(torch.zeros(2, 10))
    """
    check_output(logits)
    if logits.dim() != 2:
        raise ValueError(
            f"the classifier must return logits of shape (B, classes), but returned "
            f"{tuple(logits.shape)}; wrap it in a module that returns one row per example."
        )


def check_labels(target: Any, inputs: Tensor, classes: int | None = None) -> None:
    """Refuse labels that are not one class index per input.

    Args:
        target: What the loader gave as labels.
        inputs: The batch they belong to.
        classes: Number of logits, where it is known already.

    Raises:
        TypeError: If the labels are not an integer tensor.
        ValueError: If there is not one per input, or one lies outside ``[0, classes)``.

    Source:
        Own.

    Example:
        >>> check_labels(torch.tensor([0, 9]), torch.zeros(2, 1, 4, 4), classes=10)
    """
    if not isinstance(target, Tensor) or target.is_floating_point() or target.dtype == torch.bool:
        got = target.dtype if isinstance(target, Tensor) else type(target).__name__
        raise TypeError(
            f"labels must be a tensor of integers (B,), but got {got}; "
            "the loader must give pairs (inputs, labels) with labels as class indices."
        )
    if target.shape != inputs.shape[:1]:
        raise ValueError(
            f"labels must have shape {tuple(inputs.shape[:1])}, one per input, "
            f"but got {tuple(target.shape)}."
        )
    if classes is not None and len(target) and not 0 <= target.min() <= target.max() < classes:
        raise ValueError(
            f"labels must lie in 0..{classes - 1} for a classifier with {classes} logits, but got "
            f"{target.min().item()}..{target.max().item()}; check the label column, or give the "
            "classifier as many outputs as there are classes."
        )


def check_finite(tensor: Tensor, name: str, way_out: str) -> None:
    """Refuse NaN and infinity.

    Raises:
        ValueError: Saying how many values of which examples are not finite.

    Source:
        Own.

    Example:
        >>> check_finite(torch.zeros(2), "inputs", "look at the data.")
    """
    good = tensor.detach().isfinite()
    if not good.all():
        bad = good.logical_not()
        rows = bad.flatten(1).any(1).nonzero().flatten().tolist() if bad.dim() > 1 else []
        where = f" (examples {rows[:8]} of the batch)" if rows else ""
        raise ValueError(
            f"{name} must be finite, but {int(bad.sum())} of {bad.numel()} values are NaN or "
            f"infinite{where}; {way_out}"
        )


def check_pair(batch: Any) -> tuple[Tensor, Tensor]:
    """Read ``(inputs, labels)`` from what a loader gave, and refuse anything else.

    Args:
        batch: A pair ``(inputs, labels)``; further elements are ignored.

    Returns:
        ``(inputs, labels)``.

    Raises:
        TypeError: If the batch is not a pair of tensors.

    Source:
        Own.

    Example:
        >>> inputs, labels = check_pair([torch.zeros(1, 1, 4, 4), torch.tensor([3])])
    """
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        raise TypeError(
            f"the loader must give pairs (inputs, labels), but gave {type(batch).__name__}; "
            "a Dataset whose items are (image, label) in a DataLoader does."
        )
    for name, part in zip(("inputs", "labels"), batch, strict=False):
        if not isinstance(part, Tensor):
            raise TypeError(
                f"the loader must give pairs of tensors (inputs, labels), but its {name} are "
                f"{type(part).__name__}; have its collate function stack them."
            )
    return batch[0], batch[1]


def check_examples(inputs: Any, target: Any) -> None:
    """Refuse inputs and labels that cannot be trained on.

    Raises:
        TypeError: If inputs are not floating point, or labels not integers.
        ValueError: If inputs are not finite, or labels not one per input.

    Source:
        Own.

    Example:
        >>> check_examples(torch.zeros(1, 1, 4, 4), torch.tensor([3]))
    """
    check_inputs(inputs, vectors=True)
    check_labels(target, inputs)
    check_finite(inputs, "inputs", "remove or repair these examples in the data.")


def check_same_device(inputs: Tensor, module: nn.Module | None) -> None:
    """Refuse inputs on another device than the module's parameters.

    Raises:
        ValueError: Naming both devices.

    Source:
        Own.

    Example:
        >>> check_same_device(torch.zeros(1), torch.nn.Linear(1, 1))
    """
    first = None if module is None else next(module.parameters(), None)
    if first is not None and first.device != inputs.device:
        raise ValueError(
            f"inputs must be on the model's device {first.device}, but are on {inputs.device}; "
            f"move them with inputs.to({str(first.device)!r})."
        )


class ChannelsError(ValueError, RuntimeError):
    """Inputs of too many or too few channels; a ``RuntimeError``, as in PyTorch, too.

    Source:
        Own.

    Example:
        >>> issubclass(ChannelsError, ValueError) and issubclass(ChannelsError, RuntimeError)
        True
    """


@contextmanager
def channels_in_words(module: nn.Module | None, inputs: Tensor) -> Iterator[None]:
    """Say it in words if a network fails because of the inputs' dimensions or channels.

    The first layer says how many it takes; a network that accepts others is not disturbed.

    Args:
        module: The network that runs in the body.
        inputs: ``(B, C, *spatial)`` or ``(B, F)``.

    Raises:
        ChannelsError: In place of PyTorch's error.

    Source:
        Own.

    Example:
        >>> network, inputs = nn.Conv2d(3, 4, 3), torch.zeros(1, 1, 8, 8)
        >>> with channels_in_words(network, inputs):
        ...     network(inputs)
        Traceback (most recent call last):
        captum_masking.checks.ChannelsError: inputs must have 3 channels, as Conv2d takes, but ...
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        kind = nn.modules.conv._ConvNd if inputs.dim() > 2 else nn.Linear
        parts = [] if module is None else module.modules()
        first: Any = next((part for part in parts if isinstance(part, kind)), None)
        wrong = None if first is None else _what_is_wrong(first, inputs)
        if wrong is None:
            raise
        raise ChannelsError(f"{wrong}: shape {tuple(inputs.shape)}; {_WAY_OUT}") from error


_WAY_OUT = (
    "channels are the second dimension, after the batch's (one picture: inputs[None]; grey "
    "pictures for a colour network: inputs.repeat(1, 3, 1, 1))."
)


def _what_is_wrong(first: Any, inputs: Tensor) -> str | None:
    """Compare inputs with what a network's first layer takes; None if they fit."""
    name, dims = type(first).__name__, len(getattr(first, "kernel_size", ()))
    if dims and inputs.dim() != dims + 2:
        return f"inputs must have {dims + 2} dimensions, as {name} takes, but have {inputs.dim()}"
    taken = getattr(first, "in_channels", getattr(first, "in_features", None))
    if taken != inputs.shape[1]:
        return f"inputs must have {taken} channels, as {name} takes, but have {inputs.shape[1]}"
    return None


def check_number_of_inputs(inputs: Sequence[Any], taken: int | None) -> None:
    """Refuse more or fewer inputs than a model takes.

    Args:
        inputs: A tuple of tensors.
        taken: How many the model takes; None where it is not known.

    Raises:
        TypeError: Naming both numbers.

    Source:
        Own.

    Example:
        >>> check_number_of_inputs([torch.zeros(1)], taken=1)
    """
    words = "one tensor or a tuple of one tensor" if taken == 1 else f"a tuple of {taken} tensors"
    if not inputs or taken is not None and len(inputs) != taken:
        raise TypeError(
            f"inputs must be {words if taken else 'one or several tensors'}, but got "
            f"{len(inputs)} tensors; pass arguments that are not to be explained as "
            "additional_forward_args, or build the model for several inputs with "
            "MaskingModel(classifier, example_inputs=(first, second))."
        )


def check_same_batch(inputs: Sequence[Tensor]) -> None:
    """Refuse several inputs of which some have more examples than others.

    Raises:
        ValueError: Naming the numbers of examples.

    Source:
        Own.

    Example:
        >>> check_same_batch([torch.zeros(2, 3), torch.zeros(2, 1, 8)])
    """
    sizes = [len(tensor) for tensor in inputs]
    if len(set(sizes)) > 1:
        raise ValueError(
            f"several inputs must have one example each for every example, but have {sizes}; "
            "expand those that are shared, or pass them as additional_forward_args."
        )


def check_loader(loader: Any, epochs: int = 1, *, name: str = "loader") -> None:
    """Refuse a loader without batches, and a number of epochs that trains nothing.

    Raises:
        TypeError: If the loader has no length.
        ValueError: If it is empty, or ``epochs`` is less than one.

    Source:
        Own.

    Example:
        >>> check_loader([(torch.zeros(1, 1, 4, 4), torch.tensor([0]))], epochs=1)
    """
    if not hasattr(loader, "__len__"):
        raise TypeError(
            f"{name} must have a length, but {type(loader).__name__} has none; pass a DataLoader "
            "of a Dataset with a length, or a list of batches."
        )
    if len(loader) == 0 or epochs < 1:
        raise ValueError(
            f"{name} must give images to read, but got {len(loader)} batches and {epochs} "
            "epochs; with few images, drop_last=False keeps the last batch."
        )
