"""Objectives of the masker and of the classifier: what the judge should recognize.

An *objective* is called as ``objective(judgement)`` and returns a scalar, lower is better. A
*criterion* is one side of it, called as ``criterion(logits, judgement)`` with the logits
``(B, classes)`` of that side's masked images; it returns a loss for each image, ``(B,)``, in nats
unless stated otherwise. A plain function is enough for either.

Criteria share two switches. ``maximize``: True pushes towards the criterion's name, False away from
it. ``gated``: only images whose clean version is classified correctly count; others are 0, and the
mean still divides by the whole batch. Weights are >= 0. ``belief`` interprets the logits:
``OneOf()``, or ``AnyOf()`` for multi-label classifiers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

from captum_masking._base.checks import check_weights

__all__ = [
    "AnyOf",
    "Belief",
    "Believe",
    "Classification",
    "Criterion",
    "Dual",
    "Entropy",
    "Hinge",
    "Judgement",
    "KLToPrior",
    "KeepRecognizing",
    "Objective",
    "OneOf",
    "Vanish",
    "class_prior",
    "default_objective",
    "entropy",
]


class Judgement(NamedTuple):
    """The predictions of classifier and judge for one batch, and the question of the masks.

    Attributes:
        logits: The classifier's, of the clean images, ``(B, classes)``.
        logits_in: The judge's, of the masked-in images, ``(B, classes)``.
        logits_out: The judge's, of the masked-out images, ``(B, classes)``.
        target: Class of each image, ``(B,)``, integers.
        area: Area that each mask should have, a fraction of the image ``(B,)``; None for a masker
            that takes no area.
        present: Whether the class is in the image, ``(B,)`` bool; None if always.
        alone: Whether the image has no other class, ``(B,)`` bool; None if always.
        elsewhere: Pixels that show no image of the class, ``(B, 1, *spatial)`` bool; None: where
            ``present`` is False.
        inputs: The clean images, ``(B, C, *spatial)``; None for a classifier of several inputs.

    Source:
        Phang et al. 2020; the three gates of the published masker loss are its properties.

    Example:
        >>> yes, no = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
        >>> judgement = Judgement(yes, no, no, target=torch.tensor([1]))
        >>> judgement.correct, judgement.correct_in, judgement.confused_out
        (tensor([True]), tensor([False]), tensor([True]))
    """

    logits: Tensor
    logits_in: Tensor
    logits_out: Tensor
    target: Tensor
    area: Tensor | None = None
    present: Tensor | None = None
    alone: Tensor | None = None
    elsewhere: Tensor | None = None
    inputs: Tensor | None = None

    def only(self, rows: Tensor | slice) -> Judgement:
        """Keep some images: ``rows`` is ``(B,)`` bool, indices, or a slice."""
        kept = [None if part is None else part[rows] for part in self]
        return Judgement(*kept)  # type: ignore[arg-type]

    @property
    def as_labeled(self) -> Tensor:
        """``(B,)`` bool: the image shows the target class, and no other."""
        everywhere = torch.ones_like(self.target, dtype=torch.bool)
        present = everywhere if self.present is None else self.present
        return present if self.alone is None else present & self.alone

    @property
    def correct(self) -> Tensor:
        """``(B,)`` bool: the clean image is classified correctly."""
        return self.logits.argmax(1) == self.target

    @property
    def correct_in(self) -> Tensor:
        """``(B,)`` bool: the masked-in image is classified correctly."""
        return self.logits_in.argmax(1) == self.target

    @property
    def correct_out(self) -> Tensor:
        """``(B,)`` bool: the masked-out image is still classified correctly."""
        return self.logits_out.argmax(1) == self.target

    @property
    def confused_out(self) -> Tensor:
        """``(B,)`` bool: right on the clean image, wrong once the evidence is masked out."""
        return self.correct & ~self.correct_out


#: Called as ``objective(judgement)``; returns a scalar, lower is better.
Objective = Callable[[Judgement], Tensor]

#: Called as ``criterion(logits, judgement)`` with the logits ``(B, classes)`` of one side's masked
#: images; returns a loss for each image, ``(B,)``, lower is better.
Criterion = Callable[[Tensor, Judgement], Tensor]


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy of each prediction ``(B, classes)``, in nats: ``(B,)``.

    Example:
        >>> entropy(torch.zeros(1, 2))
        tensor([0.6931])
    """
    log_probabilities = logits.log_softmax(1)
    return -(log_probabilities.exp() * log_probabilities).sum(1)


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Recognize the image: cross entropy to the target, or with ``maximize=False`` minus that.

    The negative cross entropy has no lower bound: use a small weight, or :class:`Vanish`, which
    ends where the target is no likelier than a guess.

    Source:
        Phang et al. 2020, the "classification" criterion; not gated, as published.

    Example:
        >>> logits = torch.zeros(1, 2)
        >>> judgement = Judgement(logits, logits, logits, target=torch.tensor([0]))
        >>> Classification()(logits, judgement), Classification(maximize=False)(logits, judgement)
        (tensor([0.6931]), tensor([-0.6931]))
    """

    maximize: bool = True

    def __call__(self, logits: Tensor, judgement: Judgement) -> Tensor:
        loss = cross_entropy(logits, judgement.target, reduction="none")
        return loss if self.maximize else -loss


@dataclass(frozen=True, kw_only=True)
class Entropy:
    """Be unsure of the image: minus the entropy of the prediction.

    With ``maximize=False`` plus the entropy, towards a sure prediction of whatever class.

    Source:
        Phang et al. 2020, the "entropy" criterion; gated, as published.

    Example:
        >>> clean, unsure = torch.tensor([[0.0, 1.0]]), torch.zeros(1, 2)
        >>> Entropy()(unsure, Judgement(clean, unsure, unsure, target=torch.tensor([1])))
        tensor([-0.6931])
    """

    maximize: bool = True
    gated: bool = True

    def __call__(self, logits: Tensor, judgement: Judgement) -> Tensor:
        loss = -entropy(logits) if self.maximize else entropy(logits)
        return judgement.correct * loss if self.gated else loss


@dataclass(frozen=True, kw_only=True)
class Hinge:
    """Put the target's logit above all others by a margin, or below the best of them.

    ``relu(best_other - target + margin)``, or with ``maximize=False``
    ``relu(target - best_other + margin)``; in logits.

    Args:
        margin: Distance in logits beyond which the loss is 0.

    Source:
        Dabkowski & Gal 2017, their code: ``Hinge(margin=1.0)`` on the preserved image and
        ``Hinge(maximize=False, margin=5.0)`` on the destroyed one.

    Example:
        >>> logits = torch.tensor([[2.0, 1.5, 0.0]])
        >>> judgement = Judgement(logits, logits, logits, target=torch.tensor([0]))
        >>> Hinge()(logits, judgement)  # 1.5 - 2 + 1
        tensor([0.5000])
    """

    maximize: bool = True
    margin: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.margin):
            raise ValueError(
                f"margin must be finite, but got {self.margin}; published are 1 and 5."
            )

    def __call__(self, logits: Tensor, judgement: Judgement) -> Tensor:
        if logits.shape[1] < 2:
            raise ValueError(
                f"Hinge compares the target with another class, but the classifier gives "
                f"{logits.shape[1]} logit; use one with a logit for each of two or more classes."
            )
        target = _of(judgement.target, logits)
        others = logits.scatter(1, judgement.target[:, None], -math.inf)
        lead = target - others.amax(1)  # (B,)
        return (self.margin - lead if self.maximize else self.margin + lead).relu()


@dataclass(frozen=True)
class KLToPrior:
    """Predict a class prior: the divergence from it.

    ``KL(prior || p) = sum prior * log(prior / p)`` for the prediction ``p``, or in reverse
    ``KL(p || prior) = sum p * log(p / prior)``. In reverse and with a uniform prior it is
    ``log(classes)`` minus the entropy.

    Args:
        prior: Probability of each class, ``(classes,)``, such as :func:`class_prior`; None is
            uniform.
        reverse: Whether the divergence is taken from the prediction to the prior, which then must
            not be zero for any class.

    Source:
        Phang et al. 2020, the "kldivergence" criterion, forward and backward. Differs: published
        for a uniform prior over 1000 classes; its class weights and its subtracted or divided
        priors are left out.

    Example:
        >>> logits = torch.zeros(1, 2)
        >>> judgement = Judgement(logits, logits, logits, target=torch.tensor([0]))
        >>> KLToPrior([0.75, 0.25])(logits, judgement)  # 3/4 log 3/2 + 1/4 log 1/2
        tensor([0.1308])
    """

    prior: Tensor | Sequence[float] | None = None
    _: KW_ONLY
    reverse: bool = False
    gated: bool = False

    def __post_init__(self) -> None:
        if self.prior is None:
            return
        prior = _distribution(self.prior)
        object.__setattr__(self, "prior", prior)
        if self.reverse and not all(prior):
            raise ValueError(
                "prior must not be zero for any class where reverse=True divides by it, but "
                f"{prior.count(0)} of {len(prior)} are; class_prior(labels, classes) "
                "smooths, or take reverse=False."
            )

    def __call__(self, logits: Tensor, judgement: Judgement) -> Tensor:
        prediction, prior = logits.log_softmax(1), self._prior_like(logits)
        if self.reverse:
            divergence = (prediction.exp() * (prediction - prior.log())).sum(1)
        else:
            divergence = (torch.xlogy(prior, prior) - prior * prediction).sum(1)  # 0 log 0 = 0
        return judgement.correct * divergence if self.gated else divergence

    def _prior_like(self, logits: Tensor) -> Tensor:
        classes = logits.shape[1]
        prior = [1 / classes] * classes if self.prior is None else self.prior
        if len(prior) != classes:
            raise ValueError(
                f"prior must have one probability for each of the classifier's {classes} logits, "
                f"but has {len(prior)}; class_prior(labels, classes={classes}) gives one."
            )
        return logits.new_tensor(prior)


def class_prior(labels: Tensor | Iterable[int], classes: int, *, smoothing: float = 1.0) -> Tensor:
    """Estimate the share of each class, never 0.

    ``(count + smoothing) / (images + smoothing * classes)``, shape ``(classes,)``: Laplace's rule
    of succession.

    Args:
        labels: Class indices of the data.
        classes: Number of classes.
        smoothing: Images added to the count of every class, > 0.

    Example:
        >>> class_prior([0, 0, 2], classes=3)  # (2 + 1) / (3 + 3), 1 / 6, 2 / 6
        tensor([0.5000, 0.1667, 0.3333])
    """
    if not 0 < smoothing < math.inf:
        raise ValueError(f"smoothing must be positive, but got {smoothing}; 1 is usual.")
    flat = labels if isinstance(labels, Tensor) else torch.as_tensor(list(labels))
    if flat.numel() == 0:
        raise ValueError("labels must not be empty; prior=None is uniform and needs none.")
    if flat.is_floating_point() or flat.is_complex() or flat.dtype == torch.bool:
        raise TypeError(f"labels must be integers, but got {flat.dtype}; give class indices.")
    if not 0 <= flat.min() <= flat.max() < classes:
        raise ValueError(
            f"labels must lie in 0..{classes - 1} for {classes} classes, but got "
            f"{flat.min().item()}..{flat.max().item()}; check the label column, or raise classes."
        )
    counts = flat.detach().cpu().flatten().long().bincount(minlength=classes).double() + smoothing
    return (counts / counts.sum()).float()


def _distribution(prior: Tensor | Sequence[float]) -> tuple[float, ...]:
    tensor = torch.as_tensor(prior).detach()
    numbers = tensor.double().flatten().tolist()
    # 1e-3: what is left of a sum of 1 after half precision.
    if tensor.dim() != 1 or not min(numbers, default=-1) >= 0 or not abs(sum(numbers) - 1) < 1e-3:
        raise ValueError(
            "prior must be non-negative probabilities (classes,) that sum to 1, but got shape "
            f"{tuple(tensor.shape)} with minimum {min(numbers, default=math.nan):.4g} and sum "
            f"{sum(numbers):.4g}; divide counts by their sum, or use class_prior(labels, classes)."
        )
    return tuple(numbers)


@dataclass(frozen=True)
class Dual:
    """Recognize the masked-in image, recognize nothing in the masked-out one.

    ``weight_in * mean(inside(logits_in)) + weight_out * mean(outside(logits_out))``, by default
    ``CE(logits_in, target) - mean(correct * entropy(logits_out))``. A side whose criterion is None
    or whose weight is 0 is absent: the criterion is not called.

    Source:
        Phang et al. 2020, masker loss; the defaults are those of the final model (classification
        in, entropy out).

    Example:
        >>> logits, target = torch.tensor([[0.0, 0.0]]), torch.tensor([0])
        >>> Dual()(Judgement(logits, logits, logits, target))  # log 2 - log 2
        tensor(0.)
        >>> Dual(outside=None)(Judgement(logits, logits, logits, target))
        tensor(0.6931)
    """

    weight_in: float = 1.0
    weight_out: float = 1.0
    _: KW_ONLY
    inside: Criterion | None = Classification()
    outside: Criterion | None = Entropy()

    def __post_init__(self) -> None:
        check_weights(
            weight_in=self.weight_in,
            weight_out=self.weight_out,
            way_out="a criterion says itself which way it pushes, as Entropy(maximize=False) does.",
        )
        _check_criteria(inside=self.inside, outside=self.outside)
        if not any(weight and criterion is not None for weight, criterion in self._sides()):
            raise ValueError(
                f"an objective needs at least one side, but got {self!r}; give inside=... a "
                "criterion and weight_in > 0, or outside=... and weight_out > 0, or both."
            )

    def __call__(self, judgement: Judgement) -> Tensor:
        logits_of_each = judgement.logits_in, judgement.logits_out
        terms = [
            weight * criterion(logits, judgement).mean()
            for (weight, criterion), logits in zip(self._sides(), logits_of_each, strict=True)
            if criterion is not None and weight
        ]
        return sum(terms[1:], start=terms[0])

    def _sides(self) -> tuple[tuple[float, Criterion | None], ...]:
        return (self.weight_in, self.inside), (self.weight_out, self.outside)


def _check_criteria(**criteria: Criterion | None) -> None:
    for name, criterion in criteria.items():
        if criterion is not None and (not callable(criterion) or isinstance(criterion, type)):
            raise TypeError(
                f"{name} must be callable as criterion(logits, judgement) or None, but got "
                f"{criterion!r}; give an object such as Classification() or Entropy()."
            )


@dataclass(frozen=True)
class KeepRecognizing:
    """The classifier's own loss in joint training: clean, masked-in and masked-out images.

    ``CE(logits) + mean(correct * (weight_in * CE(logits_in) + weight_out * CE(logits_out)))``.
    Learning from the masked-out side is what drives the masker to cover all of the evidence.

    Source:
        Phang et al. 2020, classifier loss (both weights 1). Differs: masked images count only
        where the clean one is recognized, as in the masker's loss, so that a classifier trained
        from scratch learns clean images first; ``gated=False`` is as published.

    Example:
        >>> logits, target = torch.tensor([[0.0, 0.0]]), torch.tensor([0])
        >>> KeepRecognizing()(Judgement(logits, logits, logits, target))  # 3 log 2
        tensor(2.0794)
    """

    weight_in: float = 1.0
    weight_out: float = 1.0
    _: KW_ONLY
    gated: bool = True

    def __post_init__(self) -> None:
        check_weights(weight_in=self.weight_in, weight_out=self.weight_out)

    def __call__(self, judgement: Judgement) -> Tensor:
        clean, inside, outside = (
            cross_entropy(logits, judgement.target, reduction="none") for logits in judgement[:3]
        )
        masked = self.weight_in * inside + self.weight_out * outside  # (B,)
        return (clean + (judgement.correct * masked if self.gated else masked)).mean()


class Belief(Protocol):
    """Interprets logits ``(B, classes)`` as the probability that a class ``(B,)`` is present."""

    def yes(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the log probability that it is present, ``(B,)``."""

    def no(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the log probability that it is absent, ``(B,)``."""

    def still_there(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return a loss >= 0, ``(B,)``, that is small if nothing of the class is left."""

    def found(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return ``(B,)`` bool: among other things in the image, the class is seen too."""

    def foremost(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return ``(B,)`` bool: the class is the classifier's prediction."""


@dataclass(frozen=True)
class OneOf:
    """Classes exclude each other: probabilities by softmax, as in ImageNet.

    Nothing of a class is left where its probability is that of a guess, ``1 / classes``.

    Example:
        >>> logits, target = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([0])
        >>> OneOf().yes(logits, target).exp(), OneOf().no(logits, target).exp()
        (tensor([0.5761]), tensor([0.4239]))
        >>> OneOf().still_there(logits, target)  # log(0.5761 / (1 / 3))
        tensor([0.5472])
    """

    def yes(self, logits: Tensor, target: Tensor) -> Tensor:
        return _of(target, logits.log_softmax(1))

    def no(self, logits: Tensor, target: Tensor) -> Tensor:
        others = logits.scatter(1, target[:, None], -math.inf).logsumexp(1)
        return others - logits.logsumexp(1)

    def still_there(self, logits: Tensor, target: Tensor) -> Tensor:
        return (self.yes(logits, target) + math.log(logits.shape[1])).relu()

    def found(self, logits: Tensor, target: Tensor) -> Tensor:
        return self.yes(logits, target) > -math.log(logits.shape[1])

    def foremost(self, logits: Tensor, target: Tensor) -> Tensor:
        return logits.argmax(1) == target


@dataclass(frozen=True)
class AnyOf:
    """Classes are independent: probabilities by sigmoid (multi-label).

    Nothing of a class is left as its probability goes to 0.

    Example:
        >>> logits, target = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
        >>> AnyOf().yes(logits, target).exp(), AnyOf().no(logits, target).exp()
        (tensor([0.7311]), tensor([0.2689]))
    """

    def yes(self, logits: Tensor, target: Tensor) -> Tensor:
        return logsigmoid(_of(target, logits))

    def no(self, logits: Tensor, target: Tensor) -> Tensor:
        return logsigmoid(-_of(target, logits))

    def still_there(self, logits: Tensor, target: Tensor) -> Tensor:
        return -self.no(logits, target)

    def found(self, logits: Tensor, target: Tensor) -> Tensor:
        return _of(target, logits) > 0

    def foremost(self, logits: Tensor, target: Tensor) -> Tensor:
        return self.found(logits, target)


def _of(target: Tensor, values: Tensor) -> Tensor:
    return values.gather(1, target[:, None])[:, 0]


@dataclass(frozen=True)
class Believe:
    """Recognize the target class if it is present, and only then.

    ``-log p(target)``, or ``-log(1 - p(target))`` for an absent class. With ``OneOf()`` a class is
    only believed where all the others are excluded, so the mask must keep to its own evidence.

    Example:
        >>> logits, target = torch.zeros(1, 4), torch.tensor([0])
        >>> judgement = Judgement(logits, logits, logits, target)
        >>> Believe()(logits, judgement)  # log 4
        tensor([1.3863])
        >>> Believe()(logits, judgement._replace(present=torch.tensor([False])))  # -log 3/4
        tensor([0.2877])
    """

    belief: Belief = OneOf()

    def __call__(self, logits: Tensor, judgement: Judgement) -> Tensor:
        yes = self.belief.yes(logits, judgement.target)
        if judgement.present is None:
            return -yes
        return -torch.where(judgement.present, yes, self.belief.no(logits, judgement.target))


@dataclass(frozen=True)
class Vanish:
    """Leave nothing of the target class; other classes may stay.

    How far the target is still more likely than a guess; with ``OneOf()``
    ``relu(log(p(target) * classes))``, in nats. It counts only where the clean image showed the
    class; an absent class is 0: there is nothing to take away.

    :class:`Entropy` wants every class gone, and pushes just as hard on what is left of others.

    Example:
        >>> logits = torch.tensor([[1.0, 0.0, 0.0]])
        >>> judgement = Judgement(logits, logits, logits, target=torch.tensor([0]))
        >>> Vanish()(logits, judgement)  # log(0.5761 / (1 / 3))
        tensor([0.5472])
    """

    belief: Belief = OneOf()

    def __call__(self, logits: Tensor, judgement: Judgement) -> Tensor:
        left = self.belief.still_there(logits, judgement.target)
        left = left * self.belief.found(judgement.logits, judgement.target)
        return left if judgement.present is None else left * judgement.present


def default_objective(belief: Belief = OneOf()) -> Dual:
    """Return the trainer's default: recognize the target masked in, let it vanish masked out.

    Differs from the published objective, ``Dual()``, in what is asked of masked-out images.

    Example:
        >>> default_objective().outside
        Vanish(belief=OneOf())
    """
    return Dual(inside=Believe(belief), outside=Vanish(belief))
