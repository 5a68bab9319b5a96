"""The study: every row by name, each one recipe and the data it is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatch
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from captum_masking import infill
from captum_masking.objective import Classification, Dual, Entropy, KLToPrior, class_prior
from captum_masking.pool import FirstAndLast, Latest
from captum_masking.recipes import published, variants
from captum_masking.regularizer import SizeRange, SizeTarget, UngatedArea
from captum_masking.trainer import MaskingTrainer


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
