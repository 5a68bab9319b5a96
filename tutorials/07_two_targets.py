"""Two classes in one image
========================

For users who ask about several classes: you will draw one map for the cat on the left, one for the
cup on the right, and a nearly empty one for a class that is not there. First with the model that
comes with the package, then with a masker of your own that is extended afterwards.
"""

import torch
from captum.attr import LayerAttribution, LayerGradCam
from skimage.data import chelsea, coffee
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad
from torch.utils.data import DataLoader, TensorDataset

from captum_masking import MaskingModel, MaskingSaliency, MaskingTrainer, zoo
from captum_masking.metrics import grid_pointing
from captum_masking.training.classifier import train_alone
from captum_masking.training.gate import gated, train_gate
from captum_masking.viz import Panel, overlay, show, to_pixels

# %%
# A cat and a cup
# ---------------
#
# This is EfficientNet-Lite0 with the masker that ships with the package. Two photographs side by
# side make one picture of two classes.

model, preprocess = zoo.efficientnet_lite0()
both = torch.cat([preprocess(photo()) for photo in (chelsea, coffee)], dim=2)
pixels = to_pixels(both, preprocess.mean, preprocess.std)


names = ["Egyptian cat", "espresso", "tabby", "cup", "golden retriever"]
targets = torch.tensor([[preprocess.number(name) for name in names]])
maps = MaskingSaliency(model).attribute_targets(both[None], targets)[0, :, :1]
panels = [Panel(overlay(pixels, each), name) for name, each in zip(names, maps, strict=True)]
show([[Panel(pixels, "the picture"), panels[0], panels[1]], panels[2:]], width=2.7)

# %%
# ``attribute_targets`` asks for several classes in one forward pass; ``attribute`` asks for one.
# Where does each map lie?

for name, each in zip(names, maps, strict=True):
    left = each[..., : each.shape[-1] // 2].sum() / each.sum()
    print(f"{name:<18}area {each.mean():>5.1%}, {left:>4.0%} of it on the left")

# %%
# The map of the cat lies on the cat, that of the espresso on the cup. *Tabby* is not wrong either:
# the classifier finds it likely for this cat, and the map shows the evidence. For the dog the map
# is nearly empty. The masker was trained on photographs with labels, without boxes.

# %%
# Your own classifier
# -------------------
#
# The pictures show one digit each, in noise. The small classifier has never seen two digits.

torch.manual_seed(0)
source = load_digits()
labels = torch.tensor(source.target)
digits = interpolate(torch.tensor(source.images).float()[:, None] / 16, (16, 16), mode="bicubic")


def scenes(ink: Tensor) -> Tensor:
    """Put each digit ``(1, 16, 16)`` somewhere into a picture ``(1, 32, 32)``."""
    moves = torch.randint(0, 17, (len(ink), 2)).tolist()
    frames = pad(ink.clamp(0, 1), (0, 16, 0, 16))
    moved = torch.stack([x.roll(move, (1, 2)) for x, move in zip(frames, moves, strict=True)])
    return (torch.maximum(0.6 * torch.rand_like(moved), moved) - 0.35) / 0.25


def block(before: int, after: int, stride: int) -> nn.Sequential:
    """Make a convolution with batch norm."""
    convolution = nn.Conv2d(before, after, 3, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU())


train_set = TensorDataset(scenes(digits[:1350].repeat(2, 1, 1, 1)), labels[:1350].repeat(2))
loader = DataLoader(train_set, batch_size=64, shuffle=True, drop_last=True)
classifier = nn.Sequential(
    *(block(1, 16, 2), block(16, 32, 1), block(32, 64, 2), block(64, 64, 1)),
    *(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
)
train_alone(classifier, loader, epochs=3, lr=4e-3)
alone, classes = scenes(digits[1350:]), labels[1350:]
with torch.no_grad():
    recognized = classifier(alone).argmax(1) == classes
print(f"recognized: {recognized.float().mean():.0%} of {len(classes)} digits not trained on")

# %%
# A masker, and then a gate for it
# --------------------------------
#
# This classifier takes the maximum of its last map, so by default its masker has one map for all
# classes. :func:`~captum_masking.training.gate.gated` adds a gate, which reads the classifier's
# evidence for the class you ask for. The gate learns from mosaics of the same pictures, in which it
# is known where each class is. Classifier and masker do not change. (To train both at once, use
# ``MaskingModel(classifier, target_aware=True)``. It is the default if the classifier pools the
# mean.)

untold = MaskingModel(classifier)
MaskingTrainer(untold, train_classifier=False, lr=3e-3).fit(loader, epochs=1, show_progress=False)
aware = gated(untold)
losses = train_gate(aware, loader, epochs=2, show_progress=False)
print("the gate's loss, epoch by epoch:", ", ".join(f"{loss:.2f}" for loss in losses))

# %%
# For the test, we put two held-out digits side by side. We keep pairs of different classes, both
# recognized when alone: if the classifier sees nothing, there is nothing to find.

alone, classes = alone[recognized], classes[recognized]
order = torch.randperm(len(alone) // 2 * 2).view(2, -1)
order = order[:, classes[order[0]] != classes[order[1]]]
pairs = torch.cat([alone[order[0]], alone[order[1]]], dim=3)
left, right = classes[order[0]], classes[order[1]]

with torch.no_grad():  # the likeliest digit of those that are not there: the hardest question
    logits = classifier(pairs).scatter(1, torch.stack([left, right], dim=1), -torch.inf)
absent = logits.argmax(1)
saliency = MaskingSaliency(aware)
found = saliency.attribute_targets(pairs, torch.stack([left, right, absent], dim=1))[:, :, :1]
plain = MaskingSaliency(untold).attribute(pairs)


def row(index: int) -> list[Panel]:
    """Draw a pair and its maps."""
    picture = to_pixels(pairs[index], [0.35], [0.25])
    asked = [f"for {each[index]}" for each in (left, right, absent)]
    told = [Panel(overlay(picture, found[index, k]), title) for k, title in enumerate(asked)]
    return [Panel(overlay(picture, plain[index]), "told nothing"), *told]


show([row(index) for index in range(4)])

# %%
# The last column asks for a digit that is not there: the one that the classifier finds likeliest.
# Some of these maps are faint but not empty: the gate opens where the classifier sees evidence, and
# this classifier has never seen two digits at once.
#
# How much of a map's weight lies on the half that was asked for? For comparison: Grad-CAM of the
# classifier's last block, which also explains one class and needs no training.

cam = LayerGradCam(classifier, classifier[3])


def grad_cam(target: Tensor) -> Tensor:
    """Return Grad-CAM's map of each pair, ``(B, 1, 32, 64)``, positive part."""
    coarse = cam.attribute(pairs, target=target, relu_attributions=True)
    return LayerAttribution.interpolate(coarse.detach(), pairs.shape[2:], "bilinear")


first, second = (torch.full_like(left, cell) for cell in (0, 1))
for name, of_left, of_right in (
    ("target-aware masker", found[:, 0], found[:, 1]),
    ("Grad-CAM", grad_cam(left), grad_cam(right)),
    ("masker told nothing", plain, plain),
):
    score = grid_pointing(of_left, first, 1, 2) + grid_pointing(of_right, second, 1, 2)
    print(f"{name:<20}{score.mean() / 2:>5.0%} on the half that was asked for")

area = found.mean((0, 2, 3, 4))
print(f"area for a digit that is there {area[:2].mean():.1%}, for one that is not {area[2]:.1%}")

assert grid_pointing(found[:, 0], first, 1, 2).mean() > 0.8
assert grid_pointing(found[:, 1], second, 1, 2).mean() > 0.8

# %%
# A map that ignores the target gets half of the weight. Grad-CAM follows the target, but its coarse
# map spreads over both halves. The masker is best here; on photographs that were shrunk to fit a
# mosaic it is not, see :doc:`../targets`. The map of an absent digit is small but not empty if the
# classifier sees evidence for it.
#
# **Exercise.** Ask for each of the ten digits with ``attribute_targets``. How often do the two
# largest maps name the two digits that are there, and how often do the two largest logits?
#
# **Next**: :doc:`../targets` says how the gate is told the class, and what was measured on
# photographs; :doc:`10_is_it_faithful` shows the test that a masker with one map for all classes
# fails; :ref:`no-training` has maps for a target without any training.
