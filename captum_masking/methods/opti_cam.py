"""Opti-CAM: optimize weights of feature maps so that the masked image keeps the class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from captum_masking._base.captum import TensorOrTupleOfTensorsGeneric, log_usage
from captum_masking._base.checks import check_count
from captum_masking.methods.base import Asked, OfLayer, Score, Target, logit, normalized, weighted
from captum_masking.model.taps import cuts_in_words
from captum_masking.parts.infill import Infill, Mean


class OptiCAM(OfLayer):
    r"""Find the weighted sum of feature maps that, as a mask, gives the class the highest score.

    .. math::
        S(u) = \sum_k \mathrm{softmax}(u)_k A_k, \qquad
        u^* = \arg\max_u f_c(x \odot n(S(u)))

    :math:`A_k` are the maps of a layer, :math:`n` enlarges a map linearly and scales it to [0, 1].
    All weights start equal. Each example is optimized independently until its score changes by less
    than ``tolerance``, and keeps its best weights. Several inputs are masked at once by the same
    map.

    Args:
        forward_func: A module, or a method of one.
        layer: See :mod:`captum_masking.methods`; None is the map that the classifier pools or,
            where no module does so, the deepest one.
        steps: Maximal number of Adam steps, each a forward and a backward pass.
        lr: Learning rate of Adam.
        tolerance: Change of the score that ends the search.
        infill, score: See :mod:`captum_masking.methods`.

    Source:
        Zhang, Torres, Sicre, Ayache & Avrithis 2024 (arXiv 2301.07002), with the Mask objective,
        the range normalization and their constants. They mask pixels before normalization, so that
        holes are black: ``infill=Black(mean, std)``; here the default is the mean color. They
        return the last weights, stop a batch as a whole, and their demo rectifies the maps.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> attribution = OptiCAM(network, "0", steps=5).attribute(torch.rand(2, 3, 8, 8), target=1)
        >>> attribution.shape, attribution.amin(), attribution.amax()
        (torch.Size([2, 3, 8, 8]), tensor(0.), tensor(1.))
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: str | nn.Module | None = None,
        *,
        steps: int = 100,
        lr: float = 0.1,
        tolerance: float = 1e-10,
        infill: Infill = Mean(),
        score: Score = logit,
    ) -> None:
        super().__init__(forward_func, layer, infill)
        check_count("steps", steps)
        if not lr > 0:
            raise ValueError(f"lr must be greater than 0, but got {lr}.")
        self.steps, self.lr, self.tolerance, self.score = steps, lr, tolerance, score

    @log_usage(part_of_slo=True)
    def attribute(
        self,
        inputs: TensorOrTupleOfTensorsGeneric,
        target: Target = None,
        additional_forward_args: Any = None,
        *,
        show_progress: bool = False,
    ) -> TensorOrTupleOfTensorsGeneric:
        """Attribute the score to places; arguments are those of :mod:`captum_masking.methods`.

        Returns:
            The mask n(S(u*)) in [0, 1], repeated over channels to the shape of ``inputs``.
        """

        def find(asked: Asked) -> list[Tensor]:
            maps = self._maps(asked)  # (B, N, *cells)
            weights = torch.zeros(maps.shape[:2]).to(maps).requires_grad_()  # u
            optimizer = torch.optim.Adam([weights], lr=self.lr)  # element by element
            kept = weights.detach().clone()
            best, last = maps.new_full((2, len(maps)), -torch.inf)
            done = last.isnan()
            for _ in tqdm(range(self.steps), "Opti-CAM", disable=not show_progress):
                with cuts_in_words(asked.function):
                    scores = asked(*self._masked(asked, weighted(maps, weights.softmax(1))))
                    (slope,) = torch.autograd.grad(-scores.sum(), weights)
                scores = scores.detach().to(maps)
                better = (scores > best) & ~done
                kept = weights.detach().where(better[:, None], kept)
                best = scores.where(better, best)
                done |= (scores - last).abs() < self.tolerance
                if done.all():
                    break
                last, weights.grad = scores, slope
                optimizer.step()
            found = weighted(maps, kept.softmax(1))
            return [normalized(found, x.shape[2:]) for x in asked.inputs]

        return self._explained(inputs, target, additional_forward_args, find, self.score)
