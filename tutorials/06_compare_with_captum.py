"""Compare with Captum's methods
=============================

For users of Captum: you will compare a masker with four of Captum's methods on the same images
(gradients, Integrated Gradients, Grad-CAM and occlusion), by their maps and in one table. You will
learn what each column asks, and which kind of map it favors.
"""

import torch
from captum.attr import IntegratedGradients, LayerGradCam, Occlusion, Saliency
from skimage.data import chelsea
from torch.utils.data import DataLoader

from captum_masking import MaskingModel, MaskingSaliency, MaskingTrainer, zoo
from captum_masking.benchmark import as_method, benchmark
from captum_masking.data import DigitsOnTextures
from captum_masking.viz import Panel, overlay, show, to_pixels

# sphinx_gallery_thumbnail_number = 2

# %%
# A photograph
# ------------
#
# A masker for an ImageNet classifier ships with the package. Here is its map beside Captum's
# ``Saliency`` of the same class. :func:`~captum_masking.benchmark.as_method` makes a map of one
# channel from what any method returns: a mask is used as it is, and every other heat map is scaled
# to [0, 1], image by image.

shipped, preprocess = zoo.efficientnet_lite0()
photo, cat = preprocess(chelsea())[None], torch.tensor([preprocess.number("Egyptian cat")])
pixels = to_pixels(photo[0], preprocess.mean, preprocess.std)
panels = [Panel(pixels, "the photograph")]
for name, method in {
    "masker": MaskingSaliency(shipped),
    "Saliency": Saliency(shipped.classifier),
}.items():
    panels.append(Panel(overlay(pixels, as_method(method).maps(photo, cat)[0]), name))
show([panels], width=2.7)

# %%
# Which map is right? Looking does not tell. So we measure, on images where we know the answer.
#
# A classifier and its masker
# ---------------------------
#
# The data are digits on textures. The classifier is a small network that was trained on such
# images. The masker is trained for 60 steps with the classifier frozen, so that all methods explain
# the same one.

torch.manual_seed(0)
data = DigitsOnTextures(1000, size=48)
loader = DataLoader(data, batch_size=16, shuffle=True, drop_last=True)

classifier = zoo.small_classifier(trained=True)
model = MaskingModel(classifier)
trainer = MaskingTrainer(model, train_classifier=False, lr=1e-2)
records = trainer.fit(loader, epochs=1, steps_per_epoch=60, show_progress=False)

# %%
# Five methods, one interface
# ---------------------------
#
# :class:`~captum_masking.MaskingSaliency` is an ``Attribution`` like the others. Occlusion needs
# further arguments, so we pass a function of images and classes.


def occlusion(images: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Hide a window of 12 x 12 pixels in steps of 6."""
    return Occlusion(classifier).attribute(images, (3, 12, 12), (3, 6, 6), target=target)


methods = {
    "masker": MaskingSaliency(model),
    "Saliency": Saliency(classifier),
    "IntegratedGradients": IntegratedGradients(classifier),
    "LayerGradCam": LayerGradCam(classifier, classifier[14]),
    "Occlusion": occlusion,
}

held_out = DigitsOnTextures(40, size=48, train=False, seed=1)
images, labels = next(iter(DataLoader(held_out, batch_size=4)))
seen = classifier(images).argmax(1)
maps = {name: as_method(method).maps(images, seen) for name, method in methods.items()}


rows = []
for i in range(4):
    pixels = to_pixels(images[i], [0.5], [0.5])
    overlays = [Panel(overlay(pixels, found[i]), name) for name, found in maps.items()]
    rows.append([Panel(pixels, f"a {labels[i]}, seen as {seen[i]}"), *overlays])
show(rows)

# %%
# One call, one table
# -------------------
#
# All methods explain the predicted class. Four trivial maps are always among the rows. This page
# prints some of the columns. With ``out="result"`` the benchmark writes all of them to a page, with
# intervals and pictures.

result = benchmark(
    classifier,
    held_out,
    methods,
    predicted=True,
    batch_size=20,
    measures="quick,curves",
    curve_images=20,
    cost_seconds=0.1,
    show_progress=False,
)
shown = {
    "error_at_mean": "LE",
    "error_at_best": "LE best",
    "mask_iou_at_best": "IoU",
    "masked_in_accuracy": "in",
    "masked_out_accuracy": "out",
    "average_drop": "drop",
    "insertion": "insert",
    "deletion": "delete",
    "area": "area",
}
print(" " * 20 + "".join(f"{title:>8}" for title in shown.values()) + " passes")
for row in result.rows:
    cells = "".join(f"{row.values[key].mean:>8.0%}" for key in shown)
    print(f"{row.name:<20}{cells}{row.cost.forwards:>7.1f}")

# %%
# How to read it
# --------------
#
# **Does it find the digit?** *LE* is the share of images in which the box around the map's largest
# part, cut at the map's mean, misses the digit's; lower is better. That cut favors masks. *LE best*
# uses the best cut for each method, and is fairer. *IoU* is the overlap with the digit's pixels, at
# the best cut too; higher is better. None of the three runs the classifier, which may rightly look
# elsewhere.
#
# **Is it what the classifier uses?** *in* and *out* say how often the class is recognized masked-in
# (higher is better) and masked-out (lower is better). Look at the first row: the whole frame is
# best at both and explains nothing. So compare *area* as well. *drop* is how much confidence the
# classifier loses when it sees only the map; lower is better, and larger or fainter maps have an
# advantage again.
#
# **Is its order right?** *insert* shows the pixels one by one, from the highest value down;
# *delete* removes them. The mean confidence on the way should be high for *insert* and low for
# *delete*. Only the order counts, and a mask does not order its many pixels at 1.
#
# **What does it cost?** *passes* is the time of one map in forward passes of the classifier, and
# varies with the machine. The classifier is tiny, so the masker's own time is visible. The training
# of the masker is not included; the other methods need none.

masker = result["masker"].values
print("the intervals of the masker, 95 % over images:")
for key in ("error_at_best", "masked_in_accuracy", "insertion"):
    found = masker[key]
    print(f"    {shown[key]:<8}{found.low:.0%} to {found.high:.0%}")

# %%
# With forty images, a difference that is smaller than such an interval means nothing.
#
# Here the masker clearly wins at finding the digit, at a low cost. It also loses. Occlusion with
# its large windows is better masked-in and masked-out, at the cost of dozens of passes and a larger
# area. By insertion and deletion the masker is no better than gradients. On photographs the
# differences are smaller, and the cut matters more: :doc:`../benchmark`.

captum = ("Saliency", "IntegratedGradients", "LayerGradCam", "Occlusion")
for key in ("error_at_mean", "error_at_best"):
    assert masker[key].mean < min(result[name].values[key].mean for name in captum) - 0.05

# %%
# **Exercise.** Smooth the gradients: add ``NoiseTunnel(Saliency(classifier))`` with
# ``nt_samples=10``, as a function like occlusion above. Which columns does it win? Then add your
# own method.
#
# **Next**: :doc:`../metrics` for each metric and its trap; :doc:`../benchmark` for more methods on
# photographs; :doc:`10_is_it_faithful` for what no column here asks: whether it is a map of *this*
# model at all.
