"""All that was said of one batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
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
    "entropy",
    "target_aware",
]


class Judgement(NamedTuple):
    """All that was said of one batch: by the classifier on clean, by the judge on masked images.

    Attributes:
        logits: Of the clean images, ``(B, classes)``.
        logits_in: Of the masked-in images, ``(B, classes)``.
        logits_out: Of the masked-out images, ``(B, classes)``.
        target: Class of each image, ``(B,)``, integers.
        area: The size that the masker was asked for, a fraction of each image ``(B,)``, or None
            where it was not asked.
        present: Whether the class is in the image, ``(B,)`` bool; None is everywhere.
        alone: Whether the image has no other class in it, ``(B,)`` bool; None is everywhere.
        elsewhere: Where it shows other images than one of the class, ``(B, 1, *spatial)`` bool; all
            of an image that does not have the class. None is where ``present`` is False.

    Source:
        Phang et al. 2020; the three gates of the published masker loss are its properties.

    Example:
        >>> import torch
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

    def only(self, rows: Tensor | slice) -> Judgement:
        """Keep some images: ``rows`` is ``(B,)`` bool, indices, or a slice."""
        kept = [None if part is None else part[rows] for part in self]
        return Judgement(*kept)  # type: ignore[arg-type]

    @property
    def as_labeled(self) -> Tensor:
        """``(B,)`` bool: the image shows the class that was asked for, and no other."""
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


# ---- One side of the objective: ``criterion(logits, judgement) -> (B,)``, lower is better.


def entropy(logits: Tensor) -> Tensor:
    """Entropy of each prediction.

    Args:
        logits: ``(B, classes)``.

    Returns:
        ``(B,)``, in nats, between 0 and ``log(classes)``.

    Source:
        Shannon 1948; natural logarithm as in Phang et al. 2020.

    Example:
        >>> import torch
        >>> entropy(torch.zeros(1, 2))
        tensor([0.6931])
    """
    log_probabilities = logits.log_softmax(1)
    return -(log_probabilities.exp() * log_probabilities).sum(1)


class Classification:
    """Recognise the image, or do not: cross entropy to the target, or minus that.

    Args:
        maximize: True pushes towards the target, False away from it.

    Source:
        Phang et al. 2020, the "classification" criterion; not gated, as published.

    Example:
        >>> import torch
        >>> logits = torch.zeros(1, 2)
        >>> said = Judgement(logits, logits, logits, target=torch.tensor([0]))
        >>> Classification()(logits, said), Classification(maximize=False)(logits, said)
        (tensor([0.6931]), tensor([-0.6931]))
    """

    def __init__(self, *, maximize: bool = True) -> None:
        self.maximize = maximize

    def __call__(self, logits: Tensor, judgement: Judgement) -> Tensor:
        """Return a loss for each image, ``(B,)``, in nats."""
        loss = cross_entropy(logits, judgement.target, reduction="none")
        return loss if self.maximize else -loss

    def __repr__(self) -> str:
        return f"Classification(maximize={self.maximize})"


class Entropy:
    """Be unsure of the image, or sure: minus the entropy of the prediction, or plus.

    Args:
        maximize: True pushes towards a uniform prediction, False towards a sure one of whatever
            class.
        gated: Whether an image counts only where its clean version was classified correctly
            (others are 0, and the mean still divides by the whole batch): where there was no
            recognition there is none to take away.

    Source:
        Phang et al. 2020, the "entropy" criterion; gated, as published.

    Example:
        >>> import torch
        >>> clean, unsure = torch.tensor([[0.0, 1.0]]), torch.zeros(1, 2)
        >>> Entropy()(unsure, Judgement(clean, unsure, unsure, target=torch.tensor([1])))
        tensor([-0.6931])
    """

    def __init__(self, *, maximize: bool = True, gated: bool = True) -> None:
        self.maximize = maximize
        self.gated = gated

    def __call__(self, logits: Tensor, judgement: Judgement) -> Tensor:
        """Return a loss for each image, ``(B,)``, in nats."""
        loss = -entropy(logits) if self.maximize else entropy(logits)
        return judgement.correct * loss if self.gated else loss

    def __repr__(self) -> str:
        return f"Entropy(maximize={self.maximize}, gated={self.gated})"


class Hinge:
    """Put the target's logit above all others by a margin, or below the best of them.

    ``relu(best_other - target + margin)``, or with ``maximize=False``
    ``relu(target - best_other + margin)``.

    Args:
        maximize: True pushes towards the target, False away from it.
        margin: Beyond this distance, in logits, nothing is pushed any more.

    Raises:
        ValueError: If the margin is not finite; in use, if there is no second class.

    Source:
        Dabkowski & Gal 2017, their code: ``Hinge(margin=1.0)`` on the preserved image and
        ``Hinge(maximize=False, margin=5.0)`` on the destroyed one.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 1.5, 0.0]])
        >>> said = Judgement(logits, logits, logits, target=torch.tensor([0]))
        >>> Hinge()(logits, said)  # 1.5 - 2 + 1
        tensor([0.5000])
    """

    def __init__(self, *, maximize: bool = True, margin: float = 1.0) -> None:
        if not math.isfinite(margin):
            raise ValueError(f"margin must be finite, but got {margin}; published are 1 and 5.")
        self.maximize = maximize
        self.margin = margin

    def __call__(self, logits: Tensor, judgement: Judgement) -> Tensor:
        """Return a loss for each image, ``(B,)``, in logits."""
        if logits.shape[1] < 2:
            raise ValueError(
                f"Hinge compares the target with another class, but the classifier gives "
                f"{logits.shape[1]} logit; use one with a logit for each of two or more classes."
            )
        index = judgement.target[:, None]
        lead = logits.gather(1, index)[:, 0] - logits.scatter(1, index, -math.inf).amax(1)  # (B,)
        return (self.margin - lead if self.maximize else self.margin + lead).relu()

    def __repr__(self) -> str:
        return f"Hinge(maximize={self.maximize}, margin={self.margin})"


# ---- The masker's objective: masked-in and masked-out images, each judged by a criterion.


class Dual:
    """Recognise the masked-in image, recognise nothing in the masked-out one.

    ``weight_in * mean(inside(logits_in)) + weight_out * mean(outside(logits_out))``. By default
    that is ``CE(logits_in, target) - mean(correct * entropy(logits_out))``. A side that is None or
    weighs nothing is absent: its criterion is not asked.

    Args:
        weight_in: Weight of the masked-in side, >= 0.
        weight_out: Weight of the masked-out side, >= 0.
        inside: Criterion of the masked-in images, or None.
        outside: Criterion of the masked-out images, or None.

    Raises:
        TypeError: If a criterion cannot be called.
        ValueError: If a weight is negative, or no side is left.

    Source:
        Phang et al. 2020, masker loss; the defaults are those of the final model (classification
        in, entropy out).

    Example:
        >>> import torch
        >>> logits, target = torch.tensor([[0.0, 0.0]]), torch.tensor([0])
        >>> Dual()(Judgement(logits, logits, logits, target))  # log 2 - log 2
        tensor(0.)
        >>> Dual(outside=None)(Judgement(logits, logits, logits, target))
        tensor(0.6931)
    """

    def __init__(
        self,
        weight_in: float = 1.0,
        weight_out: float = 1.0,
        *,
        inside: Criterion | None = Classification(),
        outside: Criterion | None = Entropy(),
    ) -> None:
        check_weights(
            weight_in=weight_in,
            weight_out=weight_out,
            way_out="a criterion says itself which way it pushes, as Entropy(maximize=False) does.",
        )
        _check_criteria(inside=inside, outside=outside)
        self.weight_in, self.weight_out = weight_in, weight_out
        self.inside, self.outside = inside, outside
        if (inside is None or not weight_in) and (outside is None or not weight_out):
            raise ValueError(
                f"an objective needs at least one side, but got {self!r}; give inside=... a "
                "criterion and weight_in > 0, or outside=... and weight_out > 0, or both."
            )

    def __call__(self, judgement: Judgement) -> Tensor:
        """Return the scalar loss of a batch."""
        sides = (
            (self.weight_in, self.inside, judgement.logits_in),
            (self.weight_out, self.outside, judgement.logits_out),
        )
        terms = [
            weight * criterion(logits, judgement).mean()
            for weight, criterion, logits in sides
            if criterion is not None and weight
        ]
        return sum(terms[1:], start=terms[0])

    def __repr__(self) -> str:
        weights = f"weight_in={self.weight_in}, weight_out={self.weight_out}"
        return f"Dual({weights}, inside={self.inside}, outside={self.outside})"


def _check_criteria(**criteria: Criterion | None) -> None:
    for name, criterion in criteria.items():
        if criterion is not None and (not callable(criterion) or isinstance(criterion, type)):
            raise TypeError(
                f"{name} must be callable as criterion(logits, judgement) or None, but got "
                f"{criterion!r}; give an object such as Classification() or Entropy()."
            )


# ---- The classifier's objective in joint training.


class KeepRecognizing:
    """The classifier's own loss in joint training: clean, masked-in and masked-out images.

    ``CE(logits) + mean(correct * (weight_in * CE(logits_in) + weight_out * CE(logits_out)))``.
    Learning from the masked-out side is what drives the masker to cover all of the evidence.

    Args:
        weight_in: Weight of the masked-in images, >= 0.
        weight_out: Weight of the masked-out images, >= 0.
        gated: Whether masked images count only where the clean one is recognised.

    Raises:
        ValueError: If a weight is negative.

    Source:
        Phang et al. 2020, classifier loss (both weights 1). Differs: masked images count only
        where the clean one is recognised, as in the masker's loss, so that a classifier trained
        from scratch learns clean images first; ``gated=False`` is as published.

    Example:
        >>> import torch
        >>> logits, target = torch.tensor([[0.0, 0.0]]), torch.tensor([0])
        >>> KeepRecognizing()(Judgement(logits, logits, logits, target))  # 3 log 2
        tensor(2.0794)
    """

    def __init__(
        self, weight_in: float = 1.0, weight_out: float = 1.0, *, gated: bool = True
    ) -> None:
        check_weights(weight_in=weight_in, weight_out=weight_out)
        self.weight_in = weight_in
        self.weight_out = weight_out
        self.gated = gated

    def __call__(self, judgement: Judgement) -> Tensor:
        """Return the scalar loss of a batch."""
        clean, inside, outside = (
            cross_entropy(logits, judgement.target, reduction="none") for logits in judgement[:3]
        )
        masked = self.weight_in * inside + self.weight_out * outside  # (B,)
        return (clean + (judgement.correct * masked if self.gated else masked)).mean()

    def __repr__(self) -> str:
        weights = f"weight_in={self.weight_in}, weight_out={self.weight_out}"
        return f"KeepRecognizing({weights}, gated={self.gated})"


# ---- A masked image should look like any image: its prediction, and how often each class occurs.


class KLToPrior:
    """Predict what one would predict without looking: the divergence from a class prior.

    ``KL(prior || p) = sum prior * log(prior / p)`` for the prediction ``p``, or in reverse
    ``KL(p || prior) = sum p * log(p / prior)``. In reverse and with a uniform prior it is
    ``log(classes)`` minus the entropy.

    Args:
        prior: Probability of each class, ``(classes,)``, such as :func:`class_prior` gives; None
            is uniform over however many logits there are. Kept as numbers, which the repr prints.
        reverse: Whether the divergence is taken from the prediction to the prior.
        gated: Whether an image counts only where its clean version was classified correctly
            (others are 0, and the mean still divides by the whole batch).

    Raises:
        ValueError: If the prior is no distribution, or is zero for a class although ``reverse``
            divides by it; in use, if its length is not the number of logits.

    Source:
        Phang et al. 2020, the "kldivergence" criterion, forward and backward. Differs: published
        for a uniform prior over 1000 classes; its class weights and its subtracted or divided
        priors are left out.

    Example:
        >>> logits = torch.zeros(1, 2)
        >>> said = Judgement(logits, logits, logits, target=torch.tensor([0]))
        >>> KLToPrior([0.75, 0.25])(logits, said)  # 3/4 log 3/2 + 1/4 log 1/2
        tensor([0.1308])
    """

    def __init__(
        self,
        prior: Tensor | Sequence[float] | None = None,
        *,
        reverse: bool = False,
        gated: bool = False,
    ) -> None:
        self.prior = None if prior is None else _numbers(prior)
        self.reverse = reverse
        self.gated = gated
        if reverse and self.prior and not all(self.prior):
            raise ValueError(
                "prior must not be zero for any class where reverse=True divides by it, but "
                f"{self.prior.count(0)} of {len(self.prior)} are; class_prior(labels, classes) "
                "smooths, or take reverse=False."
            )

    def __call__(self, logits: Tensor, judgement: Judgement) -> Tensor:
        """Return a loss for each image, ``(B,)``, in nats."""
        said, prior = logits.log_softmax(1), self._prior_like(logits)
        if self.reverse:
            divergence = (said.exp() * (said - prior.log())).sum(1)
        else:
            divergence = (torch.xlogy(prior, prior) - prior * said).sum(1)  # 0 log 0 = 0
        return judgement.correct * divergence if self.gated else divergence

    def _prior_like(self, logits: Tensor) -> Tensor:
        classes = logits.shape[1]
        if self.prior is not None and len(self.prior) != classes:
            raise ValueError(
                f"prior must have one probability for each of the classifier's {classes} logits, "
                f"but has {len(self.prior)}; class_prior(labels, classes={classes}) gives one."
            )
        return logits.new_tensor(self.prior or [1 / classes] * classes)

    def __repr__(self) -> str:
        return f"KLToPrior(prior={self.prior}, reverse={self.reverse}, gated={self.gated})"


def class_prior(labels: Tensor | Iterable[int], classes: int, *, smoothing: float = 1.0) -> Tensor:
    """Estimate how often each class occurs, none of them never.

    Args:
        labels: Class indices of the data.
        classes: Number of classes.
        smoothing: Images added to the count of every class, > 0, so that a class without an image
            still has a probability.

    Returns:
        ``(count + smoothing) / (images + smoothing * classes)``, shape ``(classes,)``.

    Raises:
        TypeError: If labels are not integers.
        ValueError: If there are none, or one lies outside ``[0, classes)``; or if ``smoothing`` is
            not positive.

    Source:
        Laplace's rule of succession (``smoothing`` 1).

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


def _numbers(prior: Tensor | Sequence[float]) -> list[float]:
    """Read a distribution, and refuse what is none."""
    tensor = torch.as_tensor(prior).detach()
    numbers = tensor.double().flatten().tolist()
    # 1e-3: what is left of a sum of 1 after half precision.
    if tensor.dim() != 1 or not min(numbers, default=-1) >= 0 or not abs(sum(numbers) - 1) < 1e-3:
        raise ValueError(
            "prior must be non-negative probabilities (classes,) that sum to 1, but got shape "
            f"{tuple(tensor.shape)} with minimum {min(numbers, default=math.nan):.4g} and sum "
            f"{sum(numbers):.4g}; divide counts by their sum, or use class_prior(labels, classes)."
        )
    return numbers


# ---- How logits are read as "this class is there": one class of all, or each for itself.


class Belief(Protocol):
    """How a classifier's logits ``(B, classes)`` say whether a class ``(B,)`` is there."""

    def yes(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the log probability that it is, ``(B,)``."""

    def no(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the log probability that it is not, ``(B,)``."""

    def still_there(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return a loss >= 0, ``(B,)``, that is small where nothing of the class is left."""

    def found(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return ``(B,)`` bool: among other things in the image, the class is seen too."""

    def foremost(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return ``(B,)`` bool: the class is what the classifier would say."""


class OneOf:
    """Classes exclude each other: probabilities by softmax, as in ImageNet.

    Nothing of a class is left where its probability is that of a guess, ``1 / classes``.

    Source:
        Own.

    Example:
        >>> import torch
        >>> logits, target = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([0])
        >>> OneOf().yes(logits, target).exp(), OneOf().no(logits, target).exp()
        (tensor([0.5761]), tensor([0.4239]))
        >>> OneOf().still_there(logits, target)  # log(0.5761 / (1 / 3))
        tensor([0.5472])
    """

    def yes(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the log probability that the class is there, ``(B,)``."""
        return _of(target, logits.log_softmax(1))

    def no(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the log probability that it is one of the others, ``(B,)``."""
        others = logits.scatter(1, target[:, None], -math.inf).logsumexp(1)
        return others - logits.logsumexp(1)

    def still_there(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return how far the log probability lies above that of a guess, ``(B,)``, in nats."""
        return (self.yes(logits, target) + math.log(logits.shape[1])).relu()

    def found(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return ``(B,)`` bool: the class is likelier than a guess."""
        return self.yes(logits, target) > -math.log(logits.shape[1])

    def foremost(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return ``(B,)`` bool: no class is likelier."""
        return logits.argmax(1) == target

    def __repr__(self) -> str:
        return "OneOf()"


class AnyOf:
    """Each class is there or is not, whatever the others: probabilities by sigmoid (multi-label).

    Nothing of a class is left as its probability goes to 0.

    Source:
        Own.

    Example:
        >>> import torch
        >>> logits, target = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
        >>> AnyOf().yes(logits, target).exp(), AnyOf().no(logits, target).exp()
        (tensor([0.7311]), tensor([0.2689]))
    """

    def yes(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the log probability that the class is there, ``(B,)``."""
        return logsigmoid(_of(target, logits))

    def no(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the log probability that it is not, ``(B,)``."""
        return logsigmoid(-_of(target, logits))

    def still_there(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the binary cross entropy to "not there", ``(B,)``, in nats."""
        return -self.no(logits, target)

    def found(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return ``(B,)`` bool: the class is there rather than not."""
        return _of(target, logits) > 0

    def foremost(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return ``(B,)`` bool: the class is there rather than not."""
        return self.found(logits, target)

    def __repr__(self) -> str:
        return "AnyOf()"


def _of(target: Tensor, values: Tensor) -> Tensor:
    return values.gather(1, target[:, None])[:, 0]


# ---- The objective of a masker that is asked for a class, which may share the image or be absent.


class Believe:
    """See the class that was asked for where it is there, and do not where it is not.

    ``-log p(target)``, or ``-log(1 - p(target))`` for an absent class. With ``OneOf()`` a class is
    only believed where all the others are excluded, so the mask must keep to its own evidence.

    Args:
        belief: How logits are read.

    Source:
        Own; cross entropy as in Phang et al. 2020 where the class is there.

    Example:
        >>> logits, target = torch.zeros(1, 4), torch.tensor([0])
        >>> said = Judgement(logits, logits, logits, target)
        >>> Believe()(logits, said)  # log 4
        tensor([1.3863])
        >>> Believe()(logits, said._replace(present=torch.tensor([False])))  # -log 3/4
        tensor([0.2877])
    """

    def __init__(self, belief: Belief = OneOf()) -> None:
        self.belief = belief

    def __call__(self, logits: Tensor, judgement: Judgement) -> Tensor:
        """Return a loss for each image, ``(B,)``, in nats."""
        yes = self.belief.yes(logits, judgement.target)
        if judgement.present is None:
            return -yes
        return -torch.where(judgement.present, yes, self.belief.no(logits, judgement.target))

    def __repr__(self) -> str:
        return f"Believe(belief={self.belief})"


class Vanish:
    """Leave nothing of the class that was asked for; other classes may stay.

    An image of one class alone is judged by ``alone``. Of an image with other classes in it only
    the target must vanish, and this counts only where the clean image showed it. An absent class
    is 0: there is nothing to take away.

    Args:
        alone: Criterion for images of one class.
        belief: How logits are read.

    Source:
        Own; ``Entropy()`` is that of Phang et al. 2020, as published.

    Example:
        >>> logits, target = torch.tensor([[1.0, 0.0, 0.0]] * 2), torch.tensor([0, 0])
        >>> said = Judgement(logits, logits, logits, target, alone=torch.tensor([True, False]))
        >>> Vanish()(logits, said)  # minus its entropy; log(0.5761 / (1 / 3))
        tensor([-0.9753,  0.5472])
    """

    def __init__(self, alone: Criterion = Entropy(), belief: Belief = OneOf()) -> None:
        self.alone, self.belief = alone, belief

    def __call__(self, logits: Tensor, judgement: Judgement) -> Tensor:
        """Return a loss for each image, ``(B,)``, in nats."""
        by_itself = self.alone(logits, judgement)
        if judgement.alone is not None:
            left = self.belief.still_there(logits, judgement.target)
            left = left * self.belief.found(judgement.logits, judgement.target)
            by_itself = torch.where(judgement.alone, by_itself, left)
        return by_itself if judgement.present is None else by_itself * judgement.present

    def __repr__(self) -> str:
        return f"Vanish(alone={self.alone}, belief={self.belief})"


def target_aware(belief: Belief = OneOf()) -> Dual:
    """Return the objective of maskers that are asked for a class: the trainer's default for them.

    Args:
        belief: ``OneOf()``, or ``AnyOf()`` for multi-label classifiers.

    Source:
        Own.

    Example:
        >>> target_aware().inside
        Believe(belief=OneOf())
    """
    return Dual(inside=Believe(belief), outside=Vanish(belief=belief))
