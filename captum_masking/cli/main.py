"""The commands of ``captum-masking`` and their options; no library is imported to list them."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click import Argument, Choice, IntRange, Option

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


def _data(help: str = "a CSV, or a folder per class") -> Option:
    return _path("--data", "CSV", help, required=True)


def _range(default: str = "by the depth") -> Option:
    words = f"values of black and white in pictures of more than 8 bits; default: {default}"
    return Option(["--range"], type=float, nargs=2, metavar="LOW HIGH", help=words)


def _labels() -> tuple[Option, Option]:
    names = _path("--class-names", "FILE", "the classifier's: a line an output; or JSON")
    return names, _flag("--untrained", "go on though the classifier does not know the labels")


def _out(help: str = "for the results") -> Option:
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
        """Train a small classifier and its masker on digits, compare with Captum, explain
        photographs.

        Offline, in a few minutes on two cores: real handwritten digits at random places on
        photographed textures; a benchmark beside Captum's own methods on held-out images, with a
        report; a montage; then the CC0 photographs of scikit-image through an ImageNet
        classifier.""",
        """\
  captum-masking demo --out demo-output
  captum-masking demo --images 1000 --epochs 3 --methods 'Masking*,LayerGradCam' --out quick""",
        [
            _path("--out", "DIR", "for the results", default="demo-output"),
            _number("--images", "to train on", 4000),
            _number("--epochs", "passes over them", 12),
            _number("--held-out", "images to measure on", 400),
            _text(
                "--methods",
                "NAME,...",
                "to compare, with * for any letters",
                default="MaskingSaliency,Saliency,IntegratedGradients,LayerGradCam",
            ),
            _number("--seed", "of all random numbers", 0, least=0),
        ],
    ),
    _command(
        "explain",
        """Explain pictures or sounds: where is the evidence, and what is left without it?

        PICTURES are files, or folders of them. For each a PNG goes to --out: the picture with the
        class, the map, the picture masked in and masked out, with the probabilities of the class
        in each. One that cannot be read is named, and the others are done. Works out of the box
        on the thousand classes of ImageNet; --model takes a folder written by `captum-masking
        train`. With --target, the map is the evidence for that class. With --method, it is that of
        another method, for the model's classifier. If --model explains sounds, PICTURES are sound
        files, and beside each PNG there is a WAV of what the mask leaves of the sound.""",
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
                "a folder written by train; default: efficientnet-lite0, which is shipped; for "
                "another --method also a classifier as train takes it",
            ),
            _text("--target", "CLASS", "number or name of the class; default: the predicted one"),
            Option(
                ["--method"],
                type=Choice(METHODS, case_sensitive=False),
                shell_complete=complete,
                metavar="NAME",
                default=METHODS[0],
                help="the model's masker; or PerInput, Rise and others of ours, Captum's, "
                "pytorch-grad-cam's",
            ),
            _out("where PNGs go"),
            _flag("--skip-existing", "leave out pictures that --out has this very map of"),
            _number("--batch-size", "pictures at a time", 4),
            _range("as the model was trained"),
            _flag("--json", "print what was found as JSON, not a line a picture"),
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
        """Train a masker for a classifier, together with it or with the classifier frozen.

        --data is a CSV with columns file,label (further columns are ignored) or a folder with one
        folder of pictures per class. With --val the accuracy is watched and the best state kept.

        With --checkpoints the training is saved as it goes; the same command with --resume goes on
        after Ctrl-C, SIGTERM, or an error. On several devices or machines, start it with
        accelerate launch or torchrun.""",
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
                "module (its attributes mean, std, image_size and class_names are used if it has "
                "them)",
                required=True,
            ),
            _out("the model's folder"),
            _path("--val", "CSV", "pictures that are not trained on"),
            _number("--epochs", "passes over the data", 8),
            _flag("--frozen", "leave the classifier exactly as it is"),
            _flag(
                "--from-scratch",
                "the classifier knows nothing yet; torchvision:NAME then starts from random "
                "weights with one output per class of the data",
            ),
            _flag(
                "--target-aware",
                "maps follow the class asked for also where the classifier does not pool its last "
                "map, by running its last layers back; a masker of --start that is told nothing "
                "gets a gate",
            ),
            _path(
                "--start",
                "DIR",
                "a model that train wrote for this classifier, to go on from; joint training then "
                "starts at once: train frozen first, look, then train jointly",
            ),
            _number("--image-size", "side in pixels; default: the classifier's, or 224"),
            _range(),
            _number("--batch-size", "of all processes together", 16),
            _number("--seed", "of all random numbers", 0, least=0),
            _text("--label-column", "NAME", "of the CSV", default="label"),
            *_labels(),
            _number("--workers", "loader processes", 0, least=0),
            _flag(
                "--skip-unreadable",
                "use the next picture instead of an unreadable one, and name it",
            ),
            _path("--checkpoints", "DIR", "save the training here, after every epoch"),
            _number("--checkpoint-every", "save every N steps instead, and at the end"),
            _flag("--resume", "go on from the newest of --checkpoints, if there is one"),
            _choice(
                "--keep",
                ["newest", "loss", "masked-in"],
                "which state is kept, of those whose classifier has lost no accuracy on --val",
                "newest",
            ),
            _number(
                "--early-stopping",
                "end when the loss on --val has not got better for N epochs; for --frozen: in "
                "joint training it changes with the judge",
            ),
            _flag(
                "--pictures",
                "draw the same few pictures' maps after every epoch, into OUT-pictures",
            ),
            _path("--tensorboard", "DIR", "write the figures for TensorBoard"),
            _flag("--json", "print the last epoch's figures as JSON, not in words"),
            _choice("--device", ["cpu", "cuda"], "default: the fastest that is there"),
            _choice("--precision", ["no", "bf16", "fp16"], "default: no, single precision"),
            _number("--accumulate", "batches that make one update; default: 1"),
        ],
    ),
    _command(
        "evaluate",
        """Measure a trained model on labeled images, with boxes where there are any.

        Prints a table, and gives the same figures as JSON: accuracy on clean, masked-in and
        masked-out images, entropy of the masked-out predictions, mask area, and, with boxes, the
        localization error beside that of the whole frame and of a centered square.""",
        """\
  captum-masking evaluate --model my-model --data val.csv
  captum-masking evaluate --model my-model --data val.csv --json val.json
  captum-masking evaluate --model my-model --data val.csv --json | jq .localization_error""",
        [
            _text("--model", "DIR", "written by train", required=True),
            _data(),
            _text(
                "--json",
                "[FILE]",
                "write the figures into this file too; without a file, print them, not the table",
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

        Without --methods: every method of Captum that applies to the classifier, those of
        pytorch-grad-cam if it is installed, and the model's own masks; always beside four trivial
        baselines. Further --model folders add a row each, judged by the first one's classifier.
        Writes table.md, table.csv, result.json, pictures and report.html; the same command again
        goes on where it was interrupted.""",
        """\
  captum-masking benchmark --model my-model --data val.csv --out result
  captum-masking benchmark --model my-model --data val.csv --out quick \\
      --methods 'Masking*,LayerGradCam,Saliency' --measures quick,curves --curve-images 32
  captum-masking benchmark --model frozen --model joint --data val.csv \\
      --methods 'Masking*' --out two""",
        [
            _data(
                "a CSV (with x0,y0,x1,y1 for boxes, trimap for pixel masks), or a folder per class"
            ),
            _text(
                "--model",
                "DIR",
                "written by train; the first one's classifier is explained, and judges all",
                required=True,
                multiple=True,
            ),
            _text(
                "--methods",
                "NAME,...",
                "rows, with * for any letters; default: all but the slowest",
                shell_complete=complete,
            ),
            _out(),
            _number("--limit", "use a random sample of N images"),
            _flag("--predicted", "explain the predicted class, not the label"),
            _text("--label-column", "NAME", "of the CSV; default: as the model was trained"),
            _range("as the model was trained"),
            *_labels(),
            _text("--mask-column", "NAME", "of the CSV", default="trimap"),
            _text(
                "--measures",
                "NAME,...",
                "quick is le (by boxes), iou (by pixel masks), masked (in and out), sm, equal "
                "(area), maps; longer, by name or all: half (of the pixels), curves (insertion, "
                "deletion, completeness, soundness), infidelity, sensitivity",
                default="quick",
            ),
            _number("--curve-steps", "of curves", 10),
            _number("--curve-images", "curves, which are long, on N of the images only"),
            Option(
                ["--cost-seconds"],
                type=click.FloatRange(0, min_open=True),
                metavar="S",
                default=2.0,
                help="to time a method",
            ),
            _number("--batch-size", "images at a time", 16),
            _number("--seed", "of all random numbers", 0, least=0),
            _flag("--json", "print what result.json holds, not the table"),
        ],
    ),
    _command(
        "study",
        """Train and score every row of the paper's study on your own pictures, and say what holds.

        --data is a CSV with columns file,label or a folder per class, as for train; --val is a CSV
        with boxes, as for evaluate. Run again, it goes on where it stopped, and rows may be added;
        two commands may share one --out if their --rows differ. The table, its CSV and the
        pictures are written again after each run.""",
        """\
  captum-masking study --data train.csv --val val.csv --classifier efficientnet-lite0 \\
      --rows 'frozen,joint,in-*,out-*,infill-blur' --seeds 3 --out study
  captum-masking study --data train.csv --val val.csv --classifier torchvision:resnet18 \\
      --rows 'few-shot-*' --json --out study > study.json""",
        [
            _data("to train on"),
            _path("--val", "CSV", "boxes to score on", required=True),
            _text("--classifier", "SPEC", "as for train", required=True),
            _text(
                "--rows",
                "NAMES",
                "all, or names with commas between them; * stands for anything",
                default="all",
            ),
            _number("--seeds", "runs of each row", 1),
            _out(),
            _number("--epochs", "passes over the data", 2),
            _number("--image-size", "side in pixels; default: the classifier's, or 224"),
            _range(),
            _number("--batch-size", "images at a time", 16),
            _text("--label-column", "NAME", "of both CSVs", default="label"),
            *_labels(),
            _number("--workers", "loader processes", 0, least=0),
            _flag("--json", "print what table.json holds, not the table"),
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
        epilog="""captum-masking COMMAND --help ends with examples.

\b
exit status:
  0    done
  1    an error, in one line on standard error
  2    the command line is wrong
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
