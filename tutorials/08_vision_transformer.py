"""A vision transformer
====================

For users of vision transformers: you will train a small one in seconds, and a masker that reads its
tokens. You will see which tokens it reads, and how its maps compare with attention, which is often
shown instead.
"""

import torch
from skimage.data import coffee
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import VisionTransformer
from torchvision.models.vision_transformer import ConvStemConfig

from captum_masking import MaskingModel, MaskingSaliency, MaskingTrainer, zoo
from captum_masking.metrics import energy_pointing
from captum_masking.parts.infill import Mean
from captum_masking.parts.masker import nearest
from captum_masking.parts.masking import mask_images
from captum_masking.viz import Panel, overlay, show, to_pixels

# sphinx_gallery_thumbnail_number = 2

# %%
# A convolutional network, to compare
# -----------------------------------
#
# The masker that ships with the package reads two maps of a convolutional network, and draws this.
# A transformer has tokens in place of maps. The same code finds them and lays them out as a grid.

show([zoo.explain(*zoo.efficientnet_lite0(), coffee()).panels], width=2.2)

# %%
# Pictures in which we know the evidence
# --------------------------------------
#
# Each picture shows one handwritten digit of scikit-learn on noise, and a decoy: the same pixels,
# shuffled. Both are equally bright, so brightness does not reveal the digit. We keep the digit's
# box, for checking only.


def scenes(digits: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Put each digit ``(8, 8)`` and its decoy into a picture ``(3, 24, 24)``."""
    pictures, boxes = 0.5 * torch.rand(len(digits), 1, 24, 24), []
    for picture, digit in zip(pictures[:, 0], digits, strict=True):
        (y, x), (v, u) = two_places()
        decoy = digit.flatten()[torch.randperm(64)].view(8, 8)
        for ink, top, left in ((digit, y, x), (decoy, v, u)):
            where = picture[top : top + 8, left : left + 8]
            where.copy_(torch.maximum(where, ink))
        boxes.append(torch.tensor([[x, y, x + 8, y + 8]]))
    return (pictures.repeat(1, 3, 1, 1) - 0.3) / 0.3, boxes


def two_places() -> list[list[int]]:
    """Draw two corners that lie at least a digit apart."""
    while True:
        corners = 4 * torch.randint(0, 5, (2, 2))
        if (corners[0] - corners[1]).abs().max() >= 8:
            return corners.tolist()


torch.manual_seed(0)
source = load_digits()
digits, labels = torch.tensor(source.images).float() / 16, torch.tensor(source.target)
train_inputs, _ = scenes(digits[:1350].repeat(2, 1, 1))
train_set = TensorDataset(train_inputs, labels[:1350].repeat(2))
inputs, boxes = scenes(digits[1350:])
target = labels[1350:]


pixels = [to_pixels(image, [0.3] * 3, [0.3] * 3) for image in inputs[:10]]
show([[Panel(pixels[i], f"a {target[i]}") for i in range(5)]])

# %%
# The classifier
# --------------
#
# This is a ``VisionTransformer`` of torchvision with two blocks, on 6 x 6 patches of 4 x 4 pixels.
# Two convolutions replace the usual patch projection, so that it learns from few pictures.

classifier = VisionTransformer(
    image_size=24,
    patch_size=4,
    num_layers=2,
    num_heads=4,
    hidden_dim=64,
    mlp_dim=128,
    num_classes=10,
    conv_stem_configs=[ConvStemConfig(32, 3, 2), ConvStemConfig(64, 3, 2)],
)
loader = DataLoader(train_set, batch_size=64, shuffle=True, drop_last=True)
epochs = 4
optimizer = torch.optim.AdamW(classifier.parameters(), weight_decay=0.05)
rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=epochs * len(loader))
for _ in range(epochs):
    for images, classes in loader:
        optimizer.zero_grad()
        cross_entropy(classifier(images), classes).backward()
        nn.utils.clip_grad_norm_(classifier.parameters(), 1.0)
        optimizer.step()
        rates.step()

classifier.eval()
with torch.no_grad():
    accuracy = (classifier(inputs).argmax(1) == target).float().mean()
print(f"recognized: {accuracy:.0%} of {len(target)} digits that were not trained on")

# %%
# What the masker reads
# ---------------------
#
# You do not have to say that it is a transformer. The model runs it once on zeros, and finds the
# layers and how their outputs become maps.

model = MaskingModel(classifier)
for name, layout in zip(model.layers, model.layouts, strict=True):
    print(f"{name}: {layout}")

# %%
# The first layer is a feature map of the convolutions. The second gives 37 tokens: one class token,
# which is left out (``prefix=1``), and 36 patches, which become a 6 x 6 map. It is the first block
# and not the last for a reason. The logits are computed from the class token alone, so the patch
# tokens of the last block reach no logit, and nothing has trained them.
#
# Train the masker
# ----------------
#
# The masker is trained as for any other classifier, which stays bit-identical.

trainer = MaskingTrainer(model, train_classifier=False, lr=6e-3)
trainer.fit(loader, epochs=1, show_progress=False)
found = trainer.evaluate([(inputs, target)])
print(f"area of the masks     {found['area']:.0%}")
print(f"recognized            {found['clean']:.0%}")
print(f"recognized masked-in  {found['masked_in']:.0%}")
print(f"recognized masked-out {found['masked_out']:.0%}")

# %%
# *Masked-in* should stay near the accuracy on whole pictures, and *masked-out* should fall toward
# the 10 % of guessing. The digits that are still recognized masked-out show parts of a stroke.

attribution = MaskingSaliency(model).attribute(inputs)[:, :1]
halves = mask_images(inputs, attribution, Mean())
with torch.no_grad():
    said = [classifier(x).argmax(1).tolist() for x in (inputs, *halves)]


def row(index: int) -> list[Panel]:
    """Draw a picture, its map, what the mask keeps, and what it leaves."""
    masked_in, masked_out = (to_pixels(half[index], [0.3] * 3, [0.3] * 3) for half in halves)
    return [
        Panel(pixels[index], f"seen as {said[0][index]}"),
        Panel(overlay(pixels[index], attribution[index]), "evidence"),
        Panel(masked_in, f"masked-in: {said[1][index]}"),
        Panel(masked_out, f"masked-out: {said[2][index]}"),
    ]


show([row(index) for index in range(4)])

# %%
# Attention is not that map
# -------------------------
#
# Often the attention of the class token in the last block is shown as a heat map. torchvision does
# not return it, so we run that block once more on its inputs.


@torch.no_grad()
def attention(images: Tensor) -> Tensor:
    """Return the class token's attention to each patch, ``(B, 1, 24, 24)``, the largest being 1."""
    given: list[Tensor] = []
    block = classifier.encoder.layers[-1]
    handle = block.register_forward_pre_hook(lambda module, args: given.append(args[0]))
    classifier(images)
    handle.remove()
    tokens = block.ln_1(given[0])
    weights = block.self_attention(tokens, tokens, tokens)[1]  # (B, 37, 37), mean of the heads
    patches = weights[:, 0, 1:].reshape(-1, 1, 6, 6)
    return nearest(patches / patches.amax((1, 2, 3), keepdim=True), (24, 24))


attended = attention(inputs)
show(
    [[Panel(overlay(pixels[i], attribution[i]), "evidence") for i in range(5)]]
    + [[Panel(overlay(pixels[i], attended[i]), "attention") for i in range(5)]]
)

# %%
# Which of the two lies on the digit? The energy-based pointing game is the share of a map's weight
# inside the digit's box. A constant map scores the box's share of the picture.

for name, maps in (
    ("masker", attribution),
    ("attention", attended),
    ("whole picture", torch.ones_like(attribution)),
):
    print(f"{name:<14}{energy_pointing(maps, boxes).mean():.0%}")

# %%
# Attention shows where the last block looks, and needs no training. A little of it lies on every
# patch, which adds up. It does not say whether the attended part is enough, or whether the rest
# still contains evidence. The masker is trained on these two questions.

assert energy_pointing(attribution, boxes).mean() > 0.7

# %%
# A real one
# ----------
#
# The same lines explain a pretrained transformer of timm, torchvision or Hugging Face, on pictures
# of any shape that it takes:
#
# .. code-block:: python
#
#    classifier = timm.create_model("vit_tiny_patch16_224", pretrained=True)
#    model = MaskingModel(classifier)
#    MaskingTrainer(model, train_classifier=False).fit(train_loader, epochs=8)
#
# **Exercise.** Let the masker read the last block instead:
# ``MaskingModel(classifier, ["encoder.layers.encoder_layer_1"])``. How do the masks and the
# masked-out accuracy change? Then use ``num_layers=4``, and see which blocks are found.
#
# **Next**: :doc:`../any-model` has an example of each kind of model; :doc:`10_is_it_faithful` tests
# whether such maps depend on the network; :doc:`../how-it-works` says what the masker minimizes.
