"""Promises about pictures."""

import io
import sys

import matplotlib
import numpy as np
import pytest
import torch
from captum.attr import visualization
from matplotlib.figure import Figure

from captum_masking.viz import Panel, compare, montage, overlay, to_pixels

IMAGE = torch.arange(48.0).reshape(3, 4, 4) / 47


def test_normalization_is_undone():
    pixels = torch.rand(3, 4, 5)
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    normalized = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    np.testing.assert_allclose(to_pixels(normalized, mean, std), pixels.permute(1, 2, 0), atol=1e-6)


def test_overlay_does_not_rescale_the_mask():
    image = np.full((2, 2, 3), 0.5)
    faint, strong = torch.full((2, 2), 0.1), torch.full((2, 2), 0.9)
    assert overlay(image, faint).mean() < overlay(image, strong).mean()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64])
def test_pixels_of_0_to_255_are_drawn_as_those_of_0_to_1(dtype, tmp_path):
    pixels = np.arange(48).reshape(4, 4, 3) * 5
    deep, mask = pixels.astype(dtype), torch.rand(4, 4)
    np.testing.assert_allclose(overlay(deep, mask), overlay(pixels / 255, mask), atol=1e-6)
    image = torch.as_tensor(deep).permute(2, 0, 1)
    np.testing.assert_allclose(to_pixels(image, [0.0], [1.0]), pixels / 255, atol=1e-7)
    scaled = (image.float() - 120) / 60  # by a mean and a std of 0..255
    np.testing.assert_allclose(to_pixels(scaled, [120.0], [60.0]), pixels / 255, atol=1e-6)
    drawn = []
    for number, each in enumerate((deep, pixels / 255)):
        montage([[Panel(each)]], tmp_path / f"{number}.png")
        drawn.append((tmp_path / f"{number}.png").read_bytes())
    assert drawn[0] == drawn[1]
    assert (
        compare(image, {"map": torch.rand(1, 4, 4)}).axes[0].get_images()[0].get_array().max() < 1
    )


def test_normalized_pixels_without_mean_and_std_are_said_to_be_cut():
    with pytest.warns(UserWarning, match="pixels of -2 to 2 are clipped to 0..1; give mean"):
        to_pixels(torch.tensor([[[-2.0, 2.0]]]), [0.0], [1.0])


def test_a_mask_of_0_to_255_is_laid_over_as_one_of_0_to_1():
    image, mask = np.zeros((2, 2, 3)), torch.tensor([[0, 51], [102, 255]])
    np.testing.assert_allclose(overlay(image, mask.byte()), overlay(image, mask / 255))


def test_pixels_of_another_size_than_the_mask_are_refused():
    with pytest.raises(ValueError, match=r"of the mask's size, \(4, 4, 3\), but got \(3, 4, 4\)"):
        overlay(IMAGE.numpy(), torch.rand(4, 4))


def test_a_scroll_is_drawn_and_no_error_of_size(tmp_path):
    montage([[Panel(np.zeros((3000, 4)))]], tmp_path / "scroll.png")


def test_a_mask_that_cannot_be_drawn_as_it_is_is_said_aloud():
    with pytest.warns(UserWarning, match="a mask of -1 to 200, cut to 0..1"):
        overlay(np.zeros((1, 2, 3)), torch.tensor([[-1.0, 200.0]]))
    with pytest.raises(ValueError, match="mask must be .*got .3, 2, 2."):
        overlay(np.zeros((2, 2, 3)), torch.zeros(3, 2, 2))
    with pytest.raises(ValueError, match="take one image of a batch"):
        to_pixels(torch.zeros(2, 3, 4, 4), mean=[0.5], std=[0.5])


def test_statistics_and_names_of_other_kinds_are_drawn(tmp_path):
    mean, std = torch.full((2, 3, 1, 1), 0.5)
    assert to_pixels(torch.zeros(3, 4, 4), mean, std).mean() == 0.5
    compare(IMAGE, {3: torch.zeros(1, 4, 4)})
    montage([[Panel(IMAGE.permute(1, 2, 0).numpy(), 7)]], tmp_path / "a.png")


def test_overlay_accepts_an_empty_mask():
    assert np.isfinite(overlay(np.zeros((2, 2, 3)), torch.zeros(1, 2, 2))).all()


def test_montage_writes_a_picture_and_leaves_pyplot_alone(tmp_path):
    had = "matplotlib.pyplot" in sys.modules
    rows = [[Panel(np.zeros((4, 4, 3)), "a", [(0, 0, 2, 2)]), Panel(np.zeros((4, 4)))]]
    montage(rows, tmp_path / "new" / "picture.png")
    assert (tmp_path / "new" / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert ("matplotlib.pyplot" in sys.modules) == had


@pytest.mark.parametrize(
    "title", ["$x_2$", "$", r"\frac{1}{2} 5% a_b ^ & #", r"$\nothing{$", "a\nb", "word " * 200]
)
def test_a_title_is_drawn_letter_by_letter_whatever_it_is(tmp_path, recwarn, title):
    montage([[Panel(np.zeros((8, 8, 3)), title)]], tmp_path / "picture.png")
    assert not recwarn.list
    assert compare(IMAGE, {title: torch.zeros(1, 4, 4)}).axes[1].title.get_parse_math() is False


def test_letters_that_the_font_does_not_have_are_said_once_in_our_words(tmp_path):
    with pytest.warns(UserWarning, match="drawn as boxes") as said:
        montage([[Panel(np.zeros((8, 8, 3)), "\u732b\u72ac")]], tmp_path / "picture.png")
    assert len(said) == 1 and (tmp_path / "picture.png").exists()


def test_montage_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one row"):
        montage([], tmp_path / "picture.png")


def test_overlay_leaves_the_image_where_a_value_is_nan():
    image = np.full((1, 2, 3), 0.5)
    picture = overlay(image, torch.tensor([[float("nan"), 1.0]]))
    assert (picture[0, 0] == 0.5).all() and not (picture[0, 1] == 0.5).all()


def test_overlay_takes_a_gray_image_with_and_without_a_channel():
    image, mask = np.full((2, 3), 0.5), torch.zeros(2, 3)
    np.testing.assert_array_equal(overlay(image, mask), overlay(image[..., None], mask))


def test_the_colors_get_lighter_from_0_to_1_for_readers_who_see_no_colors():
    # Luminance of linear light (Rec. 709), after the sRGB curve is undone.
    heat = overlay(np.zeros((1, 101, 3)), torch.linspace(0, 1, 101)[None], strength=1.0)[0]
    linear = np.where(heat <= 0.04045, heat / 12.92, ((heat + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) > 0).all() and luminance[0] < 0.01 and luminance[-1] > 0.8


# Several maps side by side.


def drawn(figure) -> list[np.ndarray]:
    """The picture in each panel."""
    return [np.asarray(axis.images[0].get_array()) for axis in figure.axes if axis.images]


def test_compare_shows_the_image_and_then_every_map_under_its_name():
    maps = {"one": torch.zeros(1, 4, 4), "two": torch.ones(1, 3, 4, 4)}
    figure = compare(IMAGE[None], maps)
    assert isinstance(figure, Figure)
    assert [axis.get_title() for axis in figure.axes[:3]] == ["", "one", "two"]
    image, one, two = drawn(figure)[:3]
    np.testing.assert_allclose(image, IMAGE.permute(1, 2, 0), atol=1e-6)
    np.testing.assert_allclose(one, overlay(image, torch.zeros(4, 4)))
    np.testing.assert_allclose(two, overlay(image, torch.ones(4, 4)))


def test_compare_draws_a_value_alike_whatever_else_is_in_the_map():
    alone, beside = torch.full((1, 4, 4), 0.4), torch.full((1, 4, 4), 0.4)
    beside[..., 0] = 1.0
    _, one, two = drawn(compare(IMAGE, {"alone": alone, "beside": beside}))[:3]
    np.testing.assert_array_equal(one[:, 1:], two[:, 1:])


def test_compare_has_one_scale_from_0_to_1():
    figure = compare(IMAGE, {"faint": torch.full((1, 4, 4), 0.01)})
    assert figure.axes[-1].get_ylim() == (0, 1)


@pytest.mark.parametrize("value", [0.0, 1.0, float("nan"), float("inf")])
def test_compare_survives_a_map_of_one_value(value):
    figure = compare(IMAGE, {"flat": torch.full((1, 4, 4), value)})
    assert np.isfinite(drawn(figure)[1]).all()


def test_compare_says_what_lies_beyond_the_scale_and_what_is_no_number():
    beyond = torch.tensor([-0.5, 0.2, 3.0, float("nan")]).repeat(1, 4, 1)
    (title,) = (axis.get_title() for axis in compare(IMAGE, {"raw": beyond}).axes[1:2])
    assert title == "raw\n-0.5 to 3, cut to 0..1\n4 values not finite"


def test_compare_undoes_the_normalization_of_the_image():
    figure = compare((IMAGE - 0.4) / 0.2, {"map": torch.zeros(1, 4, 4)}, mean=[0.4], std=[0.2])
    np.testing.assert_allclose(drawn(figure)[0], IMAGE.permute(1, 2, 0), atol=1e-6)


def test_compare_takes_gray_images_of_any_aspect():
    figure = compare(torch.rand(1, 4, 12), {"map": torch.rand(1, 4, 12)})
    assert figure.get_figwidth() > 2 * figure.get_figheight()


def test_compare_leaves_pyplot_and_the_backend_alone():
    had, backend = "matplotlib.pyplot" in sys.modules, matplotlib.rcParams._get("backend")
    compare(IMAGE, {"map": torch.zeros(1, 4, 4)})
    assert ("matplotlib.pyplot" in sys.modules) == had
    assert matplotlib.rcParams._get("backend") == backend


def test_compare_shows_itself_in_a_notebook():
    figure = compare(IMAGE, {"map": torch.zeros(1, 4, 4)})
    figure.canvas.print_png(file := io.BytesIO())  # what a notebook asks a figure for
    assert file.getvalue().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "inputs, maps, message",
    [
        (IMAGE, {}, "at least one map"),
        (torch.zeros(2, 3, 4, 4), {"map": torch.zeros(1, 4, 4)}, r"inputs\[0\]"),
        (torch.zeros(2, 4, 4), {"map": torch.zeros(1, 4, 4)}, "one or three channels"),
        (IMAGE, {"small": torch.zeros(1, 2, 2)}, r"'small'.*\(1, 2, 2\).*resample"),
        (IMAGE, {"many": torch.zeros(2, 1, 4, 4)}, r"'many'.*\(2, 1, 4, 4\)"),
    ],
)
def test_compare_refuses_what_it_cannot_draw_in_words(inputs, maps, message):
    with pytest.raises(ValueError, match=message):
        compare(inputs, maps)


# Captum's own drawing takes the same maps.


@pytest.mark.parametrize(
    "method", ["heat_map", "blended_heat_map", "masked_image", "alpha_scaling"]
)
def test_a_map_goes_through_captums_own_drawing(method):
    attribution = torch.rand(3, 4, 4).permute(1, 2, 0).numpy()
    figure, _ = visualization.visualize_image_attr(
        attribution,
        IMAGE.permute(1, 2, 0).numpy(),
        method=method,
        sign="positive",
        use_pyplot=False,
    )
    assert isinstance(figure, Figure)


def test_captums_own_drawing_fails_on_an_empty_map_where_compare_does_not():
    empty = torch.zeros(1, 4, 4)
    with pytest.raises(AssertionError, match="normalize"):
        visualization.visualize_image_attr(
            empty.permute(1, 2, 0).numpy(), sign="positive", use_pyplot=False
        )
    compare(IMAGE, {"empty": empty})
