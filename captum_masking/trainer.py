"""Train a masker and, by default, its classifier with it; ``step`` is the algorithm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from captum_masking.best import Newest
from captum_masking.callbacks import Callback
from captum_masking.checkpoint import Checkpoints, check_no_checkpoints
from captum_masking.checks import check_examples, check_labels, check_loader, check_logits
from captum_masking.classifier_training import ClassifierTraining
from captum_masking.engine import Engine, laid_out, precise
from captum_masking.figures import Figures, Means, Record, as_record, judge_itself, measure
from captum_masking.gated_masker import GatedMasker
from captum_masking.gating import gate_loss
from captum_masking.infill import Infill, Mean
from captum_masking.inputs import Inputs, as_tuple, moved, size_of
from captum_masking.loading import Loading
from captum_masking.masking import masked_halves
from captum_masking.model import MaskingModel
from captum_masking.modes import eval_mode, given_back
from captum_masking.monitor import Monitor
from captum_masking.objective import Dual, Judgement, Objective, target_aware
from captum_masking.outputs import logits_of
from captum_masking.pool import History, Latest, Pool
from captum_masking.processes import copy_from_main, rank, world
from captum_masking.questions import Posed, Questions, as_labeled, one_label
from captum_masking.rates import cosine
from captum_masking.regularizer import Regularizer, over_inputs, smooth
from captum_masking.regularizer import asked as asked_area
from captum_masking.run import Run
from captum_masking.schedule import FineTune
from captum_masking.settings import settings_of

if TYPE_CHECKING:
    from accelerate import Accelerator


class MaskingTrainer:
    """Trains the masker of a model and, unless told otherwise, its classifier with it.

    Args:
        model: Trained in place. If only some parameters of its classifier require a gradient,
            joint training trains those.
        train_classifier: True trains the classifier along as :class:`FineTune` says, False leaves
            it bit-identical; give ``FineTune(...)`` or ``FromScratch(...)`` to say how.
        infill: What fills the holes.
        infill_out: What fills those of masked-out images; None is the same.
        objective: The masker's, of what the judge says of masked images; None is
            :class:`~captum_masking.objective.Dual`, or for a target-aware model
            :func:`~captum_masking.objective.target_aware`.
        regularizer: Of the mask; None is :func:`~captum_masking.regularizer.smooth`, or for a
            target-aware model :func:`~captum_masking.regularizer.asked`.
        questions: Which classes a target-aware masker, or its gate, is asked for; None is
            :class:`~captum_masking.questions.Questions`. Any other model is asked for the labels.
            With questions, labels may be ``(B, classes)`` of 0 and 1 (multi-label).
        pool: Draws the judge of each step; None is :class:`~captum_masking.pool.History` in joint
            training and :class:`~captum_masking.pool.Latest` otherwise.
        lr: Peak learning rate of the masker's Adam.
        weight_decay: Of the masker's Adam.
        schedule: Called as ``schedule(optimizer, steps)`` for each network, with the steps in which
            it learns; by default rates rise for the first tenth and fall to zero along a cosine.
        max_gradient_norm: Gradients of each network are clipped to this norm.
        skip_not_finite: Whether batches whose loss or gradient is not finite are left out and
            counted, as ``skipped`` in the records, rather than an error.
        accelerator: Of the accelerate library: device, mixed precision, gradient accumulation and
            copies on several devices. None trains where the model is, in its own precision.
        compile: Called on a judge before it sees masked images, such as ``torch.compile``. The
            clean pass stays as it is, since compiled modules lose the hooks that read features.
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
        compile: Callable[[nn.Module], Callable[..., Any]] | None = None,
        memory_format: torch.memory_format = torch.preserve_format,
    ) -> None:
        self.engine = Engine(
            accelerator, max_gradient_norm=max_gradient_norm, skip_not_finite=skip_not_finite
        )
        self.engine.place(model)
        self.model = laid_out(model, memory_format)
        self.memory_format = memory_format
        self.compile = compile
        self.compiled: dict[nn.Module, Callable[..., Any]] = {}
        self.schedule = schedule
        self.joint = FineTune() if train_classifier is True else train_classifier or None
        self.infill = infill
        self.infill_out = infill_out
        aware = model.target_aware
        self.questions = Questions() if questions is None and aware else questions
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
        self.learner: ClassifierTraining | None = None
        if self.joint:
            self.learner = ClassifierTraining(model.classifier, self.joint)
            self.optimizers.append(self.learner.optimizer)
            model.classifier_trained = True
        self.steps_done = self.epochs_done = 0
        self.stopping: str | None = None
        self.same_everywhere = False

    @property
    def original(self) -> nn.Module | None:
        """The classifier as it was before joint training, where it is to stay close to that."""
        return None if self.learner is None else self.learner.original

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes; alone, it is."""
        return rank() == 0

    def step(self, inputs: Inputs, target: Tensor, *, train_classifier: bool = True) -> Record:
        """Take one step of the masker, and of the classifier in joint training, on one batch.

        Args:
            inputs: ``(B, C, *spatial)``, normalised as the classifier expects; a tuple of several
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
        batch = inputs, target = self._receive(inputs, target)
        posed = self._pose(inputs, target)
        inputs = inputs if posed is None else posed.inputs
        learner = self.learner if train_classifier else None
        with given_back(self.model), self.engine.autocast():
            self._set_modes(learner)
            judge = self._draw_judge()  # before the clean pass moves statistics of batch norm
            # 1. One clean pass: its logits say what is recognised, its features make the mask.
            logits, features = self.model.read(inputs)
            check_logits(logits)
            check_labels(one_label(target), as_tuple(inputs)[0], classes=logits.shape[1])
            target, answer = (target, {}) if posed is None else posed.ask(logits)
            asked = self.model.ask(logits, **self._question(target))
            mask = self.model.decode(features, size_of(inputs), **asked)  # (B, 1, *spatial)
            halves = masked_halves(inputs, mask, self.infill, self.infill_out)

            # 2. The judge, now or from the past, sees both halves as one batch in eval mode, so
            #    that masked images never move batch-norm statistics.
            with self._judging(judge, learner):
                logits_in, logits_out = logits_of(self._to_call(judge)(*halves)).chunk(2)
            inside, outside = precise(logits_in), precise(logits_out)
            said = precise(logits), inside, outside, target, asked.get("area")
            judgement = Judgement(*said, **answer)  # type: ignore[arg-type]

            # 3. Both gradients, each for its own network, before either takes its step.
            loss = self.objective(judgement) + over_inputs(self.regularizer, mask, judgement)
            losses = {"loss": loss + self._gate_loss(*batch)}
            if learner:
                losses["classifier_loss"] = learner.loss(judgement, inputs, judge)
            skipped = self._learn(losses, examples=len(target))
        if skipped.get("skipped"):
            return skipped
        return measure(*as_labeled(judgement, mask), losses) | skipped

    def classifier_step(self, inputs: Inputs, target: Tensor) -> Record:
        """Take one step of the classifier alone, on clean images.

        Args:
            inputs: As for :meth:`step`.
            target: As for :meth:`step`.

        Returns:
            ``classifier_loss`` and ``clean`` accuracy.

        Raises:
            ValueError: As :meth:`step`.

        Source:
            Own.
        """
        inputs, target = self._receive(inputs, target)
        with given_back(self.model), self.engine.autocast():
            self._set_modes(self.learner)
            logits = self.model(*as_tuple(inputs))
            check_logits(logits)
            check_labels(target, as_tuple(inputs)[0], classes=logits.shape[1])
            loss = cross_entropy(precise(logits), target)
            skipped = self._learn({"classifier_loss": loss}, examples=len(target))
        clean = (logits.argmax(1) == target).float().mean()
        figures = as_record({"classifier_loss": loss, "clean": clean}, len(target))
        return skipped if skipped.get("skipped") else figures | skipped

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
                :class:`~captum_masking.best.Newest`.
            callbacks: Watch the training, and may end it.
            checkpoints: Where to save the training: a folder, saved to after every epoch, or
                :class:`~captum_masking.checkpoint.Checkpoints` with ``every`` so many steps, for
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

        Source:
            Own.
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

        Source:
            Own.
        """
        means = Means()
        self._agree()  # a process that gets no batch has to take part, too
        with eval_mode(self.model):
            for batch in Loading(loader, device=self.device).shares():
                inputs, target = self._receive(*batch)
                target = one_label(target)
                judgement, mask = judge_itself(
                    self.model, inputs, target, self.infill, self.infill_out
                )
                loss = self.objective(judgement) + over_inputs(self.regularizer, mask, judgement)
                found = {"loss": loss}
                for figure in figures:
                    found |= figure(self.model, inputs, target, mask)
                means.add(measure(judgement, mask, found, alone=True), len(target))
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

    def _question(self, target: Tensor) -> dict[str, Tensor]:
        """Say what the masker is told in training: the label, and a size drawn for each image."""
        if "area" not in getattr(self.model.masker, "asks", ()):
            return {"target": target}
        return {"target": target, "area": 0.25 + 0.5 * torch.rand(len(target))}  # as published

    def _pose(self, inputs: Inputs, labels: Tensor) -> Posed | None:
        """Pose questions, where there are any; a gate has its own, and the mask none."""
        if self.questions is None:
            return None
        return (self.questions.plain if self._is_gated else self.questions)(inputs, labels)

    def _gate_loss(self, inputs: Inputs, labels: Tensor) -> Tensor | float:
        """Ask the gate, where there is one, questions of its own."""
        if self.questions is None or not self._is_gated:
            return 0.0
        return gate_loss(self.model, as_tuple(inputs)[0], labels, self.questions)

    @property
    def _is_gated(self) -> bool:
        return isinstance(self.model.masker, GatedMasker)

    def _draw_judge(self) -> nn.Module:
        """Draw from the pool, which is told of the classifier when that has learned something."""
        if not self.pool_is_current:
            self.pool.add(self.model.classifier)
            self.pool_is_current = True
        return self.pool.draw()

    def _to_call(self, judge: nn.Module) -> Callable[..., Any]:
        if self.compile is None:
            return judge
        if judge not in self.compiled:
            self.compiled[judge] = self.compile(judge)
        return self.compiled[judge]

    def _judging(
        self, judge: nn.Module, learner: ClassifierTraining | None
    ) -> AbstractContextManager[None]:
        in_train_mode = learner is not None and learner.how.judge_in_train_mode
        return nullcontext() if in_train_mode else eval_mode(judge)

    def _learn(self, losses: dict[str, Tensor], *, examples: int) -> Record:
        """Hand the losses to the engine, and note who has learned something."""
        owners: dict[str, Optimizer] = {"loss": self.masker_optimizer}
        if self.learner is not None:  # first: what follows frees the graph that both share
            owners = {"classifier_loss": self.learner.optimizer, **owners}
        of_each = {owner: losses[name] for name, owner in owners.items() if name in losses}
        skipped = self.engine.learn(of_each, examples=examples)
        self.steps_done += 1
        if "classifier_loss" in losses:
            self._note_update()
        return skipped

    def _note_update(self) -> None:
        """After an update of the classifier: the pool is to hear of it, processes to agree."""
        if self.learner is not None and not self.engine.between_updates:
            self.pool_is_current = False
            self.learner.agree()

    def turn(self, progress: float) -> tuple[Callable[[Inputs, Tensor], Record], list[Optimizer]]:
        """Say who learns at this fraction of the training: the step, and whose rates move."""
        if self.learner and progress < self.learner.how.classifier_first:
            return self.classifier_step, [self.learner.optimizer]
        if self.learner and progress < self.learner.how.masker_first:
            return partial(self.step, train_classifier=False), [self.masker_optimizer]
        return self.step, self.optimizers

    def steps_of_each(self, steps: int) -> dict[Optimizer, int]:
        """Count, of the steps of a training, those in which each network learns."""
        if self.learner is None:
            return {self.masker_optimizer: steps}
        how = self.learner.how
        return {
            self.masker_optimizer: steps - int(steps * how.classifier_first),
            self.learner.optimizer: steps - int(steps * how.masker_first),
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

    def _receive(self, inputs: Inputs, target: Tensor) -> tuple[Inputs, Tensor]:
        """Check a batch and bring it to the model's device; losses ask for 64-bit labels."""
        check_examples(inputs, one_label(target) if self._may_have_several(target) else target)
        self._agree()
        target = target.to(self.device, torch.long, non_blocking=True)
        return moved(inputs, self.device, self.memory_format), target

    def _agree(self) -> None:
        """Have all processes start from the weights of the main one."""
        if world() > 1 and not self.same_everywhere:
            copy_from_main(self.model)
            if self.original is not None:
                copy_from_main(self.original)
            self.same_everywhere = True

    def _set_modes(self, learner: ClassifierTraining | None) -> None:
        self.model.masker.train().requires_grad_(True)
        self.model.sampler.train().requires_grad_(True)
        if learner is None:
            self.model.classifier.eval().requires_grad_(False)
        else:
            learner.set_modes()
        self.engine.remember(self.model)

    def _may_have_several(self, labels: Any) -> bool:
        """Whether labels ``(B, classes)`` can be learned from: with questions, a masker alone."""
        several = isinstance(labels, Tensor) and labels.dim() == 2 and self.questions is not None
        return several and not self.joint
