"""The maps of the same few images after every epoch, as pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from captum_masking.callbacks.contract import Callback
from captum_masking.modes import eval_mode
from captum_masking.viz import Panel, montage, overlay

if TYPE_CHECKING:
    from captum_masking.figures import Record
    from captum_masking.model import MaskingModel
    from captum_masking.trainer import MaskingTrainer


def stretch(images: Tensor) -> Tensor:
    """Scale each image to ``[0, 1]`` by its own least and greatest value; a constant one is 0.

    Args:
        images: ``(B, C, H, W)``, on any scale.

    Returns:
        Shaped like ``images``.

    Source:
        Own.

    Example:
        >>> stretch(torch.tensor([[[[-1.0, 0.0, 3.0]]]]))
        tensor([[[[0.0000, 0.2500, 1.0000]]]])
    """
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return (images - low) / (high - low).clamp(min=torch.finfo(images.dtype).tiny)


class Pictures(Callback):
    """Writes ``folder/epoch-0001.png`` and so on: a row of images, and their masks laid over them.

    The model is looked at in eval mode; it and the random numbers are afterwards as before. Only
    the main process draws.

    Args:
        images: ``(B, C, H, W)``, normalised as the classifier expects; about eight fit.
        folder: Made if need be.
        every: Every so many epochs, >= 1.
        show: Turns inputs ``(B, C, H, W)`` into pictures ``(B, 1 or 3, H, W)`` in ``[0, 1]``, as
            ``lambda inputs: inputs * std + mean`` does. Other numbers of channels are averaged.

    Raises:
        ValueError: If ``images`` are no images, or ``every`` is less than 1.

    Source:
        Own.

    Example:
        ``trainer.fit(loader, callbacks=[Pictures(next(iter(loader))[0][:8], "pictures")])``
    """

    def __init__(
        self,
        images: Tensor,
        folder: str | Path,
        *,
        every: int = 1,
        show: Callable[[Tensor], Tensor] = stretch,
    ) -> None:
        if not isinstance(images, Tensor) or images.dim() != 4 or not len(images):
            got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise ValueError(
                f"images must be a batch (B, C, H, W) of at least one image, but got {got}; take "
                "some of a loader with next(iter(loader))[0][:8]."
            )
        if every < 1:
            raise ValueError(f"every must be at least 1 epoch, but got {every}.")
        self.images, self.folder, self.every, self.show = images, Path(folder), every, show

    def on_epoch(self, trainer: MaskingTrainer, record: Record) -> None:
        """Draw the masks of now."""
        epoch = int(record["epoch"])
        if not trainer.is_main or epoch % self.every:
            return
        masks = _masks(trainer.model, self.images)
        pixels = [_pixels(picture) for picture in self.show(self.images.detach().cpu().float())]
        maps = [
            Panel(overlay(picture, mask), f"area {mask.mean():.2f}")
            for picture, mask in zip(pixels, masks, strict=True)
        ]
        montage([[Panel(picture) for picture in pixels], maps], self.folder / _name(epoch))

    def __repr__(self) -> str:
        images = f"images=<{tuple(self.images.shape)}>"
        show = getattr(self.show, "__name__", repr(self.show))
        return f"Pictures({images}, folder={str(self.folder)!r}, every={self.every}, show={show})"


def _name(epoch: int) -> str:
    return f"epoch-{epoch:04d}.png"


@torch.no_grad()
def _masks(model: MaskingModel, images: Tensor) -> Tensor:
    """Ask for masks ``(B, 1, H, W)`` and leave no trace, also where a classifier draws numbers."""
    device = next(model.masker.parameters()).device
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), eval_mode(model):
        return model.mask(images.to(device)).float().cpu()


def _pixels(picture: Tensor) -> np.ndarray:
    """Turn ``(C, H, W)`` into ``(H, W, 1 or 3)``."""
    colors = picture if len(picture) in (1, 3) else picture.mean(0, keepdim=True)
    return colors.clamp(0, 1).permute(1, 2, 0).numpy()
