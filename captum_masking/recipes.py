"""Complete set-ups as functions: the package's default, the published ones, and single changes.

Call a recipe with a classifier to get a :class:`~captum_masking.MaskingTrainer`. Its keyword
arguments are those of :class:`~captum_masking.MaskingModel` and of the trainer. Only
:func:`meaningful` differs, since it trains nothing. :data:`ROWS` has every set-up of the study by
name; most are one change to :func:`frozen`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatch
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils.data import DataLoader

from captum_masking.model.layers import dry_run_inputs, find_layers
from captum_masking.model.model import MaskingModel
from captum_masking.parts.infill import VARIANTS, Blur, DabkowskiGal, Infill, Mean
from captum_masking.parts.inpainting import train_inpainter
from captum_masking.parts.masker import Masker, UNetMasker, nearest
from captum_masking.parts.objective import (
    Classification,
    Criterion,
    Dual,
    Entropy,
    Hinge,
    Judgement,
    KeepRecognizing,
    KLToPrior,
    class_prior,
    default_objective,
)
from captum_masking.parts.pool import History, Latest
from captum_masking.parts.questions import AsPredicted, Questions
from captum_masking.parts.regularizer import (
    Area,
    PowerArea,
    SizeAsked,
    SizeRange,
    SizeTarget,
    Sum,
    TotalVariation,
    UngatedArea,
    smooth,
)
from captum_masking.parts.sampler import GumbelSigmoid, Sigmoid
from captum_masking.saliency.per_input import PerInput
from captum_masking.training.classifier import FineTune
from captum_masking.training.trainer import MaskingTrainer

__all__ = [
    "ROWS",
    "Row",
    "Setting",
    "ca",
    "ca_as_published",
    "dabkowski_gal",
    "fix",
    "frozen",
    "joint",
    "lmac",
    "meaningful",
    "select",
    "zolna_f",
    "zolna_fl",
    "zolna_l",
    "zolna_l100",
    "zolna_l1000",
]


def joint(classifier: nn.Module, **changes: Any) -> MaskingTrainer:
    """The default: CA of Phang et al. 2020, with gentle fine-tuning in the second half of steps."""
    of_model = inspect.signature(MaskingModel).parameters.keys() & changes.keys()
    model = MaskingModel(classifier, **{name: changes.pop(name) for name in of_model})
    return MaskingTrainer(model, **changes)


def frozen(classifier: nn.Module, **changes: Any) -> MaskingTrainer:
    """The default with a frozen classifier: FIX of Phang et al. 2020 with our defaults.

    Example:
        >>> from torchvision.models import resnet18
        >>> trainer = frozen(resnet18(), infill=Blur(), layers=["layer4"])
        >>> trainer.infill, trainer.model.layers
        (Blur(sigma_px=20.0), ('layer4',))
    """
    return joint(classifier, **{"train_classifier": False, **changes})


# ---- The set-ups of the paper and of its predecessors, with their published constants.
#
# As published: a mask of stride 4, upsampled by repeating values; the area weights; a variation
# weight of 0.001 on each of two sides. ``docs/paper-to-code.rst`` lists what differs everywhere.


def _published(**own: Any) -> dict[str, Any]:
    return {"objective": Dual(), "masker": partial(Masker), "sampler": Sigmoid()} | own


_GRID: dict[str, Any] = {"stride": 4, "upsample": nearest, "upsample_first": False}

# The classifier always trains, in train mode, and may move far from its start.
_fine_tune = partial(
    FineTune,
    optimizer=partial(torch.optim.SGD, momentum=0.9, weight_decay=1e-4),
    train_mode=True,
    objective=KeepRecognizing(gated=False),
    stay=0.0,
    masker_first=0.0,
)


def fix(classifier: nn.Module, **changes: Any) -> MaskingTrainer:
    """FIX: a frozen classifier; classification masked-in, entropy masked-out; area 1 and 10.

    Source:
        Phang et al. 2020, final hyper-parameters of FIX.

    Example:
        >>> from torchvision.models import resnet18
        >>> fix(resnet18()).regularizer
        Area(weight_in=1.0, weight_out=10.0) + TotalVariation(weight=0.002, border=0.3, ...)
    """
    parts = _published(**_GRID, regularizer=Sum(Area(), TotalVariation()))
    return frozen(classifier, **(parts | changes))


def ca(classifier: nn.Module, **changes: Any) -> MaskingTrainer:
    """CA as described: the classifier trains too, members of the pool judge; area 1 and 15.

    Source:
        Phang et al. 2020, final hyper-parameters of CA.

    Example:
        >>> from torchvision.models import resnet18
        >>> ca(resnet18()).pool
        History(size=30, every=100, past=0.5, after=0, seed=0)
    """
    regularizer, how = Sum(Area(1.0, 15.0), TotalVariation()), _fine_tune()
    parts = _published(**_GRID, train_classifier=how, regularizer=regularizer, pool=History())
    return joint(classifier, **(parts | changes))


def ca_as_published(classifier: nn.Module, **changes: Any) -> MaskingTrainer:
    """CA as the released code computes it: the current classifier always judges, in train mode.

    Masked images therefore change its batch-norm statistics. Two details differ. If the released
    code draws a past classifier, it does not use it, and takes no step on masked images; here the
    classifier always takes that step. It also steps between the forward and the backward pass of
    one graph, which PyTorch refuses since 1.5; here both gradients are computed first.

    Source:
        Phang et al. 2020, released code.

    Example:
        >>> from torchvision.models import resnet18
        >>> ca_as_published(resnet18()).joint.judge_in_train_mode
        True
    """
    how = _fine_tune(judge_in_train_mode=True)
    return ca(classifier, **({"train_classifier": how, "pool": Latest()} | changes))


def _zolna(classifier: nn.Module, *, weight: float, **changes: Any) -> MaskingTrainer:
    """Masked-out entropy and area only, all five resolutions; area weights tuned for each pool."""
    own = {"train_classifier": _fine_tune(), "regularizer": Area(0.0, weight)}
    parts = _published(**_GRID, **own, objective=Dual(inside=None))
    changes["layers"] = changes.get("layers") or _five_layers(classifier)
    return joint(classifier, **(parts | changes))


def zolna_f(classifier: nn.Module, **changes: Any) -> MaskingTrainer:
    """F of Zolna et al. 2020, with masked-out entropy: a frozen classifier."""
    return _zolna(classifier, weight=2.5, **({"train_classifier": False} | changes))


def zolna_l(classifier: nn.Module, **changes: Any) -> MaskingTrainer:
    """L of Zolna et al. 2020: the current classifier judges."""
    return _zolna(classifier, weight=14.0, **({"pool": Latest()} | changes))


def zolna_fl(classifier: nn.Module, **changes: Any) -> MaskingTrainer:
    """FL of Zolna et al. 2020: the first or the current classifier judges."""
    return _zolna(classifier, weight=7.5, **({"pool": History(every=None)} | changes))


def zolna_l100(classifier: nn.Module, **changes: Any) -> MaskingTrainer:
    """L100 of Zolna et al. 2020: the current or one of 30 past ones, copied every 100 steps."""
    return _zolna(classifier, weight=10.0, **({"pool": History(every=100)} | changes))


def zolna_l1000(classifier: nn.Module, **changes: Any) -> MaskingTrainer:
    """L1000 of Zolna et al. 2020: like `zolna_l100`, copied every 1,000 steps."""
    return _zolna(classifier, weight=10.0, **({"pool": History(every=1000)} | changes))


def dabkowski_gal(classifier: nn.Module, **changes: Any) -> MaskingTrainer:
    """The objective of Dabkowski & Gal: hinge losses on logits, area to the power 0.3.

    Their class selector, its training on false labels and their decoder are not included.

    Source:
        Dabkowski & Gal 2017: destroyer 1, preserver 0.3, area 8, variation 0.005 (their script).

    Example:
        >>> from torchvision.models import resnet18
        >>> dabkowski_gal(resnet18()).objective.weight_in
        0.3
    """
    parts = _published(
        **_GRID,
        objective=Dual(0.3, 1.0, inside=Hinge(), outside=Hinge(maximize=False, margin=5.0)),
        regularizer=Sum(PowerArea(), TotalVariation(weight=0.005)),
        infill=DabkowskiGal(),
    )
    return frozen(classifier, **(parts | changes))


def lmac(classifier: nn.Module, *, batch_size: int = 16, **changes: Any) -> MaskingTrainer:
    """L-MAC: an audible map of the class that a frozen classifier predicts.

    The classifier reads :class:`~captum_masking.data.audio.LogMagnitude`, or bands through
    :class:`~captum_masking.data.audio.LogMel`. The masked-out loss has no lower bound. If masks
    become empty, or the loss falls without end, raise ``weight_in`` or use ``outside=Vanish()``.
    To fine-tune, train on with ``regularizer=GuidedByInput(UngatedArea(...))``.

    Args:
        batch_size: The area weight is 0.4 times this, since the published one is for a sum.

    Source:
        Paissan et al. 2024, as in their code. Differs: :class:`UNetMasker
        <captum_masking.parts.masker.UNetMasker>` replaces nine transposed convolutions; a cosine
        replaces rates halved on plateaus.

    Example:
        >>> from torchvision.models import resnet18
        >>> lmac(resnet18()).regularizer
        UngatedArea(weight=6.4)
    """
    parts = {
        "masker": UNetMasker,
        "sampler": Sigmoid(),
        "infill": Mean(),  # zero: silence
        "objective": Dual(4.0, 0.2, inside=_RECOGNIZE, outside=_MISTAKE),
        "regularizer": UngatedArea(round(0.4 * batch_size, 6)),
        "questions": AsPredicted(),
        "lr": 2e-4,
        "weight_decay": 2e-6,
    }
    return frozen(classifier, **(parts | changes))


def meaningful(**changes: Any) -> PerInput:
    """Meaningful perturbations: the smallest blur that removes the probability of the class.

    Use it as ``MaskingSaliency(classifier, per_input=meaningful())``. Arguments are those of
    :class:`~captum_masking.saliency.per_input.PerInput`. The mask is 1 where the image is blurred.

    Source:
        Fong & Vedaldi 2017 (arXiv 1704.03296): weights, blur, steps and jitter for 224 px.
        Differs: a mask starts at one half, not as a small disk; it is a sigmoid, not clipped; it
        is interpolated linearly, not repeated and blurred.

    Example:
        >>> meaningful().steps, meaningful(steps=100).steps
        (300, 100)
    """
    parts: dict[str, Any] = {
        "objective": Dual(weight_in=0.0, outside=_probability_left),
        # Theirs are sums over 28 x 28 cells.
        "regularizer": Sum(UngatedArea(1e-4 * 28**2), _cubed_variation),
        "infill": Blur(10.0),
        **{"steps": 300, "lr": 0.1, "grid": 28, "jitter_px": 4},
    }
    return PerInput(**(parts | changes))


def _probability_left(logits: Tensor, judgement: Judgement) -> Tensor:
    return logits.softmax(1).gather(1, judgement.target[:, None])[:, 0]


def _cubed_variation(mask: Tensor, judgement: Judgement) -> Tensor:
    """Sum the cubed differences of neighboring cells, 28 a side."""
    squares = torch.zeros_like(mask)
    for axis in range(2, mask.dim()):
        cell_px = mask.shape[axis] / 28
        change = mask.diff(dim=axis) * cell_px
        squares = squares + pad(change.movedim(axis, -1), (0, 1)).movedim(-1, axis).square()
    cubes = (squares + 1e-12) ** 1.5  # the root has a gradient at 0, too
    return 1e-2 * 28 ** (mask.dim() - 2) * cubes.mean()


def _five_layers(classifier: nn.Module) -> Sequence[str]:
    return find_layers(classifier, dry_run_inputs(classifier), count=5)


# ---- The study: every row by name, a recipe with its data.


@dataclass(frozen=True)
class Setting:
    """What a row needs to build its trainer.

    Attributes:
        classifier: A fresh copy, which the trainer may change.
        loader: Batches of training images, for parts that learn before the masker.
        labels: Labels of the training images.
        classes: Number of logits.
        layers: The modules that maskers read; None finds the two deepest maps.
        stages: One module for each resolution, finest first; None finds five.
        area: Mean area of all masks, a fraction of the image; None leaves it to each row.
    """

    classifier: nn.Module
    loader: DataLoader
    labels: Sequence[int]
    classes: int
    layers: Sequence[str] | None = None
    stages: Sequence[str] | None = None
    area: float | None = None


@dataclass(frozen=True)
class Row:
    """One row of the study.

    Attributes:
        build: Makes the trainer.
        per_class: Images per class; None takes all.
        class_step: Train on every class (1), every second class (2), and so on.
    """

    build: Callable[[Setting], MaskingTrainer]
    per_class: int | None = None
    class_step: int = 1


Changes = Callable[[Setting], dict[str, Any]]  # made anew for each trainer: samplers learn


# The study uses the published objective, masker and mask, not the defaults.
def _frozen(classifier: nn.Module, **changes: Any) -> MaskingTrainer:
    return frozen(classifier, **(_published() | changes))


def _joint(classifier: nn.Module, **changes: Any) -> MaskingTrainer:
    return joint(classifier, **(_published() | changes))


def _row(
    recipe: Callable[..., MaskingTrainer], changes: Changes = lambda s: {}, **images: int
) -> Row:
    def build(s: Setting) -> MaskingTrainer:
        return recipe(s.classifier, **({"layers": s.layers, "area": s.area} | changes(s)))

    return Row(build, **images)


def _inside(criterion: Criterion) -> dict[str, Any]:
    objective = Dual(inside=criterion, outside=None)
    return {"objective": objective, "regularizer": smooth(Area(1.0, 0.0))}


def _outside(criterion: Criterion) -> dict[str, Any]:
    objective = Dual(inside=None, outside=criterion)
    return {"objective": objective, "regularizer": smooth(Area(0.0, 10.0))}


def _infill(infill: Infill) -> Changes:
    return lambda s: {"infill": infill}


def _gumbel(**options: Any) -> dict[str, Any]:
    return {"sampler": GumbelSigmoid(**options), "upsample_first": False}


def _throughout(**parts: Any) -> dict[str, Any]:
    return {"train_classifier": FineTune(masker_first=0.0), **parts}


def _stages(s: Setting) -> Sequence[str]:
    return s.stages or _five_layers(s.classifier)


_RECOGNIZE, _SURE = Classification(), Entropy(maximize=False)
_MISTAKE, _UNSURE = Classification(maximize=False), Entropy()

#: The one change to `frozen` that a row makes.
_CHANGES: dict[str, Changes] = {
    # One side alone; then the other pairs (frozen is classification in, entropy out).
    "in-classification": lambda s: _inside(_RECOGNIZE),
    "in-entropy": lambda s: _inside(_SURE),
    "out-classification": lambda s: _outside(_MISTAKE),
    "out-entropy": lambda s: _outside(_UNSURE),
    "out-kl": lambda s: _outside(KLToPrior()),
    "out-kl-reverse": lambda s: _outside(KLToPrior(reverse=True)),
    "out-kl-data": lambda s: _outside(KLToPrior(class_prior(s.labels, s.classes))),
    "both-classification": lambda s: {"objective": Dual(inside=_RECOGNIZE, outside=_MISTAKE)},
    "both-entropy": lambda s: {"objective": Dual(inside=_SURE, outside=_UNSURE)},
    "target-vanishes": lambda s: {"objective": default_objective()},
    "both-entropy-classification": lambda s: {"objective": Dual(inside=_SURE, outside=_MISTAKE)},
    # Infills: all that need no data, a learned one, and one for masked-out images only.
    **{f"infill-{name}": _infill(part) for name, part in VARIANTS.items() if name != "mean"},
    "infill-learned": lambda s: {"infill": train_inpainter(s.loader)},
    "infill-out-blur": lambda s: {"infill_out": Blur()},
    # Samplers.
    "gumbel-hard": lambda s: _gumbel(),
    "gumbel-soft": lambda s: _gumbel(hard=False, binary=False),
    "gumbel-learnable": lambda s: _gumbel(learnable=True),
    # What the masker reads (frozen reads the two deepest), what it is, and what it is given.
    "layers-1": lambda s: {"layers": _stages(s)[-1:]},
    "layers-3": lambda s: {"layers": _stages(s)[-3:]},
    "layers-4": lambda s: {"layers": _stages(s)[-4:]},
    "layers-5": lambda s: {"layers": _stages(s)[-5:]},
    "layers-second": lambda s: {"layers": _stages(s)[-2:-1]},
    "unet": lambda s: {"layers": _stages(s)[-4:], "masker": UNetMasker},
    "told-size": lambda s: {
        "masker": partial(Masker, sized=True),
        "regularizer": smooth(SizeAsked()),
    },
    "told-class": lambda s: {
        "masker": partial(Masker, classes=s.classes),
        "regularizer": smooth(),
        "questions": Questions(composed=0.0, absent=0.0),  # as published: only the label
    },
    # The size of masks.
    "area-ungated": lambda s: {"regularizer": smooth(UngatedArea(11.0))},
    "area-target": lambda s: {"regularizer": smooth(SizeTarget(0.4))},
    "area-range": lambda s: {"regularizer": smooth(SizeRange(0.1, 0.6))},
}

#: Every row by name. All others are compared with ``frozen``. ``defaults`` is the package's
#: default, ``target-vanishes`` uses only its objective.
ROWS: dict[str, Row] = {
    # Who is trained.
    "frozen": _row(_frozen),
    "joint": _row(_joint),
    "defaults": _row(frozen),
    "joint-throughout": _row(_joint, lambda s: _throughout()),
    # As published.
    "fix": _row(fix),
    "ca": _row(ca),
    "ca-as-published": _row(ca_as_published),
    "zolna-f": _row(zolna_f, lambda s: {"layers": s.stages}),
    "zolna-l": _row(zolna_l, lambda s: {"layers": s.stages}),
    "zolna-fl": _row(zolna_fl, lambda s: {"layers": s.stages}),
    "zolna-l100": _row(zolna_l100, lambda s: {"layers": s.stages}),
    "zolna-l1000": _row(zolna_l1000, lambda s: {"layers": s.stages}),
    "dabkowski-gal": _row(dabkowski_gal),
    # One change each.
    **{name: _row(_frozen, changes) for name, changes in _CHANGES.items()},
    # Who judges a classifier that is trained.
    "pool-latest": _row(_joint, lambda s: _throughout(pool=Latest())),
    "pool-first-and-last": _row(_joint, lambda s: _throughout(pool=History(every=None))),
    # How many images.
    **{f"few-shot-{n}": _row(_frozen, per_class=n) for n in (1, 2, 5, 10, 20, 50, 100)},
    **{f"joint-few-shot-{n}": _row(_joint, per_class=n) for n in (1, 10, 50)},
    "half-the-classes": _row(_frozen, class_step=2),
    "fifth-of-the-classes": _row(_frozen, class_step=5),
}


def select(names: str) -> dict[str, Row]:
    """Find rows by name, in the order of `ROWS`.

    Args:
        names: ``all``, or names separated by commas; ``*`` is a wildcard.

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
