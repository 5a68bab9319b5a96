"""Promises of the data sets: what comes out, and which files are refused in which words."""

from __future__ import annotations

import csv
import pickle
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from captum_masking.data import BoxedImages, DigitsOnTextures, digits

BOXED = "file,label,x0,y0,x1,y1"


def write_csv(folder: Path, *lines: str) -> Path:
    path = folder / "val.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_picture(path: Path, color=(255, 0, 0), mode="RGB", size=(8, 4)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a.png and b.png."""
    write_picture(tmp_path / "a.png")
    write_picture(tmp_path / "b.png", color=(0, 0, 255))
    return tmp_path


# Pictures from a CSV.


def test_rows_of_one_file_are_joined_in_the_order_of_first_appearance(folder):
    rows = ["b.png,1,0,0,0.5,0.5", "a.png,7,0,0,1,1", "b.png,1,0.5,0.5,1,1"]
    images = BoxedImages(write_csv(folder, BOXED, *rows))
    assert [file.name for file in images.files] == ["b.png", "a.png"]
    assert images.labels == [1, 7]
    assert images.boxes[0].tolist() == [[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]]
    assert images.boxes[1].tolist() == [[0, 0, 1, 1]]
    assert images.class_names is None


def test_a_csv_without_box_columns_has_no_boxes(folder):
    images = BoxedImages(write_csv(folder, "file,label", "a.png,0", "b.png,1"))
    assert [tuple(boxes.shape) for boxes in images.boxes] == [(0, 4), (0, 4)]


@pytest.mark.parametrize("row", ["a.png,0,,,,", "a.png,0, , , , ", "a.png,0"])
def test_a_row_with_empty_box_cells_has_no_box(folder, row):
    images = BoxedImages(write_csv(folder, BOXED, row, "b.png,1,0,0,1,1"))
    assert [len(boxes) for boxes in images.boxes] == [0, 1]


def test_an_item_is_a_picture_in_rgb_and_its_label(folder):
    picture, label = BoxedImages(write_csv(folder, "file,label", "a.png,5"))[0]
    assert (picture.mode, picture.size, label) == ("RGB", (8, 4), 5)
    assert picture.getpixel((0, 0)) == (255, 0, 0)


def test_the_transform_gets_the_picture(folder):
    table = write_csv(folder, "file,label", "a.png,5")
    images = BoxedImages(table, transform=lambda picture: picture.size)
    assert images[0] == ((8, 4), 5)
    assert list(images) == [((8, 4), 5)]


def test_another_column_can_hold_the_label(folder):
    table = write_csv(folder, "file,label,label1k", "a.png,0,281")
    assert BoxedImages(table, label_column="label1k").labels == [281]


def test_a_csv_as_spreadsheets_write_it_is_read(folder):
    text = 'file, label\r\n"a.png", 3\r\n\r\n'
    (folder / "val.csv").write_bytes(text.encode("utf-8-sig"))
    assert BoxedImages(folder / "val.csv").labels == [3]


def test_paths_are_relative_to_the_folder_of_the_csv(folder, monkeypatch):
    write_picture(folder / "deep" / "c.png")
    table = write_csv(folder, "file,label", "deep/c.png,3", f"{folder / 'a.png'},4")
    monkeypatch.chdir("/")
    assert BoxedImages(str(table)).files == [folder / "deep" / "c.png", folder / "a.png"]


@pytest.mark.parametrize(
    ("mode", "color"),
    [("L", 128), ("1", 1), ("P", 3), ("LA", (128, 255)), ("RGBA", (1, 2, 3, 4)), ("I;16", 50_000)],
)
def test_every_kind_of_png_comes_out_in_rgb(tmp_path, mode, color):
    write_picture(tmp_path / "a.png", color, mode)
    picture, _ = BoxedImages(write_csv(tmp_path, "file,label", "a.png,0"))[0]
    assert (picture.mode, picture.size) == ("RGB", (8, 4))


def test_a_picture_for_print_comes_out_in_rgb(tmp_path):
    write_picture(tmp_path / "a.jpg", (0, 0, 0, 0), "CMYK")
    picture, _ = BoxedImages(write_csv(tmp_path, "file,label", "a.jpg,0"))[0]
    assert picture.mode == "RGB"
    assert min(picture.getpixel((0, 0))) > 250  # no ink is white


def test_sixteen_bits_of_gray_are_scaled_not_clipped(tmp_path):
    gray = np.full((4, 8), 128 * 257, dtype=np.uint16)
    Image.fromarray(gray).save(tmp_path / "a.png")
    picture, _ = BoxedImages(write_csv(tmp_path, "file,label", "a.png,0"))[0]
    assert picture.getpixel((0, 0)) == (128, 128, 128)


def test_a_picture_taken_sideways_comes_out_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    Image.new("RGB", (8, 4)).save(tmp_path / "a.jpg", exif=exif)
    picture, _ = BoxedImages(write_csv(tmp_path, "file,label", "a.jpg,0"))[0]
    assert picture.size == (4, 8)


def test_a_data_set_survives_the_way_to_a_worker_without_a_tensor_in_its_luggage(folder):
    rows = ["a.png,0,0,0,0.3,0.5", "b.png,1,,,,"]
    images = BoxedImages(write_csv(folder, BOXED, *rows))
    assert not any(isinstance(boxes, torch.Tensor) for boxes in images.__getstate__()["boxes"])
    copy = pickle.loads(pickle.dumps(images))
    assert all(torch.equal(*pair) for pair in zip(copy.boxes, images.boxes, strict=True))
    assert copy[1][1] == 1


def test_a_data_set_prints_what_it_holds(folder):
    images = BoxedImages(write_csv(folder, BOXED, "a.png,0,0,0,1,1", "b.png,0,,,,"))
    assert repr(images) == "BoxedImages(2 pictures, 1 labels, 1 boxes)"


# Pictures from folders.


def test_folders_are_classes_in_the_order_of_their_names(tmp_path):
    for name in ("dog/2.PNG", "dog/1.jpeg", "ant/x.webp", "cat/y.BMP", "cat/z.JPG"):
        write_picture(tmp_path / name)
    (tmp_path / "cat" / "notes.txt").write_text("not a picture")
    (tmp_path / ".cache").mkdir()
    images = BoxedImages(tmp_path)
    assert images.class_names == ["ant", "cat", "dog"]
    assert [file.name for file in images.files] == ["x.webp", "y.BMP", "z.JPG", "1.jpeg", "2.PNG"]
    assert images.labels == [0, 1, 1, 2, 2]
    assert [tuple(boxes.shape) for boxes in images.boxes] == [(0, 4)] * 5
    assert images[4][1] == 2


@pytest.mark.parametrize(
    ("numbers", "labels"), [(range(1, 13), range(12)), (range(12), range(12)), ((4, 8), (4, 8))]
)
def test_folders_named_by_numbers_are_those_numbers(tmp_path, numbers, labels):
    for number in numbers:
        write_picture(tmp_path / str(number) / "a.png")
    with pytest.warns(UserWarning, match="named by numbers: .* is class .*class_names"):
        images = BoxedImages(tmp_path)
    assert images.labels == list(labels)
    assert [images.class_names[label] for label in labels] == list(map(str, numbers))


def test_class_names_number_folders_and_the_names_of_a_csv(folder, recwarn):
    write_picture(folder / "tree" / "Cat" / "a.png")
    names = {0: "dog", 1: "cat"}
    assert BoxedImages(folder / "tree", class_names=names).labels == [1]
    table = write_csv(folder, "file,label", "a.png,dog", "b.png, cat")
    images = BoxedImages(table, class_names=names)
    assert images.labels == [0, 1] and images.class_names == ["dog", "cat"]
    assert BoxedImages(table).labels == [1, 0]  # in the order of their names
    assert not recwarn.list


def test_a_folder_without_folders_is_refused(folder):
    with pytest.raises(ValueError, match="one folder of pictures per class.*holds no folders"):
        BoxedImages(folder)


def test_a_class_without_pictures_is_refused_by_name(tmp_path):
    write_picture(tmp_path / "cat" / "a.png")
    (tmp_path / "dog").mkdir()
    with pytest.raises(ValueError, match="dog holds none"):
        BoxedImages(tmp_path)


# Bad CSVs.


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([""], "has no rows; write one line"),
        (["file,label"], "has no rows"),
        (
            ["file,klass", "a.png,0"],
            r"found \['file', 'klass'\] without \['label'\]; .*label_column",
        ),
        (["picture,label", "a.png,0"], r"without \['file'\]"),
        (["file;label", "a.png;0"], r"found \['file;label'\] without .*separate columns by commas"),
        (["file,label,x0,y0", "a.png,0,0,0"], r"without \['x1', 'y1'\]"),
        (["file,label", "a.png,0", ",1"], "line 3: expected the path of a picture"),
        (["file,label", "a.png,0", "b.png,cat"], "line 3: expected a whole number.*got 'cat'"),
        (["file,label", "a.png,-1"], "line 2: expected a whole number >= 0.*got '-1'"),
        (["file,label", "a.png,cat", "b.png,"], "line 2: expected a whole number"),
        (["file,label", "a.png,cat", "b.png,nan"], "line 2: expected a whole number"),
        (["file,label", "a.png,1.5"], "line 2: expected a whole number.*got '1.5'"),
        (["file,label", "a.png,"], "line 2: expected a whole number.*got ''"),
        (["file,label", "a,b.png,0"], "line 2: expected at most 2 cells.*got 3; quote"),
        (["file,label", "a.png,0", "a.png,1"], "line 3.*a.png has label 0 above and 1 here"),
        ([BOXED, "a.png,0,0,0,1.2,1"], "line 2.*box of a.png as fractions.*got 0,0,1.2,1"),
        ([BOXED, "a.png,0,-0.1,0,1,1"], "line 2.*as fractions"),
        ([BOXED, "a.png,0,12,30,80,90"], "line 2.*divide pixels by the picture's width"),
        ([BOXED, "a.png,0,0.5,0,0.5,1"], "line 2.*x0 < x1"),
        ([BOXED, "a.png,0,0,0.6,1,0.5"], "line 2.*y0 < y1"),
        ([BOXED, "a.png,0,0,nan,1,1"], "line 2.*as fractions"),
        ([BOXED, "a.png,0,0,0,1,1", "b.png,0,0,left,1,1"], "line 3.*four numbers.*box of b.png"),
        ([BOXED, "a.png,0,0,0,1,"], "line 2: expected four numbers.*leave all four cells empty"),
        (["file,label", '"a.png,0'], "CSV file in UTF-8"),
        (["file,label,label", "a.png,0,1"], "column 2 is 'label' and column 3 is 'label'; rename"),
        (["file,label, x0,x1,x0", "a.png,0"], "column 3 is 'x0' and column 5 is 'x0'"),
        (["Label,file,label ", "1,a.png,0"], "column 1 is 'Label' and column 3 is 'label'"),
        (["path,label", "a.png,0"], "name the column of paths 'file'"),
        (["file,label,xmin,ymin,xmax,ymax", "a.png,0,12,3,80,90"], "divide pixels by"),
        (["file,label,left,top,right,bottom", "a.png,0,l,0,1,1"], "numbers left,top,right,bottom"),
        (
            ["file,label,xmin,ymin,xmax,ymax,left,top,right,bottom", "a.png,0"],
            "edges of one box.*found those of 2: xmin,ymin,xmax,ymax and left,top,right,bottom",
        ),
    ],
)
def test_a_bad_csv_is_refused_at_the_door(folder, lines, message):
    with pytest.raises(ValueError, match=message):
        BoxedImages(write_csv(folder, *lines))


@pytest.mark.parametrize(
    "edges",
    [
        "x0,y0,x1,y1",
        "X0,Y0,X1,Y1",
        "xmin,ymin,xmax,ymax",
        " x_min , y_min , x_max , y_max ",
        "bbox_x1,bbox_y1,bbox_x2,bbox_y2",
        "Left,Top,Right,Bottom",
        "x0,y0,x1,y1,xmin,ymin,xmax,ymax",
    ],
)
def test_the_edges_of_a_box_are_known_by_their_usual_names(folder, edges):
    table = write_csv(folder, f"file,label,{edges}", "a.png,0,0.25,0,0.5,0.75")
    assert BoxedImages(table).boxes[0].tolist() == [[0.25, 0, 0.5, 0.75]]


@pytest.mark.parametrize(
    "heads",
    [
        "x,y,w,h",
        "x_center,y_center,width,height",
        "bbox,area",
        "boxes,a",
        "Roi.X1,Roi.Y1",
        "startX,endX",
    ],
)
def test_columns_that_look_like_boxes_but_are_not_read_are_named(folder, heads):
    table = write_csv(folder, f"file,label,{heads}", "a.png,0,0.25,0")
    first = heads.partition(",")[0]
    with pytest.warns(UserWarning, match=f"not read: {first}.*name the edges x0,y0,x1,y1"):
        assert len(BoxedImages(table).boxes[0]) == 0


def test_two_columns_for_one_edge_are_refused_but_for_the_stated_ones(folder):
    cells = "a.png,0,0.25,0,0.5,0.75,0.3"
    table = write_csv(folder, "file,label,x_min,ymin,xmax,ymax,xmin", cells)
    with pytest.raises(ValueError, match="two columns for one edge, .'x_min', 'xmin'.; name those"):
        BoxedImages(table)
    table = write_csv(folder, "file,label,x0,y0,x1,y1,bbox_x0", cells)
    assert BoxedImages(table).boxes[0].tolist() == [[0.25, 0, 0.5, 0.75]]


def test_columns_that_are_no_boxes_need_no_word(folder, recwarn):
    BoxedImages(write_csv(folder, "file,label,width,height,year,,", "a.png,0,8,4,1999,,,"))
    assert not recwarn.list


def test_paths_as_windows_writes_them_are_found(folder):
    write_picture(folder / "deep" / "c.png")
    images = BoxedImages(write_csv(folder, "file,label", r"deep\c.png,3", "a.png,0"))
    assert [file.name for file in images.files] == ["c.png", "a.png"]


def test_a_missing_csv_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv does not exist"):
        BoxedImages(tmp_path / "nowhere.csv")


def test_a_picture_in_place_of_the_csv_is_refused(folder):
    with pytest.raises(ValueError, match=r"CSV file in UTF-8, but .*a\.png is not one"):
        BoxedImages(folder / "a.png")


def test_missing_pictures_are_counted_and_the_first_is_named(folder):
    table = write_csv(folder, "file,label", "a.png,0", "gone.png,0", "lost.png,1")
    with pytest.raises(FileNotFoundError, match=r"2 of 3 do not, the first being .*gone\.png"):
        BoxedImages(table)


def test_pictures_without_boxes_are_refused_where_boxes_are_required(folder):
    table = write_csv(folder, BOXED, "a.png,0,0,0,1,1", "b.png,0,,,,")
    with pytest.raises(ValueError, match=r"1 of 2 have none, the first being .*b\.png"):
        BoxedImages(table, require_boxes=True)


def test_a_file_that_is_no_picture_is_refused_by_name_when_read(folder):
    (folder / "a.png").write_text("hello")
    images = BoxedImages(write_csv(folder, "file,label", "a.png,0"))
    with pytest.raises(ValueError, match=r"expected a picture, but .*a\.png cannot be read"):
        images[0]


def test_half_a_picture_is_refused_by_name_when_read(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"a\.jpg cannot be read"):
        BoxedImages(write_csv(tmp_path, "file,label", "a.jpg,0"))[0]


def test_a_transform_that_cannot_be_called_is_refused(folder):
    with pytest.raises(TypeError, match="callable as transform.*got 'resize'"):
        BoxedImages(write_csv(folder, "file,label", "a.png,0"), transform="resize")


def test_a_csv_written_by_pythons_writer_is_read_back(folder):
    write_picture(folder / 'odd, "name" ü.png')
    with open(folder / "val.csv", "w", newline="", encoding="utf-8") as lines:
        csv.writer(lines).writerows([("file", "label"), ('odd, "name" ü.png', 2)])
    images = BoxedImages(folder / "val.csv")
    assert images[0][1] == 2


# Digits on textures.


@pytest.fixture(scope="module")
def some_digits() -> DigitsOnTextures:
    return DigitsOnTextures(200, size=64)


def test_an_image_of_a_digit_is_centered_on_mid_gray(some_digits):
    image, label = some_digits[3]
    assert (image.shape, image.dtype, type(label)) == ((3, 64, 64), torch.float32, int)
    pixels = torch.stack([image for image, _ in some_digits])
    assert pixels.min() >= -1 and pixels.max() <= 1
    assert abs(pixels.mean()) < 0.1
    assert 0.2 < pixels.std() < 1
    assert set(some_digits.labels) == set(range(10))


def test_the_box_is_the_tight_box_of_the_mask(some_digits):
    assert some_digits.masks.shape == (200, 1, 64, 64)
    for mask, box in zip(some_digits.masks, some_digits.boxes, strict=True):
        ys, xs = mask[0].nonzero().T
        slow = [[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]]
        assert (box * 64).tolist() == slow


def test_a_digit_is_a_third_to_two_thirds_of_the_side_and_lies_anywhere(some_digits):
    boxes = torch.cat(some_digits.boxes)
    heights, centers = boxes[:, 3] - boxes[:, 1], (boxes[:, :2] + boxes[:, 2:]) / 2
    assert 0.25 < heights.min() < 0.35 and 0.6 < heights.max() < 0.75
    assert (centers.amin(0) < 0.25).all() and (centers.amax(0) > 0.75).all()


def test_the_same_index_gives_the_same_image_in_a_longer_set(some_digits):
    short = DigitsOnTextures(5, size=64)
    assert torch.equal(short.images, some_digits.images[:5])
    assert torch.equal(short.masks, some_digits.masks[:5])
    assert short.labels == some_digits.labels[:5]


def test_seed_and_half_change_the_images(some_digits):
    assert not torch.equal(DigitsOnTextures(1, seed=1).images, some_digits.images[:1])
    assert not torch.equal(DigitsOnTextures(1, train=False).images, some_digits.images[:1])


def test_making_digits_leaves_every_random_state_alone():
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    DigitsOnTextures(3, size=32)
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_training_and_held_out_share_no_digit_and_no_texture():
    from skimage import data
    from sklearn.datasets import load_digits

    train, held_out = digits.load_source(True), digits.load_source(False)
    assert len(train.digits) + len(held_out.digits) == len(load_digits().target)
    seen = {digit.tobytes() for digit in train.digits}
    assert not any(digit.tobytes() in seen for digit in held_out.digits)
    for left, right, whole in zip(
        train.textures, held_out.textures, (data.brick(), data.grass(), data.gravel()), strict=True
    ):
        assert left.shape[1] + right.shape[1] == whole.shape[1]


def test_neither_brightness_nor_hue_gives_the_digit_away(some_digits):
    pixels, on = some_digits.images.float(), some_digits.masks[:, 0]
    ink = torch.stack([image[:, mask].mean(1) for image, mask in zip(pixels, on, strict=True)])
    ground = torch.stack([image[:, ~mask].mean(1) for image, mask in zip(pixels, on, strict=True)])
    luma = torch.tensor([0.3, 0.59, 0.11])
    contrast = (ink - ground) @ luma / 255
    assert 0.3 < (contrast > 0).float().mean() < 0.7  # lighter as often as darker
    assert contrast.abs().min() > 0.15  # and always to be read
    share = (ink.argmax(1)[:, None] == torch.arange(3)).float().mean(0)
    assert (share > 0.15).all()  # mostly red, mostly green, mostly blue


@pytest.mark.parametrize("size", [16, 63, 96, 224])
def test_digits_come_in_any_size(size):
    images = DigitsOnTextures(2, size=size, train=False)
    assert images[0][0].shape == (3, size, size)
    assert images.masks.any(-1).any(-1).all()


def test_digits_survive_the_way_to_a_worker():
    images = DigitsOnTextures(3, size=32, train=False, seed=7)
    copy = pickle.loads(pickle.dumps(images))
    assert torch.equal(copy.images, images.images)
    assert all(torch.equal(*pair) for pair in zip(copy.boxes, images.boxes, strict=True))
    assert "boxes" not in images.__getstate__()
    assert repr(copy) == "DigitsOnTextures(3, size=32, train=False, seed=7)"


def test_digits_and_pictures_have_the_same_attributes(folder, some_digits):
    images = BoxedImages(write_csv(folder, BOXED, "a.png,0,0,0,1,1"))
    for data_set in (images, some_digits):
        assert len(data_set.boxes) == len(data_set.labels) == len(data_set)
        assert data_set.boxes[0].shape == (1, 4)
        assert data_set.boxes[0].dtype == torch.float32
        assert all(type(label) is int for label in data_set.labels)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"count": 0}, ValueError, "count must be a whole number >= 1, but got 0"),
        ({"count": 2.0}, TypeError, "count must be a whole number >= 1, but got 2.0"),
        ({"count": 1, "size": 8}, ValueError, "size must be a whole number >= 16, but got 8"),
        ({"count": 1, "seed": -1}, ValueError, "seed must be a whole number >= 0, but got -1"),
        ({"count": True}, TypeError, "count must be a whole number"),
    ],
)
def test_bad_numbers_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        DigitsOnTextures(**arguments)


@pytest.mark.parametrize("library", ["sklearn.datasets", "skimage"])
def test_without_the_demo_extra_the_error_says_how_to_install_it(monkeypatch, library):
    digits.load_source.cache_clear()
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=r"pip install 'captum-masking\[demo\]'"):
        DigitsOnTextures(1)
