"""Promises about pictures."""

import numpy as np
import pytest
import torch

from captum_masking.viz import Panel, montage, overlay, to_pixels


def test_normalisation_is_undone():
    pixels = torch.rand(3, 4, 5)
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    normalized = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    np.testing.assert_allclose(to_pixels(normalized, mean, std), pixels.permute(1, 2, 0), atol=1e-6)


def test_overlay_does_not_rescale_the_mask():
    image = np.full((2, 2, 3), 0.5)
    faint, strong = torch.full((2, 2), 0.1), torch.full((2, 2), 0.9)
    assert overlay(image, faint).mean() < overlay(image, strong).mean()


def test_overlay_accepts_an_empty_mask():
    assert np.isfinite(overlay(np.zeros((2, 2, 3)), torch.zeros(1, 2, 2))).all()


def test_montage_writes_a_picture_and_leaves_pyplot_alone(tmp_path):
    import sys

    had = "matplotlib.pyplot" in sys.modules
    rows = [[Panel(np.zeros((4, 4, 3)), "a", [(0, 0, 2, 2)]), Panel(np.zeros((4, 4)))]]
    montage(rows, tmp_path / "new" / "picture.png")
    assert (tmp_path / "new" / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert ("matplotlib.pyplot" in sys.modules) == had


def test_montage_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one row"):
        montage([], tmp_path / "picture.png")
