"""One change at a time: each recipe is this package's default set-up with one part swapped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatch
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from captum_masking import recipes as published
from captum_masking import recipes as variants
from captum_masking.model.layers import dry_run_inputs, find_layers
from captum_masking.model.model import MaskingModel
from captum_masking.parts import infill
from captum_masking.parts.infill import DabkowskiGal, Infill
from captum_masking.parts.inpainting import train_inpainter
from captum_masking.parts.masker import Masker, UNetMasker, nearest
from captum_masking.parts.objective import (
    Classification,
    Criterion,
    Dual,
    Entropy,
    Hinge,
    KeepRecognizing,
    KLToPrior,
    class_prior,
)
from captum_masking.parts.pool import DrawnUnused, FirstAndLast, History, Latest, Pool
from captum_masking.parts.questions import Questions
from captum_masking.parts.regularizer import (
    Area,
    PowerArea,
    Regularizer,
    SizeAsked,
    SizeRange,
    SizeTarget,
    Sum,
    TotalVariation,
    UngatedArea,
    smooth,
)
from captum_masking.parts.sampler import GumbelSigmoid
from captum_masking.training.classifier import FineTune
from captum_masking.training.trainer import MaskingTrainer

__all__ = [
    "ROWS",
    "Row",
    "Setting",
    "ca",
    "ca_as_published",
    "dabkowski_gal",
    "deepest",
    "fix",
    "frozen",
    "gumbel",
    "joint",
    "joint_throughout",
    "learned_infill",
    "masked_in_only",
    "masked_out_only",
    "only",
    "published_fine_tune",
    "published_model",
    "select",
    "told_class",
    "told_size",
    "unet",
    "with_infill",
    "with_regularizer",
    "zolna",
    "zolna_f",
    "zolna_fl",
    "zolna_l",
    "zolna_l100",
    "zolna_l1000",
]


Layers = Sequence[str] | None


def frozen(classifier: nn.Module, *, layers: Layers = None, **parts: Any) -> MaskingTrainer:
    """The default, with the classifier left as it is: what every other recipe is compared with.

    Args:
        classifier: The classifier.
        layers: What the masker reads; None finds the two deepest maps.
        **parts: Passed on to :class:`~captum_masking.MaskingTrainer`.

    Source:
        Phang et al. 2020, FIX, with the defaults of this package.

    Example:
        >>> from torchvision.models import resnet18
        >>> frozen(resnet18()).settings()["train_classifier"]
        'False'
    """
    return MaskingTrainer(MaskingModel(classifier, layers), train_classifier=False, **parts)


def joint(classifier: nn.Module, *, layers: Layers = None, **parts: Any) -> MaskingTrainer:
    """The default: the classifier trained along, gently, in the last quarter of the steps.

    Source:
        Phang et al. 2020, CA, with the defaults of this package.
    """
    return MaskingTrainer(MaskingModel(classifier, layers), **parts)


def joint_throughout(
    classifier: nn.Module, *, layers: Layers = None, pool: Pool | None = None
) -> MaskingTrainer:
    """As `joint`, with the classifier trained from the first step on.

    Source:
        Phang et al. 2020, CA, with the defaults of this package.
    """
    return joint(classifier, layers=layers, train_classifier=FineTune(masker_first=0.0), pool=pool)


def masked_in_only(
    classifier: nn.Module,
    criterion: Criterion,
    *,
    area: float = 1.0,
    layers: Layers = None,
) -> MaskingTrainer:
    """The masked-in side alone: keep what is enough.

    Args:
        classifier: The classifier.
        criterion: Of the masked-in logits.
        area: Weight of the area where the masked-in image is recognised.
        layers: What the masker reads; None finds the two deepest maps.

    Source:
        Phang et al. 2020.
    """
    objective, regularizer = Dual(inside=criterion, outside=None), smooth(Area(area, 0.0))
    return frozen(classifier, layers=layers, objective=objective, regularizer=regularizer)


def masked_out_only(
    classifier: nn.Module,
    criterion: Criterion,
    *,
    area: float = 10.0,
    layers: Layers = None,
) -> MaskingTrainer:
    """The masked-out side alone: remove what is needed; arguments as `masked_in_only`.

    Source:
        Phang et al. 2020; Zolna et al. 2020.
    """
    objective, regularizer = Dual(inside=None, outside=criterion), smooth(Area(0.0, area))
    return frozen(classifier, layers=layers, objective=objective, regularizer=regularizer)


def gumbel(classifier: nn.Module, *, layers: Layers = None, **options: Any) -> MaskingTrainer:
    """Binary masks, sampled for each cell of the masker's grid.

    Args:
        classifier: The classifier.
        layers: What the masker reads; None finds the two deepest maps.
        **options: Of :class:`~captum_masking.parts.sampler.GumbelSigmoid`.

    Source:
        Phang et al. 2020: sampled on the grid, then upsampled.
    """
    sampler = GumbelSigmoid(**options)
    model = MaskingModel(classifier, layers, sampler=sampler, upsample_first=False)
    return MaskingTrainer(model, train_classifier=False)


def learned_infill(
    classifier: nn.Module, loader: DataLoader, *, layers: Layers = None, **options: Any
) -> MaskingTrainer:
    """Holes filled by a network that has first learned to fill them on the loader's images.

    Args:
        classifier: The classifier.
        loader: Gives batches of the user's images; its labels are ignored.
        layers: What the masker reads; None finds the two deepest maps.
        **options: Of :func:`~captum_masking.parts.inpainting.train_inpainter`.

    Source:
        Phang et al. 2020 fill with published inpainting networks; here one of the user's own.
    """
    return frozen(classifier, layers=layers, infill=train_inpainter(loader, **options))


def deepest(classifier: nn.Module, *, count: int, layers: Layers = None) -> MaskingTrainer:
    """Read the ``count`` deepest resolutions.

    Args:
        classifier: The classifier.
        count: How many.
        layers: All resolutions there are, finest first; None finds them.

    Source:
        Phang et al. 2020, layer choices.
    """
    return frozen(classifier, layers=_stages(classifier, layers)[-count:])


def only(classifier: nn.Module, *, index: int, layers: Layers = None) -> MaskingTrainer:
    """Read one resolution: -1 is the deepest, -2 the one before; arguments as `deepest`.

    Source:
        Phang et al. 2020, layer choices.
    """
    return frozen(classifier, layers=[_stages(classifier, layers)[index]])


def unet(classifier: nn.Module, *, count: int = 4, layers: Layers = None) -> MaskingTrainer:
    """A deeper decoder that joins ``count`` resolutions one by one; arguments as `deepest`.

    Source:
        Own, for comparison.
    """
    model = MaskingModel(classifier, _stages(classifier, layers)[-count:], masker=UNetMasker)
    return MaskingTrainer(model, train_classifier=False)


def told_size(classifier: nn.Module, *, layers: Layers = None) -> MaskingTrainer:
    """The masker is told how large its mask must be, drawn for each image; scored at one half.

    Source:
        Phang et al. 2020, mask-size conditioning.
    """
    model = MaskingModel(classifier, layers, masker=partial(Masker, sized=True))
    return MaskingTrainer(model, train_classifier=False, regularizer=smooth(SizeAsked()))


def told_class(
    classifier: nn.Module, *, classes: int = 1000, layers: Layers = None
) -> MaskingTrainer:
    """The masker is told the class.

    Args:
        classifier: The classifier.
        classes: How many there are.
        layers: What the masker reads; None finds the two deepest maps.

    Source:
        Phang et al. 2020, class conditioning.
    """
    model = MaskingModel(classifier, layers, masker=partial(Masker, classes=classes))
    return MaskingTrainer(
        model,
        train_classifier=False,
        objective=Dual(),
        regularizer=smooth(),
        questions=Questions(composed=0.0, absent=0.0),  # as published: asked for the label alone
    )


def with_infill(
    classifier: nn.Module,
    infill: Infill,
    *,
    infill_out: Infill | None = None,
    layers: Layers = None,
) -> MaskingTrainer:
    """Another infill, on both sides or each its own.

    Source:
        Phang et al. 2020, infills.
    """
    return frozen(classifier, layers=layers, infill=infill, infill_out=infill_out)


def with_regularizer(
    classifier: nn.Module, term: Regularizer, *, layers: Layers = None
) -> MaskingTrainer:
    """Another term for the size of masks, beside the total variation.

    Source:
        Phang et al. 2020; Fong et al. 2019; Stalder et al. 2022.
    """
    return frozen(classifier, layers=layers, regularizer=smooth(term))


def _stages(classifier: nn.Module, layers: Layers) -> Sequence[str]:
    """Return five resolutions, finest first."""
    return layers or find_layers(classifier, dry_run_inputs(classifier), count=5)


# ---- The set-ups of the paper and of its predecessors, with their published constants.
#
# What all of them share is here as it was published: the mask on a grid of stride 4, upsampled by
# repeating values; the area weights; the variation weight of 0.001 on each of two sides. What this
# package does otherwise whatever the recipe (a judge in eval mode, both gradients before either
# step, cosine schedules) is listed in ``docs/paper-to-code.rst``; only `ca_as_published` undoes it.

_SGD = partial(torch.optim.SGD, momentum=0.9, weight_decay=1e-4)


def published_model(
    classifier: nn.Module, layers: Sequence[str] | None = None, **options: Any
) -> MaskingModel:
    """Make a model whose mask has the published resolution: stride 4, values repeated.

    Args:
        classifier: The classifier.
        layers: What the masker reads; None finds the two deepest maps.
        **options: Passed on to :class:`~captum_masking.MaskingModel`.

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


# ---- The study: every row by name, each one recipe and the data it is given.


@dataclass(frozen=True)
class Setting:
    """What a row builds its trainer from.

    Attributes:
        classifier: A fresh copy, which the trainer may change.
        loader: Batches of the training images, for what has to learn from them first.
        labels: Of the training images.
        classes: Number of logits.
        layers: The modules that maskers read; None finds the two deepest maps.
        stages: One module for each resolution, finest first; None finds five.

    Source:
        Own.
    """

    classifier: nn.Module
    loader: DataLoader
    labels: Sequence[int]
    classes: int
    layers: Sequence[str] | None = None
    stages: Sequence[str] | None = None


@dataclass(frozen=True)
class Row:
    """One row of the study.

    Attributes:
        build: Makes the trainer.
        per_class: Images a class; None takes all.
        class_step: Train on every class (1), on every second one (2), and so on.

    Source:
        Phang et al. 2020.
    """

    build: Callable[[Setting], MaskingTrainer]
    per_class: int | None = None
    class_step: int = 1


def _default(setting: Setting) -> MaskingTrainer:
    return variants.frozen(setting.classifier, layers=setting.layers)


def _joint(setting: Setting) -> MaskingTrainer:
    return variants.joint(setting.classifier, layers=setting.layers)


def _simple(recipe: Callable[..., MaskingTrainer], **options: Any) -> Row:
    return Row(lambda s: recipe(s.classifier, layers=s.layers, **options))


def _staged(recipe: Callable[..., MaskingTrainer], **options: Any) -> Row:
    """A recipe that chooses among all resolutions."""
    return Row(lambda s: recipe(s.classifier, layers=s.stages, **options))


def _in(criterion: Callable, **options: Any) -> Row:
    return _simple(lambda c, **o: variants.masked_in_only(c, criterion, **options, **o))


def _out(criterion: Callable, **options: Any) -> Row:
    return _simple(lambda c, **o: variants.masked_out_only(c, criterion, **options, **o))


def _both(inside: Callable, outside: Callable) -> Row:
    return _simple(variants.frozen, objective=Dual(inside=inside, outside=outside))


def _infill(filling: infill.Infill) -> Row:
    return _simple(lambda c, **o: variants.with_infill(c, filling, **o))


def _size(term: Callable) -> Row:
    return _simple(lambda c, **o: variants.with_regularizer(c, term, **o))


def _kl_to_data(s: Setting) -> MaskingTrainer:
    criterion = KLToPrior(class_prior(s.labels, s.classes))
    return variants.masked_out_only(s.classifier, criterion, layers=s.layers)


_RECOGNIZE, _SURE = Classification(), Entropy(maximize=False)
_MISTAKE, _UNSURE = Classification(maximize=False), Entropy()

#: Every row by name. ``frozen`` is the one that all others are compared with.
ROWS: dict[str, Row] = {
    # Who is trained.
    "frozen": Row(_default),
    "joint": Row(_joint),
    "joint-throughout": _simple(variants.joint_throughout),
    # As published.
    "fix": _simple(published.fix),
    "ca": _simple(published.ca),
    "ca-as-published": _simple(published.ca_as_published),
    "zolna-f": _staged(published.zolna_f),
    "zolna-l": _staged(published.zolna_l),
    "zolna-fl": _staged(published.zolna_fl),
    "zolna-l100": _staged(published.zolna_l100),
    "zolna-l1000": _staged(published.zolna_l1000),
    "dabkowski-gal": _simple(published.dabkowski_gal),
    # One side alone; then the other pairs (frozen is classification in, entropy out).
    "in-classification": _in(_RECOGNIZE),
    "in-entropy": _in(_SURE),
    "out-classification": _out(_MISTAKE),
    "out-entropy": _out(_UNSURE),
    "out-kl": _out(KLToPrior()),
    "out-kl-reverse": _out(KLToPrior(reverse=True)),
    "out-kl-data": Row(_kl_to_data),
    "both-classification": _both(_RECOGNIZE, _MISTAKE),
    "both-entropy": _both(_SURE, _UNSURE),
    "both-entropy-classification": _both(_SURE, _MISTAKE),
    # Infills: all that need no data, one that learns, and one for each side.
    **{f"infill-{name}": _infill(part) for name, part in infill.VARIANTS.items() if name != "mean"},
    "infill-learned": Row(
        lambda s: variants.learned_infill(s.classifier, s.loader, layers=s.layers)
    ),
    "infill-out-blur": _simple(
        lambda c, **o: variants.with_infill(c, infill.Mean(), infill_out=infill.Blur(), **o)
    ),
    # Samplers.
    "gumbel-hard": _simple(variants.gumbel),
    "gumbel-soft": _simple(variants.gumbel, hard=False, binary=False),
    "gumbel-learnable": _simple(variants.gumbel, learnable=True),
    # What the masker reads (frozen reads the two deepest), and what it is.
    "layers-1": _staged(variants.deepest, count=1),
    "layers-3": _staged(variants.deepest, count=3),
    "layers-4": _staged(variants.deepest, count=4),
    "layers-5": _staged(variants.deepest, count=5),
    "layers-second": _staged(variants.only, index=-2),
    "unet": _staged(variants.unet),
    "told-size": _simple(variants.told_size),
    "told-class": Row(
        lambda s: variants.told_class(s.classifier, classes=s.classes, layers=s.layers)
    ),
    # The size of masks.
    "area-ungated": _size(UngatedArea(11.0)),
    "area-target": _size(SizeTarget(0.4)),
    "area-range": _size(SizeRange(0.1, 0.6)),
    # Who judges a classifier that is trained.
    "pool-latest": _simple(variants.joint_throughout, pool=Latest()),
    "pool-first-and-last": _simple(variants.joint_throughout, pool=FirstAndLast()),
    # How many images.
    **{f"few-shot-{n}": Row(_default, per_class=n) for n in (1, 2, 5, 10, 20, 50, 100)},
    **{f"joint-few-shot-{n}": Row(_joint, per_class=n) for n in (1, 10, 50)},
    "half-the-classes": Row(_default, class_step=2),
    "fifth-of-the-classes": Row(_default, class_step=5),
}


def select(names: str) -> dict[str, Row]:
    """Find rows by name.

    Args:
        names: ``all``, or names separated by commas; ``*`` stands for anything.

    Returns:
        The rows in the order of `ROWS`.

    Raises:
        ValueError: If a name does not exist, with the nearest that do.

    Source:
        Own.

    Example:
        >>> list(select("gumbel-*,frozen"))
        ['frozen', 'gumbel-hard', 'gumbel-soft', 'gumbel-learnable']
        >>> select("gumble-hard")
        Traceback (most recent call last):
        ValueError: there is no row 'gumble-hard'; did you mean gumbel-hard, ...? ...
    """
    patterns = ["*"] if names == "all" else [name.strip() for name in names.split(",")]
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in ROWS):
            near = get_close_matches(pattern, ROWS, n=3, cutoff=0.3) or list(ROWS)[:3]
            raise ValueError(
                f"there is no row {pattern!r}; did you mean {', '.join(near)}? All rows: "
                f"{', '.join(ROWS)}."
            )
    return {n: row for n, row in ROWS.items() if any(fnmatch(n, p) for p in patterns)}
