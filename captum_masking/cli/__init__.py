"""The shell's front door: ``captum-masking demo | explain | train | evaluate | ...``."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence

from captum_masking.cli import benchmark, demo, evaluate, explain, study, train
from captum_masking.cli.launch import Terminated
from captum_masking.cli.memory import keep_freed_memory

_COMMANDS = {
    "demo": demo,
    "explain": explain,
    "train": train,
    "evaluate": evaluate,
    "benchmark": benchmark,
    "study": study,
}


def parser() -> argparse.ArgumentParser:
    """Build the parser of all commands.

    Source:
        Own.

    Example:
        >>> parser().parse_args(["demo", "--out", "results"]).out.name
        'results'
    """
    top = argparse.ArgumentParser(
        prog="captum-masking",
        description="Learned saliency maps: one forward pass, one heat map of the evidence.",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in _COMMANDS.items():
        summary = (module.__doc__ or "").splitlines()[0]
        command = commands.add_parser(
            name,
            help=summary,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; an error is one line on standard error and a status that is not 0.

    The line ends with the way out, where the error carries one. Of several processes the first
    warns; each says its own errors.

    Args:
        argv: The words after ``captum-masking``; None takes them from the shell.

    Returns:
        The exit status: 0, 1 for an error, 130 after Ctrl-C, 143 after SIGTERM.

    Source:
        Own.

    Example:
        >>> main(["evaluate", "--model", "no-such-folder", "--data", "x.csv", "--json", "y.json"])
        1
    """
    arguments = parser().parse_args(argv)
    keep_freed_memory()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _say_warning  # type: ignore[assignment]
            arguments.run(arguments)
    except KeyboardInterrupt as stop:
        is_terminated = isinstance(stop, Terminated)
        if not _process():
            _say("terminated:" if is_terminated else "interrupted:", stop)
        return 143 if is_terminated else 130
    except (OSError, ValueError, TypeError, RuntimeError, ImportError) as error:
        _say("error:", error)
        return 1
    return 0


def _say(kind: str, error: BaseException) -> None:
    """Print an error, and the notes that were added to it on its way here, as one line."""
    where = f" (process {_process()})" if _process() else ""
    words = " ".join([kind, str(error), *getattr(error, "__notes__", ())]).split()
    print(f"captum-masking{where}: {' '.join(words).rstrip(':')}", file=sys.stderr)


def _process() -> int:
    """Return this process's number; the launcher's, as others may be gone by now."""
    return int(os.environ.get("RANK", 0))


def _say_warning(message: Warning | str, *_: object) -> None:
    """Print a warning as one line, like an error."""
    if not _process():
        print(f"captum-masking: warning: {message}", file=sys.stderr)
