"""One call of ``fit``: the loop around the steps, and all of it that a checkpoint holds."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from captum_masking.best import Newest
from captum_masking.callbacks import Callback
from captum_masking.checkpoint import Checkpoints, check_no_checkpoints
from captum_masking.figures import Figures, Record
from captum_masking.inputs import Inputs
from captum_masking.loading import Loading
from captum_masking.monitor import Monitor
from captum_masking.processes import any_of, from_main, gathered, in_all, world
from captum_masking.rates import constant
from captum_masking.resume import (
    check_resumable,
    check_settings,
    load_training_state,
    loader_settings,
    random_state,
    set_random_state,
    training_state,
)
from captum_masking.stopping import (
    Signals,
    causes_in_words,
    check_writable,
    lost_workers_in_words,
)

if TYPE_CHECKING:
    from captum_masking.trainer import MaskingTrainer

_WARM_UP = 100  # steps, where nobody knows yet how many there will be


class Run:
    """Trains for some epochs; every attribute that changes meanwhile is part of its state.

    Args:
        trainer: Takes the steps.
        loading: The batches.
        epochs: Passes over them.
        monitor: Keeps the records.
        validation: A loader of other images, or None.
        figures: What else to measure on them.
        keep: Chooses the state that is kept.
        callbacks: Watch, and may end the training.
        checkpoints: Written as they are due; None for none.

    Source:
        Own.
    """

    def __init__(
        self,
        trainer: MaskingTrainer,
        loading: Loading,
        epochs: int,
        *,
        monitor: Monitor,
        validation: Any = None,
        figures: Sequence[Figures] = (),
        keep: Newest,
        callbacks: Sequence[Callback] = (),
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self.trainer, self.loading, self.epochs = trainer, loading, epochs
        self.monitor, self.validation, self.keep = monitor, validation, keep
        self.figures, self.callbacks, self.checkpoints = figures, callbacks, checkpoints
        self.signals = Signals()
        self.known_length = loading.length  # of a stream, None also when it has been found out
        self.has_started = False
        self.seed: int | None = None  # of the running epoch
        self.position = 0  # batches of it that are done
        self.is_due = False  # a checkpoint, as soon as no gradients are waiting
        self.saved: int | None = None  # step of the last checkpoint
        self.schedules: dict[Optimizer, LRScheduler] = {}  # until it is begun or resumed

    def go(self) -> list[Record]:
        """Train until the end, an error, or a callback's or the user's word."""
        trainer = self.trainer
        if not self.schedules:
            self._begin()
        with self._left_in_order(), causes_in_words():
            if self.checkpoints is not None and trainer.is_main:
                check_writable(self.checkpoints.folder)
            if self.validation is not None and not self.has_started:
                self.keep.start(self._validate())
            self.has_started = True
            self._start_callbacks()
            while trainer.epochs_done < self.epochs and trainer.stopping is None:
                self._epoch()
            for callback in self.callbacks:
                callback.on_end(trainer, self.monitor.records)
            self._save()
            self.keep.restore(trainer.model)
            self.signals.act()
        return self.monitor.records

    def state_dict(self) -> dict[str, Any]:
        """Return all that a run made alike needs to go on; every process must call this."""
        names = ("has_started", "seed", "position")
        return {
            "settings": self.settings(),
            "trainer": training_state(self.trainer),
            **{name: getattr(self, name) for name in names},
            "epochs_done": self.trainer.epochs_done,
            "stopping": self.trainer.stopping,
            "length": self.loading.length,
            "loading": self.loading.state_dict(),
            "schedules": [schedule.state_dict() for schedule in self.schedules.values()],
            "monitor": self.monitor.state_dict(),
            "keep": self.keep.state_dict(),
            "callbacks": [callback.state_dict() for callback in self.callbacks],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there.

        Raises:
            ValueError: If the state is that of a run with other settings, which are named. Nothing
                has changed then.
        """
        check_settings(state["settings"], self.settings())
        check_resumable(self.trainer, state["trainer"])
        self.loading.length = state["length"]
        self.loading.load_state_dict(state["loading"])
        self.schedules = self._schedules(self.loading.length)  # sets the rates to their first ones
        load_training_state(self.trainer, state["trainer"])  # and this to those of now
        for schedule, saved in zip(self.schedules.values(), state["schedules"], strict=True):
            schedule.load_state_dict(saved)
        for name in ("has_started", "seed", "position"):
            setattr(self, name, state[name])
        self.trainer.epochs_done = state["epochs_done"]
        self.trainer.stopping = state["stopping"]
        self.monitor.load_state_dict(state["monitor"])
        self.keep.load_state_dict(state["keep"])
        for callback, saved in zip(self.callbacks, state["callbacks"], strict=True):
            callback.load_state_dict(saved)

    def resume(self, folder: str | Path) -> None:
        """Go on from the newest checkpoint in a folder; without one, begin.

        Raises:
            CheckpointError: If there are checkpoints, but none that can be read.
            FileExistsError: If those of another training are where this one is to save its own.
            ValueError: As for :meth:`load_state_dict`.
        """
        found, own = Checkpoints(folder), self.checkpoints
        goes_on_there = own is not None and own.folder.resolve() == found.folder.resolve()
        if own is not None and not goes_on_there:
            check_no_checkpoints(own)
        # A damaged one may be all that is left: not to be taken for none.
        if not found.steps() and not any(found.folder.glob("step-*")):
            warnings.warn(f"{folder} holds no checkpoint yet: the training begins.", stacklevel=3)
            return
        self.load_state_dict(found.latest())
        self.saved = self.trainer.steps_done if goes_on_there else None

    def settings(self) -> dict[str, str]:
        """Name what a training must not be resumed without, each in words."""
        return {
            "epochs": str(self.epochs),
            "batches in an epoch": str(self.loading.steps or self.known_length),
            **loader_settings(self.loading),
            "validation": str(self.validation is not None),
            "keep": repr(self.keep),
            "callbacks": str([type(callback).__name__ for callback in self.callbacks]),
        }

    def _begin(self) -> None:
        """Count from zero, and take the learning rates in hand."""
        trainer = self.trainer
        trainer.steps_done, trainer.epochs_done, trainer.stopping = 0, 0, None
        self.schedules = self._schedules(self.loading.length)

    def _start_callbacks(self) -> None:
        """Start them without a trace in the random numbers: after a resume they start again."""
        before = random_state()
        for callback in self.callbacks:
            callback.on_start(self.trainer)
        set_random_state(before)

    def _epoch(self) -> None:
        """Train on what is left of the running epoch, and close it."""
        trainer, loading = self.trainer, self.loading
        if self.seed is None:
            self.seed = loading.draw_seed()
        loading.set_epoch(trainer.epochs_done)
        batches, length = self._batches(self.seed), loading.length
        for inputs, target in self.monitor.epoch(batches, start=self.position, total=length):
            self._step(inputs, target)
            if trainer.stopping is not None:
                break
        if self.position == 0:
            raise ValueError("the loader gave no batch; it must give images to read.")
        trainer.finish_update()
        if loading.length is None:
            self._learn_length()
        self._close_epoch()

    def _batches(self, seed: int) -> Iterator[tuple[Inputs, Tensor]]:
        """Give what is left of the epoch; save if Ctrl-C has ended the loader's processes."""
        try:
            with lost_workers_in_words():
                yield from self.loading.batches(seed, self.position)
        except Exception:
            if self.signals.caught is not None and world() == 1:
                self._save_if_due()
            raise

    def _step(self, inputs: Inputs, target: Tensor) -> None:
        trainer = self.trainer
        step, learners = trainer.turn(self._progress())
        record = step(inputs, target)
        self.monitor.add(record, in_all(len(target), trainer.device))
        for optimizer in learners:
            _advance(self.schedules[optimizer])
        self.position += 1
        for callback in self.callbacks:
            callback.on_step(trainer, record)
        self._save_if_due()

    def _close_epoch(self) -> None:
        trainer = self.trainer
        record = self.monitor.close(self._validate())
        trainer.epochs_done += 1
        self.keep.offer(record, trainer.model)
        self.seed, self.position = None, 0
        for callback in self.callbacks:
            callback.on_epoch(trainer, record)
        self.is_due |= self.checkpoints is not None and self.checkpoints.every is None
        self._save_if_due()

    def _validate(self) -> Record:
        if self.validation is None:
            return {}
        return self.trainer.evaluate(self.validation, figures=self.figures)

    def _progress(self) -> float:
        """Return the fraction of the training that is done; of a stream, in whole epochs."""
        in_epoch = 0.0 if self.loading.length is None else self.position / self.loading.length
        return (self.trainer.epochs_done + in_epoch) / self.epochs

    def _learn_length(self) -> None:
        """Note how long a stream is, once it has ended; rates then fall as they would have."""
        self.loading.length = self.position
        taken = {optimizer: schedule.last_epoch for optimizer, schedule in self.schedules.items()}
        self.schedules = self._schedules(self.position)
        for optimizer, schedule in self.schedules.items():
            for _ in range(taken[optimizer]):
                _advance(schedule)

    def _schedules(self, length: int | None) -> dict[Optimizer, LRScheduler]:
        """Give each network a schedule over the steps in which it learns."""
        make = self.trainer.schedule
        counts = self.trainer.steps_of_each((length or 0) * self.epochs)
        if length is None:
            return {o: constant(o, 2 * _WARM_UP, warm_up=0.5) for o in counts}
        return {optimizer: make(optimizer, count) for optimizer, count in counts.items()}

    def _save_if_due(self) -> None:
        """Save between two updates, if a checkpoint is due or a signal has come; then heed it."""
        if self.checkpoints is None:
            return
        self.is_due |= self.checkpoints.due(self.trainer.steps_done)
        if self.trainer.engine.between_updates:
            return  # gradients that are being accumulated are not part of a state
        is_stopped = self._is_stopped()
        if self.is_due or is_stopped:
            self._save()
        self.signals.act()

    def _is_stopped(self) -> bool:
        """Whether a signal has come, here or in another process: all save, and all stop."""
        signals = self.signals
        if not any_of(signals.caught is not None, self.trainer.device):
            return False
        everywhere = gathered(signals.caught)  # asked of all, also of the one that knows
        signals.caught = signals.caught or next(filter(None, everywhere))
        return True

    def _save(self) -> None:
        self.is_due = False
        if self.checkpoints is None or self.saved == self.trainer.steps_done:
            return
        state = self.state_dict()
        if self.trainer.is_main:
            self.checkpoints.save(state, self.trainer.steps_done)
        from_main(None)  # nobody goes on, and perhaps dies, before it is written
        self.saved = self.trainer.steps_done

    @contextmanager
    def _left_in_order(self) -> Iterator[None]:
        """Leave no gradients behind; tell an error from where to go on."""
        try:
            if self.checkpoints is None:
                yield
            else:
                with self.signals.postponed():
                    yield
        except BaseException as error:
            error.add_note(self._whereabouts())
            raise
        finally:
            self.trainer.forget_gradients()

    def _whereabouts(self) -> str:
        epoch = min(self.trainer.epochs_done + 1, self.epochs)
        words = f"The training stopped after step {self.trainer.steps_done}, in epoch {epoch} of "
        words += f"{self.epochs}. "
        if self.checkpoints is None:
            return words + "No checkpoints were asked for: fit(..., checkpoints=folder)."
        if self.saved is None:
            return words + "There was no checkpoint yet."
        folder: Path = self.checkpoints.folder
        return words + f"Go on from step {self.saved} with fit(..., resume={str(folder)!r})."


def _advance(schedule: LRScheduler) -> None:
    """Go one step along a schedule, also where the optimizer has not stepped yet.

    It has not where gradients are accumulated, or the first step was skipped; torch warns of that
    at the schedule's first step, and only there.
    """
    with warnings.catch_warnings() if schedule.last_epoch == 0 else nullcontext():
        if schedule.last_epoch == 0:
            warnings.filterwarnings("ignore", message="Detected call of")
        schedule.step()
