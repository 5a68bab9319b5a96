"""Captum's tuples and targets, and the outputs of classifiers: logits or probabilities.

Captum's private names are imported here and nowhere else.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import torch
from captum._utils.common import _format_additional_forward_args as _format_additional_forward_args
from captum._utils.common import _select_targets as _select_targets
from captum._utils.typing import TargetType as TargetType
from captum._utils.typing import TensorOrTupleOfTensorsGeneric as TensorOrTupleOfTensorsGeneric
from captum.log import log_usage as log_usage
from torch import Tensor

from captum_masking._base.borrow import eval_mode, module_of, name_of, original, seeded
from captum_masking._base.checks import TargetError, check_one_row, check_output

#: A class in any form Captum takes, or a function from what a model returns to one score each.
Target: TypeAlias = TargetType | Callable[[Any], Tensor]

#: What users pass: one tensor, or several for a classifier that takes several.
Inputs = Tensor | tuple[Tensor, ...]


def as_tuple(inputs: Any) -> tuple[Any, ...]:
    return inputs if isinstance(inputs, tuple) else (inputs,)


def unpacked(values: tuple[Any, ...]) -> Any:
    return values[0] if len(values) == 1 else values


def two_classes(output: Tensor) -> Tensor:
    """Turn one score per example, ``(B,)`` or ``(B, 1)``, into the logits of two classes.

    Example:
        >>> two_classes(torch.tensor([2.0, -1.0]))
        tensor([[ 0.,  2.],
                [ 0., -1.]])
    """
    output = output.reshape(1) if output.dim() == 0 else output  # one example, squeezed
    if output.shape[1:].numel() != 1:
        return output
    score = output.reshape(len(output), 1)
    return torch.cat([torch.zeros_like(score), score], dim=1)


def as_class_logits(output: Tensor) -> Tensor:
    if output.dim() == 2 and output.shape[1] > 1:  # before len(), which exports take as a number
        return output
    output = two_classes(output)
    return output.reshape(len(output), -1) if len(output) else output.reshape(0, 2)


def scores_of(target: Callable[[Any], Tensor], output: Any, count: int) -> Tensor:
    """Return the scores of a callable target, one per example."""
    scores = target(output)
    if not isinstance(scores, Tensor) or scores.shape != (count,):
        got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ValueError(
            f"a callable target must return one score for each of {count} examples, ({count},), "
            f"but returned {got}; sum the scores of each example."
        )
    return scores


def class_indices(output: Tensor, target: Target) -> Tensor:
    """Turn any form of Captum's target, or None for the predicted class, into (B,) columns."""
    check_output(output)
    if callable(target):
        raise TargetError(
            "target must be a class for a masker, but got a callable; use "
            "MaskingSaliency(classifier), which optimizes a mask for each input."
        )
    output = two_classes(output)
    if target is None:
        check_one_row(output)
        return as_class_logits(output).argmax(1) if len(output) else output.new_zeros(0).long()
    if len(output) == 0:
        return torch.zeros(0, dtype=torch.long, device=output.device)
    if isinstance(target, Tensor) and target.shape == (len(output), 1) and output.shape[1:] == (2,):
        target = target[:, 0]  # as labels of one score are
    indices = torch.arange(output[0].numel(), device=output.device).reshape(1, *output.shape[1:])
    try:
        _refuse_booleans_and_fractions(target)
        if isinstance(target, Tensor):
            target = target.long()  # older PyTorch gathers by 64-bit indices only
        return _select_targets(indices.expand_as(output), target).reshape(len(output))
    except (AssertionError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise _target_error(output, target) from error


def _refuse_booleans_and_fractions(target: TargetType) -> None:
    values = torch.as_tensor(target)
    if values.dtype == torch.bool or values.is_floating_point():
        raise TypeError("a target is a whole number")


def _target_error(output: Tensor, target: TargetType) -> TargetError:
    examples, classes = len(output), tuple(output.shape[1:])
    ranges = " x ".join(f"0..{size - 1}" for size in classes) or "none (one score each)"
    got = f"shape {tuple(target.shape)}, " if isinstance(target, Tensor) else ""
    text = repr(target.tolist() if isinstance(target, Tensor) else target)
    return TargetError(
        f"target must be an int, or a list or tensor with one int (or one tuple) for each of "
        f"{examples} examples, in the range {ranges} of an output of shape {tuple(output.shape)}, "
        f"but got {got}{text if len(text) < 80 else text[:77] + '...'}; "
        "pass target=None for the predicted class."
    )


# ---- What a classifier answers

#: Turns what a classifier answers into logits.
ToLogits = Callable[[Tensor], Tensor]

_ROUNDING = 1e-3  # of probabilities, and of their sum
_LEAST = 1e-30  # its logarithm still has a gradient that single precision holds
# Of those that had to be probed, by the name of the method that was called.
_KEPT: WeakKeyDictionary[Any, dict[str, ToLogits]] = WeakKeyDictionary()


def as_they_are(answer: Tensor) -> Tensor:
    """Return logits, unchanged."""
    return answer


def log_probabilities(answer: Tensor) -> Tensor:
    """Turn probabilities that sum to one over the classes into logits of mean zero.

    Values outside ``[0, 1]`` are returned unchanged, since some networks return probabilities only
    in eval mode.

    Example:
        >>> log_probabilities(torch.tensor([[0.25, 0.75]])).softmax(1)
        tensor([[0.2500, 0.7500]])
    """
    logs = _wide(answer).clamp_min(_LEAST).log()
    logits = (logs - logs.mean(1, keepdim=True)).to(answer.dtype)
    return torch.where(_in_unit_interval(answer), logits, answer)


def log_odds(answer: Tensor) -> Tensor:
    """Turn independent probabilities of classes into logits; other values stay unchanged.

    Example:
        >>> log_odds(torch.tensor([[0.25], [0.5]])).sigmoid()
        tensor([[0.2500],
                [0.5000]])
    """
    logits = _wide(answer).clamp(1e-7, 1 - 1e-7).logit().to(answer.dtype)
    return torch.where(_in_unit_interval(answer), logits, answer)


TO_LOGITS: dict[str, ToLogits] = {f.__name__: f for f in (as_they_are, log_probabilities, log_odds)}
_IN_WORDS = {
    log_probabilities: "add to one over the classes. Their logarithms",
    log_odds: "do not add to one. Their log odds",
}


def find_to_logits(
    function: Callable[..., Any],
    answer: Tensor,
    inputs: Sequence[Tensor],
    ask: Callable[..., Tensor],
) -> ToLogits | None:
    """Find the function from a classifier's output to logits; None if undecided.

    Logits may lie in ``[0, 1]`` by chance, so ``ask(*inputs)`` is called with inputs for which
    they would not. A warning states the result once for each classifier.
    """
    module = module_of(function)
    asked = original(function)
    name = "" if module is None or asked is original(module) else getattr(asked, "__name__", "")
    owner = asked if module is None else original(module)
    kept: dict[str, ToLogits] = {}
    with suppress(TypeError):  # some callables have no weak references
        kept = _KEPT.setdefault(owner, {})
    if name in kept:
        return kept[name]
    if module is not None and module.training:
        answer = _asked(function, ask, inputs, scale=0.0)
    rows = _rows(answer)
    if not rows.any():
        return None
    if not _in_unit_interval(rows):
        return as_they_are
    answers = [answer]
    for scale in (1.0, 20.0, -20.0, 1e5):  # the last for weights that are new, and small
        with suppress(Exception):  # it takes some pixels only
            answers.append(_asked(function, ask, inputs, scale))
    rows = torch.cat([_rows(each) for each in answers])
    found = as_they_are if any(map(_ends_in_weights, answers)) else _kind_of(rows)
    if found in _IN_WORDS:
        warnings.warn(
            f"{name_of(function)} returns probabilities, which lie in [0, 1] and "
            f"{_IN_WORDS[found]} are used as logits. If they are logits, pass "
            "MaskingModel(classifier, to_logits=as_they_are), from captum_masking.model.taps.",
            stacklevel=4,
        )
    if found is not None:
        kept[name] = found
    return found


def _kind_of(rows: Tensor) -> ToLogits | None:
    if not _in_unit_interval(rows):
        return as_they_are
    if (rows == rows[0]).all():  # the same for all inputs: it is not trained
        return None
    add_to_one = rows.shape[1] > 1 and bool(((rows.sum(1) - 1).abs() < 10 * _ROUNDING).all())
    return log_probabilities if add_to_one else log_odds


def _asked(
    function: Callable[..., Any], ask: Callable[..., Tensor], inputs: Sequence[Tensor], scale: float
) -> Tensor:
    """Ask about inputs unchanged (scale 0), or far from the training data."""
    grads = torch.enable_grad()
    with eval_mode(function), seeded(inputs[0], 0), torch.inference_mode(False), grads:
        others = []
        for x in inputs:
            noise = torch.randn(x.shape).to(x)
            far = (scale * (x + noise) if scale else x.clone()).detach()
            others.append(far.requires_grad_().clone())  # a copy may be written to
        return ask(*others)


def _rows(answer: Tensor) -> Tensor:
    """List the finite scores: a row per example (and pixel), a column per class."""
    answer = _wide(answer.detach())
    answer = answer.movedim(1, -1) if answer.dim() > 1 else answer.reshape(-1, 1)
    rows = answer.reshape(-1, answer.shape[-1])
    return rows[rows.isfinite().all(1)]


_RESHAPE = ("View", "UnsafeView", "Squeeze", "Unsqueeze", "Select", "Slice", "Clone", "ToCopy")
_WEIGHTS = ("Addmm", "Mm", "Bmm", "Convolution", "MkldnnConvolution", "Tanh")


def _ends_in_weights(answer: Tensor) -> bool:
    """Whether a linear layer or convolution made an answer, as it makes logits, or tanh did."""
    node = answer.grad_fn
    while node is not None and node.name().startswith(_RESHAPE):
        node = node.next_functions[0][0]
    return node is not None and node.name().startswith(_WEIGHTS)


def _wide(answer: Tensor) -> Tensor:
    return answer.to(torch.promote_types(answer.dtype, torch.float32))


def _in_unit_interval(answer: Tensor) -> Tensor:
    return ((answer >= -_ROUNDING) & (answer <= 1 + _ROUNDING)).all()
