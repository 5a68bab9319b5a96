"""Read a picture of any format and depth as upright 8-bit RGB; labels of pixels as they are."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

#: Suffixes of pictures, in upper or lower case.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".webp", ".avif", ".bmp", ".dib"),
    *(".tif", ".tiff", ".jp2", ".tga", ".ppm", ".pgm", ".pbm", ".pnm"),
)
#: The values of black and white in a picture of more than 8 bits.
ValueRange = tuple[float, float]
_BITS, _PHOTOMETRIC, _PLANES, _SAMPLE_FORMAT = 258, 262, 284, 339  # tags of a TIFF


class _UnclearError(ValueError):
    """A picture whose values have no known scale."""


def check_value_range(value_range: ValueRange | None) -> None:
    """Check for two increasing numbers."""
    low, high = value_range or (0.0, 1.0)
    if not -np.inf < low < high < np.inf:
        raise ValueError(
            "value_range (--range) must be the value of black and a larger one of white, but got "
            f"{low:g} and {high:g}; pictures with 8 bits need none."
        )


def read_picture(source: Any, value_range: ValueRange | None = None) -> Image.Image:
    """Return a file, PIL image or array as upright 8-bit RGB, over white."""
    from PIL import Image

    name = "the picture"
    if isinstance(source, (str, os.PathLike)) or hasattr(source, "read"):
        name = name if hasattr(source, "read") else str(source)
        picture = _opened(source, lambda opened: _to_rgb(opened, name, value_range), "picture")
    elif isinstance(source, Image.Image):
        picture = _to_rgb(source, name, value_range)
    else:
        picture = _array_to_rgb(source, name, value_range)
    if min(picture.size) < 2:
        raise ValueError(
            f"expected a picture of at least 2 x 2 pixels, but {name} has {picture.width} x "
            f"{picture.height}; remove it."
        )
    return picture


def _array_to_rgb(values: Any, name: str, value_range: ValueRange | None) -> Image.Image:
    from PIL import Image

    shape, kind = getattr(values, "shape", ()), str(getattr(values, "dtype", ""))
    opaque = shape[2:] in ((), (1,), (3,)) or (kind == "uint8" and shape[2:] in ((2,), (4,)))
    if not (isinstance(values, np.ndarray) and len(shape) > 1 and opaque and values.size):
        raise TypeError(
            "a picture must be a file, a PIL image, or an array (H, W) or (H, W, 3), with opacity "
            f"(H, W, 4) in uint8, but got {type(values).__name__} {kind} {tuple(shape)}; of a "
            "tensor (3, H, W) pass x.permute(1, 2, 0).numpy()."
        )
    values = values[..., 0] if shape[2:] == (1,) else values
    if kind != "uint8":
        white = {"b": 1.0, "f": 1.0}.get(values.dtype.kind, 65535.0 if kind == "uint16" else None)
        values = _to_bytes(values, white, value_range, name)
    return _to_rgb(Image.fromarray(values), name, None)


def _to_rgb(opened: Image.Image, name: str, value_range: ValueRange | None) -> Image.Image:
    from PIL import Image

    if getattr(opened, "is_animated", False) and opened.format != "MPO":  # the views of a camera
        text = f"only the first frame or page of a picture is read ({opened.format})."
        warnings.warn(text, stacklevel=2)
    tags = getattr(opened, "tag_v2", {})  # a TIFF says more than its mode
    how = str(getattr(opened, "tile", ""))
    picture = _upright(opened, name)
    deep, white = _deep_values(picture, opened.format, tags)
    if deep is not None:
        gray = _to_bytes(deep, white, value_range, name)
        gray = 255 - gray if tags.get(_PHOTOMETRIC) == 0 else gray  # 0 is white, as in X-rays
        clear = deep == picture.info.get("transparency")
        return Image.fromarray(np.where(clear, np.uint8(255), gray)).convert("RGB")
    # Pillow reads planes of 16 bits as 8 bits.
    has_planes = tags.get(_PLANES) == 2 and max(tags.get(_BITS, (1,))) > 8
    is_cut = len(picture.getbands()) > 1 and (";16" in how or "65535" in how)  # to the upper 8
    if has_planes or is_cut and np.asarray(picture.convert("RGB")).max() < 64:
        raise _UnclearError(
            f"expected colors with 8 bits, or with 16 bits up to white, but {name} has "
            f"{'planes of 16' if has_planes else '16, almost black'}; save it with 8 bits a color."
        )
    if value_range is not None and hasattr(opened, "filename"):
        text = "value_range (--range) applies only to gray pictures with more than 8 bits."
        warnings.warn(text, stacklevel=2)
    if picture.has_transparency_data:
        over = Image.new("RGBA", picture.size, "white")
        over.alpha_composite(picture.convert("RGBA"))
        picture = over
    return picture.convert("RGB")


def _deep_values(picture: Image.Image, kept: str | None, tags: Any) -> tuple[Any, float | None]:
    """Return the values of a gray picture with other than 8 bits, and white if known."""
    kind, bits = tags.get(_SAMPLE_FORMAT, (1,))[0], tags.get(_BITS)
    is_signed = picture.mode == "L" and kind == 2
    if picture.mode[0] not in "IF" and not is_signed:
        return None, None
    values = np.asarray(picture)
    if is_signed:
        return values.view(np.int8), None
    if picture.mode == "F":
        return values, 1.0
    if kind == 1 and bits == (32,):
        return values.view(np.uint32), None
    is_known = picture.mode != "I" or kept in ("PNG", "PPM")
    return values, 2.0 ** (bits or (16,))[0] - 1 if is_known else None


def _to_bytes(
    values: np.ndarray, white: float | None, value_range: ValueRange | None, name: str
) -> np.ndarray:
    if not np.isfinite(values).all():
        raise _UnclearError(f"expected finite pixels, but {name} has NaN or infinity; fill them.")
    if value_range is None and (white is None or values.any()):
        _check_fits(float(values.min()), float(values.max()), white, name)
    low, high = value_range or (0, white or 1)
    if value_range is not None and ((values >= low) & (values <= high)).mean() < 0.05:
        text = f"less than 5 % of a picture lies in the value_range, {low:g} to {high:g}."
        warnings.warn(text, stacklevel=2)
    shown = (values.astype(np.float64) - low) * (255 / (high - low))
    return np.rint(shown).clip(0, 255).astype(np.uint8)


def _check_fits(least: float, most: float, white: float | None, name: str) -> None:
    """Check that a picture uses the scale of its depth; else it would be black or white."""
    if white is None or least < -0.01 * white or not white / 4 <= most <= 1.01 * white:
        depth = "a depth that defines black and white"
        scale = depth if white is None else f"values from 0, black, up to {white:g}, white"
        top = most if least < 0 else max(1, 2 ** math.ceil(most).bit_length() - 1)
        raise _UnclearError(
            f"expected {scale}, but {name} has values of {least:g} to {most:g}; set black "
            "and white with value_range (--range), such as --range "
            f"{min(least, 0):g} {top:.9g}."
        )


def _upright(opened: Image.Image, name: Any) -> Image.Image:
    from PIL import ImageOps

    size = opened.size
    picture = ImageOps.exif_transpose(opened)
    if opened.format == "TIFF" and opened.size != size:  # of those without compression, Pillow 13
        raise _UnclearError(
            f"expected an upright picture, but {name} is a rotated TIFF, which Pillow cannot "
            "read; save it upright, or as a PNG."
        )
    return picture


def read_numbers(file: Path, size: tuple[int, int]) -> np.ndarray:
    """Return the values of an upright label picture at ``(H, W)``."""
    from PIL import Image

    def read(picture: Image.Image) -> tuple[np.ndarray, str]:
        upright = _upright(picture, file)
        # A palette changes the colors, not the values.
        return np.asarray(upright.resize(size[::-1], Image.Resampling.NEAREST)), picture.mode

    numbers, mode = _opened(file, read, "pixel mask")
    if numbers.ndim != 2:
        raise ValueError(
            f"expected a pixel mask with one value per pixel, but {file} holds colors ({mode}); "
            "save it as gray or with a palette."
        )
    return numbers


def upright_size(file: Path) -> tuple[int, int]:
    """Return ``(width, height)`` of the upright picture from the head of a file."""
    from PIL import ExifTags

    def read(picture: Image.Image) -> tuple[int, int]:
        turned = picture.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        tags = getattr(picture, "tag_v2", {})  # the size of a TIFF may be that of the upright one
        width, height = tags.get(256, picture.width), tags.get(257, picture.height)
        return (height, width) if turned else (width, height)

    return _opened(file, read, "picture")


def _opened(file: str | os.PathLike[str], read: Callable[[Image.Image], Any], what: str) -> Any:
    from PIL import Image  # not needed before the first picture

    try:
        with Image.open(file) as picture:
            return read(picture)
    except _UnclearError:
        raise
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no {what} {file}; pass the path of a file.") from error
    except Exception as error:  # decoders raise nearly anything on a damaged file
        raise ValueError(
            f"expected a {what}, but {file} cannot be read as one ({error}); repair it, scale "
            "it down, save it as an 8-bit PNG, or remove it."
        ) from error
