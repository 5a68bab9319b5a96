"""Progress bars where nobody watches: in a log they are a line now and then, without a bar."""

from __future__ import annotations

import argparse
import ctypes
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from functools import partialmethod
from typing import Any, TextIO

from captum_masking._base.files import dumps
from captum_masking.cli.options import Command
from captum_masking.cli.train import Terminated

_EVERY_S = 30.0
_LINE = "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


@contextmanager
def bars_for_logs() -> Iterator[None]:
    """Let every tqdm bar write whole lines, the first, the last and one each 30 seconds.

    Does nothing where standard error is a terminal. Only the commands call it: a library must not
    change its host's bars.

    Source:
        Own; tqdm's defaults are changed as its documentation does it, by ``partialmethod``.
    """
    from tqdm import tqdm

    if sys.stderr.isatty():
        yield
        return
    before = tqdm.__init__
    tqdm.__init__ = partialmethod(
        before,
        file=Lines(sys.stderr),
        mininterval=_EVERY_S,
        maxinterval=_EVERY_S,
        bar_format=_LINE,
    )
    try:
        yield
    finally:
        tqdm.__init__ = before


class Lines:
    r"""A stream on which a bar that is drawn over itself becomes lines, none of them twice.

    Args:
        stream: Where they go.

    Source:
        Own.

    Example:
        >>> lines = Lines(sys.stdout)
        >>> lines.write("\repoch: 1/2 \repoch: 2/2\n\n")
        epoch: 1/2
        epoch: 2/2
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._last = ""

    def write(self, text: str) -> None:
        """Write what is new, without movements of the cursor."""
        for piece in re.split(r"[\r\n]+", text):
            line = re.sub(r"\x1b\[\w*", "", piece).strip()
            if line and line != self._last:
                self.stream.write(f"{line}\n")
                self._last = line

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


# ---- ``captum-masking --print-completion SHELL``: completion of commands, options and files.

SHELLS = ("bash", "zsh")
_FILES = ("CSV", "FILE", "PICTURE")


class PrintCompletion(argparse.Action):
    r"""Prints a script for the shell, and ends.

    Args:
        option_strings: As argparse gives them.
        dest: Likewise.
        **_: Likewise, and not needed.

    Raises:
        ImportError: When it is used and shtab is not installed.

    Source:
        The script is written by `shtab <https://docs.iterative.ai/shtab/>`_.

    Example:
        >>> parser = argparse.ArgumentParser(prog="captum-masking")
        >>> _ = parser.add_argument("--print-completion", action=PrintCompletion)
        >>> parser.format_usage()
        'usage: captum-masking [-h] [--print-completion {bash,zsh}]\n'
    """

    def __init__(self, option_strings: list[str], dest: str, **_: Any) -> None:
        super().__init__(
            option_strings,
            dest,
            default=argparse.SUPPRESS,
            choices=SHELLS,
            help="print a script that completes commands and options, for your shell to read",
        )

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: Any, shell: Any, *_: Any
    ) -> None:
        """Print the script of all commands, and end."""
        try:
            import shtab
        except ImportError as error:
            raise ImportError(
                "--print-completion needs shtab, which is not installed; run: "
                "pip install 'captum-masking[completion]'"
            ) from error
        for command in commands_of(parser):
            command.declare()
            for option in command._actions:
                if option.metavar in _FILES:
                    option.complete = shtab.FILE  # type: ignore[attr-defined]
                elif option.metavar == "DIR":
                    option.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        print(shtab.complete(parser, shell))
        parser.exit()


def commands_of(parser: argparse.ArgumentParser) -> list[Command]:
    """List the parsers of a parser's commands."""
    groups = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return [command for group in groups for command in group.choices.values()]


# ---- Keeps the C library from handing memory back to the system after each layer.


def keep_freed_memory() -> None:
    """Let glibc reuse large freed blocks, which saves a page fault per 4 kB of each activation.

    Training an EfficientNet-Lite0 masker on two CPU cores takes less than half as long with it.
    Only the commands call it: a library must not change its host's allocator. Does nothing where
    the C library is not glibc.

    Source:
        Own; ``mallopt(3)``.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_max = -1, -4
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)


# ---- The shell's front door: ``captum-masking demo | explain | train | evaluate | ...``.

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
