"""Options that several commands have."""

from __future__ import annotations

import argparse
import importlib
from types import ModuleType
from typing import Any

# ---- A command's own parser, which loads the command when it is first used.


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


# ---- Options that count something must count at least one.


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


# ---- What ``--help`` of each command ends with; the tests parse every line.

#: By command.
EXAMPLES = {
    "demo": """\
  captum-masking demo --out demo-output
  captum-masking demo --images 1000 --epochs 3 --methods 'MaskingSaliency,*Cam' --out quick
""",
    "explain": """\
  captum-masking explain cat.jpg --out maps
  captum-masking explain *.jpg --target 'Egyptian cat' --out maps
  captum-masking explain *.jpg --model my-model --out maps
  captum-masking explain cat.jpg --out maps --json > cat.json
""",
    "train": """\
  captum-masking train --data pictures --classifier torchvision:resnet18 --from-scratch \\
      --out my-model
  captum-masking train --data train.csv --val val.csv --classifier my_package.models:birds \\
      --frozen --epochs 10 --checkpoints kept --resume --out my-model
  torchrun --nproc-per-node 2 -m captum_masking train --data train.csv \\
      --classifier efficientnet-lite0 --out my-model
""",
    "evaluate": """\
  captum-masking evaluate --model my-model --data val.csv
  captum-masking evaluate --model my-model --data val.csv --json val.json
  captum-masking evaluate --model my-model --data val.csv --json | jq .localization_error
""",
    "benchmark": """\
  captum-masking benchmark --model my-model --data val.csv --out result
  captum-masking benchmark --model my-model --data val.csv --out quick \\
      --methods 'Masking*,*Cam,Saliency' --limit 100 --curve-images 32
  captum-masking benchmark --model frozen --model joint --data val.csv \\
      --methods 'Masking*' --out two
""",
    "study": """\
  captum-masking study --data train.csv --val val.csv --classifier efficientnet-lite0 \\
      --rows 'frozen,joint,in-*,out-*,infill-blur' --seeds 3 --out study
  captum-masking study --data train.csv --val val.csv --classifier torchvision:resnet18 \\
      --rows 'few-shot-*' --json --out study > study.json
""",
}
