"""One image at a time, for methods that would give an image another map in another batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from captum_masking.benchmark.method import Explain


def one_by_one(explain: Explain) -> Explain:
    """Explain each image on its own, from the same seed; random states are given back.

    Args:
        explain: Called as ``explain(inputs, target)`` with one image and one class.

    Returns:
        The same for any batch.

    Source:
        Own.

    Example:
        >>> noise = one_by_one(lambda inputs, target: torch.rand_like(inputs))
        >>> one, other = noise(torch.zeros(2, 3, 4, 4), torch.tensor([0, 1]))
        >>> torch.equal(one, other)
        True
    """

    def each(inputs: Tensor, target: Tensor) -> Tensor:
        pairs = zip(inputs, target, strict=True)
        return torch.cat([_alone(explain, image, label) for image, label in pairs])

    return each


def _alone(explain: Explain, image: Tensor, label: Tensor) -> Tensor:
    with seeded(image):
        return explain(image[None], label[None])


@contextmanager
def seeded(inputs: Tensor, seed: int = 0) -> Iterator[None]:
    """Start torch and NumPy from a seed, then give them their random state back.

    Args:
        inputs: With those on a GPU, the GPUs' random states are given back, too.
        seed: Of both.

    Source:
        Own; Captum's GradientShap draws from both.

    Example:
        >>> with seeded(torch.zeros(1)):
        ...     one = torch.rand(1)
        >>> with seeded(torch.zeros(1)):
        ...     one == torch.rand(1)
        tensor([True])
    """
    state = np.random.get_state()
    devices = range(torch.cuda.device_count()) if inputs.is_cuda else ()
    with torch.random.fork_rng(devices):
        try:
            torch.manual_seed(seed)
            np.random.seed(seed)
            yield
        finally:
            np.random.set_state(state)
