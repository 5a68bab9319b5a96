"""The gate of a target-aware masker: its training, and adding one to a trained masker."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import OneCycleLR
from tqdm.auto import tqdm

from captum_masking._base.borrow import eval_mode, given_back
from captum_masking._base.captum import as_tuple
from captum_masking._base.checks import as_indices, check_examples, check_loader, length_of
from captum_masking._base.processes import any_of, from_main, world
from captum_masking.data.batches import read_batch
from captum_masking.model.model import MaskingModel, plain_model
from captum_masking.parts.evidence import Features, evidence
from captum_masking.parts.gate import GatedMasker
from captum_masking.parts.masker import Masker
from captum_masking.parts.questions import (
    AsLabeled,
    Posed,
    Questions,
    Tiled,
    absent_classes,
    classes_in,
    one_label,
)

__all__ = ["absent_to_present", "gated", "train_gate"]


@torch.no_grad()
def absent_to_present(
    model: MaskingModel, inputs: Tensor, target: Tensor, mask: Tensor
) -> dict[str, Tensor]:
    """Measure the mask of an absent class, as a metric of ``evaluate``.

    The area of the mask of an absent class is divided by that of ``mask``, the one for ``target``;
    ``absent_to_present`` is the median of the batch.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.Flatten(), nn.Linear(36, 3))
        >>> example = torch.rand(2, 1, 8, 8)
        >>> model = MaskingModel(network, target_aware=True, example_inputs=example)
        >>> target, mask = torch.tensor([0, 1]), torch.ones(2, 1, 8, 8)
        >>> list(absent_to_present(model, example, target, mask))
        ['absent_to_present']
    """
    logits, features = model.read((inputs,))
    alone = torch.arange(len(target), device=target.device)[:, None]
    there = classes_in(target, alone, logits.shape[1])
    others, possible = absent_classes(logits, there)
    (masks,) = model.decode(features, model.question(logits, target=others))
    area, of_target = (m.flatten(1).mean(1) for m in (masks, mask))
    return {"absent_to_present": (area / of_target)[possible].median()}


class GateQuestions:
    """Ask the mask of a gated masker plain questions, and its gate questions of its own."""

    multi_label = True

    def __init__(self, questions: Questions) -> None:
        self.questions = questions
        self.takes_tiles: bool | None = None

    def __repr__(self) -> str:
        return repr(self.questions)

    def ask(self, inputs: tuple[Tensor, ...], labels: Tensor) -> Posed:
        """Ask of each image as it is for its label, or one of its labels."""
        return replace(self.questions, composed=0.0, absent=0.0).ask(inputs, labels)

    def extra_loss(self, model: MaskingModel, inputs: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        """Compute how wrong the gate is about images that it gets for itself."""
        posed, logits, features = self._read(model, inputs, labels)
        maps = model.for_masker(features.maps)
        losses = [
            model.masker.gate_loss(maps, evidence(features, target), shut)  # type: ignore[operator]
            for target, shut in posed.ask_gate(logits)
        ]
        return torch.stack(losses).mean()

    def _read(
        self, model: MaskingModel, inputs: tuple[Tensor, ...], labels: Tensor
    ) -> tuple[Posed | Tiled, Tensor, Features]:
        """Pose questions and run the classifier, in eval mode, on their images."""
        with eval_mode(model.classifier), torch.no_grad():
            if self._tiles(inputs, labels):
                state = torch.get_rng_state()
                tiled = Tiled.of(inputs[0], labels)
                if self.takes_tiles:
                    return tiled, *model.read(tiled.inputs)
                try:
                    read = model.read(tiled.inputs)
                    self.takes_tiles = True
                    return tiled, *read
                except torch.OutOfMemoryError:  # the size is right, the batch too large
                    raise
                except (RuntimeError, AssertionError, ValueError):
                    self.takes_tiles = False  # it takes inputs of one size only
                    torch.set_rng_state(state)  # a training that is resumed finds out once more
            posed = self.questions.ask(inputs, labels)
            return posed, *model.read(posed.inputs)

    def _tiles(self, inputs: tuple[Tensor, ...], labels: Tensor) -> bool:
        """Draw whether to tile this batch, which takes images in fours; all processes agree."""
        images = len(inputs) == 1 and inputs[0].dim() == 4 and len(labels) >= 4
        drawn = bool(torch.rand(()) < self.questions.tiled)
        possible = images and self.takes_tiles is not False
        if world() == 1:
            return drawn and possible
        return from_main(drawn) and not any_of(not possible, labels.device)


def questions_for(
    model: MaskingModel, questions: AsLabeled | Questions | None
) -> AsLabeled | Questions | GateQuestions:
    """Return the questions of a model's training; None takes the default."""
    if isinstance(model.masker, GatedMasker):
        if isinstance(questions, AsLabeled):
            raise TypeError(f"a gate learns from absent classes: give Questions, not {questions}.")
        return GateQuestions(Questions() if questions is None else questions)
    if questions is None and not model.target_aware:
        return AsLabeled(sized=model.sized)
    return replace(Questions() if questions is None else questions, sized=model.sized)


def gated(model: MaskingModel) -> MaskingModel:
    """Add an untrained gate to the plain masker of a trained model; nothing is copied.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 2))
        >>> model = MaskingModel(network, ["0"], example_inputs=torch.zeros(1, 1, 8, 8))
        >>> gated(model).target_aware
        True
    """
    model = plain_model(model)
    masker = model.masker
    if type(masker) is not Masker or masker.target_aware or masker.sized:
        raise TypeError(
            f"gated takes a model whose masker is a plain Masker, but got "
            f"{type(masker).__name__}; train MaskingModel(classifier, target_aware=True) instead."
        )
    settings: dict[str, Any] = masker.settings
    gated_masker = GatedMasker(
        **{name: settings[name] for name in ("channels", "width", "dims", "evidence")}
    )
    gated_masker.masker = masker
    gated_masker.to(next(masker.parameters()))
    same = ("sampler", "stride", "upsample", "upsample_first", "layouts", "to_logits")
    others = {name: getattr(model, name) for name in same}
    made = MaskingModel(model.classifier, model.layers, masker=gated_masker, **others)
    made.classifier_trained = model.classifier_trained
    return made.train(model.training)


@torch.inference_mode(False)
@torch.enable_grad()
def train_gate(
    model: MaskingModel,
    loader: Iterable[Any],
    epochs: int = 4,
    *,
    questions: Questions | None = None,
    lr: float = 3e-3,
    weight_decay: float = 1e-4,
    show_progress: bool = True,
) -> list[float]:
    """Train only the gate; classifier and mask stay bit-identical.

    Args:
        model: Of :func:`gated`, or target-aware by default.
        loader: Gives batches ``(inputs, labels)``; read once an epoch, and must know its length.
        questions: None is :class:`~captum_masking.parts.questions.Questions`.
        lr: Peak rate of Adam, which rises and falls once.

    Returns:
        Mean loss of each epoch, in nats.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 2))
        >>> model = MaskingModel(network, ["0"], example_inputs=torch.zeros(1, 1, 8, 8))
        >>> batches = [(torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 0, 1]))]
        >>> len(train_gate(gated(model), batches, epochs=3, show_progress=False))
        3
    """
    model = plain_model(model)
    gate, batches = _gate_of(model), _count(loader, epochs)
    asked = GateQuestions(Questions() if questions is None else questions)
    optimizer = Adam(gate.parameters(), lr=lr, weight_decay=weight_decay)
    steps = max(3, batches * epochs)
    # A rise or fall without a step would divide by zero.
    schedule = OneCycleLR(optimizer, lr, total_steps=steps, pct_start=max(0.1, 2 / steps))
    device, means = next(model.masker.parameters()).device, []
    with given_back(model):
        model.eval().requires_grad_(False)
        gate.train().requires_grad_(True)
        for epoch in range(epochs):
            losses: list[float] = []
            name = f"gate, epoch {epoch + 1}/{epochs}"
            bar = tqdm(loader, name, total=batches, disable=not show_progress)
            for batch in bar:
                inputs, labels = read_batch(batch)
                labels = as_indices(labels)
                check_examples(inputs, one_label(labels))
                moved = tuple(tensor.to(device) for tensor in as_tuple(inputs))
                loss = asked.extra_loss(model, moved, labels.to(device))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(float(loss.detach()))
                bar.set_postfix_str(f"loss {sum(losses) / len(losses):.3f}", refresh=False)
            means.append(sum(losses) / len(losses))
    optimizer.zero_grad(set_to_none=True)
    return means


def _gate_of(model: MaskingModel) -> nn.Module:
    if not isinstance(model.masker, GatedMasker):
        raise TypeError(
            f"train_gate needs a model with a GatedMasker, but its masker is "
            f"{type(model.masker).__name__}; gated(model) gives a trained Masker a gate."
        )
    return model.masker.gate


def _count(loader: Any, epochs: int) -> int:
    check_loader(loader, epochs)
    count = length_of(loader)
    if count is None:
        raise TypeError(
            f"train_gate needs to know how many batches there are, but {type(loader).__name__} "
            "has no length; pass a DataLoader over a data set, or a list of batches."
        )
    return count
