"""What each infill promises beyond test_contract.py."""

from __future__ import annotations

import torch

from captum_masking.infill import Mean
from captum_masking.masking import mask_images


def test_mean_paints_the_mean_colour_of_normalised_data():
    pictures = torch.rand(64, 3, 4, 4, dtype=torch.float64)
    mean = pictures.mean((0, 2, 3), keepdim=True)
    std = pictures.std((0, 2, 3), keepdim=True)
    empty = torch.zeros(64, 1, 4, 4, dtype=torch.float64)
    masked_in, _ = mask_images((pictures - mean) / std, empty, Mean())
    torch.testing.assert_close(masked_in * std + mean, mean.expand_as(pictures))
