"""What every test shares: a device, seeds that leave no trace, tiny classifiers, a few batches."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from networks import Lookup, Quadrants, cnn
from torch import Tensor, nn

from captum_masking import MaskingModel


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="device to run the tests on (default: cpu)")


def pytest_configure() -> None:
    # Tensors here are tiny: threads cost more than they bring, and minutes on a busy machine.
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of processes that tests start
    os.environ.setdefault("MPLBACKEND", "agg")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.config.getoption("--device"))


@pytest.fixture(autouse=True, scope="session")
def ctrl_c() -> Iterator[None]:
    """Ctrl-C raises in every test, also where the tests run in the background and it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def classifier(device: torch.device) -> nn.Module:
    """Three channels in, four classes out, with batch norm and dropout; in train mode."""
    return cnn().to(device)


@pytest.fixture
def model(classifier: nn.Module) -> MaskingModel:
    return MaskingModel(classifier)


@pytest.fixture
def images(device: torch.device) -> Tensor:
    return torch.randn(6, 3, 16, 16).to(device)


@pytest.fixture
def labels(device: torch.device) -> Tensor:
    return torch.tensor([0, 1, 2, 3, 0, 1], device=device)


@pytest.fixture
def quadrants(device: torch.device) -> Quadrants:
    """A classifier without anything to tap, whose evidence is known: the k-th quarter."""
    return Quadrants().to(device)


@pytest.fixture
def lookup(device: torch.device) -> Lookup:
    return Lookup(cnn()).to(device)


@pytest.fixture(scope="session")
def disguises(device: torch.device) -> dict[str, Callable]:
    """One classifier in every form in which Captum's users bring theirs; none shows its layers."""
    classifier = cnn().to(device).eval()
    example = torch.zeros(2, 3, 16, 16, device=device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit says that it is old
        traced, scripted = torch.jit.trace(classifier, example), torch.jit.script(classifier)
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(classifier, (example,), dynamic_shapes=({0: batch},)).module()
    compiled = torch.compile(classifier, backend="eager", dynamic=True)
    compiled(example)
    return {
        "module": classifier,
        "lambda": lambda inputs: classifier(inputs),
        "bound method": classifier.forward,
        "traced": traced,
        "scripted": scripted,
        "exported": exported,
        "compiled": compiled,
    }
