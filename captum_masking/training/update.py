"""Where and how a step becomes an update: device, precision, accumulation, several processes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from captum_masking._base.checks import check_finite
from captum_masking._base.processes import any_of, average_gradients, world

if TYPE_CHECKING:
    from accelerate import Accelerator


#: Any kind of module: what comes in goes out.
Module = TypeVar("Module", bound=nn.Module)

_WAY_OUT = "lower the learning rate, and look for extreme values in the inputs."
_PRECISIONS = ("no", "bf16", "fp16")
_REFUSED = ("FSDP", "DEEPSPEED", "MEGATRON_LM", "TP", "XLA")


class Engine:
    """Takes losses, one for each network, and lets each network's optimizer step.

    A step is taken from the mean over all examples: of all batches that are accumulated, and of
    all processes. Alone and without accumulation, that is the loss's own gradient.

    Args:
        accelerator: Says device, precision, gradient accumulation; None trains where the model
            is, in its own precision.
        max_gradient_norm: Gradients of each network are clipped to this norm.
        skip_not_finite: Whether a batch whose loss is not finite, or an update whose gradient is
            not, is left out and counted, rather than an error.

    Raises:
        ValueError: If the accelerator shards models over devices, or computes in a precision that
            is not supported.

    Example:
        >>> weight = nn.Parameter(torch.tensor(3.0))
        >>> optimizer = torch.optim.SGD([weight], lr=0.5)
        >>> Engine().learn({optimizer: weight**2}, examples=1)
        {}
        >>> weight
        Parameter containing:
        tensor(0., requires_grad=True)
    """

    def __init__(
        self,
        accelerator: Accelerator | None = None,
        *,
        max_gradient_norm: float = 10.0,
        skip_not_finite: bool = False,
    ) -> None:
        if accelerator is not None:
            _check(accelerator)
        self.accelerator = accelerator
        self.max_gradient_norm = max_gradient_norm
        self.skip_not_finite = skip_not_finite
        self.accumulate = accelerator.gradient_accumulation_steps if accelerator else 1
        self.scaler: Any = getattr(accelerator, "scaler", None)  # of fp16 alone
        self.examples: dict[Optimizer, int] = {}  # in the gradients of each, since its last step
        self.batches = 0
        self.buffers: list[tuple[Tensor, Tensor]] = []  # those a batch moves, and copies

    def place(self, model: nn.Module) -> None:
        """Bring a model to the accelerator's device, if one was given."""
        if self.accelerator is not None:
            model.to(self.accelerator.device)

    def autocast(self) -> AbstractContextManager[Any]:
        """Compute in the accelerator's precision within this context."""
        return nullcontext() if self.accelerator is None else self.accelerator.autocast()

    def describe(self) -> str | None:
        """Say what of the accelerator changes the result of a training."""
        if self.accelerator is None:
            return None
        precision = self.accelerator.mixed_precision
        return f"mixed_precision={precision!r}, gradient_accumulation_steps={self.accumulate}"

    @property
    def between_updates(self) -> bool:
        """Whether gradients are accumulated that no step has been taken from yet."""
        return self.batches > 0

    def remember(self, model: nn.Module) -> None:
        """Copy what the next batch moves by itself, such as batch-norm statistics.

        Args:
            model: Its parts that are in train mode; they get the copies back if that batch is
                left out.
        """
        parts = [part for part in model.modules() if part.training]
        self.buffers = [(b, b.clone()) for part in parts for b in part.buffers(recurse=False)]

    def learn(self, losses: Mapping[Optimizer, Tensor], *, examples: int) -> dict[str, float]:
        """Add the gradients of losses that may share a graph, and step when enough have come.

        Args:
            losses: Means over a batch, each for the parameters of its optimizer alone.
            examples: In the batch of this process.

        Returns:
            ``{"skipped": 1.0}`` where the batch, or the update, was left out: with
            ``skip_not_finite``, and in fp16 where gradients left its range. Otherwise nothing.

        Raises:
            ValueError: If a loss or gradient is not finite; the weights are then as before.
        """
        added = self._add(losses, examples)
        self.batches += 1
        stepped = self.batches < self.accumulate or self._update()
        return {} if added and stepped else {"skipped": 1.0}

    def flush(self) -> bool:
        """Step with what has been accumulated; return whether there was anything."""
        waiting = self.between_updates
        if waiting:
            self._update()
        return waiting

    def forget(self) -> None:
        """Drop what has been accumulated."""
        self.examples, self.batches, self.buffers = {}, 0, []

    def _add(self, losses: Mapping[Optimizer, Tensor], examples: int) -> bool:
        """Add the gradients of a batch, unless a loss is not finite in any process."""
        values = [loss.detach() for loss in losses.values()]
        finite = bool(torch.stack(values).isfinite().all())
        if any_of(not finite, values[0].device):
            self._leave_out(values, "the loss")
            return False
        remaining = len(losses)
        for optimizer, loss in losses.items():
            remaining -= 1
            self._backward(optimizer, loss, examples, retain_graph=remaining > 0)
        return True

    def _backward(
        self, optimizer: Optimizer, loss: Tensor, examples: int, *, retain_graph: bool
    ) -> None:
        parameters = parameters_of(optimizer)
        if optimizer not in self.examples:
            self.examples[optimizer] = 0
            for parameter in parameters:
                parameter.grad = None
        self.examples[optimizer] += examples
        loss = loss * examples if self._weighs else loss
        loss = loss if self.scaler is None else self.scaler.scale(loss)
        loss.backward(inputs=parameters, retain_graph=retain_graph)

    def _update(self) -> bool:
        """Step every optimizer that has gradients, or none; return whether they stepped."""
        waiting, self.examples, self.batches = self.examples, {}, 0
        norms = [self._clip(optimizer, examples) for optimizer, examples in waiting.items()]
        finite = not norms or bool(torch.stack(norms).isfinite().all())
        if finite:
            for optimizer in waiting:
                optimizer.step() if self.scaler is None else self.scaler.step(optimizer)
        elif self.scaler is None or self.scaler.get_scale() <= 1:
            self._leave_out(norms, "the gradient's norm")
        else:  # fp16's range was left, for which the scale is to blame: it falls
            self._undo()
        if self.scaler is not None and waiting:
            self.scaler.update()
        return finite

    def _clip(self, optimizer: Optimizer, examples: int) -> Tensor:
        """Make gradients the mean over examples, clip them, and return the norm from before."""
        parameters = parameters_of(optimizer)
        if self._weighs:
            average_gradients(parameters, examples)
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)
        return nn.utils.clip_grad_norm_(parameters, self.max_gradient_norm).detach()

    @property
    def _weighs(self) -> bool:
        """Whether gradients are sums over examples until the update."""
        return self.accumulate > 1 or world() > 1

    def _leave_out(self, values: list[Tensor], name: str) -> None:
        """Undo a batch; unless such are to be left out, say what was not finite."""
        self._undo()
        if self.skip_not_finite:
            return
        self.forget()
        for value in values:
            check_finite(value, name, _WAY_OUT)
        raise ValueError(f"{name} of another process must be finite, but is not; {_WAY_OUT}")

    def _undo(self) -> None:
        for buffer, before in self.buffers:
            buffer.copy_(before)


def laid_out(model: Module, layout: torch.memory_format) -> Module:
    """Bring the weights of a model to a memory format, where it is one for their dimensions.

    Args:
        model: Changed in place.
        layout: ``torch.channels_last`` is for images; signals and volumes are left as they are.

    Returns:
        The model.

    Source:
        Own. ``model.to(memory_format=torch.channels_last)`` refuses the weights of volumes.

    Example:
        >>> convolution = laid_out(nn.Conv3d(2, 2, 3), torch.channels_last)
        >>> laid_out(nn.Conv2d(2, 2, 3), torch.channels_last).weight.stride()
        (18, 1, 6, 2)
    """
    dims = {torch.channels_last: 4, torch.channels_last_3d: 5}.get(layout)
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.dim() == dims:
            tensor.data = tensor.data.to(memory_format=layout)
    return model


def precise(*values: Tensor) -> list[Tensor]:
    """Bring half precision to single: losses and masks lose too much in it."""
    half = (torch.float16, torch.bfloat16)
    return [value.float() if value.dtype in half else value for value in values]


def moved(
    inputs: tuple[Tensor, ...], device: torch.device, layout: torch.memory_format
) -> tuple[Tensor, ...]:
    """Bring inputs to a device, and images ``(B, C, H, W)`` to a memory format."""
    kept = torch.preserve_format
    formats = [layout if x.dim() == 4 or layout != torch.channels_last else kept for x in inputs]
    pairs = zip(inputs, formats, strict=True)
    return tuple(x.to(device, non_blocking=True, memory_format=form) for x, form in pairs)


def parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    """List the parameters that an optimizer moves.

    Example:
        >>> len(parameters_of(torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)))
        2
    """
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _check(accelerator: Accelerator) -> None:
    """Refuse launchers that cut a network into pieces, and precisions that would not be used."""
    kind = getattr(getattr(accelerator, "distributed_type", None), "value", "")
    if kind in _REFUSED:
        raise ValueError(
            f"expected an accelerator for one device or for copies of the model on several "
            f"(multi-GPU, DDP), but got {kind}: features are read and judges are copied from whole "
            "networks. Launch with accelerate launch --multi_gpu, or torchrun; a classifier that "
            "does not fit on one device cannot be trained here."
        )
    precision, device = accelerator.mixed_precision, torch.device(accelerator.device).type
    if precision not in _PRECISIONS or (precision == "fp16" and device == "cpu"):
        raise ValueError(
            f"expected a precision of {', '.join(_PRECISIONS)}, and fp16 on accelerators only, but "
            f"got {precision} on {device}; bf16 works anywhere."
        )
