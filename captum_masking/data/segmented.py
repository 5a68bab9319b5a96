"""Pictures whose object is known to the pixel: a CSV that names a label picture for each."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from captum_masking.data.boxed import BoxedImages, _read_table

if TYPE_CHECKING:
    from PIL import Image

_ORIENTATION = 0x0112  # the EXIF tag; from 5 on, width and height change places


class EmptyObjectError(ValueError):
    """A pixel mask without an object at the size asked for, on which no map can be scored.

    Source:
        Own.

    Example:
        >>> issubclass(EmptyObjectError, ValueError)
        True
    """


class SegmentedImages(BoxedImages):
    r"""Pictures with a label and a pixel mask, and boxes where there are any.

    The CSV is that of :class:`~captum_masking.data.BoxedImages` with one more column, the path of
    a picture whose pixels hold not colors but numbers: which pixel is the object, which is
    background and which is neither (an unsure border, say).

    Args:
        csv: The CSV file. Paths in it are relative to its folder.
        transform: Called with a PIL picture in RGB; None gives the PIL picture itself.
        label_column: The column that holds the label, a whole number >= 0.
        mask_column: The column that holds the path of the pixel mask.
        object_values: The numbers that mean object.
        ignore_values: The numbers that mean neither object nor background. All others are
            background.

    Attributes:
        mask_files: One path a picture. ``files``, ``labels`` and ``boxes`` are those of
            :class:`~captum_masking.data.BoxedImages`.

    Raises:
        FileNotFoundError: If the CSV, a picture or a pixel mask does not exist.
        ValueError: If the content is not as above, or a number means two things.
        TypeError: If ``transform`` cannot be called, or a number is not whole.

    Source:
        Own; the defaults are the numbers in the trimaps of Oxford-IIIT Pet (Parkhi et al. 2012).

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> temporary = tempfile.TemporaryDirectory()
        >>> folder = Path(temporary.name)
        >>> Image.new("RGB", (4, 2)).save(folder / "cat.jpg")
        >>> numbers = np.array([[1, 3, 2, 2], [1, 1, 3, 2]], dtype=np.uint8)
        >>> Image.fromarray(numbers).save(folder / "cat.png")
        >>> _ = (folder / "val.csv").write_text("file,label,trimap\ncat.jpg,0,cat.png\n")
        >>> images = SegmentedImages(folder / "val.csv")
        >>> inside, ignored = images.pixel_mask(0, (2, 4))
        >>> inside
        tensor([[ True, False, False, False],
                [ True,  True, False, False]])
        >>> ignored.sum()
        tensor(2)
    """

    def __init__(
        self,
        csv: str | os.PathLike[str],
        *,
        transform: Callable[[Image.Image], Any] | None = None,
        label_column: str = "label",
        mask_column: str = "trimap",
        object_values: Collection[int] = (1,),
        ignore_values: Collection[int] = (3,),
    ) -> None:
        _check_values(object_values, ignore_values)
        _check_no_folder(Path(csv))
        super().__init__(csv, transform=transform, label_column=label_column)
        self.mask_column = mask_column
        self.object_values = tuple(object_values)
        self.ignore_values = tuple(ignore_values)
        masks = _read_mask_files(Path(csv), mask_column)
        _check_masks_exist(masks, Path(csv))
        self.mask_files = [masks[file] for file in self.files]

    def pixel_mask(self, index: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Read the pixel mask of a picture at the size of a map.

        Numbers are never blended: each pixel takes the number at its center. The whole frame is
        squashed to ``size``, as ``Resize(size)`` does with the picture.

        Args:
            index: Of the picture.
            size: ``(H, W)`` in pixels.

        Returns:
            ``(inside, ignored)``, boolean ``(H, W)``: the object, and what is neither object nor
            background.

        Raises:
            EmptyObjectError: A ``ValueError``: if no pixel is of the object.
            ValueError: If the file holds no numbers, or has another aspect ratio than the picture;
                or if ``size`` is not two sides of at least one pixel.
        """
        _check_size(size)
        file = self.mask_files[index]
        _check_same_frame(file, self.files[index])
        numbers = _read_numbers(file, size)
        inside = np.isin(numbers, self.object_values)
        self._check_not_empty(inside, numbers, file)
        return torch.from_numpy(inside), torch.from_numpy(np.isin(numbers, self.ignore_values))

    def __repr__(self) -> str:
        return (
            f"SegmentedImages({len(self)} pictures, {len(set(self.labels))} labels, "
            f"object_values={self.object_values}, ignore_values={self.ignore_values})"
        )

    def _check_not_empty(self, inside: np.ndarray, numbers: np.ndarray, file: Path) -> None:
        if not inside.any():
            height, width = numbers.shape
            raise EmptyObjectError(
                f"expected a pixel of the object, of value {_listed(self.object_values)}, in "
                f"{file}, but at {height} x {width} there are only {_listed(np.unique(numbers))}; "
                "name the object's numbers with object_values, or leave this picture out."
            )


# The CSV.


def _read_mask_files(path: Path, mask_column: str) -> dict[Path, Path]:
    """Read which pixel mask belongs to each picture of a CSV that is known to be good."""
    columns, rows = _read_table(path)
    if mask_column not in columns:
        raise ValueError(
            f"expected a column {mask_column!r} with the paths of pixel masks in {path}, but found "
            f"{columns}; name it with mask_column."
        )
    masks: dict[Path, Path] = {}
    for line, row in rows:
        where, cell = f"{path}, line {line}", row[mask_column].strip()
        _check_cell(cell, mask_column, where)
        mask, file = path.parent / cell, path.parent / row["file"].strip()
        _check_same_mask(masks.setdefault(file, mask), mask, row["file"], where)
    return masks


def _check_cell(cell: str, mask_column: str, where: str) -> None:
    if not cell:
        raise ValueError(
            f"{where}: expected the path of a pixel mask in column {mask_column!r}, but got ''; "
            "leave out pictures that have none."
        )


def _check_same_mask(mask: Path, other: Path, file: str, where: str) -> None:
    if mask != other:
        raise ValueError(
            f"{where}: expected one pixel mask per file, but {file} has {mask.name} further up and "
            f"{other.name} here; join them to one picture."
        )


def _check_no_folder(source: Path) -> None:
    if source.is_dir():
        raise ValueError(
            f"expected a CSV that names a pixel mask for each picture, but {source} is a folder; "
            "write one line 'file,label,trimap' and then one line a picture."
        )


def _check_masks_exist(masks: dict[Path, Path], source: Path) -> None:
    missing = [mask for mask in masks.values() if not mask.is_file()]
    if missing:
        raise FileNotFoundError(
            f"expected every pixel mask of {source} to exist, but {len(missing)} of {len(masks)} "
            f"do not, the first being {missing[0]}; paths are relative to the CSV's folder."
        )


def _check_values(object_values: Collection[int], ignore_values: Collection[int]) -> None:
    for value in (*object_values, *ignore_values):
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(f"object_values and ignore_values hold whole numbers; got {value!r}.")
    both = set(object_values) & set(ignore_values)
    if both or not object_values:
        raise ValueError(
            f"expected at least one number in object_values and none of them in ignore_values, but "
            f"got {_listed(object_values)} and {_listed(ignore_values)}; a pixel is one or the "
            "other."
        )


# The pictures.


def _read_numbers(file: Path, size: tuple[int, int]) -> np.ndarray:
    """Read the numbers of a label picture, upright, at ``(H, W)``.

    Raises:
        ValueError: If it cannot be read, or holds colors.
    """
    from PIL import Image, ImageOps  # not needed before the first picture

    try:
        with Image.open(file) as picture:
            upright = ImageOps.exif_transpose(picture)
            # A palette says how the numbers are shown, not what they are: they stay.
            numbers = np.asarray(upright.resize(size[::-1], Image.Resampling.NEAREST))
    except Exception as error:  # decoders raise nearly anything on a damaged file
        raise ValueError(
            f"expected a pixel mask, but {file} cannot be read as one ({error}); repair it or "
            "leave its picture out."
        ) from error
    if numbers.ndim != 2:
        raise ValueError(
            f"expected a pixel mask with one number a pixel, but {file} holds colors "
            f"({picture.mode}); save it as grey or with a palette."
        )
    return numbers


def _check_same_frame(mask: Path, file: Path) -> None:
    """Refuse a mask of another aspect ratio; one may be the other scaled, and rounded."""
    (width, height), (picture_width, picture_height) = map(_upright_size, (mask, file))
    apart = abs(width * picture_height - height * picture_width)
    if apart > max(width, height, picture_width, picture_height):  # more than rounding to a pixel
        raise ValueError(
            f"expected {mask} to show the same frame as {file}, but it has {width} x {height} "
            f"pixels and the picture, upright, {picture_width} x {picture_height}; turn, crop or "
            "squash the mask as the picture was."
        )


def _check_size(size: Any) -> None:
    if len(size) != 2 or min(size) < 1:
        raise ValueError(
            f"size must be (H, W), both at least 1 pixel, but got {tuple(size)}; give that of the "
            "maps, such as maps.shape[-2:]."
        )


def _upright_size(file: Path) -> tuple[int, int]:
    """Read ``(width, height)`` from the head of a file, as the picture is seen.

    Raises:
        ValueError: If the file cannot be read as a picture.
    """
    from PIL import Image

    try:
        with Image.open(file) as picture:
            turned = picture.getexif().get(_ORIENTATION, 1) >= 5
            return picture.size[::-1] if turned else picture.size
    except Exception as error:
        raise ValueError(
            f"expected a picture, but {file} cannot be read as one ({error}); repair it or remove "
            "it from the list."
        ) from error


def _listed(values: Any) -> str:
    found = [int(value) for value in values]
    return ", ".join(map(str, found[:8])) + (", ..." if len(found) > 8 else "")
