"""A joint training killed ten times and resumed each time, against one that was left alone.

Classifier and masker learn together for three epochs on 1,000 images, each image augmented at
random. A process that trains is killed with SIGKILL at ten moments drawn from a seed, and started
again; after each death every file in its folder is read. In the end the weights of masker and
classifier are compared bit by bit, and so are the records of the epochs.

  python benchmarks/kill_and_resume.py --json kill_and_resume.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import captum_masking
from captum_masking import FromScratch, MaskingModel, MaskingTrainer
from captum_masking.data import BoxedImages, DigitsOnTextures
from captum_masking.model.files import fingerprint
from captum_masking.parts.pool import History
from captum_masking.parts.sampler import GumbelSigmoid
from captum_masking.training.checkpoint import Checkpoints, read_state

EPOCHS, BATCH_SIZE, SEED = 3, 16, 0


class Noisy(Dataset[tuple[Tensor, int]]):
    """Images mirrored at random, with random noise, so that random numbers matter."""

    def __init__(self, images: Any) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.images[index]
        image = image.flip(-1) if random.random() < 0.5 else image
        return image + 0.05 * torch.randn_like(image), int(label)


def network(classes: int) -> nn.Sequential:
    """Make a classifier of three convolutions, with batch norm and dropout."""

    def block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
        return nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU()

    return nn.Sequential(
        *(*block(3, 8), *block(8, 16), *block(16, 32)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(32, classes)),
    )


def images_of(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """Return images to train on, and some to validate on."""
    if arguments.data is None:
        count = arguments.images
        return DigitsOnTextures(count, size=32), DigitsOnTextures(200, size=32, train=False)
    from torchvision.transforms import v2

    read = [v2.ToImage(), v2.Resize((32, 32)), v2.ToDtype(torch.float32, scale=True)]
    images = BoxedImages(arguments.data, transform=v2.Compose(read))
    first = range(min(arguments.images, len(images)))
    return torch.utils.data.Subset(images, first), torch.utils.data.Subset(images, first[:200])


def train(arguments: argparse.Namespace) -> None:
    """Train, or go on, and write what came out beside the checkpoints."""
    torch.set_num_threads(1)
    for said in (".*holds no checkpoint yet", "the masker has coll", "the classifier has lost"):
        warnings.filterwarnings("ignore", message=said)  # how good it gets is no matter here
    images, held_out = images_of(arguments)
    torch.manual_seed(SEED)
    classes = 1 + max(int(label) for _, label in images)
    model = MaskingModel(network(classes), sampler=GumbelSigmoid(temperature=0.5, hard=False))
    how = FromScratch(classifier_first=0.2)
    trainer = MaskingTrainer(model, train_classifier=how, pool=History(size=5, every=10))
    records = trainer.fit(
        DataLoader(Noisy(images), BATCH_SIZE, shuffle=True, num_workers=arguments.workers),
        EPOCHS,
        validation=DataLoader(held_out, 50),
        callbacks=[Checkpoints(arguments.folder / "run", every=arguments.every)],
        resume=arguments.folder / "run",
        show_progress=False,
    )
    told = [{k: v for k, v in record.items() if k != "seconds"} for record in records]
    done = {"weights": fingerprint(model), "records": told, "steps": trainer.steps_done}
    (arguments.folder / "done.json").write_text(json.dumps(done))


def started(arguments: argparse.Namespace, folder: Path) -> subprocess.Popen[bytes]:
    """Start a process that trains in a folder."""
    options = ["--images", str(arguments.images), "--every", str(arguments.every)]
    options += ["--workers", str(arguments.workers)]
    options += [] if arguments.data is None else ["--data", str(arguments.data)]
    return subprocess.Popen([sys.executable, __file__, *options, "--folder", str(folder)])


def finished(process: subprocess.Popen[bytes], folder: Path) -> dict[str, Any]:
    """Wait for a training to end, and return what it wrote."""
    if process.wait():
        raise RuntimeError(f"the training ended with {process.returncode}")
    result: dict[str, Any] = json.loads((folder / "done.json").read_text())
    return result


def checkpoints_of(folder: Path) -> list[int]:
    """Read every checkpoint in a folder, as an error if one cannot be; return their steps."""
    paths = sorted((folder / "run").glob("step-*"))
    return [read_state(path)["trainer"]["steps_done"] for path in paths]


def killed(arguments: argparse.Namespace, folder: Path, moments: list[int]) -> list[dict[str, Any]]:
    """Start a training again and again, each time to be killed; return what each death left.

    A moment is a step: the process is killed a random fraction of a second after a checkpoint of
    that step or a later one is in place, which it has written itself.
    """
    deaths: list[dict[str, Any]] = []
    seen: set[str] = set()
    for step in moments:
        least = max(step, 1 + max(in_place(folder), default=0))
        process = started(arguments, folder)
        while process.poll() is None and max(in_place(folder), default=0) < least:
            time.sleep(0.002)
        time.sleep(random.uniform(0, arguments.within_s))
        if process.poll() is not None:
            raise RuntimeError(f"the training ended with {process.returncode} before it was killed")
        process.send_signal(signal.SIGKILL)
        process.wait()
        left = {path.name for path in (folder / "run").glob(".*")}
        half = sorted(left - seen)  # what a save was in the middle of
        death = {"moment": step, "checkpoints": checkpoints_of(folder), "unfinished": half}
        deaths.append(death)
        seen |= left
        print(death, flush=True)
    return deaths


def in_place(folder: Path) -> list[int]:
    """List the steps of the checkpoints in a folder, without reading them."""
    return [int(path.stem.removeprefix("step-")) for path in (folder / "run").glob("step-*")]


def compare(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train twice, once left alone and once killed, and compare."""
    for name in ("alone", "killed"):
        (folder / name).mkdir()
    begun = time.perf_counter()
    alone = finished(started(arguments, folder / "alone"), folder / "alone")
    seconds_alone = time.perf_counter() - begun
    drawn = random.Random(arguments.seed)
    random.seed(arguments.seed)
    latest = int(0.9 * alone["steps"])  # so that it does not end before it is killed
    moments = sorted(drawn.sample(range(1, latest), arguments.kills))
    deaths = killed(arguments, folder / "killed", moments)
    last = finished(started(arguments, folder / "killed"), folder / "killed")
    left = [path.name for path in (folder / "killed" / "run").iterdir()]
    return {
        "steps": alone["steps"],
        "deaths": deaths,
        "died_within_a_save": sum(bool(death["unfinished"]) for death in deaths),
        "files_at_the_end": sorted(left),
        "weights_alone": alone["weights"],
        "weights_killed": last["weights"],
        "weights_are_equal": alone["weights"] == last["weights"],
        "records_are_equal": alone["records"] == last["records"],
        "last_record": alone["records"][-1],
        "seconds_alone": round(seconds_alone, 1),
    }


def main() -> None:
    """Train in a given folder, or run the whole comparison and write what came out."""
    arguments = _arguments()
    if arguments.folder is not None:
        train(arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        found = compare(arguments, Path(folder))
    source = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    facts = {
        "command": " ".join(["python benchmarks/kill_and_resume.py", *map(_plain, sys.argv[1:])]),
        "script_sha256": source,
        "images": arguments.images,
        "epochs": EPOCHS,
        "batch_size": BATCH_SIZE,
        "seed": arguments.seed,
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "captum_masking": captum_masking.__version__,
        },
    }
    arguments.json.write_text(json.dumps(facts | found, indent=1) + "\n")
    print(f"weights are equal: {found['weights_are_equal']}")
    print(f"records are equal: {found['records_are_equal']}")
    sys.exit(not (found["weights_are_equal"] and found["records_are_equal"]))


def _plain(word: str) -> str:
    """Keep the folders of this machine out of what is published."""
    return Path(word).name if "/" in word else word


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="CSV of images; default: digits on textures")
    parser.add_argument("--images", type=int, default=1000, metavar="N")
    parser.add_argument("--every", type=int, default=2, metavar="STEPS", help="between checkpoints")
    parser.add_argument("--kills", type=int, default=10, metavar="N")
    parser.add_argument("--within-s", type=float, default=0.3, metavar="S")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="loader processes")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments")
    parser.add_argument("--json", type=Path, default=Path("kill_and_resume.json"))
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
