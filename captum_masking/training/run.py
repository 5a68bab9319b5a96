"""One call of ``fit``: its progress, which checkpoints save."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.optim import Optimizer

from captum_masking._base.processes import in_all, world
from captum_masking._base.rates import InParts, rise
from captum_masking.training.callbacks import Callback, KeepLatest
from captum_masking.training.checkpoint import (
    Checkpoints,
    causes_in_words,
    check_no_checkpoints,
    check_resumable,
    check_settings,
    load_training_state,
    loader_settings,
    lost_workers_in_words,
    random_state,
    set_random_state,
    training_state,
)
from captum_masking.training.epochs import Loading
from captum_masking.training.records import Record, Records

if TYPE_CHECKING:
    from captum_masking.training.trainer import MaskingTrainer

_WARM_UP = 100  # steps, while the length of a stream is unknown


class Run:
    """One call of ``fit``; its state holds every attribute that changes."""

    def __init__(
        self,
        trainer: MaskingTrainer,
        loading: Loading,
        epochs: int,
        callbacks: Sequence[Callback],
        *,
        validation: Any = None,
        show_progress: bool = True,
    ) -> None:
        self.trainer, self.loading, self.epochs = trainer, loading, epochs
        self.callbacks, self.validation = in_order(callbacks), validation
        self.store = next((c for c in self.callbacks if isinstance(c, Checkpoints)), None)
        self.records = Records(epochs, show_progress=show_progress and trainer.is_main)
        self.known_length = loading.length  # stays None for a stream
        self.seed: int | None = None  # of the current epoch
        self.position = 0  # batches of it that are done
        self.schedules: dict[Optimizer, InParts] = {}

    def begin(self, resume: str | Path | None) -> None:
        """Start from zero or from the newest checkpoint."""
        found, store = None if resume is None else Checkpoints(resume), self.store
        goes_on_there = bool(found and store and store.folder.resolve() == found.folder.resolve())
        if store is not None:
            store.saved = None
            if not goes_on_there:
                check_no_checkpoints(store)
        # A folder with only damaged checkpoints is not empty: it must raise an error.
        if found is not None and (found.steps() or any(found.folder.glob("step-*"))):
            self.load_state_dict(found.latest())
            if store is not None and goes_on_there:
                store.saved = self.trainer.steps_done
            return
        if found is not None:
            warnings.warn(f"{resume} holds no checkpoint yet: a new training starts.", stacklevel=3)
        self.trainer.steps_done = self.trainer.epochs_done = 0
        self.trainer.stopping = None
        self.schedules = self._schedules(self.loading.length)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Run the callbacks around a training, clear its gradients, and tell how to resume."""
        before = random_state()
        try:
            with ExitStack() as around, causes_in_words():
                for callback in self.callbacks:
                    around.enter_context(callback.around(self.trainer))
                for callback in self.callbacks:
                    callback.on_start(self.trainer)
                set_random_state(before)
                yield
        except BaseException as error:
            error.add_note(self._whereabouts())
            raise
        finally:
            self.trainer.forget_gradients()

    def batches(self) -> Iterator[tuple[Any, Tensor]]:
        """Yield the rest of the current epoch under a progress bar."""
        loading = self.loading
        if self.seed is None:
            self.seed = loading.draw_seed()
        loading.set_epoch(self.trainer.epochs_done)
        batches = self._read(self.seed)
        yield from self.records.epoch(batches, start=self.position, total=loading.length)
        if self.position == 0:
            raise ValueError("expected a batch, but the loader gave none; check its data.")

    @property
    def progress(self) -> float:
        """The fraction of the training that is done; for a stream, in whole epochs."""
        in_epoch = 0.0 if self.loading.length is None else self.position / self.loading.length
        return (self.trainer.epochs_done + in_epoch) / self.epochs

    def advance(self, record: Record, examples: int, optimizers: Sequence[Optimizer]) -> None:
        """Record a step, and advance the learning rates of these optimizers."""
        self.records.add(record, in_all(examples, self.trainer.device))
        for optimizer in optimizers:
            _advance(self.schedules[optimizer])
        self.position += 1

    def close_epoch(self) -> Record:
        self.trainer.finish_update()
        if self.loading.length is None:
            self._learn_length()
        record = self.records.close(self.validate())
        record |= self._steps_of_each()
        self.trainer.epochs_done += 1
        self.seed, self.position = None, 0
        return record

    def _steps_of_each(self) -> Record:
        """Count the steps of each network so far."""
        optimizers = self.trainer.optimizers
        names = ["masker_steps", "classifier_steps"][: len(optimizers)]
        taken = (float(self.schedules[optimizer].last_epoch) for optimizer in optimizers)
        return dict(zip(names, taken, strict=True))

    def validate(self) -> Record:
        if self.validation is None:
            return {}
        metrics = [callback.measure for callback in self.callbacks]
        return self.trainer.evaluate(self.validation, metrics=metrics)

    def _read(self, seed: int) -> Iterator[tuple[Any, Tensor]]:
        try:
            with lost_workers_in_words():
                yield from self.loading.batches(seed, self.position)
        except Exception:  # perhaps because Ctrl-C ended the loader's workers
            if self.store is not None and world() == 1:
                self.store.save_if_interrupted(self.trainer)
            raise

    def _schedules(self, length: int | None) -> dict[Optimizer, InParts]:
        """Give each network a schedule for each part of its steps."""
        if length is None:
            return {each: InParts(each, rise, [_WARM_UP]) for each in self.trainer.optimizers}
        parts = self.trainer.parts_of_each(length * self.epochs)
        return {each: InParts(each, self.trainer.schedule, parts[each]) for each in parts}

    def _learn_length(self) -> None:
        """Note the length of a stream at its end, and set learning rates accordingly."""
        self.loading.length = self.position
        taken = {optimizer: schedule.last_epoch for optimizer, schedule in self.schedules.items()}
        self.schedules = self._schedules(self.position)
        for optimizer, schedule in self.schedules.items():
            for _ in range(taken[optimizer]):
                _advance(schedule)

    def state_dict(self) -> dict[str, Any]:
        """Return the state from which a run continues; every process must call this."""
        return {
            "settings": self.settings(),
            "trainer": training_state(self.trainer),
            "seed": self.seed,
            "position": self.position,
            "epochs_done": self.trainer.epochs_done,
            "stopping": self.trainer.stopping,
            "length": self.loading.length,
            "loading": self.loading.state_dict(),
            "schedules": [schedule.state_dict() for schedule in self.schedules.values()],
            "records": self.records.state_dict(),
            "callbacks": [callback.state_dict() for callback in self._saved()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state; change nothing if its settings differ."""
        trainer = self.trainer
        check_settings(state["settings"], self.settings())
        check_resumable(trainer, state["trainer"])
        self.loading.length = state["length"]
        self.loading.load_state_dict(state["loading"])
        self.schedules = self._schedules(self.loading.length)  # resets the learning rates
        load_training_state(trainer, state["trainer"])  # restores them
        for schedule, saved in zip(self.schedules.values(), state["schedules"], strict=True):
            schedule.load_state_dict(saved)
        self.seed, self.position = state["seed"], state["position"]
        trainer.epochs_done, trainer.stopping = state["epochs_done"], state["stopping"]
        self.records.load_state_dict(state["records"])
        for callback, saved in zip(self._saved(), state["callbacks"], strict=True):
            callback.load_state_dict(saved)

    def settings(self) -> dict[str, str]:
        """Describe the settings that must match to resume a training."""
        return {
            "epochs": str(self.epochs),
            "batches in an epoch": str(self.loading.steps or self.known_length),
            **loader_settings(self.loading),
            "validation": str(self.validation is not None),
            "callbacks": str([callback.setting() for callback in self._saved()]),
        }

    def _saved(self) -> list[Callback]:
        return [callback for callback in self.callbacks if callback.in_checkpoint]

    def _whereabouts(self) -> str:
        done, store = self.trainer.steps_done, self.store
        epoch = min(self.trainer.epochs_done + 1, self.epochs)
        if store is None:
            way_on = "To save checkpoints, use fit(..., callbacks=[Checkpoints(folder)])."
        elif store.saved is None:
            way_on = "There was no checkpoint yet."
        else:
            way_on = f"Resume from step {store.saved} with fit(..., resume={str(store.folder)!r})."
        return (
            f"The training stopped after step {done}, in epoch {epoch} of {self.epochs}. {way_on}"
        )


def in_order(callbacks: Sequence[Callback]) -> list[Callback]:
    """Put the callback that keeps a state first, and the one that saves checkpoints last."""
    keeps = [callback for callback in callbacks if isinstance(callback, KeepLatest)]
    saves = [callback for callback in callbacks if isinstance(callback, Checkpoints)]
    if len(keeps) > 1 or len(saves) > 1:
        raise ValueError(
            f"expected at most one callback that keeps a state and one that saves checkpoints, but "
            f"got {[*keeps, *saves]}; remove the others."
        )
    others = [c for c in callbacks if not isinstance(c, (KeepLatest, Checkpoints))]
    return [*(keeps or [KeepLatest()]), *others, *saves]


def _advance(schedule: InParts) -> None:
    """Advance a schedule, even if the optimizer skipped its step."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected call of")
        schedule.step()
