"""Draw the pictures of the gallery: photographs by the shipped masker, others by tutorials.

Nothing is chosen by how the maps look: photographs are named here, and of the tutorial it is the
figure that shows its first examples.

Run ``python benchmarks/gallery.py --out docs``.
"""

from __future__ import annotations

import argparse
import runpy
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib
from matplotlib import pyplot as plt
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_image

from captum_masking import viz, zoo

TUTORIALS = Path(__file__).parents[1] / "tutorials"
# The photographs are CC0 or in the public domain.
PHOTOGRAPHS = {
    "color": [data.coffee, data.rocket, lambda: load_sample_image("flower.jpg")],
    "gray": [data.camera, data.horse, data.coins],
}
FIGURES = {  # which figure of which tutorial
    "digits": ("01_quick_start", 1),
    "targets": ("07_two_targets", 0),
    "transformer": ("08_vision_transformer", 1),
    "sound": ("09_listen_to_the_evidence", 1),
}


def shrink(picture: Path, file: Path) -> None:
    """Write a picture as small as a page needs it."""
    image = Image.open(picture).convert("RGB")
    image.thumbnail((900, 900))
    image.save(file, quality=85)


def photographs(name: str, file: Path) -> None:
    """Explain photographs by the masker that ships with the package."""
    model, preprocess = zoo.efficientnet_lite0()
    viz.montage(
        [zoo.explain(model, preprocess, picture()).panels for picture in PHOTOGRAPHS[name]], file
    )


def tutorial(name: str, file: Path) -> None:
    """Run a tutorial and keep one of its figures."""
    script, index = FIGURES[name]
    plt.close("all")
    runpy.run_path(str(TUTORIALS / f"{script}.py"), run_name="__main__")
    plt.figure(plt.get_fignums()[index]).savefig(file, dpi=110)


def main() -> None:
    """Draw all pictures, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("names", nargs="*", default=[*PHOTOGRAPHS, *FIGURES])
    options = parser.parse_args()
    matplotlib.use("agg")
    with TemporaryDirectory() as folder:
        for name in options.names:
            large = Path(folder) / f"{name}.png"
            (photographs if name in PHOTOGRAPHS else tutorial)(name, large)
            shrink(large, options.out / f"gallery-{name}.jpg")


if __name__ == "__main__":
    main()
