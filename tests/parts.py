"""Every part that can be swapped, one line each; test_contract.py holds each to its promises."""

from __future__ import annotations

import torch

from captum_masking.parts import infill, masker, objective, pool, regularizer, sampler
from captum_masking.parts.objective import Judgement

# Those with a value for each channel are in test_infill.py: here any number of channels goes.
INFILLS = [
    *infill.VARIANTS.values(),
    infill.Color(0.5),
    infill.Black(mean=0.45, std=0.225),
    infill.Blur(sigma_px=0.7),
    infill.UniformColor(low=0.0, high=0.5),
    infill.Noise(std=0.1),
    infill.DabkowskiGal(blur=0.0, sigma_px=1.0, taps=3, std=0.0, color=1.0),
    infill.Inpainter(infill.Mean()),
]
SAMPLERS = [
    sampler.Sigmoid(),
    sampler.GumbelSigmoid(),
    sampler.GumbelSigmoid(temperature=0.5, hard=False),
    sampler.GumbelSigmoid(hard=False, binary=False),
    sampler.GumbelSigmoid(learnable=True),
    sampler.GumbelSigmoid(temperature=2.0, hard=False, learnable=True, binary=False),
]
RECOGNIZE, MISTAKE = objective.Classification(), objective.Classification(maximize=False)
SURE, UNSURE = objective.Entropy(maximize=False), objective.Entropy()
OBJECTIVES = [
    objective.Dual(),
    objective.Dual(weight_in=0.5, weight_out=2.0),
    # One side: in, out.
    *(objective.Dual(inside=inside, outside=None) for inside in (RECOGNIZE, SURE)),
    *(objective.Dual(inside=None, outside=outside) for outside in (MISTAKE, UNSURE)),
    objective.Dual(weight_in=0.0),
    # Both: the other three pairs.
    objective.Dual(inside=RECOGNIZE, outside=MISTAKE),
    objective.Dual(inside=SURE, outside=UNSURE),
    objective.Dual(inside=SURE, outside=MISTAKE),
    # Other criteria.
    objective.Dual(outside=objective.Entropy(gated=False)),
    objective.Dual(outside=objective.KLToPrior()),
    objective.Dual(outside=objective.KLToPrior(reverse=True, gated=True)),
    objective.Dual(inside=None, outside=objective.KLToPrior([0.5, 0.5, 0.0])),
    objective.Dual(inside=None, outside=objective.KLToPrior([0.5, 0.3, 0.2], reverse=True)),
    objective.Dual(
        0.3, inside=objective.Hinge(), outside=objective.Hinge(maximize=False, margin=5.0)
    ),
    objective.default_objective(),
    objective.default_objective(objective.AnyOf()),
    objective.KeepRecognizing(),
    objective.KeepRecognizing(weight_in=0.5, weight_out=0.0),
]
REGULARIZERS = [
    regularizer.Area(),
    regularizer.Area(weight_in=0.0, weight_out=3.0),
    regularizer.TotalVariation(),
    regularizer.TotalVariation(weight=1.0, border=0.0),
    regularizer.TotalVariation(scale_free=False),
    regularizer.UngatedArea(),
    regularizer.PowerArea(),
    regularizer.PowerArea(weight=1.0, power=2.0, offset=0.1),
    regularizer.SizeTarget(0.3),
    regularizer.SizeTarget(0.5, weight=1.0),
    regularizer.SizeRange(0.05, 0.3),
    regularizer.SizeRange(0.0, 0.5, weight=2.0),
    regularizer.SizeAsked(),
    regularizer.SizeAsked(weight_in=0.0, weight_out=3.0, squared=True),
    regularizer.AskedArea(),
    regularizer.AskedArea(2.0, 0.0, 3.0, belief=objective.AnyOf()),
    regularizer.asked(),
    regularizer.GuidedByInput(regularizer.UngatedArea()),
    regularizer.GuidedByInput(regularizer.Area(), weight=1.0, threshold=0.5, similarity=0.0),
    regularizer.Sum(regularizer.Area(), regularizer.Area(weight_in=2.0)),
    regularizer.Sum(regularizer.Area(), regularizer.TotalVariation()),
    regularizer.smooth(),
]
POOLS = [
    pool.Latest(),
    pool.History(),
    pool.History(size=2, every=1, past=1.0, seed=7),
    pool.History(size=3, every=2, past=0.7),
    pool.History(every=None),
    pool.History(every=None, past=1.0, seed=7),
]
UPSAMPLERS = [
    masker.linear,
    masker.nearest,
]
# Built in a fixed state for feature maps of 5 and 3 channels.
MASKERS = [
    masker.Masker([5, 3], width=4),
    masker.Masker([5, 3]),
    masker.Masker([5, 3], width=4, raw=[1]),
    masker.UNetMasker([5, 3], width=4),
]


def judgement(
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
    spatial: tuple[int, ...] = (5, 7),
) -> Judgement:
    """Four images, three classes; by row: both sides succeed, only in, only out, neither.

    Images 0, 1 and 2 are recognized clean, image 3 is not; each was asked for a size. The last
    row of their pixels is the brightest.
    """
    rows = {
        "logits": [[2.0, 0.0, 1.0], [0.0, 3.0, -1.0], [0.5, 0.0, 1.0], [1.0, 0.0, 0.5]],
        "logits_in": [[1.0, 0.5, 0.0], [0.0, 1.0, 0.5], [2.0, 0.0, 1.0], [1.5, 0.0, 1.0]],
        "logits_out": [[0.0, 1.0, 0.5], [0.0, 2.0, 1.0], [1.0, 0.0, 0.5], [0.5, 0.0, 2.0]],
    }
    logits = (torch.tensor(row, dtype=dtype, device=device) for row in rows.values())
    area = torch.tensor([0.25, 0.5, 0.75, 0.4], dtype=dtype, device=device)
    rows = torch.linspace(0, 1, spatial[0], dtype=dtype, device=device)
    inputs = rows.reshape(-1, *[1] * (len(spatial) - 1)).expand(4, 1, *spatial)
    target = torch.tensor([0, 1, 2, 2], device=device)
    return Judgement(*logits, target=target, area=area, inputs=inputs)
