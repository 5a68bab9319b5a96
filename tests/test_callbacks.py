"""What callbacks promise: when to end, what is written, and that collapsed masks come back."""

from __future__ import annotations

import builtins
import copy
import gc
import json
import math
import sys
import types
import warnings
from itertools import chain, islice, repeat
from types import SimpleNamespace

import pytest
import torch
from networks import Flat, assert_same, cnn, everything, mixed_modes
from test_learns import Shuffled, network, striped
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from captum_masking import MaskingModel, MaskingTrainer
from captum_masking.parts.objective import Judgement
from captum_masking.parts.other_maskers import MultiInputMasker
from captum_masking.parts.regularizer import Area, Sum, TotalVariation, UngatedArea, smooth
from captum_masking.parts.sampler import Sigmoid
from captum_masking.training import callbacks as pictures
from captum_masking.training.area import AdaptiveArea, SteadyArea, forget, zero_last_layer
from captum_masking.training.callbacks import (
    Callback,
    EarlyStopping,
    Measure,
    Pictures,
    TensorBoard,
    measure_saliency_metric,
)
from captum_masking.training.records import measure


def trainer(**parts) -> SimpleNamespace:
    """What callbacks see of a trainer."""
    seen = {"stopping": None, "is_main": True, "steps_done": 0, "optimizers": []}
    return SimpleNamespace(**{**seen, **parts})


def over_epochs(callback: Callback, values: list[float], figure: str = "val_loss") -> list:
    """Tell a callback of one epoch after the other, until it ends the training."""
    at = trainer()
    for value in values:
        callback.on_epoch(at, {"area": 0.3, figure: value})
        if at.stopping:
            break
    return at.stopping


def over_windows(callback: AdaptiveArea, areas: list[float], at=None) -> list[float]:
    """Tell it of windows of one step each; return its scale after each."""
    at = at or trainer(regularizer=Area(), model=SimpleNamespace(masker=nn.Conv2d(1, 1, 1)))
    scales = []
    for area in areas:
        callback.on_step(at, {"area": area})
        scales.append(callback.scale)
    return scales


# Early stopping.


def test_training_ends_after_as_many_epochs_without_a_better_value_as_there_is_patience():
    assert over_epochs(EarlyStopping(patience=3), [3, 2, 2.5, 2, 1.9, 2, 2]) is None
    assert "1.9 for 3 epochs" in over_epochs(
        EarlyStopping(patience=3), [3, 2, 2.5, 2, 1.9, 2, 2, 2]
    )


def test_a_gain_counts_only_beyond_the_least_one():
    values = [1.0, 0.875, 0.75]  # gains of an eighth, exact in binary; a quarter in all
    assert over_epochs(EarlyStopping(patience=1, least=0.125), values[:2]) is not None
    assert over_epochs(EarlyStopping(patience=2, least=0.125), values) is None


def test_accuracies_are_to_grow():
    accuracy = EarlyStopping("val_masked_in", patience=1, higher_is_better=True)
    assert over_epochs(accuracy, [0.5, 0.6, 0.7], "val_masked_in") is None
    assert "0.7 for 1 epoch" in over_epochs(accuracy, [0.69], "val_masked_in")


@pytest.mark.parametrize("higher", [False, True])
def test_nan_never_counts_as_better(higher):
    nan = math.nan
    stopper = EarlyStopping(patience=2, higher_is_better=higher)
    assert over_epochs(stopper, [nan, 1.0, nan]) is None  # the first number beats none
    assert stopper.best == 1.0
    assert over_epochs(stopper, [nan]) is not None
    assert over_epochs(EarlyStopping(patience=2), [nan, nan]) is not None


def test_a_figure_that_is_not_recorded_is_refused_with_those_that_are():
    with pytest.raises(KeyError, match="'f1', but they have only area, loss; name one of these"):
        EarlyStopping("f1").on_epoch(trainer(), {"area": 0.1, "loss": 1.0})
    with pytest.raises(KeyError, match=r"validation=loader"):
        EarlyStopping().on_epoch(trainer(), {"classifier_loss": 1.0})


def test_epochs_in_which_the_classifier_trains_alone_do_not_count():
    stopper, at = EarlyStopping("loss", patience=1), trainer()
    stopper.on_epoch(at, {"area": 0.3, "loss": 1.0})
    for _ in range(3):
        stopper.on_epoch(at, {"classifier_loss": 1.0})
    assert at.stopping is None and stopper.waited == 0


@pytest.mark.parametrize("seen", [[], [math.nan], [2.0, 3.0, 3.0]])
def test_early_stopping_goes_on_where_it_was(seen):
    before, after = EarlyStopping(patience=3), EarlyStopping(patience=3)
    over_epochs(before, seen)
    after.load_state_dict(json.loads(json.dumps(before.state_dict(), allow_nan=False)))
    rest = [2.5, 2.5, 2.5]
    assert over_epochs(before, rest) == over_epochs(after, rest)
    assert before.waited == after.waited


@pytest.mark.parametrize("wrong", [{"patience": 0}, {"least": -0.1}, {"least": math.inf}])
def test_early_stopping_refuses_numbers_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        EarlyStopping(**wrong)


# TensorBoard.


class Writer:
    """Keeps what it is told."""

    opened: list[Writer] = []

    def __init__(self, folder: str, purge_step: int | None = None) -> None:
        self.folder, self.purge_step = folder, purge_step
        self.scalars: list[tuple] = []
        self.flushed = self.closed = 0
        Writer.opened.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))

    def flush(self) -> None:
        self.flushed += 1

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def opened(monkeypatch) -> list[Writer]:
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(Writer, "opened", [])
    return Writer.opened


def short_training(board: TensorBoard, at: SimpleNamespace, *, ends: bool = True) -> None:
    """Two steps and an epoch."""
    board.on_start(at)
    for loss in (3.0, 2.0):
        at.steps_done += 1
        board.on_step(at, {"loss": loss})
    board.on_epoch(at, {"loss": 2.5, "val_loss": 4.0})
    if ends:
        board.on_end(at, [])


def test_figures_of_steps_and_epochs_are_written_over_the_steps(opened, tmp_path):
    short_training(TensorBoard(tmp_path), trainer())
    steps = [("step/loss", 3.0, 1), ("step/loss", 2.0, 2)]
    epoch = [("epoch/loss", 2.5, 2), ("epoch/val_loss", 4.0, 2)]
    assert opened[0].scalars == steps + epoch and opened[0].folder == str(tmp_path)


def test_only_every_so_many_steps_are_written_if_asked(opened, tmp_path):
    short_training(TensorBoard(tmp_path, every=2), trainer())
    assert [entry[0] for entry in opened[0].scalars if entry[2] < 2] == []


def test_only_the_main_process_opens_a_writer(opened, tmp_path):
    short_training(TensorBoard(tmp_path), trainer(is_main=False))
    assert opened == []


def test_the_writer_is_closed_at_the_end_and_once(opened, tmp_path):
    board = TensorBoard(tmp_path)
    short_training(board, trainer())
    del board
    gc.collect()
    assert opened[0].closed == 1


def test_the_writer_is_closed_after_an_error_too(opened, tmp_path):
    board = TensorBoard(tmp_path)
    short_training(board, trainer(), ends=False)
    assert opened[0].flushed == 1 and opened[0].closed == 0
    short_training(board, trainer(), ends=False)  # the same one, in another training
    assert opened[0].closed == 1
    del board
    gc.collect()
    assert opened[1].closed == 1


def test_a_resumed_training_hides_what_was_written_beyond_the_checkpoint(opened, tmp_path):
    short_training(TensorBoard(tmp_path), trainer())
    short_training(TensorBoard(tmp_path), trainer(steps_done=40))
    assert [writer.purge_step for writer in opened] == [None, 41]


def test_a_missing_tensorboard_is_said_before_the_training(monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    importer = builtins.__import__

    def without(name, *rest):
        if name.startswith(("tensorboard", "torch.utils.tensorboard")):
            raise ModuleNotFoundError("No module named 'tensorboard'")
        return importer(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        TensorBoard(tmp_path)


def test_tensorboard_reads_back_what_was_written(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    short_training(TensorBoard(tmp_path), trainer())
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("step/loss")] == [(1, 3.0), (2, 2.0)]
    assert [(e.step, e.value) for e in events.Scalars("epoch/val_loss")] == [(2, 4.0)]


# Pictures.


@pytest.fixture
def drawn(monkeypatch) -> list:
    """The rows and the file of each montage, which is not drawn."""
    drawn: list = []
    monkeypatch.setattr(pictures, "montage", lambda rows, file: drawn.append((rows, file)))
    return drawn


class Noisy(nn.Module):
    """Draws random numbers in eval mode as well."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        return self.network(inputs + torch.randn_like(inputs))


def test_a_picture_is_written_after_each_epoch(model, images, tmp_path):
    callback = Pictures(images[:2], tmp_path / "new")
    for epoch in (1.0, 2.0):
        callback.on_epoch(trainer(model=model), {"epoch": epoch})
    assert sorted(file.name for file in tmp_path.rglob("*")) == [
        "epoch-0001.png",
        "epoch-0002.png",
        "new",
    ]
    assert (tmp_path / "new" / "epoch-0002.png").read_bytes().startswith(b"\x89PNG")


def test_every_so_many_epochs_and_on_the_main_process_only(model, images, drawn, tmp_path):
    callback = Pictures(images, tmp_path, every=2)
    for epoch in (1.0, 2.0, 3.0, 4.0):
        callback.on_epoch(trainer(model=model), {"epoch": epoch})
        callback.on_epoch(trainer(model=model, is_main=False), {"epoch": epoch})
    assert [file.name for _, file in drawn] == ["epoch-0002.png", "epoch-0004.png"]


def test_masks_lie_below_their_images_with_their_areas(classifier, images, drawn, tmp_path):
    model = MaskingModel(classifier, masker=Flat(math.log(3)), sampler=Sigmoid())  # masks of 3/4
    Pictures(images[:2], tmp_path).on_epoch(trainer(model=model), {"epoch": 1.0})
    (above, below), _ = drawn[0]
    assert len(above) == 2 and [panel.title for panel in below] == ["area 0.75"] * 2


def test_each_image_is_stretched_unless_told_how_to_show_it(model, images, drawn, tmp_path):
    inputs = torch.stack([images[0], 5 * images[0] + 3, torch.ones_like(images[0])])
    at = trainer(model=model)
    Pictures(inputs, tmp_path).on_epoch(at, {"epoch": 1.0})
    first, second, constant_one = (panel.pixels for panel in drawn[0][0][0])
    assert first.min() == 0 and first.max() == 1 and (constant_one == 0).all()
    torch.testing.assert_close(first, second, atol=1e-6, rtol=0)
    Pictures(inputs, tmp_path, show=lambda x: 0 * x + 0.25).on_epoch(at, {"epoch": 1.0})
    assert all((panel.pixels == 0.25).all() for panel in drawn[1][0][0])


def test_images_with_other_than_one_or_three_channels_are_averaged(drawn, tmp_path):
    model, inputs = MaskingModel(cnn(channels=4)), torch.rand(2, 4, 16, 16)
    Pictures(inputs, tmp_path, show=lambda x: x).on_epoch(trainer(model=model), {"epoch": 1.0})
    expected = inputs[0].mean(0).numpy()[..., None]
    torch.testing.assert_close(drawn[0][0][0][0].pixels, expected)


def test_pictures_leave_no_trace(images, labels, drawn, tmp_path):
    model = MaskingModel(Noisy(cnn()))
    MaskingTrainer(model, train_classifier=False).step(images, labels)  # gradients
    mixed_modes(model)
    before, random = everything(model), torch.get_rng_state()
    Pictures(images, tmp_path).on_epoch(trainer(model=model), {"epoch": 1.0})
    assert_same(before, everything(model))
    assert torch.equal(random, torch.get_rng_state())


def test_what_is_no_batch_of_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\(B, C, H, W\).*\(3, 8, 8\)"):
        Pictures(torch.zeros(3, 8, 8), tmp_path)


# One area that is asked for.


def test_the_weight_of_an_area_rises_by_how_far_it_is_off_and_keeps_a_part_of_that():
    steady = SteadyArea(0.5)
    half_off = math.e**0.5 / (1 + math.e**0.5)  # half a unit of log-odds above one half
    steady.on_step(None, {"area": half_off})
    assert steady.weight == pytest.approx((10.0 + 0.2) * 0.5)
    steady.on_step(None, {"area": 0.5})  # there: what was kept stays
    assert steady.weight == pytest.approx(0.2 * 0.5)
    steady.on_step(None, {"area": 0.01})  # far below: as if it were one unit
    assert steady.weight == pytest.approx(0.2 * 0.5 - 10.2)


def test_an_area_is_that_of_the_masks_shown_of_images_as_labeled():
    steady = SteadyArea(0.5)
    steady.on_step(None, {"area": 0.9, "area_shown": 0.5})
    assert steady.weight == 0.0
    steady.on_step(None, {"classifier_loss": 1.0})  # the classifier trains alone
    steady.on_step(None, {"area": math.nan})
    assert steady.weight == 0.0
    steady.weight = 3.0
    logits, mask = torch.zeros(2, 2), torch.tensor([0.5, 1.0]).reshape(2, 1, 1, 1)
    judgement = Judgement(logits, logits, logits, torch.tensor([0, 0]))
    assert float(steady(mask, judgement)) == 3.0 * 0.75
    absent = judgement._replace(present=torch.tensor([True, False]))
    assert float(steady(mask, absent)) == 3.0 * 0.5 / 2


def test_an_area_goes_on_where_it_was_and_stands_in_the_recipe():
    before, after = SteadyArea(0.2), SteadyArea(0.2)
    for area in (0.4, 0.1):
        before.on_step(None, {"area": area})
    after.load_state_dict(before.state_dict())
    for steady in (before, after):
        steady.on_step(None, {"area": 0.3})
    assert after.weight == before.weight != 0
    trainer = MaskingTrainer(MaskingModel(cnn()), train_classifier=False, area=0.2)
    assert "SteadyArea(area=0.2)" in repr(trainer)
    with pytest.raises(ValueError, match="fraction.*0 and 1.*but got 20"):
        MaskingTrainer(MaskingModel(cnn()), train_classifier=False, area=20)


def test_records_say_what_area_is_shown_where_that_is_another():
    logits = torch.zeros(1, 2)
    judgement = Judgement(logits, logits, logits, torch.tensor([0]))
    mask = torch.tensor([[[[0.5, 1.0]]]])  # log-odds of 0, and without end
    record = measure(judgement, (mask,), {}, Sigmoid(lean=-math.log(3)))
    assert record["area"] == 0.75
    assert record["area_shown"] == pytest.approx((0.25 + 1.0) / 2)
    assert "area_shown" not in measure(judgement, (mask,), {})


# Adaptive area: the rule.


def test_weights_fall_below_the_range_rise_above_it_and_return_within():
    callback = AdaptiveArea(every=1, factor=2.0)
    assert over_windows(callback, [0.04, 0.04]) == [0.5, 0.25]
    assert over_windows(callback, [0.4] * 10)[-1] == pytest.approx(0.5)  # ten undo one
    assert over_windows(callback, [0.4] * 20)[-1] == 1.0  # and not beyond
    assert over_windows(callback, [0.94, 0.94]) == [2.0, 4.0]
    assert over_windows(callback, [0.4] * 30)[-1] == 1.0


def test_weights_stay_where_returning_would_soon_leave_the_range_again():
    callback = AdaptiveArea(every=1, low=0.1, high=0.9, factor=2.0)  # a margin of 0.08
    assert over_windows(callback, [0.06, 0.17, 0.17, 0.19]) == [0.5, 0.5, 0.5, 0.5 * 2**0.1]
    callback = AdaptiveArea(every=1, low=0.1, high=0.9, factor=2.0)
    assert over_windows(callback, [0.94, 0.83, 0.81]) == [2.0, 2.0, 2.0 / 2**0.1]


def test_weights_move_by_the_mean_area_of_each_window():
    callback = AdaptiveArea(every=3, factor=2.0)  # means: 0.04, then 0.06
    assert over_windows(callback, [0.0, 0.12, 0.0]) == [1.0, 1.0, 0.5]
    assert over_windows(callback, [0.0, 0.18, 0.0]) == [0.5, 0.5, 0.5]


def test_weights_move_by_no_more_than_is_allowed():
    callback = AdaptiveArea(every=1, factor=4.0, most=10.0)
    assert over_windows(callback, [0.03] * 3) == [0.25, 0.1, 0.1]
    assert over_windows(callback, [0.94] * 5)[-1] == 10.0


def test_a_window_with_nan_moves_nothing():
    restarted: list = []
    callback = AdaptiveArea(every=2, restart=restarted.append)
    assert over_windows(callback, [math.nan, 0.0])[-1] == 1.0 and restarted == []


def test_steps_of_the_classifier_alone_do_not_count():
    callback = AdaptiveArea(every=1)
    callback.on_step(trainer(), {"classifier_loss": 1.0})
    assert callback.scale == 1.0 and callback.areas == []


def test_only_the_area_terms_are_scaled_and_the_user_gets_the_regularizer_back():
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 1:3, 1:3] = 1  # an area of 1/4, and 8 edges
    given = Sum(Sum(UngatedArea(8.0), TotalVariation(1.0)), lambda mask, judgement: 7.0)
    at, callback = trainer(regularizer=given), AdaptiveArea(every=1, factor=2.0)
    callback.on_start(at)
    assert float(at.regularizer(mask, None)) == 2 + 4 + 7
    callback.on_step(at, {"area": 0.03})
    assert float(at.regularizer(mask, None)) == 1 + 4 + 7
    assert repr(at.regularizer) == repr(given)  # a checkpoint's configuration does not change
    assert float(given(mask, None)) == 2 + 4 + 7  # it may serve another trainer at the same time
    callback.on_start(at)  # a training after one that ended by an error
    callback.on_end(at, [])
    assert at.regularizer is given


def test_a_regularizer_without_an_area_is_refused():
    with pytest.raises(ValueError, match="Area, UngatedArea, PowerArea.*TotalVariation"):
        AdaptiveArea().on_start(trainer(regularizer=TotalVariation()))


@pytest.mark.parametrize("load_first", [True, False])
def test_adaptive_area_goes_on_where_it_was(load_first):
    areas = [0.02, 0.04, 0.03, 0.5, 0.5]
    before, after = AdaptiveArea(every=2), AdaptiveArea(every=2)
    over_windows(before, areas)
    state = json.loads(json.dumps(before.state_dict()))
    at = trainer(regularizer=UngatedArea(1.0), model=SimpleNamespace(masker=nn.Conv2d(1, 1, 1)))
    moments = [lambda: after.load_state_dict(state), lambda: after.on_start(at)]
    for moment in moments if load_first else reversed(moments):
        moment()
    assert over_windows(after, areas, at) == over_windows(before, areas)
    mask = torch.ones(1, 1, 1, 1, dtype=torch.double)
    assert float(at.regularizer(mask, None)) == before.scale


@pytest.mark.parametrize(
    "wrong",
    [
        {"low": 0.0},
        {"low": 0.9, "high": 0.5},
        {"high": 1.0},
        {"every": 0},
        {"factor": 1.0},
        {"most": 0.5},
    ],
    ids=str,
)
def test_adaptive_area_refuses_numbers_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AdaptiveArea(**wrong)


def test_masks_beyond_halfway_from_the_range_to_an_end_are_restarted_and_it_is_said():
    restarted: list = []
    callback = AdaptiveArea(every=1, low=0.04, high=0.9, restart=restarted.append)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        over_windows(callback, [0.021, 0.5, 0.949])
    for area, said in [(0.019, "all zeros for 1 step"), (0.951, "all ones for 1 step")]:
        with pytest.warns(UserWarning, match=said):
            over_windows(callback, [area])
    assert len(restarted) == callback.restarts == 2


@pytest.mark.parametrize("logit", [-20.0, 20.0])
def test_a_restart_makes_masks_of_one_half_and_draws_no_random_number(classifier, images, logit):
    flat = MaskingModel(classifier, masker=Flat(logit))
    model = MaskingModel(classifier)
    nn.init.constant_(model.masker.masker.final.bias, logit)
    random = torch.get_rng_state()
    for each in (flat, model):
        zero_last_layer(each.masker)
    assert torch.equal(random, torch.get_rng_state())
    assert (flat.mask(images) == 0.5).all() and (model.train().mask(images) == 0.5).all()


def test_a_restart_reaches_the_mask_of_each_of_several_inputs():
    masker = MultiInputMasker([8, 16], inputs=[(2, 3), (0, 10)])
    zero_last_layer(masker)
    features = [torch.rand(2, 8, 4, 4), torch.rand(2, 16)]
    assert all((mask_logits == 0).all() for mask_logits in masker(features, [(4, 4), ()]))


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.AdamW], ids=["Adam", "AdamW"])
def test_an_optimizer_that_forgets_steps_as_a_fresh_one_does(make):
    def step(optimizer, weight, gradient: float) -> float:
        weight.grad = torch.tensor([gradient])
        optimizer.step()
        return weight.item()

    used, fresh = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = make([used], lr=0.1)
    step(optimizer, used, 5.0)
    with torch.no_grad():
        used.fill_(1.0)
    forget([optimizer], [used])
    assert step(optimizer, used, -0.3) == step(make([fresh], lr=0.1), fresh, -0.3)


# Adaptive area: a real training. Weights as given empty or fill all masks; with the callback they
# become those of test_learns.py.


@pytest.fixture(scope="module")
def training(device) -> Shuffled:
    images, labels, _ = striped(600, seed=0)
    return Shuffled(images.to(device), labels.to(device))


@pytest.fixture(scope="module")
def trained(device, training) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = network().to(device).train()
    optimizer = torch.optim.Adam(classifier.parameters(), lr=1e-2)
    for _ in range(6):
        for images, labels in training:
            optimizer.zero_grad()
            cross_entropy(classifier(images), labels).backward()
            optimizer.step()
    return classifier.eval()


def after_training(trained, training, regularizer, *callbacks, steps: int, bias: float = 0.0):
    """Train a masker whose logits start at ``bias``; return the figures on held-out images."""
    torch.manual_seed(0)
    training.random.manual_seed(0)
    # As the masks are trained: without a lean, and without a gate.
    model = MaskingModel(copy.deepcopy(trained), target_aware=False, sampler=Sigmoid())
    nn.init.constant_(model.masker.final.bias, bias)
    learner = MaskingTrainer(model, train_classifier=False, lr=5e-3, regularizer=regularizer)
    at = trainer(model=model, optimizers=learner.optimizers, regularizer=regularizer, is_main=False)
    for callback in callbacks:
        callback.on_start(at)
    endless = chain.from_iterable(repeat(training))
    for images, labels in islice(endless, steps):
        learner.regularizer = at.regularizer
        record = learner.step(images, labels)
        for callback in callbacks:
            callback.on_step(at, record)
    return learner.evaluate([striped(200, seed=1)[:2]])


def test_masks_that_collapse_come_back(trained, training):
    thirtyfold = smooth(Area(30.0, 300.0))
    without = after_training(trained, training, thirtyfold, steps=30)
    assert without["area"] < 0.005 and without["masked_in"] < 0.5
    callback = AdaptiveArea(every=5)
    with_it = after_training(trained, training, thirtyfold, callback, steps=80)
    assert with_it["masked_in"] > 0.9 and 0.05 < with_it["area"] < 0.4
    assert with_it["area_in_image_std"] > 0.1
    assert callback.scale < 1 and callback.restarts


def test_masks_that_flood_come_back(trained, training):
    next_to_nothing = Sum(UngatedArea(0.001))
    without = after_training(trained, training, next_to_nothing, steps=40)
    assert without["area"] > 0.95
    callback = AdaptiveArea(every=5)
    with_it = after_training(trained, training, next_to_nothing, callback, steps=80)
    assert with_it["masked_in"] > 0.9 and with_it["area"] < 0.85
    assert with_it["area_in_image_std"] > 0.1
    assert callback.scale > 1


def test_masks_that_are_stuck_come_back_though_the_weights_are_good(trained, training):
    stuck = after_training(trained, training, smooth(), steps=20, bias=15.0)
    assert stuck["area"] > 0.995
    callback = AdaptiveArea(every=10)
    with_it = after_training(trained, training, smooth(), callback, steps=60, bias=15.0)
    assert with_it["masked_in"] > 0.9 and 0.1 < with_it["area"] < 0.4
    assert callback.restarts == 1


def test_a_training_that_goes_well_is_left_alone(trained, training):
    callback = AdaptiveArea(every=5)
    without = after_training(trained, training, smooth(), steps=25)
    assert after_training(trained, training, smooth(), callback, steps=25) == without
    assert callback.scale == 1.0 and callback.restarts == 0


# All of them.


@pytest.mark.parametrize(
    "callback",
    [
        EarlyStopping("loss", patience=2, least=0.5, higher_is_better=True),
        AdaptiveArea(low=0.1, high=0.8, every=7, factor=3.0, most=9.0),
    ],
    ids=repr,
)
def test_a_callback_prints_what_rebuilds_it(callback):
    assert repr(eval(repr(callback))) == repr(callback)


def test_all_of_them_watch_one_training(model, images, labels, opened, tmp_path):
    batches = [(images[:3], labels[:3]), (images[3:], labels[3:])]
    stopper = EarlyStopping("val_saliency_metric", patience=1, least=100.0)
    watching = [AdaptiveArea(), Pictures(images[:2], tmp_path), TensorBoard(tmp_path), stopper]
    learner = MaskingTrainer(model, train_classifier=False)
    given = learner.regularizer
    records = learner.fit(
        batches,
        epochs=5,
        validation=batches,
        callbacks=[Measure(measure_saliency_metric), *watching],
        show_progress=False,
    )
    assert len(records) == 2 and "val_saliency_metric" in learner.stopping
    assert [file.name for file in sorted(tmp_path.iterdir())] == [
        "epoch-0001.png",
        "epoch-0002.png",
    ]
    assert {step for _, _, step in opened[0].scalars} == {1, 2, 3, 4} and opened[0].closed == 1
    assert learner.regularizer is given
