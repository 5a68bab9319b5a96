"""Run a command: import its libraries, and print an error as one line."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from types import FrameType
from types import SimpleNamespace as Options
from typing import Any

import click

__all__ = ["Command", "Options", "Terminated", "terminable"]


class Command(click.Command):
    """Calls ``run(options)`` of ``captum_masking.cli.NAME``, imported only now."""

    def invoke(self, context: click.Context) -> int:
        """Return the exit status."""
        try:
            document = _run(str(self.name), Options(**context.params))
        except KeyboardInterrupt as stop:
            is_terminated = isinstance(stop, Terminated)
            if not _process():
                _print("terminated:" if is_terminated else "interrupted:", stop)
            return 143 if is_terminated else 130
        except (OSError, ValueError, TypeError, RuntimeError, ImportError) as error:
            _print("error:", error)
            return 1
        return int(isinstance(document, dict) and bool(document.get("failed")))


def _run(name: str, options: Options) -> Any:
    """Run a command; with ``--json``, print one document and send all other text to stderr."""
    prints_document = getattr(options, "json", None) in (True, "-")
    with ExitStack() as around:
        around.enter_context(terminable())
        around.enter_context(warnings.catch_warnings())
        warnings.showwarning = _print_warning  # type: ignore[assignment]
        if prints_document:
            around.enter_context(redirect_stdout(sys.stderr))
        document = importlib.import_module(f"captum_masking.cli.{name}").run(options)
    if prints_document and document is not None:
        from captum_masking._base.files import dumps  # here: it imports torch

        print(dumps(document))
    return document


class Terminated(KeyboardInterrupt):
    """SIGTERM, as cluster schedulers send it; like Ctrl-C, but the exit status is 143."""


@contextmanager
def terminable() -> Iterator[None]:
    """Raise :class:`Terminated` on SIGTERM, so that a training is saved before it ends."""
    if threading.current_thread() is not threading.main_thread():  # Python allows it there only
        yield
        return
    process = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process:
            raise Terminated
        signal.signal(number, signal.SIG_DFL)  # a worker of a loader, which just ends
        signal.raise_signal(number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _print(kind: str, error: BaseException) -> None:
    where = f" (process {_process()})" if _process() else ""
    words = " ".join([kind, str(error), *getattr(error, "__notes__", ())]).split()
    print(f"captum-masking{where}: {' '.join(words).rstrip(':')}", file=sys.stderr)


def _print_warning(message: Warning | str, *_: object) -> None:
    if not _process():
        print(f"captum-masking: warning: {message}", file=sys.stderr)


def _process() -> int:
    return int(os.environ.get("RANK", 0))
