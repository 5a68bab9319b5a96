"""A masked image should look like any image: its prediction, and how often each class occurs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from captum_masking.objective.judgement import Judgement


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
