"""Train a masker and, by default, its classifier with it; ``step`` is the algorithm."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from captum_masking.checks import (
    check_examples,
    check_finite,
    check_labels,
    check_loader,
    check_logits,
    check_pair,
)
from captum_masking.infill import Infill, Mean
from captum_masking.masking import mask_images
from captum_masking.model import MaskingModel
from captum_masking.modes import eval_mode, given_back
from captum_masking.monitor import BestState, Means, Monitor, Record, judge_itself, measure
from captum_masking.objective import Dual, Judgement, Objective
from captum_masking.outputs import logits_of
from captum_masking.pool import History, Latest, Pool
from captum_masking.regularizer import Regularizer, smooth
from captum_masking.schedule import FineTune, cosine


class MaskingTrainer:
    """Trains the masker of a model and, unless told otherwise, its classifier with it.

    Args:
        model: Trained in place. If only some parameters of its classifier require a gradient,
            joint training trains those.
        train_classifier: True trains the classifier along as :class:`FineTune` says, False leaves
            it bit-identical; give ``FineTune(...)`` or ``FromScratch(...)`` to say how.
        infill: What fills the holes.
        infill_out: What fills those of masked-out images; None is the same.
        objective: The masker's, of what the judge says of masked images.
        regularizer: Of the mask.
        pool: Draws the judge of each step; None is :class:`~captum_masking.pool.History` in joint
            training and :class:`~captum_masking.pool.Latest` otherwise.
        lr: Peak learning rate of the masker's Adam; both rates rise for the first tenth of the
            steps and then fall to zero along a cosine.
        weight_decay: Of the masker's Adam.
        max_gradient_norm: Gradients of each network are clipped to this norm.

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
        objective: Objective = Dual(),
        regularizer: Regularizer = smooth(),
        pool: Pool | None = None,
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        max_gradient_norm: float = 10.0,
    ) -> None:
        self.model = model
        self.joint = FineTune() if train_classifier is True else train_classifier or None
        self.infill = infill
        self.infill_out = infill_out
        self.objective = objective
        self.regularizer = regularizer
        self.pool = pool if pool is not None else History() if self.joint else Latest()
        self.pool_is_current = False
        self.max_gradient_norm = max_gradient_norm
        self.masker_parameters = [*model.masker.parameters(), *model.sampler.parameters()]
        self.masker_optimizer = torch.optim.Adam(
            self.masker_parameters, lr=lr, weight_decay=weight_decay
        )
        self.optimizers: list[torch.optim.Optimizer] = [self.masker_optimizer]
        if self.joint:
            self._prepare_classifier(self.joint)

    def step(self, inputs: Tensor, target: Tensor, *, train_classifier: bool = True) -> Record:
        """Take one step of the masker, and of the classifier in joint training, on one batch.

        Args:
            inputs: ``(B, C, *spatial)``, normalised as the classifier expects.
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
        check_examples(inputs, target)
        joint = self.joint if train_classifier else None
        with given_back(self.model):
            self._set_modes(joint)
            # 1. One clean pass: its logits say what is recognised, its features make the mask.
            logits, features = self.model.read(inputs)
            check_logits(logits)
            check_labels(target, inputs, classes=logits.shape[1])
            asked = self.model.ask(logits, **self._question(target))
            mask = self.model.decode(features, inputs.shape[2:], **asked)  # (B, 1, *spatial)
            masked_in, masked_out = mask_images(inputs, mask, self.infill, self.infill_out)

            # 2. The judge, now or from the past, sees both halves as one batch in eval mode, so
            #    that masked images never move batch-norm statistics.
            judge = self._draw_judge()
            with nullcontext() if joint and joint.judge_in_train_mode else eval_mode(judge):
                logits_in, logits_out = logits_of(judge(torch.cat([masked_in, masked_out]))).chunk(
                    2
                )
            judgement = Judgement(logits, logits_in, logits_out, target, asked.get("area"))

            # 3. Both gradients, each for its own network, before either takes its step.
            losses = {"loss": self.objective(judgement) + self.regularizer(mask, judgement)}
            if joint:
                losses["classifier_loss"] = self._classifier_loss(joint, judgement, inputs, judge)
                self._backward(
                    losses["classifier_loss"], self.classifier_parameters, retain_graph=True
                )
            self._backward(losses["loss"], self.masker_parameters)
            self.masker_optimizer.step()
            if joint:
                self._step_classifier()
        return measure(judgement, mask, losses)

    def classifier_step(self, inputs: Tensor, target: Tensor) -> Record:
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
        check_examples(inputs, target)
        with given_back(self.model):
            self._set_modes(self.joint)
            logits = self.model(inputs)
            check_logits(logits)
            check_labels(target, inputs, classes=logits.shape[1])
            loss = cross_entropy(logits, target)
            self._backward(loss, self.classifier_parameters)
            self._step_classifier()
        clean = (logits.argmax(1) == target).float().mean()
        return {"classifier_loss": loss.item(), "clean": clean.item()}

    def fit(
        self,
        loader: DataLoader,
        epochs: int = 10,
        *,
        validation: DataLoader | None = None,
        log: str | Path | None = None,
        show_progress: bool = True,
    ) -> list[Record]:
        """Train for some epochs and keep the best state.

        Args:
            loader: Gives batches ``(inputs, labels)`` and has a length.
            epochs: Passes over the loader.
            validation: Like ``loader``, with images that are not trained on; after each epoch the
                model is measured on it. The state kept is then the one chosen as
                :class:`~captum_masking.monitor.BestState` says; without it, the last.
            log: A CSV file to write the records to, a row an epoch.
            show_progress: Whether to show a bar with the running figures.

        Returns:
            One record per epoch: the means of what :meth:`step` returns and, with the prefix
            ``val_``, of the validation set.

        Raises:
            TypeError: If the loader gives no pairs of tensors.
            ValueError: If a batch cannot be used; the message says why.

        Source:
            Own.
        """
        check_loader(loader, epochs)
        monitor = Monitor(epochs, log=log, show_progress=show_progress)
        best = BestState(self.model)
        if validation is not None:
            check_loader(validation, name="validation")
            best.start(self.evaluate(validation))
        steps, done = epochs * len(loader), 0
        schedules = self._schedules(steps)
        for _ in range(epochs):
            for batch in monitor.epoch(loader):
                inputs, target = self._receive(batch)
                step, optimizers = self._turn(done / steps)
                monitor.add(step(inputs, target), len(inputs))
                for optimizer in optimizers:
                    schedules[optimizer].step()
                done += 1
            record = monitor.close(self.evaluate(validation) if validation is not None else {})
            best.offer(record)
        best.restore()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        return monitor.records

    @torch.no_grad()
    def evaluate(self, loader: DataLoader) -> Record:
        """Measure the model on labelled images, judged by its classifier as it is now.

        Args:
            loader: Gives batches ``(inputs, labels)``.

        Returns:
            Means over the images, under the names that :meth:`step` uses.

        Source:
            Own.
        """
        means = Means()
        with eval_mode(self.model):
            for batch in loader:
                inputs, target = self._receive(batch)
                check_examples(inputs, target)
                judgement, mask = judge_itself(
                    self.model, inputs, target, self.infill, self.infill_out
                )
                loss = self.objective(judgement) + self.regularizer(mask, judgement)
                means.add(measure(judgement, mask, {"loss": loss}), len(inputs))
        return means.record()

    def __repr__(self) -> str:
        optimizer = self.masker_optimizer.defaults
        parts = {
            "model": self.model.recipe(),
            "train_classifier": self.joint or False,
            "infill": self.infill,
            "infill_out": self.infill_out,
            "objective": self.objective,
            "regularizer": self.regularizer,
            "pool": self.pool,
            "lr": optimizer["lr"],
            "weight_decay": optimizer["weight_decay"],
            "max_gradient_norm": self.max_gradient_norm,
        }
        lines = "".join(f"    {name}={value},\n" for name, value in parts.items())
        return f"MaskingTrainer(\n{lines})"

    def _question(self, target: Tensor) -> dict[str, Tensor]:
        """Say what the masker is told in training: the label, and a size drawn for each image."""
        if "area" not in getattr(self.model.masker, "asks", ()):
            return {"target": target}
        return {"target": target, "area": 0.25 + 0.5 * torch.rand(len(target))}  # as published

    def _draw_judge(self) -> nn.Module:
        """Draw from the pool, which is told of the classifier when that has learned something."""
        if not self.pool_is_current:
            self.pool.add(self.model.classifier)
            self.pool_is_current = True
        return self.pool.draw()

    def _step_classifier(self) -> None:
        self.classifier_optimizer.step()
        self.pool_is_current = False

    def _prepare_classifier(self, how: FineTune) -> None:
        self.model.classifier_trained = True
        # Layers that the user has frozen stay frozen, unless that is all of them.
        parameters = list(self.model.classifier.parameters())
        self.classifier_parameters = [p for p in parameters if p.requires_grad] or parameters
        self.classifier_optimizer = how.optimizer(self.classifier_parameters, lr=how.lr)
        self.optimizers.append(self.classifier_optimizer)
        if how.stay:
            self.original = copy.deepcopy(self.model.classifier).eval().requires_grad_(False)

    def _turn(
        self, progress: float
    ) -> tuple[Callable[[Tensor, Tensor], Record], list[torch.optim.Optimizer]]:
        """Say who learns at this fraction of the training: the step, and whose rates move."""
        if self.joint and progress < self.joint.classifier_first:
            return self.classifier_step, [self.classifier_optimizer]
        if self.joint and progress < self.joint.masker_first:
            return partial(self.step, train_classifier=False), [self.masker_optimizer]
        return self.step, self.optimizers

    def _schedules(
        self, steps: int
    ) -> dict[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
        """Give each network one cosine over the steps in which it learns."""
        joint = self.joint or FineTune()
        learning: dict[torch.optim.Optimizer, int] = {}
        learning[self.masker_optimizer] = steps - int(steps * joint.classifier_first)
        if self.joint:
            learning[self.classifier_optimizer] = steps - int(steps * joint.masker_first)
        return {optimizer: cosine(optimizer, count) for optimizer, count in learning.items()}

    def _set_modes(self, joint: FineTune | None) -> None:
        self.model.masker.train().requires_grad_(True)
        self.model.sampler.train().requires_grad_(True)
        if joint:
            self.model.classifier.train(joint.train_mode)
            for parameter in self.classifier_parameters:
                parameter.requires_grad_(True)
        else:
            self.model.classifier.eval().requires_grad_(False)

    def _classifier_loss(
        self, joint: FineTune, judgement: Judgement, inputs: Tensor, judge: nn.Module
    ) -> Tensor:
        """On its own steps all three images; where a past classifier judged, the clean one."""
        own = judge is self.model.classifier
        loss = (
            joint.objective(judgement) if own else cross_entropy(judgement.logits, judgement.target)
        )
        if joint.stay:
            with torch.no_grad():
                original = logits_of(self.original(inputs)).softmax(1)
            loss = loss + joint.stay * cross_entropy(judgement.logits, original)
        return loss

    def _backward(
        self, loss: Tensor, parameters: Sequence[nn.Parameter], *, retain_graph: bool = False
    ) -> None:
        """Set the gradients of one network; retain the graph where the other's loss shares it."""
        check_finite(
            loss, "the loss", "lower the learning rate, and look for extreme values in the inputs."
        )
        for parameter in parameters:
            parameter.grad = None
        loss.backward(inputs=list(parameters), retain_graph=retain_graph)
        nn.utils.clip_grad_norm_(parameters, self.max_gradient_norm)

    def _receive(self, batch: object) -> tuple[Tensor, Tensor]:
        """Bring what a loader gave to the model's device; loss functions ask for 64-bit labels."""
        inputs, target = check_pair(batch)
        device = next(self.model.masker.parameters()).device
        integers = not (target.is_floating_point() or target.dtype == torch.bool)
        return inputs.to(device), target.to(device, torch.long if integers else target.dtype)
