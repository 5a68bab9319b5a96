"""Images that cannot be read: counted and named, while the training goes on."""

from __future__ import annotations

import errno
import warnings
from typing import Any

import torch
from torch.utils.data import Subset

from captum_masking.data.seeded import Around, random_states

#: Faults of the machine, not of an image: too many open files, or no memory left.
_OF_THE_MACHINE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
_LISTED = 10  # images that a report names; the others it counts


class Readable(Around):
    """A data set in which the next image takes the place of one that cannot be read.

    What counts as unreadable is an ``OSError``, ``ValueError`` or ``SyntaxError`` while an item is
    made, as decoders raise on damaged files, and a picture too large to be opened; anything else
    is raised as ever, and so is a lack of memory or of file handles. The replacement is the item
    at ``index + 1``, or ``+ 2``, and so on, from the end back to the start, with its own label.
    Each unreadable image is warned of once, and not tried again. All workers of a loader share
    the count with the process that started them.

    Args:
        dataset: With a length, read by index.

    Raises:
        TypeError: If ``dataset`` is a stream.

    Source:
        Own.

    Example:
        >>> class Halves:
        ...     files = ["0.jpg", "1.jpg", "2.jpg"]
        ...     def __len__(self):
        ...         return 3
        ...     def __getitem__(self, index):
        ...         if index == 1:
        ...             raise OSError("image file is truncated")
        ...         return index
        >>> images = Readable(Halves())
        >>> with warnings.catch_warnings(record=True) as warned:
        ...     warnings.simplefilter("always")
        ...     [images[index] for index in range(3)]
        [0, 2, 2]
        >>> images.unreadable
        {1: '1.jpg: image file is truncated'}
        >>> print(images.report())
        1 of 3 images cannot be read, and others took their places:
          1.jpg: image file is truncated
    """

    def __init__(self, dataset: Any) -> None:
        super().__init__(dataset)
        # Flags reach the main process from any worker without a queue; words stay where they are.
        self._flags = torch.zeros(len(dataset), dtype=torch.uint8, device="cpu").share_memory_()
        self._words: dict[int, str] = {}

    def __getitem__(self, index: int) -> Any:
        """Return the item, or the next one that can be read.

        Raises:
            ValueError: If no image of the data set can be read.
        """
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
            f"expected an image that can be read, but none of {len(self)} can, the first being "
            f"{self._explain(0)}; check the paths, and that the images can be reached."
        )

    @property
    def unreadable(self) -> dict[int, str]:
        """What has been found so far, by any worker: ``{index: "file: reason"}``.

        An image that a worker found is read once more, to learn the reason.
        """
        return {index: self._explain(index) for index in self._flags.nonzero().flatten().tolist()}

    def report(self) -> str:
        """Say in a few lines how many images could not be read, which, and why."""
        lines = list(self.unreadable.values())
        if not lines:
            return f"no image of {len(self)} was found that cannot be read."
        verb = "images cannot be read, and others took their places:"
        more = [f"and {len(lines) - _LISTED} more"] if len(lines) > _LISTED else []
        return "\n  ".join([f"{len(lines)} of {len(self)} {verb}", *lines[:_LISTED], *more])

    def __repr__(self) -> str:
        return f"Readable(dataset={self.dataset!r})"

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._flags.share_memory_()  # nothing happens where a worker has just got the shared ones

    def _note(self, index: int, error: Exception) -> None:
        self._flags[index] = 1
        self._words[index] = _describe(self.dataset, index, error)
        warnings.warn(
            f"an image cannot be read, and the next one takes its place: {self._words[index]}",
            stacklevel=3,
        )

    def _explain(self, index: int) -> str:
        """Say what is wrong with an image that has been found, reading it again if need be."""
        if index not in self._words:
            self._words[index] = self._read_again(index)
        return self._words[index]

    def _read_again(self, index: int) -> str:
        try:
            with random_states(index):  # if it works by now, it must not move the caller's
                self.dataset[index]
        except Exception as error:
            return _describe(self.dataset, index, error)
        return f"{name_of(self.dataset, index)}: failed once, but can be read now"


def name_of(dataset: Any, index: int) -> str:
    """Name an item by its file where the data set lists files, and by its index otherwise.

    Args:
        dataset: With ``files`` (:class:`~captum_masking.data.BoxedImages`) or ``samples``
            (torchvision), a ``Subset`` of such a set, or any other.
        index: Of the item, >= 0.

    Source:
        Own.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> name_of(TensorDataset(torch.zeros(3, 1)), 2)
        'item 2'
    """
    if isinstance(dataset, Subset):
        return name_of(dataset.dataset, dataset.indices[index])
    if isinstance(dataset, Around):
        return name_of(dataset.dataset, index)
    if hasattr(dataset, "files"):
        return str(dataset.files[index])
    if hasattr(dataset, "samples"):
        return str(dataset.samples[index][0])
    return f"item {index}"


def _describe(dataset: Any, index: int, error: Exception) -> str:
    name, reason = name_of(dataset, index), str(error) or type(error).__name__
    return reason if name in reason else f"{name}: {reason}"


def _is_unreadable(error: Exception) -> bool:
    """Tell a damaged image from a fault of the machine, or of the code."""
    from PIL.Image import DecompressionBombError  # not needed while all images can be read

    kinds = OSError, ValueError, SyntaxError, DecompressionBombError
    chain = [error, error.__cause__]  # some data sets, as BoxedImages, raise errors of their own
    return isinstance(error, kinds) and not any(map(_is_of_the_machine, chain))


def _is_of_the_machine(error: BaseException | None) -> bool:
    number = error.errno if isinstance(error, OSError) else None
    return isinstance(error, MemoryError) or number in _OF_THE_MACHINE
