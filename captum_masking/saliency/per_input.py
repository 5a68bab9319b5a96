"""Further arguments of a classifier, of which some have one row per input."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from captum_masking._base.borrow import frozen, module_of
from captum_masking._base.captum import TargetType, progress
from captum_masking._base.checks import channels_in_words, check_area
from captum_masking._base.target import as_class_logits, class_indices
from captum_masking.model.taps import logits_of
from captum_masking.parts.infill import Infill, Mean
from captum_masking.parts.masker import linear
from captum_masking.parts.masking import mask_images
from captum_masking.parts.objective import Dual, Judgement, Objective
from captum_masking.parts.regularizer import Regularizer, smooth

__all__ = [
    "PerInput",
    "of_area",
    "optimize_each",
    "optimize_mask",
    "shift",
]


def usable(argument: Any) -> Any:
    """Copy a tensor: one made in inference mode cannot take part in a backward pass.

    Source:
        Own.

    Example:
        >>> usable("switch")
        'switch'
    """
    return argument.clone() if isinstance(argument, Tensor) else argument


def rows_of(arguments: tuple[Any, ...], rows: Tensor, batch: int) -> tuple[Any, ...]:
    """Take some rows of every argument that has one row per input.

    Args:
        arguments: Of the classifier, of any kind.
        rows: Indices of inputs.
        batch: How many inputs there are.

    Returns:
        The arguments; those without a row per input as they are.

    Source:
        Captum's rule: a tensor whose first axis is the batch has one row per input.

    Example:
        >>> rows_of((torch.tensor([5.0, 6.0]), "on"), torch.tensor([1]), batch=2)
        (tensor([6.]), 'on')
    """
    return tuple(a[rows] if _has_rows(a, batch) else a for a in arguments)


def twice(arguments: tuple[Any, ...], batch: int) -> tuple[Any, ...]:
    """Repeat every argument that has one row per input, for masked-in and masked-out.

    Source:
        Own.

    Example:
        >>> twice((torch.tensor([5.0]), "on"), batch=1)
        (tensor([5., 5.]), 'on')
    """
    return tuple(torch.cat([a, a]) if _has_rows(a, batch) else a for a in arguments)


def _has_rows(argument: Any, batch: int) -> bool:
    return isinstance(argument, Tensor) and argument.dim() > 0 and len(argument) == batch


# ---- Small shifts of an image, so that a mask cannot rest on single pixels.


def shift(images: Tensor, pixels: Sequence[int]) -> Tensor:
    """Move images along their spatial axes; what comes in from outside is zero, the mean.

    Args:
        images: ``(B, C, *spatial)``, normalised.
        pixels: How far along each spatial axis, in pixels; negative is back.

    Returns:
        The moved images, shaped like ``images``.

    Source:
        Olah et al. 2017 (feature visualization) jitter the image that is optimised; here image,
        mask and infill move together.

    Example:
        >>> import torch
        >>> shift(torch.tensor([[[1.0, 2.0, 3.0]]]), [1])
        tensor([[[0., 1., 2.]]])
    """
    frame = [side for step in reversed(pixels) for side in (step, -step)]  # last axis first
    return pad(images, frame) if any(pixels) else images


# ---- Every input of a batch as if it were alone.


def mask_alone(inputs: Tensor, mask: Tensor, infill: Infill, *, seed: int) -> Tensor:
    """Mask each image by itself, with the same random numbers for all.

    Args:
        inputs: ``(B, C, *spatial)``.
        mask: ``(B, 1, *spatial)``.
        infill: Given one image at a time.
        seed: Set anew before each image, so that its noise does not depend on its place in the
            batch. The caller gives torch's random state back.

    Returns:
        ``(2 * B, C, *spatial)``: all masked-in images, then all masked-out ones.

    Source:
        Own.

    Example:
        >>> mask_alone(torch.ones(2, 1, 1), torch.ones(2, 1, 1), lambda x, hole: 0 * x, seed=0)
        tensor([[[1.]], [[1.]], [[0.]], [[0.]]])
    """
    pairs = []
    for image, its_mask in zip(inputs.split(1), mask.split(1), strict=True):
        _seed(seed, inputs.device)
        pairs.append(mask_images(image, its_mask, infill))
    masked_in, masked_out = zip(*pairs, strict=True)
    return torch.cat([*masked_in, *masked_out])


def judge_alone(
    judgement: Judgement, mask: Tensor, objective: Objective, regularizer: Regularizer
) -> Tensor:
    """Return the loss of each image, as if it were a batch of one.

    A mean over the batch would weaken each image's gradient by the size of the batch, and some
    losses are no means.

    Args:
        judgement: Of the batch.
        mask: ``(B, 1, *spatial)``.
        objective: Of the judgement.
        regularizer: Of mask and judgement.

    Returns:
        ``(B,)``.

    Source:
        Own.

    Example:
        >>> logits = torch.tensor([[0.0, 2.0], [0.0, 4.0]])
        >>> said = Judgement(logits, logits, logits, target=torch.tensor([1, 1]))
        >>> mask, top = torch.zeros(2, 1, 1), lambda judgement: judgement.logits_in.max()
        >>> judge_alone(said, mask, top, lambda mask, judgement: mask.mean())
        tensor([2., 4.])
    """
    losses = []
    for row, its_mask in enumerate(mask.split(1)):
        said = judgement.only(slice(row, row + 1))
        losses.append(objective(said) + regularizer(its_mask, said))
    return torch.stack(losses)


class Stopping:
    """Knows which inputs are done: those whose loss has not improved for some steps.

    Args:
        patience: How many steps; None is never.
        batch: How many inputs.

    Source:
        Own.

    Example:
        >>> stopping = Stopping(patience=1, batch=1)
        >>> row = torch.tensor([0])
        >>> [stopping.go_on(row, torch.tensor([loss]), area=None).item() for loss in (3, 2, 2)]
        [True, True, False]
    """

    least = 1e-3  # an improvement by less counts as none, in units of the loss

    def __init__(self, patience: int | None, batch: int) -> None:
        self.patience = patience
        self.best = torch.full((batch,), torch.inf, dtype=torch.float64)
        self.waited = torch.zeros(batch, dtype=torch.long)
        self.area: float | None = None

    def go_on(self, rows: Tensor, losses: Tensor, area: float | None) -> Tensor:
        """Note the losses of some inputs; return for each of them whether to go on."""
        if self.patience is None:
            return torch.ones_like(rows, dtype=torch.bool)
        if area != self.area:  # losses under another budget do not compare
            self.best.fill_(torch.inf)
            self.area = area
        at, values = rows.cpu(), losses.double().cpu()
        better = values < self.best[at] - self.least
        self.best[at] = torch.where(better, values, self.best[at])
        self.waited[at] = torch.where(better, 0, self.waited[at] + 1)
        return (self.waited[at] < self.patience).to(rows.device)


def _seed(seed: int, device: torch.device) -> None:
    """Seed the generators that an infill on this device draws from, and no other device's."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


# ---- Masks of exactly the area that was asked for.

_HALVINGS = 50  # of an interval of some dozens of logits: down to rounding


def of_area(mask_logits: Tensor, area: float) -> Tensor:
    """Make masks whose mean is a given fraction: one number is added to all logits of each.

    The number depends on the logits, and the gradient knows: a cell that grows pushes all others
    down, so that an optimizer can move the area about but not change it.

    Args:
        mask_logits: ``(B, 1, *spatial)``, at least single precision.
        area: The mean of each mask, in (0, 1).

    Returns:
        Masks, shaped like ``mask_logits``, in ``[0, 1]``.

    Source:
        Own. The derivative is that of the implicit function ``mean(sigmoid(logits + b)) = area``.

    Example:
        >>> of_area(torch.tensor([[[0.0, 0.0, 9.0, 9.0]]]), area=0.5)
        tensor([[[0.0110, 0.0110, 0.9890, 0.9890]]])
    """
    with torch.no_grad():
        added = _bisect(mask_logits, area)
    mask = (mask_logits + added).sigmoid()
    slope = (mask * (1 - mask)).detach()
    # One step of Newton's method from the solution: adds nothing but the derivative of `added`.
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


# ---- The mask that a masker would be trained to predict, found for each input by Adam.

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
        regularizer: Of the mask; None is :func:`~captum_masking.parts.regularizer.smooth` with a
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
        >>> from captum_masking.parts.regularizer import UngatedArea
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


# ---- A mask optimised for each of several inputs, and baselines in place of an infill.


def optimize_each(
    function: Callable[..., Any],
    tensors: tuple[Tensor, ...],
    target: TargetType,
    extra: tuple,
    origins: tuple[Tensor | float | None, ...],
    options: PerInput,
    show_progress: bool,
) -> tuple[Tensor, ...]:
    """Optimise the mask of each input in turn, while the others are seen as they are.

    Args:
        function: The classifier, called with all inputs and ``extra``.
        tensors: The inputs, each ``(B, ...)``.
        target: Any form Captum takes.
        extra: Further arguments.
        origins: A baseline for each input that takes the infill's place, or None.
        options: How masks are optimised.
        show_progress: Whether to show a bar.

    Returns:
        A mask for each input.

    Source:
        Own.
    """
    masks = []
    for index, (tensor, origin) in enumerate(zip(tensors, origins, strict=True)):
        seen: Callable[..., Tensor] = _OneOfSeveral(function, index, len(tensors))
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


class _OneOfSeveral:
    """A classifier as a function of one of its inputs, then the others, to logits."""

    def __init__(self, function: Callable[..., Any], index: int, count: int) -> None:
        self.function, self.index, self.count = function, index, count
        self.__self__ = module_of(function)  # whose modes and flags are borrowed meanwhile

    def __call__(self, one: Tensor, *rest: Any) -> Tensor:
        others, extra = rest[: self.count - 1], rest[self.count - 1 :]
        inputs = (*others[: self.index], one, *others[self.index :])
        with channels_in_words(self.__self__, inputs[0]):
            return logits_of(self.function(*inputs, *extra))


class _From:
    """A classifier as a function of how far an input lies from its baseline.

    What a mask takes off that distance leads back to the baseline: a hole of zeros is filled with
    it, row by row, which an infill, told one image at a time, could not do.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function
        self.__self__ = module_of(function)

    def __call__(self, distance: Tensor, start: Tensor, *rest: Any) -> Tensor:
        return self.function(start + distance, *rest)
