"""Read a network's attention during one call, without changing its modules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from captum_masking._base.borrow import name_of
from captum_masking.model.layouts import Layout, Tokens, tokens_of
from captum_masking.model.taps import ONCE, from_here

_SOFTMAX = {torch.softmax, torch.special.softmax, functional.softmax, Tensor.softmax}
_CONVOLUTIONS = {torch.conv1d, torch.conv2d, torch.conv3d}
_JOINS = {torch.cat, torch.concat, torch.concatenate}
_PRODUCT = functional.scaled_dot_product_attention

# Torch's multi-head attention, unfused, so that its calls are visible.
_MULTI_HEAD = functional.multi_head_attention_forward
_OPENED = FunctionType(
    _MULTI_HEAD.__code__,
    {**_MULTI_HEAD.__globals__, "has_torch_function": lambda _: False},
    argdefs=_MULTI_HEAD.__defaults__,
)


class Attention(TorchFunctionMode):
    """Records the attention of every layer that its thread runs.

    The weights of ``scaled_dot_product_attention`` are made explicit; those of a softmax over
    tokens, and of torch's multi-head attention, are taken on their way. The answer can be
    differentiated by them.

    Args:
        function: The function to run.
        batch: Number of examples.
        keep: Called with each layer's weights ``(B, heads, queries, keys)``, first layer first.
    """

    def __init__(
        self, function: Callable[..., Any], batch: int, keep: Callable[[Tensor], object]
    ) -> None:
        super().__init__()
        self.name, self.batch, self.keep = name_of(function), batch, keep
        #: Weights of the last layer among all tokens, and of one that pools these for the answer.
        self.ends: list[Tensor] = []
        #: By the length of a sequence of tokens, the tokens before the patches, and their grid.
        self._places: dict[int, tuple[int, Sequence[int]]] = {}
        self._patchers: list[Any] = []
        self._saved: list[list[Tensor]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one of torch's functions, and record its attention."""
        if torch.compiler.is_compiling():
            raise self._unseen()
        kwargs = kwargs or {}
        if func is _MULTI_HEAD:
            if args[0].dim() == 3 and args[0].shape[1] != self.batch:  # (queries, B, channels)
                raise self._refused(f"{args[0].shape[1]} of them")
            with self:
                return _OPENED(*args, **kwargs)
        if func is _PRODUCT:
            return self._attend(*args, **kwargs)
        output = func(*args, **kwargs)
        if func in _SOFTMAX and output.dim() > 2:
            axis = kwargs.get("dim", args[1] if len(args) > 1 else None)
            return self._see(output) if axis in (-1, output.dim() - 1) else output
        if func in _CONVOLUTIONS:
            self._see_patches(output, args[1] if len(args) > 1 else kwargs["weight"])
        if func in _JOINS and not self.ends and output.dim() == 3:
            axis = kwargs.get("dim", args[1] if len(args) > 1 else 0)
            self._see_joined(args[0] if args else kwargs["tensors"], output.shape[1], axis)
        return output

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,  # of training
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Compute torch's fused function step by step."""
        if enable_gqa:
            key, value = (
                x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value)
            )
        wide = torch.promote_types(query.dtype, torch.float32)  # like the fused function
        scores = query.to(wide) @ key.to(wide).mT
        scores = scores * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones_like(scores, dtype=torch.bool).tril()
        if attn_mask is not None:
            is_bool = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, -math.inf) if is_bool else scores + attn_mask
        return (self._see(scores.softmax(-1)) @ value.to(wide)).to(query.dtype)

    def _see(self, weights: Tensor) -> Tensor:
        """Keep a layer's weights; return a copy to differentiate by."""
        *rows, queries, keys = weights.shape
        fits = len(rows) == 2 and rows[0] == self.batch
        fits |= len(rows) == 1 and rows[0] % self.batch == 0
        before = self.ends[-1].shape[-2:] if self.ends else (keys, keys)
        if not fits or before != (keys, keys):
            after = f" after {before[0]} x {before[1]}" if self.ends else ""
            raise self._refused(f"weights of shape {tuple(weights.shape)}{after}")
        if queries == keys:
            self.ends.clear()
            while self._saved:
                self._saved.pop().clear()
        seen, copy = from_here(weights.reshape(self.batch, -1, queries, keys))
        self.ends.append(seen)
        self.keep(seen)
        return copy.reshape(weights.shape)

    def _see_patches(self, output: Tensor, weight: Tensor) -> None:
        if self.ends and any(weight is patcher for patcher in self._patchers):
            raise RuntimeError(f"expected {self.name} to cut inputs into patches once: {ONCE}")
        if not self.ends and len(output) == self.batch:
            self._places[math.prod(output.shape[2:])] = (0, output.shape[2:])
            self._patchers += [weight] if isinstance(weight, nn.Parameter) else []

    def _see_joined(self, parts: Sequence[Tensor], count: int, axis: int) -> None:
        """Note where the patches are among ``count`` tokens."""
        before = 0
        for part in parts if axis in (1, -2) else ():
            learned = isinstance(part if part._base is None else part._base, nn.Parameter)
            if part.shape[1] in self._places and not learned:
                first, grid = self._places[part.shape[1]]
                self._places[count] = (before + first, grid)
            before += part.shape[1]

    @contextmanager
    def only_the_end(self) -> Iterator[None]:
        """Keep, of what a backward pass needs, what has come after the last layer seen."""

        def pack(tensor: Tensor) -> list[Tensor]:
            self._saved.append([tensor.detach()])
            return self._saved[-1]

        with saved_tensors_hooks(pack, lambda cell: cell[0]):
            yield

    def layout(self, size: Sequence[int]) -> Layout:
        """Find how one value for each token, ``(B, N, 1)``, becomes a map ``(B, 1, *grid)``."""
        if not self.ends:
            raise self._unseen()
        count = self.ends[-1].shape[-1]
        if count in self._places:
            before, grid = self._places[count]
            stride = [side / cells for side, cells in zip(size, grid, strict=True)]
            return Tokens(before, stride, count - before - math.prod(grid))
        seen = [grid for _, grid in self._places.values()]
        found = tokens_of(count, size, seen)
        if found is None or (seen and count - found.prefix not in map(math.prod, seen)):
            grids = [" x ".join(map(str, grid)) for grid in seen]
            raise ValueError(
                f"expected the {count} tokens of {self.name} to be some extra ones and then one "
                f"for each patch of inputs of size {tuple(size)}, row by row, but its convolutions "
                f"give grids {', '.join(grids[-3:]) or 'of none'}; describe the layout with "
                "layout=Tokens(prefix, stride, suffix), of captum_masking.model.layouts."
            )
        return found

    def _unseen(self) -> RuntimeError:
        return RuntimeError(
            f"expected {self.name} to attend, by scaled_dot_product_attention, "
            "nn.MultiheadAttention or a softmax over tokens, but none of these ran in plain "
            "Python; pass the plain module (compiled, traced, scripted and exported ones hide what "
            "they call), of Hugging Face with attn_implementation='sdpa'; or, if it has no "
            "attention, use MaskingSaliency."
        )

    def _refused(self, got: str) -> RuntimeError:
        return RuntimeError(
            f"expected every layer of {self.name} to attend from all tokens to all tokens of each "
            f"of {self.batch} examples, but got {got}; attention within windows, to pooled tokens "
            "or of several views cannot be followed to the pixels; use MaskingSaliency instead."
        )
