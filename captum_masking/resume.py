"""A training between two steps, to go on from: networks, optimizers, pool, random states.

Plain containers of tensors and numbers, which :mod:`captum_masking.checkpoint` writes and reads
without pickle.
"""

from __future__ import annotations

import copy
import random
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from captum_masking.engine import parameters_of
from captum_masking.processes import gathered, rank, world

if TYPE_CHECKING:
    from captum_masking.loading import Loading
    from captum_masking.trainer import MaskingTrainer

_LISTED = 4  # tensors that an error names; the others it counts


def training_state(trainer: MaskingTrainer) -> dict[str, Any]:
    """Copy the state of a training between two updates.

    Args:
        trainer: Any. In a training over several processes all of them must call this.

    Returns:
        The state, detached from the trainer.

    Raises:
        RuntimeError: If gradients are being accumulated; they are not part of a state.

    Source:
        Own.

    Example:
        >>> from torch import nn
        >>> from captum_masking import MaskingModel, MaskingTrainer
        >>> classifier = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.LazyLinear(2))
        >>> model = MaskingModel(classifier, ["0"], example_inputs=torch.zeros(1, 1, 8, 8))
        >>> sorted(training_state(MaskingTrainer(model)))[:4]
        ['model', 'optimizers', 'original', 'pool']
    """
    if trainer.engine.between_updates:
        raise RuntimeError(
            "a state is taken between updates, but gradients of "
            f"{trainer.engine.batches} of {trainer.engine.accumulate} batches are waiting; take "
            "it after a step that completes an update."
        )
    original = getattr(trainer, "original", None)
    scaler = trainer.engine.scaler
    state = {
        "settings": trainer.settings(),
        "model": trainer.model.state_dict(),
        "trained": _trained(trainer),
        "original": {} if original is None else original.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "scaler": {} if scaler is None else scaler.state_dict(),
        "pool": trainer.pool.state_dict(),
        "pool_is_current": trainer.pool_is_current,
        "steps_done": trainer.steps_done,
        "random": gathered(random_state()),
        "torch": str(torch.__version__),
    }
    return copy.deepcopy(state)


def load_training_state(trainer: MaskingTrainer, state: dict[str, Any]) -> None:
    """Let a trainer go on where another stopped.

    Args:
        trainer: Made like the one whose state this is, around a classifier of the same kind.
        state: Of :func:`training_state`. The random states of torch, Python and numpy are set
            from it.

    Raises:
        KeyError: If the state lacks a part.
        ValueError: As for :func:`check_resumable`; the trainer is then as before.

    Source:
        Own.
    """
    check_resumable(trainer, state)
    if state["torch"] != str(torch.__version__):
        warnings.warn(
            f"this training was begun under torch {state['torch']} and goes on under "
            f"{torch.__version__}: it will not be what it would have been, bit by bit.",
            stacklevel=2,
        )
    trainer.model.load_state_dict(state["model"])
    if trainer.original is not None:
        trainer.original.load_state_dict(state["original"])
    for optimizer, saved in zip(trainer.optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    if trainer.engine.scaler is not None:
        trainer.engine.scaler.load_state_dict(state["scaler"])
    trainer.pool.add(trainer.model.classifier)  # the live classifier; the rest is overwritten
    trainer.pool.load_state_dict(state["pool"])
    trainer.pool_is_current = state["pool_is_current"]
    trainer.steps_done = state["steps_done"]
    _set_own_random_state(state["random"])


def check_resumable(trainer: MaskingTrainer, state: dict[str, Any]) -> None:
    """Refuse a state that does not belong to a trainer like this one.

    Args:
        trainer: Is looked at only.
        state: Of :func:`training_state`.

    Raises:
        ValueError: If the settings differ, the shapes of weights, which of them are trained, or
            the weights of a classifier that is to stay as it is. The message names what differs.

    Source:
        Own.
    """
    check_settings(state["settings"], trainer.settings())
    saved, own = state["model"], trainer.model.state_dict()
    _check_alike("a model of the same architecture", _shapes(saved), _shapes(own))
    trained = _marked(state["trained"]), _marked(_trained(trainer))
    _check_alike("the same layers to be trained", *trained, absent="frozen")
    if trainer.joint is None:
        _check_frozen(saved, own)


def check_settings(saved: dict[str, str], own: dict[str, str]) -> None:
    """Refuse to go on with other settings than a training was begun with.

    Args:
        saved: Words by name.
        own: Likewise.

    Raises:
        ValueError: Naming every setting that differs, with both.

    Source:
        Own.

    Example:
        >>> check_settings({"lr": "0.1"}, {"lr": "0.2"})
        Traceback (most recent call last):
        ValueError: expected the settings that this training was begun with, but 1 differ:
          lr: was 0.1, is 0.2
        Make the trainer, the loader and the call of fit() as they were, or begin a new training.
    """
    names = [n for n in {**saved, **own} if saved.get(n) != own.get(n)]
    if names:
        lines = [f"  {n}: was {saved.get(n, 'absent')}, is {own.get(n, 'absent')}" for n in names]
        raise ValueError(
            "expected the settings that this training was begun with, but "
            + f"{len(names)} differ:\n"
            + "\n".join(lines)
            + "\nMake the trainer, the loader and the call of fit() as they were, or begin a new "
            "training."
        )


def loader_settings(loading: Loading) -> dict[str, str]:
    """Name what decides which images are in which batch, in words.

    Args:
        loading: Of a loader of any kind.

    Source:
        Own.

    Example:
        >>> from captum_masking.loading import Loading
        >>> loader_settings(Loading([(torch.zeros(1, 3, 8, 8), torch.zeros(1))]))
        {'batch_size': 'None', 'num_workers': 'None'}
    """
    loader = loading.loader
    batch_size = str(getattr(loader, "batch_size", None))
    if not loading.is_planned:  # where several workers take turns in giving batches
        return {"batch_size": batch_size, "num_workers": str(getattr(loader, "num_workers", None))}
    images, sampler = str(len(loader.dataset)), type(loader.sampler).__name__
    return {"batch_size": batch_size, "images": images, "sampler": sampler}


def random_state() -> dict[str, Any]:
    """Return the states of all random numbers of this process that a training may draw.

    Source:
        Own.

    Example:
        >>> state, first = random_state(), torch.rand(())
        >>> set_random_state(state)
        >>> torch.rand(()) == first
        tensor(True)
    """
    kind, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": random.getstate(),
        "numpy": (str(kind), torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Set the random numbers of this process.

    Args:
        state: Of :func:`random_state`.

    Source:
        Own.
    """
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))


def _trained(trainer: MaskingTrainer) -> list[list[str]]:
    """Name the parameters of each optimizer."""
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    return [[names[p] for p in parameters_of(o)] for o in trainer.optimizers]


def _marked(trained: list[list[str]]) -> dict[str, str]:
    return {name: "trained" for names in trained for name in names}


def _shapes(tensors: dict[str, Tensor]) -> dict[str, str]:
    return {name: str(tuple(tensor.shape)) for name, tensor in tensors.items()}


def _check_alike(
    what: str, saved: dict[str, str], own: dict[str, str], *, absent: str = "absent"
) -> None:
    """Refuse tensors of which something else was said, by name."""
    names = [n for n in {**saved, **own} if saved.get(n) != own.get(n)]
    if names:
        raise ValueError(
            f"expected {what} as when this training was begun, but {len(names)} tensors differ:\n"
            + _listed([f"{n}: was {saved.get(n, absent)}, is {own.get(n, absent)}" for n in names])
            + "\nMake the model as it was, or begin a new training."
        )


def _check_frozen(saved: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    """Refuse to overwrite a classifier that is to stay as it is."""
    frozen = [name for name in own if name.startswith("classifier.")]
    names = [n for n in frozen if not torch.equal(saved[n].cpu(), own[n].cpu())]
    if names:
        raise ValueError(
            "expected the frozen classifier that this training was begun with, but "
            f"{len(names)} tensors have other values:\n{_listed(names)}\n"
            "Give that classifier, or begin a new training."
        )


def _listed(lines: list[str]) -> str:
    more = [f"and {len(lines) - _LISTED} more"] * (len(lines) > _LISTED)
    return "\n".join(f"  {line}" for line in lines[:_LISTED] + more)


def _set_own_random_state(states: list[dict[str, Any]]) -> None:
    if len(states) != world():
        warnings.warn(
            f"this training was begun in {len(states)} processes and goes on in {world()}: it "
            "will not be what it would have been, bit by bit.",
            stacklevel=3,
        )
    set_random_state(states[rank() % len(states)])
