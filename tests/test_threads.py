"""Any number of threads on one model: right maps, the model as it was, nobody else disturbed."""

from __future__ import annotations

import copy
import pickle
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import MethodType

import pytest
import torch
from captum.attr import Saliency
from networks import Counted, assert_same, cnn, everything, mixed_modes, same_weights
from torch import Tensor, nn

from captum_masking import MaskingModel, MaskingSaliency, MaskingTrainer
from captum_masking._base import borrow
from captum_masking.metrics.robustness import max_sensitivity
from captum_masking.metrics.sanity import cascading
from captum_masking.model.export import HeatmapModule
from captum_masking.parts.infill import Noise
from captum_masking.saliency.per_input import PerInput

pytestmark = pytest.mark.filterwarnings("ignore:.*has no masker:UserWarning")

FEW = PerInput(steps=3)
PICTURES = torch.randn(8, 1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def hasty():
    """Let threads take turns as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def assert_same_but_for_rounding(got: object, expected: object) -> None:
    """torch.compile itself may round in another way where another thread compiles meanwhile."""
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-3)


def in_threads(job: Callable, arguments=PICTURES, *, threads: int = 4) -> list:
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(job, arguments))


def made(*, training: bool, **options) -> MaskingModel:
    model = MaskingModel(cnn(), **options).train(training)
    return mixed_modes(model) if training else model


def attribute_anew(model: nn.Module) -> Callable:
    return lambda picture: MaskingSaliency(model, per_input=FEW).attribute(picture)


def attribute_targets(model: MaskingModel) -> Callable:
    saliency = MaskingSaliency(model)
    return lambda picture: saliency.attribute_targets(picture, torch.tensor([[1, 2]]))


def by_two_models(model: MaskingModel) -> Callable:
    other = MaskingModel(model.classifier, ["2"], stride=2)
    return lambda picture: [MaskingSaliency(m).attribute(picture) for m in (model, other)][1]


def without_masker(model: MaskingModel) -> Callable:
    return MaskingSaliency(model.classifier, per_input=FEW).attribute


def by_a_method(model: MaskingModel) -> Callable:
    return attribute_anew(model.classifier.forward)


def with_a_random_infill(model: MaskingModel) -> Callable:
    return MaskingSaliency(model.classifier, per_input=FEW, infill=Noise()).attribute


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "way",
    [
        attribute_anew,
        attribute_targets,
        by_two_models,
        without_masker,
        by_a_method,
        with_a_random_infill,
    ],
)
def test_threads_give_the_maps_of_one_thread_and_the_model_back(way, training):
    model = made(training=training)
    job, before = way(model), everything(model)
    expected = [job(picture) for picture in PICTURES]
    assert_same(in_threads(job), expected)
    assert_same(everything(model), before)


def test_threads_explain_a_compiled_network():
    model = made(training=True)
    job = attribute_anew(torch.compile(model.classifier, backend="eager"))
    before = everything(model)
    expected = [job(picture) for picture in PICTURES[:4]]
    assert_same_but_for_rounding(in_threads(job, PICTURES[:4]), expected)
    assert_same(everything(model), before)


def test_threads_ask_a_target_aware_model():
    model = made(training=True, target_aware=True)
    job, before = attribute_targets(model), everything(model)
    expected = [job(picture) for picture in PICTURES]
    assert_same(in_threads(job), expected)
    assert_same(everything(model), before)


def test_threads_read_features_of_their_own_pass():
    model = made(training=False)
    expected = [model.explain(picture) for picture in PICTURES]
    assert_same(in_threads(model.explain), expected)
    module = HeatmapModule(model)
    assert_same(in_threads(module), expected)


MEANWHILE: list[Callable[[], object]] = []  # what another thread does in the middle of a pass


class Stops(nn.Module):
    """Lets another thread do something in the middle of a pass."""

    def forward(self, inputs: Tensor) -> Tensor:
        if MEANWHILE:
            thread = threading.Thread(target=MEANWHILE.pop())
            thread.start()
            thread.join()
        return inputs


def stopping(network: nn.Sequential) -> nn.Sequential:
    return network.insert(4, Stops())


@pytest.mark.parametrize("masker", [True, False])
def test_another_threads_own_pass_is_neither_disturbed_nor_read(masker):
    network, twin, picture = stopping(cnn(dropout=0.0)), cnn(dropout=0.0).train(), PICTURES[0]
    for part in (network[1], network[5], twin[1], twin[4]):
        part.momentum = 0.0  # or our pass would go on with statistics that the other one has moved
    model: nn.Module = MaskingModel(network) if masker else network
    attribute = MaskingSaliency(model, per_input=FEW).attribute
    expected = attribute(picture), twin(PICTURES.flatten(0, 1))
    model.train()
    found: list[Tensor] = []
    MEANWHILE.append(lambda: found.append(network(PICTURES.flatten(0, 1))))
    assert_same((attribute(picture), *found), expected)
    assert_same(list(network.buffers()), list(twin.buffers()))  # batch norm has seen one batch


@pytest.mark.parametrize("change", [nn.Module.train, nn.Module.eval, copy.deepcopy, pickle.dumps])
def test_another_thread_may_set_modes_and_copy_in_the_middle_of_a_pass(change):
    model = MaskingModel(stopping(cnn())).eval()
    attribute = MaskingSaliency(model).attribute
    expected, buffers = attribute(PICTURES[0]), copy.deepcopy(list(model.buffers()))
    MEANWHILE.append(lambda: change(model))
    assert_same(attribute(PICTURES[0]), expected)
    assert_same(list(model.buffers()), buffers)


def test_random_numbers_of_other_threads_go_on_where_nothing_here_draws():
    network = stopping(cnn()).eval()
    torch.manual_seed(0)
    expected = [torch.rand(()) for _ in range(2)]
    torch.manual_seed(0)
    found: list[Tensor] = []
    for _ in expected:
        MEANWHILE.append(lambda: found.append(torch.rand(())))
    MEANWHILE.insert(1, lambda: MaskingSaliency(cnn(), per_input=FEW).attribute(PICTURES[0]))
    MaskingSaliency(MaskingModel(network)).attribute(PICTURES[0])
    for _ in range(2):
        network(PICTURES[0])
    assert found == expected


# ---- Networks that know their parts otherwise than by name


class Listed(nn.Module):
    """Runs its parts out of a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.network = cnn()
        self.run = list(self.network)

    def forward(self, inputs: Tensor) -> Tensor:
        for part in self.run:
            inputs = part(inputs)
        return inputs


def with_a_method() -> nn.Module:
    network = cnn()
    network.__dict__["forward"] = MethodType(nn.Sequential.forward, network)
    return network


def with_a_closure() -> nn.Module:
    network = cnn()
    parts = list(network)
    network.__dict__["forward"] = lambda inputs: nn.Sequential(*parts)(inputs)
    return network


def with_a_partial() -> nn.Module:
    network = cnn()
    network.__dict__["forward"] = partial(nn.Sequential.forward, network)
    return network


def with_a_hook() -> nn.Module:
    network = cnn()
    network[2].register_forward_hook(lambda module, _, output: output * 2)
    return network


def with_a_scripted_part() -> nn.Module:
    return cnn().append(torch.jit.script(nn.Hardtanh()))


def with_a_compiled_part() -> nn.Module:
    network = cnn()
    network[1].compile(backend="eager")
    return network


SHARED: dict[str, nn.Module] = {}


class Registered(nn.Module):
    """Finds a part in a table of its file."""

    def __init__(self) -> None:
        super().__init__()
        self.network = cnn()
        SHARED["norm"] = self.network[1]

    def forward(self, inputs: Tensor) -> Tensor:
        return self.network[2:](SHARED["norm"](self.network[0](inputs)))


class OfClass(nn.Module):
    """Finds a part in a list of its class."""

    parts: list[nn.Module] = []

    def __init__(self) -> None:
        super().__init__()
        self.network = cnn()
        self.parts[:] = [self.network[1]]

    def forward(self, inputs: Tensor) -> Tensor:
        return self.network[2:](self.parts[0](self.network[0](inputs)))


ODD = [
    Listed,
    Registered,
    OfClass,
    with_a_method,
    with_a_closure,
    with_a_partial,
    with_a_hook,
    with_a_scripted_part,
    with_a_compiled_part,
]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("masker", [True, False])
@pytest.mark.parametrize("training", [False, True])
def test_networks_that_run_parts_of_their_own_choice(odd, masker, training):
    torch.manual_seed(0)
    network = odd()
    model: nn.Module = MaskingModel(network) if masker else network
    job = attribute_anew(model)
    expected = [job(picture) for picture in PICTURES]
    before = everything(model.train(training))
    same = assert_same_but_for_rounding if odd is with_a_compiled_part else assert_same
    same(in_threads(job), expected)
    assert_same(everything(model), before)


def test_tied_and_shared_parts_stay_tied():
    network = cnn()
    network.again = network[2]  # two names for one part
    twins = borrow._twins(network)
    twin = twins[id(network)].twin
    assert twin.again is twin[2] is not network[2]
    assert twin[0].weight is network[0].weight and twin[1].running_mean is network[1].running_mean


def test_what_a_pass_leaves_with_a_module_is_left():
    network = Counted(cnn())
    MaskingSaliency(MaskingModel(network)).attribute(PICTURES[0])
    first = network.calls
    MaskingSaliency(MaskingModel(network)).attribute(PICTURES[0])
    assert first > 0 and network.calls > first


# ---- What is borrowed


def test_borrowers_may_end_in_any_order():
    network = mixed_modes(cnn())
    before = everything(network)
    for order in ([0, 1, 2], [1, 0, 2], [2, 0, 1], [2, 1, 0]):
        held = [borrow.eval_mode(network), borrow.lent(network), borrow.eval_mode(network)]
        for each in held:
            each.__enter__()
        for index in order:
            assert not any(part.training for part in network.modules())
            held[index].__exit__(None, None, None)
        assert_same(everything(network), before)
    assert not borrow._LOANS


def test_metrics_in_threads_give_models_back():
    network = mixed_modes(cnn())
    network[0].weight.grad = torch.ones_like(network[0].weight)
    before, map_of = everything(network), Saliency(network)

    def sensitivity(picture: Tensor) -> Tensor:
        return max_sensitivity(network, picture, map_of, 1, samples=2)

    expected = [sensitivity(picture) for picture in PICTURES]
    assert_same(in_threads(sensitivity), expected)
    assert_same(everything(network), before)


def test_sanity_checks_in_threads_take_turns():
    network = cnn().eval()

    def check(picture: Tensor) -> dict:
        return cascading(network, lambda: network[:6](picture).mean(1, keepdim=True)[:, 0])

    before = everything(network)
    expected = [check(picture) for picture in PICTURES[:4]]
    assert_same(in_threads(check, PICTURES[:4]), expected)
    assert_same(everything(network), before)


def test_a_training_is_the_same_bit_by_bit_while_threads_explain_its_model():
    batches = [(PICTURES.flatten(0, 1), torch.arange(len(PICTURES)) % 4)]
    alone, watched = (MaskingModel(cnn(dropout=0.0), target_aware=False) for _ in range(2))
    watched.load_state_dict(alone.state_dict())
    done = threading.Event()

    def explain(_: int) -> None:
        while not done.is_set():
            attribute_anew(watched)(PICTURES[0])

    MaskingTrainer(alone).fit(batches, epochs=4, show_progress=False)
    with ThreadPoolExecutor(2) as pool:
        explaining = [pool.submit(explain, index) for index in range(2)]
        try:
            MaskingTrainer(watched).fit(batches, epochs=4, show_progress=False)
        finally:
            done.set()
        for each in explaining:
            each.result()
    assert same_weights(alone, watched)


def test_weights_that_change_while_a_mask_is_optimized_are_an_error_in_words():
    class Changed(nn.Sequential):
        def forward(self, inputs: Tensor) -> Tensor:
            logits = super().forward(inputs)
            with torch.no_grad():
                self[9].weight.mul_(0.9)  # as the step of another thread's training does
            return logits

    with pytest.raises(RuntimeError, match=r"constant weights.*another thread.*copy\.deepcopy"):
        MaskingSaliency(Changed(*cnn()), per_input=FEW).attribute(PICTURES[0], target=1)
