"""A training between two steps, to go on from: networks, optimizers, pool, random state.

Plain containers of tensors and numbers, so that ``torch.save`` writes them and
``torch.load(weights_only=True)`` reads them back without running anything.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from captum_masking.trainer import MaskingTrainer


def training_state(trainer: MaskingTrainer) -> dict[str, Any]:
    """Copy the state of a training between two steps.

    Args:
        trainer: Any.

    Returns:
        The state, detached from the trainer.

    Source:
        Own.

    Example:
        >>> from torch import nn
        >>> from captum_masking import MaskingModel
        >>> classifier = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.LazyLinear(2))
        >>> model = MaskingModel(classifier, ["0"], example_inputs=torch.zeros(1, 1, 8, 8))
        >>> trainer = MaskingTrainer(model)
        >>> sorted(training_state(trainer))
        ['model', 'optimizers', 'original', 'pool', 'pool_is_current', 'random']
    """
    original = getattr(trainer, "original", None)
    state = {
        "model": trainer.model.state_dict(),
        "original": {} if original is None else original.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "pool": trainer.pool.state_dict(),
        "pool_is_current": trainer.pool_is_current,
        "random": torch.get_rng_state(),
    }
    return copy.deepcopy(state)


def load_training_state(trainer: MaskingTrainer, state: dict[str, Any]) -> None:
    """Let a trainer go on where another stopped.

    Args:
        trainer: Made like the one whose state this is, around a classifier of the same kind.
        state: Of :func:`training_state`. The global random state of torch is set from it.

    Raises:
        KeyError: If the state lacks a part.
        ValueError: If it belongs to a trainer with another pool or other optimizers.
        RuntimeError: If its weights do not fit the model.

    Source:
        Own.
    """
    _check_same_kind(trainer, state)
    trainer.model.load_state_dict(state["model"])
    if state["original"]:
        trainer.original.load_state_dict(state["original"])
    for optimizer, saved in zip(trainer.optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    trainer.pool.add(trainer.model.classifier)  # the live classifier; the rest is overwritten
    trainer.pool.load_state_dict(state["pool"])
    trainer.pool_is_current = state["pool_is_current"]
    torch.set_rng_state(state["random"])


def _check_same_kind(trainer: MaskingTrainer, state: dict[str, Any]) -> None:
    """Refuse the state of a frozen training for a joint one, and the other way round."""
    own = (len(trainer.optimizers), hasattr(trainer, "original"))
    if own != (len(state["optimizers"]), bool(state["original"])):
        raise ValueError(
            f"expected the state of a training with {len(trainer.optimizers)} optimizers and "
            f"train_classifier={trainer.joint}, but got one with {len(state['optimizers'])}; make "
            "the trainer as it was when the state was taken."
        )
