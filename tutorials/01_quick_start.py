"""Quick start
===========

For new users: you will draw maps of photographs with the masker that ships with the package, and
train a masker for a small classifier of handwritten digits. This takes less than half a minute on
one CPU core.
"""

import torch
from skimage.data import chelsea, coffee
from torch.utils.data import DataLoader

from captum_masking import MaskingModel, MaskingSaliency, MaskingTrainer, zoo
from captum_masking.data import DigitsOnTextures
from captum_masking.metrics import (
    boxes_to_pixels,
    centered_square,
    localization_error,
    localization_error_of_boxes,
)
from captum_masking.parts.infill import Mean
from captum_masking.parts.masking import mask_images
from captum_masking.viz import Panel, overlay, show, to_pixels

# %%
# Photographs, nothing to train
# -----------------------------
#
# EfficientNet-Lite0 is an ImageNet classifier, and the masker was trained for it. ``preprocess``
# makes its inputs from pictures, and knows the names of the classes.

model, preprocess = zoo.efficientnet_lite0()
explained = [zoo.explain(model, preprocess, picture()) for picture in (coffee, chelsea)]


show([each.panels for each in explained], width=2.2)

# %%
# *Masked-in* shows only the evidence, with the mean color elsewhere; *masked-out* is the opposite.
# With a good map, the class is recognized in the first and not in the second. For the cup, both
# hold. The cat is still recognized masked-out, by its stripes.
#
# Your own data and classifier
# ----------------------------
#
# Here digits on textures are your data, and a small CNN is your classifier. It was trained with
# labels only; :doc:`02_own_classifier_grey` shows how. We know where each digit is, but the
# training does not use it.

torch.manual_seed(0)
classifier = zoo.small_classifier(trained=True)
data = DigitsOnTextures(2000, size=48)
loader = DataLoader(data, batch_size=16, shuffle=True, drop_last=True)

# %%
# Train its masker
# ----------------
#
# The masker reads the classifier's feature maps. ``train_classifier=False`` keeps the classifier
# bit-identical. Sixty steps are enough for a first result.

model = MaskingModel(classifier)
trainer = MaskingTrainer(model, train_classifier=False, lr=1e-2)
records = trainer.fit(loader, epochs=1, steps_per_epoch=60, show_progress=False)

# %%
# The maps of new images
# ----------------------
#
# :class:`~captum_masking.MaskingSaliency` is a Captum ``Attribution``. It takes images and returns
# attributions of the same shape, in one forward pass.

held_out = DigitsOnTextures(300, size=48, train=False, seed=1)
images, labels = next(iter(DataLoader(held_out, batch_size=300)))
attribution = MaskingSaliency(model).attribute(images)
mask = attribution[:, :1]  # the same for each channel
masked_in, masked_out = mask_images(images, mask, Mean())

with torch.no_grad():
    seen = [classifier(x).argmax(1) for x in (images, masked_in, masked_out)]

whole, inside, outside = (
    [to_pixels(image, [0.5], [0.5]) for image in x[:6]] for x in (images, masked_in, masked_out)
)
show(
    [
        [Panel(whole[i], f"a {labels[i]}, seen as {seen[0][i]}") for i in range(6)],
        [Panel(overlay(whole[i], mask[i]), "evidence") for i in range(6)],
        [Panel(inside[i], f"masked-in: {seen[1][i]}") for i in range(6)],
        [Panel(outside[i], f"masked-out: {seen[2][i]}") for i in range(6)],
    ]
)

# %%
# These are the first six images, not chosen.
#
# Is it any good?
# ---------------
#
# How often is the digit recognized, in 300 images that were not trained on?

for name, answers in zip(("whole", "masked-in", "masked-out"), seen, strict=True):
    print(f"{name:<11}{(answers == labels).float().mean():.0%}")
print(f"area       {mask.mean():.0%}")

# %%
# Masked-in should be close to the whole image, masked-out close to the 10 % of guessing, and the
# area small. Look at all three together, since each is trivial to optimize on its own.
#
# Does the map find the digit? *Localization error* is the share of images in which the box around
# the map's largest part overlaps the digit's box by at most half (IoU). A method must at least beat
# a square in the middle, which ignores the image.

boxes = [boxes_to_pixels(box, 48, 48) for box in held_out.boxes]
error = localization_error(mask, boxes).mean()
of_a_square = localization_error_of_boxes(centered_square(48, 48), boxes).mean()
print(f"localization error: {error:.0%}, of a square in the middle: {of_a_square:.0%}")

assert error < of_a_square - 0.2

# %%
# This is weakly supervised localization: the training used no box. It was one seed and a short
# training; ``make demo`` trains longer.
#
# Save it
# -------
#
# .. code-block:: python
#
#    model.save("my-model")
#    model = MaskingModel.load("my-model", classifier)
#
# **Exercise.** Train for two more epochs. Which of the four numbers change, and in which direction?
# Then find an image that is still recognized masked-out, and look at what the mask left out.
#
# **Next**: :doc:`02_own_classifier_grey` for your own classifier and data; :doc:`../quick-start`
# for a folder of photographs, also from the shell; :doc:`../metrics` for how to read the numbers.
