"""Train a masker and, by default, its classifier with it; ``step`` is the algorithm."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm.auto import tqdm

from captum_masking._base.borrow import eval_mode, given_back
from captum_masking._base.captum import Inputs, as_tuple, unpacked
from captum_masking._base.checks import (
    ENOUGH_TO_TELL,
    as_indices,
    channels_in_words,
    check_examples,
    check_labels,
    check_loader,
    check_logits,
    check_recognized,
)
from captum_masking._base.processes import copy_from_main, rank, world
from captum_masking._base.rates import cosine
from captum_masking.data.seeded import random_states
from captum_masking.metrics.connectivity import Connectivity, connectivity
from captum_masking.model.model import MaskingModel, plain_model
from captum_masking.model.taps import leading_back, like_weights
from captum_masking.parts.infill import Infill, Mean
from captum_masking.parts.masking import masked_halves
from captum_masking.parts.objective import Judgement, Objective, default_objective
from captum_masking.parts.pool import History, Latest, Pool
from captum_masking.parts.questions import AsLabeled, Questions, as_labeled, one_label
from captum_masking.parts.regularizer import AskedArea, Regularizer, Sum, over_inputs, smooth
from captum_masking.parts.regularizer import asked as asked_area
from captum_masking.training.area import SteadyArea
from captum_masking.training.callbacks import Callback
from captum_masking.training.checkpoint import Checkpoints, setting
from captum_masking.training.classifier import ClassifierTraining, FineTune
from captum_masking.training.epochs import Loading
from captum_masking.training.gate import questions_for
from captum_masking.training.records import (
    EpochRecords,
    Means,
    Metric,
    Record,
    as_record,
    judge_itself,
    measure,
    only_one,
)
from captum_masking.training.run import Run
from captum_masking.training.update import Engine, Folded, check_learnable, moved, precise

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["MaskingTrainer"]


class MaskingTrainer:
    """Train the masker of a model together with its classifier, **which changes the classifier**.

    ``train_classifier=False`` trains only the masker and leaves the classifier bit-identical. The
    judge is then a copy with batch norm folded into its convolutions: equal up to rounding, but
    faster.

    Args:
        model: Trained in place. Joint training trains the parameters of its classifier that
            require a gradient, or all with a warning if none does.
        train_classifier: True uses :class:`~captum_masking.FineTune`, False freezes the classifier.
            Pass ``FineTune(...)`` or ``FromScratch(...)`` to change settings.
        infill: Fills the removed part of images.
        infill_out: Another infill for masked-out images.
        objective: The masker's loss; by default
            :func:`~captum_masking.parts.objective.default_objective`.
        regularizer: Loss of the mask; by default :func:`~captum_masking.parts.regularizer.smooth`,
            or :func:`~captum_masking.parts.regularizer.asked` for a target-aware model.
        area: Desired mean mask area, a fraction of the image in (0, 1). :meth:`fit` adapts a weight
            that replaces the default reward for small masks. Up to about 0.5, it usually comes
            within a fifth. None lets the images decide.
        questions: The targets to learn. By default the label of each image;
            :class:`~captum_masking.parts.questions.AsPredicted` takes the predicted class. A
            target-aware masker gets :class:`~captum_masking.parts.questions.Questions`, which also
            accepts labels ``(B, classes)``.
        pool: Draws the judge of each step: by default :class:`~captum_masking.parts.pool.Latest`,
            or in joint training :class:`~captum_masking.parts.pool.History`. A fine-tuned
            classifier judges alone for its first 1,000 steps.
        lr: Peak learning rate of the masker's Adam.
        schedule: Called as ``schedule(optimizer, steps)`` for each network, with the number of
            steps in which it learns. By default, rates rise for a tenth of them and fall to zero
            along a cosine. When a second network starts to learn, the rates of both start again.
        max_gradient_norm: Gradients of each network are clipped to this norm.
        skip_not_finite: Whether to skip batches whose loss or gradient is not finite, and count
            them as ``skipped`` in the records, instead of raising an error.
        accelerator: An ``accelerate.Accelerator`` for mixed precision, gradient accumulation or
            several devices. None trains on the model's device in its own precision.
        compile_judge: Called on each judge before its first use, such as ``torch.compile``.
        memory_format: Format of images and model; ``torch.channels_last`` is faster on some
            devices.

    Attributes:
        steps_done: Number of training batches so far.
        stopping: Why :meth:`fit` will end early, or None.

    Source:
        Phang et al. 2020. Differs: the judge runs in eval mode and comes from the pool; both
        gradients are computed before either optimizer steps; cosine instead of step decay.

    Example:
        >>> classifier = nn.Sequential(
        ...     nn.Conv2d(1, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU(),
        ...     nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
        ... )
        >>> batches = [(torch.rand(4, 1, 16, 16), torch.tensor([0, 1, 0, 1]))]
        >>> trainer = MaskingTrainer(MaskingModel(classifier), train_classifier=False)
        >>> records = trainer.fit(batches, epochs=2, show_progress=False)
        >>> len(records), sorted(records[-1])[:4]
        (2, ['area', 'area_in_image_std', 'area_shown', 'clean'])
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
        area: float | None = None,
        questions: AsLabeled | Questions | None = None,
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
        model = plain_model(model)
        check_learnable(model, joint=bool(train_classifier))
        self.engine = Engine(
            accelerator, max_gradient_norm=max_gradient_norm, skip_not_finite=skip_not_finite
        )
        self.engine.place(model, memory_format)
        self.model, self.memory_format, self.compile_judge = model, memory_format, compile_judge
        self.compiled: dict[nn.Module, Callable[..., Any]] = {}
        self.folded = Folded()
        self.schedule = schedule
        self.joint = FineTune() if train_classifier is True else train_classifier or None
        self.infill, self.infill_out = infill, infill_out
        self.questions = questions_for(model, questions)
        self.objective = default_objective() if objective is None else objective
        self.steady = [] if area is None else [SteadyArea(area)]
        self.regularizer = _regularizer(regularizer, self.steady, aware=model.target_aware)
        self.pool: Pool = _default_pool(self.joint) if pool is None else pool
        self.pool_is_current = False
        self.judging: Callable[[nn.Module], AbstractContextManager[Any]] | None = None
        parameters = [*model.masker.parameters(), *model.sampler.parameters()]
        self.masker_optimizer = torch.optim.Adam(parameters, lr=lr, weight_decay=weight_decay)
        self.optimizers: list[Optimizer] = [self.masker_optimizer]
        self.classifier: ClassifierTraining | None = None
        if self.joint:
            self.classifier = ClassifierTraining(model, self.joint)
            self.optimizers.append(self.classifier.optimizer)
            model.classifier_trained = True
        self.steps_done = self.epochs_done = 0
        self.stopping: str | None = None
        self.same_everywhere = False
        self.run: Run | None = None  # the last call of fit

    @property
    def original(self) -> nn.Module | None:
        """A copy of the classifier before joint training, if it has to stay close to it."""
        return None if self.classifier is None else self.classifier.original

    @property
    def is_main(self) -> bool:
        """Whether this process writes files; only one of several does."""
        return rank() == 0

    @torch.inference_mode(False)
    @torch.enable_grad()
    def step(self, inputs: Inputs, target: Tensor, *, train_classifier: bool = True) -> Record:
        """Take one step of the masker, and of the classifier in joint training, on one batch.

        Args:
            inputs: ``(B, C, *spatial)``, normalized as the classifier expects; a tuple if the
                classifier takes several inputs.
            target: Class indices ``(B,)``.

        Returns:
            Losses; accuracies on clean, masked-in and masked-out images; entropy of the masked-out
            prediction in nats; mask area as a fraction.

        Raises:
            ValueError: If labels lie outside the classifier's range, or a loss is not finite. The
                weights then do not change.
        """
        inputs, context, labels, given = self._receive(inputs, target)
        classifier = self.classifier if train_classifier else None
        with given_back(self.model), self.engine.autocast():
            self._set_modes(classifier)
            judge = self._draw_judge()  # before the clean pass changes batch-norm statistics
            posed = self.questions.ask(inputs, labels)
            self._look_for_gradients(judge, posed.inputs, context)

            # 1. One clean pass: its logits show what is recognized, its features make the mask.
            logits, features = self.model.read(posed.inputs, *context)
            check_logits(logits)
            check_labels(given, inputs[0], classes=logits.shape[1])
            question = posed.given(logits)
            masks = self.model.decode(features, question)  # (B, 1, *spatial) for each input

            # 2. The judge sees both halves as one batch in eval mode, so that masked images never
            #    change batch-norm statistics.
            halves = masked_halves(posed.inputs, masks, self.infill, self.infill_out, context)
            logits_in, logits_out = self._judge(judge, halves, classifier).chunk(2)
            judgement = Judgement(*precise(logits, logits_in, logits_out), *question.known)
            judgement = judgement._replace(inputs=only_one(posed.inputs))

            # 3. Both gradients, each for its own network, before either takes its step.
            loss = self.objective(judgement) + over_inputs(self.regularizer, masks, judgement)
            losses = {"loss": loss + self.questions.extra_loss(self.model, inputs, labels)}
            if classifier:
                losses["classifier_loss"] = classifier.loss(
                    judgement, posed.inputs + context, judge
                )
            skipped = self._learn(losses, examples=len(labels))
        return skipped or measure(*as_labeled(judgement, masks), losses, self.model.sampler)

    @torch.inference_mode(False)
    @torch.enable_grad()
    def classifier_step(self, inputs: Inputs, target: Tensor) -> Record:
        """Take one step of the classifier alone, on clean images."""
        inputs, context, labels, given = self._receive(inputs, target)
        with given_back(self.model), self.engine.autocast():
            self._set_modes(self.classifier)
            self._look_for_gradients(self.model.classifier, inputs, context)
            logits, _ = self.model.read(inputs, *context)
            check_logits(logits)
            check_labels(given, inputs[0], classes=logits.shape[1])
            loss = cross_entropy(precise(logits)[0], labels)
            skipped = self._learn({"classifier_loss": loss}, examples=len(labels))
        clean = (logits.argmax(1) == labels).float().mean()
        return skipped or as_record({"classifier_loss": loss, "clean": clean}, len(labels))

    def fit(
        self,
        loader: Any,
        epochs: int = 10,
        *,
        validation: Any = None,
        callbacks: Sequence[Callback] = (),
        resume: str | Path | None = None,
        steps_per_epoch: int | None = None,
        show_progress: bool = True,
        check_accuracy: bool = True,
    ) -> list[Record]:
        """Train for some epochs and keep the latest state that lost no accuracy.

        Args:
            loader: A ``DataLoader``, or any object that yields batches once per epoch; streams
                need no length. A batch is ``(inputs, labels)``, or a dict that
                :func:`~captum_masking.data.read_batch` reads. Pass further arguments of the
                classifier as tensors with a row per example: ``((inputs, *others), labels)``.
            validation: Like ``loader``, with other images; the model is measured on it after each
                epoch. Without it the last state is kept.
            callbacks: Watch the training, and may end it. See
                :class:`~captum_masking.training.checkpoint.Checkpoints` and
                :mod:`captum_masking.training.callbacks`.
            resume: A folder of checkpoints. Training continues from the newest readable one, bit
                for bit as if it had not stopped. An empty folder starts a new training.
            steps_per_epoch: Batches per epoch, for long or endless streams.
            check_accuracy: Whether to check on a few examples that the classifier knows the labels.
                Streams and ``FromScratch`` are not checked.

        Returns:
            One record per epoch: the means of what :meth:`step` returns, and with the prefix
            ``val_`` those of the validation set. A notebook shows them as curves.

        Raises:
            ValueError: If a batch is invalid, or the checkpoint has other settings.
            CheckpointError: If no checkpoint in ``resume`` can be read.
        """
        # ---- The data and the callbacks.
        check_loader(loader, epochs)
        if validation is not None:
            check_loader(validation, epochs + 1, name="validation")
        if check_accuracy and not (resume is not None and Checkpoints(resume).steps()):
            self._check_accuracy(loader)
        loading = Loading(loader, steps=steps_per_epoch, device=self.device)
        watching = [*self.steady, *callbacks]
        self.run = run = Run(
            self, loading, epochs, watching, validation=validation, show_progress=show_progress
        )
        run.begin(resume)
        with run.watched():
            while self.epochs_done < epochs and self.stopping is None:
                # ---- An epoch, step by step.
                for inputs, target in run.batches():
                    step, optimizers = self._turn(run.progress)
                    record = step(inputs, target)
                    run.advance(record, len(target), optimizers)
                    for callback in run.callbacks:
                        callback.on_step(self, record)
                    if self.stopping is not None:
                        break
                # ---- Its end: validation, and the record of the epoch.
                record = run.close_epoch()
                for callback in run.callbacks:
                    callback.on_epoch(self, record)
            for callback in reversed(run.callbacks):  # first save, last load the state that is kept
                callback.on_end(self, self.records)
        if show_progress and self.is_main:
            self._report_change(loader, validation)
        return EpochRecords(self.records)

    @torch.no_grad()
    def evaluate(self, loader: Any, *, metrics: Sequence[Metric] = ()) -> Record:
        """Measure the model on labeled images, judged by its current classifier.

        ``metrics`` are called as ``metric(model, inputs, target, mask)`` and return further means.
        """
        means = Means()
        self._agree()  # here, since a process without a batch must take part, too
        with eval_mode(self.model):
            for batch in Loading(loader, device=self.device).shares():
                inputs, context, labels, _ = self._receive(*batch)
                target = one_label(labels)
                judgement, masks = judge_itself(
                    self.model, inputs, target, self.infill, self.infill_out, context
                )
                loss = self.objective(judgement) + over_inputs(self.regularizer, masks, judgement)
                found = {"loss": loss}
                for metric in metrics:
                    found |= metric(self.model, unpacked(inputs), target, unpacked(masks))
                means.add(measure(judgement, masks, found, alone=True), len(target))
        return means.over_processes().record()

    def connectivity(
        self, loader: Any, *, points: int = 5, examples: int | None = None
    ) -> Connectivity:
        """Compare the classifier with its state before joint training.

        If training changed batch-norm statistics, they are estimated again for each point.

        Args:
            loader: As for :meth:`fit`.
            points, examples: As for :func:`~captum_masking.metrics.connectivity`.

        Raises:
            ValueError: If the classifier is frozen, or the loader is empty.
        """
        if self.classifier is None:
            raise ValueError(
                "expected joint training, but the classifier is frozen and never changes; there is "
                "nothing to compare."
            )
        estimates = self.classifier.how.train_mode and world() == 1  # else processes would wait
        return connectivity(
            self.classifier.before,
            self.model.classifier,
            _Received(self, loader),
            points=points,
            buffers="estimate" if estimates else "interpolate",
            examples=examples,
            to_logits=self.model.logits_of,
        )

    # ---- What a callback may use during ``fit``.

    @property
    def records(self) -> list[Record]:
        """The records of the epochs that are done."""
        return [] if self.run is None else self.run.records.closed

    def validate(self) -> Record:
        """Measure the model on the validation images of :meth:`fit`; return {} without them."""
        return {} if self.run is None else self.run.validate()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the current training, between two updates."""
        if self.run is None:
            raise RuntimeError("there is no training to save yet: call fit() first.")
        return self.run.state_dict()

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.model.masker.parameters()).device

    def settings(self) -> dict[str, str]:
        """Describe the settings of this trainer by name."""
        optimizer, engine = self.masker_optimizer.defaults, self.engine
        parts = {
            "model": self.model.recipe(),
            "train_classifier": self.joint or False,
            "infill": self.infill,
            "infill_out": self.infill_out,
            "objective": self.objective,
            "regularizer": self.regularizer,
            "questions": self.questions,
            "pool": self.pool,
            "lr": optimizer["lr"],
            "weight_decay": optimizer["weight_decay"],
            "schedule": self.schedule,
            "max_gradient_norm": engine.max_gradient_norm,
            "skip_not_finite": engine.skip_not_finite,
            "accelerator": engine.describe(),
        }
        return {name: setting(part) for name, part in parts.items()}

    def __repr__(self) -> str:
        lines = "".join(f"    {name}={value},\n" for name, value in self.settings().items())
        return f"MaskingTrainer(\n{lines})"

    def _check_accuracy(self, loader: Any) -> None:
        """Raise an error if a classifier that should know the labels does not."""
        learns = self.classifier is not None and self.classifier.how.classifier_first > 0
        if learns or not _starts_anew(loader):
            return
        answers: list[tuple[Tensor, Tensor]] = []
        with nullcontext() if world() > 1 else suppress(Exception):  # the training raises it again
            answers = list(self._answers(loader))
        check_recognized(answers)

    def _report_change(self, loader: Any, validation: Any) -> None:
        """Print how much a classifier that was trained before has changed."""
        if self.classifier is None or self.classifier.how.classifier_first > 0:
            return  # it was not trained before
        read, kind, examples = validation, "validation", None
        if validation is None:
            read, kind, examples = loader, "training", ENOUGH_TO_TELL
            if not _starts_anew(loader):
                return
        try:
            found = self.connectivity(read, examples=examples)
        except Exception as error:  # the result of the training must not be lost
            words = f"cannot compare the classifier with its state before training: {error}"
            warnings.warn(words, stacklevel=3)
        else:
            tqdm.write(f"    the classifier before and after: {found} ({kind})")

    @torch.no_grad()
    def _answers(self, loader: Any) -> Iterator[tuple[Tensor, Tensor]]:
        self._agree()
        seen = 0
        with eval_mode(self.model), random_states(0):
            for batch in Loading(loader, device=self.device).shares():
                inputs, context, labels, _ = self._receive(*batch)
                if labels.dim() == 1:
                    yield self.model.read(inputs, *context)[0], labels
                seen += len(labels)
                if seen >= ENOUGH_TO_TELL:
                    return

    # ---- The parts of a step.

    def _receive(
        self, inputs: Inputs, target: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor, Tensor]:
        """Check a batch; return inputs, context, labels, and one label of each as given."""
        explained, target = self.model.inputs_taken, as_indices(target)
        inputs, context = as_tuple(inputs)[:explained], as_tuple(inputs)[explained:]
        if context and self.model.target_aware:
            raise ValueError(
                "a target-aware masker learns from composed images, but a batch has tensors "
                "besides its inputs; use MaskingModel(..., target_aware=False), or a module around "
                "the classifier that supplies them."
            )
        several = self.questions.multi_label and not self.joint
        several = several and isinstance(target, Tensor) and target.dim() == 2
        given = one_label(target) if several else target
        check_examples(inputs, given)
        self._agree()
        inputs = moved(inputs, self.device, self.memory_format)
        target, *others = moved((target, *context), self.device)
        inputs = tuple(like_weights(x, self.model.classifier) for x in inputs)
        return inputs, tuple(others), target.long(), given

    def _set_modes(self, classifier: ClassifierTraining | None) -> None:
        self.model.masker.train().requires_grad_(True)
        self.model.sampler.train().requires_grad_(True)
        if classifier is None:
            self.model.classifier.eval().requires_grad_(False)
        else:
            classifier.set_modes()
        self.engine.remember(self.model)

    def _draw_judge(self) -> nn.Module:
        """Draw from the pool, after adding the classifier if it has changed."""
        if not self.pool_is_current:
            self.pool.add(self.model.classifier)
            self.pool_is_current = True
        return self.pool.draw()

    def _look_for_gradients(
        self, judge: nn.Module, inputs: tuple[Tensor, ...], context: tuple[Any, ...]
    ) -> None:
        if self.judging is None:  # the first step, or the judge answers the same for all inputs
            with channels_in_words(judge, inputs[0]):
                self.judging = leading_back(judge, inputs, *context)

    def _judge(
        self, judge: nn.Module, halves: tuple[Tensor, ...], classifier: ClassifierTraining | None
    ) -> Tensor:
        if self.compile_judge is not None and judge not in self.compiled:
            self.compiled[judge] = self.compile_judge(judge)
        call = self.compiled.get(judge)
        is_frozen = call is None and self.joint is None
        in_train_mode = classifier is not None and classifier.how.judge_in_train_mode
        logits_of = self.model.logits_of
        with (
            self.folded.lent(judge, halves, logits_of) if is_frozen else nullcontext(judge) as lent,
            (self.judging or nullcontext)(lent),
            nullcontext() if in_train_mode else eval_mode(lent),
        ):
            return logits_of((lent if call is None else call)(*halves))

    def _learn(self, losses: dict[str, Tensor], *, examples: int) -> Record:
        """Give the losses to the engine, and note an update of the classifier."""
        owners: dict[str, Optimizer] = {"loss": self.masker_optimizer}
        if self.classifier is not None:  # first, since the last one frees the shared graph
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

    def _turn(self, progress: float) -> tuple[Callable[[Inputs, Tensor], Record], list[Optimizer]]:
        """Return the step at this fraction of the training, and the optimizers that it uses."""
        if self.classifier and progress < self.classifier.how.classifier_first:
            return self.classifier_step, [self.classifier.optimizer]
        if self.classifier and progress < self.classifier.how.masker_first:
            return partial(self.step, train_classifier=False), [self.masker_optimizer]
        return self.step, self.optimizers

    def parts_of_each(self, steps: int) -> dict[Optimizer, list[int]]:
        """Count the steps of each network in each part of a training."""
        if self.classifier is None:
            return {self.masker_optimizer: [steps]}
        how = self.classifier.how
        alone = math.ceil(steps * how.classifier_first)  # the classifier, and then the masker
        before = max(math.ceil(steps * how.masker_first) - alone, 0)
        both = steps - alone - before
        parts = [alone, both] if before else [alone + both]
        return {
            self.masker_optimizer: _not_empty(before, both),
            self.classifier.optimizer: _not_empty(*parts),
        }

    def finish_update(self) -> None:
        """Step with the gradients of the last batches, even if they are too few to accumulate."""
        if self.engine.flush():
            self._note_update()

    def forget_gradients(self) -> None:
        """Remove gradients and the folded judge, and restore the initial learning rates."""
        self.engine.forget()
        self.folded = Folded()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = group.get("initial_lr", group["lr"])

    def _agree(self) -> None:
        """Give all processes the weights of the main one."""
        if world() > 1 and not self.same_everywhere:
            copy_from_main(self.model)
            if self.original is not None:
                copy_from_main(self.original)
            self.same_everywhere = True


def _regularizer(
    given: Regularizer | None, steady: Sequence[SteadyArea], *, aware: bool
) -> Regularizer:
    """Add the term that steers the area to the user's regularizer, or replace our area term."""
    if given is not None:
        return Sum(given, *steady) if steady else given
    if not steady:
        return asked_area() if aware else smooth()
    return smooth(Sum(AskedArea(0.0, 0.0), *steady) if aware else steady[0])


def _default_pool(how: FineTune | None) -> Pool:
    if how is None:
        return Latest()
    # A trained classifier has no useful past states until it has changed for a while.
    return History() if how.classifier_first else History(after=1000)


def _not_empty(*lengths: int) -> list[int]:
    return [length for length in lengths if length] or [0]


def _starts_anew(loader: Any) -> bool:
    return isinstance(loader, Sequence) or Loading(loader).is_planned


class _Received:
    """The checked batches of a loader, which can be read repeatedly."""

    def __init__(self, trainer: MaskingTrainer, loader: Any) -> None:
        self.trainer, self.loader = trainer, loader

    def __iter__(self) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        for batch in Loading(self.loader, device=self.trainer.device).shares():
            inputs, context, labels, _ = self.trainer._receive(*batch)
            yield inputs + context, labels
