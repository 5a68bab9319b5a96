"""A short name for the weights of a module."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn


def fingerprint(module: nn.Module) -> str:
    """Hash the names, shapes and values of a module's state.

    Args:
        module: Any.

    Returns:
        A hexadecimal SHA-256.

    Source:
        Own.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> before = fingerprint(layer)
        >>> _ = nn.init.zeros_(layer.bias)
        >>> fingerprint(layer) == before
        False
    """
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(plain(tensor).reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def plain(tensor: Tensor) -> Tensor:
    """Copy to contiguous CPU memory of its own, as safetensors asks for.

    Args:
        tensor: Of any device and strides.

    Source:
        Own.
    """
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
