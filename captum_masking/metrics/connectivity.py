"""Linear connectivity: losses along the straight line between two networks' weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from captum_masking._base.borrow import unwrapped
from captum_masking._base.captum import as_class_logits, as_they_are, as_tuple, find_to_logits
from captum_masking._base.checks import check_count, check_has_weights, check_labels, check_loader
from captum_masking.data.batches import read_batch
from captum_masking.data.seeded import random_states

#: A network, or its weights and buffers by name.
Network = nn.Module | Mapping[str, Tensor]
#: Buffers of a point on the line that replace the mixed ones, by name.
Others = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Connectivity:
    """The result of `connectivity`.

    Attributes:
        losses: Mean cross entropy in nats at equally spaced points, float64 ``(points,)``.
        accuracies: Accuracy at the same points.
        before, after: Accuracy of the first and of the second network.
        changed: Share of examples for which they predict different classes.
        examples: Number of examples.
    """

    losses: Tensor
    accuracies: Tensor
    before: float
    after: float
    changed: float
    examples: int

    @property
    def barrier(self) -> float:
        """Greatest height of the losses above the chord, in nats; see `barrier`."""
        return barrier(self.losses)

    @property
    def convexity_gap(self) -> float:
        """Greatest height above any chord, in nats; see `convexity_gap`."""
        return convexity_gap(self.losses)

    def __str__(self) -> str:
        return (
            f"barrier {self.barrier:.3f} nats, {self.changed:.1%} of the predictions changed, "
            f"accuracy {self.before:.1%} before and {self.after:.1%} after, "
            f"on {self.examples} examples"
        )


# ---- Of losses


def barrier(
    losses: Tensor | Sequence[float], *, above: Literal["chord", "mean_of_ends"] = "chord"
) -> float:
    """Return the height of the barrier in losses at equally spaced points, at least 0.

    Args:
        losses: ``(points,)``, from one end of the line to the other.
        above: ``chord`` measures from the straight line between the ends' losses, ``mean_of_ends``
            from their mean, above which a mere slope has a barrier too.

    Source:
        Juneja et al. 2023 (chord); Frankle et al. 2020 (mean of ends).

    Example:
        >>> barrier([0, 1, 1, 3]), barrier([0, 1, 0])
        (0.0, 1.0)
        >>> barrier([0, 1, 2]), barrier([0, 1, 2], above="mean_of_ends")
        (0.0, 1.0)
    """
    heights = _heights(losses)
    if above not in _GROUNDS:
        raise ValueError(f"above must be one of {list(_GROUNDS)}, but got {above!r}.")
    return float((heights - _GROUNDS[above](heights)).amax().clamp(min=0))


def convexity_gap(losses: Tensor | Sequence[float]) -> float:
    """Return the largest `barrier` of any part of the line.

    Source:
        Juneja et al. 2023.

    Example:
        >>> losses = [0, 0, 1, 0, 2]
        >>> barrier(losses), convexity_gap(losses)
        (0.0, 1.0)
    """
    heights = _heights(losses)
    ends = torch.combinations(torch.arange(len(heights))).tolist()
    return max(barrier(heights[start : end + 1]) for start, end in ends)


_GROUNDS: dict[str, Callable[[Tensor], Tensor]] = {
    "chord": lambda heights: torch.lerp(heights[0], heights[-1], _fractions(len(heights))),
    "mean_of_ends": lambda heights: (heights[0] + heights[-1]) / 2,
}


def _heights(losses: Any) -> Tensor:
    heights = torch.as_tensor(losses, dtype=torch.float64, device="cpu").detach()
    if heights.dim() != 1 or len(heights) < 2:
        raise ValueError(
            f"losses must be two or more numbers in a row, but got shape {tuple(heights.shape)}; "
            "connectivity(...).losses are."
        )
    return heights


def _fractions(points: int) -> Tensor:
    return torch.linspace(0, 1, points, dtype=torch.float64)


# ---- Of networks


@torch.no_grad()
def connectivity(
    first: Network,
    second: nn.Module,
    loader: Any,
    *,
    points: int = 10,
    buffers: Literal["estimate", "interpolate", "first"] = "estimate",
    examples: int | None = None,
    to_logits: Callable[[Any], Tensor] | None = None,
) -> Connectivity:
    """Measure losses on the straight line from one network's weights to another's.

    No barrier means that the second network is in the same valley as the first, as after gentle
    fine-tuning. Neither network changes: a copy of the second, in eval mode, takes the weights of
    each point. Integers are those of the nearer end.

    Args:
        first: A network like the second, or its ``state_dict()``.
        loader: Yields batches ``(inputs, labels)``; read once, with ``estimate`` twice.
        points: Number of networks on the line, with both ends, >= 2.
        buffers: ``estimate`` recalculates the statistics of batch norm at every point, from the
            same examples, which is fair to mixed weights. ``interpolate`` mixes them like weights,
            ``first`` keeps the first network's. Where training kept the statistics, as gentle
            joint training does, the last two are one. Accuracy before and after and what changed
            are of the networks with their own.
        examples: At most so many are read; None reads all.
        to_logits: Called on what the networks answer; None takes logits as they are, and turns
            probabilities into logits.

    Raises:
        ValueError: If the networks' weights differ in name or shape, or batches cannot be used.

    Source:
        Juneja et al. 2023, with 10 points, 512 examples, and the first network's buffers.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> before = copy.deepcopy(network.state_dict())
        >>> _ = network[1].weight.data.neg_()
        >>> batches = [(torch.rand(8, 1, 2, 2), torch.arange(8) % 2)]
        >>> found = connectivity(before, network, batches)
        >>> found.losses.shape, found.barrier  # convex: logits are linear in these weights
        (torch.Size([10]), 0.0)
    """
    check_count("points", points, least=2, way_out="both ends count.")
    check_loader(loader, 2 if buffers == "estimate" else 1)
    if buffers not in _BUFFERS:
        raise ValueError(f"buffers must be one of {list(_BUFFERS)}, but got {buffers!r}.")
    line = _Line(first, second, to_logits)
    fractions = _fractions(points).tolist()
    seen, changed = 0, 0
    with random_states(0):  # keep the caller's random states
        others = _BUFFERS[buffers](line, fractions, _batches(loader, examples))
        stops: list[tuple[float, Others]] = list(zip(fractions, others, strict=True))
        stops += [end for end in _ENDS if end not in stops]
        before, after = map(stops.index, _ENDS)
        losses, right = torch.zeros(2, len(stops), dtype=torch.float64)
        for inputs, labels in _batches(loader, examples):
            logits = torch.stack([line.logits(stop, inputs) for stop in stops])
            check_labels(labels, logits[0], classes=logits.shape[2])
            losses += torch.stack([cross_entropy(each, labels, reduction="sum") for each in logits])
            predicted = logits.argmax(2)
            right += (predicted == labels).sum(1)
            changed += int((predicted[before] != predicted[after]).sum())
            seen += len(labels)
    if not seen:
        raise ValueError("expected at least one batch, but the loader gave none.")
    right /= seen
    return Connectivity(
        losses[:points] / seen,
        right[:points].clone(),
        before=float(right[before]),
        after=float(right[after]),
        changed=changed / seen,
        examples=seen,
    )


_ENDS: list[tuple[float, Others]] = [(0.0, {}), (1.0, {})]


class _Line:
    """Networks on the line, one at a time: a copy of the second takes the weights of each."""

    def __init__(
        self, first: Network, second: nn.Module, to_logits: Callable[[Any], Tensor] | None
    ) -> None:
        first, second = unwrapped(first), unwrapped(second)
        theirs, own = _tensors(first), _tensors(second)
        check_has_weights([*theirs.items(), *own.items()])
        _check_alike(theirs, own)
        self.network = copy.deepcopy(second).eval().requires_grad_(False)
        self.network.zero_grad(set_to_none=True)  # a copy has the gradients as well
        named = [*self.network.named_parameters(), *self.network.named_buffers()]  # tied: once
        self.tensors = {name: tensor for name, tensor in named if name in own}
        self.buffers = {name for name, _ in self.network.named_buffers()} & own.keys()
        ends = {n: (theirs[n].to(tensor), own[n]) for n, tensor in self.tensors.items()}
        self.differ = {name for name, pair in ends.items() if not torch.equal(*pair)}
        self.ends = {n: pair for n, pair in ends.items() if n in self.differ | self.buffers}
        self.to_logits = to_logits

    def at(self, fraction: float, others: Others) -> None:
        for name, (start, end) in self.ends.items():
            self.tensors[name].copy_(_between(start, end, fraction))
        for name, tensor in others.items():
            self.tensors[name].copy_(tensor)

    def __call__(self, inputs: tuple[Tensor, ...]) -> Any:
        weights = next((w for w in self.tensors.values() if w.is_floating_point()), inputs[0])
        moved = [x.to(weights if x.is_floating_point() else weights.device) for x in inputs]
        answer = self.network(*moved)
        if self.to_logits is None and isinstance(answer, Tensor):
            self.to_logits = find_to_logits(self.network, answer, moved, self.network)
        return answer

    def logits(self, stop: tuple[float, Others], inputs: tuple[Tensor, ...]) -> Tensor:
        self.at(*stop)
        answer = self(inputs)
        return as_class_logits((self.to_logits or as_they_are)(answer)).cpu().double()


def _tensors(network: Network) -> dict[str, Tensor]:
    state = network.state_dict() if isinstance(network, nn.Module) else network
    return {name: value.detach() for name, value in state.items() if isinstance(value, Tensor)}


def _between(start: Tensor, end: Tensor, fraction: float) -> Tensor:
    if start.is_floating_point() or start.is_complex():
        return torch.lerp(start, end, fraction)  # exact at both ends
    return start if fraction < 0.5 else end


def _check_alike(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    shapes = [{n: tuple(tensor.shape) for n, tensor in each.items()} for each in (first, second)]
    names = list(dict.fromkeys([*shapes[0], *shapes[1]]))
    differing = [name for name in names if shapes[0].get(name) != shapes[1].get(name)]
    if differing:
        there = [shapes[i].get(differing[0], "missing") for i in (0, 1)]
        raise ValueError(
            f"expected two networks with the same weights, but {len(differing)} of {len(names)} "
            f"differ in name or shape, first {differing[0]!r}: {there[0]} in the first network and "
            f"{there[1]} in the second; a line leads from a network to a copy of it that was "
            "trained on."
        )


def _batches(loader: Any, most: int | None) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
    for batch in loader:
        inputs, labels = read_batch(batch)
        labels = labels[:most].cpu()
        yield tuple(x[:most] for x in as_tuple(inputs)), labels
        most = None if most is None else most - len(labels)
        if most == 0:
            return


# ---- Of buffers: for each point, what it has in place of what lies between the two networks


def _interpolated(line: _Line, fractions: Sequence[float], batches: Any) -> list[Others]:
    return [{} for _ in fractions]


def _of_first(line: _Line, fractions: Sequence[float], batches: Any) -> list[Others]:
    kept = {name: line.ends[name][0] for name in line.buffers & line.differ}
    return [kept if fraction > 0 else {} for fraction in fractions]


def _estimated(line: _Line, fractions: Sequence[float], batches: Any) -> list[Others]:
    """Recalculate statistics of batch norm: means over the batches, weighted by examples."""
    norms = {n: part for n, part in line.network.named_modules() if _keeps_statistics(part)}
    found: list[Others] = [{} for _ in fractions]
    seen = 0
    for inputs, labels in batches if norms else ():
        if len(labels) < 2:
            continue  # one example may have no variance
        seen += len(labels)
        for fraction, own in zip(fractions, found, strict=True):
            line.at(fraction, own)
            for norm in norms.values():
                norm.train()
                norm.momentum = len(labels) / seen  # 1 at first: nothing is left of what was there
            line(inputs)
            own |= {
                f"{name}.{kind}".lstrip("."): getattr(norm, kind).clone()
                for name, norm in norms.items()
                for kind in ("running_mean", "running_var")
            }
    if norms and not seen:
        raise ValueError(
            "statistics of batch norm need a batch of two or more examples, but the loader gave "
            'none; give larger batches, or buffers="interpolate".'
        )
    line.network.eval()
    return found


def _keeps_statistics(part: nn.Module) -> bool:
    return isinstance(part, nn.modules.batchnorm._NormBase) and part.running_mean is not None


_BUFFERS = {"estimate": _estimated, "interpolate": _interpolated, "first": _of_first}
