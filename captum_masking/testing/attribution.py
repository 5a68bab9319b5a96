"""What Captum, its tools and its users ask of an attribution, as a list of checks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from captum_masking.testing import answers, borrowing, targets
from captum_masking.testing.report import Check, named, run_all


def attribution_checks() -> Iterator[tuple[str, Check]]:
    """List the checks of an attribution, as pairs of a name and a function.

    Each is called as ``check(attribution, model, inputs, **options)`` like
    :func:`check_attribution`, and raises an ``AssertionError`` that says what was expected, what
    came, and the way out. In a test of your own::

        @pytest.mark.parametrize("name, check", attribution_checks())
        def test_my_attribution(name, check):
            check(MyAttribution(model), model, inputs)

    Source:
        The rules are Captum 0.9's, as its suites, ``NoiseTunnel`` and its metrics ask for them.

    Example:
        >>> [name for name, check in attribution_checks()][:2]
        ['the_map_has_the_shape_of_the_input', 'the_map_has_the_dtype_of_the_input']
    """
    return named([*answers.CHECKS, *targets.CHECKS, *borrowing.CHECKS])


def check_attribution(attribution: Any, model: nn.Module, inputs: Tensor, **options: Any) -> None:
    """Run every check on an attribution, and report all that fail.

    Args:
        attribution: An instance made from the model; its ``attribute`` is called.
        model: The module that it explains, with two classes at least. It must not change; to see
            that it does not, leave parts of it in train mode.
        inputs: A batch of two or more, as the model takes it.
        **options: For every call of ``attribute``, such as ``additional_forward_args`` (without
            tensors that have a row per input) or fewer steps.

    Raises:
        AssertionError: If a check fails, naming each that does.
        ValueError: If there are fewer than two inputs.

    Source:
        Own, after scikit-learn's ``check_estimator``.

    Example:
        >>> import torch
        >>> from captum.attr import Saliency
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
        >>> check_attribution(Saliency(network), network, torch.rand(2, 1, 4, 4))
    """
    if len(inputs) < 2:
        raise ValueError(
            f"inputs must be a batch of two or more, to be explained together and one by one, but "
            f"got {len(inputs)}; repeat the example."
        )
    run_all((check for _, check in attribution_checks()), attribution, model, inputs, **options)
