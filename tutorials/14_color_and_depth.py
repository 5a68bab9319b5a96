"""Color and depth, from ten pictures a class
==========================================

For users whose network takes several inputs: you will train a small network on ten pictures of each
class, from a color camera and a depth camera, and see which part of which picture each answer rests
on. The example follows an industrial task: a robot has to find the right clip in a bundle of cables
(Kicki et al. 2021, *Tell Me, What Do You See?*). The pictures are drawn here.
"""

import torch
from skimage.data import coffee
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from captum_masking import MaskingModel, MaskingSaliency, MaskingTrainer, zoo
from captum_masking.viz import Panel, overlay, show, to_pixels

# sphinx_gallery_thumbnail_number = 2

# %%
# One picture, or several
# -----------------------
#
# The masker that ships with the package explains a network of one input, a photograph. Here it will
# be two pictures of one scene, each with a mask of its own.

show([zoo.explain(*zoo.efficientnet_lite0(), coffee()).panels], width=2.2)

# %%
# The pictures
# ------------
#
# Three gray cables cross the picture, each with a clip. One clip differs and gives the class. It is
# red or blue, which only the color camera sees; or it is raised or sunk, which only the depth
# camera sees. Ten more pictures are plain: all their clips are alike.

SIDE = 40
CLASSES = ["red", "blue", "raised", "sunk"]
COLORS = {"red": [1.0, 0.2, 0.2], "blue": [0.2, 0.3, 1.0]}
HEIGHTS = {"raised": 0.9, "sunk": -0.4}


def draw(name: str, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a color picture, a depth picture, and where the clip is."""
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    color = 0.15 + 0.1 * torch.rand(3, SIDE, SIDE, generator=random)
    depth = 0.05 * torch.randn(1, SIDE, SIDE, generator=random)
    for _ in range(3):
        start, slope, bend, phase, at = torch.rand(5, generator=random).tolist()
        middle = SIDE * (0.1 + 0.8 * start + (slope - 0.5) * (columns / SIDE - 0.5))
        middle = middle + 4 * bend * torch.sin(columns / 6 + 6.3 * phase)
        cable = (rows - middle).abs() < 2
        color = torch.where(cable, 0.5, color)
        depth = torch.where(cable, 0.3, depth)
        column = 6 + int(at * (SIDE - 12))
        clip = ((rows - middle[:, column]).abs() <= 3) & ((columns - column).abs() <= 3)
        color, depth = torch.where(clip, 0.5, color), torch.where(clip, 0.3, depth)
    paint = torch.tensor(COLORS.get(name, [0.5, 0.5, 0.5]))[:, None, None]
    height = HEIGHTS.get(name, 0.3)
    return torch.where(clip, paint, color), torch.where(clip, height, depth), clip[None]


def pictures(names: list[str], seed: int) -> list[Tensor]:
    """Draw a picture for each name; return color, depth, and where the clips are."""
    random = torch.Generator().manual_seed(seed)
    drawn = [draw(name, random) for name in names]
    return [torch.stack(kind) for kind in zip(*drawn, strict=True)]


labels, new_labels = torch.arange(4).repeat(10), torch.arange(4).repeat(50)
color, depth, _ = pictures([*CLASSES * 10, *["plain"] * 10], seed=0)
new_color, new_depth, clips = pictures(CLASSES * 50, seed=1)

show(
    [
        [Panel(to_pixels(one, [0.0], [1.0]), CLASSES[i]) for i, one in enumerate(new_color[:4])],
        [Panel(to_pixels(one, [0.5], [1.0])) for one in new_depth[:4]],
    ]
)

# %%
# A small network
# ---------------
#
# It has one tower for each camera, and one linear layer. Fifty pictures are enough if they are
# flipped and shifted. From the plain pictures the network learns that all classes are equally
# likely. Without them it would have a favorite class for pictures that show nothing. That class
# would need no evidence, so its masks would be empty.


def tower(channels: int) -> nn.Sequential:
    """Three convolutions."""
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
    )  # fmt: skip


class TwoCameras(nn.Module):
    """The highest value of each feature, of both towers."""

    def __init__(self) -> None:
        super().__init__()
        self.color, self.depth, self.head = tower(3), tower(1), nn.Linear(64, 4)

    def forward(self, color: Tensor, depth: Tensor) -> Tensor:
        """Return the logits."""
        features = [self.color(color).amax((2, 3)), self.depth(depth).amax((2, 3))]
        return self.head(torch.cat(features, dim=1))


torch.manual_seed(0)
classifier = TwoCameras()
likely = torch.cat([torch.eye(4).repeat(10, 1), torch.full((10, 4), 0.25)])
optimizer = torch.optim.AdamW(classifier.parameters(), lr=3e-3)
for _ in range(150):
    flips = [side for side in (2, 3) if torch.rand(()) < 0.5]
    shifts = torch.randint(-8, 9, (2,)).tolist()
    some = torch.randperm(len(likely))[:25]
    pair = [views[some].flip(flips).roll(shifts, (2, 3)) for views in (color, depth)]
    optimizer.zero_grad()
    cross_entropy(classifier(*pair), likely[some]).backward()
    optimizer.step()
classifier.eval()

with torch.no_grad():
    answers = classifier(new_color, new_depth).argmax(1)
accuracy = float((answers == new_labels).float().mean())
print(f"recognized, of 200 new pictures: {accuracy:.0%}")
assert accuracy > 0.8

# %%
# One mask for each camera
# ------------------------
#
# With an example of both inputs, ``MaskingModel`` makes one masker for both. It is trained on the
# forty pictures of the four classes. A step masks both pictures at once: the class must be
# recognized in what the two masks keep together, and not in what they leave.

model = MaskingModel(classifier, example_inputs=(color[:1], depth[:1]))
examples = [((color[i], depth[i]), labels[i]) for i in range(len(labels))]
trainer = MaskingTrainer(model, train_classifier=False, lr=1e-2)
loader = DataLoader(examples, batch_size=20, shuffle=True)
trainer.fit(loader, epochs=20, show_progress=False)

of_color, of_depth = MaskingSaliency(model).attribute((new_color, new_depth))
of_color = of_color[:, :1]  # one map for all three colors
rows = []
for i in range(4):
    color_pixels, depth_pixels = (
        to_pixels(views[i], [middle], [1.0]) for views, middle in ((new_color, 0), (new_depth, 0.5))
    )
    rows.append(
        [
            Panel(color_pixels, CLASSES[i]),
            Panel(overlay(color_pixels, of_color[i]), "evidence"),
            Panel(depth_pixels, "depth"),
            Panel(overlay(depth_pixels, of_depth[i]), "evidence"),
        ]
    )
show(rows)

# %%
# Which camera carries the evidence?
# ----------------------------------
#
# Compare the areas of the two masks for each class. The share of a mask that lies on the clip says
# whether it found the detail. The clip covers 3 % of the picture.

print(f"{'class':<8}{'color: area':>12}{'on the clip':>12}{'depth: area':>12}{'on the clip':>12}")
areas = {}
for index, name in enumerate(CLASSES):
    chosen = new_labels == index
    line = []
    for maps in (of_color[chosen], of_depth[chosen]):
        on_clip = (maps * clips[chosen]).sum() / maps.sum().clamp(min=1e-6)
        line += [float(maps.mean()), float(on_clip)]
    areas[name] = line[0], line[2]
    print(f"{name:<8}" + "".join(f"{value:>12.1%}" for value in line))

assert all(areas[name][0] > 10 * areas[name][1] for name in COLORS)
assert all(areas[name][1] > 10 * areas[name][0] for name in HEIGHTS)

# %%
# The network uses the color camera for red and blue, the depth camera for raised and sunk, and the
# clip each time. The masker learned that without masks or boxes.
#
# A network can be right for a wrong reason. If the maps lay on the background, or on the wrong
# camera, you would have to check the pictures before you use the network.
#
# **Exercise.** Put a small gray mark into one corner of all pictures of "red", train again, and
# find it with the maps. Then train with three pictures of each class.
#
# **Next**: :doc:`05_ten_images_a_class`; :doc:`../any-model` for networks of several inputs;
# :doc:`10_is_it_faithful`.
