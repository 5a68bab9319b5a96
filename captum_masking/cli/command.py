"""A command's own parser, which loads the command when it is first used."""

from __future__ import annotations

import argparse
import importlib
from types import ModuleType
from typing import Any

from captum_masking.cli.examples import EXAMPLES


class Command(argparse.ArgumentParser):
    """Declares nothing until it is used: no command waits for another one's libraries.

    Args:
        **options: As for ``argparse.ArgumentParser``. The last word of ``prog`` is the name of a
            module of this folder with a docstring, ``add_arguments(parser)`` and
            ``run(arguments)``.

    Source:
        Own.

    Example:
        >>> Command(prog="captum-masking explain").parse_args(["cat.jpg", "--out", "maps"]).pictures
        ['cat.jpg']
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, formatter_class=argparse.RawDescriptionHelpFormatter)
        self.name = self.prog.split()[-1]
        self._module: ModuleType | None = None

    def declare(self) -> None:
        """Load the command and declare its options, once."""
        if self._module is None:
            self._module = importlib.import_module(f"captum_masking.cli.{self.name}")
            self.description = self._module.__doc__
            self.epilog = f"examples:\n{EXAMPLES[self.name]}"
            self._module.add_arguments(self)
            self.set_defaults(run=self._module.run)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, knowing the options."""
        self.declare()
        return super().parse_known_args(args, namespace)
