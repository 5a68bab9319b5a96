"""Every part that can be swapped, one line each; test_contract.py holds each to its promises."""

from __future__ import annotations

import torch

from captum_masking import infill, masker, objective, pool, regularizer, sampler
from captum_masking.objective import Judgement

INFILLS = [
    infill.Mean(),
]
SAMPLERS = [
    sampler.Sigmoid(),
]
OBJECTIVES = [
    objective.Dual(),
    objective.Dual(weight_in=0.5, weight_out=2.0),
    objective.KeepRecognizing(),
    objective.KeepRecognizing(weight_in=0.5, weight_out=0.0),
]
REGULARIZERS = [
    regularizer.Area(),
    regularizer.Area(weight_in=0.0, weight_out=3.0),
    regularizer.TotalVariation(),
    regularizer.TotalVariation(weight=1.0, border=0.0),
    regularizer.Sum(regularizer.Area(), regularizer.Area(weight_in=2.0)),
    regularizer.published(),
    regularizer.smooth(),
]
POOLS = [
    pool.Latest(),
    pool.Fixed(),
    pool.History(),
    pool.History(size=2, every=1, past=1.0, seed=7),
]
UPSAMPLERS = [
    masker.linear,
    masker.nearest,
]
# Built in a fixed state for feature maps of 5 and 3 channels.
MASKERS = [
    masker.Masker([5, 3], width=4),
    masker.Masker([5, 3]),
]


def judgement(dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> Judgement:
    """Four images, three classes; by row: both sides succeed, only in, only out, neither.

    Images 0, 1 and 2 are recognised clean, image 3 is not.
    """
    rows = {
        "logits": [[2.0, 0.0, 1.0], [0.0, 3.0, -1.0], [0.5, 0.0, 1.0], [1.0, 0.0, 0.5]],
        "logits_in": [[1.0, 0.5, 0.0], [0.0, 1.0, 0.5], [2.0, 0.0, 1.0], [1.5, 0.0, 1.0]],
        "logits_out": [[0.0, 1.0, 0.5], [0.0, 2.0, 1.0], [1.0, 0.0, 0.5], [0.5, 0.0, 2.0]],
    }
    logits = (torch.tensor(row, dtype=dtype, device=device) for row in rows.values())
    return Judgement(*logits, target=torch.tensor([0, 1, 2, 2], device=device))
