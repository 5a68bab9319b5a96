"""Layers for signals, images and volumes, by the number of spatial dimensions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from captum_masking.processes import summed, world


class OverProcesses(_BatchNorm):
    """Batch norm whose batch is that of all processes, so that many train as one does.

    Source:
        As :class:`BatchNorm1d`, which see.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps with mean 0 and variance 1 over the batch, scaled and shifted."""
        if not self.training or world() == 1:
            return super().forward(maps)
        self._check_input_dim(maps)
        wide = maps.to(torch.promote_types(maps.dtype, torch.float32))  # sums need the digits
        axes, shape = [0, *range(2, maps.dim())], [1, -1, *[1] * (maps.dim() - 2)]
        count = wide.new_tensor([maps.numel() // maps.shape[1]])
        total = summed(torch.cat([wide.sum(axes), count]))
        mean, cells = total[:-1] / total[-1], total[-1].detach()
        centered = wide - mean.reshape(shape)
        variance = summed(centered.square().sum(axes)) / cells
        self._remember(mean.detach(), variance.detach() * cells / (cells - 1).clamp(min=1))
        normed = centered * (variance + self.eps).rsqrt().reshape(shape)
        if self.affine:
            normed = normed * self.weight.reshape(shape) + self.bias.reshape(shape)
        return normed.to(maps.dtype)

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics, as :class:`torch.nn.BatchNorm2d` does."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var), self.momentum)


class BatchNorm1d(OverProcesses, nn.BatchNorm1d):
    """:class:`torch.nn.BatchNorm1d` over the batch of all processes that train together.

    Source:
        Ioffe & Szegedy 2015. ``torch.nn.SyncBatchNorm`` does the same on accelerators only.

    Example:
        >>> import torch
        >>> BatchNorm1d(2)(torch.rand(4, 2, 8)).shape
        torch.Size([4, 2, 8])
    """


class BatchNorm2d(OverProcesses, nn.BatchNorm2d):
    """:class:`torch.nn.BatchNorm2d` over the batch of all processes that train together.

    Source:
        As :class:`BatchNorm1d`.

    Example:
        >>> import torch
        >>> BatchNorm2d(2)(torch.rand(4, 2, 8, 8)).shape
        torch.Size([4, 2, 8, 8])
    """


class BatchNorm3d(OverProcesses, nn.BatchNorm3d):
    """:class:`torch.nn.BatchNorm3d` over the batch of all processes that train together.

    Source:
        As :class:`BatchNorm1d`.

    Example:
        >>> import torch
        >>> BatchNorm3d(2)(torch.rand(4, 2, 8, 8, 8)).shape
        torch.Size([4, 2, 8, 8, 8])
    """


CONVOLUTIONS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
BATCH_NORMS: dict[int, type[nn.Module]] = {1: BatchNorm1d, 2: BatchNorm2d, 3: BatchNorm3d}
