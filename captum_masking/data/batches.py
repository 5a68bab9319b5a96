"""Read inputs and labels from the batches of any loader; replace unreadable images."""

from __future__ import annotations

import errno
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from captum_masking._base.captum import Inputs
from captum_masking.data.seeded import Around, random_states

#: Keys of the inputs.
INPUT_NAMES = ("inputs", "image", "images", "pixel_values", "input_values", "x")
#: Keys of the labels.
LABEL_NAMES = ("labels", "label", "target", "targets", "y")


def read_batch(batch: Any) -> tuple[Inputs, Tensor]:
    """Return ``(inputs, labels)`` of a loader's batch.

    Args:
        batch: A tuple or list ``(inputs, labels, ...)``; or anything with keys (a dict, the batches
            of Hugging Face), exactly one of them in ``INPUT_NAMES`` and one in ``LABEL_NAMES``.
            Inputs are a tensor ``(B, ...)``, or a tuple or list of tensors; labels are a tensor, a
            list or an array ``(B,)``.

    Example:
        >>> inputs, labels = read_batch({"pixel_values": torch.zeros(2, 3, 8, 8), "label": [4, 1]})
        >>> inputs.shape, labels
        (torch.Size([2, 3, 8, 8]), tensor([4, 1]))
    """
    first, second = _find_pair(batch)
    inputs, labels = _read_inputs(first), _read_labels(second)
    _check_batched(inputs, labels)
    return inputs, labels


def _find_pair(batch: Any) -> tuple[Any, Any]:
    if hasattr(batch, "keys"):  # dict, UserDict and tensor dicts share no base class
        return _find(batch, "inputs", INPUT_NAMES), _find(batch, "labels", LABEL_NAMES)
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        raise TypeError(
            f"the loader must give pairs (inputs, labels), but gave {_kind(batch)}; use a "
            "DataLoader over a Dataset of (image, label) items."
        )
    return batch[0], batch[1]


def _find(batch: Any, what: str, names: tuple[str, ...]) -> Any:
    keys = list(batch.keys())
    found = [name for name in names if name in keys]
    if len(found) != 1:
        several = f"several of these, {found}" if found else "none of these"
        raise TypeError(
            f"the loader must give pairs (inputs, labels) or dicts with the {what} under one of "
            f"{list(names)}, but gave {several} among the keys {keys}; rename or remove columns, "
            "or have the collate function return a pair."
        )
    return batch[found[0]]


def _read_inputs(inputs: Any) -> Inputs:
    if isinstance(inputs, Tensor):
        return inputs
    if isinstance(inputs, (tuple, list)) and inputs and all(isinstance(x, Tensor) for x in inputs):
        return tuple(inputs)
    raise TypeError(
        "the loader must give pairs of tensors (inputs, labels), but its inputs are "
        f"{_kind(inputs)}; turn images into tensors in the data set, and stack them in the "
        "collate function, as torch.utils.data.default_collate does."
    )


def _read_labels(labels: Any) -> Tensor:
    if isinstance(labels, Tensor):
        return labels
    try:
        return torch.tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            "the loader must give pairs (inputs, labels) with class indices as labels, but its "
            f"labels are {_kind(labels)}; number the classes from 0."
        ) from error


def _check_batched(inputs: Inputs, labels: Tensor) -> None:
    parts = inputs if isinstance(inputs, tuple) else (inputs,)
    shapes = [tuple(part.shape) for part in parts]
    if not labels.dim() or not all(shapes):
        raise ValueError(
            f"the loader must give batches, but gave one example: inputs of shape "
            f"{_joined(shapes)}, labels of shape {tuple(labels.shape)}; read the data set through "
            "DataLoader(dataset, batch_size=32)."
        )
    if isinstance(inputs, tuple) and any(shape[0] != len(labels) for shape in shapes):
        raise ValueError(
            f"several inputs must have one row for each of the {len(labels)} labels, but have "
            f"shapes {_joined(shapes)}; if these are the images of one batch, stack them into one "
            "tensor in the collate function."
        )


def _kind(part: Any) -> str:
    name = type(part).__name__
    if not isinstance(part, (tuple, list)):
        return name
    return f"{name} of {' and '.join(sorted({type(x).__name__ for x in part})) or 'nothing'}"


def _joined(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join(map(str, shapes[:4])) + (", ..." if len(shapes) > 4 else "")


#: Errors of the machine, not of an image: too many open files, or out of memory.
_OF_THE_MACHINE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
_LISTED = 10  # images that a report lists by name


class Readable(Around):
    """A data set that replaces an unreadable image by the next one.

    An image is unreadable if its item raises an ``OSError``, ``ValueError`` or ``SyntaxError``, as
    decoders do on damaged files, or if it is too large to open. Other errors are raised, and so is
    a lack of memory or of file handles. The replacement is the item at ``index + 1``, or ``+ 2``,
    and so on, cyclically, with its own label. Each unreadable image is warned about once and not
    tried again. All workers of a loader share the list.

    Example:
        >>> class Damaged(list):
        ...     def __getitem__(self, index):
        ...         if index == 1:
        ...             raise OSError("image file is truncated")
        ...         return index
        >>> images = Readable(Damaged("abc"))
        >>> with warnings.catch_warnings(action="ignore"):
        ...     [images[index] for index in range(3)]
        [0, 2, 2]
        >>> images.unreadable
        {1: 'item 1: image file is truncated'}
    """

    def __init__(self, dataset: Any) -> None:
        super().__init__(dataset)
        # Shared flags reach the main process from any worker without a queue.
        self._flags = torch.zeros(len(dataset), dtype=torch.uint8, device="cpu").share_memory_()
        self._words: dict[int, str] = {}

    def __getitem__(self, index: int) -> Any:
        start = self._position(index)
        for step in range(len(self)):
            position = (start + step) % len(self)
            if self._flags[position]:
                continue
            try:
                return self.dataset[position]
            except Exception as error:
                if not _is_unreadable(error):
                    raise
                self._note(position, error)
        raise ValueError(
            f"expected readable images, but none of {len(self)} can be read, the first being "
            f"{self._explain(0)}; check the paths and the permissions."
        )

    @property
    def unreadable(self) -> dict[int, str]:
        """The unreadable images found so far by any worker: ``{index: "file: reason"}``."""
        return {index: self._explain(index) for index in self._flags.nonzero().flatten().tolist()}

    def report(self) -> str:
        """Return a few lines on which images could not be read, and why."""
        lines = list(self.unreadable.values())
        if not lines:
            return f"no unreadable image among {len(self)} was found."
        verb = "images cannot be read and were replaced:"
        more = [f"and {len(lines) - _LISTED} more"] if len(lines) > _LISTED else []
        return "\n  ".join([f"{len(lines)} of {len(self)} {verb}", *lines[:_LISTED], *more])

    def __repr__(self) -> str:
        return f"Readable(dataset={self.dataset!r})"

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._flags.share_memory_()  # no effect in a worker, whose flags are shared already

    def _note(self, index: int, error: Exception) -> None:
        self._flags[index] = 1
        self._words[index] = _describe(self.dataset, index, error)
        warnings.warn(
            f"an unreadable image is replaced by the next one: {self._words[index]}",
            stacklevel=3,
        )

    def _explain(self, index: int) -> str:
        if index not in self._words:
            self._words[index] = self._read_again(index)
        return self._words[index]

    def _read_again(self, index: int) -> str:
        try:
            with random_states(index):  # keep the caller's random state
                self.dataset[index]
        except Exception as error:
            return _describe(self.dataset, index, error)
        return f"{_name_of(self.dataset, index)}: failed once, but can be read now"


def _name_of(dataset: Any, index: int) -> str:
    """Name an item by its file, or else by its index."""
    if isinstance(dataset, Subset):
        return _name_of(dataset.dataset, dataset.indices[index])
    if isinstance(dataset, Around):
        return _name_of(dataset.dataset, index)
    if hasattr(dataset, "files"):
        return str(dataset.files[index])
    if hasattr(dataset, "samples"):
        return str(dataset.samples[index][0])
    return f"item {index}"


def _describe(dataset: Any, index: int, error: Exception) -> str:
    name, reason = _name_of(dataset, index), str(error) or type(error).__name__
    return reason if name in reason else f"{name}: {reason}"


def _is_unreadable(error: Exception) -> bool:
    from PIL.Image import DecompressionBombError  # not needed while all images can be read

    kinds = OSError, ValueError, SyntaxError, DecompressionBombError
    chain = [error, error.__cause__]  # some data sets, as BoxedImages, raise errors of their own
    return isinstance(error, kinds) and not any(map(_is_of_the_machine, chain))


def _is_of_the_machine(error: BaseException | None) -> bool:
    number = error.errno if isinstance(error, OSError) else None
    return isinstance(error, MemoryError) or number in _OF_THE_MACHINE
