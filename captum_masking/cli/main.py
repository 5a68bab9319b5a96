"""The commands of ``captum-masking`` and their options; listing them imports no library."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click import Argument, Choice, FloatRange, IntRange, Option

from captum_masking import __version__
from captum_masking.cli.command import Command
from captum_masking.cli.names import METHODS, complete

# ---- Kinds of options


def _flag(name: str, help: str) -> Option:
    return Option([name], is_flag=True, help=help)


def _number(name: str, help: str, default: int | None = None, *, least: int = 1) -> Option:
    return Option([name], type=IntRange(least), metavar="N", default=default, help=help)


def _choice(name: str, kinds: list[str], help: str, default: str | None = None) -> Option:
    return Option([name], type=Choice(kinds), default=default, help=help)


def _text(name: str, metavar: str, help: str, **more: Any) -> Option:
    return Option([name], metavar=metavar, help=help, **more)


def _path(name: str, metavar: str, help: str, **more: Any) -> Option:
    kind = click.Path(path_type=Path, file_okay=metavar != "DIR")
    return Option([name], type=kind, metavar=metavar, help=help, **more)


_IMAGES = "CSV file, or folder with one folder per class"


def _data(help: str = _IMAGES) -> Option:
    return _path("--data", "CSV", help, required=True)


def _range(default: str = "the bit depth's") -> Option:
    words = f"black and white level of pictures with more than 8 bits; default: {default}"
    return Option(["--range"], type=float, nargs=2, metavar="LOW HIGH", help=words)


def _labels() -> tuple[Option, Option]:
    names = _path("--class-names", "FILE", "class names of the classifier: one per line, or JSON")
    return names, _flag("--untrained", "continue even if the classifier does not know the labels")


def _area(whose: str, more: str = "", **how: Any) -> Option:
    between = FloatRange(0, 1, min_open=True, max_open=True)
    words = f"mean area that {whose} should have, such as 0.2; default: what it takes{more}"
    return Option(["--area"], type=between, metavar="FRACTION", help=words, **how)


def _out(help: str = "output folder") -> Option:
    return _path("--out", "DIR", help, required=True)


# ---- The commands


def _command(name: str, help: str, examples: str, params: list[click.Parameter]) -> Command:
    return Command(
        name,
        params=params,
        help=help,
        short_help=help.partition("\n\n")[0],
        epilog=f"\b\nexamples:\n{examples}",
        context_settings={"show_default": True, "max_content_width": 100},
    )


COMMANDS = [
    _command(
        "demo",
        """Run the whole method in minutes: train on digits, compare, explain photographs.

        Works offline. Trains a small classifier and its masker on handwritten digits that lie on
        photographed textures. Compares the masker with Captum's methods on held-out images and
        writes a report. Then explains CC0 photographs with an ImageNet classifier.""",
        """\
  captum-masking demo --out demo-output
  captum-masking demo --images 1000 --epochs 3 --methods 'Masking*,LayerGradCam' --out quick""",
        [
            _path("--out", "DIR", "output folder", default="demo-output"),
            _number("--images", "number of training images", 4000),
            _number("--epochs", "passes over the training images", 12),
            _number("--held-out", "number of test images", 400),
            _text(
                "--methods",
                "NAME,...",
                "methods to compare; * matches any letters",
                default="MaskingSaliency,Saliency,IntegratedGradients,LayerGradCam",
            ),
            _number("--seed", "of all random numbers", 0, least=0),
        ],
    ),
    _command(
        "explain",
        """Show where the evidence is in pictures or sounds.

        PICTURES are files or folders. Each picture gives one PNG in --out: the picture, the map,
        the masked-in and the masked-out picture, each with the probability of the class. Files
        that cannot be read are reported and skipped.

        The default model knows the 1000 classes of ImageNet. --model takes a folder written by
        `captum-masking train`. --target asks for the evidence of another class than the predicted
        one. --method uses another saliency method on the model's classifier. If the model explains
        sounds, PICTURES are sound files, and the masked-in sound is written as a WAV.""",
        """\
  captum-masking explain cat.jpg --out maps
  captum-masking explain *.jpg --target 'Egyptian cat' --out maps
  captum-masking explain photos more.tif --model my-model --out maps --skip-existing
  captum-masking explain cat.jpg --method LayerGradCam --out maps --json > cat.json""",
        [
            Argument(["pictures"], nargs=-1, required=True, type=click.Path()),
            _text(
                "--model",
                "FOLDER|NAME",
                "folder written by train; default: efficientnet-lite0, shipped with the package; "
                "with another --method, also a --classifier of train",
            ),
            _text("--target", "CLASS", "class number or name; default: the predicted class"),
            Option(
                ["--method"],
                type=Choice(METHODS, case_sensitive=False),
                shell_complete=complete,
                metavar="NAME",
                default=METHODS[0],
                help="the model's masker, or another method of this package, of Captum or of "
                "pytorch-grad-cam",
            ),
            _out("folder for the PNGs"),
            _flag("--skip-existing", "skip pictures whose map is in --out already"),
            _number("--batch-size", "pictures per batch", 4),
            _range("as the model was trained"),
            _flag("--json", "print JSON instead of one line per picture"),
        ],
    ),
    _command(
        "serve",
        """Serve a page on which to drop pictures and look at their maps.

        The page shows a picture, its map, and the picture masked in and masked out, each with the
        classes seen in it. It is open to this machine only, and keeps no picture. Pages need
        gradio: pip install 'captum-masking[app]'.""",
        """\
  captum-masking serve
  captum-masking serve --model my-model --model efficientnet-lite0 --port 8000""",
        [
            _text(
                "--model",
                "FOLDER|NAME",
                "as for explain; default: efficientnet-lite0; several can be chosen from",
                multiple=True,
            ),
            _text("--host", "ADDRESS", "to listen on; 0.0.0.0 lets others in", default="127.0.0.1"),
            _number("--port", "to listen on; default: the first free one from 7860"),
        ],
    ),
    _command(
        "train",
        """Train a masker for a classifier, jointly or with the classifier frozen.

        --data is a CSV file with columns file,label (other columns are ignored), or a folder with
        one folder of pictures per class. --val adds validation figures to each epoch.

        --checkpoints saves the training after each epoch. Run the same command with --resume to
        continue after Ctrl-C, SIGTERM or an error. Use accelerate launch or torchrun for several
        devices or machines.""",
        """\
  captum-masking train --data pictures --classifier torchvision:resnet18 --from-scratch \\
      --out my-model
  captum-masking train --data train.csv --val val.csv --classifier my_package.models:birds \\
      --frozen --epochs 10 --checkpoints kept --resume --out my-model
  torchrun --nproc-per-node 2 -m captum_masking train --data train.csv \\
      --classifier efficientnet-lite0 --out my-model""",
        [
            _data(),
            _text(
                "--classifier",
                "SPEC",
                "efficientnet-lite0, torchvision:NAME, or package.module:function that returns a "
                "module; attributes mean, std, image_size and class_names are used if present",
                required=True,
            ),
            _out("folder for the model"),
            _path("--val", "CSV", "validation pictures"),
            _number("--epochs", "passes over the data", 8),
            _flag("--frozen", "do not change the classifier"),
            _flag(
                "--from-scratch",
                "train an untrained classifier; torchvision:NAME gets random weights and one "
                "output per class of the data",
            ),
            _area("masks"),
            _flag(
                "--target-aware",
                "make maps follow the target for every kind of classifier, by running its last "
                "layers backward; adds a gate to a --start masker that does not see the target",
            ),
            _path(
                "--start",
                "DIR",
                "start from a model that train wrote for this classifier, for example to train "
                "jointly after training frozen",
            ),
            _number("--image-size", "side in pixels; default: the classifier's, or 224"),
            _range(),
            _number("--batch-size", "batch size over all processes", 16),
            _number("--seed", "of all random numbers", 0, least=0),
            _text("--label-column", "NAME", "of the CSV", default="label"),
            *_labels(),
            _number("--workers", "loader processes", 0, least=0),
            _flag(
                "--skip-unreadable",
                "replace unreadable pictures by the next one, with a warning",
            ),
            _path("--checkpoints", "DIR", "save the training here after every epoch"),
            _number("--checkpoint-every", "save every N steps instead of every epoch"),
            _flag("--resume", "continue from the newest of --checkpoints, if any"),
            _choice(
                "--keep",
                ["newest", "loss", "masked-in"],
                "state to keep, among those whose classifier lost no accuracy on --val",
                "newest",
            ),
            _number(
                "--early-stopping",
                "stop when the loss on --val has not improved for N epochs; needs --frozen, since "
                "in joint training the loss changes with the judge",
            ),
            _flag(
                "--pictures",
                "draw the maps of a few pictures after every epoch into OUT-pictures",
            ),
            _path("--tensorboard", "DIR", "log to TensorBoard in this folder"),
            _flag("--json", "print the last epoch's figures as JSON"),
            _choice("--device", ["cpu", "cuda"], "default: the fastest available"),
            _choice("--precision", ["no", "bf16", "fp16"], "mixed precision; default: no"),
            _number("--accumulate", "batches per update; default: 1"),
        ],
    ),
    _command(
        "evaluate",
        """Measure a trained model on labeled images, with or without boxes.

        Prints a table or JSON: accuracy on clean, masked-in and masked-out images, entropy of the
        masked-out predictions, and mask area. If the CSV has boxes, also the localization errors
        of the masks, of the whole frame and of a centered square.""",
        """\
  captum-masking evaluate --model my-model --data val.csv
  captum-masking evaluate --model my-model --data val.csv --json val.json
  captum-masking evaluate --model my-model --data val.csv --json | jq .localization_error""",
        [
            _text("--model", "DIR", "folder written by train", required=True),
            _data(),
            _text(
                "--json",
                "[FILE]",
                "also write JSON to FILE; without FILE, print JSON instead of the table",
                is_flag=False,
                flag_value="-",
            ),
            _text("--label-column", "NAME", "of the CSV; default: as the model was trained"),
            _range("as the model was trained"),
            *_labels(),
            _number("--batch-size", "images at a time", 32),
        ],
    ),
    _command(
        "benchmark",
        """Compare saliency methods on the same images: quality, cost and memory in one table.

        By default, compares the model's masks with all but the slowest methods of Captum that
        apply to the classifier, and with those of pytorch-grad-cam if it is installed. Four
        trivial baselines are always included. Each further --model adds a row, judged by the
        classifier of the first.

        Writes table.md, table.csv, result.json, pictures and report.html. Run the same command
        again to continue after an interruption.""",
        """\
  captum-masking benchmark --model my-model --data val.csv --out result
  captum-masking benchmark --model my-model --data val.csv --out quick \\
      --methods 'Masking*,LayerGradCam,Saliency' --measures quick,curves --curve-images 32
  captum-masking benchmark --model frozen --model joint --data val.csv \\
      --methods 'Masking*' --out two""",
        [
            _data(
                "CSV file (columns x0,y0,x1,y1 for boxes, trimap for pixel masks), or folder with "
                "one folder per class"
            ),
            _text(
                "--model",
                "DIR",
                "folder written by train; the classifier of the first is explained and judges",
                required=True,
                multiple=True,
            ),
            _text(
                "--methods",
                "NAME,...",
                "methods to compare; * matches any letters; default: all but the slowest",
                shell_complete=complete,
            ),
            _out(),
            _number("--limit", "use a random sample of N images"),
            _flag("--predicted", "explain the predicted class instead of the label"),
            _text("--label-column", "NAME", "of the CSV; default: as the model was trained"),
            _range("as the model was trained"),
            *_labels(),
            _text("--mask-column", "NAME", "of the CSV", default="trimap"),
            _text(
                "--measures",
                "NAME,...",
                "quick = le (boxes), iou (pixel masks), masked (in and out), sm (saliency metric), "
                "equal (area), maps; all = quick and half (of the pixels), curves (insertion, "
                "deletion, completeness, soundness), infidelity, sensitivity",
                default="quick",
            ),
            _number("--curve-steps", "steps per curve", 10),
            _number("--curve-images", "measure curves on N images only, since they take long"),
            Option(
                ["--cost-seconds"],
                type=click.FloatRange(0, min_open=True),
                metavar="S",
                default=2.0,
                help="seconds to time each method",
            ),
            _number("--batch-size", "images at a time", 16),
            _number("--seed", "of all random numbers", 0, least=0),
            _flag("--json", "print result.json instead of the table"),
        ],
    ),
    _command(
        "study",
        """Repeat the paper's study on your own pictures.

        Trains and scores each row, then says which findings of the paper hold. --data is the same
        as for train; --val is a CSV file with boxes. Run the command again to continue or to add
        rows. Two commands can share one --out if their --rows differ. The table, its CSV file and
        the pictures are updated after each run.""",
        """\
  captum-masking study --data train.csv --val val.csv --classifier efficientnet-lite0 \\
      --rows 'frozen,joint,in-*,out-*,infill-blur' --seeds 3 --out study
  captum-masking study --data train.csv --val val.csv --classifier torchvision:resnet18 \\
      --rows 'few-shot-*' --json --out study > study.json""",
        [
            _data("training pictures: " + _IMAGES),
            _path("--val", "CSV", "validation pictures with boxes", required=True),
            _text("--classifier", "SPEC", "as for train", required=True),
            _text(
                "--rows",
                "NAMES",
                "comma-separated names; * matches any letters",
                default="all",
            ),
            _number("--seeds", "runs per row", 1),
            _out(),
            _number("--epochs", "passes over the data", 2),
            _area(
                "the masks of every row",
                ". Repeat it to choose each run's area on every second validation picture",
                multiple=True,
            ),
            _number("--image-size", "side in pixels; default: the classifier's, or 224"),
            _range(),
            _number("--batch-size", "images at a time", 16),
            _text("--label-column", "NAME", "of both CSVs", default="label"),
            *_labels(),
            _number("--workers", "loader processes", 0, least=0),
            _flag("--json", "print table.json instead of the table"),
        ],
    ),
]


class _InOrder(click.Group):
    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.commands)


app = click.version_option(__version__, message="captum-masking %(version)s")(
    _InOrder(
        "captum-masking",
        commands=COMMANDS,
        no_args_is_help=False,
        help="Learned saliency maps: one forward pass, one heat map of the evidence.",
        epilog="""For examples, run captum-masking COMMAND --help.

\b
exit status:
  0    success
  1    error, in one line on standard error
  2    wrong command line
  130  ended by Ctrl-C (143: by SIGTERM)""",
        context_settings={"max_content_width": 100},
    )
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    Args:
        argv: The words after ``captum-masking``; None takes them from the shell.
    """
    if argv is None and not sys.stderr.isatty():  # in a log: a line of progress now and then
        os.environ.setdefault("TQDM_MININTERVAL", "30")
        os.environ.setdefault("TQDM_MAXINTERVAL", "30")
    for stream in (sys.stdout, sys.stderr):  # an encoding may lack letters of a name
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return app.main(argv, "captum-masking", standalone_mode=False) or 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
