"""What does a detector look at?
=============================

For users of object detectors: you will train a small torchvision detector on made pictures, and
draw masks of the pixels that one of its boxes rests on. They reveal a shortcut that the detector
has learned.
"""

import warnings

import torch
from skimage.data import coffee
from torch import Tensor, nn
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator

from captum_masking import MaskingSaliency, zoo
from captum_masking.methods import ExtremalPerturbation
from captum_masking.methods.targets import BoxScores
from captum_masking.metrics import energy_pointing
from captum_masking.parts.infill import Mean
from captum_masking.parts.regularizer import UngatedArea
from captum_masking.saliency.per_input import PerInput
from captum_masking.viz import Panel, overlay, show, to_pixels

# sphinx_gallery_thumbnail_number = 2

# %%
# A class, or a box
# -----------------
#
# The masker that ships with the package explains a classifier, which gives one answer for the whole
# photograph. A detector gives many, one for each box. So the question has to name a box.

show([zoo.explain(*zoo.efficientnet_lite0(), coffee()).panels], width=2.2)

# %%
# Pictures
# --------
#
# The pictures show squares (label 1) and rings (label 2) on noise. Below each ring is a small
# bright bar that is not part of it, like a rail below every train.

SIDE = 48


def scene(kinds: list[int], columns: list[int]) -> tuple[Tensor, dict[str, Tensor], list[Tensor]]:
    """Draw things side by side; return the picture, boxes and labels, and the pixels of bars."""
    picture, bar = 0.1 * torch.randn(1, SIDE, SIDE), torch.zeros(SIDE, SIDE)
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    boxes = []
    for kind, left in zip(kinds, columns, strict=True):
        top = int(torch.randint(4, 20, ()))
        boxes.append([left, top, left + 14, top + 14])
        far = torch.maximum((x - left - 6.5).abs(), (y - top - 6.5).abs())
        apart = ((x - left - 6.5) ** 2 + (y - top - 6.5) ** 2).sqrt()
        thing = far < 7 if kind == 1 else (apart < 7) & (apart > 4)
        picture[0][thing] += 1
        if kind == 2:
            here = (y >= top + 17) & (y < top + 20) & (x >= left + 2) & (x < left + 12)
            picture[0][here], bar[here] = 2.0, 1.0
    found = {"boxes": torch.tensor(boxes, dtype=torch.float32), "labels": torch.tensor(kinds)}
    return picture, found, bar


def batch(count: int) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Draw pictures with two things each."""
    drawn = [
        scene(torch.randint(1, 3, (2,)).tolist(), [2 + int(torch.randint(7, ())), 29])
        for _ in range(count)
    ]
    return [d[0] for d in drawn], [d[1] for d in drawn]


# %%
# A detector
# ----------
#
# This is torchvision's FCOS on four convolutions; a short training is enough here. It keeps
# detections with a low score too (``score_thresh``): a detection that drops out of the list gives
# the mask no gradient.

torch.manual_seed(0)
backbone = nn.Sequential()
for before, after, stride in ((1, 16, 2), (16, 24, 2), (24, 32, 1), (32, 32, 1)):
    backbone += nn.Sequential(
        nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()
    )
backbone.out_channels = 32
detector = FCOS(
    backbone,
    num_classes=3,
    anchor_generator=AnchorGenerator(((8,),), ((1.0,),)),
    min_size=SIDE,
    max_size=SIDE,
    image_mean=[0.0],
    image_std=[1.0],
    score_thresh=0.01,
)
optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-3)
for _step in range(120):
    losses = detector(*batch(8))
    optimizer.zero_grad()
    sum(losses.values()).backward()
    optimizer.step()
detector.eval()

# %%
# It finds this in a picture with a square and a ring, best first:

image, truth, bar = scene([1, 2], [5, 29])
inputs = image[None]
with torch.no_grad():
    found = detector(inputs)[0]
for label, score, box in list(zip(found["labels"], found["scores"], found["boxes"], strict=True))[
    :4
]:
    print(f"label {int(label)}, score {float(score):.2f}, box {[round(v) for v in box.tolist()]}")

# %%
# One score to explain
# --------------------
#
# A detector returns lists, so a class does not name one score. Pass a function as ``target``, which
# makes one score for each example from the detector's output. ``BoxScores`` is the score times the
# overlap of the detection that matches a given box best.

square, ring = (BoxScores([truth["boxes"][[i]]], [truth["labels"][[i]]]) for i in range(2))
with torch.no_grad():
    print(f"square {float(square(detector(inputs))):.2f}, ring {float(ring(detector(inputs))):.2f}")

# %%
# Masks for a box
# ---------------
#
# We use two methods: a mask optimized for each input, which chooses its own size, and an extremal
# perturbation of 9 % of the picture, the size of a box. Any method of ``captum_masking.methods``
# takes such a target.

warnings.filterwarnings("ignore", message=".*has no masker")
how = PerInput(grid=12, steps=40, regularizer=UngatedArea())
per_input = MaskingSaliency(detector, per_input=how)
# A box scores 1 at most, a tenth of what logits reach: the weight of the area follows.
extremal = ExtremalPerturbation(detector, areas=0.09, infill=Mean(), steps=80, lr=0.1, weight=30.0)
maps = {
    (name, way): method.attribute(inputs, target=target)
    for name, target in (("square", square), ("ring", ring))
    for way, method in (("per input", per_input), ("extremal", extremal))
}
pixels = to_pixels(image, [60.0], [90.0])
show(
    [
        [
            Panel(pixels, "picture"),
            *(Panel(overlay(pixels, m[0]), " ".join(n)) for n, m in maps.items()),
        ]
    ]
)

# %%
# How much of each mask lies in the box, and how much on the bar below the ring?

boxes = {"square": truth["boxes"][:1], "ring": truth["boxes"][1:]}
print(f"{'':<20}{'in the box':>12}{'on the bar':>12}")
for (name, way), mask in maps.items():
    in_box = float(energy_pointing(mask[:, :1], [boxes[name]]))
    on_bar = float((mask[0, 0] * bar).sum() / mask[0, 0].sum())
    print(f"{name + ', ' + way:<20}{in_box:>12.0%}{on_bar:>12.0%}")

# %%
# The masks of the square lie at its left side, in the box and beside it. Those of the ring reach
# below its box, to the bar. Is the bar evidence? Remove it and run the detector again:

without = torch.where(bar > 0, 0.0, image)[None]
with torch.no_grad():
    before, after = (float(ring(detector(x))) for x in (inputs, without))
print(f"the ring's score with the bar {before:.2f}, without {after:.2f}")
assert after < before - 0.1

# %%
# **Segmentation** works in the same way: ``RegionLogits`` averages the logits of a class over a
# region, ``target=RegionLogits(15, region)``.
#
# **Exercise.** Put the bar below squares in half of the pictures, too. Does the ring's mask still
# include it?
#
# **Next**: :doc:`../methods` has the other methods; :ref:`no-training` is about masks for each
# input; :doc:`07_two_targets` asks a classifier about two things in one picture.
