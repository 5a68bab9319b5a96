"""Train on a cluster
==================

For users of a cluster: you will write a training script that a scheduler can kill at any moment
and start again, in one process or in several. You will kill it, start it again, and compare the
weights bit by bit.
"""

import copy
import importlib.util
import multiprocessing
import os
import tempfile
import warnings
from pathlib import Path
from types import ModuleType

import matplotlib.pyplot as plt
import torch
from accelerate import debug_launcher
from skimage.data import coffee
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy, pad

from captum_masking import MaskingModel, zoo
from captum_masking.model.files import fingerprint
from captum_masking.training.checkpoint import Checkpoints
from captum_masking.viz import show

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a process that has started a GPU cannot be copied
temporary = tempfile.TemporaryDirectory()  # removed in the end
FOLDER = Path(temporary.name)

# sphinx_gallery_thumbnail_number = 2

# %%
# Why a cluster
# -------------
#
# The masker that ships with the package took 1,242 steps on photographs, more than an hour on one
# CPU core. Longer trainings outlast the time that a scheduler gives them.

show([zoo.explain(*zoo.efficientnet_lite0(), coffee()).panels], width=2.2)

# %%
# A classifier to explain
# -----------------------
#
# The data are digits of scikit-learn in a dark frame. The classifier is a small network, trained in
# the usual way. Both are saved to files, as yours will be.

torch.manual_seed(0)
source = load_digits()
images = pad(torch.tensor(source.images[:1280]).float()[:, None], (4, 4, 4, 4)) / 8 - 1
labels = torch.tensor(source.target[:1280])


def block(before: int, after: int, stride: int) -> nn.Sequential:
    """Make a convolution with batch norm."""
    convolution = nn.Conv2d(before, after, 3, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU())


classifier = nn.Sequential(
    *(block(1, 16, 2), block(16, 32, 2), block(32, 64, 1)),
    *(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
)
optimizer = torch.optim.AdamW(classifier.parameters(), lr=3e-3)
for _ in range(100):
    batch = torch.randint(len(images), (64,))
    moved = images[batch].roll(torch.randint(-4, 5, (2,)).tolist(), (2, 3))
    optimizer.zero_grad()
    cross_entropy(classifier(moved), labels[batch]).backward()
    optimizer.step()
torch.save(classifier.eval(), FOLDER / "classifier.pt")
torch.save((images, labels), FOLDER / "digits.pt")

# %%
# The script
# ----------
#
# This is an ordinary joint training with two additions. ``Checkpoints`` and ``resume`` name the
# same folder, so the same script starts a training and continues it. The ``Accelerator`` handles
# several processes and devices.
#
# The test is hard on purpose: images are moved at random each time they are read, and judges are
# drawn from a pool of past classifiers.
#
# ``Diary`` writes the loss of each step to a file. It also plays the scheduler: at a given step it
# kills its own process with SIGKILL, which no program can catch.

SCRIPT = """
import os, signal, sys, warnings
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Dataset

from captum_masking import MaskingModel, MaskingTrainer
from captum_masking.training.callbacks import Callback
from captum_masking.training.checkpoint import Checkpoints

HERE = Path(__file__).parent


class Moved(Dataset):
    def __init__(self):
        self.images, self.labels = torch.load(HERE / "digits.pt")

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        by = torch.randint(-4, 5, (2,)).tolist()
        return self.images[index].roll(by, (1, 2)), int(self.labels[index])


class Diary(Callback):
    def __init__(self, file, die_at):
        self.file, self.die_at = file, die_at

    def on_step(self, trainer, record):
        if trainer.is_main:
            with self.file.open("a") as lines:
                lines.write(f"{trainer.steps_done} {record['loss']}\\n")
        if trainer.steps_done == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)


def train(folder, die_at=None):
    folder.mkdir(exist_ok=True)
    torch.set_num_threads(1)  # with several, sums differ in their last bits
    torch.manual_seed(0)
    trainer = MaskingTrainer(
        MaskingModel(torch.load(HERE / "classifier.pt", weights_only=False)),
        accelerator=Accelerator(cpu=True),  # on GPUs: Accelerator(mixed_precision="bf16")
    )
    trainer.fit(
        DataLoader(Moved(), batch_size=64, shuffle=True),
        epochs=4,
        callbacks=[
            Diary(folder / "diary.txt", die_at),
            Checkpoints(folder / "checkpoints", every=15),
        ],
        resume=folder / "checkpoints",
        show_progress=False,
    )
    if trainer.is_main:
        trainer.model.save(folder / "model")


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message=".*holds no checkpoint yet")
    train(Path(sys.argv[1]), *map(int, sys.argv[2:]))
"""
_ = (FOLDER / "train.py").write_text(SCRIPT)

# %%
# Kill it, and start it again
# ---------------------------
#
# The first run is killed after step 55, in the third of four epochs of 20 steps. It runs in a copy
# of this process, which starts faster; ``python train.py killed 55`` does the same.


def imported(file: Path) -> ModuleType:
    """Import a script."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*arguments: Path | int) -> int:
    """Train in a process of its own; return its exit status."""
    process = multiprocessing.get_context("fork").Process(target=script.train, args=arguments)
    process.start()
    process.join()
    return process.exitcode


warnings.filterwarnings("ignore", message=".*holds no checkpoint yet")
script = imported(FOLDER / "train.py")
killed = FOLDER / "killed"
status = run(killed, 55)
saved = Checkpoints(killed / "checkpoints").steps()
print(f"exit status {status}; checkpoints of the steps {saved}")

# %%
# Exit status -9 means SIGKILL. A checkpoint is written at the end of each epoch and every 15 steps;
# the last three are kept. The steps after the newest one are lost, and will be repeated. Now start
# the same script again with the same folder. For comparison, train once more in another folder,
# without an interruption.

alone = FOLDER / "alone"
run(killed)
run(alone)

# %%
# This picture shows both diaries:


def diary(folder: Path) -> tuple[list[int], list[float]]:
    """Read the steps and losses that a training wrote down."""
    lines = [line.split() for line in (folder / "diary.txt").read_text().splitlines()]
    return [int(step) for step, _ in lines], [float(loss) for _, loss in lines]


steps, losses = diary(killed)
again = steps.index(55) + 1
_, axes = plt.subplots(figsize=(7, 3), layout="constrained")
axes.plot(*diary(alone), color="0.8", linewidth=6, label="left alone")
axes.plot(steps[:again], losses[:again], label="killed after step 55")
axes.plot(steps[again:], losses[again:], "--", label=f"started again, from step {steps[again]}")
axes.axvline(55, color="black", linewidth=0.8)
axes.set(xlabel="step", ylabel="the masker's loss")
_ = axes.legend(frameon=False, loc="lower left")

# %%
# The two curves are the same, also after half of the steps, where the classifier begins to learn
# too. Are the weights of classifier and masker the same?


def model_of(folder: Path) -> nn.Module:
    """Load what a training saved."""
    return MaskingModel.load(folder / "model", copy.deepcopy(classifier))


for folder in (alone, killed):
    print(f"{folder.name:<7}{fingerprint(model_of(folder))[:32]}")

assert status == -9
assert fingerprint(model_of(alone)) == fingerprint(model_of(killed))

# %%
# The hashes are the same, so all weights are the same, bit by bit. This would fail if optimizers,
# pool or random numbers had not been restored.
#
# In two processes
# ----------------
#
# A launcher runs the same script. The batch of 64 is the *global* one: each process takes 32.
#
# .. code-block:: console
#
#    $ torchrun --standalone --nproc-per-node 2 train.py two
#
# This page uses accelerate's launcher for tests, whose processes are copies of this one.

two = FOLDER / "two"
debug_launcher(script.train, (two,), num_processes=2)

one, other = model_of(alone).state_dict(), model_of(two).state_dict()
apart = max(float((one[name] - other[name]).abs().max()) for name in one)
print(f"weights differ by at most {apart:.1e}")

assert apart < 1e-3

# %%
# Here the bits differ, since sums are taken in another order and training amplifies rounding. The
# images, their moves and the judges are the same. At this size, two processes on one machine are no
# faster than one; :doc:`../training` has measured figures and limits.
#
# On a real cluster
# -----------------
#
# .. code-block:: console
#
#    $ torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint $HOST:29500 \
#          train.py /shared/run
#    $ accelerate launch --multi_gpu --num_processes 8 train.py /shared/run
#
# The folder must be one that all machines see. If the scheduler sends SIGTERM before it kills,
# nothing is lost: the step is finished, a checkpoint is written, and the process ends.
# ``captum-masking train`` takes the same launchers, with ``--checkpoints`` and ``--resume``.
#
# **Exercise.** Kill the training while a checkpoint is being written: set ``every=1``, start
# ``train.py`` by hand, and send ``kill -9`` until it happens (a hidden file is left behind). What
# does the next start do?
#
# **Next**: :doc:`../training` on precision, accumulation and the state to keep; :ref:`resume` on
# what else can go wrong; :doc:`../commands`.
