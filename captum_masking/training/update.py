"""Where and how a step becomes an update: device, precision, accumulation, several processes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from captum_masking._base.checks import check_finite, check_has_weights
from captum_masking._base.processes import any_of, average_gradients, world

if TYPE_CHECKING:
    from accelerate import Accelerator

    from captum_masking.model.model import MaskingModel


#: Any kind of module: what comes in goes out.
Module = TypeVar("Module", bound=nn.Module)

_WAY_OUT = "lower the learning rate, and look for extreme values in the inputs."
_PRECISIONS = ("no", "bf16", "fp16")
_REFUSED = ("FSDP", "DEEPSPEED", "MEGATRON_LM", "TP", "XLA")


class Engine:
    """Takes losses, one for each network, and lets each network's optimizer step.

    A step is taken from the mean over all examples, of all accumulated batches and processes.
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
        if self.accelerator is not None:
            model.to(self.accelerator.device)

    def autocast(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.accelerator is None else self.accelerator.autocast()

    def describe(self) -> str | None:
        if self.accelerator is None:
            return None
        precision = self.accelerator.mixed_precision
        return f"mixed_precision={precision!r}, gradient_accumulation_steps={self.accumulate}"

    @property
    def between_updates(self) -> bool:
        return self.batches > 0

    def remember(self, model: nn.Module) -> None:
        """Copy what the next batch moves by itself, such as batch-norm statistics."""
        parts = [part for part in model.modules() if part.training]
        self.buffers = [(b, b.clone()) for part in parts for b in part.buffers(recurse=False)]

    def learn(self, losses: Mapping[Optimizer, Tensor], *, examples: int) -> dict[str, float]:
        """Add gradients of losses that may share a graph; step when enough have come."""
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
    """Bring weights to a memory format where it fits; ``model.to`` refuses those of volumes."""
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
    inputs: tuple[Tensor, ...],
    device: torch.device,
    layout: torch.memory_format = torch.preserve_format,
) -> tuple[Tensor, ...]:
    kept = torch.preserve_format
    formats = [layout if x.dim() == 4 or layout != torch.channels_last else kept for x in inputs]
    # No gradient may pass a tensor that was made in inference mode; a copy takes it.
    plain = (x.clone() if x.is_inference() else x for x in inputs)
    pairs = zip(plain, formats, strict=True)
    return tuple(x.to(device, non_blocking=True, memory_format=form) for x, form in pairs)


def check_learnable(model: MaskingModel, *, joint: bool) -> None:
    """Check that a masker, and in joint training a classifier, has weights that can learn."""
    check_has_weights(model.named_parameters())
    for name, weights in model.named_parameters():
        if weights.is_inference():
            raise ValueError(
                f"{name} cannot learn: it was made in inference mode; make it outside."
            )
        if joint and weights.element_size() < 4 and name.startswith("classifier."):
            raise ValueError(
                f"joint training needs single precision, but {name} is {weights.dtype}; take "
                "classifier.float(), and Accelerator(mixed_precision='bf16') to be fast."
            )


def parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _check(accelerator: Accelerator) -> None:
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
