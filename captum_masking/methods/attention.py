"""Maps of a transformer's attention: rolled out over layers, or weighted by gradients."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from captum_masking._base.captum import TensorOrTupleOfTensorsGeneric, log_usage
from captum_masking._base.checks import check_number_of_inputs
from captum_masking.methods.base import Asked, Relative, Target, logit
from captum_masking.model.attention import Attention
from captum_masking.model.layouts import Layout
from captum_masking.model.model import eager
from captum_masking.parts.masker import linear

#: Called as ``fuse(weights, 1)`` with ``(B, heads, queries, keys)``; returns them without heads.
Fuse = Callable[[Tensor, int], Tensor]


class AttentionRollout(Relative):
    r"""Attention rollout: the share of each patch in a transformer's answer, through all layers.

    .. math:: R = \tilde A_L \cdots \tilde A_1, \quad
        \tilde A_l = \tfrac{1}{2} (\text{mean}_{heads} A_l + I)

    The map is the row of :math:`R` of the token that gives the answer, over patches; with the
    shares of class tokens and registers it sums to one. It does not depend on the target, and warns
    once if the target is not the predicted class.

    Args:
        forward_func: A vision transformer whose layers attend among all tokens, by
            ``scaled_dot_product_attention``, ``nn.MultiheadAttention`` or a softmax: those of
            torchvision, timm and Hugging Face, with a class token, several, detection tokens, or
            pooled patches.
        fuse: Reduces heads: ``torch.mean``, ``torch.amax`` or ``torch.amin``.
        discard: Share of each layer's smallest weights to drop, in ``[0, 1)``; those of class
            tokens and registers stay.
        layout: Turns one value per token, ``(B, N, 1)``, into a map; None finds the patches among
            the tokens, see :class:`captum_masking.model.layouts.Tokens`.

    Source:
        Abnar & Zuidema 2020 (arXiv 2005.00928) for text; as used for radiographs by Wollek et al.
        2023 (arXiv 2303.01871). Rows are normalized after ``fuse`` and ``discard``, which are not
        theirs. Answers that pool tokens, by a mean or by attention, are ours to read.

    Example:
        >>> from torchvision.models import VisionTransformer
        >>> network = VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=10)
        >>> AttentionRollout(network).attribute(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        *,
        fuse: Fuse = torch.mean,
        discard: float = 0.0,
        layout: Layout | None = None,
    ) -> None:
        super().__init__(forward_func)
        if not 0 <= discard < 1:
            raise ValueError(
                f"discard must be a share from 0 up to but not including 1, but got {discard}."
            )
        self.fuse, self.discard, self.layout = fuse, discard, layout
        self._warned = False

    @log_usage(part_of_slo=True)
    def attribute(
        self,
        inputs: TensorOrTupleOfTensorsGeneric,
        target: Target = None,
        additional_forward_args: Any = None,
    ) -> TensorOrTupleOfTensorsGeneric:
        """Roll attention out; arguments are those of :mod:`captum_masking.methods`.

        Returns:
            The share of each patch, enlarged linearly, shaped like ``inputs``.
        """
        unheard = []

        def score(logits: Tensor, classes: Tensor) -> Tensor:
            unheard.append(bool((classes != logits.argmax(1)).any()))
            return logit(logits, classes)

        def find(asked: _Attended) -> list[Tensor]:
            row = asked.start(asked.slopes(asked.attention.ends)[-1])
            for weights in reversed(asked.layers):
                row = row @ self._rolled(weights.to(row), asked.patches)
            return asked.maps(row)

        ask = partial(_Attended, fuse=self.fuse, layout=self.layout)
        found = self._explained(inputs, target, additional_forward_args, find, score, ask)
        if target is not None and any(unheard) and not self._warned:
            self._warned = True
            warnings.warn(
                "the target is not the predicted class, but attention rollout does not depend on "
                "it: the map is the same for every class. TransformerRelevance(model) has maps "
                "that do.",
                stacklevel=3,
            )
        return found

    def _rolled(self, weights: Tensor, patches: slice) -> Tensor:
        """Return a layer's ``(B, queries, keys)`` with its skip connection, rows adding to one."""
        if self.discard:
            weights, shape = weights.clone(), weights[..., patches].shape
            among = weights[..., patches].flatten(1)
            lowest = among.topk(int(self.discard * among.shape[1]), largest=False).indices
            weights[..., patches] = among.scatter(1, lowest, 0.0).view(shape)
        if weights.shape[-2] == weights.shape[-1]:  # not where patches are pooled
            weights = weights + torch.eye(weights.shape[-1]).to(weights)
        return weights / weights.sum(-1, keepdim=True)


class TransformerRelevance(Relative):
    r"""Transformer relevance: attention weighted by the gradient of a class, through all layers.

    .. math:: R = (I + \bar A_L) \cdots (I + \bar A_1), \quad
        \bar A_l = \text{mean}_{heads} \left(\nabla A_l \odot A_l\right)^+

    The map is the row of :math:`R - I` of the token that the answer is read from, over patches;
    the gradients are those of the target's score.

    Args:
        forward_func, layout: As for :class:`AttentionRollout`.

    Source:
        Chefer, Gur & Wolf 2021 (arXiv 2103.15679), "transformer multi-modal explainability", its
        case of self-attention; the map is not scaled to [0, 1]. :math:`R - I` is their
        :math:`R` wherever a class token is read; where the answer pools tokens, which the paper
        does not treat, it leaves out what each of these gives itself.

    Example:
        >>> from torchvision.models import VisionTransformer
        >>> network = VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=10)
        >>> TransformerRelevance(network).attribute(torch.rand(2, 3, 32, 32), target=3).shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(self, forward_func: Callable[..., Any], *, layout: Layout | None = None) -> None:
        super().__init__(forward_func)
        self.layout = layout

    @log_usage(part_of_slo=True)
    def attribute(
        self,
        inputs: TensorOrTupleOfTensorsGeneric,
        target: Target = None,
        additional_forward_args: Any = None,
    ) -> TensorOrTupleOfTensorsGeneric:
        """Attribute the score to patches; arguments are those of :mod:`captum_masking.methods`.

        Returns:
            The relevance of each patch, at least 0, enlarged linearly, shaped like ``inputs``.
        """

        def find(asked: _Attended) -> list[Tensor]:
            slopes = asked.slopes(asked.layers)
            row = own = asked.start(slopes[-1])
            for weights, slope in zip(reversed(asked.layers), reversed(slopes), strict=True):
                gain = row @ (weights.detach() * slope).clamp(min=0).mean(1).to(row)
                skips = slope.shape[-2] == slope.shape[-1]  # not where patches are pooled
                row, own = (row + gain, own) if skips else (gain, torch.zeros_like(gain))
            return asked.maps(row - own)

        ask = partial(_Attended, layout=self.layout)
        return self._explained(inputs, target, additional_forward_args, find, ask=ask)


class _Attended(Asked):
    """A transformer whose attention is recorded during the clean pass.

    Attributes:
        layers: The weights of each layer ``(B, heads, queries, keys)``, as parts of the graph; or
            ``(B, queries, keys)``, fused and without.
        patches: Where the patches are among the tokens.
    """

    def __init__(
        self, function: Any, *asked: Any, layout: Layout | None, fuse: Fuse | None = None
    ) -> None:
        self.fuse, self._layout = fuse, layout
        super().__init__(eager(function), *asked)

    def _begin(self) -> None:
        check_number_of_inputs(self.inputs, 1)
        layers, fuse = [], self.fuse

        def keep(weights: Tensor) -> None:
            layers.append(weights if fuse is None else fuse(weights.detach(), 1))

        self.layers: list[Tensor] = layers
        self.attention = Attention(self.function, len(self.inputs[0]), keep)
        super()._begin()
        self.layout = self._layout or self.attention.layout(self.inputs[0].shape[2:])
        before, after = (getattr(self.layout, name, 0) for name in ("prefix", "suffix"))
        self.patches = slice(before, self.attention.ends[-1].shape[-1] - after)

    def answer(self, *inputs: Tensor) -> Any:
        """Return the classifier's output; record attention the first time."""
        if self.attention.ends:
            return super().answer(*inputs)
        with self.attention, nullcontext() if self.fuse is None else self.attention.only_the_end():
            return super().answer(*inputs)

    def _score_of(self, output: Any, inputs: Tensor) -> Tensor:
        with torch.enable_grad():
            return super()._score_of(output, inputs)

    def slopes(self, layers: list[Tensor]) -> list[Any]:
        """Differentiate the score by layers' weights; drop last layers that it does not read."""
        found: list[Any] = [None]
        if self.clean.requires_grad:
            found = [*torch.autograd.grad(self.clean.sum(), layers, allow_unused=True)]
        while len(found) > 1 and found[-1] is None:
            found.pop()
            self.layers.pop()
        if any(slope is None for slope in found):
            raise RuntimeError(
                f"expected the output of {self.attention.name} to depend on the attention of every "
                "layer, but gradients are cut (no_grad, detach, checkpointing) or the output skips "
                "layers; remove that, or pass a function whose output uses all layers."
            )
        return found

    def start(self, slope: Tensor) -> Tensor:
        """Return the share of each query in the answer, ``(B, 1, queries)``.

        The gradient shows which tokens are read; all patches together count as one token. Without a
        gradient, the first token or all patches are assumed.
        """
        wide = torch.promote_types(slope.dtype, torch.float32)
        read = slope.ne(0).any(3).any(1)  # (B, queries)
        usual = torch.arange(read.shape[1]).to(slope) < (1 if self.patches.start else read.shape[1])
        shares = torch.where(read.any(1, keepdim=True), read, usual).to(wide)
        shares[:, self.patches] /= shares[:, self.patches].sum(1, keepdim=True).clamp(min=1)
        return (shares / shares.sum(1, keepdim=True))[:, None]

    def maps(self, row: Tensor) -> list[Tensor]:
        """Turn values of tokens ``(B, 1, N)`` into a map of the inputs."""
        size = self.inputs[0].shape[2:]
        return [linear(self.layout(row.mT, size), size)]
