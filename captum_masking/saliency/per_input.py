"""Masks that are optimized for each input, without a trained masker."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from tqdm.auto import tqdm

from captum_masking._base.borrow import draws, evaluated, module_of, original, seeded
from captum_masking._base.captum import (
    Target,
    ToLogits,
    as_class_logits,
    as_they_are,
    class_indices,
    find_to_logits,
    scores_of,
)
from captum_masking._base.checks import channels_in_words, check_area, check_count, with_rows
from captum_masking.model.taps import cuts_in_words, gradients_of, leading_back, logits_of
from captum_masking.parts.infill import Infill, Mean
from captum_masking.parts.masker import linear
from captum_masking.parts.masking import fill, mask_images
from captum_masking.parts.objective import Dual, Judgement, Objective
from captum_masking.parts.regularizer import Regularizer, smooth

__all__ = ["PerInput"]

#: A fraction of the image, or a function of the share of steps done, in (0, 1].
Budget = float | Callable[[float], float]

_VARIATION = 0.02  # weight of the mask's variation per nat that the objective can gain
_LEAST = 1e-3  # smaller improvements of the loss do not count
_SURE = math.log(99)  # the log odds of 99 %
_HALVINGS = 50  # bisection steps, down to rounding


@dataclass(frozen=True, kw_only=True)
class PerInput:
    """Optimize one coarse mask per input under the objective of a masker.

    A batch gives the same masks as its inputs one by one. The classifier runs in eval mode; its
    state and torch's random state are restored.

    Args:
        objective: A function of the masked images' logits.
        regularizer: A function of the mask. None is
            :func:`~captum_masking.parts.regularizer.smooth` with a variation of 0.02 per nat that
            the objective can gain, log(classes).
        infill: Fills the holes, one image at a time; ``RandomImage`` needs a bank.
        steps: Maximal number of Adam steps; each takes two forward passes and one backward pass.
        grid: Cells of the mask along the longest side of the input, or one number per side. The
            mask is interpolated linearly between cells. There is at most one cell per pixel.
        area: The exact mean of every mask, in (0, 1), or a schedule that returns it for the share
            of steps done. None leaves the area to the regularizer.
        jitter_px: Largest random shift of the masked images per step and axis.
        patience: Stop an input when its loss has not improved for this many steps; None takes all
            steps.
        seed: Seed of jitter and random infills.

    Source:
        Fong & Vedaldi 2017 optimize coarse masks per image, with jitter; Fong et al. 2019 give
        them an area. Here under the loss of Phang et al. 2020, with defaults chosen on 48 images of
        Imagenette; ``benchmarks/per_input.py`` compares settings on others.

    Example:
        >>> from captum_masking.parts.regularizer import UngatedArea
        >>> inputs = torch.zeros(1, 1, 4, 4)
        >>> inputs[..., :2] = 1  # the classifier sums the picture: its left half is the evidence
        >>> classify = lambda x: torch.stack([4 - x.sum((1, 2, 3)), x.sum((1, 2, 3))], dim=1)
        >>> mask = PerInput(area=0.5, regularizer=UngatedArea())(classify, inputs, target=1)
        >>> bool(mask[..., :2].min() > mask[..., 2:].max()), round(float(mask.mean()), 4)
        (True, 0.5)
    """

    objective: Objective = Dual()
    regularizer: Regularizer | None = None
    infill: Infill = Mean()
    steps: int = 30
    lr: float = 0.3
    grid: int | Sequence[int] = 7
    area: Budget | None = None
    jitter_px: int = 0
    patience: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        check_count("jitter_px", self.jitter_px, least=0)
        if self.patience is not None:
            check_count("patience", self.patience, way_out="use None for all steps.")
        for cells in [self.grid] if isinstance(self.grid, int) else self.grid or [0]:
            check_count("grid", cells)
        if not self.lr >= 0:
            raise ValueError(f"lr must be >= 0, but got {self.lr}.")
        _check_budget(self.area)

    def __call__(
        self,
        forward_func: Callable[..., Tensor],
        inputs: Tensor,
        target: Target = None,
        *,
        additional_forward_args: tuple = (),
        show_progress: bool = False,
    ) -> Tensor:
        """Return masks ``(B, 1, *spatial)`` or ``(B, F)`` in ``[0, 1]``.

        Args:
            forward_func: Maps ``inputs, *additional_forward_args`` to ``(B, *classes)`` logits.
            inputs: ``(B, C, *spatial)``, floating point; or vectors ``(B, F)``, whose masks have
                one value per element, without grid or jitter.
            target: Any form Captum takes; None is the predicted class. Or a callable that turns the
                output of ``forward_func`` into one score per input, ``(B,)``. The score of the
                infilled image then counts as a guess, and that of the whole image as 99 % sure.
            additional_forward_args: Passed to ``forward_func``.
            show_progress: Whether to show a progress bar.
        """
        grads, in_words = torch.enable_grad(), cuts_in_words(forward_func)
        with torch.inference_mode(False), grads, in_words, evaluated(forward_func) as function:
            search = _Search(self, function, inputs, target, additional_forward_args)
            steps = range(self.steps)
            with search.seeded(inputs, self.seed):
                for step in tqdm(steps, "Masking Saliency", disable=not show_progress):
                    if not len(search.active):
                        break
                    search.step(self.budget((step + 1) / self.steps))
            return search.mask(self.budget(1.0)).detach()

    def but(self, **changes: Any) -> PerInput:
        """Return a copy with the settings changed that are not None."""
        return replace(self, **{name: to for name, to in changes.items() if to is not None})

    def budget(self, done: float) -> float | None:
        """Return the area after a share of the steps."""
        area = self.area(done) if callable(self.area) else self.area
        check_area(area)
        return None if area is None else float(area)

    def cells(self, size: Sequence[int]) -> list[int]:
        """Return the mask's grid for a spatial size."""
        grid = self.grid
        if isinstance(grid, int):
            grid = [math.ceil(grid * side / max(size)) for side in size]
        if len(grid) != len(size):
            raise ValueError(
                f"grid must be one number, or one for each of the {len(size)} spatial axes, "
                f"but got {self.grid}."
            )
        return [min(cells, side) for cells, side in zip(grid, size, strict=True)]


def _check_budget(area: object) -> None:
    if area is None or callable(area):
        return
    if isinstance(area, bool) or not isinstance(area, Real):
        raise TypeError(
            f"area must be one number in (0, 1), or a function of the share of steps done, but got "
            f"{type(area).__name__}; for different areas, explain the inputs one by one."
        )
    check_area(area)


# ---- One search


class _Search:
    """The mask logits of all inputs, and which inputs are still being optimized."""

    def __init__(
        self,
        options: PerInput,
        forward_func: Callable[..., Tensor],
        inputs: Tensor,
        target: Target,
        extra: tuple[Any, ...],
    ) -> None:
        self.options, self.forward_func = options, forward_func
        if callable(target):
            self.forward_func = _Scored(forward_func, target)
        # Copies: a tensor made in inference mode cannot take part in a backward pass.
        self.inputs = inputs.detach().clone()
        self.extra = tuple(a.clone() if isinstance(a, Tensor) else a for a in extra)
        # Adam divides by numbers that half precision rounds to zero.
        precise = torch.promote_types(inputs.dtype, torch.float32)
        size, batch = inputs.shape[2:], len(inputs)
        shape = (batch, 1, *options.cells(size)) if size else inputs.shape
        self.mask_logits = torch.zeros(
            shape, dtype=precise, device=inputs.device, requires_grad=True
        )
        # The first pass shows the classes, and whether network or infill draw random numbers.
        self.seeded = seeded if draws(inputs, self._begin) else lambda *_: nullcontext()
        # The judged rows; a callable target needs the full batch in its order.
        self.everyone = torch.arange(batch, device=inputs.device) if callable(target) else None
        self.to_logits = self._graded() if callable(target) else self._told()
        output = self.to_logits(self.output)
        target = 1 if callable(target) else target
        self.classes, self.logits = class_indices(output, target), as_class_logits(output).detach()
        # With the usual eps of 1e-8, rounding errors of a zero gradient would make full steps.
        self.optimizer = torch.optim.Adam([self.mask_logits], lr=options.lr, eps=1e-4)
        self.random = torch.Generator().manual_seed(options.seed)
        nats, given = math.log(self.logits.shape[1]), options.regularizer
        self.regularizer = smooth(variation=_VARIATION * nats) if given is None else given
        # Per input: whether it is active, its best loss, and the steps since then.
        self.active = torch.arange(batch, device=inputs.device)
        self.best = torch.full((batch,), torch.inf, dtype=torch.float64)  # on the CPU
        self.waited = torch.zeros(batch, dtype=torch.long)
        self.area: float | None = None
        self.judging: Callable[[Any], AbstractContextManager[Any]] | None = None

    @torch.no_grad()
    def _begin(self) -> None:
        self.output = self.forward_func(self.inputs, *self.extra)
        mask_images(self.inputs[:1], self.mask(None)[:1], self.options.infill)

    def _told(self) -> ToLogits:
        """Run the classifier once to see its output."""
        ask = lambda others: self.forward_func(others, *self.extra)  # noqa: E731
        return find_to_logits(self.forward_func, self.output, (self.inputs,), ask) or as_they_are

    @torch.no_grad()
    def _graded(self) -> ToLogits:
        """Scale scores to log odds: 0 for the infilled image, 99 % for the whole image."""
        blank = []
        for image in self.inputs.split(1):
            with self.seeded(image, self.options.seed):
                blank.append(fill(image, torch.ones_like(image[:, :1]), self.options.infill))
        least = self.forward_func(torch.cat(blank), *self.extra)
        extent = (self.output - least).abs()
        unit = torch.where(extent > 0, extent, 1) / _SURE

        def to_logits(scores: Tensor) -> Tensor:
            copies = len(scores) // len(unit)
            return (scores - least.repeat(copies)) / unit.repeat(copies)

        return to_logits

    def mask(self, area: float | None) -> Tensor:
        """Return the current masks of all inputs."""
        return self._mask(self.mask_logits, area).to(self.inputs.dtype)

    def _mask(self, mask_logits: Tensor, area: float | None) -> Tensor:
        if mask_logits.dim() > 2:  # vectors have a logit for each element already
            mask_logits = linear(mask_logits, self.inputs.shape[2:])
        return mask_logits.sigmoid() if area is None else of_area(mask_logits, area)

    def step(self, area: float | None) -> None:
        """Take one step for the active inputs."""
        losses = self._losses(area)
        self.mask_logits.grad, slope = gradients_of(losses.sum(), self.mask_logits, self.seen)
        if self.judging is None:  # the first step
            self.judging = nullcontext
            if slope is None or not slope.any():
                found = leading_back(self.forward_func, (self.inputs,), *self.extra)
                self.judging = found or nullcontext
            if self.judging is not nullcontext:
                return self.step(area)
        before = self.mask_logits.detach().clone()
        self.optimizer.step()
        with torch.no_grad():  # Adam's momentum would keep moving finished masks
            after = self.mask_logits.detach()[self.active]
            self.mask_logits.copy_(before.index_copy(0, self.active, after))
        if self.options.patience is not None:
            self._retire(losses.detach().cpu().double(), area, self.options.patience)

    def _retire(self, losses: Tensor, area: float | None, patience: int) -> None:
        """Deactivate the inputs whose loss has stopped improving."""
        if area != self.area:  # losses under another budget do not compare
            self.best.fill_(torch.inf)
            self.area = area
        rows = self.active.cpu()
        better = losses < self.best[rows] - _LEAST
        self.best[rows] = torch.where(better, losses, self.best[rows])
        self.waited[rows] = torch.where(better, 0, self.waited[rows] + 1)
        self.active = rows[self.waited[rows] < patience].to(self.active.device)

    def _losses(self, area: float | None) -> Tensor:
        """Return the loss of each active input."""
        rows = self.active if self.everyone is None else self.everyone
        mask = self._mask(self.mask_logits[rows], area)  # (rows, 1, *spatial)
        self.seen = halves = self._masked(
            rows, mask.to(self.inputs.dtype)
        )  # (2 * rows, C, *spatial)
        extra = [torch.cat([a[rows]] * 2) if self._has_rows(a) else a for a in self.extra]
        with (self.judging or nullcontext)(self.forward_func):
            output = self.forward_func(shift(halves, self._jitter()), *extra)
        logits_in, logits_out = as_class_logits(self.to_logits(output)).to(mask).chunk(2)
        budget = None if area is None else torch.full_like(logits_in[:, 0], area)
        logits = self.logits[rows].to(mask)
        shown = {"area": budget, "inputs": self.inputs[rows]}
        judgement = Judgement(logits, logits_in, logits_out, self.classes[rows], **shown)
        # One by one: a mean over the batch would divide each gradient by the batch size, and some
        # losses are not means.
        losses = []
        for row, its_mask in enumerate(mask.split(1)):
            its = judgement.only(slice(row, row + 1))
            losses.append(self.options.objective(its) + self.regularizer(its_mask, its))
        stacked = torch.stack(losses)
        return stacked if self.everyone is None else stacked[self.active]

    def _masked(self, rows: Tensor, mask: Tensor) -> Tensor:
        """Mask the images one by one with the same random numbers; masked-in ones come first."""
        seed = int(torch.randint(2**31, (), generator=self.random))
        halves = []
        for image, its_mask in zip(self.inputs[rows].split(1), mask.split(1), strict=True):
            with self.seeded(image, seed):
                halves.append(mask_images(image, its_mask, self.options.infill))
        masked_in, masked_out = zip(*halves, strict=True)
        return torch.cat([*masked_in, *masked_out])

    def _jitter(self) -> list[int]:
        most, axes = self.options.jitter_px, len(self.inputs.shape[2:])
        return torch.randint(-most, most + 1, (axes,), generator=self.random).tolist()

    def _has_rows(self, argument: Any) -> bool:
        """Decide, as Captum does, whether an argument has one row per input."""
        return isinstance(argument, Tensor) and argument.shape[:1] == self.inputs.shape[:1]


def shift(images: Tensor, pixels: Sequence[int]) -> Tensor:
    """Shift images along their spatial axes and fill with zero, the mean."""
    frame = [side for step in reversed(pixels) for side in (step, -step)]  # last axis first
    return pad(images, frame) if any(pixels) else images


def of_area(mask_logits: Tensor, area: float) -> Tensor:
    """Return masks of mean ``area`` by shifting all logits; the gradient includes the shift."""
    with torch.no_grad():
        added = _bisect(mask_logits, area)
    mask = (mask_logits + added).sigmoid()
    slope = (mask * (1 - mask)).detach()
    # A Newton step at the solution adds only the derivative of `added`.
    slopes = _mean(slope).clamp_min(torch.finfo(slope.dtype).tiny)
    return (mask_logits + added - (_mean(mask) - _mean(mask).detach()) / slopes).sigmoid()


def _bisect(mask_logits: Tensor, area: float) -> Tensor:
    level = torch.tensor(area, dtype=torch.float64).logit().to(mask_logits)
    flat = mask_logits.flatten(1)
    shape = (-1, *[1] * (mask_logits.dim() - 1))
    low, high = (level - flat.amax(1)).reshape(shape), (level - flat.amin(1)).reshape(shape)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        small = _mean((mask_logits + middle).sigmoid()) < area
        low, high = torch.where(small, middle, low), torch.where(small, high, middle)
    return (low + high) / 2


def _mean(mask: Tensor) -> Tensor:
    return mask.mean(dim=tuple(range(1, mask.dim())), keepdim=True)


# ---- Several inputs, and baselines in place of an infill


def optimize_each(
    function: Callable[..., Any],
    tensors: tuple[Tensor, ...],
    target: Target,
    extra: tuple,
    origins: tuple[Tensor | float | None, ...],
    options: PerInput,
    show_progress: bool,
) -> tuple[Tensor, ...]:
    """Optimize the mask of each input in turn, with the other inputs unmasked."""
    with evaluated(function) as lent:
        masks = []
        for index, (tensor, origin) in enumerate(zip(tensors, origins, strict=True)):
            seen: Callable[..., Any] = _OneOfSeveral(lent, index, len(tensors), callable(target))
            rest = (*tensors[:index], *tensors[index + 1 :], *extra)
            search = options
            if origin is not None:
                start = torch.as_tensor(origin).detach().to(tensor).expand_as(tensor)
                seen, tensor, rest = _From(seen), tensor - start, (start, *rest)
                search = options.but(infill=Mean())
            found = search(
                seen, tensor, target, additional_forward_args=rest, show_progress=show_progress
            )
            masks.append(found)
        return tuple(masks)


class _Around:
    """Calls a classifier; what asks for its module or its original is given those."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.__self__, self._twin_of = module_of(function), original(function)


class _OneOfSeveral(_Around):
    """Calls a classifier with one input first, then the others."""

    def __init__(self, function: Any, index: int, count: int, whole: bool = False) -> None:
        super().__init__(function)
        self.index, self.count, self.whole = index, count, whole

    def __call__(self, one: Tensor, *rest: Any) -> Any:
        others, extra = rest[: self.count - 1], rest[self.count - 1 :]
        inputs = (*others[: self.index], one, *others[self.index :])
        with channels_in_words(self.__self__, inputs[0]):
            output = self.function(*inputs, *extra)
        return output if self.whole else with_rows(logits_of(output), one)


class _Scored(_Around):
    """Calls a model and returns the scores of a callable target."""

    def __init__(self, function: Callable[..., Any], target: Callable[[Any], Tensor]) -> None:
        super().__init__(function)
        self.target = target

    def __call__(self, inputs: Tensor, *extra: Any) -> Tensor:
        return scores_of(self.target, self.function(inputs, *extra), len(inputs))


class _From(_Around):
    """A classifier as a function of the difference from a baseline."""

    def __call__(self, distance: Tensor, start: Tensor, *rest: Any) -> Any:
        return self.function(start + distance, *rest)
