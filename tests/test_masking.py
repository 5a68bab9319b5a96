"""What 0 and 1 mean, where mask and image meet."""

from __future__ import annotations

import pytest
import torch

from captum_masking.parts.infill import Mean
from captum_masking.parts.masking import fill, mask_images, masked_halves


def nines(inputs, hole):
    return torch.full_like(inputs, 9.0)


@pytest.fixture
def inputs():
    return torch.randn(2, 3, 8, 8)


def test_mask_of_ones_keeps_the_image_in_masked_in(inputs):
    masked_in, masked_out = mask_images(inputs, torch.ones(2, 1, 8, 8), nines)
    assert torch.equal(masked_in, inputs)
    assert (masked_out == 9).all()


def test_mask_of_zeros_keeps_the_image_in_masked_out(inputs):
    masked_in, masked_out = mask_images(inputs, torch.zeros(2, 1, 8, 8), nines)
    assert (masked_in == 9).all()
    assert torch.equal(masked_out, inputs)


def test_masked_in_and_masked_out_swap_when_the_mask_is_inverted(inputs):
    mask = torch.rand(2, 1, 8, 8)
    masked_in, masked_out = mask_images(inputs, mask, nines)
    swapped_in, swapped_out = mask_images(inputs, 1 - mask, nines)
    torch.testing.assert_close(masked_in, swapped_out)
    torch.testing.assert_close(masked_out, swapped_in)


def test_a_soft_mask_mixes_image_and_infill():
    inputs, mask = torch.tensor([[[[4.0, 8.0, 5.0]]]]), torch.tensor([[[[0.25, 1.0, 0.5]]]])
    masked_in, masked_out = mask_images(inputs, mask, nines)
    # 0.25 * 4 + 0.75 * 9, 8, 0.5 * 5 + 0.5 * 9; and 0.75 * 4 + 0.25 * 9, 9, the same
    assert masked_in.tolist() == [[[[7.75, 8.0, 7.0]]]]
    assert masked_out.tolist() == [[[[5.25, 9.0, 7.0]]]]


def test_a_hole_of_one_is_missing_and_a_hole_of_zero_is_kept():
    filled = fill(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[1.0, 0.0]]]), nines)
    assert filled.tolist() == [[[9.0, 2.0]]]


def test_the_two_halves_add_up_to_the_image_and_its_infill(inputs):
    masked_in, masked_out = mask_images(inputs, torch.rand(2, 1, 8, 8), nines)
    torch.testing.assert_close(masked_in + masked_out, inputs + 9)


def test_one_mask_hides_all_channels_of_a_pixel(inputs):
    mask = torch.zeros(2, 1, 8, 8)
    mask[0, 0, 3, 5] = 1
    masked_in, _ = mask_images(inputs, mask, Mean())
    assert torch.equal(masked_in[0, :, 3, 5], inputs[0, :, 3, 5])
    assert masked_in.count_nonzero() == 3


def test_each_side_tells_the_infill_its_own_hole(inputs):
    holes = []
    mask = torch.rand(2, 1, 8, 8)
    mask_images(inputs, mask, lambda inputs, hole: holes.append(hole) or torch.zeros_like(inputs))
    hole_of_masked_in, hole_of_masked_out = holes
    torch.testing.assert_close(hole_of_masked_in, 1 - mask)
    torch.testing.assert_close(hole_of_masked_out, mask)


def test_the_infill_sees_the_whole_image(inputs):
    seen = []
    mask = torch.rand(2, 1, 8, 8)
    mask_images(inputs, mask, lambda inputs, hole: seen.append(inputs) or torch.zeros_like(inputs))
    assert all(torch.equal(image, inputs) for image in seen)


@pytest.mark.parametrize("spatial", [(8,), (8, 6), (4, 5, 6)])
def test_signals_images_and_volumes_are_masked_alike(spatial):
    inputs, mask = torch.randn(2, 3, *spatial), torch.zeros(2, 1, *spatial)
    mask[..., 2] = 1
    masked_in, masked_out = mask_images(inputs, mask, Mean())
    assert torch.equal(masked_in[..., 2], inputs[..., 2])
    assert not masked_out[..., 2].any() and not masked_in[..., :2].any()


def test_mask_images_rejects_a_low_resolution_mask(inputs):
    shapes = r"\(2, 1, 8, 8\).*\(2, 3, 8, 8\).*\(2, 1, 4, 4\)"
    with pytest.raises(ValueError, match=shapes + ".*upsample"):
        mask_images(inputs, torch.ones(2, 1, 4, 4), Mean())


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 1, 8, 8), (2, 8, 8), (2, 1, 8, 1)])
def test_mask_images_rejects_masks_that_would_only_fit_by_broadcasting(inputs, shape):
    with pytest.raises(ValueError, match="mask must have shape"):
        mask_images(inputs, torch.ones(shape), Mean())


def test_several_inputs_are_masked_each_by_its_own_mask(inputs):
    sound, vector = torch.randn(2, 1, 12), torch.randn(2, 5)
    tensors = inputs, sound, vector
    masks = torch.rand(2, 1, 8, 8), torch.rand(2, 1, 12), torch.rand(2, 5)
    masked_in, masked_out = mask_images(tensors, masks, nines, Mean())
    assert isinstance(masked_in, tuple) and isinstance(masked_out, tuple)
    for index, pair in enumerate(zip(tensors, masks, strict=True)):
        alone_in, alone_out = mask_images(*pair, nines, Mean())
        assert torch.equal(masked_in[index], alone_in) and torch.equal(masked_out[index], alone_out)


def test_halves_are_all_masked_in_examples_and_then_all_masked_out_ones(inputs):
    mask = torch.rand(2, 1, 8, 8)
    (halves,) = masked_halves(inputs, mask, nines)
    assert torch.equal(halves, torch.cat(mask_images(inputs, mask, nines)))
    assert torch.equal(masked_halves((inputs,), (mask,), nines)[0], halves)
