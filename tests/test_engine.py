"""Promises about how a step becomes an update: precision, accumulation, what is not finite."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from networks import Flat, assert_same, cnn, same_weights
from torch import Tensor, nn
from torch.optim.lr_scheduler import ConstantLR
from torch.utils.data import DataLoader, TensorDataset

from captum_masking import FineTune, FromScratch, MaskingModel, MaskingTrainer
from captum_masking.parts.pool import Latest
from captum_masking.training.update import Engine

accelerate = pytest.importorskip("accelerate")

JOINT = FineTune(lr=0.05, masker_first=0.0)
BOTH = pytest.mark.parametrize("how", [False, JOINT], ids=["frozen", "joint"])
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture
def accelerator() -> Iterator[Callable[..., Any]]:
    """Make accelerators, whose state is one for the whole process, and clear it up."""
    from accelerate.state import AcceleratorState, GradientState

    def make(cpu: bool = True, **options: Any) -> Any:
        clear()
        return accelerate.Accelerator(cpu=cpu, **options)

    def clear() -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()

    yield make
    clear()


class Plain(nn.Module):
    """A masker without batch norm: its logits for an image do not depend on the others."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, 1, 1)

    def forward(self, features: list[Tensor], grid: tuple[int, ...], question: Any) -> Tensor:
        return nn.functional.interpolate(self.convolution(features[0]), tuple(grid))


def build(how: Any = False, *, dtype: torch.dtype = torch.float64, **options: Any):
    torch.manual_seed(0)
    model = MaskingModel(cnn(dropout=0.0), ["2"], masker=Plain(6)).to(dtype)
    return MaskingTrainer(model, train_classifier=how, pool=Latest(), lr=0.01, **options)


def data(count: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 3, 16, 16, dtype=dtype), torch.arange(count) % 4


def parts(images: Tensor, labels: Tensor, sizes: list[int]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(images.split(sizes), labels.split(sizes), strict=True))


def weights(trainer: MaskingTrainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def quiet(trainer: MaskingTrainer, batches: Any, epochs: int = 1, **options: Any) -> list[dict]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the (masker has collapsed|classifier has lost)")
        warnings.filterwarnings("ignore", message="Detected call of")
        return trainer.fit(batches, epochs, show_progress=False, **options)


# Accumulation: many small batches are one large one.


@BOTH
@pytest.mark.parametrize("sizes", [[3, 3, 3], [1, 6, 2]], ids=["equal", "unequal"])
def test_accumulated_batches_are_one_large_batch(how, sizes, accelerator):
    images, labels = data(9)
    many = build(how, accelerator=accelerator(gradient_accumulation_steps=3))
    one = build(how)
    for _ in range(2):
        for micro in parts(images, labels, sizes):
            many.step(*micro)
        one.step(images, labels)
    torch.testing.assert_close(weights(many), weights(one), rtol=0, atol=1e-9)


def test_nothing_moves_before_enough_batches_have_come(accelerator):
    images, labels = data(4)
    trainer = build(JOINT, accelerator=accelerator(gradient_accumulation_steps=2))
    before = weights(trainer)
    trainer.step(images[:2], labels[:2])
    assert_same(before, weights(trainer))
    assert trainer.engine.between_updates
    trainer.step(images[2:], labels[2:])
    assert not same_weights(trainer.model, build(JOINT).model)
    assert not trainer.engine.between_updates


@BOTH
def test_the_rest_of_an_epoch_is_an_update_of_its_own(how, accelerator):
    """Five batches, two at a time: the fifth does not wait for the next epoch."""
    images, labels = data(10)
    steady = {"schedule": lambda optimizer, steps: ConstantLR(optimizer, 1.0)}
    many = build(how, accelerator=accelerator(gradient_accumulation_steps=2), **steady)
    quiet(many, parts(images, labels, [2, 2, 2, 2, 2]))
    plain = build(how, **steady)
    for batch in parts(images, labels, [4, 4, 2]):
        plain.step(*batch)
    torch.testing.assert_close(weights(many), weights(plain), rtol=0, atol=1e-9)


def test_gradients_are_clipped_to_the_norm_after_they_are_averaged():
    """Two batches with the gradients 6 and 8, of 1 and 3 examples: their mean is 7.5."""
    weight = nn.Parameter(torch.tensor(0.0))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    engine = Engine(fake(gradient_accumulation_steps=2), max_gradient_norm=10.0)
    engine.learn({optimizer: 6 * weight}, examples=1)
    engine.learn({optimizer: 8 * weight}, examples=3)
    assert weight.item() == pytest.approx(-7.5)
    engine = Engine(max_gradient_norm=0.5)
    engine.learn({optimizer: 8 * weight}, examples=3)
    assert weight.item() == pytest.approx(-8.0, abs=1e-5)


def fake(**options: Any) -> Any:
    """What the engine reads of an accelerator."""
    plain = {"gradient_accumulation_steps": 1, "mixed_precision": "no", "device": "cpu"}
    return SimpleNamespace(**plain | {"autocast": nullcontext, "scaler": None} | options)


# What is not finite.


def poisoned(judgement: Any) -> Tensor:
    return judgement.logits_in.mean() * float("nan")


class Steep(torch.autograd.Function):
    """Finite forwards, infinite backwards."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient / 0


def steep(judgement: Any) -> Tensor:
    return Steep.apply(judgement.logits_in).mean()


FAULTS = pytest.mark.parametrize(
    ("objective", "words"), [(poisoned, "the loss"), (steep, "the gradient's norm")]
)


def fallible(objective: Any, how: Any = JOINT, **options: Any) -> MaskingTrainer:
    """The default masker, with the batch norm that a batch moves before its loss is known."""
    torch.manual_seed(0)
    model = MaskingModel(cnn(dropout=0.0), target_aware=False)
    return MaskingTrainer(model, train_classifier=how, objective=objective, **options)


@FAULTS
@pytest.mark.parametrize("how", [False, JOINT, FromScratch()], ids=["frozen", "joint", "scratch"])
def test_what_is_not_finite_is_an_error_that_leaves_the_model_as_it_was(
    objective, words, how, images, labels
):
    trainer = fallible(objective, how)
    before = weights(trainer)
    with pytest.raises(ValueError, match=f"^{words} must be finite.*lower the learning rate"):
        trainer.step(images, labels)
    assert_same(before, weights(trainer))
    assert not trainer.engine.between_updates


@FAULTS
def test_it_can_be_left_out_and_counted_instead(objective, words, images, labels):
    trainer = fallible(objective, skip_not_finite=True)
    before = weights(trainer)
    record = trainer.step(images, labels)
    assert record["skipped"] == 1
    assert_same(before, weights(trainer))


class Sometimes:
    """An objective that is not finite in some steps, counted from 0."""

    def __init__(self, *bad: int) -> None:
        self.bad, self.step = bad, -1

    def __call__(self, judgement: Any) -> Tensor:
        self.step += 1
        loss = judgement.logits_in.mean()
        return loss * float("nan") if self.step in self.bad else loss


def test_a_training_with_a_batch_left_out_is_the_training_without_it(images, labels):
    batches = [(images[:2], labels[:2]), (images[2:4], labels[2:4]), (images[4:], labels[4:])]
    left_out, without = (fallible(Sometimes(*bad), skip_not_finite=True) for bad in ([1], []))
    records = [left_out.step(*batch) for batch in batches]
    for batch in (batches[0], batches[2]):
        assert "skipped" not in without.step(*batch)
    assert [record.get("skipped", 0) for record in records] == [0, 1, 0]
    assert_same(weights(without), weights(left_out))


def test_the_record_of_an_epoch_counts_what_was_left_out_and_is_finite(images, labels):
    batches = [(images[:2], labels[:2])] * 4
    trainer = fallible(Sometimes(0, 2), False, skip_not_finite=True)
    first, second = quiet(trainer, batches, epochs=2)
    assert first["skipped"] == 2 and "skipped" not in second
    assert all(torch.tensor(value).isfinite() for value in first.values())


def test_a_batch_left_out_takes_no_other_of_its_update_with_it(accelerator):
    """Of two batches that make an update one is left out: the update is that of the other."""
    images, labels = data(4)
    options = {"accelerator": accelerator(gradient_accumulation_steps=2), "skip_not_finite": True}
    many = build(objective=Sometimes(1), **options)
    many.step(images[:2], labels[:2])
    assert many.step(images[2:], labels[2:])["skipped"] == 1
    single = build(objective=Sometimes())
    single.step(images[:2], labels[:2])
    torch.testing.assert_close(weights(many), weights(single), rtol=0, atol=1e-9)


def test_a_loss_scale_that_was_too_large_falls_and_the_step_is_left_out():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120, backoff_factor=2.0**-100)
    weight = nn.Parameter(torch.tensor(1.0))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    engine = Engine(fake(scaler=scaler))
    assert engine.learn({optimizer: 2.0**10 * weight**2}, examples=1) == {"skipped": 1.0}
    assert weight.item() == 1 and scaler.get_scale() == 2.0**20
    assert engine.learn({optimizer: weight**2}, examples=1) == {}
    assert weight.item() == 0  # 1 - 0.5 * 2


def test_a_gradient_that_is_not_finite_at_any_scale_is_an_error():
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    weight = nn.Parameter(torch.tensor(1.0))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    engine = Engine(fake(scaler=scaler))
    loss = {optimizer: Steep.apply(weight)}
    for _ in range(2):
        loss = {optimizer: Steep.apply(weight)}
        assert engine.learn(loss, examples=1) == {"skipped": 1.0}
    with pytest.raises(ValueError, match="the gradient's norm must be finite"):
        engine.learn({optimizer: Steep.apply(weight)}, examples=1)
    assert weight.item() == 1


# Precision and layout.


@BOTH
def test_bf16_trains_to_losses_close_to_those_of_single_precision(how, accelerator, images, labels):
    exact = MaskingTrainer(fallible(None).model, train_classifier=how, pool=Latest())
    rounded = MaskingTrainer(
        fallible(None).model,
        train_classifier=how,
        pool=Latest(),
        accelerator=accelerator(mixed_precision="bf16"),
    )
    for _ in range(5):
        expected, found = exact.step(images, labels), rounded.step(images, labels)
        assert found["loss"] == pytest.approx(expected["loss"], abs=0.1)
        assert found["area"] == pytest.approx(expected["area"], abs=0.02)
    assert not same_weights(exact.model, rounded.model)  # or nothing was rounded
    assert {value.dtype for value in rounded.model.parameters()} == {torch.float32}


def test_masks_in_bf16_are_single_precision_between_0_and_1(accelerator, images):
    seen = []
    trainer = MaskingTrainer(
        fallible(None).model,
        train_classifier=False,
        regularizer=lambda mask, judgement: seen.append(mask.detach()) or mask.mean(),
        accelerator=accelerator(mixed_precision="bf16"),
    )
    trainer.step(images, torch.arange(6) % 4)
    (mask,) = seen
    assert mask.dtype == torch.float32
    assert mask.min() >= 0 and mask.max() <= 1 and len(mask.unique()) > 256


@needs_gpu
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_on_a_gpu_trains_close_to_single(precision, accelerator, images, labels):
    exact = MaskingTrainer(fallible(None).model.cuda(), pool=Latest())
    half = MaskingTrainer(
        fallible(None).model,
        pool=Latest(),
        accelerator=accelerator(cpu=False, mixed_precision=precision),
    )
    for _ in range(5):
        expected, found = exact.step(images, labels), half.step(images, labels)
        assert found["loss"] == pytest.approx(expected["loss"], abs=0.1)
    assert (half.engine.scaler is not None) == (precision == "fp16")


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_launchers_that_cut_a_network_into_pieces_are_refused_in_words(model, kind):
    sharding = fake(distributed_type=accelerate.DistributedType[kind])
    with pytest.raises(ValueError, match=f"got {kind}.*accelerate launch --multi_gpu"):
        MaskingTrainer(model, accelerator=sharding)


@pytest.mark.parametrize("precision", ["fp16", "fp8"])
def test_a_precision_that_would_not_be_used_is_refused_in_words(model, precision):
    with pytest.raises(ValueError, match=f"got {precision} on cpu; bf16 works anywhere"):
        MaskingTrainer(model, accelerator=fake(mixed_precision=precision))


@BOTH
def test_a_compiled_judge_trains_the_same_weights(how, images, labels):
    eager = partial(torch.compile, backend="eager")
    plain, compiled = (
        MaskingTrainer(fallible(None).model.double(), train_classifier=how, compile_judge=judge)
        for judge in (None, eager)
    )
    for _ in range(2):
        plain.step(images.double(), labels)
        compiled.step(images.double(), labels)
    torch.testing.assert_close(weights(compiled), weights(plain), rtol=0, atol=1e-6)


@BOTH
def test_channels_last_trains_the_same_weights(how, images, labels):
    double = images.double()
    plain, last = (
        MaskingTrainer(fallible(None).model.double(), train_classifier=how, memory_format=layout)
        for layout in (torch.preserve_format, torch.channels_last)
    )
    for _ in range(3):
        plain.step(double, labels)
        last.step(double, labels)
    assert last.model.classifier[0].weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(weights(last), weights(plain), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dims", [1, 3])
def test_channels_last_leaves_signals_and_volumes_as_they_are(dims):
    inputs, labels = torch.randn(4, 3, *[16] * dims), torch.arange(4)
    model = MaskingModel(cnn(dims=dims, dropout=0.0), target_aware=False, example_inputs=inputs)
    plain = MaskingTrainer(copy.deepcopy(model))
    last = MaskingTrainer(model, memory_format=torch.channels_last)
    plain.step(inputs, labels)
    last.step(inputs, labels)
    torch.testing.assert_close(weights(last), weights(plain), rtol=0, atol=1e-6)


def test_the_model_goes_where_the_accelerator_is(accelerator):
    placed = accelerator()
    trainer = MaskingTrainer(MaskingModel(cnn()), accelerator=placed)
    assert trainer.device.type == placed.device.type


def test_a_single_image_is_enough_for_a_step_of_accumulation(accelerator):
    """The engine's mean is over examples, whatever the sizes: one image weighs one."""
    images, labels = data(3)
    torch.manual_seed(0)
    trainers = [
        MaskingTrainer(
            MaskingModel(cnn(dropout=0.0), ["2"], masker=Flat()).double(),
            train_classifier=False,
            accelerator=accelerator(gradient_accumulation_steps=steps),
        )
        for steps in (2, 1)
    ]
    trainers[0].step(images[:1], labels[:1])
    trainers[0].step(images[1:], labels[1:])
    trainers[1].step(images, labels)
    torch.testing.assert_close(weights(trainers[0]), weights(trainers[1]), rtol=0, atol=1e-9)


# Driven by others.


def test_a_loop_of_ones_own_trains_what_fit_trains(images, labels):
    """fit without validation is this loop, and one step of each schedule after each batch."""
    batches = [(images[:3], labels[:3]), (images[3:], labels[3:])]
    fitted, driven = fallible(None), fallible(None)
    fitted = MaskingTrainer(fitted.model, train_classifier=JOINT)
    quiet(fitted, batches, epochs=2)

    trainer = MaskingTrainer(driven.model, train_classifier=JOINT)
    schedules = [trainer.schedule(optimizer, 4) for optimizer in trainer.optimizers]
    for _ in range(2):
        for inputs, target in batches:
            record = trainer.step(inputs, target)
            for schedule in schedules:
                schedule.step()
        trainer.finish_update()
    assert record["loss"] == record["loss"]
    assert_same(weights(fitted), weights(trainer))


def test_a_lightning_module_can_drive_the_steps(images, labels, tmp_path):
    lightning = pytest.importorskip("lightning")

    class MaskerModule(lightning.LightningModule):
        def __init__(self, model: MaskingModel) -> None:
            super().__init__()
            self.automatic_optimization = False  # the trainer has an optimizer for each network
            self.model = model  # registered, so that Lightning moves and saves it
            self.masking = MaskingTrainer(model, train_classifier=JOINT)

        def training_step(self, batch: Any, index: int) -> None:
            self.log_dict(self.masking.step(*batch))

        def on_train_epoch_end(self) -> None:
            self.masking.finish_update()

        def configure_optimizers(self) -> list[torch.optim.Optimizer]:
            return self.masking.optimizers  # Lightning saves their state; it takes no step

    module = MaskerModule(fallible(None).model)
    loader = DataLoader(TensorDataset(images, labels), 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runner = lightning.Trainer(
            max_epochs=2,
            accelerator="cpu",
            default_root_dir=tmp_path,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        runner.fit(module, loader)
    assert {"loss", "classifier_loss", "area"} <= set(runner.logged_metrics)

    alone = MaskingTrainer(fallible(None).model, train_classifier=JOINT)
    for _ in range(2):
        for batch in loader:
            alone.step(*batch)
    assert_same(weights(alone), weights(module.masking))
