"""Train the classifier jointly with its masker."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from captum_masking._base.borrow import evaluated
from captum_masking._base.captum import ToLogits, as_they_are, find_to_logits, two_classes
from captum_masking._base.processes import average_buffers
from captum_masking._base.rates import cosine
from captum_masking.model.model import MaskingModel
from captum_masking.model.taps import logits_of
from captum_masking.parts.infill import Infill, Mean
from captum_masking.parts.masker import nearest
from captum_masking.parts.masking import masked_halves
from captum_masking.parts.objective import Judgement, KeepRecognizing, Objective
from captum_masking.parts.pool import copied
from captum_masking.parts.questions import as_labeled
from captum_masking.training.update import parameters_of

__all__ = ["FineTune", "FromScratch", "harden", "train_alone"]


@dataclass(frozen=True)
class FineTune:
    """Joint training of a trained classifier: gentle fine-tuning.

    The masker trains alone for the first half of the steps, then both train. Learning rates rise
    and fall once in each half. The current classifier judges; after its first 1,000 steps, its
    past states judge, too. Records count the steps of each network: ``masker_steps``,
    ``classifier_steps``.

    Args:
        lr: Peak learning rate.
        optimizer: Called as ``optimizer(parameters, lr=lr)``.
        train_mode: Whether the clean pass runs in train mode. False keeps the batch-norm
            statistics and switches dropout off.
        judge_in_train_mode: Whether the classifier also judges masked images in train mode, as in
            the published code.
        objective: The classifier's loss on steps in which it is the judge.
        stay: Weight of the cross entropy to the classifier's original predictions on clean images;
            0 saves one forward pass per step.
        classifier_first: Fraction of the steps in which the classifier trains alone, on clean
            images. An untrained classifier has no evidence to find.
        masker_first: The masker trains alone until this fraction of the steps. A trained
            classifier has nothing to learn from the first masks.

    Example:
        >>> FineTune(lr=1e-4).lr
        0.0001
    """

    lr: float = 1e-3
    optimizer: Callable[..., torch.optim.Optimizer] = partial(torch.optim.SGD, momentum=0.9)
    train_mode: bool = False
    judge_in_train_mode: bool = False
    objective: Objective = KeepRecognizing(gated=False)
    stay: float = 10.0
    classifier_first: float = 0.0
    masker_first: float = 0.5


@dataclass(frozen=True)
class FromScratch(FineTune):
    """Joint training of an untrained classifier; takes the arguments of :class:`FineTune`.

    Example:
        >>> FromScratch().train_mode
        True
    """

    lr: float = 3e-3
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW
    train_mode: bool = True
    objective: Objective = KeepRecognizing()
    stay: float = 0.0
    classifier_first: float = 0.3
    masker_first: float = 0.0


class ClassifierTraining:
    """Train the parameters of a classifier that require a gradient, or all if none does."""

    def __init__(self, model: MaskingModel, how: FineTune) -> None:
        classifier = model.classifier
        self.classifier, self.how, self.logits_of = classifier, how, model.logits_of
        parameters = list(classifier.parameters())
        trained = [p for p in parameters if p.requires_grad]
        if parameters and not trained:
            warnings.warn(
                "every parameter of this classifier has requires_grad=False, but joint training "
                "trains all of them; use train_classifier=False to leave it unchanged, or set "
                "requires_grad=True for the layers to train.",
                stacklevel=3,
            )
        trained = trained or parameters
        self.optimizer = how.optimizer(trained, lr=how.lr)
        self.original: nn.Module | None = None
        if how.stay:
            self.original = copy.deepcopy(classifier).eval().requires_grad_(False)
        self._before = {} if how.stay else copied(classifier.state_dict())

    @property
    def before(self) -> dict[str, Tensor]:
        """The classifier's weights and buffers before training."""
        return self._before if self.original is None else self.original.state_dict()

    def set_modes(self) -> None:
        # If the classifier is in train mode, keep submodules that a user put in eval mode.
        if not (self.how.train_mode and self.classifier.training):
            self.classifier.train(self.how.train_mode)
        for parameter in parameters_of(self.optimizer):
            parameter.requires_grad_(True)

    def loss(self, judgement: Judgement, inputs: tuple[Tensor, ...], judge: nn.Module) -> Tensor:
        """Return the loss on all three images, or on the clean one if a past classifier judged."""
        known = as_labeled(judgement)[0]  # it learns only from unchanged images and their labels
        if not known.as_labeled.any():
            return judgement.logits.sum() * 0
        clean = cross_entropy(known.logits, known.target)
        loss = self.how.objective(known) if judge is self.classifier else clean
        if self.original is not None:
            with torch.no_grad():
                answer = self.logits_of(self.original(*inputs)).softmax(1)
            loss = loss + self.how.stay * cross_entropy(judgement.logits, answer)
        return loss

    def agree(self) -> None:
        if self.how.train_mode:
            average_buffers(self.classifier)


def train_alone(
    classifier: nn.Module, loader: Iterable[Any], epochs: int = 4, *, lr: float = 5e-3
) -> None:
    """Train a classifier without a masker, for examples.

    Args:
        classifier: Trained in place, and left in eval mode.
        loader: Yields batches ``(inputs, labels)`` and has a length.
        lr: Peak learning rate of AdamW; the rate rises and falls once.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> train_alone(network, [(torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 1]))])
        >>> network.training
        False
    """
    classifier.train()
    optimizer = torch.optim.AdamW(classifier.parameters())
    steps = epochs * len(loader)  # type: ignore[arg-type]
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    for _ in range(epochs):
        for inputs, labels in loader:
            optimizer.zero_grad()
            cross_entropy(classifier(inputs), labels).backward()
            optimizer.step()
            rates.step()
    classifier.eval()


def harden(
    classifier: nn.Module,
    loader: Iterable[Any],
    epochs: int = 4,
    *,
    infill: Infill = Mean(),
    cells: int = 7,
    lr: float = 1e-2,
    show_progress: bool = True,
) -> nn.Module:
    """Return a copy in eval mode that predicts from half an image what the original does from all.

    The cells of a grid are split at random into two halves. The copy learns, without labels, to
    give the classifier's prediction on each half and on the whole image. Batch norm keeps its
    statistics. With the copy as judge (:class:`~captum_masking.parts.pool.OneJudge`), masked
    images are familiar to the judge, and the classifier does not change.

    Args:
        classifier: Maps ``(B, C, *spatial)`` to logits; left bit-identical.
        loader: Yields batches ``(inputs, labels)`` and has a length; labels are not used.
        infill: Fills the removed part.
        cells: Cells along each side of the grid.
        lr: Peak learning rate of SGD; the rate rises and falls once.

    Source:
        Like random erasing (Zhong et al. 2020), but by distillation.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 2))
        >>> judge = harden(network, [(torch.rand(3, 1, 8, 8), None)], 2, show_progress=False)
        >>> bool((judge[0].weight == network[0].weight).all())
        False
    """
    to_logits: ToLogits | None = None

    def read(network: nn.Module, shown: Tensor) -> Tensor:
        return two_classes((to_logits or as_they_are)(logits_of(network(shown))))

    with evaluated(classifier) as teacher:
        student = copy.deepcopy(teacher).eval().requires_grad_(True)
        optimizer = torch.optim.SGD(student.parameters(), lr, momentum=0.9)
        steps = epochs * len(loader)  # type: ignore[arg-type]
        rates = cosine(optimizer, steps)
        with tqdm(total=steps, desc="hardening", disable=not show_progress) as bar:
            for _ in range(epochs):
                for inputs, *_ in loader:
                    images = (inputs,)
                    halves = masked_halves(images, (_random_half(inputs, cells),), infill)
                    with torch.no_grad():
                        output = logits_of(teacher(inputs))
                        to_logits = to_logits or find_to_logits(teacher, output, images, teacher)
                        answer = read(teacher, inputs).softmax(1)
                    shown = torch.cat([*halves, inputs])
                    loss = cross_entropy(read(student, shown), answer.repeat(3, 1))
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    rates.step()
                    bar.update()
    return student.requires_grad_(False)


def _random_half(inputs: Tensor, cells: int) -> Tensor:
    """Draw half of the cells of a grid for each image, ``(B, 1, *spatial)``."""
    grid = torch.rand(len(inputs), 1, *[cells] * (inputs.dim() - 2), device=inputs.device)
    chosen = grid > grid.flatten(1).median(1).values.reshape(-1, *[1] * (grid.dim() - 1))
    return nearest(chosen.to(inputs), inputs.shape[2:])
