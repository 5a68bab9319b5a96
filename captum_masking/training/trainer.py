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
from captum_masking.training.callbacks import Callback, SteadyArea
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
from captum_masking.training.update import Engine, Folded, check_learnable, laid_out, moved, precise

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["MaskingTrainer"]


class MaskingTrainer:
    """Train the masker of a model together with its classifier, **which changes the classifier**.

    ``train_classifier=False`` trains the masker alone and leaves every bit of the classifier, whose
    batch norm is folded into its convolutions where it judges: the same to rounding, and faster.

    Args:
        model: Trained in place. Joint training trains the parameters of its classifier that
            require a gradient; if none does, all of them, with a warning.
        train_classifier: True is :class:`~captum_masking.FineTune`, False leaves it bit-identical;
            or ``FineTune(...)`` or ``FromScratch(...)`` with other settings.
        infill: What fills the holes.
        infill_out: What fills those of masked-out images; None is the same.
        objective: The masker's; None is
            :func:`~captum_masking.parts.objective.default_objective`.
        regularizer: Of the mask; None is :func:`~captum_masking.parts.regularizer.smooth`, or for a
            target-aware model :func:`~captum_masking.parts.regularizer.asked`.
        area: Mean area that masks should have, a fraction of the image in (0, 1). :meth:`fit`
            steers to it by a weight of its own, in place of the default reward for small masks; up
            to about 0.5 usually to within a fifth. None leaves the area to the images.
        questions: What the masker is asked: by default for the label,
            :class:`~captum_masking.parts.questions.AsPredicted` asks for the predicted class. A
            target-aware masker gets :class:`~captum_masking.parts.questions.Questions`; labels may
            be ``(B, classes)`` then.
        pool: Draws the judge of each step; None is the classifier as it is now,
            :class:`~captum_masking.parts.pool.Latest`, and in joint training
            :class:`~captum_masking.parts.pool.History`, of a classifier that was good before only
            once it has learned for 1,000 steps.
        lr: Peak learning rate of the masker's Adam.
        schedule: Called as ``schedule(optimizer, steps)`` for each network, with the steps in which
            it learns; by default rates rise for the first tenth and fall to zero along a cosine.
            Where a second network joins the first, the rates of both start there.
        max_gradient_norm: Gradients of each network are clipped to this norm.
        skip_not_finite: Whether batches whose loss or gradient is not finite are left out and
            counted, as ``skipped`` in the records, rather than an error.
        accelerator: Of the accelerate library: device, mixed precision, gradient accumulation and
            copies on several devices. None trains where the model is, in its own precision.
        compile_judge: Called on a judge before it sees masked images, such as ``torch.compile``.
        memory_format: Of images and model; ``torch.channels_last`` is faster on some devices.

    Attributes:
        steps_done: Batches that were learned from.
        stopping: Why :meth:`fit` is to end early; None while it is not.

    Source:
        Phang et al. 2020. Differs: the judge runs in eval mode and comes from the pool; both
        gradients are taken before either optimizer steps; cosine in place of step decay.

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
        for part in (model.masker, model.sampler):
            if any(p.element_size() < 4 for p in part.parameters()):
                part.float()  # half precision has too few steps to learn in
        self.engine = Engine(
            accelerator, max_gradient_norm=max_gradient_norm, skip_not_finite=skip_not_finite
        )
        self.engine.place(model)
        halves = [weights for weights in model.parameters() if weights.dtype == torch.float16]
        if halves and self.engine.scaler is None:  # or gradients vanish before they reach the mask
            self.engine.scaler = torch.amp.GradScaler(halves[0].device.type)
        self.model = laid_out(model, memory_format)
        self.memory_format, self.compile_judge = memory_format, compile_judge
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
        """The classifier as it was before joint training, where it has to stay close to that."""
        return None if self.classifier is None else self.classifier.original

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes; alone, it is."""
        return rank() == 0

    @torch.inference_mode(False)
    @torch.enable_grad()
    def step(self, inputs: Inputs, target: Tensor, *, train_classifier: bool = True) -> Record:
        """Take one step of the masker, and of the classifier in joint training, on one batch.

        Args:
            inputs: ``(B, C, *spatial)``, normalized as the classifier expects; a tuple of several
                for a classifier that takes several.
            target: The class of each, ``(B,)``, integers.

        Returns:
            What happened: losses, accuracies on clean, masked-in and masked-out images, entropy
            of the masked-out prediction in nats, mask area as a fraction.

        Raises:
            ValueError: If labels lie outside the classifier's range, or a loss is not finite;
                the weights are then as before.
        """
        inputs, context, labels, given = self._receive(inputs, target)
        classifier = self.classifier if train_classifier else None
        with given_back(self.model), self.engine.autocast():
            self._set_modes(classifier)
            judge = self._draw_judge()  # before the clean pass moves statistics of batch norm
            posed = self.questions.ask(inputs, labels)
            self._look_for_gradients(judge, posed.inputs, context)

            # 1. One clean pass: its logits tell what is recognized, its features make the mask.
            logits, features = self.model.read(posed.inputs, *context)
            check_logits(logits)
            check_labels(given, inputs[0], classes=logits.shape[1])
            question = posed.given(logits)
            masks = self.model.decode(features, question)  # (B, 1, *spatial) for each input

            # 2. The judge, now or from the past, sees both halves as one batch in eval mode, so
            #    that masked images never move batch-norm statistics.
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
            loader: Gives batches ``(inputs, labels)``, or dicts as
                :func:`~captum_masking.data.read_batch` reads them. A ``DataLoader`` over a data
                set, or anything that can be iterated over once an epoch; streams need no length.
                What the classifier takes after its inputs stands beside them, in tensors of a row
                for each example: ``((inputs, *others), labels)``.
            validation: Like ``loader``, with images that are not trained on; after each epoch the
                model is measured on it. Without it the last state is kept.
            callbacks: Watch the training, and may end it:
                :class:`~captum_masking.training.checkpoint.Checkpoints`, and those of
                :mod:`captum_masking.training.callbacks`.
            resume: A folder of checkpoints. The training goes on from the newest that can be read,
                bit by bit as if it had not stopped; an empty folder starts a new training.
            steps_per_epoch: Batches in an epoch, to cut a stream.
            check_accuracy: Whether to refuse labels that the classifier does not know, on the first
                examples of a list or a data set with an index; never with ``FromScratch``.

        Returns:
            One record per epoch: the means of what :meth:`step` returns and, with the prefix
            ``val_``, of the validation set. A notebook shows them as curves.

        Raises:
            ValueError: If a batch cannot be used, or the checkpoint is of other settings.
            CheckpointError: If no checkpoint in ``resume`` can be read.
        """
        # ---- What is read, and who watches.
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
            self._say_what_moved(loader, validation)
        return EpochRecords(self.records)

    @torch.no_grad()
    def evaluate(self, loader: Any, *, metrics: Sequence[Metric] = ()) -> Record:
        """Measure the model on labeled images, judged by its classifier as it is now.

        ``metrics`` are called as ``metric(model, inputs, target, mask)`` and give further means.
        """
        means = Means()
        self._agree()  # a process that gets no batch has to take part, too
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
        """Compare the classifier with what it was before joint training.

        Statistics of batch norm that were kept stay; those that moved are recalculated on the line.

        Args:
            loader: As for :meth:`fit`.
            points, examples: As of :func:`~captum_masking.metrics.connectivity`.

        Raises:
            ValueError: If the classifier is not trained, or nothing can be read.
        """
        if self.classifier is None:
            raise ValueError(
                "a frozen classifier is what it was, bit by bit: there is nothing to compare."
            )
        estimates = self.classifier.how.train_mode and world() == 1  # or processes wait for others
        return connectivity(
            self.classifier.before,
            self.model.classifier,
            _Received(self, loader),
            points=points,
            buffers="estimate" if estimates else "interpolate",
            examples=examples,
            to_logits=self.model.logits_of,
        )

    # ---- What a callback may look at during ``fit``.

    @property
    def records(self) -> list[Record]:
        """The records of the epochs that are done."""
        return [] if self.run is None else self.run.records.closed

    def validate(self) -> Record:
        """Measure the model on the validation images of :meth:`fit`; nothing without them."""
        return {} if self.run is None else self.run.validate()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the training that :meth:`fit` runs, between two updates."""
        if self.run is None:
            raise RuntimeError("there is no training to save yet: call fit() first.")
        return self.run.state_dict()

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.masker.parameters()).device

    def settings(self) -> dict[str, str]:
        """Describe what this trainer was made of, by name."""
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
        """Refuse labels of which a classifier that should be trained already knows nothing."""
        learns = self.classifier is not None and self.classifier.how.classifier_first > 0
        if learns or not _starts_anew(loader):
            return
        answers: list[tuple[Tensor, Tensor]] = []
        with nullcontext() if world() > 1 else suppress(Exception):  # the training meets it again
            answers = list(self._answers(loader))
        check_recognized(answers)

    def _say_what_moved(self, loader: Any, validation: Any) -> None:
        """Say in a line whether a classifier that was good before is still the same."""
        if self.classifier is None or self.classifier.how.classifier_first > 0:
            return  # it knew nothing before
        read, kind, examples = validation, "validation", None
        if validation is None:
            read, kind, examples = loader, "training", ENOUGH_TO_TELL
            if not _starts_anew(loader):
                return
        try:
            found = self.connectivity(read, examples=examples)
        except Exception as error:  # the training is done, and must not be lost
            words = f"the classifier was not compared with what it was: {error}"
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

    # ---- What a step is made of.

    def _receive(
        self, inputs: Inputs, target: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor, Tensor]:
        """Check a batch; return inputs, context, labels, and one label of each as given."""
        explained, target = self.model.inputs_taken, as_indices(target)
        inputs, context = as_tuple(inputs)[:explained], as_tuple(inputs)[explained:]
        if context and self.model.target_aware:
            raise ValueError(
                "a target-aware masker learns from images put together, but a batch has tensors "
                "besides its inputs; take MaskingModel(..., target_aware=False), or have a module "
                "around the classifier fill them in."
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
        """Draw from the pool, which gets the classifier when that has learned something."""
        if not self.pool_is_current:
            self.pool.add(self.model.classifier)
            self.pool_is_current = True
        return self.pool.draw()

    def _look_for_gradients(
        self, judge: nn.Module, inputs: tuple[Tensor, ...], context: tuple[Any, ...]
    ) -> None:
        if self.judging is None:  # the first step, or it has given one answer to all until now
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

    def _turn(self, progress: float) -> tuple[Callable[[Inputs, Tensor], Record], list[Optimizer]]:
        """Say who learns at this fraction of the training: the step, and whose rates move."""
        if self.classifier and progress < self.classifier.how.classifier_first:
            return self.classifier_step, [self.classifier.optimizer]
        if self.classifier and progress < self.classifier.how.masker_first:
            return partial(self.step, train_classifier=False), [self.masker_optimizer]
        return self.step, self.optimizers

    def parts_of_each(self, steps: int) -> dict[Optimizer, list[int]]:
        """Count the steps of each part of a training in which each network learns."""
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
        """Step with the gradients of the last batches, where there are fewer than accumulate."""
        if self.engine.flush():
            self._note_update()

    def forget_gradients(self) -> None:
        """Leave no gradient or folded judge behind, and the learning rates as they were given."""
        self.engine.forget()
        self.folded = Folded()
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


def _regularizer(
    given: Regularizer | None, steady: Sequence[SteadyArea], *, aware: bool
) -> Regularizer:
    """Add what holds the area: beside the user's regularizer, or in place of our area term."""
    if given is not None:
        return Sum(given, *steady) if steady else given
    if not steady:
        return asked_area() if aware else smooth()
    return smooth(Sum(AskedArea(0.0, 0.0), *steady) if aware else steady[0])


def _default_pool(how: FineTune | None) -> Pool:
    if how is None:
        return Latest()
    # A classifier that was good before has no past of interest until it has moved for a while.
    return History() if how.classifier_first else History(after=1000)


def _not_empty(*lengths: int) -> list[int]:
    return [length for length in lengths if length] or [0]


def _starts_anew(loader: Any) -> bool:
    return isinstance(loader, Sequence) or Loading(loader).is_planned


class _Received:
    """The batches of a loader as a trainer takes them, as often as they are asked for."""

    def __init__(self, trainer: MaskingTrainer, loader: Any) -> None:
        self.trainer, self.loader = trainer, loader

    def __iter__(self) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        for batch in Loading(self.loader, device=self.trainer.device).shares():
            inputs, context, labels, _ = self.trainer._receive(*batch)
            yield inputs + context, labels
