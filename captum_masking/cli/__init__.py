"""The shell's front door: ``captum-masking demo | explain | train | evaluate | ...``."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stdout
from typing import Any

from captum_masking.cli.bars import bars_for_logs
from captum_masking.cli.command import Command
from captum_masking.cli.completion import PrintCompletion
from captum_masking.cli.document import dumps
from captum_masking.cli.launch import Terminated
from captum_masking.cli.memory import keep_freed_memory

#: The first sentence of each command's module, which is loaded only to be used.
COMMANDS = {
    "demo": "Train a small classifier and its masker on digits, compare with Captum, explain "
    "photographs.",
    "explain": "Explain pictures: where is the evidence, and what is left without it?",
    "train": "Train a masker for a classifier, together with it or with the classifier frozen.",
    "evaluate": "Measure a trained model on labelled images, with boxes where there are any.",
    "benchmark": "Compare saliency methods on the same images: quality, cost and memory in one "
    "table.",
    "study": "Train and score every row of the paper's study on your own pictures, and say what "
    "holds.",
}

_EPILOG = """\
captum-masking COMMAND --help ends with examples.

exit status:
  0    done
  1    an error, said in one line on standard error
  2    options that do not exist, or lack a value
  130  ended by Ctrl-C (143: by SIGTERM)
"""


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
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action=_Version, nargs=0, help="print the version and end")
    top.add_argument("--print-completion", action=PrintCompletion)
    commands = top.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=Command
    )
    for name, summary in COMMANDS.items():
        commands.add_parser(name, help=summary)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; an error is one line on standard error and a status that is not 0.

    The line ends with the way out, where the error carries one. Of several processes the first
    warns; each says its own errors. With ``--json`` standard output holds one JSON document, and
    what a person reads goes to standard error.

    Args:
        argv: The words after ``captum-masking``; None takes them from the shell.

    Returns:
        The exit status: 0, 1 for an error, 130 after Ctrl-C, 143 after SIGTERM.

    Raises:
        SystemExit: With status 2, if the words are no command; with 0 after ``--help``.

    Source:
        Own.

    Example:
        >>> main(["evaluate", "--model", "no-such-folder", "--data", "x.csv", "--json", "y.json"])
        1
    """
    try:
        _run(parser().parse_args(argv))
    except KeyboardInterrupt as stop:
        is_terminated = isinstance(stop, Terminated)
        if not _process():
            _say("terminated:" if is_terminated else "interrupted:", stop)
        return 143 if is_terminated else 130
    except (OSError, ValueError, TypeError, RuntimeError, ImportError) as error:
        _say("error:", error)
        return 1
    return 0


def _run(arguments: argparse.Namespace) -> None:
    keep_freed_memory()
    wants_document = getattr(arguments, "json", None) is True
    with ExitStack() as around:
        around.enter_context(warnings.catch_warnings())
        warnings.showwarning = _say_warning  # type: ignore[assignment]
        around.enter_context(bars_for_logs())
        if wants_document:
            around.enter_context(redirect_stdout(sys.stderr))
        document = arguments.run(arguments)
    if wants_document and document is not None:
        print(dumps(document))


class _Version(argparse.Action):
    """Prints the version of the package."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from captum_masking import __version__

        print(f"captum-masking {__version__}")
        parser.exit()


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
