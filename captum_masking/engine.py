"""Where and how a step becomes an update: device, precision, accumulation, several processes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from captum_masking.checks import check_finite
from captum_masking.processes import any_of, average_gradients, world

if TYPE_CHECKING:
    from accelerate import Accelerator

_WAY_OUT = "lower the learning rate, and look for extreme values in the inputs."
_REFUSED = ("FSDP", "DEEPSPEED", "MEGATRON_LM", "TP", "XLA")


class Engine:
    """Takes losses, one for each network, and lets each network's optimizer step.

    A step is taken from the mean over all examples: of all batches that are accumulated, and of
    all processes. Alone and without accumulation, that is the loss's own gradient.

    Args:
        accelerator: Says device, precision, gradient accumulation; None trains where the model
            is, in its own precision.
        max_gradient_norm: Gradients of each network are clipped to this norm.
        skip_not_finite: Whether a step whose loss or gradient is not finite is left out and
            counted, rather than an error.

    Raises:
        ValueError: If the accelerator shards models over devices, which is not supported.

    Source:
        Own.

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
        _check_kind(accelerator)
        self.accelerator = accelerator
        self.max_gradient_norm = max_gradient_norm
        self.skip_not_finite = skip_not_finite
        self.accumulate = accelerator.gradient_accumulation_steps if accelerator else 1
        self.scaler: Any = getattr(accelerator, "scaler", None)  # of fp16 alone
        self.examples: dict[Optimizer, int] = {}  # in the gradients of each, since its last step
        self.batches = 0

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

    def learn(self, losses: Mapping[Optimizer, Tensor], *, examples: int) -> dict[str, float]:
        """Add the gradients of losses that may share a graph, and step when enough have come.

        Args:
            losses: Means over a batch, each for the parameters of its optimizer alone.
            examples: In the batch of this process.

        Returns:
            ``{"skipped": 1.0}`` where the batch was left out, otherwise nothing.

        Raises:
            ValueError: If a loss or gradient is not finite; the weights are then as before.
        """
        finite = all(bool(loss.detach().isfinite()) for loss in losses.values())
        device = next(iter(losses.values())).device
        if any_of(not finite, device):
            return self._skip(list(losses.values()), "the loss")
        remaining = len(losses)
        for optimizer, loss in losses.items():
            remaining -= 1
            self._backward(optimizer, loss, examples, retain_graph=remaining > 0)
        self.batches += 1
        return self._update() if self.batches >= self.accumulate else {}

    def flush(self) -> bool:
        """Step with what has been accumulated; return whether there was anything."""
        waiting = self.between_updates
        if waiting:
            self._update()
        return waiting

    def forget(self) -> None:
        """Drop what has been accumulated."""
        self.examples, self.batches = {}, 0

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

    def _update(self) -> dict[str, float]:
        """Step every optimizer that has gradients, or none."""
        waiting, self.examples, self.batches = self.examples, {}, 0
        norms = []
        for optimizer, examples in waiting.items():
            parameters = parameters_of(optimizer)
            if self._weighs:
                average_gradients(parameters, examples)
            if self.scaler is not None:
                self.scaler.unscale_(optimizer)
            norms.append(nn.utils.clip_grad_norm_(parameters, self.max_gradient_norm))
        finite = bool(torch.stack([norm.detach() for norm in norms]).isfinite().all())
        if self.scaler is not None:  # the scale was too large: it falls, and this step is lost
            for optimizer in waiting:
                self.scaler.step(optimizer)
            self.scaler.update()
            return {} if finite else {"skipped": 1.0}
        if not finite:
            return self._skip(norms, "the gradient's norm")
        for optimizer in waiting:
            optimizer.step()
        return {}

    @property
    def _weighs(self) -> bool:
        """Whether gradients are sums over examples until the update."""
        return self.accumulate > 1 or world() > 1

    def _skip(self, values: list[Tensor], name: str) -> dict[str, float]:
        self.forget()
        if self.skip_not_finite:
            return {"skipped": 1.0}
        for value in values:
            check_finite(value, name, _WAY_OUT)
        raise ValueError(f"{name} of another process must be finite, but is not; {_WAY_OUT}")


def precise(values: Tensor) -> Tensor:
    """Bring half precision to single: losses and masks lose too much in it.

    Source:
        Own.

    Example:
        >>> precise(torch.zeros(1, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    """List the parameters that an optimizer moves.

    Source:
        Own.

    Example:
        >>> len(parameters_of(torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)))
        2
    """
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _check_kind(accelerator: Accelerator | None) -> None:
    """Refuse launchers that cut a network into pieces: hooks and snapshots need it whole."""
    kind = getattr(getattr(accelerator, "distributed_type", None), "value", "")
    if kind in _REFUSED:
        raise ValueError(
            f"expected an accelerator for one device or for copies of the model on several "
            f"(multi-GPU, DDP), but got {kind}: features are read and judges are copied from whole "
            "networks. Launch with accelerate launch --multi_gpu, or torchrun; a classifier that "
            "does not fit on one device cannot be trained here."
        )
