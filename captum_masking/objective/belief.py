"""How logits are read as "this class is there": one class of all, or each for itself."""

from __future__ import annotations

import math
from typing import Protocol

from torch import Tensor
from torch.nn.functional import logsigmoid


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
