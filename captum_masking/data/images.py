"""Photographs from a CSV file or from folders, with boxes or pixel masks if there are any."""

from __future__ import annotations

import csv
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from captum_masking._base.text import as_class_names, number_classes, whole
from captum_masking.data.pictures import (
    SUFFIXES,
    ValueRange,
    check_value_range,
    read_numbers,
    read_picture,
    upright_size,
)

if TYPE_CHECKING:
    from PIL import Image

#: The edges of a box, as fractions of the picture's width (x) and height (y).
BOX_COLUMNS = ("x0", "y0", "x1", "y1")

Box = tuple[float, float, float, float]
_BOX_HEADINGS = (
    BOX_COLUMNS,
    ("xmin", "ymin", "xmax", "ymax"),
    ("left", "top", "right", "bottom"),
    ("x1", "y1", "x2", "y2"),
)
_NUMBER = re.compile(r"[-+\d.,]*(e[-+]?\d+)?|nan|[-+]?inf(inity)?", re.IGNORECASE)
_LIKE_A_BOX = re.compile(
    "[a-z]*[xy](min|max|[0-4]|c|mid|cent(er|re)|left|right|top|bottom|tl|br)|"
    "(min|max|c|start|end|[tb][lr])?[xy]|left|top|right|bottom|upper|lower|(b|bounding)?box(es)?"
)
_OTHER_COLUMN = ", or name the label's column with label_column (--label-column)"


class BoxedImages(Dataset[tuple[Any, int]]):
    r"""Pictures with a label and any number of boxes.

    A CSV file has a header and one row per box, ``file,label,x0,y0,x1,y1``. ``file`` is relative to
    the CSV's folder; boxes are half-open fractions of width and height. Rows of one file are
    joined, in the order of first appearance. The four box columns, or their cells, can be missing.
    Other usual names of a box's edges, such as ``xmin``, work too; other columns are ignored.

    Instead of a CSV file, pass a folder with one folder of pictures per class. Labels can be class
    names. Without ``class_names``, names that are numbers are class numbers (1 to n counts from 1),
    and other names are numbered in alphabetical order.

    Everything except the pictures' content is checked at once. Pictures are returned upright (EXIF
    orientation applied), as 8-bit RGB, with white behind transparent pixels. Boxes stay valid under
    a ``transform`` that keeps the whole frame, such as ``Resize((224, 224))``, but not under a
    crop.

    Args:
        csv: The CSV file, or the folder of class folders.
        transform: Called with a PIL picture in RGB; None gives the PIL picture itself.
        label_column: The column of the label, a whole number >= 0 or a name.
        require_boxes: Whether to refuse pictures without a box.
        class_names: The network's class names, which number the classes: a list with one name per
            output, a dict by number, or a file with one name per line. An empty tuple waits for
            `number`.
        value_range: The values of black and white of pictures with more than 8 bits; by default 0
            and 65535 for 16 bits, 0 and 1 for floating point. Other pictures are refused.

    Attributes:
        files: One path per picture.
        labels: One int per picture.
        boxes: One float tensor ``(n, 4)`` per picture, ``(x0, y0, x1, y1)`` in ``[0, 1]``.
        class_names: Names by label; None if labels are numbers.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> temporary = tempfile.TemporaryDirectory()
        >>> folder = Path(temporary.name)
        >>> Image.new("L", (8, 4)).save(folder / "cat.png")
        >>> rows = "file,label,x0,y0,x1,y1\ncat.png,3,0,0.5,0.25,1\n"
        >>> _ = (folder / "val.csv").write_text(rows)
        >>> images = BoxedImages(folder / "val.csv")
        >>> images[0]
        (<PIL.Image.Image image mode=RGB size=8x4 at ...>, 3)
        >>> images.boxes
        [tensor([[0.0000, 0.5000, 0.2500, 1.0000]])]
    """

    def __init__(
        self,
        csv: str | os.PathLike[str],
        *,
        transform: Callable[[Image.Image], Any] | None = None,
        label_column: str = "label",
        require_boxes: bool = False,
        class_names: Any = None,
        value_range: ValueRange | None = None,
    ) -> None:
        check_value_range(value_range)
        self.value_range = value_range
        pictures = self._list(Path(csv), transform, label_column, class_names)
        without = [file for file, picture in pictures.items() if not picture.boxes]
        if require_boxes and without:
            raise ValueError(
                f"expected a box for every picture of {csv}, but {len(without)} of {len(pictures)} "
                f"have none, the first being {without[0]}; add x0,y0,x1,y1 or remove these."
            )

    def _list(
        self,
        source: Path,
        transform: Callable[[Image.Image], Any] | None,
        label_column: str,
        class_names: Any,
        mask_column: str | None = None,
    ) -> dict[Path, _Picture]:
        if transform is not None and not callable(transform):
            raise TypeError(
                f"transform must be callable as transform(picture), but got {transform!r}; compose "
                "steps with torchvision.transforms.Compose."
            )
        self.transform, self.source = transform, source
        if source.is_dir():
            pictures, self.found = _read_tree(source)
        else:
            pictures, self.found = _read_csv(source, label_column, mask_column)
        check_files_exist(list(pictures), "picture", source)
        self.files = list(pictures)
        self.places = self.labels = [picture.label for picture in pictures.values()]
        self.class_names: list[str] | None = None
        self.boxes = _to_tensors(picture.boxes for picture in pictures.values())
        if not isinstance(class_names, tuple) or class_names:
            self.number(class_names)
        return pictures

    def number(self, class_names: Any = None, outputs: int | None = None) -> None:
        """Number the classes like a network with these names and number of outputs."""
        if self.found:
            names = as_class_names(class_names)
            labels, self.class_names, rule = number_classes(self.found, names, outputs)
            self.labels = [labels[place] for place in self.places]
            if rule:
                else_ = "if the network numbers them differently, pass class_names (--class-names)."
                warnings.warn(f"{self.source}: {rule}; {else_}", stacklevel=3)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        picture = read_picture(self.files[index], self.value_range)
        return (picture if self.transform is None else self.transform(picture)), self.labels[index]

    def __repr__(self) -> str:
        boxes = sum(map(len, self.boxes))
        return f"BoxedImages({len(self)} pictures, {len(set(self.labels))} labels, {boxes} boxes)"

    # torch opens one file descriptor per tensor that it pickles for a DataLoader's worker, too
    # many for thousands of pictures; hence plain lists.
    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "boxes": [boxes.tolist() for boxes in self.boxes]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, boxes=_to_tensors(state["boxes"]))


class EmptyObjectError(ValueError):
    """A pixel mask without an object at the requested size."""


class SegmentedImages(BoxedImages):
    r"""Pictures with a label and a pixel mask, and boxes where there are any.

    The CSV file is that of :class:`~captum_masking.data.BoxedImages` with one more column: the path
    of a picture whose pixel values say which pixels are object, background or neither (such as an
    uncertain border).

    Args:
        csv: The CSV file.
        transform: Called with a PIL picture in RGB.
        label_column: The column that holds the label.
        value_range: As for :class:`~captum_masking.data.BoxedImages`.
        mask_column: The column of the pixel mask's path, relative to the CSV's folder.
        object_values: The values of the object; the default suits the trimaps of Oxford-IIIT Pet
            (Parkhi et al. 2012).
        ignore_values: The values of neither object nor background. All others are background.

    Attributes:
        mask_files: One path per picture.

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
        class_names: Any = None,
        object_values: Collection[int] = (1,),
        ignore_values: Collection[int] = (3,),
        value_range: ValueRange | None = None,
    ) -> None:
        check_value_range(value_range)
        self.value_range = value_range
        _check_values(object_values, ignore_values)
        if Path(csv).is_dir():
            raise ValueError(
                f"expected a CSV file that names a pixel mask for each picture, but {csv} is a "
                "folder; write one line 'file,label,trimap' and then one line per picture."
            )
        self.mask_column = mask_column
        self.object_values = tuple(object_values)
        self.ignore_values = tuple(ignore_values)
        pictures = self._list(Path(csv), transform, label_column, class_names, mask_column)
        self.mask_files = [_located(Path(csv), picture.mask) for picture in pictures.values()]
        check_files_exist(self.mask_files, "pixel mask", Path(csv))

    def pixel_mask(self, index: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Read the pixel mask of a picture at the size ``(H, W)`` of a map.

        The whole frame is squashed to ``size``, like a picture under ``Resize(size)``. Each pixel
        takes the value at its center; values are never blended.

        Returns:
            ``(inside, ignored)``, boolean ``(H, W)``: the object, and neither object nor
            background.

        Raises:
            EmptyObjectError: A ``ValueError``, if no pixel is of the object.
            ValueError: If the file holds no numbers, or has another aspect ratio than the picture.
        """
        if len(size) != 2 or min(size) < 1:
            raise ValueError(
                f"size must be (H, W), both at least 1 pixel, but got {tuple(size)}; pass the size "
                "of the maps, maps.shape[-2:]."
            )
        file = self.mask_files[index]
        _check_same_frame(file, self.files[index])
        numbers = read_numbers(file, size)
        inside = np.isin(numbers, self.object_values)
        if not inside.any():
            raise EmptyObjectError(
                f"expected a pixel of the object, of value {_listed(self.object_values)}, in "
                f"{file}, but at {size[0]} x {size[1]} there are only "
                f"{_listed(np.unique(numbers))}; set object_values, or remove this picture."
            )
        return torch.from_numpy(inside), torch.from_numpy(np.isin(numbers, self.ignore_values))

    def __repr__(self) -> str:
        return (
            f"SegmentedImages({len(self)} pictures, {len(set(self.labels))} labels, "
            f"object_values={self.object_values}, ignore_values={self.ignore_values})"
        )


@dataclass
class _Picture:
    """One file, its label, its boxes as fractions, and its pixel mask."""

    label: int
    boxes: list[Box] = field(default_factory=list)
    mask: str = ""


def _to_tensors(boxes: Iterable[list[Box]]) -> list[Tensor]:
    return [torch.tensor(rows, dtype=torch.float32).reshape(-1, 4) for rows in boxes]


# Not torchvision's helpers: they count hidden folders and descend into nested ones.


def _read_tree(root: Path) -> tuple[dict[Path, _Picture], list[str]]:
    folders = [entry.name for entry in root.iterdir() if entry.is_dir()]
    names = _in_order(name for name in folders if not name.startswith("."))
    if not names:
        raise ValueError(
            f"expected a folder with one folder of pictures per class, but {root} holds no "
            "folders; put the pictures into class folders, or pass a CSV file."
        )
    pictures = {}
    beside, left_out = sort_out(root.iterdir())
    left_out.update(f"{file.suffix.lower()} beside the class folders" for file in beside)
    for label, name in enumerate(names):
        files, others = sort_out((root / name).iterdir())
        left_out += others
        if not files:
            raise ValueError(
                f"expected pictures ({', '.join(SUFFIXES)}) directly in each class folder, but "
                f"{root / name} holds none; pass the folder whose folders are the classes."
            )
        pictures.update({file: _Picture(label) for file in files})
    left_out["folders"] -= len(names)
    say_left_out(root, left_out)
    return pictures, names


def _in_order(names: Iterable[str]) -> list[str]:
    names = sorted(set(names))
    numbers = [whole(name) for name in names]
    return names if None in numbers else sorted(names, key=int)


def sort_out(
    entries: Iterable[Path], suffixes: Sequence[str] = SUFFIXES
) -> tuple[list[Path], Counter[str]]:
    """List the pictures among files, and count the other files by kind."""
    pictures: list[Path] = []
    others: Counter[str] = Counter()
    for entry in sorted(entries):
        suffix, is_hidden = entry.suffix.lower(), entry.name.startswith(".")
        if entry.is_file() and suffix in suffixes and not is_hidden:
            pictures.append(entry)
        elif suffix in suffixes or not is_hidden:
            kind = suffix or "without a suffix"
            kind = f"hidden {kind}" if is_hidden else kind if entry.exists() else "broken links"
            others["folders" if entry.is_dir() else kind] += 1
    return pictures, others


def say_left_out(folder: Path, kinds: Counter[str], suffixes: Sequence[str] = SUFFIXES) -> None:
    """Warn about files of a folder that are not read."""
    if counted := ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()) if count):
        text = f"skipped files in {folder}: {counted}; only {' '.join(suffixes)} are read."
        warnings.warn(text, stacklevel=2)


def columns_of(csv: str | os.PathLike[str]) -> list[str]:
    """Return the columns of a CSV file; none of a folder."""
    return [] if Path(csv).is_dir() else read_table(Path(csv))[0]


def read_table(path: Path) -> tuple[list[str], list[tuple[str, dict[str, str]]]]:
    """Return a CSV's columns, and for each row its place and cells."""
    if not path.is_file():
        raise FileNotFoundError(
            f"expected a CSV file, or a folder with one folder per class, but {path} does not "
            f"exist; paths are relative to {Path.cwd()}."
        )
    try:
        with open(path, newline="", encoding="utf-8-sig") as lines:  # -sig: as spreadsheets write
            reader = csv.DictReader(lines, restval="", skipinitialspace=True, strict=True)
            columns = reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
            rows = [(f"{path}, line {reader.line_num}", row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"expected a CSV file in UTF-8, but {path} is not one ({error}); pass the CSV that "
            "lists the files."
        ) from error
    _check_distinct(columns, path)
    if not rows:
        raise ValueError(
            f"expected a header and at least one row, but {path} has no rows; write one line "
            "'file,label' (and ',x0,y0,x1,y1' for boxes), and then one line per file or box."
        )
    for where, row in rows:
        surplus = row.pop(None, ())  # where the reader puts it
        if any(cell.strip() for cell in surplus):
            raise ValueError(
                f"{where}: expected at most {len(columns)} cells, as in the header, but got "
                f"{len(row) + len(surplus)}; quote cells that hold a comma."
            )
    return columns, rows


def _check_distinct(columns: list[str], path: Path) -> None:
    places: dict[str, int] = {}
    for place, name in enumerate(columns):
        first = places.setdefault(name.casefold(), place)
        if name and first != place:
            what = f"column {first + 1} is {columns[first]!r} and column {place + 1} is {name!r}"
            raise ValueError(f"{path} needs distinct columns, but {what}; rename or remove one.")


def check_columns(columns: list[str], needed: list[str], path: Path, way_out: str) -> None:
    """Check that a CSV has the columns that are needed."""
    missing = [name for name in needed if name not in columns]
    if missing:
        raise ValueError(
            f"expected the columns {needed} in {path}, but found {columns} without {missing}; "
            f"{way_out}"
        )


def whole_number(row: dict[str, str], column: str, where: str, way_out: str = "") -> int:
    """Read a whole number >= 0."""
    text = row[column].strip()
    if not (text.isascii() and text.isdigit()):
        raise ValueError(
            f"{where}: expected a whole number >= 0 in column {column!r}, but got "
            f"{row[column]!r}; count from 0{way_out}."
        )
    return int(text)


def check_files_exist(files: list[Path], what: str, source: Path) -> None:
    """Check that all listed files exist."""
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise FileNotFoundError(
            f"expected every {what} of {source} to exist, but {len(missing)} of {len(files)} do "
            f"not, the first being {missing[0]}; paths are relative to the CSV's folder."
        )


def _read_csv(
    path: Path, label_column: str, mask_column: str | None
) -> tuple[dict[Path, _Picture], list[str]]:
    """Join the rows of each file, in the order of first appearance; also list class names."""
    columns, rows = read_table(path)
    edges = _box_columns(columns, path)
    way_out = f"separate columns by commas, name the column of paths 'file'{_OTHER_COLUMN}."
    check_columns(columns, ["file", label_column, *edges], path, way_out)
    if mask_column is not None and mask_column not in columns:
        raise ValueError(
            f"expected a column {mask_column!r} with the paths of pixel masks in {path}, but found "
            f"{columns}; name it with mask_column."
        )
    pictures: dict[Path, _Picture] = {}
    cells = {row[label_column].strip() for _, row in rows}
    named = [] if any(map(_NUMBER.fullmatch, cells)) else _in_order(cells)
    places = {name: label for label, name in enumerate(named)}
    for where, row in rows:
        label = places.get(row[label_column].strip())
        label = whole_number(row, label_column, where, _OTHER_COLUMN) if label is None else label
        mask = "" if mask_column is None else _path_in(row, mask_column, "a pixel mask", where)
        file = _path_in(row, "file", "a picture", where)
        picture = pictures.setdefault(_located(path, file), _Picture(label, mask=mask))
        _check_same("label", picture.label, label, file, where)
        _check_same("pixel mask", picture.mask, mask, file, where)
        picture.boxes.extend(_read_box(row, edges, where) if edges else [])
    return pictures, named


def _box_columns(columns: list[str], path: Path) -> Sequence[str]:
    """Return the columns of the left, top, right and lower edge, if there are boxes."""
    short: dict[str, str] = {}
    for column in columns:
        if (other := short.setdefault(_short(column), column)) != column:
            _check_one_edge(_short(column), [other, column], path)
    short.update((name, name) for name in BOX_COLUMNS if name in columns)
    whole = [edges for edges in _BOX_HEADINGS if all(edge in short for edge in edges)]
    if BOX_COLUMNS in whole or (not whole and any(name in short for name in BOX_COLUMNS)):
        whole = [BOX_COLUMNS]
    if len(whole) > 1:
        what = f"those of {len(whole)}: {' and '.join(map(','.join, whole))}"
        way_out = f"name those that count {','.join(BOX_COLUMNS)}"
        raise ValueError(f"expected the edges of one box in {path}, but found {what}; {way_out}.")
    like = [name for key, name in short.items() if _LIKE_A_BOX.fullmatch(key)]
    if not whole and (len(like) > 1 or any("box" in name.lower() for name in like)):
        way_out = f"name the edges {','.join(BOX_COLUMNS)}, as fractions of width and height"
        unread = f"has columns that look like boxes but are not read: {', '.join(like)}"
        warnings.warn(f"{path} {unread}; {way_out}.", stacklevel=2)
    return [short.get(edge, edge) for edge in whole[0]] if whole else ()


def _check_one_edge(edge: str, names: list[str], path: Path) -> None:
    is_stated = edge in BOX_COLUMNS and edge in names
    if not is_stated and any(edge in edges for edges in _BOX_HEADINGS):
        way_out = f"name those that count {','.join(BOX_COLUMNS)}"
        raise ValueError(f"{path} has two columns for one edge, {names}; {way_out}.")


def _short(heading: str) -> str:
    return re.sub(r"^b?box(?!es$)(?=.)", "", re.sub(r"[\W_]", "", heading.lower()))


def _located(table: Path, cell: str) -> Path:
    file = table.parent / cell  # with / or \
    return file if "\\" not in cell or file.is_file() else table.parent / cell.replace("\\", "/")


def _path_in(row: dict[str, str], column: str, what: str, where: str) -> str:
    cell = row[column].strip()
    if not cell:
        raise ValueError(
            f"{where}: expected the path of {what} in column {column!r}, but got ''; remove "
            "rows without one."
        )
    return cell


def _check_same(what: str, first: Any, second: Any, file: str, where: str) -> None:
    if first != second:
        raise ValueError(
            f"{where}: expected one {what} per file, but {file} has {what} {first} above and "
            f"{second} here; keep one."
        )


def _read_box(row: dict[str, str], edges: Sequence[str], where: str) -> list[Box]:
    """Return a list with the box of a row; an empty list if all four cells are empty."""
    cells = [row[name].strip() for name in edges]
    if not any(cells):
        return []
    try:
        x0, y0, x1, y1 = map(float, cells)
    except ValueError:
        raise ValueError(
            f"{where}: expected four numbers {','.join(edges)} for the box of {row['file']}, but "
            f"got {','.join(cells)!r}; leave all four cells empty if there is no box."
        ) from None
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):  # refuses NaN too
        raise ValueError(
            f"{where}: expected the box of {row['file']} as fractions 0 <= x0 < x1 <= 1 and "
            f"0 <= y0 < y1 <= 1, but got {','.join(cells)}; divide pixels by the picture's width "
            "(x) and height (y), and clip to the picture."
        )
    return [(x0, y0, x1, y1)]


def _check_values(object_values: Collection[int], ignore_values: Collection[int]) -> None:
    for value in (*object_values, *ignore_values):
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(f"object_values and ignore_values must be integers, but got {value!r}.")
    both = set(object_values) & set(ignore_values)
    if both or not object_values:
        raise ValueError(
            f"expected at least one number in object_values and none of them in ignore_values, but "
            f"got {_listed(object_values)} and {_listed(ignore_values)}; a pixel is one or the "
            "other."
        )


def _check_same_frame(mask: Path, file: Path) -> None:
    """Check that the aspect ratios agree up to rounding."""
    (width, height), (picture_width, picture_height) = map(upright_size, (mask, file))
    apart = abs(width * picture_height - height * picture_width)
    if apart > max(width, height, picture_width, picture_height):  # more than rounding to a pixel
        raise ValueError(
            f"expected {mask} to show the same frame as {file}, but it has {width} x {height} "
            f"pixels and the upright picture {picture_width} x {picture_height}; turn, crop or "
            "scale the mask like the picture."
        )


def _listed(values: Any) -> str:
    found = [int(value) for value in values]
    return ", ".join(map(str, found[:8])) + (", ..." if len(found) > 8 else "")
