"""Options that count something must count at least one."""

from __future__ import annotations

import argparse


def check_counts(arguments: argparse.Namespace, *names: str) -> None:
    """Refuse a run of nothing.

    Args:
        arguments: Of the command.
        names: Attributes that are numbers; None is an option that was not given.

    Raises:
        ValueError: If one is less than one.

    Source:
        Own.

    Example:
        >>> check_counts(argparse.Namespace(epochs=0), "epochs")
        Traceback (most recent call last):
        ValueError: --epochs must be at least 1, but got 0.
    """
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, but got {value}.")
