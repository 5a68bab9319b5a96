"""What a training was made of, in words: printed, and compared when it is taken up again."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from captum_masking._base.borrow import eval_mode, given_back
from captum_masking._base.checks import check_examples, check_labels, check_loader, check_logits
from captum_masking._base.processes import (
    any_of,
    copy_from_main,
    from_main,
    gathered,
    in_all,
    rank,
    world,
)
from captum_masking._base.rates import constant, cosine
from captum_masking._base.tuples import Inputs, as_tuple, unpacked
from captum_masking.model.model import MaskingModel
from captum_masking.model.taps import logits_of
from captum_masking.parts.infill import Infill, Mean
from captum_masking.parts.masking import masked_halves
from captum_masking.parts.objective import Dual, Judgement, Objective, target_aware
from captum_masking.parts.pool import History, Latest, Pool
from captum_masking.parts.questions import Questions, as_labeled, one_label
from captum_masking.parts.regularizer import Regularizer, over_inputs, smooth
from captum_masking.parts.regularizer import asked as asked_area
from captum_masking.training.callbacks import Callback, Newest
from captum_masking.training.checkpoint import (
    Checkpoints,
    Signals,
    causes_in_words,
    check_no_checkpoints,
    check_resumable,
    check_settings,
    check_writable,
    load_training_state,
    loader_settings,
    lost_workers_in_words,
    random_state,
    set_random_state,
    setting,
    training_state,
)
from captum_masking.training.classifier import ClassifierTraining, FineTune
from captum_masking.training.epochs import Loading
from captum_masking.training.gate import questions_for
from captum_masking.training.records import (
    Figures,
    Means,
    Monitor,
    Record,
    as_record,
    judge_itself,
    measure,
)
from captum_masking.training.update import Engine, laid_out, moved, precise

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = [
    "MaskingTrainer",
    "Run",
    "settings_of",
]


def settings_of(trainer: MaskingTrainer) -> dict[str, str]:
    """Say what a trainer was made of, by name, without where things lie in memory.

    Example:
        See :class:`~captum_masking.MaskingTrainer`, which prints them.
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
    return {name: setting(part) for name, part in parts.items()}


# ---- One call of ``fit``: the loop around the steps, and all of it that a checkpoint holds.

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


# ---- Train a masker and, by default, its classifier with it; ``step`` is the algorithm.


class MaskingTrainer:
    """Train the masker of a model together with its classifier, **which changes the classifier**.

    ``train_classifier=False`` trains the masker alone and leaves every bit of the classifier.

    Args:
        model: Trained in place. If only some parameters of its classifier require a gradient,
            joint training trains those; if none does, all of them, with a warning.
        train_classifier: True trains the classifier along as
            :class:`~captum_masking.FineTune` describes, False leaves it bit-identical; pass
            ``FineTune(...)`` or ``FromScratch(...)`` for other settings.
        infill: What fills the holes.
        infill_out: What fills those of masked-out images; None is the same.
        objective: The masker's, of what the judge says of masked images; None is
            :class:`~captum_masking.parts.objective.Dual`, or for a target-aware model
            :func:`~captum_masking.parts.objective.target_aware`.
        regularizer: Of the mask; None is :func:`~captum_masking.parts.regularizer.smooth`, or for a
            target-aware model :func:`~captum_masking.parts.regularizer`.
        questions: Which classes a target-aware masker, or its gate, is asked for; None is
            :class:`~captum_masking.parts.questions.Questions`, and the labels for any other
            model. With questions, labels may be ``(B, classes)`` of 0 and 1 (multi-label).
        pool: Draws the judge of each step; None is :class:`~captum_masking.parts.pool.History` in
        joint
            training and :class:`~captum_masking.parts.pool.Latest` otherwise.
        lr: Peak learning rate of the masker's Adam.
        weight_decay: Of the masker's Adam.
        schedule: Called as ``schedule(optimizer, steps)`` for each network, with the steps in which
            it learns; by default rates rise for the first tenth and fall to zero along a cosine.
        max_gradient_norm: Gradients of each network are clipped to this norm.
        skip_not_finite: Whether batches whose loss or gradient is not finite are left out and
            counted, as ``skipped`` in the records, rather than an error.
        accelerator: Of the accelerate library: device, mixed precision, gradient accumulation and
            copies on several devices. None trains where the model is, in its own precision.
        compile_judge: Called on a judge before it sees masked images, such as
            ``torch.compile``. The clean pass stays as it is, since compiled modules lose the hooks
            that read features.
        memory_format: Of images and model; ``torch.channels_last`` is faster on some devices.

    Attributes:
        steps_done: Batches that were learned from.
        epochs_done: Of the last call of :meth:`fit`.
        stopping: Why :meth:`fit` is to end early; None while it is not.

    Source:
        Phang et al. 2020; Adam, its rate, decay and the clipping as published. Differs: the
        judge runs in eval mode and comes from the pool; both gradients are taken before either
        optimizer steps; cosine in place of step decay.

    Example:
        >>> classifier = nn.Sequential(
        ...     nn.Conv2d(1, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU(),
        ...     nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
        ... )
        >>> batches = [(torch.rand(4, 1, 16, 16), torch.tensor([0, 1, 0, 1]))]
        >>> trainer = MaskingTrainer(MaskingModel(classifier), train_classifier=False)
        >>> records = trainer.fit(batches, epochs=2, show_progress=False)
        >>> len(records), sorted(records[-1])[:4]
        (2, ['area', 'area_in_image_std', 'clean', 'entropy_out'])
    """

    def __init__(
        self,
        model: MaskingModel,
        *,
        train_classifier: bool | FineTune = True,
        infill: Infill = Mean(),
        infill_out: Infill | None = None,
        objective: Objective | None = None,
        regularizer: Regularizer | None = None,
        questions: Questions | None = None,
        pool: Pool | None = None,
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        schedule: Callable[[Optimizer, int], LRScheduler] = cosine,
        max_gradient_norm: float = 10.0,
        skip_not_finite: bool = False,
        accelerator: Accelerator | None = None,
        compile_judge: Callable[[nn.Module], Callable[..., Any]] | None = None,
        memory_format: torch.memory_format = torch.preserve_format,
    ) -> None:
        self.engine = Engine(
            accelerator, max_gradient_norm=max_gradient_norm, skip_not_finite=skip_not_finite
        )
        self.engine.place(model)
        self.model = laid_out(model, memory_format)
        self.memory_format = memory_format
        self.compile_judge = compile_judge
        self.compiled: dict[nn.Module, Callable[..., Any]] = {}
        self.schedule = schedule
        self.joint = FineTune() if train_classifier is True else train_classifier or None
        self.infill = infill
        self.infill_out = infill_out
        aware = model.target_aware
        self.questions = questions_for(model, questions)
        self.objective = objective or (target_aware() if aware else Dual())
        self.regularizer = regularizer or (asked_area() if aware else smooth())
        self.pool = pool if pool is not None else History() if self.joint else Latest()
        self.pool_is_current = False
        self.masker_optimizer = torch.optim.Adam(
            [*model.masker.parameters(), *model.sampler.parameters()],
            lr=lr,
            weight_decay=weight_decay,
        )
        self.optimizers: list[Optimizer] = [self.masker_optimizer]
        self.classifier: ClassifierTraining | None = None
        if self.joint:
            self.classifier = ClassifierTraining(model.classifier, self.joint)
            self.optimizers.append(self.classifier.optimizer)
            model.classifier_trained = True
        self.steps_done = self.epochs_done = 0
        self.stopping: str | None = None
        self.same_everywhere = False

    @property
    def original(self) -> nn.Module | None:
        """The classifier as it was before joint training, where it has to stay close to that."""
        return None if self.classifier is None else self.classifier.original

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes; alone, it is."""
        return rank() == 0

    def step(self, inputs: Inputs, target: Tensor, *, train_classifier: bool = True) -> Record:
        """Take one step of the masker, and of the classifier in joint training, on one batch.

        Args:
            inputs: ``(B, C, *spatial)``, normalized as the classifier expects; a tuple of several
                for a classifier that takes several.
            target: The class of each, ``(B,)``, integers.
            train_classifier: False leaves the classifier alone in this step; in a trainer with
                ``train_classifier=False`` it is left alone in any case.

        Returns:
            What happened: losses, accuracies on clean, masked-in and masked-out images, entropy
            of the masked-out prediction in nats, mask area as a fraction.

        Raises:
            ValueError: If labels lie outside the classifier's range, or a loss is not finite;
                the weights are then as before.

        Source:
            Phang et al. 2020, training iteration.
        """
        inputs, labels, given = self._receive(inputs, target)
        classifier = self.classifier if train_classifier else None
        with given_back(self.model), self.engine.autocast():
            self._set_modes(classifier)
            judge = self._draw_judge()  # before the clean pass moves statistics of batch norm
            posed = self.questions.ask(inputs, labels)

            # 1. One clean pass: its logits tell what is recognized, its features make the mask.
            logits, features = self.model.read(posed.inputs)
            check_logits(logits)
            check_labels(given, inputs[0], classes=logits.shape[1])
            question = posed.given(logits)
            masks = self.model.decode(features, question)  # (B, 1, *spatial) for each input

            # 2. The judge, now or from the past, sees both halves as one batch in eval mode, so
            #    that masked images never move batch-norm statistics.
            halves = masked_halves(posed.inputs, masks, self.infill, self.infill_out)
            logits_in, logits_out = self._judge(judge, halves, classifier).chunk(2)
            judgement = Judgement(*precise(logits, logits_in, logits_out), *question.known)

            # 3. Both gradients, each for its own network, before either takes its step.
            loss = self.objective(judgement) + over_inputs(self.regularizer, masks, judgement)
            losses = {"loss": loss + self.questions.extra_loss(self.model, inputs, labels)}
            if classifier:
                losses["classifier_loss"] = classifier.loss(judgement, posed.inputs, judge)
            skipped = self._learn(losses, examples=len(labels))
        return skipped or measure(*as_labeled(judgement, masks), losses)

    def classifier_step(self, inputs: Inputs, target: Tensor) -> Record:
        """Take one step of the classifier alone, on clean images.

        Args:
            inputs: As for :meth:`step`.
            target: As for :meth:`step`.

        Returns:
            ``classifier_loss`` and ``clean`` accuracy.

        Raises:
            ValueError: As :meth:`step`.
        """
        inputs, labels, given = self._receive(inputs, target)
        with given_back(self.model), self.engine.autocast():
            self._set_modes(self.classifier)
            logits = self.model(*inputs)
            check_logits(logits)
            check_labels(given, inputs[0], classes=logits.shape[1])
            loss = cross_entropy(*precise(logits), labels)
            skipped = self._learn({"classifier_loss": loss}, examples=len(labels))
        clean = (logits.argmax(1) == labels).float().mean()
        return skipped or as_record({"classifier_loss": loss, "clean": clean}, len(labels))

    def fit(
        self,
        loader: Any,
        epochs: int = 10,
        *,
        validation: Any = None,
        figures: Sequence[Figures] = (),
        keep: Newest | None = None,
        callbacks: Sequence[Callback] = (),
        checkpoints: Checkpoints | str | Path | None = None,
        resume: str | Path | None = None,
        steps_per_epoch: int | None = None,
        log: str | Path | None = None,
        show_progress: bool = True,
    ) -> list[Record]:
        """Train for some epochs and keep the best state.

        Args:
            loader: Gives batches ``(inputs, labels)``, or dicts as
                :func:`~captum_masking.data.read_batch` reads them. A ``DataLoader`` over a data
                set, or anything that can be iterated over once an epoch; streams need no length.
            epochs: Passes over the loader.
            validation: Like ``loader``, with images that are not trained on; after each epoch the
                model is measured on it. Without it the last state is kept.
            figures: What else to measure on the validation images, as for :meth:`evaluate`.
            keep: Which of the states after each epoch is kept in the end; None is
                :class:`~captum_masking.training.callbacks.Newest`.
            callbacks: Watch the training, and may end it.
            checkpoints: Where to save the training: a folder, saved to after every epoch, or
                :class:`~captum_masking.training.checkpoint.Checkpoints` with ``every`` so many
                steps, for
                one to be taken up again in the middle of an epoch. Ctrl-C and SIGTERM then wait for
                the step to end and save it.
            resume: A folder of checkpoints. The training goes on from the newest that can be read,
                bit by bit as if it had not stopped; if there is none it begins.
            steps_per_epoch: Batches in an epoch, to cut a stream.
            log: A CSV file to write the records to, a row an epoch.
            show_progress: Whether to show a bar with the running figures.

        Returns:
            One record per epoch: the means of what :meth:`step` returns and, with the prefix
            ``val_``, of the validation set.

        Raises:
            TypeError: If the loader gives no pairs of tensors.
            ValueError: If a batch cannot be used, or the checkpoint to resume from was made with
                other settings; the message says why.
            CheckpointError: If no checkpoint in ``resume`` can be read.
        """
        check_loader(loader, epochs)
        if validation is not None:
            check_loader(validation, epochs + 1, name="validation")
        if isinstance(checkpoints, (str, Path)):
            checkpoints = Checkpoints(checkpoints)
        if checkpoints is not None and resume is None:
            check_no_checkpoints(checkpoints)
        run = Run(
            self,
            Loading(loader, steps=steps_per_epoch, device=self.device),
            epochs,
            monitor=Monitor(
                epochs,
                log=log if self.is_main else None,
                show_progress=show_progress and self.is_main,
            ),
            validation=validation,
            figures=figures,
            keep=Newest() if keep is None else keep,
            callbacks=callbacks,
            checkpoints=checkpoints,
        )
        if resume is not None:
            run.resume(resume)
        return run.go()

    @torch.no_grad()
    def evaluate(self, loader: Any, *, figures: Sequence[Figures] = ()) -> Record:
        """Measure the model on labelled images, judged by its classifier as it is now.

        Args:
            loader: Gives batches as for :meth:`fit`.
            figures: Called as ``figure(model, inputs, target, mask)`` on each batch; further means
                by name.

        Returns:
            Means over the images of all processes, under the names that :meth:`step` uses.
        """
        means = Means()
        self._agree()  # a process that gets no batch has to take part, too
        with eval_mode(self.model):
            for batch in Loading(loader, device=self.device).shares():
                inputs, labels, _ = self._receive(*batch)
                target = one_label(labels)
                judgement, masks = judge_itself(
                    self.model, inputs, target, self.infill, self.infill_out
                )
                loss = self.objective(judgement) + over_inputs(self.regularizer, masks, judgement)
                found = {"loss": loss}
                for figure in figures:
                    found |= figure(self.model, unpacked(inputs), target, unpacked(masks))
                means.add(measure(judgement, masks, found, alone=True), len(target))
        return means.over_processes().record()

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.masker.parameters()).device

    def settings(self) -> dict[str, str]:
        """Say what this trainer was made of, in words, by name."""
        return settings_of(self)

    def __repr__(self) -> str:
        lines = "".join(f"    {name}={value},\n" for name, value in self.settings().items())
        return f"MaskingTrainer(\n{lines})"

    # ---- What a step is made of.

    def _receive(self, inputs: Inputs, target: Tensor) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """Check a batch where it is, and bring it to the model's device.

        Returns the inputs as a tuple, the labels as 64-bit integers, and one label of each example
        where the loader gave it, to check it against the number of classes without a wait for the
        device.
        """
        inputs = as_tuple(inputs)
        several = self.questions.multi_label and not self.joint
        several = several and isinstance(target, Tensor) and target.dim() == 2
        given = one_label(target) if several else target
        check_examples(inputs, given)
        self._agree()
        target = target.to(self.device, torch.long, non_blocking=True)
        return moved(inputs, self.device, self.memory_format), target, given

    def _set_modes(self, classifier: ClassifierTraining | None) -> None:
        self.model.masker.train().requires_grad_(True)
        self.model.sampler.train().requires_grad_(True)
        if classifier is None:
            self.model.classifier.eval().requires_grad_(False)
        else:
            classifier.set_modes()
        self.engine.remember(self.model)

    def _draw_judge(self) -> nn.Module:
        """Draw from the pool, which gets the classifier when that has learned something."""
        if not self.pool_is_current:
            self.pool.add(self.model.classifier)
            self.pool_is_current = True
        return self.pool.draw()

    def _judge(
        self,
        judge: nn.Module,
        halves: tuple[Tensor, ...],
        classifier: ClassifierTraining | None,
    ) -> Tensor:
        """Return the judge's logits for masked images."""
        call: Callable[..., Any] = judge
        if self.compile_judge is not None:
            if judge not in self.compiled:
                self.compiled[judge] = self.compile_judge(judge)
            call = self.compiled[judge]
        in_train_mode = classifier is not None and classifier.how.judge_in_train_mode
        with nullcontext() if in_train_mode else eval_mode(judge):
            return logits_of(call(*halves))

    def _learn(self, losses: dict[str, Tensor], *, examples: int) -> Record:
        """Hand the losses to the engine, and note who has learned something."""
        owners: dict[str, Optimizer] = {"loss": self.masker_optimizer}
        if self.classifier is not None:  # first: what follows frees the graph that both share
            owners = {"classifier_loss": self.classifier.optimizer, **owners}
        of_each = {owner: losses[name] for name, owner in owners.items() if name in losses}
        skipped = self.engine.learn(of_each, examples=examples)
        self.steps_done += 1
        if "classifier_loss" in losses:
            self._note_update()
        return skipped

    def _note_update(self) -> None:
        """After an update of the classifier, mark the pool as outdated and average buffers."""
        if self.classifier is not None and not self.engine.between_updates:
            self.pool_is_current = False
            self.classifier.agree()

    def turn(self, progress: float) -> tuple[Callable[[Inputs, Tensor], Record], list[Optimizer]]:
        """Say who learns at this fraction of the training: the step, and whose rates move."""
        if self.classifier and progress < self.classifier.how.classifier_first:
            return self.classifier_step, [self.classifier.optimizer]
        if self.classifier and progress < self.classifier.how.masker_first:
            return partial(self.step, train_classifier=False), [self.masker_optimizer]
        return self.step, self.optimizers

    def steps_of_each(self, steps: int) -> dict[Optimizer, int]:
        """Count, of the steps of a training, those in which each network learns."""
        if self.classifier is None:
            return {self.masker_optimizer: steps}
        how = self.classifier.how
        return {
            self.masker_optimizer: steps - int(steps * how.classifier_first),
            self.classifier.optimizer: steps - int(steps * how.masker_first),
        }

    def finish_update(self) -> None:
        """Step with the gradients of the last batches, where there are fewer than accumulate."""
        if self.engine.flush():
            self._note_update()

    def forget_gradients(self) -> None:
        """Leave no gradient behind, and the learning rates as they were given."""
        self.engine.forget()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = group.get("initial_lr", group["lr"])

    def _agree(self) -> None:
        """Have all processes start from the weights of the main one."""
        if world() > 1 and not self.same_everywhere:
            copy_from_main(self.model)
            if self.original is not None:
                copy_from_main(self.original)
            self.same_everywhere = True
