"""Your own classifier and data
============================

For everyone with a classifier of their own: you will train a masker for it, on gray-scale images,
and learn the four rules that matter when you do.
"""

import torch
from skimage.data import coffee
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from captum_masking import MaskingModel, MaskingSaliency, MaskingTrainer, zoo
from captum_masking.data import DigitsOnTextures
from captum_masking.metrics import energy_pointing
from captum_masking.parts.infill import Mean
from captum_masking.parts.masking import mask_images
from captum_masking.viz import Panel, overlay, show, to_pixels

# sphinx_gallery_thumbnail_number = 3

# %%
# What you will get
# -----------------
#
# The masker that ships with the package draws this for its own classifier, EfficientNet-Lite0. The
# rest of this page makes the same for another classifier.

show([zoo.explain(*zoo.efficientnet_lite0(), coffee()).panels], width=2.2)

# %%
# The data
# --------
#
# All you need are pixels and labels. Here they are handwritten digits on textures, turned gray: one
# channel, values in [0, 1].


def gray(digits: DigitsOnTextures) -> tuple[Tensor, Tensor]:
    """Return pixels ``(n, 1, 48, 48)`` in [0, 1] and labels ``(n,)``."""
    luma = torch.tensor([0.3, 0.59, 0.11])[:, None, None]
    return (digits.images / 255 * luma).sum(1, keepdim=True), torch.tensor(digits.labels)


pixels, labels = gray(DigitsOnTextures(3000, size=48))
held_out = DigitsOnTextures(300, size=48, train=False, seed=1)
held_out_pixels, held_out_labels = gray(held_out)


show([[Panel(pixels[i, 0].numpy(), f"a {labels[i]}") for i in range(5)]])

# %%
# Rule 1: **normalize with your own mean.** The default infill is 0. On normalized images 0 is the
# mean gray; on raw pixels it would be black, which the classifier may take for something.

mean, std = float(pixels.mean()), float(pixels.std())
inputs = (held_out_pixels - mean) / std
train_set = TensorDataset((pixels - mean) / std, labels)
loader = DataLoader(train_set, batch_size=32, shuffle=True, drop_last=True)
print(f"mean {mean:.2f}, standard deviation {std:.2f}")

# %%
# The classifier
# --------------
#
# Any module that returns logits will do.


def convolution(before: int, after: int, stride: int) -> nn.Sequential:
    """Make a convolution with batch norm."""
    layer = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(after), nn.ReLU())


class Reader(nn.Module):
    """A small network for gray-scale digits."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(convolution(1, 16, stride=2), convolution(16, 24, stride=1))
        self.coarse = nn.Sequential(convolution(24, 32, stride=2), convolution(32, 64, stride=1))
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Map ``(B, 1, H, W)`` to logits ``(B, 10)``."""
        return self.head(self.coarse(self.fine(images)).amax((2, 3)))


torch.manual_seed(0)
classifier = Reader()
optimizer = torch.optim.AdamW(classifier.parameters())
rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=4 * len(loader))
for _ in range(4):
    for images, target in loader:
        optimizer.zero_grad()
        cross_entropy(classifier(images), target).backward()
        optimizer.step()
        rates.step()

classifier.eval()
with torch.no_grad():
    accuracy = (classifier(inputs).argmax(1) == held_out_labels).float().mean()
print(f"recognized: {accuracy:.0%} of {len(inputs)} held-out images")

# %%
# Rule 2: **train the classifier first, and well.** If it does not recognize an image, there is no
# evidence to find.
#
# The masker
# ----------

model = MaskingModel(classifier)
print("the masker reads", model.layers)

# %%
# Rule 3: **look at the layers that were found.** The model ran the classifier once on zeros and
# took the deepest layer at each of two resolutions. To read other layers, pass
# ``MaskingModel(classifier, layers=[...])``. If your images are not square, pass one:
# ``example_inputs=inputs[:1]``.
#
# ``fit`` takes any loader of ``(inputs, labels)``. With ``validation``, each epoch is also measured
# on images that were not trained on. ``steps_per_epoch`` keeps this training short.

validation = DataLoader(TensorDataset(inputs, held_out_labels), batch_size=100)
trainer = MaskingTrainer(model, train_classifier=False, lr=1e-2)
records = trainer.fit(
    loader, epochs=2, steps_per_epoch=20, validation=validation, show_progress=False
)
for record in records:
    print(
        f"epoch {record['epoch']:.0f}: clean {record['val_clean']:.0%}, "
        f"masked-in {record['val_masked_in']:.0%}, masked-out {record['val_masked_out']:.0%}, "
        f"area {record['val_area']:.0%}"
    )

# %%
# Rule 4: **read these figures together.** Masked-in should be near clean, masked-out near the 10 %
# of guessing, and the area neither 0 nor 1. With one seed and 300 images, a few points mean
# nothing.
#
# The maps
# --------
#
# A map has the shape of its image, so here it has one channel.

mask = MaskingSaliency(model).attribute(inputs)
masked_in, masked_out = mask_images(inputs, mask, Mean())
with torch.no_grad():
    seen = [classifier(x).argmax(1) for x in (inputs, masked_in, masked_out)]

whole, inside, outside = (
    [to_pixels(image, [mean], [std]) for image in x[:5]] for x in (inputs, masked_in, masked_out)
)
show(
    [
        [Panel(whole[i], f"a {held_out_labels[i]}, seen as {seen[0][i]}") for i in range(5)],
        [Panel(overlay(whole[i], mask[i]), "evidence") for i in range(5)],
        [Panel(inside[i], f"masked-in: {seen[1][i]}") for i in range(5)],
        [Panel(outside[i], f"masked-out: {seen[2][i]}") for i in range(5)],
    ]
)

# %%
# Here we know which pixels belong to the digit. What share of the map's weight lies on them?

share = energy_pointing(mask, held_out.masks).mean()
print(f"on the digit: {share:.0%} of the map, and {held_out.masks.float().mean():.0%} of the image")

assert share > 0.35

# %%
# The pictures are the first ones, not chosen. If a digit is still recognized masked-out, the mask
# has left too much of it. Most of the remaining weight lies close to the digit: the mask is
# predicted on a grid of 24 x 24 cells, and the outline of a digit is finer than that.
#
# **Exercise.** Leave out the normalization: pass pixels in [0, 1]. What do the holes look like, and
# which figures get worse? Then repair it without changing the data, with
# ``MaskingTrainer(model, infill=Color([mean]), ...)`` of :mod:`captum_masking.parts.infill`.
#
# **Next**: :doc:`../own-data` for files, folders and streams; :doc:`../any-model` for other
# networks; :doc:`03_frozen_or_joint` for what ``train_classifier=False`` changes.
