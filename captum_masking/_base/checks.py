"""Check what users pass; errors state what was expected, what came, and a way out."""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from captum_masking._base.processes import gathered

# ---- Inputs


class InputsError(AssertionError, TypeError):
    """Inputs that are not a tensor: an ``AssertionError``, as in Captum, and a ``TypeError``."""


class ChannelsError(ValueError, RuntimeError):
    """Inputs with the wrong number of channels; also a ``RuntimeError``, as in PyTorch."""


def check_inputs(inputs: Any, *, vectors: bool = False) -> None:
    """Check for a floating-point tensor (B, C, *spatial), or (B, F) if vectors are allowed."""
    if not isinstance(inputs, Tensor):
        raise InputsError(
            f"inputs must be a tensor (B, C, *spatial), but got {type(inputs).__name__}; "
            "convert it with torch.as_tensor(...) first."
        )
    if not inputs.is_floating_point():
        raise TypeError(
            f"inputs must be floating point, but got {inputs.dtype}; convert with .float(), "
            "divide by 255 if these are pixels, and normalize as the classifier expects."
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
            f"inputs must have no dimension of size 0 after the batch, but got shape "
            f"{tuple(inputs.shape)}; remove empty examples."
        )


def check_number_of_inputs(inputs: Sequence[Any], taken: int | None) -> None:
    """Check the number of inputs of a model; None if unknown."""
    words = "one tensor or a tuple of one tensor" if taken == 1 else f"a tuple of {taken} tensors"
    if not inputs or taken is not None and len(inputs) != taken:
        raise TypeError(
            f"inputs must be {words if taken else 'one or several tensors'}, but got "
            f"{len(inputs)} tensors; pass arguments that need no attribution as "
            "additional_forward_args, or build the model for several inputs with "
            "MaskingModel(classifier, example_inputs=(first, second))."
        )


def check_same_batch(inputs: Sequence[Tensor]) -> None:
    """Check that all inputs have the same batch size."""
    sizes = [len(tensor) for tensor in inputs]
    if len(set(sizes)) > 1:
        raise ValueError(
            f"all inputs must have the same batch size, but have {sizes}; "
            "expand shared inputs, or pass them as additional_forward_args."
        )


def check_same_device(inputs: Tensor, module: nn.Module | None) -> None:
    """Check that inputs are on the device of the module's parameters."""
    first = None if module is None else next(module.parameters(), None)
    check_has_weights([] if first is None else [("the model's first parameter", first)])
    if first is not None and first.device != inputs.device:
        raise ValueError(
            f"inputs must be on the model's device {first.device}, but are on {inputs.device}; "
            f"move them with inputs.to({str(first.device)!r})."
        )


def check_has_weights(named: Iterable[tuple[str, Tensor]]) -> None:
    """Check that weights have values."""
    for name, weights in named:
        if weights.is_meta or isinstance(weights, nn.UninitializedParameter):
            raise ValueError(
                f"expected a network with weights, but {name} has no values yet; load them, or run "
                "a lazy network on one batch first, which sets the sizes of its layers."
            )


def check_finite(tensor: Tensor, name: str, way_out: str) -> None:
    """Check for NaN and infinity."""
    good = tensor.detach().isfinite()
    if not good.all():
        bad = good.logical_not()
        rows = bad.flatten(1).any(1).nonzero().flatten().tolist() if bad.dim() > 1 else []
        where = f" (examples {rows[:8]} of the batch)" if rows else ""
        raise ValueError(
            f"{name} must be finite, but {int(bad.sum())} of {bad.numel()} values are NaN or "
            f"infinite{where}; {way_out}"
        )


@contextmanager
def channels_in_words(module: nn.Module | None, inputs: Tensor) -> Iterator[None]:
    """Explain a network's error if the inputs do not fit its first layer."""
    try:
        with arguments_in_words():
            yield
    except (RuntimeError, ValueError) as error:
        kind = nn.modules.conv._ConvNd if inputs.dim() > 2 else nn.Linear
        parts = [] if module is None else module.modules()
        first: Any = next((part for part in parts if isinstance(part, kind)), None)
        wrong = None if first is None else _misfit(first, inputs)
        if "DTensor" in str(error):
            raise ValueError(
                "a masker cannot read a sharded model; shard fully_shard(model.classifier) alone."
            ) from error
        if wrong is None:
            raise
        raise ChannelsError(
            f"{wrong}: shape {tuple(inputs.shape)}; channels are the second dimension, after the "
            "batch (for one image: inputs[None]; for gray images and a color network: "
            "inputs.repeat(1, 3, 1, 1); the other way round: inputs.mean(1, keepdim=True))."
        ) from error


@contextmanager
def arguments_in_words() -> Iterator[None]:
    """Add how to pass further arguments to an error."""
    try:
        yield
    except TypeError as error:
        if "forward() " not in str(error):
            raise
        raise TypeError(
            f"{error}; pass further arguments as additional_forward_args=(...), and to fit in "
            "batches ((inputs, *others), labels); wrap the module if it takes keywords only."
        ) from error


def _misfit(first: Any, inputs: Tensor) -> str | None:
    name, dims = type(first).__name__, len(getattr(first, "kernel_size", ()))
    if dims and inputs.dim() != dims + 2:
        return f"inputs must have {dims + 2} dimensions for {name}, but have {inputs.dim()}"
    taken = getattr(first, "in_channels", getattr(first, "in_features", None))
    if taken != inputs.shape[1]:
        return f"inputs must have {taken} channels for {name}, but have {inputs.shape[1]}"
    return None


# ---- Outputs and targets


class TargetError(AssertionError, ValueError, IndexError):
    """A target that does not name one class per example; also the errors Captum raises."""


def check_output(output: Any) -> None:
    if not isinstance(output, Tensor):
        raise TypeError(
            f"the classifier must return a tensor of logits (B, classes), but returned "
            f"{type(output).__name__}; wrap it, for example in a function returning output.logits."
        )


def with_rows(output: Any, inputs: Tensor) -> Tensor:
    """Return scores with one row per example; restore a single row that was squeezed."""
    check_output(output)
    if len(inputs) == 1 and (output.dim() == 0 or (output.dim() == 1 and len(output) > 1)):
        return output[None]
    if output.dim() == 0 or len(output) != len(inputs):
        raise ValueError(
            f"the classifier must return one row of logits per example, {len(inputs)}, but "
            f"returned {tuple(output.shape)}; wrap it in a function that does."
        )
    return output


def check_one_row(output: Tensor) -> None:
    """Check that a classifier predicts one class per example, not one per pixel."""
    if output.dim() > 2 and output.shape[2:].numel() > 1:
        raise TargetError(
            "target=None, the predicted class, needs one score per class, but the classifier "
            f"returned {tuple(output.shape)}; pass a target with class and position, or average "
            "over positions with lambda inputs: classifier(inputs).flatten(2).mean(2)."
        )


def check_logits(logits: Any) -> None:
    """Check that a classifier returned (B, classes) logits."""
    check_output(logits)
    if logits.dim() != 2:
        raise ValueError(
            f"the classifier must return logits of shape (B, classes), but returned "
            f"{tuple(logits.shape)}; wrap it in a module that returns one row per example, for a "
            "segmentation such as classifier(inputs).flatten(2).mean(2)."
        )


def as_indices(labels: Any) -> Any:
    """Read a column ``(B, 1)``, as losses of one score take it, as class indices ``(B,)``."""
    if not isinstance(labels, Tensor) or labels.shape[1:] != (1,):
        return labels
    column = labels[:, 0]
    return column.long() if bool((column == column.long()).all()) else column


def check_labels(target: Any, inputs: Tensor, classes: int | None = None) -> None:
    """Check for one class index per input, in the range of the classes if known."""
    if not isinstance(target, Tensor) or target.is_floating_point() or target.dtype == torch.bool:
        got = target.dtype if isinstance(target, Tensor) else type(target).__name__
        raise TypeError(
            f"labels must be a tensor of integers (B,), but got {got}; "
            "the loader must yield (inputs, labels) with class indices; convert whole numbers with "
            "labels.long()."
        )
    if target.shape != inputs.shape[:1]:
        raise ValueError(
            f"labels must have shape {tuple(inputs.shape[:1])}, one per input, "
            f"but got {tuple(target.shape)}; for one-hot labels use labels.argmax(1), and "
            "to learn from several classes per image use target_aware=True."
        )
    if classes is not None and len(target) and not 0 <= target.min() <= target.max() < classes:
        raise ValueError(
            f"labels must lie in 0..{classes - 1} for a classifier with {classes} logits, but got "
            f"{target.min().item()}..{target.max().item()}; check the label column, subtract 1 if "
            "labels start at 1, or use a classifier with one output per class."
        )


def baseline_of_each(
    baselines: Any, inputs: tuple[Tensor, ...]
) -> tuple[Tensor | float | None, ...]:
    """Return a baseline per input, in the form of Captum's methods; or None for each."""
    if baselines is None:
        return (None,) * len(inputs)
    given = baselines if isinstance(baselines, tuple) else (baselines,)
    if len(given) != len(inputs):
        raise ValueError(
            f"expected a tuple with one baseline for each of {len(inputs)} inputs, but got "
            f"{len(given)}; give them in the order of the inputs."
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
                f"example for all of them, but got {tuple(baseline.shape)}; from several baselines "
                "pass one, or their mean."
            )
    return given


# ---- Training


def check_examples(inputs: Any, target: Any) -> None:
    if isinstance(target, Tensor) and not target.numel():
        raise ValueError("a batch must have at least one example, but has none; leave it out.")
    for tensor in inputs if isinstance(inputs, tuple) else (inputs,):
        check_inputs(tensor, vectors=True)
        check_labels(target, tensor)
        check_finite(tensor, "inputs", "remove or repair these examples in the data.")


def check_loader(loader: Any, epochs: int = 1, *, name: str = "loader") -> None:
    """Check that a loader has batches, and can be read once per epoch."""
    if not hasattr(loader, "__iter__"):
        raise TypeError(
            f"{name} must give batches, but {type(loader).__name__} cannot be iterated over; pass "
            "a DataLoader, or a list of batches."
        )
    if epochs > 1 and isinstance(loader, Iterator):
        raise ValueError(
            f"{name} must be readable {epochs} times, but {type(loader).__name__} is an iterator, "
            "which ends once; pass a DataLoader, a list, or an object whose __iter__ starts again."
        )
    count = length_of(loader)
    if count == 0 or epochs < 1:
        raise ValueError(
            f"{name} must give images to read, but got {count} batches and {epochs} "
            "epochs; with few images, drop_last=False keeps the last batch."
        )


def length_of(loader: Any) -> int | None:
    try:
        return len(loader)
    except TypeError:  # a DataLoader has __len__, also where its stream has none
        return None


ENOUGH_TO_TELL = 256  # examples: half of them right by chance from five in eight


def check_recognized(answers: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Raise an error if logits do not fit the labels, or fit them mostly in another order.

    A classifier a quarter of the way from chance to perfect fails once in a hundred times. If only
    one half of the way would, warn instead.
    """
    import numpy as np
    from scipy.optimize import linear_sum_assignment
    from scipy.special import bdtr, bdtrc

    seen, known, classes = [], [], 2
    for logits, target in answers:
        seen += logits.argmax(1).tolist()
        known += target.tolist()
        classes = logits.shape[1]
        if len(known) >= ENOUGH_TO_TELL:
            break
    answered, labels = (np.array(sum(gathered(found), [])) for found in (seen, known))
    count, right = len(labels), int((answered == labels).sum())
    quarter, half = (bdtr(right, count, way + (1 - way) / classes) < 0.01 for way in (0.25, 0.5))
    if count == 0 or not half:
        return
    names, rows = np.unique(labels, return_inverse=True)
    others, columns = np.unique(answered, return_inverse=True)
    table = np.zeros((len(names), len(others)), dtype=int)
    np.add.at(table, (rows, columns), 1)
    pairs = list(zip(*linear_sum_assignment(table, maximize=True), strict=True))
    matched = sum(table[pair] for pair in pairs)
    is_order = matched >= 0.8 * count >= 2.4 * len(names) > 4.8 and matched > 2 * right
    draw = np.random.default_rng(0).permutation
    by_chance = np.mean([(draw(labels) == answered).sum() >= right for _ in range(999)])
    by_chance = by_chance if len(names) > 1 else bdtrc(right - 1, count, 1 / classes)
    if by_chance < 0.01 and not is_order:
        return
    moved = [f"label {names[a]} as {others[b]}" for a, b in pairs if names[a] != others[b]]
    order = f"; {matched} are with the classes in another order ({', '.join(moved[:3])}, ...)"
    words = (
        f"the classifier is right for {right} of {count} clean examples, of {len(names)} of its "
        f"{classes} classes, as if it did not know them{order if is_order else ''}; check the "
        "labels' numbers (class_names, a CSV), the preprocessing and the weights"
    )
    if is_order or (quarter and count >= 16):
        raise ValueError(f"{words}, or pass check_accuracy=False (--untrained).")
    warnings.warn(f"{words}.", stacklevel=3)


# ---- Masks, areas and numbers


def check_mask_shape(mask: Tensor, inputs: Tensor) -> None:
    """Check for a mask (B, 1, *spatial), or (B, F) for vectors."""
    expected = (inputs.shape[0], 1, *inputs.shape[2:]) if inputs.dim() > 2 else tuple(inputs.shape)
    if tuple(mask.shape) != expected:
        raise ValueError(
            f"mask must have shape {expected} to match inputs of shape {tuple(inputs.shape)}, "
            f"but got {tuple(mask.shape)}; upsample the mask to the input's size first."
        )


def check_area(area: Any, *, sized: bool = True, examples: int | None = None) -> None:
    """Check that an area is a fraction, one or one per example, and that the masker takes one."""
    if area is not None and not sized:
        raise ValueError(
            f"got area={area}, but this model's masker takes no area; train one that "
            "does: MaskingModel(classifier, masker=partial(Masker, sized=True))."
        )
    if area is None:
        return
    if isinstance(area, bool) or not isinstance(area, (int, float, Tensor)):
        raise TypeError(
            f"area must be a number or a tensor with one for each example, but got {area!r}; "
            "pass a fraction of the image, such as 0.3."
        )
    if isinstance(area, Tensor) and examples is not None and area.shape not in ((), (examples,)):
        raise ValueError(
            f"area must be one number or one for each of {examples} examples, but got a tensor of "
            f"shape {tuple(area.shape)}; give area[:{examples}] or a single number."
        )
    if not all(0 < a < 1 for a in torch.as_tensor(area).flatten().tolist()):
        raise ValueError(
            f"area must be a fraction of the image between 0 and 1, both excluded, but got {area}; "
            "divide a number of pixels by all pixels of the image."
        )


def check_count(name: str, value: Any, *, least: int = 1, way_out: str = "use int(...).") -> None:
    """Check for an integer of any type, at least ``least``."""
    try:
        found = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        found = None
    if found is None or found < least:
        kind = TypeError if found is None else ValueError
        raise kind(f"{name} must be a whole number >= {least}, but got {value!r}; {way_out}")


def check_weights(*, way_out: str = "0 switches the term off.", **weights: float) -> None:
    for name, weight in weights.items():
        if not isinstance(weight, Real):
            raise TypeError(f"{name} must be a number, but got {type(weight).__name__}; {way_out}")
        if not 0 <= weight < math.inf:
            raise ValueError(f"{name} must be a finite number >= 0, but got {weight}; {way_out}")


# ---- Libraries that are not always there


def needed(library: str, *, by: str, run: str) -> Any:
    """Import an optional library."""
    try:
        return import_module(library)
    except ImportError as error:
        raise ImportError(
            f"{by} need {library}, which cannot be imported ({error}); run: pip install {run}"
        ) from error
