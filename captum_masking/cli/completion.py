"""``captum-masking --print-completion SHELL``: completion of commands, options and files."""

from __future__ import annotations

import argparse
from typing import Any

from captum_masking.cli.command import Command

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
