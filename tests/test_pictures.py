"""Promises about reading: one reader, a rule for each depth, and a sentence where there is none."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from captum_masking import zoo
from captum_masking.data import BoxedImages
from captum_masking.data.pictures import SUFFIXES, read_picture

RAMP = np.arange(0, 256, dtype=np.uint8).reshape(16, 16)  # black to white
GRAY = np.repeat(RAMP[..., None], 3, axis=2)


def written(folder: Path, name: str, values: np.ndarray, **more) -> Path:
    Image.fromarray(values).save(folder / name, **more)
    return folder / name


def deep_png(file: Path, values: np.ndarray) -> Path:
    """Write colors of 16 bits, ``(H, W, 3 or 4)``, which Pillow cannot."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    height, width, channels = values.shape
    head = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return file


def pixels(source, value_range=None) -> np.ndarray:
    return np.asarray(read_picture(source, value_range))


# The rule of each depth.


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jp2"])
def test_sixteen_bits_are_read_from_0_to_65535(tmp_path, name):
    assert np.array_equal(pixels(written(tmp_path, name, RAMP.astype(np.uint16) * 257)), GRAY)


def test_floating_point_is_read_from_0_to_1(tmp_path):
    assert np.array_equal(pixels(written(tmp_path, "a.tif", np.float32(RAMP / 255))), GRAY)


def test_colors_of_sixteen_bits_are_read_in_eight(tmp_path):
    file = deep_png(tmp_path / "a.png", GRAY.astype(np.uint16) * 257)
    assert np.array_equal(pixels(file), GRAY)


def test_where_zero_is_white_the_picture_is_turned_round(tmp_path):
    raw = 65535 - RAMP.astype(np.uint16) * 257
    file = written(tmp_path, "a.tif", raw)
    content = file.read_bytes()  # Pillow writes that black is zero: tag 262, a short, once, 1
    entry = struct.pack("<HHII", 262, 3, 1, 1)
    assert content.count(entry) == 1
    file.write_bytes(content.replace(entry, struct.pack("<HHII", 262, 3, 1, 0)))
    assert np.array_equal(pixels(file), GRAY)


@pytest.mark.parametrize("value", [0, 65535])
def test_a_black_and_a_white_picture_of_sixteen_bits_are_read(tmp_path, value):
    file = written(tmp_path, "a.png", np.full((4, 4), value, np.uint16))
    assert set(pixels(file).ravel()) == {value // 257}


@pytest.mark.parametrize(
    ("values", "words", "value_range"),
    [
        (RAMP.astype(np.uint16), "up to 65535.*values of 0 to 255; .*--range 0 255", (0, 255)),
        (RAMP.astype(np.uint16) * 16, "values of 0 to 4080; .*--range 0 4095", (0, 4080)),
        (RAMP.astype(np.int32) * 10 - 1000, "-1000 to 1550; .*-1000 1550\\.", (-1000, 1550)),
        (RAMP.astype(np.float32), "up to 1, white, .*--range 0 255", (0, 255)),
        (np.float32(RAMP / 64 - 2), "values of -2 to 1.98", (-2, 255 / 64 - 2)),
    ],
)
def test_values_that_do_not_fit_the_depth_need_a_range(tmp_path, values, words, value_range):
    file = written(tmp_path, "a.tif", values)
    with pytest.raises(ValueError, match=words):
        read_picture(file)
    assert np.array_equal(pixels(file, value_range), GRAY)
    with pytest.raises(ValueError, match=words):
        zoo.Preprocess(image_size=16)(values)  # an array is read as a file is


def test_colors_whose_upper_halves_are_black_are_refused(tmp_path):
    with pytest.raises(ValueError, match="16, almost black; save it with 8 bits a color"):
        read_picture(deep_png(tmp_path / "a.png", GRAY.astype(np.uint16)))
    opaque = np.dstack([GRAY, np.full_like(RAMP, 255)]).astype(np.uint16)
    with pytest.raises(ValueError, match="almost black"):
        read_picture(deep_png(tmp_path / "b.png", opaque))


def test_pixels_that_are_not_finite_are_refused(tmp_path):
    values = np.float32(RAMP / 255)
    values[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        read_picture(written(tmp_path, "a.tif", values), (0, 1))


def test_a_range_that_cannot_be_is_refused_at_the_door(tmp_path):
    with pytest.raises(ValueError, match="value_range .*got 5 and 1"):
        zoo.Preprocess(value_range=(5, 1))


def test_a_range_beside_the_values_or_for_eight_bits_is_said_aloud(tmp_path):
    file = written(tmp_path, "a.png", RAMP.astype(np.uint16) * 257)
    with pytest.warns(UserWarning, match="less than 5 %.* in the value_range, 1 to 2"):
        read_picture(file, (1, 2))
    with pytest.warns(UserWarning, match="more than 8 bits"):
        assert np.array_equal(pixels(written(tmp_path, "b.png", RAMP), (0, 100)), GRAY)


def test_training_and_explaining_read_the_same(tmp_path):
    file = written(tmp_path, "a.tif", RAMP.astype(np.int32) - 100)
    (tmp_path / "a.csv").write_text("file,label\na.tif,0\n")
    preprocess = zoo.Preprocess(image_size=16, value_range=(-100, 155))
    trained, _ = BoxedImages(tmp_path / "a.csv", transform=preprocess, value_range=(-100, 155))[0]
    assert trained.equal(preprocess(file)) and trained.equal(preprocess(GRAY))
    assert zoo.Preprocess(**preprocess.notes()) == preprocess


# Transparency, frames, colors.


@pytest.mark.parametrize("name", ["a.png", "a.gif", "a.webp"])
def test_what_is_transparent_is_white_whatever_color_it_hides(tmp_path, name):
    values = np.zeros((8, 8, 4), np.uint8)
    values[:4] = 255, 0, 255, 0  # hidden magenta
    values[4:] = 10, 20, 30, 255
    more = {"lossless": True} if name == "a.webp" else {}
    found = pixels(written(tmp_path, name, values, **more))
    assert found[0, 0].tolist() == [255, 255, 255] and found[7, 7].tolist() == [10, 20, 30]


@pytest.mark.parametrize("values", [RAMP, GRAY, RAMP.astype(np.uint16) * 257])
def test_one_color_may_be_the_transparent_one(tmp_path, values):
    clear = int(values[0, 9]) if values.ndim == 2 else tuple(map(int, values[0, 9]))
    found = pixels(written(tmp_path, "a.png", values, transparency=clear))
    assert found[0, 9].tolist() == [255] * 3 and found[0, 8].tolist() == [8] * 3


@pytest.mark.parametrize(
    ("name", "kind"), [("a.gif", "GIF"), ("a.tif", "TIFF"), ("a.webp", "WEBP")]
)
def test_of_several_frames_the_first_is_read_and_that_is_said(tmp_path, name, kind):
    second = Image.new("RGB", (16, 16))
    Image.fromarray(GRAY).save(tmp_path / name, save_all=True, append_images=[second])
    with pytest.warns(UserWarning, match=rf"first frame or page of a picture is read \({kind}"):
        assert pixels(tmp_path / name).mean() > 100


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "1", "P", "L"])
def test_every_mode_comes_out_in_rgb(tmp_path, mode):
    color = {"CMYK": (0, 0, 0, 0), "LAB": (255, 128, 128), "YCbCr": (255, 128, 128)}.get(mode, 255)
    picture = Image.new(mode, (4, 4), color)
    if mode == "P":
        picture.putpalette([255] * 768)
    try:
        picture.save(tmp_path / "a.tif")
        Image.open(tmp_path / "a.tif").load()
    except OSError:
        pytest.skip(f"this Pillow does not read back the {mode} that it writes")
    assert pixels(tmp_path / "a.tif").min() > 250


def test_a_tiff_that_lies_on_its_side_is_turned_or_refused_never_scrambled(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = RAMP[:8]
    for compression in (None, "tiff_deflate"):
        file = written(tmp_path, "a.tif", np.rot90(wide).copy(), exif=exif, compression=compression)
        try:
            assert np.array_equal(pixels(file)[..., 0], wide)
        except ValueError as error:
            assert compression is None and "Pillow cannot read" in str(error)


# What is no picture.


@pytest.mark.parametrize("size", [(1, 1), (1, 300)])
def test_a_picture_of_one_pixel_is_refused(size):
    with pytest.raises(ValueError, match="at least 2 x 2 pixels.*has 1 x"):
        read_picture(Image.new("RGB", size))


def test_a_picture_too_large_is_refused_in_words(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"a\.png cannot be read as one .*exceeds.*scale it down"):
        read_picture(written(tmp_path, "a.png", GRAY))


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "folder", "link"])
def test_what_is_no_picture_is_one_sentence(tmp_path, kind):
    file = tmp_path / "a.jpg"
    if kind == "folder":
        file.mkdir()
    elif kind == "link":
        file.symlink_to(tmp_path / "nowhere.jpg")
    else:
        Image.effect_noise((64, 64), 50).save(file)
        content = {"empty": b"", "text": b"hello", "truncated": file.read_bytes()[:900]}
        file.write_bytes(content[kind])
    with pytest.raises((ValueError, OSError), match=r"a\.jpg"):
        read_picture(file)


@pytest.mark.parametrize(
    "thing", [np.zeros((3, 8, 8)), np.zeros(8), np.zeros((0, 8)), [[0]], None, "tensor"]
)
def test_what_is_not_shaped_as_a_picture_is_refused_with_the_way_out(thing):
    with pytest.raises(TypeError, match=r"a picture must be a file.*permute\(1, 2, 0\)"):
        read_picture(torch.zeros(3, 8, 8) if isinstance(thing, str) else thing)


def test_an_open_file_is_read_as_its_path_is(tmp_path):
    file = written(tmp_path, "a.png", RAMP)
    np.testing.assert_array_equal(pixels(io.BytesIO(file.read_bytes())), pixels(file))


def test_the_range_proposed_for_fractions_covers_them():
    with pytest.raises(ValueError, match=r"--range 0 3\."):
        pixels(RAMP.astype(np.float32) / 170)


def test_deep_arrays_and_pil_images_are_read_as_files_are():
    deep = GRAY.astype(np.uint16) * 257
    for source in (deep, GRAY / 255, np.float32(RAMP / 255), Image.fromarray(deep[..., 0])):
        assert np.array_equal(pixels(source), GRAY)


# Folders.


def test_a_folder_says_what_it_leaves_out_by_kind(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for suffix in (".JPG", ".jfif", ".tif", ".gif", ".webp"):
            kind = "jpeg" if suffix.lower() in (".jpg", ".jfif") else None
            written(tmp_path / name, f"a{suffix}", GRAY, format=kind)
    for name in ("a.heic", "b.heic", "notes.txt", "README", ".DS_Store", ".hidden.jpg"):
        (tmp_path / "cat" / name).touch()
    (tmp_path / "cat" / "c.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "cat" / "more.jpg").mkdir()
    written(tmp_path, "beside.png", GRAY)
    counts = "2 .heic, 1 .png beside the class folders, 1 .txt, 1 broken links, 1 folders, "
    with pytest.warns(UserWarning, match=f"{counts}1 hidden .jpg, 1 without a suffix; only .jpg"):
        images = BoxedImages(tmp_path)
    assert images.labels == [0] * 5 + [1] * 5
    assert all(images[index][0].size == (16, 16) for index in range(10))


def test_every_suffix_is_one_that_pillow_takes():
    assert set(SUFFIXES) <= set(Image.registered_extensions())


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_one_sentence(tmp_path):
    file = written(tmp_path, "a.png", GRAY)
    file.chmod(0)
    with pytest.raises(ValueError, match=r"a\.png cannot be read as one.*denied"):
        read_picture(file)
