"""An ensemble of maskers: their mean mask, and where they disagree."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from captum_masking._base.borrow import evaluated
from captum_masking._base.captum import as_class_logits, class_indices, log_usage
from captum_masking.methods.base import Relative, Target
from captum_masking.model.model import MaskingModel, plain_model
from captum_masking.parts.pool import History


class Ensemble(Relative):
    r"""Several maskers: their mean mask, and its standard deviation.

    .. math:: \bar m = \frac{1}{n} \sum_i m_i, \qquad
        s = \sqrt{\frac{1}{n} \sum_i (m_i - \bar m)^2}

    The map is the mean mask; ``return_std=True`` also returns the spread, in [0, 0.5]. Members with
    the same classifier and layers share its forward pass: train them with different seeds and
    ``train_classifier=False``, or load them with one classifier.

    Args:
        forward_func: Masking models.

    Attributes:
        members: The models.

    Source:
        Own; the spread of an ensemble as uncertainty is that of Lakshminarayanan et al. 2017.

    Example:
        >>> classifier = nn.Sequential(
        ...     nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 8, 3, 2), nn.ReLU(),
        ...     nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
        ... )
        >>> ensemble = Ensemble([MaskingModel(classifier) for seed in range(3)])
        >>> mean, spread = ensemble.attribute(torch.rand(2, 3, 32, 32), return_std=True)
        >>> mean.shape, spread.shape
        (torch.Size([2, 3, 32, 32]), torch.Size([2, 3, 32, 32]))
    """

    def __init__(self, forward_func: MaskingModel | Sequence[MaskingModel]) -> None:
        given = [forward_func] if isinstance(forward_func, nn.Module) else list(forward_func)
        self.members = [plain_model(member) for member in given]
        taken = {member.inputs_taken for member in self.members}
        if len(taken) != 1:
            raise ValueError(
                f"expected one or more masking models with the same number of inputs, but "
                f"got {len(self.members)} with {sorted(taken)}."
            )
        super().__init__(_Members(self.members))
        self._warned = False

    @classmethod
    def of_pool(cls, model: MaskingModel, pool: History) -> Ensemble:
        """Make members from a model and the past classifiers of its training's pool.

        The masker is the same, so the spread shows how changes of the classifier change its map.
        """
        members = [model]
        for weights in pool.members:
            members.append(copy.deepcopy(model))
            members[-1].classifier.load_state_dict(weights)
        return cls(members)

    @log_usage(part_of_slo=True)
    def attribute(
        self,
        inputs: Any,
        target: Target = None,
        additional_forward_args: Any = None,
        *,
        area: float | Tensor | None = None,
        return_std: bool = False,
    ) -> Any:
        """Return the mean mask; arguments are those of :mod:`captum_masking.methods`.

        Args:
            area: As for :class:`~captum_masking.MaskingSaliency`.
            return_std: Whether to return ``(mean, spread)``.
        """
        tensors, extra = self._checked(inputs, additional_forward_args)
        masks = [x[None] for x in tensors]  # (members, B, 1, *spatial) each
        if len(tensors[0]):
            with evaluated(self.forward_func) as lent, torch.no_grad():
                masks = self._masks(lent.members, tensors, extra, target, area)
        mean = self._shaped([each.mean(0) for each in masks], inputs)
        if not return_std:
            return mean
        return mean, self._shaped([each.std(0, correction=0) for each in masks], inputs)

    def _masks(
        self,
        members: Sequence[MaskingModel],
        tensors: Sequence[Tensor],
        extra: tuple[Any, ...],
        target: Target,
        area: float | Tensor | None,
    ) -> list[Tensor]:
        """Return the masks of all members, one classifier pass for those that read alike."""
        passes: dict[tuple[Any, ...], Any] = {}
        found = []
        for member in members:
            alike = (id(member.classifier), member.layers, member.layouts, member.reads_evidence)
            if alike not in passes:
                passes[alike] = member.read(tuple(tensors), *extra)
            logits, features = passes[alike]
            classes = None if callable(target) else class_indices(logits, target)
            if member.target_aware and classes is None:
                raise TypeError(
                    "these masks follow a class, but target is a callable; pass a class, or "
                    "maskers that were trained without targets."
                )
            self._say_once(member, logits, target, classes)
            question = member.question(logits, target=classes, area=area)
            found.append(member.decode(features, question))
        return [torch.stack(masks) for masks in zip(*found, strict=True)]

    def _say_once(
        self, member: MaskingModel, logits: Tensor, target: Target, classes: Tensor | None
    ) -> None:
        if classes is None or target is None or member.target_aware or self._warned:
            return
        if (classes != as_class_logits(logits).argmax(1)).any():
            self._warned = True
            warnings.warn(
                "the target is not the predicted class, but maps of maskers that were trained "
                "without targets do not depend on it: MaskingModel(classifier, target_aware=True).",
                stacklevel=4,
            )


class _Members(nn.Module):
    """All members as one module, which answers like the first."""

    def __init__(self, members: Sequence[MaskingModel]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, inputs: Tensor, *extra: Any) -> Tensor:
        answer: Tensor = self.members[0](inputs, *extra)
        return answer
