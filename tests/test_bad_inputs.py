"""A promise about the door: any call gives a right map, or an error in words, and no third."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import assert_same, cnn, everything
from torch import Tensor

import captum_masking
from captum_masking import MaskingModel, MaskingSaliency
from captum_masking.parts.masker import Masker

pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

PACKAGE = Path(captum_masking.__file__).parent
MODELS = {
    "one mask": MaskingModel(cnn()),
    "sized": MaskingModel(cnn(), masker=lambda channels, dims: Masker(channels, sized=True)),
    "told the class": MaskingModel(cnn(), masker=lambda c, dims: Masker(c, classes=4)),
}


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def spoiled(value: float) -> Tensor:
    inputs = images(2, 3, 16, 16)
    inputs[1, 0, 3, 3] = value
    return inputs


GOOD: list[Any] = [
    images(2, 3, 16, 16),
    images(1, 3, 9, 30),
    images(0, 3, 16, 16),
    images(2, 3, 16, 16).half(),
    images(2, 3, 16, 16).double().requires_grad_(),
    images(2, 3, 16, 16).to(memory_format=torch.channels_last),
    images(2, 3, 16, 32)[..., ::2],
    (images(2, 3, 16, 16),),
]
BAD: list[Any] = [
    images(3, 16, 16),
    images(2, 3),
    images(3),
    images(2, 3, 4, 16, 16),
    images(2, 1, 16, 16),
    images(2, 4, 16, 16),
    images(2, 3, 0, 16),
    images(2, 16, 16, 3),
    torch.tensor(1.0),
    spoiled(float("nan")),
    spoiled(float("inf")),
    images(2, 3, 16, 16).long(),
    images(2, 3, 16, 16) > 0,
    images(2, 3, 16, 16).to(torch.complex64),
    images(2, 3, 16, 16).to_sparse(),
    torch.empty(2, 3, 16, 16, device="meta"),
    (images(2, 3, 16, 16), images(2, 3, 16, 16)),
    (),
    [images(2, 3, 16, 16)],
    np.zeros((2, 3, 16, 16), dtype=np.float32),
    None,
    "a picture",
    3.0,
]
TARGETS = st.one_of(
    st.none(),
    st.integers(-6, 6),
    st.booleans(),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.integers(-2, 5), max_size=4),
    st.lists(st.tuples(st.integers(0, 4)), max_size=3),
    st.tuples(st.integers(-1, 5)),
    st.tuples(st.integers(0, 3), st.integers(0, 3)),
    st.lists(st.integers(-2, 5), max_size=4).map(torch.tensor),
    st.sampled_from([torch.tensor([[0, 1]]), torch.tensor([0.5, 1.0]), torch.tensor(2), {}]),
)
AREAS = st.one_of(
    st.none(),
    st.floats(),
    st.text(max_size=2),
    st.sampled_from([0, 1, True, torch.tensor([0.2, 0.4]), torch.rand(3), torch.tensor(-1.0)]),
)


def right(attribution: Any, inputs: Any) -> bool:
    """Whether a map has the shape and type of its input, and values in [0, 1]."""
    if isinstance(inputs, tuple):
        pairs = zip(attribution, inputs, strict=True)
        return isinstance(attribution, tuple) and all(right(a, x) for a, x in pairs)
    alike = attribution.shape == inputs.shape and attribution.dtype == inputs.dtype
    return alike and bool(((attribution >= 0) & (attribution <= 1)).all())


def raised_by_us(error: Exception) -> bool:
    """Whether the package itself refused, rather than something deep inside torch."""
    return PACKAGE in Path(traceback.extract_tb(error.__traceback__)[-1].filename).parents


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@given(place=st.integers(0, len(GOOD) + len(BAD) - 1), target=TARGETS, area=AREAS)
@settings(
    max_examples=300,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)
def test_a_call_gives_a_right_map_or_an_error_in_words(model, place, target, area):
    inputs = [*GOOD, *BAD][place]
    before, state = everything(model), torch.random.get_rng_state()
    try:
        attribution = MaskingSaliency(model).attribute(inputs, target=target, area=area)
    except (TypeError, ValueError) as error:
        told = str(error)
        assert raised_by_us(error), f"{type(error).__name__} from deep inside: {told}"
        assert len(told.split()) > 5, told
    else:
        assert place < len(GOOD), f"bad input {place - len(GOOD)} was taken"
        assert right(attribution, inputs)
    assert_same(before, everything(model))
    assert torch.equal(state, torch.random.get_rng_state())
