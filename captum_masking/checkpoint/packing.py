"""Nested values as JSON and tensors by name, and back, to the bit.

JSON has lists, finite numbers and objects with text as keys. All else becomes an object of one
entry that says what it is: ``{"tuple": [...]}``, ``{"dict": [[key, value], ...]}``,
``{"int": "0x1p..."}``, ``{"float": "7ff8..."}``, ``{"tensor": name, ...}``.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_DEEPEST = 100  # nested containers: far more than a state has, far less than Python's stack
_EXACT = 2**53  # what every reader of JSON keeps exactly
#: What safetensors has known from its first version; others are stored as their bytes.
_NATIVE = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8),
}
_PLAIN = "None, bool, int, float, str, tensors, and lists, tuples and dicts of them"


def pack(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Turn a value into what JSON holds, its tensors put aside.

    Args:
        value: None, bool, int, float, str, a tensor, or lists, tuples and dicts of these with keys
            that are str or int. Of a subclass, such as ``OrderedDict``, the plain kind is kept.
        path: Where the value is, such as ``state["callbacks"][0]``: names its tensors and errors.
        tensors: Each tensor in it is added, by its path, on the CPU; one that occurs twice is
            added once.

    Returns:
        The JSON value.

    Raises:
        TypeError: If there is anything else in it.
        ValueError: If it is nested too deeply, as one that contains itself is.

    Source:
        Own.

    Example:
        >>> tensors = {}
        >>> pack({"lr": 0.1, 7: (None, torch.ones(2))}, "state", tensors)
        {'dict': [['lr', 0.1], [7, {'tuple': [None, {'tensor': 'state[7][1]'}]}]]}
        >>> tensors
        {'state[7][1]': tensor([1., 1.])}
    """
    return _Packer(tensors).pack(value, path, 0)


def unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Turn what :func:`pack` returned into what it was given.

    Args:
        value: Read from JSON.
        tensors: By name.

    Raises:
        KeyError, TypeError, ValueError, RuntimeError: If it was not made by :func:`pack`.

    Source:
        Own.

    Example:
        >>> unpack({"tuple": [1, {"float": "7ff0000000000000"}]}, {})
        (1, inf)
    """
    if isinstance(value, list):
        return [unpack(item, tensors) for item in value]
    if isinstance(value, dict):
        return _untag(value, tensors)
    return value


class _Packer:
    """Packs the values of one state, whose tensors may occur several times.

    Args:
        tensors: Filled.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        self.names: dict[int, str] = {}  # of the tensors seen, by identity
        self.memory: set[int] = set()  # of those put aside: safetensors wants each its own

    def pack(self, value: Any, path: str, depth: int) -> Any:
        if value is None or isinstance(value, (bool, str)):
            return value
        if isinstance(value, int):
            return value if abs(value) < _EXACT else {"int": hex(value)}
        if isinstance(value, float):  # JSON knows neither NaN nor infinity
            return value if math.isfinite(value) else {"float": struct.pack(">d", value).hex()}
        if isinstance(value, Tensor):
            return self._tensor(value, path)
        if isinstance(value, (list, tuple, dict)):
            return self._container(value, path, depth + 1)
        raise TypeError(
            f"expected {_PLAIN} in a state, but {path} is a {_kind(value)}; convert it, such as "
            "an array by torch.from_numpy and a path by str."
        )

    def _container(self, value: Any, path: str, depth: int) -> Any:
        if depth > _DEEPEST:
            raise ValueError(
                f"expected at most {_DEEPEST} containers in each other, but got more at {path}; "
                "does one contain itself?"
            )
        if isinstance(value, dict):
            return {"dict": [self._entry(key, item, path, depth) for key, item in value.items()]}
        items = [self.pack(item, f"{path}[{i}]", depth) for i, item in enumerate(value)]
        return {"tuple": items} if isinstance(value, tuple) else items

    def _entry(self, key: Any, value: Any, path: str, depth: int) -> list[Any]:
        if type(key) not in (str, int):
            raise TypeError(
                f"expected keys that are str or int in a state, but {path} has the key {key!r}, a "
                f"{_kind(key)}; convert it."
            )
        return [key, self.pack(value, f"{path}[{json.dumps(key)}]", depth)]

    def _tensor(self, tensor: Tensor, path: str) -> dict[str, Any]:
        name = self.names.setdefault(id(tensor), path)
        if name == path:
            self.tensors[name] = self._own(_dense(tensor, path))
        if tensor.dtype in _NATIVE:
            return {"tensor": name}
        kind = str(tensor.dtype).removeprefix("torch.")
        return {"tensor": name, "dtype": kind, "shape": list(tensor.shape)}

    def _own(self, tensor: Tensor) -> Tensor:
        """Copy a tensor if its memory is also another's."""
        memory = tensor.untyped_storage().data_ptr()
        if memory in self.memory:
            tensor = tensor.clone()
        self.memory.add(memory)
        return tensor


def _dense(tensor: Tensor, path: str) -> Tensor:
    """Bring a tensor to contiguous CPU memory, as bytes where safetensors has no such dtype."""
    try:
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
            raise TypeError("such tensors are not stored")
        tensor = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
        return tensor if tensor.dtype in _NATIVE else tensor.reshape(-1).view(torch.uint8)
    except (RuntimeError, TypeError) as error:  # NotImplementedError is a RuntimeError
        raise TypeError(
            f"expected dense tensors in a state, but {path} is one of {tensor.layout} and "
            f"{tensor.dtype} on {tensor.device}; convert it ({error})."
        ) from error


def _untag(entry: dict[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    if "tensor" in entry:
        return _tensor_of(entry, tensors)
    ((tag, content),) = entry.items()
    return _UNTAG[tag](unpack(content, tensors))


def _tensor_of(entry: dict[str, Any], tensors: Mapping[str, Tensor]) -> Tensor:
    tensor = tensors[entry["tensor"]]
    if "dtype" not in entry:
        return tensor
    return tensor.view(getattr(torch, entry["dtype"])).reshape(entry["shape"])


_UNTAG: dict[str, Any] = {
    "tuple": tuple,
    "dict": dict,
    "int": lambda digits: int(digits, 16),
    "float": lambda digits: struct.unpack(">d", bytes.fromhex(digits))[0],
}


def _kind(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
