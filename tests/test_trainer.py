"""Training: who moves, who must not, who judges, and what is said when something is wrong."""

from __future__ import annotations

import copy
import csv
import math
import re
import warnings
from functools import partial

import pytest
import slow
import torch
from networks import (
    Broken,
    Flat,
    Halves,
    Lookup,
    assert_same,
    cnn,
    colored,
    colors,
    everything,
    mixed_modes,
    same_weights,
)
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, TensorDataset

from captum_masking import FineTune, FromScratch, MaskingModel, MaskingSaliency, MaskingTrainer
from captum_masking._base.rates import cosine
from captum_masking.parts.masker import Masker
from captum_masking.parts.masking import mask_images
from captum_masking.parts.objective import Dual, Judgement, KeepRecognizing
from captum_masking.parts.pool import History, Latest
from captum_masking.parts.regularizer import Area, Sum, TotalVariation
from captum_masking.training.callbacks import CSVLog
from captum_masking.training.records import warn_if_collapsed

FROZEN, GENTLE, SCRATCH = False, FineTune(), FromScratch()
NAMES = ["frozen", "gentle", "scratch"]
HOWS = pytest.mark.parametrize("how", [FROZEN, GENTLE, SCRATCH], ids=NAMES)
JOINT = pytest.mark.parametrize("how", [GENTLE, SCRATCH], ids=NAMES[1:])
AS_PUBLISHED = KeepRecognizing(weight_in=1.0, weight_out=1.0, gated=False)
FIGURES = {"clean", "masked_in", "masked_out", "entropy_out", "area"}


@pytest.fixture
def batches(images, labels) -> list:
    return [(images[:4], labels[:4]), (images[4:], labels[4:])]


def fit(model: MaskingModel, batches, epochs: int = 2, **options):
    """Train in silence; what tiny masks look like after two steps is no matter here."""
    trainer = MaskingTrainer(model, **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the masker has collapsed")
        records = trainer.fit(batches, epochs, show_progress=False)
    return trainer, records


# Frozen: nothing of the classifier changes.


@pytest.mark.parametrize("pool", [None, Latest(), History(every=None), History(every=1)], ids=repr)
def test_frozen_training_leaves_the_classifier_bit_identical(device, batches, pool):
    classifier = mixed_modes(cnn()).to(device)
    for parameter in classifier.parameters():
        parameter.grad = torch.randn_like(parameter) if parameter.requires_grad else None
    model, before = MaskingModel(classifier), everything(classifier)
    fit(model, batches, train_classifier=False, lr=0.1, pool=pool)
    assert_same(before, everything(classifier))


def test_frozen_training_moves_every_parameter_of_the_masker(model, batches):
    before = copy.deepcopy(model.masker)
    fit(model, batches, train_classifier=False)
    pairs = zip(before.parameters(), model.masker.parameters(), strict=True)
    assert not any(torch.equal(old, new) for old, new in pairs)


def test_frozen_training_gives_no_gradient_to_the_classifier(model, images, labels):
    MaskingTrainer(model, train_classifier=False).step(images, labels)
    assert all(parameter.grad is None for parameter in model.classifier.parameters())


# Joint: both move, statistics as promised.


@JOINT
def test_joint_training_moves_every_parameter_of_both_networks(model, batches, how):
    before = copy.deepcopy(model)
    fit(model, batches, train_classifier=how)
    pairs = zip(before.named_parameters(), model.parameters(), strict=True)
    assert [name for (name, old), new in pairs if torch.equal(old, new)] == []


def test_joint_training_is_the_default_and_gentle(classifier, batches):
    before = copy.deepcopy(classifier)
    model = MaskingModel(classifier)
    assert isinstance(MaskingTrainer(model).joint, FineTune)
    fit(model, batches)
    assert not same_weights(before, classifier)


def test_layers_that_the_user_froze_are_not_trained(device, batches):
    classifier = cnn().to(device)
    classifier[:6].requires_grad_(False)
    before = copy.deepcopy(classifier)
    fit(MaskingModel(classifier), batches)
    moved = [
        name
        for (name, old), new in zip(before.named_parameters(), classifier.parameters(), strict=True)
        if not torch.equal(old, new)
    ]
    assert moved == ["9.weight", "9.bias"]


def test_while_the_masker_trains_alone_the_classifier_stays_as_it_is(model, batches):
    before = copy.deepcopy(model)
    fit(model, batches, train_classifier=FineTune(masker_first=1.0))
    assert_same(before.classifier.state_dict(), model.classifier.state_dict())
    assert not same_weights(before.masker, model.masker)


def test_while_the_classifier_trains_alone_the_masker_stays_as_it_is(model, batches):
    before = copy.deepcopy(model)
    _, records = fit(model, batches, train_classifier=FromScratch(classifier_first=1.0))
    assert_same(before.masker.state_dict(), model.masker.state_dict())
    assert not same_weights(before.classifier, model.classifier)
    assert all("clean" in record and "area" not in record for record in records)


def statistics(classifier: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in classifier.named_buffers()}


def test_fine_tuning_keeps_the_batch_norm_statistics(model, batches):
    before = statistics(model.classifier)
    fit(model, batches, train_classifier=FineTune())
    assert_same(before, statistics(model.classifier))


def test_training_from_scratch_moves_the_batch_norm_statistics(model, batches):
    before = statistics(model.classifier)
    fit(model, batches, train_classifier=FromScratch())
    after = statistics(model.classifier)
    assert not any(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("pool", [Latest(), History(every=1, past=1.0)], ids=repr)
def test_only_clean_images_move_batch_norm_statistics(model, images, labels, pool):
    expected = copy.deepcopy(model.classifier).train()
    expected(images)  # once, clean
    far_away = lambda inputs, hole: torch.full_like(inputs, 1e3)  # noqa: E731
    trainer = MaskingTrainer(
        model, train_classifier=FromScratch(), pool=copy.deepcopy(pool), infill=far_away
    )
    trainer.step(images, labels)
    torch.testing.assert_close(statistics(model.classifier), statistics(expected))


# The gradients of a step, from a slow re-implementation.


@pytest.fixture(params=[True, False], ids=["upsampled logits", "upsampled mask"])
def exact(request, device):
    """A model in double precision without dropout, and a batch of three pictures for it."""
    network = cnn(dropout=0.0).to(device)
    model = MaskingModel(network, ["2", "5"], upsample_first=request.param).double()
    inputs = torch.randn(3, 3, 12, 12, dtype=torch.float64, device=device)
    target = model.classifier.eval()(inputs).argmax(1)  # so that the gates open for some
    target[2] = (target[2] + 1) % 4
    return model, inputs, target


def slow_step(model, inputs, target, *, judge=None, train_mode, area_out=10.0, variation=0.001):
    """One training iteration by its description; works on copies, returns both losses."""
    encoder, masker = copy.deepcopy(model.classifier), copy.deepcopy(model.masker).train()
    encoder.train(train_mode).requires_grad_(True)
    early = encoder[:3](inputs)
    late = encoder[3:6](early)
    logits = encoder[6:](late)
    cells = masker([early.detach(), late.detach()], early.shape[2:])
    cells = cells if model.upsample_first else cells.sigmoid()
    mask = interpolate(cells, inputs.shape[2:], mode="bilinear", align_corners=False)
    mask = mask.sigmoid() if model.upsample_first else mask
    judge = encoder.eval() if judge is None else copy.deepcopy(judge).eval()
    logits_in, logits_out = judge(mask * inputs), judge((1 - mask) * inputs)
    said = logits, logits_in, logits_out
    loss = slow.masker_loss(
        slow.cells(mask), *said, target, area_in=1.0, area_out=area_out, variation=variation
    )
    own = judge is encoder
    classifier_loss = slow.classifier_loss(said if own else said[:1], target)
    return (loss, list(masker.parameters())), (classifier_loss, list(encoder.parameters()))


def gradients_of(loss: Tensor, parameters: list, largest_norm: float) -> list[Tensor]:
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
    norm = math.sqrt(sum(gradient.square().sum().item() for gradient in gradients))
    return [gradient * min(1.0, largest_norm / norm) for gradient in gradients]


def assert_gradients(module: nn.Module, expected: list[Tensor]) -> None:
    found = [parameter.grad for parameter in module.parameters()]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("largest_norm", [1e9, 0.01])
def test_a_frozen_step_has_the_gradients_of_the_published_loss(exact, largest_norm):
    model, inputs, target = exact
    (loss, parameters), _ = slow_step(model, inputs, target, train_mode=False)
    expected = gradients_of(loss, parameters, largest_norm)
    trainer = MaskingTrainer(
        model,
        train_classifier=False,
        objective=Dual(),
        regularizer=Sum(Area(), TotalVariation()),
        max_gradient_norm=largest_norm,
    )
    record = trainer.step(inputs, target)
    assert record["loss"] == pytest.approx(loss.item())
    assert_gradients(model.masker, expected)


@pytest.mark.parametrize("train_mode", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("largest_norm", [1e9, 0.01])
def test_a_joint_step_gives_each_network_the_gradient_of_its_own_loss(
    exact, train_mode, largest_norm
):
    model, inputs, target = exact
    losses = slow_step(model, inputs, target, train_mode=train_mode)
    (_, expected_masker), (_, expected_classifier) = [
        (loss, gradients_of(loss, parameters, largest_norm)) for loss, parameters in losses
    ]
    how = FineTune(train_mode=train_mode, objective=AS_PUBLISHED, stay=0.0)
    trainer = MaskingTrainer(
        model,
        train_classifier=how,
        objective=Dual(),
        regularizer=Sum(Area(), TotalVariation()),
        pool=Latest(),
        max_gradient_norm=largest_norm,
    )
    record = trainer.step(inputs, target)
    assert record["loss"] == pytest.approx(losses[0][0].item())
    assert record["classifier_loss"] == pytest.approx(losses[1][0].item())
    assert_gradients(model.masker, expected_masker)
    assert_gradients(model.classifier, expected_classifier)


def test_a_judge_of_the_past_judges_and_the_classifier_then_learns_from_clean_images(exact):
    model, inputs, target = exact
    past = cnn(dropout=0.0, seed=9).double().to(inputs.device)
    pool = History(every=10**6, past=1.0)
    pool.add(past)
    losses = slow_step(model, inputs, target, judge=past, train_mode=True)
    expected = [gradients_of(loss, parameters, 1e9) for loss, parameters in losses]
    how = FineTune(train_mode=True, objective=AS_PUBLISHED, stay=0.0)
    trainer = MaskingTrainer(
        model,
        train_classifier=how,
        objective=Dual(),
        regularizer=Sum(Area(), TotalVariation()),
        pool=pool,
        max_gradient_norm=1e9,
    )
    record = trainer.step(inputs, target)
    assert record["classifier_loss"] == pytest.approx(losses[1][0].item())
    assert_gradients(model.masker, expected[0])
    assert_gradients(model.classifier, expected[1])
    assert not torch.equal(past[0].weight, model.classifier[0].weight)


class Speechless(nn.Module):
    """A judge that says the same of every picture."""

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.zeros(len(inputs), 4, dtype=inputs.dtype, device=inputs.device)


@HOWS
def test_the_drawn_judge_is_the_one_that_judges(exact, how):
    class Pool:
        def add(self, classifier):
            pass

        def draw(self):
            return Speechless()

    model, inputs, target = exact
    trainer = MaskingTrainer(model, train_classifier=how, pool=Pool(), max_gradient_norm=1e9)
    record = trainer.step(inputs, target)
    # Four logits of zero: target 0 is "recognized" in both halves, the others are missed.
    assert record["masked_in"] == record["masked_out"] == (target == 0).double().mean()
    assert record["entropy_out"] == pytest.approx(math.log(4))


def test_the_judge_gets_no_gradient_and_does_not_move(exact):
    model, inputs, target = exact
    pool = History(every=None, past=1.0)
    pool.add(cnn(seed=9).double().to(inputs.device))
    before = everything(pool.draw())
    trainer = MaskingTrainer(model, train_classifier=FromScratch(), pool=pool)
    for _ in range(3):
        trainer.step(inputs, target)
    assert_same(before, everything(pool.draw()))


def test_staying_pulls_the_classifier_towards_what_it_said_before(model, images, labels):
    """Labels say one thing, the classifier said another: with a heavy ``stay`` it moves less."""

    def drift(stay: float) -> float:
        trained = copy.deepcopy(model)
        how = FineTune(lr=0.05, objective=KeepRecognizing(0.0, 0.0), stay=stay)
        trainer = MaskingTrainer(trained, train_classifier=how, pool=Latest())
        for _ in range(20):
            trainer.step(images, labels)
        said = [m.eval()(images).softmax(1) for m in (model, trained)]
        return (said[0] - said[1]).abs().max().item()

    assert drift(stay=10.0) < 0.5 * drift(stay=0.0)


# State is borrowed and given back.


@HOWS
def test_modes_and_flags_are_given_back_after_training(device, batches, how):
    model = MaskingModel(mixed_modes(cnn()).to(device))
    before = everything(model)
    fit(model, batches, train_classifier=how)
    after = everything(model)
    assert all(after[kind] == before[kind] for kind in ("modes", "flags", "hooks"))


@HOWS
@pytest.mark.filterwarnings("ignore:every parameter of this classifier")
def test_a_model_that_was_frozen_for_use_is_trained_and_frozen_again(model, batches, how):
    before = copy.deepcopy(model.eval().requires_grad_(False))
    fit(model, batches, train_classifier=how)
    assert not same_weights(before.masker, model.masker)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_joint_training_of_a_classifier_that_was_frozen_warns_at_the_callers_line(classifier):
    model = MaskingModel(classifier.requires_grad_(False))
    with pytest.warns(UserWarning, match="requires_grad=False.*train_classifier=False") as caught:
        MaskingTrainer(model)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MaskingTrainer(model, train_classifier=False)
        next(classifier.parameters()).requires_grad_(True)
        MaskingTrainer(model)


def breaks_in_the_infill(model):
    def infill(inputs, hole):
        raise ArithmeticError("the infill broke")

    return {"infill": infill}


def breaks_in_the_objective(model):
    def objective(judgement):
        raise ArithmeticError("the objective broke")

    return {"objective": objective}


def breaks_in_the_regularizer(model):
    def regularizer(mask, judgement):
        raise KeyboardInterrupt

    return {"regularizer": regularizer}


def breaks_in_the_pool(model):
    class Pool(Latest):
        def draw(self):
            raise ArithmeticError("the pool broke")

    return {"pool": Pool()}


def breaks_in_the_second_pass(model):
    model.classifier.runs = 1
    return {"pool": Latest()}


@HOWS
@pytest.mark.parametrize(
    "breaks",
    [
        breaks_in_the_infill,
        breaks_in_the_objective,
        breaks_in_the_regularizer,
        breaks_in_the_pool,
        breaks_in_the_second_pass,
    ],
    ids=lambda function: function.__name__,
)
def test_an_exception_in_the_middle_of_a_step_leaves_no_trace(device, images, labels, how, breaks):
    model = MaskingModel(mixed_modes(Broken(cnn(), runs=10)).to(device))
    trainer = MaskingTrainer(model, train_classifier=how, **breaks(model))
    before = everything(model)
    with pytest.raises((ArithmeticError, KeyboardInterrupt)):
        trainer.step(images, labels)
    after = everything(model)
    assert all(after[kind] == before[kind] for kind in ("modes", "flags", "hooks"))
    for (name, old), new in zip(before["weights"].items(), after["weights"].values(), strict=True):
        if "running" not in name and "batches" not in name:  # a clean pass may have been counted
            assert torch.equal(old, new), name


# Bad batches, labels and loaders.


@HOWS
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_batch_that_is_not_finite_is_refused_and_changes_nothing(model, batches, how, value):
    batches[0][0][1, 0, 3, 3] = value
    before = everything(model)["weights"]
    with pytest.raises(ValueError, match=r"inputs must be finite, but 1 of 3072 .*examples \[1\]"):
        fit(model, batches, train_classifier=how)
    assert_same(before, everything(model)["weights"])


@HOWS
def test_a_step_on_a_batch_that_is_not_finite_changes_nothing(model, images, labels, how):
    images[1, 0, 3, 3] = math.nan
    before = everything(model)["weights"]
    with pytest.raises(ValueError, match="finite"):
        MaskingTrainer(model, train_classifier=how).step(images, labels)
    assert_same(before, everything(model)["weights"])


@HOWS
def test_a_loss_that_is_not_finite_is_refused_and_moves_no_weight(model, images, labels, how):
    trainer = MaskingTrainer(
        model, train_classifier=how, regularizer=lambda mask, judgement: mask.sum() * math.nan
    )
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(ValueError, match="loss must be finite.*learning rate"):
        trainer.step(images, labels)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@HOWS
@pytest.mark.parametrize("wrong", [-1, 4, 1000])
def test_labels_out_of_range_are_refused_with_the_range(model, batches, how, wrong):
    batches[0][1][2] = wrong
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(ValueError, match=rf"0\.\.3 .*4 logits.*{wrong}.*label column"):
        fit(model, batches, train_classifier=how)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8], ids=str)
def test_labels_of_any_integer_type_train_alike(model, batches, dtype):
    twin = copy.deepcopy(model)
    torch.manual_seed(0)
    fit(model, batches)
    torch.manual_seed(0)
    fit(twin, [(inputs, target.to(dtype)) for inputs, target in batches])
    assert same_weights(model, twin)


def test_labels_that_are_no_integers_are_refused(model, images, labels):
    with pytest.raises(TypeError, match="tensor of integers.*float"):
        fit(model, [(images, labels.float())])


def test_labels_that_are_not_one_per_image_are_refused(model, images, labels):
    with pytest.raises(ValueError, match=r"\(6,\), one per input, but got \(5,\)"):
        fit(model, [(images, labels[:5])])


@pytest.mark.parametrize(
    "wrap",
    [
        lambda images, labels: {"picture": images, "label": labels},
        lambda images, labels: images,
        lambda images, labels: (images,),
        lambda images, labels: None,
    ],
    ids=["dict", "images only", "a tuple of one", "None"],
)
def test_a_loader_without_pairs_is_refused_with_what_it_should_give(model, images, labels, wrap):
    with pytest.raises(TypeError, match=r"must give pairs \(inputs, labels\)"):
        fit(model, [wrap(images, labels)])


def test_pictures_that_are_still_bytes_are_refused(model, images, labels):
    with pytest.raises(TypeError, match="floating point.*255"):
        fit(model, [(images.to(torch.uint8), labels)])


def test_what_can_be_read_once_only_is_refused_for_several_epochs(model, batches):
    with pytest.raises(ValueError, match="readable 2 times, but generator is an iterator"):
        fit(model, (batch for batch in batches))
    assert len(fit(model, (batch for batch in batches), epochs=1)[1]) == 1


def test_an_empty_loader_is_refused(model, images, labels):
    with pytest.raises(ValueError, match=r"0 batches.*drop_last=False"):
        fit(model, [])
    short = DataLoader(TensorDataset(images, labels), batch_size=8, drop_last=True)
    with pytest.raises(ValueError, match="0 batches"):
        fit(model, short)


def test_an_empty_validation_loader_is_refused(model, batches):
    trainer = MaskingTrainer(model)
    with pytest.raises(ValueError, match="validation"):
        trainer.fit(batches, 1, validation=[], show_progress=False)


@pytest.mark.parametrize("epochs", [0, -1])
def test_no_epochs_are_refused(model, batches, epochs):
    with pytest.raises(ValueError, match=f"{epochs} epochs"):
        fit(model, batches, epochs)


def test_a_classifier_without_one_row_of_logits_per_image_is_refused(device, images, labels):
    dense = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 4, 3, 2), nn.ReLU())
    trainer = MaskingTrainer(MaskingModel(dense.to(device)), train_classifier=False)
    with pytest.raises(ValueError, match=r"logits of shape \(B, classes\), but returned \(6, 4,"):
        trainer.step(images, labels)


# Warnings.


@pytest.mark.parametrize(
    "masker, said",
    [(Flat(9.0), "all ones"), (Flat(-9.0), "all zeros"), (Flat(0.3), "constant")],
    ids=["ones", "zeros", "constant"],
)
def test_a_collapsed_masker_is_said_aloud_with_numbers(classifier, batches, masker, said):
    model = MaskingModel(classifier, masker=copy.deepcopy(masker).to(batches[0][0].device))
    trainer = MaskingTrainer(model, train_classifier=False)
    with pytest.warns(UserWarning, match=rf"collapsed.*{said}.*area \d\.\d+.*entropy"):
        trainer.fit(batches, 1, show_progress=False)


def test_a_masker_with_something_to_say_is_not_called_collapsed(classifier, batches):
    model = MaskingModel(classifier, masker=Halves(2.0).to(batches[0][0].device))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MaskingTrainer(model, train_classifier=False).fit(batches, 2, show_progress=False)


@pytest.mark.parametrize("masked_out, warns", [(0.3, False), (1.0, True)])
def test_small_masks_are_collapsed_only_if_they_keep_less_than_they_leave(masked_out, warns):
    record = {"area": 0.02, "area_in_image_std": 0.1, "masked_in": 0.9, "masked_out": masked_out}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_if_collapsed(record)
    assert bool(caught) is warns


class Deceitful:
    """A loader that tells the truth for some epochs, and then gives every label wrong."""

    def __init__(self, device: torch.device, honest_epochs: int) -> None:
        self.labels = torch.arange(12, device=device) % 3
        self.images = colored(self.labels)
        self.epochs_left = honest_epochs

    def __len__(self) -> int:
        return 4

    def __iter__(self):
        shift = 0 if self.epochs_left > 0 else 1
        self.epochs_left -= 1
        for _ in range(4):
            yield self.images, (self.labels + shift) % 3


@pytest.fixture
def honest(device) -> list:
    labels = torch.arange(9, device=device) % 3
    return [(colored(labels), labels)]


def test_labels_counted_from_1_are_refused_before_the_first_step(device):
    labels = torch.arange(48, device=device) % 3
    trainer = MaskingTrainer(MaskingModel(colors().to(device)), train_classifier=False)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    shifted = [(colored(labels), (labels + 1) % 3)]
    with pytest.raises(ValueError, match=r"right for 0 of 48 .*\(label 0 as 2, label 1 as 0"):
        trainer.fit(shifted, 1, show_progress=False)
    assert trainer.steps_done == 0
    assert all(torch.equal(before[n], v) for n, v in trainer.model.state_dict().items())
    trainer.fit(shifted, 1, show_progress=False, check_accuracy=False)
    joint = MaskingTrainer(trainer.model, train_classifier=FromScratch())
    joint.fit(shifted, 1, show_progress=False)  # it is to learn them


def reckless() -> FineTune:
    return FineTune(lr=0.5, stay=0.0, objective=KeepRecognizing(0.0, 0.0), masker_first=0.5)


def test_a_fall_of_accuracy_on_validation_data_is_said_aloud(device, honest):
    model = MaskingModel(colors().to(device))
    trainer = MaskingTrainer(model, train_classifier=reckless())
    with pytest.warns(UserWarning, match=r"lost accuracy: \d+\.\d%.*100\.0% before"):
        trainer.fit(Deceitful(device, 0), 2, validation=honest, show_progress=False)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_state_from_before_the_fall_is_kept(device, honest):
    model = MaskingModel(colors().to(device))
    trainer = MaskingTrainer(model, train_classifier=reckless())
    records = trainer.fit(Deceitful(device, 1), 3, validation=honest, show_progress=False)
    assert records[0]["val_clean"] == 1 and records[-1]["val_clean"] < 0.5
    assert trainer.evaluate(honest)["clean"] == 1
    assert trainer.evaluate(honest) == pytest.approx(
        {name[4:]: value for name, value in records[0].items() if name.startswith("val_")}
    )


@pytest.mark.filterwarnings("error:the classifier has lost:UserWarning")
@pytest.mark.filterwarnings("ignore:the masker has collapsed")
def test_gentle_training_of_a_good_classifier_keeps_its_accuracy(device, honest):
    model = MaskingModel(colors().to(device))
    trainer = MaskingTrainer(model)
    records = trainer.fit(honest, 20, validation=honest, show_progress=False)
    assert all(record["val_clean"] == 1 for record in records)


# Records and logs.


def test_there_is_one_record_per_epoch_with_the_figures_watched(model, batches):
    _, records = fit(model, batches, epochs=3)
    assert [record["epoch"] for record in records] == [1, 2, 3]
    for record in records:
        assert record.keys() >= FIGURES
        assert all(isinstance(value, float) and math.isfinite(value) for value in record.values())


def test_validation_figures_stand_beside_the_training_figures(model, batches):
    trainer = MaskingTrainer(model, train_classifier=False)
    records = trainer.fit(batches, 1, validation=batches[:1], show_progress=False)
    assert records[0].keys() >= {f"val_{name}" for name in FIGURES}


def test_a_record_is_the_mean_over_images_whatever_the_batches(classifier, images, labels):
    accuracy = (classifier.eval()(images).argmax(1) == labels).float().mean().item()
    assert 0 < accuracy < 1
    for sizes in ([6], [4, 2], [1, 5]):
        uneven = list(zip(images.split(sizes), labels.split(sizes), strict=True))
        _, records = fit(MaskingModel(classifier), uneven, epochs=1, train_classifier=False)
        assert records[0]["clean"] == pytest.approx(accuracy)


def test_evaluate_equals_a_loop_over_single_images(model, batches):
    trainer = MaskingTrainer(model, train_classifier=False)
    model.eval()
    sums = dict.fromkeys(FIGURES, 0.0)
    with torch.no_grad():
        for images, labels in batches:
            for image, label in zip(images[:, None], labels, strict=True):
                mask = model.mask(image, target=label[None])
                masked_in, masked_out = mask_images(image, mask, lambda x, hole: 0 * x)
                out = model(masked_out).softmax(1)
                sums["clean"] += float(model(image).argmax() == label)
                sums["masked_in"] += float(model(masked_in).argmax() == label)
                sums["masked_out"] += float(out.argmax() == label)
                sums["entropy_out"] += -(out * out.log()).sum().item()
                sums["area"] += mask.mean().item()
    model.train()
    record = trainer.evaluate(batches)
    for name, total in sums.items():
        assert record[name] == pytest.approx(total / 6, rel=1e-4), name


def test_evaluate_changes_nothing(model, batches):
    trainer = MaskingTrainer(mixed_modes(model))
    before = everything(model)
    trainer.evaluate(batches)
    assert_same(before, everything(model))


def test_the_log_is_a_csv_with_a_row_an_epoch(model, batches, tmp_path):
    log = tmp_path / "new" / "log.csv"
    trainer, logs = MaskingTrainer(model), [CSVLog(log)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        records = trainer.fit(
            batches, 3, validation=batches[:1], callbacks=logs, show_progress=False
        )
    with log.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(records) == 3
    for row, record in zip(rows, records, strict=True):
        cells = {name: float(cell) for name, cell in row.items()}  # nan where there is none
        assert {name: cell for name, cell in cells.items() if not math.isnan(cell)} == record


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_bar_shows_the_figures_watched_live(model, batches, capsys):
    MaskingTrainer(model).fit(batches, 2, validation=batches[:1])
    shown = "".join(capsys.readouterr())
    for word in ("clean", "masked-in", "masked-out", "entropy", "area", "2/2", "validation"):
        assert word in shown


def test_without_progress_nothing_is_printed(model, batches, capsys):
    fit(model, batches, epochs=1)
    assert "".join(capsys.readouterr()) == ""


LINE = r"before and after: barrier \S+ nats, \S+% of the predictions changed, accuracy \S+% before"
LINE += r" and \S+% after, on {count} examples \({kind}\)"
TINY = "ignore:the masker has collapsed"


def loud(model: MaskingModel, batches, capsys, how=True, **options) -> str:
    MaskingTrainer(model, train_classifier=how).fit(batches, 1, check_accuracy=False, **options)
    return "".join(capsys.readouterr())


@pytest.mark.filterwarnings(TINY)
@pytest.mark.parametrize("how", [FineTune(), FineTune(stay=0.0), FineTune(train_mode=True)])
def test_after_joint_training_a_line_says_what_remains_of_the_classifier(
    model, batches, capsys, how
):
    assert re.search(LINE.format(count=6, kind="training"), loud(model, batches, capsys, how))
    seen = loud(model, batches, capsys, how, validation=batches[:1])
    assert re.search(LINE.format(count=4, kind="validation"), seen)


@pytest.mark.filterwarnings(TINY)
@pytest.mark.parametrize("how", [False, FromScratch()])
def test_where_nothing_was_known_or_nothing_moved_there_is_no_such_line(
    model, batches, capsys, how
):
    assert "before and after" not in loud(model, batches, capsys, how)
    assert "before and after" not in loud(model, iter(batches), capsys)  # read once


@pytest.mark.filterwarnings(TINY)
def test_at_most_256_training_examples_are_read_for_it(model, capsys):
    data = TensorDataset(torch.randn(300, 3, 8, 8), torch.arange(300) % 4)
    seen = loud(model, DataLoader(data, 100, shuffle=True), capsys)
    assert re.search(LINE.format(count=256, kind="training"), seen)


@pytest.mark.filterwarnings(TINY)
@pytest.mark.parametrize("how", [FineTune(lr=0.1), FineTune(lr=0.1, stay=0.0)], ids=["stay", "0"])
def test_a_classifier_is_compared_with_what_it_was_before_joint_training(model, batches, how):
    before = copy.deepcopy(model.classifier).eval()
    trainer, _ = fit(model, batches, train_classifier=how)
    found = trainer.connectivity(batches, points=3)
    logits = [
        torch.cat([each.eval()(x) for x, _ in batches]) for each in (before, model.classifier)
    ]
    labels = torch.cat([labels for _, labels in batches])
    for place, end in ((0, logits[0]), (2, logits[1])):
        loss = nn.functional.cross_entropy(end, labels).item()
        assert found.losses[place].item() == pytest.approx(loss, abs=1e-5)
    assert found.changed == pytest.approx(
        (logits[0].argmax(1) != logits[1].argmax(1)).double().mean().item()
    )


def test_a_frozen_classifier_has_nothing_to_be_compared_with(model, batches):
    with pytest.raises(ValueError, match="the classifier is frozen and never changes"):
        MaskingTrainer(model, train_classifier=False).connectivity(batches)


@pytest.mark.filterwarnings(TINY)
def test_a_training_is_not_lost_where_the_classifiers_cannot_be_compared(model, batches, capsys):
    class OnlyOnce(list):
        def __iter__(self):
            if self.read:
                raise OSError("the disk is gone")
            self.read = True
            return super().__iter__()

    once = OnlyOnce(batches)
    once.read = False
    with pytest.warns(UserWarning, match="cannot compare the classifier .*: the disk is gone"):
        assert "before and after" not in loud(model, once, capsys)


@pytest.mark.filterwarnings(TINY)
def test_the_line_changes_neither_weights_nor_random_numbers(batches, capsys):
    ends = []
    for show_progress in (True, False):
        torch.manual_seed(0)
        model = MaskingModel(cnn())
        data = TensorDataset(*map(torch.cat, zip(*batches, strict=True)))
        loader = DataLoader(data, 3, shuffle=True)
        MaskingTrainer(model).fit(loader, 1, show_progress=show_progress, check_accuracy=False)
        ends.append((model.state_dict(), torch.get_rng_state(), torch.rand(2)))
    assert_same(*ends)


# Loops of one's own, and repetition.


def test_a_plain_loop_over_step_trains(model, batches):
    trainer = MaskingTrainer(model)
    before = copy.deepcopy(model)
    for images, labels in batches:
        record = trainer.step(images, labels)
        assert record.keys() >= FIGURES | {"loss"}
    assert not same_weights(before.masker, model.masker)
    assert not same_weights(before.classifier, model.classifier)


@HOWS
def test_the_same_seed_gives_the_same_weights(images, labels, how):
    def train(seed: int) -> MaskingModel:
        torch.manual_seed(seed)
        model = MaskingModel(cnn().to(images.device))
        loader = DataLoader(TensorDataset(images, labels), batch_size=4, shuffle=True)
        fit(model, loader, epochs=3, train_classifier=how)
        return model

    assert same_weights(train(1), train(1))
    assert not same_weights(train(1), train(2))


def test_training_does_not_seed_the_global_random_numbers(model, batches):
    torch.manual_seed(77)
    fit(model, batches, epochs=1)
    assert torch.initial_seed() == 77


def test_fitting_again_goes_on_learning(model, batches):
    trainer, _ = fit(model, batches, epochs=1)
    before = copy.deepcopy(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(batches, 1, show_progress=False)
    assert not same_weights(before.masker, model.masker)


@HOWS
def test_a_last_batch_of_one_image_is_trained_on(model, images, labels, how):
    loader = DataLoader(TensorDataset(images, labels), batch_size=5)
    _, records = fit(model, loader, epochs=1, train_classifier=how)
    assert math.isfinite(records[0]["loss"])


@pytest.mark.parametrize("dims", [1, 3])
def test_signals_and_volumes_train_too(device, labels, dims):
    inputs = torch.randn(6, 3, *[12] * dims, device=device)
    model = MaskingModel(cnn(dims=dims).to(device))
    before = copy.deepcopy(model.masker)
    fit(model, [(inputs, labels)], epochs=1)
    assert not same_weights(before, model.masker)


def test_training_lowers_the_loss(device):
    labels = torch.arange(12, device=device) % 3
    model = MaskingModel(colors().to(device))
    _, records = fit(model, [(colored(labels), labels)], 40, train_classifier=False, lr=0.01)
    assert records[-1]["loss"] < records[0]["loss"] - 0.1


# The schedule.


def test_rates_rise_to_their_peak_and_fall_to_zero():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    schedule, rates = cosine(optimizer, steps=100), []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert max(rates) == pytest.approx(0.2) and rates[0] < 0.05 and rates[-1] < 0.001
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_shortest_schedules_train_too(steps):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    schedule = cosine(optimizer, steps)
    for _ in range(steps):
        assert optimizer.param_groups[0]["lr"] > 0
        optimizer.step()
        schedule.step()


# What is told to whom.


class Counting(Latest):
    """Counts how often it is told of the classifier and asked for a judge."""

    def __init__(self) -> None:
        self.added = self.drawn = 0

    def add(self, classifier: nn.Module) -> None:
        self.added += 1
        super().add(classifier)

    def draw(self) -> nn.Module:
        self.drawn += 1
        return super().draw()


@pytest.mark.parametrize(
    "how, added", [(FROZEN, 1), (FineTune(masker_first=0.5), 3), (FineTune(masker_first=0.0), 6)]
)
def test_the_pool_is_told_of_the_classifier_only_when_that_has_learned(model, batches, how, added):
    # Six steps. While the masker trains alone there is one classifier to remember; of the steps
    # in which both learn, each begins with what the one before it has made.
    trainer, _ = fit(model, batches, epochs=3, train_classifier=how, pool=Counting())
    assert (trainer.pool.drawn, trainer.pool.added) == (6, added)


def test_each_side_has_its_own_infill(model, images, labels):
    holes: dict[str, Tensor] = {}

    def note(name: str):
        def infill(inputs: Tensor, hole: Tensor) -> Tensor:
            holes[name] = hole
            return torch.zeros_like(inputs)

        return infill

    trainer = MaskingTrainer(model, infill=note("in"), infill_out=note("out"))
    trainer.step(images, labels)
    torch.testing.assert_close(holes["in"], 1 - holes["out"])  # each is told its true hole
    holes.clear()
    trainer.evaluate([(images, labels)])
    assert set(holes) == {"in", "out"}


def test_a_masker_that_is_told_a_size_is_told_a_new_one_for_each_image_of_each_step(
    classifier, images, labels
):
    told: list[Tensor] = []

    def regularizer(mask: Tensor, judgement: Judgement) -> Tensor:
        told.append(judgement.area)
        return mask.mean()

    model = MaskingModel(classifier, masker=partial(Masker, sized=True))
    trainer = MaskingTrainer(model, regularizer=regularizer)
    for _ in range(50):
        trainer.step(images, labels)
    sizes = torch.stack(told)
    assert sizes.shape == (50, 6) and len(sizes.unique()) == 300
    assert 0.25 <= sizes.min() < 0.3 and 0.7 < sizes.max() <= 0.75  # published: U(0.25, 0.75)


def test_masked_images_move_batch_norm_statistics_where_that_is_asked_for(model, images, labels):
    clean = copy.deepcopy(model.classifier).train()
    clean(images)
    same = {}
    for judged in (False, True):
        twin = copy.deepcopy(model)
        how = FromScratch(judge_in_train_mode=judged, classifier_first=0.0)
        MaskingTrainer(twin, train_classifier=how, pool=Latest()).step(images, labels)
        same[judged] = torch.allclose(twin.classifier[1].running_mean, clean[1].running_mean)
    assert same == {False: True, True: False}


def test_a_trainer_prints_its_whole_recipe(model):
    printed = repr(MaskingTrainer(model, train_classifier=FineTune(lr=0.5), lr=0.25))
    for part in ("MaskingModel(Sequential", "layers=('2', '5')", "Masker(channels=[6, 8]"):
        assert part in printed
    for part in ("lr=0.5", "lr=0.25", "Mean()", "Dual(", "Area(", "TotalVariation(", "History("):
        assert part in printed


# ---- What a classifier takes besides the inputs.


class Scaled(nn.Module):
    """Logits times a scale of each example."""

    def __init__(self, network, scale=None):
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, inputs, scale=None):
        scale = torch.full((len(inputs),), self.scale) if scale is None else scale
        return self.network(inputs) * scale[:, None]


@pytest.mark.parametrize("joint", [False, True, FromScratch()], ids=["frozen", "joint", "scratch"])
def test_what_a_classifier_takes_besides_its_inputs_stands_beside_them(images, labels, joint):
    context = torch.full((len(images),), 2.0)
    found = []
    for scale, inputs in [(2.0, images), (None, (images, context))]:
        torch.manual_seed(0)
        network = Scaled(cnn(dropout=0.0), scale)
        model = MaskingModel(network, additional_forward_args=() if scale else (context[:2],))
        trainer = MaskingTrainer(model, train_classifier=joint)
        records = trainer.fit(
            [(inputs, labels)] * 2, 2, validation=[(inputs, labels)], show_progress=False
        )
        losses = [record["val_loss"] for record in records]
        found.append((losses, everything(model)["weights"]))
    assert_same(*found)


def test_context_that_a_network_does_not_get_or_take_is_refused_in_words(images, labels):
    both, context = [((images, images[:, 0, 0, 0]), labels)], torch.ones(2)
    model = MaskingModel(cnn(), target_aware=False)
    with pytest.raises(TypeError, match=r"takes 2 .* but 3 were given; .*\(\(inputs, \*others\)"):
        MaskingTrainer(model).fit(both, show_progress=False)
    with pytest.raises(TypeError, match=r"missing 1 required .*additional_forward_args"):
        MaskingModel(Lookup(cnn()))
    needs = MaskingModel(Lookup(cnn()), additional_forward_args=context)
    with pytest.raises(TypeError, match=r"missing 1 required .*\(\(inputs, \*others\), labels\)"):
        MaskingTrainer(needs).fit([(images, labels)], show_progress=False)
    with pytest.raises(ValueError, match="target-aware.*besides its inputs.*a module around"):
        MaskingTrainer(MaskingModel(cnn(), target_aware=True)).fit(both, show_progress=False)


# ---- Precision, and tensors that cannot learn.


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("whole", [False, True], ids=["classifier", "model"])
def test_a_classifier_of_any_precision_is_explained_from_float_batches(
    images, labels, dtype, whole
):
    plain = MaskingModel(cnn(), target_aware=False)
    assert MaskingModel(cnn().to(dtype), example_inputs=images).layers == plain.layers
    model = MaskingModel(cnn().to(dtype), masker=copy.deepcopy(plain.masker))
    model = model.to(dtype) if whole else model
    records = [
        MaskingTrainer(each, train_classifier=False).fit(
            [(batch, labels) for batch in (images, images.double())], 3, show_progress=False
        )
        for each in (plain, model)
    ]
    assert records[1][-1]["loss"] == pytest.approx(records[0][-1]["loss"], abs=0.05)
    assert not records[1][-1].get("skipped")
    assert {weights.dtype for weights in model.classifier.parameters()} == {dtype}
    assert all(weights.element_size() >= 4 for weights in model.masker.parameters())
    assert MaskingSaliency(model).attribute(images).dtype == images.dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_joint_training_in_half_precision_is_refused(dtype):
    with pytest.raises(ValueError, match=r"single precision.*float16.*mixed_precision='bf16'"):
        MaskingTrainer(MaskingModel(cnn()).to(dtype))


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_works_inside_any_grad_mode_and_on_tensors_of_it(images, labels, joint, mode):
    trainer = MaskingTrainer(MaskingModel(cnn()), train_classifier=joint)
    before = copy.deepcopy(trainer.model.masker)
    with mode():
        trainer.fit(
            [(images.clone(), labels.clone())] * 4, 1, show_progress=False, check_accuracy=False
        )
    assert not same_weights(before, trainer.model.masker)


def test_weights_without_values_or_gradients_are_refused():
    with torch.inference_mode():
        model = MaskingModel(cnn())
        with pytest.raises(ValueError, match="created in inference mode"):
            MaskingTrainer(model)
    with pytest.raises(ValueError, match="no values yet"):
        MaskingTrainer(MaskingModel(cnn()).to("meta"))


def test_a_batch_without_examples_is_refused(images, labels):
    trainer = MaskingTrainer(MaskingModel(cnn()))
    with pytest.raises(ValueError, match="must have at least one example"):
        trainer.fit([(images, labels), (images[:0], labels[:0])], show_progress=False)


def test_from_scratch_leaves_batch_norm_in_eval_mode_as_it_is(images, labels):
    network = cnn().train()
    network[1].eval()
    before = everything(network)["weights"]
    trainer = MaskingTrainer(MaskingModel(network), train_classifier=FromScratch())
    trainer.fit([(images, labels)] * 2, 2, show_progress=False)
    after = everything(network)
    assert torch.equal(after["weights"]["1.running_mean"], before["1.running_mean"])
    assert not torch.equal(after["weights"]["4.running_mean"], before["4.running_mean"])
    assert after["modes"]["4"] and not after["modes"]["1"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_target_aware_masker_learns_from_half_precision(images, labels, dtype):
    trainer = MaskingTrainer(
        MaskingModel(cnn().to(dtype), target_aware=True), train_classifier=False
    )
    records = trainer.fit([(images, labels)] * 8, 1, show_progress=False, check_accuracy=False)
    assert math.isfinite(records[-1]["loss"])
