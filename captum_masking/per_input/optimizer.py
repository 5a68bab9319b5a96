"""The mask that a masker would be trained to predict, found for each input by Adam."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from captum_masking._captum_compat import TargetType, progress
from captum_masking.checks import check_area
from captum_masking.infill import Infill, Mean
from captum_masking.masker import linear
from captum_masking.modes import frozen
from captum_masking.objective import Dual, Judgement, Objective
from captum_masking.per_input.alone import Stopping, judge_alone, mask_alone
from captum_masking.per_input.arguments import rows_of, twice, usable
from captum_masking.per_input.jitter import shift
from captum_masking.per_input.size import of_area
from captum_masking.regularizer import Regularizer, smooth
from captum_masking.target import as_class_logits, class_indices

#: A fraction of the image, or called with the share of the steps done, in (0, 1], for one.
Budget = float | Callable[[float], float]

_VARIATION = 0.02  # weight of the mask's variation, for each nat that the objective can gain

_SETTINGS = (
    *("objective", "regularizer", "infill", "steps", "lr"),
    *("grid", "area", "jitter_px", "patience", "seed"),
)


class PerInput:
    """Optimises one mask for each input, on a coarse grid, under the objective of a masker.

    Every input is on its own: its loss is its own, random numbers are the same for all, and so a
    batch gives what its inputs give one by one. The classifier is held frozen in eval mode
    meanwhile and given back as it was, and so are torch's random numbers.

    Args:
        objective: Of the masked images' logits.
        regularizer: Of the mask; None is :func:`~captum_masking.regularizer.smooth` with a
            variation of 0.02 for each nat that the objective can gain, log(classes): for 1,000
            classes many times a trained masker's, which keeps a mask from fitting the
            classifier's accidents.
        infill: What fills the holes. A random one draws anew at every step. It sees one image at
            a time, so ``RandomImage`` needs a bank.
        steps: Steps of Adam at most, each two forward passes and one backward pass to the inputs.
        lr: Adam's learning rate, in units of mask logits.
        grid: Cells of the mask along the longest side of the input, or one number for each side;
            the mask is interpolated linearly between them. Never more than one for a pixel.
        area: A budget: the mean of every mask, a fraction of the image in (0, 1), or a schedule,
            called with the share of the steps done, in (0, 1]. It is met exactly, so that terms
            of the regularizer that depend on the area alone have no effect. None leaves the area
            to the regularizer.
        jitter_px: At each step the masked images are shifted by up to as many pixels along each
            axis, at random.
        patience: An input is done when its loss has not improved for as many steps; None takes
            all steps. A step at which a schedule changes the budget counts as an improvement.
        seed: Of jitter and of random infills.

    Raises:
        TypeError: If ``area`` is neither a number nor a schedule.
        ValueError: If a number lies outside its range.

    Source:
        Fong & Vedaldi 2017 optimise coarse masks per image, with jitter; Fong et al. 2019 give
        them an area. Here under the loss of Phang et al. 2020. Defaults are own, chosen on 48
        images of Imagenette; ``benchmarks/per_input.py`` compares settings on others.

    Example:
        >>> from captum_masking.regularizer import UngatedArea
        >>> inputs = torch.zeros(1, 1, 4, 4)
        >>> inputs[..., :2] = 1  # the classifier sums the picture: its left half is the evidence
        >>> classify = lambda x: torch.stack([4 - x.sum((1, 2, 3)), x.sum((1, 2, 3))], dim=1)
        >>> mask = PerInput(area=0.5, regularizer=UngatedArea())(classify, inputs, target=1)
        >>> bool(mask[..., :2].min() > mask[..., 2:].max()), round(float(mask.mean()), 4)
        (True, 0.5)
    """

    def __init__(
        self,
        *,
        objective: Objective = Dual(),
        regularizer: Regularizer | None = None,
        infill: Infill = Mean(),
        steps: int = 30,
        lr: float = 0.3,
        grid: int | Sequence[int] = 7,
        area: Budget | None = None,
        jitter_px: int = 0,
        patience: int | None = None,
        seed: int = 0,
    ) -> None:
        _check_at_least(1, steps=steps, patience=math.inf if patience is None else patience)
        _check_at_least(1, grid=grid if isinstance(grid, int) else min(grid, default=0))
        _check_at_least(0, jitter_px=jitter_px, lr=lr)
        _check_budget(area)
        self.objective, self.regularizer, self.infill = objective, regularizer, infill
        self.steps, self.lr, self.grid, self.area = steps, lr, grid, area
        self.jitter_px, self.patience, self.seed = jitter_px, patience, seed

    def __call__(
        self,
        forward_func: Callable[..., Tensor],
        inputs: Tensor,
        target: TargetType = None,
        *,
        additional_forward_args: tuple = (),
        show_progress: bool = False,
    ) -> Tensor:
        """Find the masks.

        Args:
            forward_func: Maps ``inputs, *additional_forward_args`` to ``(B, *classes)`` logits.
            inputs: ``(B, C, *spatial)``, floating point; or vectors ``(B, F)``, whose masks have a
                value for each element, and neither grid nor jitter.
            target: Any form Captum takes; None is the predicted class.
            additional_forward_args: Passed on; a tensor with one row per input goes with it.
            show_progress: Whether to show a progress bar.

        Returns:
            The masks, ``(B, 1, *spatial)``, or ``(B, F)``, in ``[0, 1]``, detached.

        Raises:
            TargetError: If the target does not name one class for each input.
            ValueError: If a schedule gives no fraction of the image.
        """
        with torch.inference_mode(False), torch.enable_grad(), frozen(forward_func):
            search = _Search(self, forward_func, inputs, target, additional_forward_args)
            with torch.random.fork_rng([inputs.device] if inputs.is_cuda else []):
                steps = range(self.steps)
                for step in progress(steps, desc="Masking Saliency") if show_progress else steps:
                    if not len(search.active):
                        break
                    search.step(self.budget((step + 1) / self.steps))
            return search.mask(self.budget(1.0)).detach()

    def but(self, **changes: Any) -> PerInput:
        """Return a copy with some settings changed; those that are None stay.

        Raises:
            TypeError: If there is no such setting.
        """
        settings = {name: getattr(self, name) for name in _SETTINGS}
        new = {name: value for name, value in changes.items() if value is not None}
        return PerInput(**{**settings, **new})

    def budget(self, done: float) -> float | None:
        """Return the area asked for when the share ``done`` of the steps is done."""
        area = self.area(done) if callable(self.area) else self.area
        check_area(area)
        return None if area is None else float(area)

    def cells(self, size: Sequence[int]) -> list[int]:
        """Return the grid of the mask for inputs of a spatial size."""
        grid = self.grid
        if isinstance(grid, int):
            grid = [math.ceil(grid * side / max(size)) for side in size]
        if len(grid) != len(size):
            raise ValueError(
                f"grid must be one number, or one for each of the {len(size)} spatial sides of "
                f"the inputs, but got {self.grid}."
            )
        return [min(cells, side) for cells, side in zip(grid, size, strict=True)]

    def __repr__(self) -> str:
        return f"PerInput({', '.join(f'{name}={getattr(self, name)!r}' for name in _SETTINGS)})"


class _Search:
    """The state of one search: the mask logits of all inputs, and which are not done yet."""

    def __init__(
        self,
        options: PerInput,
        forward_func: Callable[..., Tensor],
        inputs: Tensor,
        target: TargetType,
        extra: tuple[Any, ...],
    ) -> None:
        self.options, self.forward_func = options, forward_func
        self.inputs = inputs.detach().clone()  # a copy: inference mode's tensors take no gradient
        self.extra = tuple(usable(argument) for argument in extra)
        with torch.no_grad():
            output = forward_func(self.inputs, *self.extra)
        self.classes, self.logits = class_indices(output, target), as_class_logits(output).detach()
        # Adam divides by numbers that half precision rounds to zero.
        precise = torch.promote_types(inputs.dtype, torch.float32)
        size = inputs.shape[2:]
        shape = (len(inputs), 1, *options.cells(size)) if size else inputs.shape
        self.mask_logits = torch.zeros(
            shape, dtype=precise, device=inputs.device, requires_grad=True
        )
        self.optimizer = torch.optim.Adam([self.mask_logits], lr=options.lr)
        self.active = torch.arange(len(inputs), device=inputs.device)
        self.stopping = Stopping(options.patience, len(inputs))
        self.random = torch.Generator().manual_seed(options.seed)
        nats = math.log(self.logits.shape[1])
        self.regularizer = options.regularizer or smooth(variation=_VARIATION * nats)

    def mask(self, area: float | None) -> Tensor:
        """Return the masks of all inputs as they stand."""
        return self._mask(self.mask_logits, area).to(self.inputs.dtype)

    def _mask(self, mask_logits: Tensor, area: float | None) -> Tensor:
        if mask_logits.dim() > 2:  # vectors have a logit for each element already
            mask_logits = linear(mask_logits, self.inputs.shape[2:])
        return mask_logits.sigmoid() if area is None else of_area(mask_logits, area)

    def step(self, area: float | None) -> None:
        """Improve the masks of those inputs that are not done."""
        losses = self._losses(area)
        (self.mask_logits.grad,) = torch.autograd.grad(losses.sum(), self.mask_logits)
        before = self.mask_logits.detach().clone()
        self.optimizer.step()
        with torch.no_grad():  # Adam's momentum would move on those that are done
            moved = torch.zeros(len(before), dtype=torch.bool, device=before.device)
            moved[self.active] = True
            self.mask_logits.copy_(
                torch.where(moved.reshape(-1, *[1] * (before.dim() - 1)), self.mask_logits, before)
            )
        self.active = self.active[self.stopping.go_on(self.active, losses.detach(), area)]

    def _losses(self, area: float | None) -> Tensor:
        """Return the loss of each input that is not done."""
        rows, options = self.active, self.options
        mask = self._mask(self.mask_logits[rows], area)  # (rows, 1, *spatial)
        pixels = mask.to(self.inputs.dtype)
        drawn = torch.randint(2**31, (), generator=self.random).item()
        halves = mask_alone(self.inputs[rows], pixels, options.infill, seed=int(drawn))
        extra = twice(rows_of(self.extra, rows, len(self.inputs)), len(rows))
        output = self.forward_func(shift(halves, self._jitter()), *extra)
        logits_in, logits_out = as_class_logits(output).to(mask).chunk(2)
        asked = None if area is None else torch.full_like(logits_in[:, 0], area)
        logits = self.logits[rows].to(mask)
        judgement = Judgement(logits, logits_in, logits_out, self.classes[rows], asked)
        return judge_alone(judgement, mask, options.objective, self.regularizer)

    def _jitter(self) -> list[int]:
        most, axes = self.options.jitter_px, len(self.inputs.shape[2:])
        return torch.randint(-most, most + 1, (axes,), generator=self.random).tolist()


def optimize_mask(
    forward_func: Callable[..., Tensor],
    inputs: Tensor,
    target: TargetType,
    *,
    additional_forward_args: tuple = (),
    show_progress: bool = False,
    **options: Any,
) -> Tensor:
    """Find the mask of each input: :class:`PerInput` as a function.

    Args:
        forward_func: As for :meth:`PerInput.__call__`.
        inputs: Likewise.
        target: Likewise.
        additional_forward_args: Likewise.
        show_progress: Likewise.
        **options: Those of :class:`PerInput`.

    Returns:
        The masks, ``(B, 1, *spatial)`` in ``[0, 1]``, detached.

    Source:
        See :class:`PerInput`.

    Example:
        >>> inputs = torch.eye(2).reshape(1, 1, 2, 2)
        >>> classify = lambda x: torch.stack([x[:, 0, 0, 0], x[:, 0, 0, 1]], dim=1)
        >>> optimize_mask(classify, inputs, 0, area=0.25).argmax()
        tensor(0)
    """
    return PerInput(**options)(
        forward_func,
        inputs,
        target,
        additional_forward_args=additional_forward_args,
        show_progress=show_progress,
    )


def _check_budget(area: object) -> None:
    if area is None or callable(area):
        return
    if isinstance(area, bool) or not isinstance(area, Real):
        raise TypeError(
            f"area must be one fraction of the image for all inputs, or a schedule called with the "
            f"share of the steps done, but got {type(area).__name__}; explain inputs of different "
            "budgets one by one."
        )
    check_area(area)


def _check_at_least(least: int, **numbers: float) -> None:
    for name, number in numbers.items():
        if not number >= least:
            raise ValueError(f"{name} must be at least {least}, but got {number}.")
