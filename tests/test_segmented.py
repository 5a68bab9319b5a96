"""Promises of pictures with pixel masks: numbers come out as they are, and what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from captum_masking.data import BoxedImages, SegmentedImages
from captum_masking.data.images import EmptyObjectError

HEADER = "file,label,trimap"
# 1 = object, 2 = background, 3 = border: 4 rows of 8, as the pictures below.
NUMBERS = [
    [2, 2, 2, 2, 2, 2, 2, 2],
    [2, 3, 3, 3, 2, 2, 2, 2],
    [2, 3, 1, 3, 2, 2, 2, 2],
    [2, 1, 1, 1, 2, 2, 2, 2],
]


def write_csv(folder: Path, *lines: str) -> Path:
    path = folder / "val.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_mask(path: Path, numbers=NUMBERS, dtype=np.uint8, **more) -> Path:
    Image.fromarray(np.array(numbers, dtype=dtype)).save(path, **more)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a.jpg of 8 x 4 pixels and its mask a.png."""
    Image.new("RGB", (8, 4), (255, 0, 0)).save(tmp_path / "a.jpg")
    write_mask(tmp_path / "a.png")
    return tmp_path


@pytest.fixture
def images(folder: Path) -> SegmentedImages:
    return SegmentedImages(write_csv(folder, HEADER, "a.jpg,7,a.png"))


# What comes out.


def test_a_mask_at_its_own_size_holds_the_numbers_of_the_file(images):
    inside, ignored = images.pixel_mask(0, (4, 8))
    assert torch.equal(inside, torch.tensor(NUMBERS) == 1)
    assert torch.equal(ignored, torch.tensor(NUMBERS) == 3)
    assert inside.dtype == ignored.dtype == torch.bool


@pytest.mark.parametrize("size", [(2, 4), (3, 5), (7, 7), (16, 8), (9, 31)])
def test_each_pixel_takes_the_number_at_its_center(images, size):
    inside, ignored = images.pixel_mask(0, size)
    for y in range(size[0]):
        for x in range(size[1]):
            (top, above), (left, beside) = (
                divmod((2 * i + 1) * n, 2 * m) for i, n, m in zip((y, x), (4, 8), size, strict=True)
            )
            if above and beside:  # else the center lies between two pixels, and either will do
                number = NUMBERS[top][left]
                assert (inside[y, x], ignored[y, x]) == (number == 1, number == 3)


def test_an_enlarged_mask_has_the_same_areas_and_no_number_between(images):
    inside, ignored = images.pixel_mask(0, (40, 80))
    # 4 cells are object and 5 border; a blend of 1 and 3 would be 2, of 2 and 3 neither.
    assert (inside.sum(), ignored.sum()) == (400, 500)
    assert not (inside & ignored).any()


def test_the_object_of_a_mask_lies_where_it_lies_in_a_squashed_picture(tmp_path):
    numbers = np.full((60, 100), 2, dtype=np.uint8)
    numbers[12:30, 50:90] = 1
    Image.fromarray((numbers == 1).astype(np.uint8) * 255).convert("RGB").save(tmp_path / "a.bmp")
    write_mask(tmp_path / "a.png", numbers)
    squash = lambda picture: picture.resize((20, 20), Image.Resampling.BILINEAR)  # noqa: E731
    table = write_csv(tmp_path, HEADER, "a.bmp,0,a.png")
    images = SegmentedImages(table, transform=squash)
    shown = torch.from_numpy(np.asarray(images[0][0])[..., 0] > 127)
    inside, _ = images.pixel_mask(0, (20, 20))
    assert torch.equal(inside, shown)


def test_the_picture_its_label_and_its_boxes_are_those_of_boxed_images(folder):
    table = write_csv(folder, "file,label,trimap,x0,y0,x1,y1", "a.jpg,7,a.png,0,0.5,0.5,1")
    images, boxed = SegmentedImages(table), BoxedImages(table)
    assert images[0][0].tobytes() == boxed[0][0].tobytes()
    assert images.labels == boxed.labels == [7]
    assert torch.equal(images.boxes[0], boxed.boxes[0])
    assert images.mask_files == [folder / "a.png"]


def test_label_and_mask_can_be_in_other_columns_and_mean_other_numbers(folder):
    table = write_csv(folder, "file,label,label1k,mask", "a.jpg,0,281,a.png")
    images = SegmentedImages(
        table,
        label_column="label1k",
        mask_column="mask",
        object_values=(1, 3),
        ignore_values=(),
    )
    inside, ignored = images.pixel_mask(0, (4, 8))
    assert images.labels == [281]
    assert inside.sum() == 9 and not ignored.any()


def test_rows_of_one_file_share_its_mask(folder):
    rows = ["a.jpg,0,a.png,0,0,0.5,1", "a.jpg,0,a.png,0.5,0,1,1"]
    images = SegmentedImages(write_csv(folder, "file,label,trimap,x0,y0,x1,y1", *rows))
    assert len(images) == len(images.mask_files) == 1
    assert len(images.boxes[0]) == 2


def test_masks_stay_with_their_pictures(folder):
    Image.new("RGB", (8, 4)).save(folder / "b.jpg")
    write_mask(folder / "b.png", np.ones((4, 8)))
    images = SegmentedImages(write_csv(folder, HEADER, "b.jpg,0,b.png", "a.jpg,0,a.png"))
    assert [images.pixel_mask(i, (4, 8))[0].sum().item() for i in (0, 1)] == [32, 4]


# How numbers are stored.


def test_the_colors_of_a_palette_do_not_matter(folder, images):
    mask = Image.fromarray(np.array(NUMBERS, dtype=np.uint8), mode="P")
    mask.putpalette([0, 0, 0, 200, 10, 10, 3, 3, 3, 1, 1, 1])
    mask.save(folder / "a.png")
    assert Image.open(folder / "a.png").mode == "P"
    inside, ignored = images.pixel_mask(0, (4, 8))
    assert torch.equal(inside, torch.tensor(NUMBERS) == 1)
    assert torch.equal(ignored, torch.tensor(NUMBERS) == 3)


def test_sixteen_bits_hold_large_numbers(folder):
    write_mask(folder / "a.png", np.where(np.array(NUMBERS) == 1, 1001, 0), np.uint16)
    table = write_csv(folder, HEADER, "a.jpg,0,a.png")
    inside, _ = SegmentedImages(table, object_values=(1001,)).pixel_mask(0, (4, 8))
    assert torch.equal(inside, torch.tensor(NUMBERS) == 1)


def test_black_and_white_is_0_and_1(folder, images):
    Image.fromarray(np.array(NUMBERS) == 1).save(folder / "a.png")
    inside, _ = images.pixel_mask(0, (4, 8))
    assert torch.equal(inside, torch.tensor(NUMBERS) == 1)


def test_a_mask_turns_with_its_own_orientation_and_fits_the_upright_picture(folder, images):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    Image.new("RGB", (4, 8)).save(folder / "a.jpg", exif=exif)  # upright 8 x 4
    assert images.pixel_mask(0, (4, 8))[0].sum() == 4  # the mask is upright as it is
    write_mask(folder / "a.png", np.rot90(NUMBERS), exif=exif)  # lies as the camera lay
    inside, _ = images.pixel_mask(0, (4, 8))
    assert torch.equal(inside, torch.tensor(NUMBERS) == 1)


# What is refused at the door.


def test_missing_masks_are_counted_and_the_first_is_named(folder):
    for name in ("b.jpg", "c.jpg"):
        Image.new("RGB", (8, 4)).save(folder / name)
    table = write_csv(folder, HEADER, "a.jpg,0,a.png", "b.jpg,0,gone.png", "c.jpg,1,lost.png")
    with pytest.raises(FileNotFoundError, match=r"2 of 3 do not, the first being .*gone\.png"):
        SegmentedImages(table)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["file,label", "a.jpg,0"], r"column 'trimap'.*found \['file', 'label'\].*mask_column"),
        ([HEADER, "a.jpg,0,"], "line 2: expected the path of a pixel mask in column 'trimap'"),
        (
            [HEADER, "a.jpg,0,a.png", "a.jpg,0,b.png"],
            "line 3.*a.jpg has pixel mask a.png .* b.png here",
        ),
        ([HEADER, "a.jpg,-1,a.png"], "line 2: expected a whole number"),
    ],
)
def test_a_bad_csv_is_refused(folder, lines, message):
    with pytest.raises(ValueError, match=message):
        SegmentedImages(write_csv(folder, *lines))


def test_a_folder_of_classes_has_no_masks(folder):
    with pytest.raises(ValueError, match="CSV file that names a pixel mask.*is a folder"):
        SegmentedImages(folder)


@pytest.mark.parametrize(
    ("numbers", "error", "message"),
    [
        ({"object_values": ()}, ValueError, "at least one number in object_values"),
        ({"object_values": (1, 3)}, ValueError, "got 1, 3 and 3; a pixel is one or the other"),
        ({"object_values": (1.5,)}, TypeError, "must be integers, but got 1.5"),
        ({"ignore_values": (True,)}, TypeError, "must be integers, but got True"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(folder, numbers, error, message):
    with pytest.raises(error, match=message):
        SegmentedImages(write_csv(folder, HEADER, "a.jpg,0,a.png"), **numbers)


# What is refused when it is read.


def test_a_mask_without_the_object_says_what_it_holds(folder, images):
    write_mask(folder / "a.png", np.where(np.array(NUMBERS) == 1, 255, 0))
    with pytest.raises(EmptyObjectError, match=r"of value 1, in .*a\.png, but at 4 x 8 .* 0, 255"):
        images.pixel_mask(0, (4, 8))


def test_an_object_that_vanishes_at_a_small_size_is_an_empty_one(folder, images):
    numbers = np.full((4, 8), 2)
    numbers[0, 0] = 1
    write_mask(folder / "a.png", numbers)
    assert images.pixel_mask(0, (4, 8))[0].sum() == 1
    with pytest.raises(ValueError, match="at 2 x 2 there are only 2"):
        images.pixel_mask(0, (2, 2))


@pytest.mark.parametrize("shape", [(8, 4), (4, 4), (7, 7), (5, 7)])
def test_a_mask_of_another_aspect_ratio_is_refused(folder, shape):
    Image.new("RGB", (80, 40)).save(folder / "a.jpg")
    write_mask(folder / "a.png", np.ones(shape))
    images = SegmentedImages(write_csv(folder, HEADER, "a.jpg,0,a.png"))
    message = rf"{shape[1]} x {shape[0]} pixels and the upright picture 80 x 40; turn"
    with pytest.raises(ValueError, match=message):
        images.pixel_mask(0, (4, 8))


@pytest.mark.parametrize("shape", [(200, 301), (100, 151), (50, 75), (401, 602), (67, 101)])
def test_a_mask_scaled_and_rounded_to_whole_pixels_fits(folder, shape):
    Image.new("RGB", (301, 200)).save(folder / "a.jpg")
    write_mask(folder / "a.png", np.ones(shape))
    images = SegmentedImages(write_csv(folder, HEADER, "a.jpg,0,a.png"))
    assert images.pixel_mask(0, (5, 5))[0].all()


def test_a_mask_in_colors_is_refused(folder, images):
    Image.new("RGB", (8, 4)).save(folder / "a.png")
    with pytest.raises(ValueError, match=r"a\.png holds colors \(RGB\)"):
        images.pixel_mask(0, (4, 8))


def test_a_file_that_is_no_mask_is_refused_by_name(folder, images):
    noise = np.random.default_rng(0).integers(0, 4, (40, 80))
    whole = write_mask(folder / "a.png", noise).read_bytes()
    for damaged in (b"hello", whole[: len(whole) // 2]):
        (folder / "a.png").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.png cannot be read as one"):
            images.pixel_mask(0, (4, 8))


@pytest.mark.parametrize("size", [(0, 5), (4,), (4, 8, 1)])
def test_a_size_that_is_none_is_refused(images, size):
    with pytest.raises(ValueError, match="size must be"):
        images.pixel_mask(0, size)


# As a data set.


def test_it_survives_the_way_to_a_worker(images):
    copy = pickle.loads(pickle.dumps(images))
    assert torch.equal(copy.pixel_mask(0, (3, 5))[0], images.pixel_mask(0, (3, 5))[0])
    assert copy[0][1] == 7


def test_it_prints_what_it_holds(images):
    assert repr(images) == (
        "SegmentedImages(1 pictures, 1 labels, object_values=(1,), ignore_values=(3,))"
    )
