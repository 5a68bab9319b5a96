"""Helpers that all other folders use."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazily(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], Any]]:
    """Make ``__getattr__`` and ``__dir__`` of a package that imports names lazily.

    ``homes`` gives the module of each name.
    """
    own = vars(sys.modules[package])

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        own[name] = getattr(import_module(f"{package}.{homes[name]}"), name)
        return own[name]

    return get, lambda: sorted({*own, *own["__all__"]})
