"""Ten images a class
==================

For users with few images: you will measure what a masker loses when it learns from ten images of
each class, or from one, instead of two hundred. The classifier is trained already; only the masker
has few images.
"""

import torch
from skimage.data import coffee
from torch.utils.data import DataLoader, Dataset, RandomSampler

from captum_masking import MaskingModel, MaskingSaliency, MaskingTrainer, zoo
from captum_masking.data import DigitsOnTextures, few_shot
from captum_masking.metrics import (
    boxes_to_pixels,
    localization_error,
    mask_iou,
    masked_in_accuracy,
    masked_out_accuracy,
)
from captum_masking.viz import Panel, overlay, show, to_pixels
from captum_masking.zoo import small_classifier

# sphinx_gallery_thumbnail_number = 3

# %%
# Fewer than seven images a class
# -------------------------------
#
# The masker that ships with the package was trained on 6,631 photographs, fewer than seven for each
# of its classifier's thousand classes. How far do fewer go?

show([zoo.explain(*zoo.efficientnet_lite0(), coffee()).panels], width=2.2)

# %%
# The classifier
# --------------
#
# The data are digits on textures, about two hundred of each class. The classifier is a small
# network that was trained on them and on many more.

data = DigitsOnTextures(2000, size=48)
held_out = DigitsOnTextures(300, size=48, train=False, seed=1)
images, labels = next(iter(DataLoader(held_out, batch_size=300)))

classifier = small_classifier(trained=True)

with torch.no_grad():
    print(f"recognized: {(classifier(images).argmax(1) == labels).float().mean():.0%}")

# %%
# All the images that one masker will see
# ---------------------------------------
#
# :func:`~captum_masking.data.few_shot` chooses the same number of each class. The same seed gives
# the same images, and the choice of one is part of the choice of ten.


one_each = few_shot(data, per_class=1)
panels = [Panel(to_pixels(image, [0.5], [0.5]), str(label)) for image, label in one_each]
show([panels], width=0.9)

# %%
# The same number of steps for all
# --------------------------------
#
# A masker needs steps more than images, so each training has 50 steps of 16 images. With ten images
# per class, each image is then used about eight times. To see how much depends on the choice, the
# few images are chosen with two seeds.


def explained(chosen: Dataset) -> torch.Tensor:
    """Train a masker on the images chosen; return its maps of the held-out images."""
    torch.manual_seed(0)
    model = MaskingModel(classifier)
    draws = RandomSampler(chosen, replacement=True, num_samples=50 * 16)
    trainer = MaskingTrainer(model, train_classifier=False, lr=1e-2)
    trainer.fit(DataLoader(chosen, batch_size=16, sampler=draws), epochs=1, show_progress=False)
    return MaskingSaliency(model).attribute(images)[:, :1]


maps = {
    "1 a class": explained(one_each),
    "1, others": explained(few_shot(data, per_class=1, seed=1)),
    "10 a class": explained(few_shot(data, per_class=10)),
    "10, others": explained(few_shot(data, per_class=10, seed=1)),
    "all": explained(data),
}

rows = []
for i in range(4):
    pixels = to_pixels(images[i], [0.5], [0.5])
    overlays = [Panel(overlay(pixels, mask[i]), name) for name, mask in maps.items()]
    rows.append([Panel(pixels, f"a {labels[i]}"), *overlays])
show(rows, width=1.6)

# %%
# What few images cost
# --------------------
#
# *LE* is the localization error, the share of images in which the map's box misses the digit; *IoU*
# is the overlap with the digit's pixels.

boxes = [boxes_to_pixels(box, 48, 48) for box in held_out.boxes]
errors = {name: float(localization_error(mask, boxes).mean()) for name, mask in maps.items()}
print(f"{'':<12}{'masked-in':>10}{'masked-out':>12}{'area':>6}{'LE':>6}{'IoU':>6}")
for name, mask in maps.items():
    inside = masked_in_accuracy(classifier, images, mask, labels).mean()
    outside = masked_out_accuracy(classifier, images, mask, labels).mean()
    iou = mask_iou(mask, held_out.masks).mean()
    print(
        f"{name:<12}{inside:>10.0%}{outside:>12.0%}{mask.mean():>6.0%}{errors[name]:>6.0%}{iou:>6.2f}"
    )

assert errors["10 a class"] < 0.35 and errors["10, others"] < 0.35

# %%
# Ten images per class are nearly as good as all of them: the difference is about as large as
# between the two choices of ten. With one image per class, masks become smaller, fewer images are
# recognized masked-in and more masked-out, and the two choices differ more.
#
# Few images are enough because the masker has no image encoder. It reads the features of the
# classifier, which has seen thousands of images, and only learns which of them to keep. A longer
# study on photographs, with intervals: :ref:`the-study`.
#
# Two limits: the classifier was trained on these images too, as is usual. And in *joint* training
# few images cost more, since the classifier memorizes them.
#
# **Exercise.** At which number do the figures get worse? Try 2, 3 and 5 images a class, with three
# seeds each. Then leave out the classes 5 to 9, with ``few_shot(data, 10, classes=range(5))``. Does
# the masker find digits of classes that it has never seen?
#
# **Next**: :doc:`../own-data` for few images and classes of different size; :doc:`../settings`;
# :doc:`06_compare_with_captum` for methods that need no training at all.
