"""What users can get wrong, refused at the door: expected, got, way out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

# ---- Inputs that no classifier can read, in words.


class InputsError(AssertionError, TypeError):
    """Inputs that are no tensor: an ``AssertionError``, as in Captum, and a ``TypeError``.

    Source:
        Own.

    Example:
        >>> issubclass(InputsError, AssertionError) and issubclass(InputsError, TypeError)
        True
    """


class ChannelsError(ValueError, RuntimeError):
    """Inputs of too many or too few channels; a ``RuntimeError``, as in PyTorch, too.

    Source:
        Own.

    Example:
        >>> issubclass(ChannelsError, ValueError) and issubclass(ChannelsError, RuntimeError)
        True
    """


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
        captum_masking._base.checks.ChannelsError: inputs must have 3 channels, as Conv2d ...
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


# ---- What classifiers answer, and what is asked of them, in words.


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


# ---- Baselines as Captum's methods take them, one for each input, or refused in words.


def baseline_of_each(
    baselines: Any, inputs: tuple[Tensor, ...]
) -> tuple[Tensor | float | None, ...]:
    """Return a baseline that fits each input; None for each where there are none.

    Args:
        baselines: A number or a tensor shaped like the input or like one example of it; a tuple of
            such for several inputs; None.
        inputs: Each ``(B, ...)``.

    Raises:
        TypeError: If a baseline is neither a tensor nor a number.
        ValueError: If there is not one for each input, or one has another shape.

    Source:
        Own.

    Example:
        >>> import torch
        >>> baseline_of_each(0.5, (torch.zeros(2, 3),))
        (0.5,)
    """
    if baselines is None:
        return (None,) * len(inputs)
    given = baselines if isinstance(baselines, tuple) else (baselines,)
    if len(given) != len(inputs):
        raise ValueError(
            f"baselines must be one for each of {len(inputs)} inputs, but got {len(given)}; "
            "pass a tuple, in the order of the inputs."
        )
    for baseline, tensor in zip(given, inputs, strict=True):
        if isinstance(baseline, bool) or not isinstance(baseline, (Tensor, int, float)):
            raise TypeError(
                f"baselines must be tensors or numbers, but got {type(baseline).__name__}; "
                "convert other arrays with torch.as_tensor."
            )
        shapes = (tensor.shape, (1, *tensor.shape[1:]))
        if isinstance(baseline, Tensor) and baseline.shape not in shapes:
            raise ValueError(
                f"baselines must have the shape of the inputs, {tuple(tensor.shape)}, or be one "
                f"example for all of them, but got {tuple(baseline.shape)}; of a set of baselines "
                "pass one, or their mean."
            )
    return given


# ---- What a training cannot use, in words.


def check_examples(inputs: Any, target: Any) -> None:
    """Refuse inputs, one tensor or a tuple of several, and labels that cannot be trained on.

    Raises:
        TypeError: If inputs are not floating point, or labels not integers.
        ValueError: If inputs are not finite, or labels not one per input.

    Source:
        Own.

    Example:
        >>> import torch
        >>> check_examples(torch.zeros(1, 1, 4, 4), torch.tensor([3]))
    """
    for tensor in inputs if isinstance(inputs, tuple) else (inputs,):
        check_inputs(tensor, vectors=True)
        check_labels(target, tensor)
        check_finite(tensor, "inputs", "remove or repair these examples in the data.")


def check_loader(loader: Any, epochs: int = 1, *, name: str = "loader") -> None:
    """Refuse a loader without batches, and a number of epochs that trains nothing.

    Raises:
        TypeError: If the loader cannot be iterated over.
        ValueError: If it is empty, if ``epochs`` is less than one, or if there are several and it
            can be read once only.

    Source:
        Own.

    Example:
        >>> import torch
        >>> check_loader([(torch.zeros(1, 1, 4, 4), torch.tensor([0]))], epochs=1)
    """
    if not hasattr(loader, "__iter__"):
        raise TypeError(
            f"{name} must give batches, but {type(loader).__name__} cannot be iterated over; pass "
            "a DataLoader, or a list of batches."
        )
    if epochs > 1 and isinstance(loader, Iterator):
        raise ValueError(
            f"{name} must be readable {epochs} times, but {type(loader).__name__} is an iterator, "
            "which ends once; pass a DataLoader, a list, or an object that starts anew in __iter__."
        )
    count = length_of(loader)
    if count == 0 or epochs < 1:
        raise ValueError(
            f"{name} must give images to read, but got {count} batches and {epochs} "
            "epochs; with few images, drop_last=False keeps the last batch."
        )


def length_of(loader: Any) -> int | None:
    """Say how many batches a loader gives, or None where it does not know.

    Source:
        Own.

    Example:
        >>> length_of([1, 2]), length_of(iter([1]))
        (2, None)
    """
    try:
        return len(loader)
    except TypeError:  # a DataLoader has __len__, also where its stream has none
        return None


# ---- Masks, areas and numbers that mean nothing, in words.


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


# ---- The wording of errors about the weights of losses.


def check_weights(*, way_out: str = "0 switches the term off.", **weights: float) -> None:
    """Refuse weights that are no finite numbers >= 0.

    Args:
        way_out: What to do instead, for the message.
        **weights: By the name of the argument.

    Raises:
        TypeError: If one is not a number.
        ValueError: If one is negative, infinite or NaN.

    Source:
        Own.

    Example:
        >>> check_weights(weight=1.0, border=0.3)
    """
    for name, weight in weights.items():
        if not isinstance(weight, Real):
            raise TypeError(f"{name} must be a number, but got {type(weight).__name__}; {way_out}")
        if not 0 <= weight < math.inf:
            raise ValueError(f"{name} must be a finite number >= 0, but got {weight}; {way_out}")
