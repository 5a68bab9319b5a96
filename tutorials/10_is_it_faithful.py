"""Is it faithful?
===============

For everyone who asks whether a map can be trusted: you will run four tests on a masker. Is its
evidence enough? Does its map depend on the network? Do its masks reveal the class? Does the
classifier use that? You will see where it passes, where it fails, and what each number can tell.
"""

import copy
import warnings

import torch
from captum.attr import GuidedBackprop, Saliency
from skimage.data import chelsea
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad
from torch.utils.data import DataLoader, TensorDataset

from captum_masking import MaskingModel, MaskingSaliency, MaskingTrainer, zoo
from captum_masking.metrics import (
    boxes_to_masks,
    cascading,
    layers_of,
    leakage,
    masked_in_accuracy,
    masked_out_accuracy,
    masks_to_boxes,
    randomize,
)
from captum_masking.training.classifier import train_alone
from captum_masking.viz import Panel, overlay, show, to_pixels

warnings.filterwarnings("ignore", module="captum")  # on the hooks that GuidedBackprop sets
# sphinx_gallery_thumbnail_number = 2

# %%
# Looking is not enough
# ---------------------
#
# This map of the masker that ships with the package looks right: it lies on the cat.

cat = zoo.explain(*zoo.efficientnet_lite0(), chelsea())
show([cat.panels], width=2.2)
print(cat)

# %%
# The figures say more than the picture: how sure the classifier is of the whole photograph, of the
# evidence alone, and of what is left without it. If the last is high, the rest of the cat is enough
# as well, and the map does not show all of the evidence. But this is one photograph. For tests on
# many images we take a task where the evidence is known.
#
# A classifier and its masker
# ---------------------------
#
# The data are digits of scikit-learn, enlarged to twice their size, anywhere in noise. We know
# which pixels are strokes, and use that for comparison only.

torch.manual_seed(0)
source = load_digits()
labels = torch.tensor(source.target)
digits = torch.tensor(source.images).float()[:, None] / 16
digits = interpolate(digits, (16, 16), mode="bicubic").clamp(0, 1)


def noise(count: int) -> Tensor:
    """Make pictures ``(count, 1, 32, 32)`` of nothing."""
    return 0.6 * torch.rand(count, 1, 32, 32)


def scenes(ink: Tensor) -> tuple[Tensor, Tensor]:
    """Put each digit ``(1, 16, 16)`` somewhere; return pictures and which pixels are strokes."""
    moves = torch.randint(0, 17, (len(ink), 2)).tolist()
    frames = pad(ink, (0, 16, 0, 16))
    moved = torch.stack([x.roll(move, (1, 2)) for x, move in zip(frames, moves, strict=True)])
    return torch.maximum(noise(len(ink)), moved), moved > 0.5


def normalized(pictures: Tensor) -> Tensor:
    """Bring pictures to about mean 0 and spread 1."""
    return (pictures - 0.35) / 0.25


def block(before: int, after: int, stride: int) -> nn.Sequential:
    """Make a convolution with batch norm."""
    convolution = nn.Conv2d(before, after, 3, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU())


pictures, _ = scenes(digits[:1350].repeat(2, 1, 1, 1))
train_set = TensorDataset(normalized(pictures), labels[:1350].repeat(2))
loader = DataLoader(train_set, batch_size=32, shuffle=True, drop_last=True)

classifier = nn.Sequential(
    *(block(1, 16, 2), block(16, 32, 1), block(32, 64, 2), block(64, 64, 1)),
    *(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
)
train_alone(classifier, loader, epochs=3, lr=4e-3)

model = MaskingModel(classifier)
trainer = MaskingTrainer(model, train_classifier=False, lr=5e-3)
records = trainer.fit(loader, epochs=1, steps_per_epoch=60, show_progress=False)

# %%
# The maps of digits that were not trained on, over their pictures:

pictures, strokes = scenes(digits[1350:])
inputs, target = normalized(pictures), labels[1350:]
saliency = MaskingSaliency(model)
masks = saliency.attribute(inputs)


def over(index: int, maps: Tensor, title: str) -> Panel:
    """Draw one of ``maps`` over its picture."""
    return Panel(overlay(to_pixels(pictures[index], [0], [1]), maps[index]), title)


show(
    [
        [Panel(to_pixels(pictures[i], [0], [1]), f"a {target[i]}") for i in range(5)],
        [over(i, masks, "evidence") for i in range(5)],
    ]
)

# %%
# 1. Is the evidence enough, and is the rest not?
# -----------------------------------------------
#
# *Masked-in* keeps the evidence, *masked-out* removes it. One number says little, since large masks
# keep everything. So we also apply the same masks to other pictures, where they are equally large
# but mark nothing in particular.

others = torch.randperm(len(masks))
print(f"{'masks':<22}{'area':>6}{'masked-in':>11}{'masked-out':>12}")
for name, maps in (
    ("of the picture", masks),
    ("of another picture", masks[others]),
    ("true strokes", strokes.float()),
    ("everything", torch.ones_like(masks)),
):
    inside = masked_in_accuracy(classifier, inputs, maps, target).mean()
    outside = masked_out_accuracy(classifier, inputs, maps, target).mean()
    print(f"{name:<22}{maps.mean():>6.0%}{inside:>11.0%}{outside:>12.0%}")

# %%
# The masks pass: their own picture is recognized masked-in and not masked-out; for other pictures
# it is the opposite. The true strokes are a little better.
#
# 2. Does the map depend on the network?
# --------------------------------------
#
# We randomize the weights, one layer after the other from the output down, and compare the map with
# that of the trained network. The rank correlation is 1 for the same map, and 0 for an unrelated
# one. Maps that hardly change show edges, whatever the network has learned (Adebayo et al. 2018).

some, of = inputs[:20], target[:20]
methods = {
    "MaskingSaliency": lambda: saliency.attribute(some),
    "Saliency": lambda: Saliency(classifier).attribute(some.requires_grad_(), of),
    "GuidedBackprop": lambda: GuidedBackprop(classifier).attribute(some.requires_grad_(), of).abs(),
}
layers = layers_of(model.classifier, depth=1, prefix="classifier")
found = {name: cascading(model, maps_of, layers=layers) for name, maps_of in methods.items()}


def line(title: str, layer: str, similarity: str) -> str:
    """Write one row of the table."""
    values = (found[name][layer][similarity].mean() for name in methods)
    return f"{title:<18}" + "".join(f"{value:>17.2f}" for value in values)


print(f"{'random down to':<18}" + "".join(f"{name:>17}" for name in methods))
for layer in reversed(layers):
    print(line(layer, layer, "spearman"))
print(line("the last, by SSIM", "classifier.0", "ssim"))

# %%
# Read it from the top. ``classifier.6`` is the layer that computes the logits. With random weights
# there, the masker's map does not change at all: it reads feature maps (here of ``classifier.1``
# and ``classifier.3``), never logits. So it shows where there is evidence for *some* class. That is
# a failed test, and follows from the design; :doc:`07_two_targets` has maskers that follow the
# class.
#
# Further down the map changes, but at the bottom neither figure is 0. Both compare shapes, not
# heights. A picture shows the heights, and what happens if the masker itself is random:


def with_random(part: str) -> Tensor:
    """Return the maps of a copy in which one part has random weights."""
    changed = copy.deepcopy(model)
    randomize(changed.get_submodule(part))
    return MaskingSaliency(changed).attribute(inputs)


parts = {"last layer random": "classifier.6", "classifier random": "classifier"}
parts["masker random"] = "masker"
shown = {"trained": masks} | {title: with_random(part) for title, part in parts.items()}
show([[over(i, maps, title) for title, maps in shown.items()] for i in range(2)])

# %%
# This is the mean of the maps over all pictures:

for title, maps in shown.items():
    print(f"{title:<18}{maps.mean():>6.1%}")

# %%
# With a random classifier the maps are nearly empty, and with a random masker they are faint
# everywhere. The shapes that remain are the bright strokes, which even random convolutions show.
#
# 3. Do the masks reveal the class?
# ---------------------------------
#
# A mask that is shaped like a 3 says "3" by itself, whatever is below it. The leakage audit trains
# a small reader, which sees no picture, to tell the class from the masks, and from their boxes. For
# comparison it also reads the true strokes, and a cheat: a stencil of the predicted class, always
# in the same corner.

stencils = torch.stack([digits[:1350][labels[:1350] == k].mean(0) > 0.5 for k in range(10)])
with torch.no_grad():
    predicted = classifier(inputs).argmax(1)
cheat = pad(stencils[predicted].float(), (16, 0, 16, 0))
boxes = boxes_to_masks([box[None] for box in masks_to_boxes(masks)], 32, 32).float()

read = {"learned": leakage(masks, target)}
print(read["learned"])

# %%
# The masks reveal the class, as they must: a tight outline of a digit *is* its shape. It would be
# bad if they revealed more than the true strokes do.
#
# 4. Does the classifier use the shape?
# -------------------------------------
#
# What the reader finds matters if the classifier finds it too. So we apply the masks to pure noise:
# any class that is recognized there comes from the mask's shape.

nothing = normalized(noise(len(masks)))
print(f"{'masks':<14}{'read by the auditor':>20}{'by the classifier, on noise':>29}")
for name, maps in (
    ("learned", masks),
    ("their boxes", boxes),
    ("true strokes", strokes.float()),
    ("cheat", cheat),
):
    if name not in read:
        read[name] = leakage(maps, target)
    believed = masked_in_accuracy(classifier, nothing, maps, target).mean()
    print(f"{name:<14}{read[name].accuracy:>20.0%}{believed:>29.0%}")

# %%
# The learned masks leak no more than the true strokes. On noise the classifier does little better
# than the 10 % of guessing: it uses the ink in the mask, not the outline. The auditor's reader
# tells the class from the cheat whenever the classifier is right, but a frozen classifier does not
# use the cheat either. A classifier that is trained together with its masker may learn to. So
# repeat both tests after joint training.

assert masked_in_accuracy(classifier, inputs, masks, target).mean() > 0.75
assert masked_in_accuracy(classifier, nothing, masks, target).mean() < 0.4

# %%
# No test here says that a map is *right*. Each can show that it is not.
#
# **Exercise.** Train a second classifier and masker on shuffled labels,
# ``captum_masking.metrics.shuffled_labels(train_set)``, for as long. How similar are the maps
# (``compare_maps``)? What they share does not come from the classes.
#
# **Next**: :doc:`../metrics` says how to read each figure; :doc:`../how-it-works` lists what a mask
# does not say; :doc:`../benchmark` measures many methods at once, with a report.
