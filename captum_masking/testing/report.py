"""How checks are listed, run and worded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

#: Raises an AssertionError that says what was expected, what came, and the way out.
Check = Callable[..., None]


def named(checks: Iterable[Check]) -> Iterator[tuple[str, Check]]:
    """Pair each check with its name, a sentence.

    Source:
        Own.

    Example:
        >>> def the_sky_is_blue() -> None: ...
        >>> next(named([the_sky_is_blue]))[0]
        'the_sky_is_blue'
    """
    return ((check.__name__, check) for check in checks)


def run_all(checks: Iterable[Check], *arguments: Any, **options: Any) -> None:
    """Run every check, and report together all that fail.

    Raises:
        AssertionError: If one fails, naming each.

    Source:
        Own; scikit-learn's ``check_estimator`` stops at the first.

    Example:
        >>> run_all([lambda number: None], 3)
    """
    failed = {}
    for name, check in named(checks):
        try:
            check(*arguments, **options)
        except AssertionError as error:
            failed[name] = error
    if failed:
        listed = "\n".join(f"- {name}: {error}" for name, error in failed.items())
        raise AssertionError(f"{len(failed)} checks failed:\n{listed}") from next(
            iter(failed.values())
        )


def expect(holds: object, expected: str, got: object, way_out: str) -> None:
    """Say what was expected, what came, and the way out, unless it holds.

    Raises:
        AssertionError: If it does not hold.

    Source:
        Own.

    Example:
        >>> expect(1 < 2, "order", "chaos", "sort first.")
    """
    if not holds:
        raise AssertionError(f"expected {expected}, but got {got}; {way_out}")


def expect_close(
    got: Tensor, wanted: Tensor, expected: str, way_out: str, *, tolerance: float = 1e-4
) -> None:
    """Expect two tensors to be the same but for rounding.

    Raises:
        AssertionError: If shapes differ, or a value by more than the tolerance, absolute and
            relative.

    Source:
        The tolerance is that of Captum's own suite for targets.

    Example:
        >>> expect_close(torch.ones(2), torch.ones(2), "the same", "look closer.")
    """
    if got.shape != wanted.shape:
        raise AssertionError(
            f"expected {expected}, but got shapes {tuple(got.shape)} and {tuple(wanted.shape)}; "
            f"{way_out}"
        )
    same = torch.isclose(got, wanted, atol=tolerance, rtol=tolerance, equal_nan=True)
    apart = f"{int((~same).sum())} of {same.numel()} values that differ"
    expect(same.all(), expected, apart, way_out)


def attempt(action: Callable[[], Any], expected: str, way_out: str) -> Any:
    """Return what an action returns; an error of its own becomes one that says what was expected.

    Raises:
        AssertionError: If the action raises anything.

    Source:
        Own.

    Example:
        >>> attempt(lambda: 3, "a number", "count.")
        3
    """
    try:
        return action()
    except Exception as error:
        raise AssertionError(
            f"expected {expected}, but got {type(error).__name__}: {error}; {way_out}"
        ) from error
