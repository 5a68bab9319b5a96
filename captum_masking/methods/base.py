"""Shared parts of the methods: scores of a classifier, and maps in Captum's form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from captum.attr import Attribution
from torch import Tensor, nn

from captum_masking._base.borrow import draws, evaluated, module_of, seeded
from captum_masking._base.captum import Target as Target
from captum_masking._base.captum import (
    ToLogits,
    _format_additional_forward_args,
    as_class_logits,
    as_they_are,
    as_tuple,
    class_indices,
    find_to_logits,
    scores_of,
    unpacked,
)
from captum_masking._base.checks import (
    channels_in_words,
    check_finite,
    check_has_weights,
    check_inputs,
    check_number_of_inputs,
    check_same_batch,
    check_same_device,
    with_rows,
)
from captum_masking.model.layers import find_layers, layouts_of, pooled_map
from captum_masking.model.layouts import first_tensor
from captum_masking.model.model import MaskingModel
from captum_masking.model.taps import Taps, like_weights, logits_of, tap_of
from captum_masking.parts.infill import Infill
from captum_masking.parts.masker import linear
from captum_masking.parts.masking import fill

#: Called as ``score(logits, classes)`` with ``(B, K)`` and ``(B,)``; returns ``(B,)``.
Score = Callable[[Tensor, Tensor], Tensor]


def logit(logits: Tensor, classes: Tensor) -> Tensor:
    """Return the logit of a class.

    Example:
        >>> logit(torch.tensor([[1.0, 3.0]]), torch.tensor([1]))
        tensor([3.])
    """
    return logits.gather(1, classes[:, None])[:, 0]


def probability(logits: Tensor, classes: Tensor) -> Tensor:
    """Return the softmax probability of a class.

    Example:
        >>> probability(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
        tensor([0.5000])
    """
    return logit(logits.softmax(1), classes)


def stretched(maps: Tensor) -> Tensor:
    """Scale maps ``(B, N, *spatial)`` or vectors ``(B, F)`` to [0, 1]; constants become 0.

    Example:
        >>> stretched(torch.tensor([[-1.0, 0.0, 3.0]]))
        tensor([[0.0000, 0.2500, 1.0000]])
    """
    places = tuple(range(2 if maps.dim() > 2 else 1, maps.dim()))
    low, high = maps.amin(places, keepdim=True), maps.amax(places, keepdim=True)
    span = high - low
    varies = span > 1e-5 * torch.maximum(high.abs(), low.abs())  # beyond rounding
    return ((maps - low) / span.where(varies, 1)).where(varies, 0)


def normalized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Enlarge maps linearly to ``size``, then scale each to [0, 1]; a constant one becomes zeros.

    Example:
        >>> normalized(torch.tensor([[[-1.0, 0.0, 3.0]]]), [3])
        tensor([[[0.0000, 0.2500, 1.0000]]])
    """
    return stretched(linear(maps, size))


def weighted(maps: Tensor, weights: Tensor) -> Tensor:
    """Sum maps ``(B, N, *cells)`` with weights ``(B, N)`` to ``(B, 1, *cells)``."""
    return torch.einsum("bn,bn...->b...", weights, maps)[:, None]


def filled(images: Tensor, hole: Tensor, infill: Infill, seed: int = 0) -> Tensor:
    """Fill holes; an infill that draws random numbers has the same ones for each image."""
    one = torch.no_grad()(partial(fill, images[:1], hole[:1], infill))
    if len(images) > 1 and not draws(images, one):
        return fill(images, hole, infill)
    parts = []
    for image, its_hole in zip(images.split(1), hole.split(1), strict=True):
        with seeded(image, seed):
            parts.append(fill(image, its_hole, infill))
    return torch.cat(parts)


class Asked:
    """A classifier and its examples, for scores of changed copies.

    Called with examples, it returns the score of each target, ``(B,)``; with ``n`` copies of the
    batch, one after the other, ``(n * B,)``. Additional arguments are repeated.

    Attributes:
        function: The classifier, in eval mode.
        inputs: Copies of the examples without a gradient, in the dtype of the weights.
        classes: Classes of the target, ``(B,)``; None for a callable.
        clean: The score of the unchanged examples, ``(B,)``.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        inputs: Sequence[Tensor],
        target: Target,
        extra: tuple[Any, ...],
        score: Score,
    ) -> None:
        self.function, self.target, self.score = function, target, score
        # Copies: a tensor made in inference mode cannot take part in a backward pass.
        self.inputs = tuple(like_weights(x.detach(), function).clone() for x in inputs)
        self.extra = tuple(a.clone() if isinstance(a, Tensor) else a for a in extra)
        self.classes: Tensor | None = None
        self._to_logits: ToLogits = as_they_are
        self._draws = False
        self._draws = draws(self.inputs[0], self._begin)
        if self._draws:
            self._begin()  # the clean score uses the same random numbers as copies

    @torch.no_grad()
    def _begin(self) -> None:
        output = self.answer(*self.inputs)
        if not callable(self.target):
            scores = with_rows(logits_of(output), self.inputs[0])
            found = find_to_logits(self.function, scores, self.inputs, self._scores)
            self._to_logits = found or as_they_are
            self.classes = class_indices(self._to_logits(scores), self.target)
        self.clean = self._score_of(output, self.inputs[0])

    def _scores(self, *inputs: Tensor) -> Tensor:
        return with_rows(logits_of(self.answer(*inputs)), inputs[0])

    def answer(self, *inputs: Tensor) -> Any:
        """Return the classifier's output for one batch or several copies of it."""
        copies = len(inputs[0]) // len(self.inputs[0])
        extra = [self._repeated(a, copies) for a in self.extra]
        drawn = seeded(inputs[0], 0) if self._draws else nullcontext()
        with drawn, channels_in_words(module_of(self.function), inputs[0]):
            return self.function(*inputs, *extra)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return the score of each example's target."""
        return self._score_of(self.answer(*inputs), inputs[0])

    def _score_of(self, output: Any, inputs: Tensor) -> Tensor:
        if self.classes is not None:
            logits = as_class_logits(self._to_logits(with_rows(logits_of(output), inputs)))
            return self.score(logits, self.classes.repeat(len(logits) // len(self.classes)))
        return scores_of(self.target, output, len(inputs))

    def _repeated(self, argument: Any, copies: int) -> Any:
        if isinstance(argument, Tensor) and argument.shape[:1] == self.inputs[0].shape[:1]:
            return torch.cat([argument] * copies)  # decided as Captum does
        return argument


class Relative(Attribution):
    """Base class of the attributions: checks arguments and restores the model's state.

    A subclass defines ``attribute``, decorated with ``log_usage``, which calls ``_explained``.
    """

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        if not callable(forward_func):
            raise TypeError(
                f"forward_func must be a classifier or a callable that returns logits, but got "
                f"{type(forward_func).__name__}."
            )
        super().__init__(forward_func)

    def _explained(
        self,
        inputs: Any,
        target: Target,
        additional_forward_args: Any,
        find: Callable[[Any], Sequence[Tensor]],
        score: Score = logit,
        ask: Callable[..., Asked] = Asked,
    ) -> Any:
        """Return maps shaped like the inputs; a tuple for a tuple.

        Args:
            inputs: As passed by the user; likewise ``target`` and ``additional_forward_args``.
            find: Returns a map for each of ``asked.inputs``, ``(B, 1, *spatial)`` or shaped like
                it. Gradients are on; use ``torch.no_grad`` if none are needed.
            score: The score of the logits, if the target is a class.
            ask: Makes the argument of ``find``.
        """
        tensors, extra = self._checked(inputs, additional_forward_args)
        maps: Sequence[Tensor] = tensors
        if len(tensors[0]):
            grads = torch.enable_grad()
            with torch.inference_mode(False), grads, evaluated(self.forward_func) as function:
                maps = find(ask(function, tensors, target, extra, score))
        return self._shaped(maps, inputs)

    def _checked(self, inputs: Any, additional_forward_args: Any) -> tuple[Any, tuple[Any, ...]]:
        """Return inputs and additional arguments as tuples."""
        tensors = as_tuple(inputs)
        extra = _format_additional_forward_args(additional_forward_args) or ()
        check_number_of_inputs(tensors, None)
        module = module_of(self.forward_func)
        check_has_weights([] if module is None else module.named_parameters())
        for tensor in tensors:
            check_inputs(tensor, vectors=True)
            check_same_device(tensor, module)
        check_same_batch(tensors)
        return tensors, extra

    def _shaped(self, maps: Sequence[Tensor], inputs: Any) -> Any:
        """Return maps with the shape and dtype of the inputs; a tuple for a tuple."""
        for each in maps:
            check_finite(each, "the map", "look for NaN, infinity or too large values in inputs.")
        shaped = tuple(
            each.detach().to(x.dtype).expand_as(x).clone(memory_format=torch.contiguous_format)
            for each, x in zip(maps, as_tuple(inputs), strict=True)
        )
        return shaped if isinstance(inputs, tuple) else shaped[0]

    @property
    def multiplies_by_inputs(self) -> bool:
        """False: maps do not sum to the output."""
        return False

    def attribute_future(self) -> None:
        """Not implemented, as in most of Captum's methods."""
        raise NotImplementedError(f"{type(self).__name__} has no attribute_future.")


def network_of(function: Callable[..., Any]) -> nn.Module:
    """Return the module whose layers are read: a masking model's classifier, or the module."""
    network = function.classifier if isinstance(function, MaskingModel) else module_of(function)
    if network is None:
        raise TypeError(
            f"a method that reads a layer needs a module, but got {type(function).__name__}; pass "
            "the classifier itself."
        )
    return network


def layer_name(function: Callable[..., Any], layer: str | nn.Module) -> str:
    """Return the name of a layer that is given by name or as a module.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        >>> layer_name(network, network[1])
        '1'
    """
    network = network_of(function)
    if isinstance(layer, str):
        tap_of(network, layer)  # raises with the nearest names
        return layer
    names = [name for name, part in network.named_modules() if part is layer]
    if not names:
        raise ValueError(
            f"layer must be a module of the classifier or its name, but this "
            f"{type(layer).__name__} is not part of it."
        )
    return names[0]


class OfLayer(Relative):
    """An attribution that reads the feature maps of one layer."""

    def __init__(
        self, forward_func: Callable[..., Any], layer: str | nn.Module | None, infill: Infill
    ) -> None:
        super().__init__(forward_func)
        self.layer = None if layer is None else layer_name(forward_func, layer)
        self.infill = infill

    @torch.no_grad()
    def _maps(self, asked: Asked) -> Tensor:
        """Return the maps ``(B, N, *cells)`` of the layer, float32 at least."""
        network = network_of(asked.function)
        arguments: tuple[Any, ...] = (*asked.inputs, *asked.extra)
        first, *others = arguments
        with seeded(first, 0):
            name = self.layer or pooled_map(network, first, *others)
            name = name or find_layers(network, first, extra=tuple(others))[-1]
            taps = Taps(network, [name])
            _, tapped = taps(first, *others)
            (layout,) = layouts_of(taps, tapped, asked.inputs, *asked.extra)
        maps = layout(first_tensor(tapped[0]), unpacked(tuple(x.shape[2:] for x in asked.inputs)))
        if any(x.dim() != maps.dim() or x.dim() == 2 for x in asked.inputs):
            got = ", ".join(str(tuple(x.shape)) for x in asked.inputs)
            raise ValueError(
                f"inputs must have as many spatial sides as the maps of {name!r}, "
                f"{tuple(maps.shape)}, but got {got}; name another layer, or pass inputs without "
                "any as additional_forward_args."
            )
        return maps.to(torch.promote_types(maps.dtype, torch.float32))

    def _masked(self, asked: Asked, maps: Tensor) -> list[Tensor]:
        """Mask k copies of the examples by maps ``(k * B, 1, *cells)``."""
        copies = len(maps) // len(asked.inputs[0])
        holes = [1 - normalized(maps, x.shape[2:]).to(x.dtype) for x in asked.inputs]
        pairs = zip(asked.inputs, holes, strict=True)
        return [filled(torch.cat([x] * copies), hole, self.infill) for x, hole in pairs]
