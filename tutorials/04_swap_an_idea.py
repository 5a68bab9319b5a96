"""Swap an idea
============

For readers who want to know which parts of the method matter: you will train one masker in five
ways, each with another infill, sampler or pool. You will also write an infill of your own, in three
lines.
"""

import copy
from typing import Any

import torch
from skimage.data import coffee
from torch import Tensor
from torch.utils.data import DataLoader

from captum_masking import FineTune, MaskingModel, MaskingSaliency, MaskingTrainer, zoo
from captum_masking.data import DigitsOnTextures
from captum_masking.metrics import (
    boxes_to_pixels,
    localization_error,
    masked_in_accuracy,
    masked_out_accuracy,
)
from captum_masking.parts.infill import Blur, Mean, Noise
from captum_masking.parts.masking import mask_images
from captum_masking.parts.pool import History
from captum_masking.parts.sampler import GumbelSigmoid
from captum_masking.viz import Panel, overlay, show, to_pixels

# sphinx_gallery_thumbnail_number = 2

# %%
# What fills the removed part
# ---------------------------
#
# An *infill* is called as ``infill(inputs, hole)``, with 1 in ``hole`` where pixels are missing. It
# returns pixels shaped like the inputs. Here are three that come with the package, and one of your
# own, which mirrors the image. The photograph is masked out by the masker that ships with the
# package, and its classifier says how likely an espresso still is.


def mirrored(inputs: Tensor, hole: Tensor) -> Tensor:
    """Fill holes with what lies on the other side of the image."""
    return inputs.flip(-1)


shipped, preprocess = zoo.efficientnet_lite0()
photo = preprocess(coffee())[None]
cup = MaskingSaliency(shipped).attribute(photo)[:, :1]
infills = {"mean": Mean(), "blur": Blur(sigma_px=20), "noise": Noise(), "mirrored": mirrored}
masked_out = {name: mask_images(photo, cup, infill)[1] for name, infill in infills.items()}
row = []
for name, each in {"whole": photo, **masked_out}.items():
    with torch.no_grad():
        sure = shipped(each).softmax(1)[0, preprocess.number("espresso")]
    row.append(Panel(to_pixels(each[0], preprocess.mean, preprocess.std), f"{name}: {sure:.0%}"))
show([row])

# %%
# *Mean* leaves a hole that no photograph has. *Blur* leaves a trace of the colors. *Mirrored* fails
# here: the cup is in the middle, so its own mirror image fills the hole, and the classifier sees an
# espresso again. No infill is neutral.
#
# The classifier
# --------------
#
# Digits on textures, and a small network that was trained on such images.

torch.manual_seed(0)
data = DigitsOnTextures(1000, size=48)
loader = DataLoader(data, batch_size=16, shuffle=True, drop_last=True)
held_out = DigitsOnTextures(300, size=48, train=False, seed=1)
images, labels = next(iter(DataLoader(held_out, batch_size=300)))

classifier = zoo.small_classifier(trained=True)

with torch.no_grad():
    print(f"recognized: {(classifier(images).argmax(1) == labels).float().mean():.0%}")


def draw(image: Tensor) -> Any:
    """Return the pixels of an image ``(3, 48, 48)``."""
    return to_pixels(image, [0.5], [0.5])


# %%
# Five trainings
# --------------
#
# To swap a part, pass another object: infill and pool to the trainer, the sampler to the model.
# Everything else stays the same, including seed and images.
#
# - ``GumbelSigmoid`` draws 0 or 1 for each cell. At its published temperature of 0.1 the gradients
#   are too steep for such a short training, and at 1 masks still collapsed to nothing in one run of
#   two; so 2 is used here.
# - The pool chooses the judge in joint training. By default that is the current classifier or an
#   earlier one; ``History(every=None, past=1.0)`` is the classifier as it was at the start.


def trained(sampler: Any = None, train_classifier: Any = False, **parts: Any) -> Tensor:
    """Train a masker for 40 steps and return its maps of the held-out images."""
    torch.manual_seed(0)
    model = MaskingModel(copy.deepcopy(classifier), sampler=sampler)
    trainer = MaskingTrainer(model, train_classifier=train_classifier, lr=1e-2, **parts)
    trainer.fit(loader, epochs=1, steps_per_epoch=40, show_progress=False)
    return MaskingSaliency(model).attribute(images)[:, :1]


along = FineTune(lr=3e-3, masker_first=0.25, stay=0.0)
maps = {
    "as it is": trained(),
    "mirrored": trained(infill=mirrored),
    "Gumbel": trained(sampler=GumbelSigmoid(temperature=2.0)),
    "joint": trained(train_classifier=along),
    "joint, first": trained(train_classifier=along, pool=History(every=None, past=1.0)),
}
rows = []
for i in range(4):
    pixels = draw(images[i])
    overlays = [Panel(overlay(pixels, mask[i]), name) for name, mask in maps.items()]
    rows.append([Panel(pixels, f"a {labels[i]}"), *overlays])
show(rows)

# %%
# One table
# ---------
#
# The original classifier judges all five, with the mean as infill, so that you can compare them.
# That favors the maskers trained with the mean.

boxes = [boxes_to_pixels(box, 48, 48) for box in held_out.boxes]
errors = {name: float(localization_error(mask, boxes).mean()) for name, mask in maps.items()}
print(f"{'':<14}{'masked-in':>10}{'masked-out':>12}{'area':>6}{'LE':>6}")
for name, mask in maps.items():
    inside = masked_in_accuracy(classifier, images, mask, labels).mean()
    outside = masked_out_accuracy(classifier, images, mask, labels).mean()
    area = mask.mean()
    print(f"{name:<14}{inside:>10.0%}{outside:>12.0%}{area:>6.0%}{errors[name]:>6.0%}")

assert max(errors[name] for name in ("as it is", "mirrored", "Gumbel")) < 0.6

# %%
# *LE* is the localization error: the share of images in which the map's box misses the digit. All
# five maskers find it, so the method does not depend on any one of these parts. Differences of a
# few points are noise here, with one seed, 40 steps and 300 images. Look for this instead:
#
# - *mirrored* has to cover more if the mirrored digit lies near the digit itself.
# - *Gumbel* has masks of zeros and ones, which the table does not show. Look at the edges.
# - The two *joint* maps explain classifiers of their own (:doc:`03_frozen_or_joint`). In 30 steps
#   these have hardly changed, so a pool has little to choose from.
#
# **Exercise.** Write an infill that fills holes with the mean color of each image's own border. Do
# the figures improve? Then swap the regularizer: what does
# ``trained(regularizer=smooth(Area(weight_out=2)))`` of :mod:`captum_masking.parts.regularizer` do
# to the area?
#
# **Next**: :doc:`../extend` for parts of your own, with their contracts; :doc:`../settings` for
# what each choice changed on photographs; :doc:`12_add_a_method` to add a whole method.
