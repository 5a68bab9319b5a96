"""Checks of mask logits, and of the masker that makes them."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from captum_masking.testing.report import Check, attempt, expect, expect_close
from captum_masking.testing.state import borrowed, changed, weights

_EVAL = "draw no random numbers and keep no state in eval mode."


def logits_have_one_channel_and_the_shape_of_the_grid(
    masker: nn.Module, channels: Sequence[int], dims: int = 2
) -> None:
    """Whatever the grid, larger or smaller than the features, and the size of the batch."""
    for batch, side in itertools.product((1, 2, 5), (1, 4, 9)):
        grid = [side + axis for axis in range(dims)]  # no two sides alike
        logits = _run(masker, _features(masker, channels, batch, dims), grid)
        expect(
            tuple(logits.shape) == (batch, 1, *grid),
            f"mask logits of shape {(batch, 1, *grid)}",
            tuple(logits.shape),
            "end in one channel, resampled to the grid that forward is given.",
        )


def a_batch_gives_what_its_examples_give_one_by_one(
    masker: nn.Module, channels: Sequence[int], dims: int = 2
) -> None:
    """In eval mode no example may depend on its neighbours."""
    features = _features(masker, channels, 3, dims)
    together = _run(masker, features)
    alone = [_run(masker, [maps[[row]] for maps in features]) for row in range(3)]
    expect_close(
        together,
        torch.cat(alone),
        "the same logits for a batch as for its examples one by one",
        "normalise over nothing that includes the batch axis in eval mode.",
    )


def asking_twice_gives_the_same_logits(
    masker: nn.Module, channels: Sequence[int], dims: int = 2
) -> None:
    """In eval mode, without random numbers."""
    features = _features(masker, channels, 2, dims)
    with borrowed(masker), torch.no_grad():  # once: it gives random numbers back
        first, second = (_call(masker.eval(), features) for _ in range(2))
    expect_close(second, first, "the same logits when asked twice", _EVAL)


def nothing_changes_in_eval_mode(masker: nn.Module, channels: Sequence[int], dims: int = 2) -> None:
    """Neither its state nor the features it is given, which are the classifier's."""
    features = _features(masker, channels, 2, dims)
    given = [maps.clone() for maps in features]
    with borrowed(masker):
        before = weights(masker)
        _call(masker.eval(), features)
        lost = changed(before, weights(masker))
    expect(not lost, "a masker that keeps its state", f"other {lost[:4]}", _EVAL)
    same = all(map(torch.equal, features, given))
    expect(same, "features left alone", "other values", "do without in-place operations on them.")


def every_parameter_gets_a_gradient(
    masker: nn.Module, channels: Sequence[int], dims: int = 2
) -> None:
    """In train mode; a parameter without one is never trained, and stops distributed training."""
    parameters = {name: p for name, p in masker.named_parameters() if p.requires_grad}
    expect(parameters, "a masker with parameters", "none", "register them as nn.Parameter.")
    with borrowed(masker), torch.enable_grad():
        logits = _call(masker.train(), _features(masker, channels, 4, dims))
        found = attempt(
            lambda: torch.autograd.grad(
                (logits * torch.randn_like(logits)).sum(),
                list(parameters.values()),
                allow_unused=True,
            ),
            "logits with a graph",
            "detach nothing on the way, and stay out of no_grad.",
        )
    dead = [
        name
        for name, gradient in zip(parameters, found, strict=True)
        if gradient is None or not gradient.isfinite().all() or not gradient.any()
    ]
    expect(
        not dead,
        "a finite gradient for every parameter, not zero everywhere",
        f"none for {dead[:4]}",
        "use every parameter in forward, or freeze it with requires_grad_(False).",
    )


def logits_are_finite_for_extreme_features(
    masker: nn.Module, channels: Sequence[int], dims: int = 2
) -> None:
    """Features may be all zero, constant, tiny or large, in either mode."""
    noise = _features(masker, channels, 4, dims)
    for name, scale, shift in (
        ("all zero", 0.0, 0.0),
        ("constant", 0.0, 1.0),
        ("tiny", 1e-30, 0.0),
        ("large", 1e4, 0.0),
        ("large and far from zero", 1.0, -1e4),
    ):
        features = [scale * maps + shift for maps in noise]
        for training in (False, True):
            logits = _run(masker, features, training=training)
            expect(
                logits.isfinite().all(),
                f"finite logits for features that are {name} (training={training})",
                f"{int((~logits.isfinite()).sum())} NaN or infinite values",
                "add an epsilon to divisions and square roots.",
            )


def a_state_dict_carries_all_that_matters(
    masker: nn.Module, channels: Sequence[int], dims: int = 2
) -> None:
    """A checkpoint is the settings and the state dict, and nothing else."""
    way_out = "register tensors with register_buffer, and list constructor arguments in settings."
    features = _features(masker, channels, 2, dims)
    with borrowed(masker):  # making one draws random numbers
        fresh = _fresh(masker)
    attempt(
        lambda: fresh.load_state_dict(copy.deepcopy(masker.state_dict())),
        "a state dict that load_state_dict takes",
        way_out,
    )
    expect_close(
        _run(fresh, features),
        _run(masker, features),
        "the same logits of a new masker with the old one's state dict",
        way_out,
    )


def a_deep_copy_gives_the_same_logits_and_is_independent(
    masker: nn.Module, channels: Sequence[int], dims: int = 2
) -> None:
    """Trainers keep copies of the best masker so far."""
    features = _features(masker, channels, 2, dims)
    wanted = _run(masker, features)
    copied = _copy(masker)
    expect_close(_run(copied, features), wanted, "the same logits of a copy", "copy all tensors.")
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.add_(1)
    way_out = "share no tensor with the copy."
    expect_close(_run(masker, features), wanted, "an original apart from its copy", way_out)


def a_pickled_copy_gives_the_same_logits(
    masker: nn.Module, channels: Sequence[int], dims: int = 2
) -> None:
    """Maskers travel to other processes."""
    way_out = "define its class at the top of a module, and keep no lambda or open file in it."
    features = _features(masker, channels, 2, dims)
    copied = attempt(lambda: pickle.loads(pickle.dumps(masker)), "pickle to work", way_out)
    wanted = _run(masker, features)
    expect_close(_run(copied, features), wanted, "the same logits of a pickled copy", way_out)


def it_works_in_other_precisions(masker: nn.Module, channels: Sequence[int], dims: int = 2) -> None:
    """Classifiers come in half, bfloat16 and double precision."""
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        converted = _copy(masker).to(dtype)
        features = [maps.to(dtype) for maps in _features(masker, channels, 2, dims)]
        logits = _run(converted, features)
        expect(
            logits.dtype == dtype and logits.isfinite().all(),
            f"finite logits of {dtype}",
            f"{logits.dtype}, finite: {bool(logits.isfinite().all())}",
            "make no tensor of a fixed dtype in forward.",
        )


CHECKS: list[Check] = [
    logits_have_one_channel_and_the_shape_of_the_grid,
    a_batch_gives_what_its_examples_give_one_by_one,
    asking_twice_gives_the_same_logits,
    nothing_changes_in_eval_mode,
    every_parameter_gets_a_gradient,
    logits_are_finite_for_extreme_features,
    a_state_dict_carries_all_that_matters,
    a_deep_copy_gives_the_same_logits_and_is_independent,
    a_pickled_copy_gives_the_same_logits,
    it_works_in_other_precisions,
]


def _features(masker: nn.Module, channels: Sequence[int], batch: int, dims: int) -> list[Tensor]:
    """Make feature maps, the finest first, from random numbers of their own."""
    random, like = torch.Generator().manual_seed(0), next(masker.parameters(), torch.zeros(()))
    sides = [max(2, 8 >> level) for level in range(len(channels))]
    return [
        torch.randn(batch, n, *[side] * dims, generator=random).to(like)
        for n, side in zip(channels, sides, strict=True)
    ]


def _run(
    masker: nn.Module,
    features: Sequence[Tensor],
    grid: Sequence[int] | None = None,
    *,
    training: bool = False,
) -> Tensor:
    """Call a masker in eval mode, or in train mode, and leave it as it was."""
    with borrowed(masker), torch.no_grad():
        return _call(masker.train(training), features, grid)


def _call(
    masker: nn.Module, features: Sequence[Tensor], grid: Sequence[int] | None = None
) -> Tensor:
    size = tuple(features[0].shape[2:] if grid is None else grid)
    asks, first = getattr(masker, "asks", ()), features[0]
    question: dict[str, Any] = {}
    if "target" in asks:
        question["target"] = torch.zeros(len(first), dtype=torch.long, device=first.device)
    if "area" in asks:
        question["area"] = torch.full((len(first),), 0.5, device=first.device)
    return attempt(
        lambda: masker(list(features), size, **question),
        f"masker(features, grid={size}) to return mask logits",
        "features are one map for each of the channels given.",
    )


def _copy(masker: nn.Module) -> nn.Module:
    way_out = "keep no open file, lock or generator in it, or define __deepcopy__."
    copied: nn.Module = attempt(lambda: copy.deepcopy(masker), "copy.deepcopy to work", way_out)
    return copied


def _fresh(masker: nn.Module) -> nn.Module:
    """Make another masker of the same kind with other weights."""
    settings = getattr(masker, "settings", None)
    if settings is not None:
        way_out = "list every constructor argument in settings, under its own name."
        made: nn.Module = attempt(
            lambda: type(masker)(**settings), "Class(**masker.settings) to work", way_out
        )
        return made.to(next(masker.parameters(), torch.zeros(())))
    other = _copy(masker)
    with torch.no_grad():
        for value in [*other.parameters(), *other.buffers()]:
            if value.is_floating_point():
                value.add_(1)
    return other
