"""Draw what a model sees in a picture: the picture, its map, masked in and masked out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from captum_masking.cli.classifiers import Prepared
from captum_masking.infill import Mean
from captum_masking.masker import linear
from captum_masking.masking import mask_images
from captum_masking.model import MaskingModel
from captum_masking.saliency import MaskingSaliency
from captum_masking.viz import Panel, overlay

_LONGEST_SIDE = 512  # pictures are drawn no larger


def read_picture(file: str | Path) -> Any:
    """Open a picture upright and in RGB.

    Args:
        file: Any format Pillow reads.

    Returns:
        A PIL image.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a picture.

    Source:
        Own.
    """
    from PIL import Image, ImageOps

    if not Path(file).is_file():
        raise FileNotFoundError(f"there is no picture {file}; give the path of a JPEG or PNG file.")
    try:
        with Image.open(file) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError(
            f"{file} is not a picture that can be read ({error}); give a JPEG or PNG file."
        ) from error


class Said(NamedTuple):
    """What the classifier says of a picture and of its halves; printed as one line.

    Attributes:
        target: Number of the class that is meant.
        name: Its name.
        clean: Its probability in the picture.
        masked_in: In what the map keeps.
        masked_out: In what the map leaves.
        area: Of the map, a fraction of the picture.

    Source:
        Own.

    Example:
        >>> print(Said(285, "Egyptian cat", 0.791, 0.536, 0.681, 0.46))
        Egyptian cat 79.1%; masked-in 53.6%; masked-out 68.1%; mask area 46%
    """

    target: int
    name: str
    clean: float
    masked_in: float
    masked_out: float
    area: float

    def __str__(self) -> str:
        return (
            f"{self.name} {self.clean:.1%}; masked-in {self.masked_in:.1%}; "
            f"masked-out {self.masked_out:.1%}; mask area {self.area:.0%}"
        )


@torch.no_grad()
def explain_picture(
    model: MaskingModel, prepared: Prepared, picture: Any, target: int | None
) -> tuple[list[Panel], Said]:
    """Explain one picture.

    Args:
        model: Trained; its classifier is ``prepared.classifier``.
        prepared: Preprocessing and class names.
        picture: A PIL image.
        target: The class that is asked for; None is the predicted one.

    Returns:
        ``(panels, said)``: picture, map, masked-in, masked-out; and the same in words.

    Raises:
        TargetError: If the classifier has no such class.

    Source:
        Own.
    """
    inputs = prepared.read(picture)[None]
    mask = MaskingSaliency(model).attribute(inputs, target=target)[:, :1]
    images = torch.cat([inputs, *mask_images(inputs, mask, Mean())])
    probabilities = model(images).softmax(1)
    shown = int(probabilities[0].argmax()) if target is None else target
    clean, inside, outside = (float(p) for p in probabilities[:, shown])
    pixels = _shrink(picture)
    panels = [
        Panel(pixels, f"{prepared.name(shown)} {clean:.0%}"),
        *_halves(pixels, mask, prepared, inside, outside, _other(probabilities, shown, prepared)),
    ]
    said = Said(shown, prepared.name(shown), clean, inside, outside, float(mask.mean()))
    return panels, said


def _halves(
    pixels: np.ndarray, mask: Tensor, prepared: Prepared, inside: float, outside: float, other: str
) -> list[Panel]:
    """Draw the map and both masked pictures at the size of the picture."""
    large = linear(mask, pixels.shape[:2])[0, 0]
    keep = large.numpy()[..., None]
    fill = np.asarray(prepared.mean)
    return [
        Panel(overlay(pixels, large), f"evidence (area {mask.mean():.0%})"),
        Panel(keep * pixels + (1 - keep) * fill, f"masked-in {inside:.0%}"),
        Panel((1 - keep) * pixels + keep * fill, f"masked-out {outside:.0%}{other}"),
    ]


def _other(probabilities: Tensor, shown: int, prepared: Prepared) -> str:
    """Name what is seen instead once the evidence is gone."""
    seen = int(probabilities[2].argmax())
    name = prepared.name(seen)
    return "" if seen == shown else f"\n({name} {probabilities[2, seen]:.0%})"


def _shrink(picture: Any) -> np.ndarray:
    small = picture.copy()
    small.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    return np.asarray(small, dtype=np.float64) / 255
