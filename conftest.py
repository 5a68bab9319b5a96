"""What tests and the examples in docstrings share."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def seeds() -> Iterator[None]:
    """Every test starts from the same random state and leaves the one it found."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        yield
    random.setstate(python)
    np.random.set_state(numpy)
