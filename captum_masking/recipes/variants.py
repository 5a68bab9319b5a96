"""One change at a time: each recipe is this package's default set-up with one part swapped."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from captum_masking.dry_run import dry_run_inputs
from captum_masking.encoder import find_layers
from captum_masking.infill import Infill
from captum_masking.inpainting import train_inpainter
from captum_masking.masker import Masker, UNetMasker
from captum_masking.model import MaskingModel
from captum_masking.objective import Criterion, Dual
from captum_masking.pool import Pool
from captum_masking.questions import Questions
from captum_masking.regularizer import Area, Regularizer, SizeAsked, smooth
from captum_masking.sampler import GumbelSigmoid
from captum_masking.schedule import FineTune
from captum_masking.trainer import MaskingTrainer

Layers = Sequence[str] | None


def frozen(classifier: nn.Module, *, layers: Layers = None, **parts: Any) -> MaskingTrainer:
    """The default, with the classifier left as it is: what every other recipe is compared with.

    Args:
        classifier: The classifier.
        layers: What the masker reads; None finds the two deepest maps.
        **parts: Passed on to :class:`~captum_masking.trainer.MaskingTrainer`.

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
        **options: Of :class:`~captum_masking.sampler.GumbelSigmoid`.

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
        **options: Of :func:`~captum_masking.inpainting.train_inpainter`.

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
