"""The set-ups of the paper and of its predecessors, with their published constants.

What all of them share is here as it was published: the mask on a grid of stride 4, upsampled by
repeating values; the area weights; the variation weight of 0.001 on each of two sides. What this
package does otherwise whatever the recipe (a judge in eval mode, both gradients before either
step, cosine schedules) is listed in ``docs/paper-to-code.rst``; only `ca_as_published` undoes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from captum_masking.dry_run import dry_run_inputs
from captum_masking.encoder import find_layers
from captum_masking.infill import DabkowskiGal
from captum_masking.masker import nearest
from captum_masking.model import MaskingModel
from captum_masking.objective import Dual, Hinge, KeepRecognizing
from captum_masking.pool import DrawnUnused, FirstAndLast, History, Latest, Pool
from captum_masking.regularizer import Area, PowerArea, Regularizer, Sum, TotalVariation
from captum_masking.schedule import FineTune
from captum_masking.trainer import MaskingTrainer

_SGD = partial(torch.optim.SGD, momentum=0.9, weight_decay=1e-4)


def published_model(
    classifier: nn.Module, layers: Sequence[str] | None = None, **options: Any
) -> MaskingModel:
    """Make a model whose mask has the published resolution: stride 4, values repeated.

    Args:
        classifier: The classifier.
        layers: What the masker reads; None finds the two deepest maps.
        **options: Passed on to :class:`~captum_masking.model.MaskingModel`.

    Source:
        Phang et al. 2020.

    Example:
        >>> classifier = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.LazyLinear(2))
        >>> published_model(classifier, ["0"], example_inputs=torch.zeros(1, 1, 8, 8)).stride
        4
    """
    published: dict[str, Any] = {"stride": 4, "upsample": nearest, "upsample_first": False}
    return MaskingModel(classifier, layers, **(published | options))


def published_fine_tune(**options: Any) -> FineTune:
    """Say how the published code trains a classifier along: all the time, in train mode.

    Source:
        Phang et al. 2020: SGD with rate 1e-3, momentum 0.9 and decay 1e-4; nothing that keeps the
        classifier near its start.

    Example:
        >>> published_fine_tune().masker_first
        0.0
    """
    published: dict[str, Any] = {
        "optimizer": _SGD,
        "train_mode": True,
        "objective": KeepRecognizing(gated=False),
        "stay": 0.0,
        "masker_first": 0.0,
    }
    return FineTune(**(published | options))


def fix(classifier: nn.Module, *, layers: Sequence[str] | None = None) -> MaskingTrainer:
    """FIX: the classifier frozen; classification in, entropy out; area 1 and 10.

    Source:
        Phang et al. 2020, final hyper-parameters of FIX.

    Example:
        >>> from torchvision.models import resnet18
        >>> fix(resnet18()).regularizer
        Area(weight_in=1.0, weight_out=10.0) + TotalVariation(weight=0.002, border=0.3, ...)
    """
    model = published_model(classifier, layers)
    return MaskingTrainer(model, train_classifier=False, regularizer=_area_and_variation(10.0))


def ca(classifier: nn.Module, *, layers: Sequence[str] | None = None) -> MaskingTrainer:
    """CA as described: the classifier is trained along, members of the pool judge; area 1 and 15.

    Source:
        Phang et al. 2020, final hyper-parameters of CA.

    Example:
        >>> from torchvision.models import resnet18
        >>> ca(resnet18()).pool
        History(size=30, every=100, past=0.5, seed=0)
    """
    return _ca(classifier, layers, published_fine_tune(), History())


def ca_as_published(
    classifier: nn.Module, *, layers: Sequence[str] | None = None
) -> MaskingTrainer:
    """CA as the released code computes it: the pool is drawn from and then not used.

    The live classifier judges, in train mode, so that masked images move its batch-norm
    statistics; where a past one was drawn, the classifier takes no step on masked images. The
    published code steps between a forward and a backward pass of one graph, which PyTorch has
    refused since 1.5; here both gradients are taken first.

    Source:
        Phang et al. 2020, released code.

    Example:
        >>> from torchvision.models import resnet18
        >>> ca_as_published(resnet18()).joint.judge_in_train_mode
        True
    """
    return _ca(classifier, layers, published_fine_tune(judge_in_train_mode=True), DrawnUnused())


def zolna(
    classifier: nn.Module,
    *,
    pool: Pool,
    area: float,
    train_classifier: bool = True,
    layers: Sequence[str] | None = None,
) -> MaskingTrainer:
    """The predecessor: masked-out entropy and area alone, all five resolutions, a set of judges.

    Args:
        classifier: The classifier.
        pool: The set, as the predecessor thins it: see `zolna_l100` and the others.
        area: Weight of the area, tuned for each pool.
        train_classifier: Whether the classifier is trained along.
        layers: What the masker reads; None finds five resolutions.

    Source:
        Zolna et al. 2020; weights for the entropy objective.

    Example:
        >>> from torchvision.models import resnet18
        >>> zolna(resnet18(), pool=Latest(), area=14.0).model.layers
        ('relu', 'layer1', 'layer2', 'layer3', 'layer4')
    """
    if layers is None:
        layers = find_layers(classifier, dry_run_inputs(classifier), count=5)
    return MaskingTrainer(
        published_model(classifier, layers),
        train_classifier=published_fine_tune() if train_classifier else False,
        objective=Dual(inside=None),
        regularizer=Area(0.0, area),
        pool=pool,
    )


def zolna_f(classifier: nn.Module, *, layers: Sequence[str] | None = None) -> MaskingTrainer:
    """F: a fixed classifier.

    Source:
        Zolna et al. 2020.
    """
    return zolna(classifier, pool=Latest(), area=2.5, train_classifier=False, layers=layers)


def zolna_l(classifier: nn.Module, *, layers: Sequence[str] | None = None) -> MaskingTrainer:
    """L: the last classifier judges.

    Source:
        Zolna et al. 2020.
    """
    return zolna(classifier, pool=Latest(), area=14.0, layers=layers)


def zolna_fl(classifier: nn.Module, *, layers: Sequence[str] | None = None) -> MaskingTrainer:
    """FL: the first classifier or the last judges.

    Source:
        Zolna et al. 2020.
    """
    return zolna(classifier, pool=FirstAndLast(), area=7.5, layers=layers)


def zolna_l100(classifier: nn.Module, *, layers: Sequence[str] | None = None) -> MaskingTrainer:
    """L100: the last classifier or one of up to 30 past ones, kept every 100 steps.

    Source:
        Zolna et al. 2020.
    """
    return zolna(classifier, pool=History(every=100), area=10.0, layers=layers)


def zolna_l1000(classifier: nn.Module, *, layers: Sequence[str] | None = None) -> MaskingTrainer:
    """L1000: as `zolna_l100`, kept every 1000 steps.

    Source:
        Zolna et al. 2020.
    """
    return zolna(classifier, pool=History(every=1000), area=10.0, layers=layers)


def dabkowski_gal(classifier: nn.Module, *, layers: Sequence[str] | None = None) -> MaskingTrainer:
    """The objective of Dabkowski & Gal: hinge losses on logits, area to the power 0.3.

    Their class selector, its training on false labels and their decoder are not part of it.

    Source:
        Dabkowski & Gal 2017: destroyer 1, preserver 0.3, area 8, variation 0.005 (their script).

    Example:
        >>> from torchvision.models import resnet18
        >>> dabkowski_gal(resnet18()).objective.weight_in
        0.3
    """
    return MaskingTrainer(
        published_model(classifier, layers),
        train_classifier=False,
        objective=Dual(0.3, 1.0, inside=Hinge(), outside=Hinge(maximize=False, margin=5.0)),
        regularizer=Sum(PowerArea(), TotalVariation(weight=0.005)),
        infill=DabkowskiGal(),
    )


def _ca(
    classifier: nn.Module, layers: Sequence[str] | None, how: FineTune, pool: Pool
) -> MaskingTrainer:
    return MaskingTrainer(
        published_model(classifier, layers),
        train_classifier=how,
        regularizer=_area_and_variation(15.0),
        pool=pool,
    )


def _area_and_variation(weight_out: float) -> Regularizer:
    return Sum(Area(1.0, weight_out), TotalVariation())
