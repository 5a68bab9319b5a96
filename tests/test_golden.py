"""Promises that outlive every rebuilding: what was shipped keeps giving the same maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from captum_masking import MaskingSaliency, zoo

#: Maps of the masker as it is shipped, every eighth pixel, of the Egyptian cat and the
#: espresso that scikit-image ships; keys are the first of the two targets.
GOLDEN = Path(__file__).with_name("golden_maps.npz")


@pytest.mark.parametrize(
    "target", [(285, 967), (281, 504)], ids=["what is there", "what is like it"]
)
def test_the_shipped_masker_gives_the_maps_it_always_gave(target):
    pytest.importorskip("efficientnet_lite_pytorch")
    photographs = pytest.importorskip("skimage.data")
    model, preprocess = zoo.efficientnet_lite0()
    inputs = [
        preprocess(photograph) for photograph in (photographs.chelsea(), photographs.coffee())
    ]
    # In double precision the figures do not depend on the processor.
    maps = MaskingSaliency(model.double()).attribute(
        torch.stack(inputs).double(), target=list(target)
    )
    golden = np.load(GOLDEN)[str(target[0])]
    np.testing.assert_allclose(maps[:, 0, 3::8, 3::8].numpy(), golden, rtol=0, atol=1e-6)
