"""A classifier about to be explained by Captum: its forms, and what stands in a method's way."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from captum.attr import DeepLift
from torch import Tensor, nn

from captum_masking.benchmark.lending import borrowed, quiet, why_no_map
from captum_masking.benchmark.relu6 import RectifiedCap, count_rectifiers, split_relu6

# Of the change in the logit. Where every part has a rule, rounding is all that is missing.
_MOST_UNEXPLAINED = 0.05


@dataclass(frozen=True, eq=False)
class Subject:
    """The forms in which methods need a classifier, and what speaks against them.

    Args:
        classifier: An eager module; it is not changed.
        layer: Whose maps are weighted.
        example: Inputs ``(B, C, H, W)`` to try on; real images at best.

    Source:
        Own.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.SiLU(), nn.Flatten(), nn.Linear(64, 2))
        >>> subject = Subject(network, "1", torch.rand(2, 3, 4, 4))
        >>> subject.no_map(), subject.no_relu()
        ('', 'the classifier has no ReLU, whose gradient it would change')
    """

    classifier: nn.Module
    layer: str
    example: Tensor

    def plain(self) -> nn.Module:
        """Return the classifier as it is."""
        return self.classifier

    def split(self) -> nn.Module:
        """Return a copy in which Captum finds every ReLU."""
        return split_relu6(self.classifier, self.example)

    def split_with_rules(self) -> nn.Module:
        """Return a copy in which DeepLift finds every ReLU, and has a rule for the 6 of ReLU6."""
        return split_relu6(self.classifier, self.example, RectifiedCap)

    def no_map(self) -> str:
        """Say why there are no maps to weight, or nothing."""
        return why_no_map(self.classifier, self.layer, self.example)

    def no_relu(self) -> str:
        """Say why changing the gradient of ``nn.ReLU`` would not do, or nothing."""
        modules, functions = count_rectifiers(self.split(), self.example)
        if functions:
            return (
                f"{functions} of {modules + functions} ReLUs are calls of a function, whose "
                "gradient it cannot change; make them modules, nn.ReLU()"
            )
        return "" if modules else "the classifier has no ReLU, whose gradient it would change"

    def no_sum(self) -> str:
        """Say why DeepLift fails, or nothing: its values have to sum to the change in the logit.

        Where they do not, the network bends in a place that DeepLift has no rule for, such as a
        SiLU, and what comes out is mere gradient there.
        """
        network = borrowed(self.split_with_rules())
        try:
            share = _unexplained(network, self.example.detach().clone())
        except Exception as error:  # whatever a foreign library raises
            return f"{type(error).__name__}: {' '.join(str(error).split())}"
        if share <= _MOST_UNEXPLAINED:
            return ""
        return (
            f"its values miss {share:.0%} of the change in the logit to which they should sum: it "
            "has no rule for some part of the classifier, such as an activation other than ReLU"
        )


def _unexplained(network: nn.Module, inputs: Tensor) -> float:
    """Return the share of the change in the logits of the classes found that DeepLift misses."""
    with torch.no_grad():
        logits, of_zeros = network(inputs), network(torch.zeros_like(inputs))
    target = logits.argmax(1)
    with quiet():
        values = DeepLift(network).attribute(inputs.requires_grad_(), 0, target)
    change = (logits - of_zeros).gather(1, target[:, None])[:, 0]
    missing = change - values.detach().flatten(1).sum(1)
    return float(missing.abs().sum() / change.abs().sum().clamp(min=1e-12))
