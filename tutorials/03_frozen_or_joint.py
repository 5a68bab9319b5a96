"""Frozen or joint: what changes
=============================

For everyone who has to choose ``train_classifier``: you will explain one classifier in two ways,
frozen, and trained together with its masker. You will see what that changes in the maps, in the
figures, and in the classifier itself.
"""

import copy

import torch
from skimage.data import coffee
from torch import Tensor, nn
from torch.utils.data import DataLoader

from captum_masking import FineTune, MaskingModel, MaskingSaliency, MaskingTrainer, zoo
from captum_masking.data import DigitsOnTextures
from captum_masking.metrics import (
    boxes_to_pixels,
    localization_error,
    masked_in_accuracy,
    masked_out_accuracy,
)
from captum_masking.viz import Panel, overlay, show, to_pixels
from captum_masking.zoo import small_classifier

# sphinx_gallery_thumbnail_number = 2

# %%
# A frozen classifier
# -------------------
#
# The masker that ships with the package was trained frozen. Its model takes the EfficientNet-Lite0
# that you have, bit for bit; a model that was trained jointly brings a classifier of its own.

shipped, preprocess = zoo.efficientnet_lite0()
print(f"brings its own classifier: {shipped.classifier_trained}")
show([zoo.explain(shipped, preprocess, coffee()).panels], width=2.2)

# %%
# A classifier that is already good
# ---------------------------------
#
# Digits on textures, and a small network that was trained on such images.

torch.manual_seed(0)
data = DigitsOnTextures(2000, size=48)
loader = DataLoader(data, batch_size=16, shuffle=True, drop_last=True)
held_out = DigitsOnTextures(300, size=48, train=False, seed=1)
images, labels = next(iter(DataLoader(held_out, batch_size=300)))

classifier = small_classifier(trained=True)


def accuracy(network: nn.Module) -> float:
    """Return the share of held-out images that are recognized."""
    with torch.no_grad():
        return float((network.eval()(images).argmax(1) == labels).float().mean())


print(f"recognized: {accuracy(classifier):.0%}")

# %%
# Two trainings
# -------------
#
# Both take the same number of steps, each on a copy. Frozen training changes only the masker. In
# joint training the classifier also learns to recognize the masked-in image, and what is left in
# the masked-out image. By default it learns gently and late, so a short training would show
# nothing. Here it starts earlier, at a higher rate, and need not keep its old answers.


def explained(train_classifier: bool | FineTune) -> MaskingModel:
    """Train a masker for a copy of the classifier, and the copy if asked to."""
    torch.manual_seed(0)
    model = MaskingModel(copy.deepcopy(classifier))
    trainer = MaskingTrainer(model, train_classifier=train_classifier, lr=1e-2)
    trainer.fit(loader, epochs=1, steps_per_epoch=60, show_progress=False)
    return model


frozen = explained(False)
joint = explained(FineTune(lr=3e-3, masker_first=0.25, stay=0.0))
models = {"frozen": frozen, "joint": joint}
maps = {name: MaskingSaliency(model).attribute(images)[:, :1] for name, model in models.items()}


pixels = [to_pixels(image, [0.5], [0.5]) for image in images[:5]]
show(
    [[Panel(pixels[i], f"a {labels[i]}") for i in range(5)]]
    + [[Panel(overlay(pixels[i], mask[i]), name) for i in range(5)] for name, mask in maps.items()]
)

# %%
# What happened to the classifier
# -------------------------------


def same(network: nn.Module) -> bool:
    """Return whether all weights and statistics are those of the classifier."""
    pairs = zip(network.state_dict().values(), classifier.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


with torch.no_grad():
    before = classifier(images).argmax(1)
    for name, model in models.items():
        differ = (model.classifier.eval()(images).argmax(1) != before).float().mean()
        print(
            f"{name:<7} bit for bit the same: {same(model.classifier)!s:<6}"
            f"recognized: {accuracy(model.classifier):.0%}  other answers: {differ:.0%}"
        )

assert accuracy(classifier) > 0.9
assert same(frozen.classifier) and not same(joint.classifier)

# %%
# This is the main difference: the second map explains *another classifier*. That classifier may be
# better, but it is not the one that you had.
#
# Who judges the maps?
# --------------------
#
# How much is recognized masked-in and masked-out? Ask first the classifier that each map belongs
# to, then the one you started with.


def judged(network: nn.Module, mask: Tensor) -> str:
    """Say what is recognized of the two halves."""
    inside = masked_in_accuracy(network, images, mask, labels).mean()
    outside = masked_out_accuracy(network, images, mask, labels).mean()
    return f"masked-in {inside:.0%}, masked-out {outside:.0%}"


boxes = [boxes_to_pixels(box, 48, 48) for box in held_out.boxes]
for name, model in models.items():
    print(f"{name}: area {maps[name].mean():.0%}", end=", ")
    print(f"localization error {localization_error(maps[name], boxes).mean():.0%}")
    print(f"    its own classifier:    {judged(model.classifier, maps[name])}")
    print(f"    the one from before:   {judged(classifier, maps[name])}")

# %%
# Read the two lines of *joint* first: one map, two judges. Their difference comes from the two
# classifiers, not from the map. A classifier that learned from masked images recognizes more in
# them, but that does not make the map better.
#
# Then compare the two maps under *one* judge, the original one. They differ by a few points, which
# is noise with one seed, 300 images and such a short training. :doc:`../frozen-or-joint` has longer
# trainings.
#
# - To explain a classifier that exists: **frozen**.
# - To deploy a new classifier together with its maps: **joint**, and keep both.
#
# **Exercise.** Train jointly with the defaults, ``explained(FineTune())``. How many answers differ
# now? Then set ``stay=0`` and ``lr=3e-2``: what happens to the accuracy?
#
# **Next**: :doc:`../frozen-or-joint` with figures of a longer study; :doc:`04_swap_an_idea` for the
# pool, which chooses the judge in joint training; :doc:`10_is_it_faithful` for what a classifier
# may read from the shape of a mask.
