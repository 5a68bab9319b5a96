"""Turn losses into updates: device, precision, gradient accumulation; and a fast frozen judge."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.optim import Optimizer

from captum_masking._base.borrow import evaluated, seeded
from captum_masking._base.checks import check_finite, check_has_weights
from captum_masking._base.processes import any_of, average_gradients, world
from captum_masking.model.taps import hooked

if TYPE_CHECKING:
    from accelerate import Accelerator

    from captum_masking.model.model import MaskingModel


_WAY_OUT = "lower the learning rate, and look for extreme values in the inputs."
_PRECISIONS = ("no", "bf16", "fp16")
_REFUSED = ("FSDP", "DEEPSPEED", "MEGATRON_LM", "TP", "XLA")


class Engine:
    """Take one loss for each network, and step each network's optimizer.

    A step uses the mean over the examples of all accumulated batches and all processes.
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
        self.scaler: Any = getattr(accelerator, "scaler", None)  # only for fp16
        self.examples: dict[Optimizer, int] = {}  # in the gradients of each, since its last step
        self.batches = 0
        self.buffers: list[tuple[Tensor, Tensor]] = []  # those a batch changes, and copies

    def place(self, model: MaskingModel, layout: torch.memory_format) -> None:
        """Set device and memory format of a model, and the precision that learning needs."""
        for part in (model.masker, model.sampler):
            if any(p.element_size() < 4 for p in part.parameters()):
                part.float()  # half precision has too few steps to learn in
        if self.accelerator is not None:
            model.to(self.accelerator.device)
        halves = [weights for weights in model.parameters() if weights.dtype == torch.float16]
        if halves and self.scaler is None:  # else gradients vanish before the mask
            self.scaler = torch.amp.GradScaler(halves[0].device.type)
        _lay_out(model, layout)

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
        """Copy the buffers that the next batch changes, such as batch-norm statistics."""
        parts = [part for part in model.modules() if part.training]
        self.buffers = [(b, b.clone()) for part in parts for b in part.buffers(recurse=False)]

    def learn(self, losses: Mapping[Optimizer, Tensor], *, examples: int) -> dict[str, float]:
        """Add gradients of losses that may share a graph; step after enough batches."""
        added = self._add(losses, examples)
        self.batches += 1
        stepped = self.batches < self.accumulate or self._update()
        return {} if added and stepped else {"skipped": 1.0}

    def flush(self) -> bool:
        """Step with the accumulated gradients; return whether there were any."""
        waiting = self.between_updates
        if waiting:
            self._update()
        return waiting

    def forget(self) -> None:
        self.examples, self.batches, self.buffers = {}, 0, []

    def _add(self, losses: Mapping[Optimizer, Tensor], examples: int) -> bool:
        """Add the gradients of a batch, if all losses are finite in all processes."""
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
        else:  # fp16 overflowed: the scaler will lower its scale
            self._undo()
        if self.scaler is not None and waiting:
            self.scaler.update()
        return finite

    def _clip(self, optimizer: Optimizer, examples: int) -> Tensor:
        """Average gradients over examples, clip them, and return their norm before clipping."""
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
        """Undo a batch; raise an error, unless such batches are skipped."""
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


def _lay_out(model: nn.Module, layout: torch.memory_format) -> None:
    """Set the memory format of weights that support it; ``model.to`` rejects those of volumes."""
    dims = {torch.channels_last: 4, torch.channels_last_3d: 5}.get(layout)
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.dim() == dims:
            tensor.data = tensor.data.to(memory_format=layout)


def precise(*values: Tensor) -> list[Tensor]:
    """Convert half precision to single, which losses and masks need."""
    half = (torch.float16, torch.bfloat16)
    return [value.float() if value.dtype in half else value for value in values]


def moved(
    inputs: tuple[Tensor, ...],
    device: torch.device,
    layout: torch.memory_format = torch.preserve_format,
) -> tuple[Tensor, ...]:
    kept = torch.preserve_format
    formats = [layout if x.dim() == 4 or layout != torch.channels_last else kept for x in inputs]
    # Gradients cannot pass through a tensor from inference mode, but through its copy.
    plain = (x.clone() if x.is_inference() else x for x in inputs)
    pairs = zip(plain, formats, strict=True)
    return tuple(x.to(device, non_blocking=True, memory_format=form) for x, form in pairs)


def check_learnable(model: MaskingModel, *, joint: bool) -> None:
    """Check that the weights of a masker, and in joint training of a classifier, can learn."""
    check_has_weights(model.named_parameters())
    for name, weights in model.named_parameters():
        if weights.is_inference():
            raise ValueError(
                f"{name} cannot learn, since it was created in inference mode; create it outside."
            )
        if joint and weights.element_size() < 4 and name.startswith("classifier."):
            raise ValueError(
                f"joint training needs single precision, but {name} is {weights.dtype}; use "
                "classifier.float(), and Accelerator(mixed_precision='bf16') for speed."
            )


def parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _check(accelerator: Accelerator) -> None:
    kind = getattr(getattr(accelerator, "distributed_type", None), "value", "")
    if kind in _REFUSED:
        raise ValueError(
            f"expected an accelerator for one device or for copies of the model on several "
            f"(multi-GPU, DDP), but got {kind}; use accelerate launch --multi_gpu, or torchrun. A "
            "classifier that does not fit on one device cannot be trained."
        )
    precision, device = accelerator.mixed_precision, torch.device(accelerator.device).type
    if precision not in _PRECISIONS or (precision == "fp16" and device == "cpu"):
        raise ValueError(
            f"expected a precision of {', '.join(_PRECISIONS)}, and fp16 only on accelerators, but "
            f"got {precision} on {device}; bf16 works anywhere."
        )


# ---- A frozen judge with its batch norm folded into its convolutions

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_EXAMPLES = 4
#: Weight and bias that replace a convolution and the batch norm after it, by their names.
_Folds = dict[tuple[str, str], tuple[nn.Parameter, ...]]


class Folded:
    """Lend a frozen judge without its batch norm: the same logits in less time.

    The folded weights take as much memory as the convolutions. They are made again when the judge
    has changed. If they would change the logits, or nothing can be folded, lend the judge itself.
    """

    def __init__(self) -> None:
        self.key: list[tuple[int, int]] | None = None  # versions of the folded tensors
        self.folds: _Folds | None = {}  # None if folding failed

    def __reduce__(self) -> tuple[Any, ...]:  # copies fold again
        return Folded, ()

    @contextmanager
    def lent(
        self, judge: nn.Module, inputs: Sequence[Tensor], logits_of: Callable[[Any], Tensor]
    ) -> Iterator[nn.Module]:
        with suppress(Exception), torch.no_grad():
            if self.folds is not None and self.key != (key := _versions(judge)):
                self.key, self.folds = key, None
                self.folds = _folds(judge, inputs, logits_of)
        with evaluated(judge) if self.folds else nullcontext(judge) as network:
            if network is not judge:  # but its twin, whose modules may change
                _fold(network, self.folds or {})
            yield network


def _versions(network: nn.Module) -> list[tuple[int, int]]:
    return [(t.data_ptr(), t._version) for t in chain(network.parameters(), network.buffers())]


def _folds(
    judge: nn.Module, inputs: Sequence[Tensor], logits_of: Callable[[Any], Tensor]
) -> _Folds | None:
    """Make the weights; None if they change the logits of a copy, or a pass changes the copy.

    Double precision makes the decision the same for every batch. It is slow on a CPU: few examples.
    """
    with evaluated(judge) as twin:
        exact = copy.deepcopy(judge).eval()
    if twin is judge or {*exact.modules()} & {*judge.modules()}:
        return None  # it has hooks, or modules that a copy shares
    exact.double()
    few = [x[:: -(-len(x) // _EXAMPLES)] for x in inputs]  # masked-in and masked-out
    inputs = [x.double() if x.is_floating_point() else x for x in few]
    before = _versions(exact)

    def ask() -> Tensor:
        with seeded(inputs[0], 0):
            return logits_of(exact(*inputs))

    pairs, logits = _pairs(exact, ask)
    changes = _versions(exact) != before
    folds = {pair: _of_pair(*map(exact.get_submodule, pair)) for pair in pairs}
    _fold(exact, folds)
    if changes or not torch.allclose(ask(), logits, rtol=0, atol=1e-5 * float(logits.abs().max())):
        return None
    kinds = {pair: judge.get_parameter(f"{pair[0]}.weight").dtype for pair in pairs}
    return {
        pair: tuple(nn.Parameter(t.to(kinds[pair]), requires_grad=False) for t in each)
        for pair, each in folds.items()
        if kinds[pair] in (torch.float32, torch.float64)  # half has too small a range
    }


def _pairs(network: nn.Module, ask: Callable[[], Tensor]) -> tuple[list[tuple[str, str]], Tensor]:
    """Run a network; pair each convolution with the batch norm that reads its unchanged output."""
    named = dict(network.named_modules())
    norms = {n: m for n, m in named.items() if type(m) in _NORMS and m.running_mean is not None}
    convolutions = {
        name: part
        for name, part in named.items()
        if isinstance(part, _ConvNd) and not isinstance(part, _ConvTransposeNd)
        if part._parameters.get("weight") is not None  # or it is parametrized
    }
    ran: Counter[str] = Counter()
    pairs = []

    def keep(name: str, value: Any) -> None:
        ran[name] += 1
        if name in convolutions:
            value.made = name, value._version
        elif value and hasattr(value[0], "made") and value[0].made[1] == value[0]._version:
            pairs.append((value[0].made[0], name))

    parts = {**convolutions, **norms}
    with hooked([*parts.values()], [*parts], keep, norms):
        logits = ask()
    return pairs if all(ran[name] == 1 for name in parts) else [], logits  # else passes may differ


def _of_pair(conv: Any, norm: Any) -> tuple[nn.Parameter, ...]:
    moments = norm.running_mean, norm.running_var, norm.eps
    return fuse_conv_bn_weights(conv.weight, conv.bias, *moments, norm.weight, norm.bias)


def _fold(network: nn.Module, folds: _Folds) -> None:
    for (name, norm), (weight, bias) in folds.items():
        part = network.get_submodule(name)
        part._parameters = {**part._parameters, "weight": weight, "bias": bias}
        parent, _, last = norm.rpartition(".")
        network.get_submodule(parent)._modules[last] = nn.Identity()
