"""Score-CAM: weigh each feature map by the score of the image that it masks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from captum_masking._base.captum import TensorOrTupleOfTensorsGeneric, log_usage
from captum_masking._base.checks import check_count
from captum_masking.methods.base import Asked, OfLayer, Score, Target, logit, normalized, weighted
from captum_masking.parts.infill import Infill, Mean


class ScoreCAM(OfLayer):
    r"""Weigh each feature map by the class's score of the image that it masks.

    .. math::
        S = \mathrm{relu}(\sum_k w_k A_k), \qquad
        w = \mathrm{softmax}_k\, f_c(x \odot n(A_k))

    :math:`A_k` are the maps of a layer, :math:`n` enlarges a map linearly and scales it to [0, 1];
    a constant map hides everything. The score of a baseline, which the paper subtracts, cancels in
    the softmax. Several inputs are masked at once by the same map.

    Args:
        forward_func: A module, or a method of one.
        layer: See :mod:`captum_masking.methods`; None is the map that the classifier pools or,
            where no module does so, the deepest one.
        weigh: Turns scores ``(B, N)`` into weights ``(B, N)``; the default is the softmax over N.
        infill, score: See :mod:`captum_masking.methods`.

    Source:
        Wang et al. 2020 (arXiv 1910.01279), second version. Conventions differ: the authors' code
        has the probability for a score and no softmax, which is ``score=probability`` of
        ``methods.base`` with ``weigh=lambda scores: scores``; pytorch-grad-cam's is the one here
        but for masks that are enlarged with their corners aligned.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> attribution = ScoreCAM(network, "0").attribute(torch.rand(2, 3, 8, 8), target=1)
        >>> attribution.shape, attribution.amin(), attribution.amax()
        (torch.Size([2, 3, 8, 8]), tensor(0.), tensor(1.))
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: str | nn.Module | None = None,
        *,
        weigh: Callable[[Tensor], Tensor] = partial(torch.softmax, dim=1),
        infill: Infill = Mean(),
        score: Score = logit,
    ) -> None:
        super().__init__(forward_func, layer, infill)
        self.weigh, self.score = weigh, score

    @log_usage(part_of_slo=True)
    def attribute(
        self,
        inputs: TensorOrTupleOfTensorsGeneric,
        target: Target = None,
        additional_forward_args: Any = None,
        *,
        perturbations_per_eval: int = 16,
        show_progress: bool = False,
    ) -> TensorOrTupleOfTensorsGeneric:
        """Attribute the score to places; arguments are those of :mod:`captum_masking.methods`.

        Returns:
            The map n(S) in [0, 1], repeated over channels to the shape of ``inputs``.
        """
        check_count("perturbations_per_eval", perturbations_per_eval)

        @torch.no_grad()
        def find(asked: Asked) -> list[Tensor]:
            maps = self._maps(asked)  # (B, N, *cells)
            parts = maps.split(perturbations_per_eval, 1)
            scores = []
            for part in tqdm(parts, "Score-CAM", disable=not show_progress):
                copies = part.transpose(0, 1).flatten(0, 1)[:, None]  # all first maps, all second
                scores.append(asked(*self._masked(asked, copies)).reshape(-1, len(maps)))
            weights = self.weigh(torch.cat(scores).T.to(maps))
            found = weighted(maps, weights).relu()
            return [normalized(found, x.shape[2:]) for x in asked.inputs]

        return self._explained(inputs, target, additional_forward_args, find, self.score)
