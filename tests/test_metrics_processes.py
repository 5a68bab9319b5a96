"""A promise about accumulators: two processes that share the images agree with one that has all."""

from __future__ import annotations

from pathlib import Path

import torch
from networks import cnn
from processes import in_two_processes
from torch import Tensor

from captum_masking.metrics import (
    MaskStatistics,
    MaxBoxAcc,
    MaxBoxAccV2,
    MeanOf,
    PxAP,
    average_drop,
    energy_pointing,
    localization_error,
)

IMAGES = 7  # uneven: one process has four, the other three


def results(share: slice) -> dict[str, Tensor]:
    """Update every metric with a share of the same images."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(IMAGES, 1, 16, 16, generator=generator)
    images = torch.randn(IMAGES, 3, 16, 16, generator=generator)
    boxes = [torch.tensor([[1.0, 2.0, 3.0 + index, 12.0]]) for index in range(IMAGES)]
    metrics = {
        "error": MeanOf(localization_error),
        "max_box_acc": MaxBoxAcc(),
        "max_box_acc_v2": MaxBoxAccV2(),
        "pxap": PxAP(),
        "energy": MeanOf(energy_pointing),
    }
    for metric in metrics.values():
        metric.update(maps[share], boxes[share])
    shape, drop = MaskStatistics(), MeanOf(average_drop)
    shape.update(maps[share])
    drop.update(cnn().eval(), images[share], maps[share], torch.zeros(len(maps[share]), dtype=int))
    found = {name: metric.compute() for name, metric in metrics.items()}
    return {**found, **shape.compute(), "average_drop": drop.compute()}


def process(rank: int, folder: Path) -> None:
    torch.save(results(slice(rank, None, 2)), folder / f"{rank}.pt")


def test_two_processes_get_what_one_gets(tmp_path):
    in_two_processes(process, tmp_path)
    alone = results(slice(None))
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found.keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(found[name], value, msg=name)
