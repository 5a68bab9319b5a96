"""What a training was made of, in words: printed, and compared when it is taken up again."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from captum_masking.trainer import MaskingTrainer


def settings_of(trainer: MaskingTrainer) -> dict[str, str]:
    """Say what a trainer was made of, by name, without where things lie in memory.

    Source:
        Own.

    Example:
        See :class:`~captum_masking.trainer.MaskingTrainer`, which prints them.
    """
    optimizer, engine = trainer.masker_optimizer.defaults, trainer.engine
    parts = {
        "model": trainer.model.recipe(),
        "train_classifier": trainer.joint or False,
        "infill": trainer.infill,
        "infill_out": trainer.infill_out,
        "objective": trainer.objective,
        "regularizer": trainer.regularizer,
        "questions": trainer.questions,
        "pool": trainer.pool,
        "lr": optimizer["lr"],
        "weight_decay": optimizer["weight_decay"],
        "schedule": trainer.schedule,
        "max_gradient_norm": engine.max_gradient_norm,
        "skip_not_finite": engine.skip_not_finite,
        "accelerator": engine.describe(),
    }
    return {name: re.sub(r" at 0x[0-9a-f]+", "", str(part)) for name, part in parts.items()}
