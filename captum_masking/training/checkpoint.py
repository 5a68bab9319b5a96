"""A training on disk, to go on from: networks, optimizers, pool, random states."""

from __future__ import annotations

import copy
import json
import math
import os
import random
import re
import signal
import struct
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from captum_masking._base.checks import check_count
from captum_masking._base.processes import gathered, rank, world
from captum_masking.model.files import CheckpointError, read, unfinished, write
from captum_masking.training.update import parameters_of

if TYPE_CHECKING:
    from captum_masking.training.epochs import Loading
    from captum_masking.training.trainer import MaskingTrainer

__all__ = [
    "Checkpoints",
    "Signals",
    "causes_in_words",
    "check_no_checkpoints",
    "check_resumable",
    "check_settings",
    "check_writable",
    "load_training_state",
    "loader_settings",
    "lost_workers_in_words",
    "random_state",
    "read_state",
    "set_random_state",
    "training_state",
    "worker_died",
]


# ---- What stops a training: Ctrl-C and SIGTERM wait for the step to end, errors say the way out.


class Signals:
    """Which signal has come, if any: Ctrl-C, or SIGTERM as schedulers of clusters send.

    Within :meth:`postponed` the first one is only noted, so that a step ends and can be saved; a
    second one acts at once.

    Source:
        Own.

    Example:
        >>> signals = Signals()
        >>> with signals.postponed():
        ...     signal.raise_signal(signal.SIGTERM)
        ...     signals.caught, signals.caught.name
        (<Signals.SIGTERM: 15>, 'SIGTERM')
    """

    def __init__(self) -> None:
        self.caught: signal.Signals | None = None
        self.before: dict[signal.Signals, object] = {}
        self.process = os.getpid()

    @contextmanager
    def postponed(self) -> Iterator[None]:
        """Note signals instead of acting on them; Python allows that in the main thread only."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self.process = os.getpid()
        for number in (signal.SIGINT, signal.SIGTERM):
            # None is not Python's to put back; ignored ones, as under nohup, stay ignored.
            if signal.getsignal(number) not in (None, signal.SIG_IGN):
                self.before[number] = signal.signal(number, self._note)
        try:
            yield
        except RuntimeError as error:
            if worker_died(error):  # of the same signal, as Ctrl-C reaches every process
                self.act()
            raise
        finally:
            self._restore()

    def act(self) -> None:
        """Let the signal that came do what it does without us; once, as it may do nothing."""
        if self.caught is not None:
            number, self.caught = self.caught, None
            self._restore()
            signal.raise_signal(number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.caught = signal.Signals(number)
        self._restore()
        # A process that was copied from this one, such as a loader's worker, has this handler too:
        # it lives on after Ctrl-C, for the step that waits for it, but can be terminated.
        if os.getpid() != self.process and number == signal.SIGTERM:
            self.act()

    def _restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self.before = {}


@contextmanager
def causes_in_words() -> Iterator[None]:
    """Add the way out to errors that torch raises during a training.

    Source:
        Own.

    Example:
        >>> try:
        ...     with causes_in_words():
        ...         raise RuntimeError("DataLoader worker (pid 7) exited unexpectedly")
        ... except RuntimeError as error:
        ...     print(error.__notes__[0][:27])
        A loader process died, ofte
    """
    try:
        yield
    except (RuntimeError, MemoryError, ValueError) as error:
        note = _way_out(error)
        if note is not None:
            error.add_note(note)
        raise


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written to, before a training rather than at its first save.

    Args:
        folder: Made if need be.

    Raises:
        OSError: If it cannot be written to.

    Source:
        Own.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(
            error.errno,
            f"checkpoints cannot be written to {folder}: {error.strerror}; give a folder that can "
            "be written to",
        ) from error


@contextmanager
def lost_workers_in_words() -> Iterator[None]:
    """Tell a loader's process that died from a connection that broke, which it looks like at first.

    Source:
        Own. torch says so itself, but when the system's signal comes, a moment later.

    Example:
        >>> with lost_workers_in_words():
        ...     raise ConnectionResetError("by peer")
        Traceback (most recent call last):
        RuntimeError: DataLoader worker exited unexpectedly
    """
    try:
        yield
    except (ConnectionError, EOFError) as error:
        time.sleep(0.5)  # torch's own error comes in here
        raise RuntimeError("DataLoader worker exited unexpectedly") from error


def worker_died(error: BaseException) -> bool:
    """Tell the death of a loader's process from an error in it.

    Source:
        Own.

    Example:
        >>> worker_died(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "))
        True
    """
    words = str(error)
    died = "exited unexpectedly" in words or "killed by signal" in words
    return isinstance(error, RuntimeError) and "DataLoader worker" in words and died


def _way_out(error: BaseException) -> str | None:
    words = str(error)
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or "allocate memory" in words:
        return (
            "The step did not fit into memory. Lower the batch size of the loader first; to keep "
            "the size of an update, accelerate's gradient_accumulation_steps. Then: smaller "
            "images, mixed_precision='bf16', or train_classifier=False."
        )
    if worker_died(error):
        return (
            "A loader process died, often for want of memory (also /dev/shm). Use fewer "
            "num_workers; with num_workers=0 the error of the data set itself is shown."
        )
    if "more than 1 value per channel" in words:
        return (
            "Batch norm cannot learn from one value: this batch has one example, of one cell at "
            "the deepest layer. DataLoader(..., drop_last=True) leaves such a last batch out."
        )
    return None


# ---- Nested values as JSON and tensors by name, and back, to the bit.
#
# JSON has lists, finite numbers and objects with text as keys. All else becomes an object of one
# entry that says what it is: ``{"tuple": [...]}``, ``{"dict": [[key, value], ...]}``,
# ``{"int": "0x1p..."}``, ``{"float": "7ff8..."}``, ``{"tensor": name, ...}``.

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


# ---- A nested state as one file, without pickle

_NONSENSE = (LookupError, TypeError, ValueError, AttributeError, RuntimeError, struct.error)
_WAY_OUT = "give a whole checkpoint, such as the one before it, or start the training again"


def write_state(state: Any, file: str | Path) -> None:
    """Write or replace a state: None, bool, int, float, str, tensors, and containers of these."""
    tensors: dict[str, Tensor] = {}
    packed = pack(state, "state", tensors)
    write(Path(file), packed, tensors)


def read_state(file: str | Path) -> Any:
    """Read a state, tensors on the CPU, without gradient.

    Raises:
        CheckpointError: If the file is not there, truncated, altered, something else, or of
            another format.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Checkpoints(folder).save({"betas": (0.9, 0.99), "w": torch.ones(2)}, step=7)
        ...     file.name, read_state(file)
        ('step-00000007.safetensors', {'betas': (0.9, 0.99), 'w': tensor([1., 1.])})
    """
    packed, tensors = read(Path(file), _WAY_OUT)
    try:
        return unpack(packed, tensors)
    except _NONSENSE as error:
        raise CheckpointError(file, f"its state cannot be read ({error!r})", _WAY_OUT) from error


# ---- The checkpoints of one training: the last few, of which one can always be read.

_NAME = re.compile(r"step-(\d{8,})\.safetensors")


class Checkpoints:
    """Writes states of a training to files ``step-00000123.safetensors`` and keeps the last few.

    A checkpoint is in place before any other goes, so that a process may be killed at any moment.
    One process writes; the state that it is given has to hold what the others need.

    Args:
        folder: Made at the first save. It holds nothing else, but for hidden files.
        every: Steps from one checkpoint to the next, as :meth:`due` counts them; None is never.
        keep: How many are kept. Later ones than that which is saved, as when a training goes on
            from an earlier checkpoint, are neither counted nor removed.

    Raises:
        TypeError: If a number is not whole.
        ValueError: If a number is less than 1.
        FileExistsError: If ``folder`` holds something else.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     checkpoints = Checkpoints(folder, every=10, keep=2)
        ...     for step in range(1, 36):
        ...         if checkpoints.due(step):
        ...             _ = checkpoints.save({"step": step}, step)
        ...     checkpoints.steps(), checkpoints.latest()
        ([20, 30], {'step': 30})
    """

    def __init__(self, folder: str | Path, *, every: int | None = None, keep: int = 3) -> None:
        check_count("keep", keep)
        if every is not None:
            check_count("every", every)
        self.folder, self.every, self.keep = Path(folder), every, keep
        _check_folder(self.folder)

    def due(self, step: int) -> bool:
        """Whether a checkpoint is to be saved after this step, counted from 1."""
        return self.every is not None and step > 0 and step % self.every == 0

    def save(self, state: Any, step: int) -> Path:
        """Write a checkpoint, then remove the oldest ones beyond ``keep``; return its file.

        Args:
            state: None, bool, int, float, str, tensors, and lists, tuples and dicts of these with
                keys that are str or int.
            step: Steps done, >= 0. A checkpoint of the same step is replaced.

        Raises:
            TypeError: If the state holds what cannot be written; the message says where.
            OSError: If it cannot be written, such as on a full disk; those before are intact.
        """
        check_count("step", step, least=0, way_out="give the number of steps done.")
        file = self.folder / f"step-{step:08d}.safetensors"
        for path in unfinished(self.folder):  # no save is at work: one process writes
            _remove(path)
        write_state(state, file)
        kept = [s for s in self.steps() if s <= step][-self.keep :]
        for earlier, path in self._found().items():
            if earlier < kept[0]:
                _remove(path)
        return file

    def steps(self) -> list[int]:
        """List the steps of the checkpoints, rising; what a killed save left is ignored."""
        return sorted(self._found())

    def latest(self) -> Any:
        """Return the newest state that can be read, and warn of newer ones that cannot.

        Raises:
            CheckpointError: If there is none.
        """
        for _, path in sorted(self._found().items(), reverse=True):
            try:
                return read_state(path)
            except CheckpointError as error:
                warnings.warn(f"skipping a damaged checkpoint: {error}", stacklevel=2)
        raise CheckpointError(
            self.folder,
            "it holds no checkpoint that can be read",
            "give the folder of an interrupted training, or start without resuming",
        )

    def __repr__(self) -> str:
        return f"Checkpoints(folder={str(self.folder)!r}, every={self.every}, keep={self.keep})"

    def _found(self) -> dict[int, Path]:
        paths = self.folder.iterdir() if self.folder.is_dir() else ()
        matches = [(path, _NAME.fullmatch(path.name)) for path in paths]
        return {int(match[1]): path for path, match in matches if match}


def _remove(file: Path) -> None:
    with suppress(OSError):  # one that cannot be removed must not fail a save
        file.unlink()


def check_no_checkpoints(checkpoints: Checkpoints) -> None:
    """Refuse to begin a training where the checkpoints of another one are.

    Raises:
        FileExistsError: Naming the last of them.

    Source:
        Own.
    """
    steps = checkpoints.steps()
    if steps:
        raise FileExistsError(
            f"{checkpoints.folder} holds checkpoints up to step {steps[-1]}; go on from there with "
            f"fit(..., resume={str(checkpoints.folder)!r}), or give another folder."
        )


def _check_folder(folder: Path) -> None:
    """Refuse a folder of something else, before a training rather than after it."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; give a folder for the checkpoints.")
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    foreign = [n for n in sorted(names) if not n.startswith(".") and not _NAME.fullmatch(n)]
    if foreign and re.fullmatch(r"step-\d{8,}", foreign[0]):
        raise FileExistsError(
            f"{folder} holds checkpoints of an older version of captum_masking, which are not "
            "read; finish that training with that version, or give another folder and begin again."
        )
    if foreign:
        raise FileExistsError(
            f"expected a folder of checkpoints or none, but {folder} holds {foreign[0]!r}"
            f"{f' and {len(foreign) - 1} more' if len(foreign) > 1 else ''}; give another folder, "
            "such as a new one inside it."
        )


# ---- A training between two steps, to go on from: networks, optimizers, pool, random states.
#
# Plain containers of tensors and numbers, which :mod:`captum_masking.training.checkpoint` writes
# and reads
# without pickle.

_LISTED = 4  # tensors that an error names; the others it counts


def training_state(trainer: MaskingTrainer) -> dict[str, Any]:
    """Copy the state of a training between two updates.

    Args:
        trainer: Any. In a training over several processes all of them must call this.

    Returns:
        The state, detached from the trainer.

    Raises:
        RuntimeError: If gradients are being accumulated; they are not part of a state.

    Source:
        Own.

    Example:
        >>> from torch import nn
        >>> from captum_masking.model.model import MaskingModel
        >>> from captum_masking.training.trainer import MaskingTrainer
        >>> classifier = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.LazyLinear(2))
        >>> model = MaskingModel(classifier, ["0"], example_inputs=torch.zeros(1, 1, 8, 8))
        >>> sorted(training_state(MaskingTrainer(model)))[:4]
        ['model', 'optimizers', 'original', 'pool']
    """
    if trainer.engine.between_updates:
        raise RuntimeError(
            "a state is taken between updates, but gradients of "
            f"{trainer.engine.batches} of {trainer.engine.accumulate} batches are waiting; take "
            "it after a step that completes an update."
        )
    original = getattr(trainer, "original", None)
    scaler = trainer.engine.scaler
    state = {
        "settings": trainer.settings(),
        "model": trainer.model.state_dict(),
        "trained": _trained(trainer),
        "original": {} if original is None else original.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "scaler": {} if scaler is None else scaler.state_dict(),
        "pool": trainer.pool.state_dict(),
        "pool_is_current": trainer.pool_is_current,
        "steps_done": trainer.steps_done,
        "random": gathered(random_state()),
        "torch": str(torch.__version__),
    }
    return copy.deepcopy(state)


def load_training_state(trainer: MaskingTrainer, state: dict[str, Any]) -> None:
    """Let a trainer go on where another stopped.

    Args:
        trainer: Made like the one whose state this is, around a classifier of the same kind.
        state: Of :func:`training_state`. The random states of torch, Python and numpy are set
            from it.

    Raises:
        KeyError: If the state lacks a part.
        ValueError: As for :func:`check_resumable`; the trainer is then as before.

    Source:
        Own.
    """
    check_resumable(trainer, state)
    if state["torch"] != str(torch.__version__):
        warnings.warn(
            f"this training was begun under torch {state['torch']} and goes on under "
            f"{torch.__version__}: it will not be what it would have been, bit by bit.",
            stacklevel=2,
        )
    trainer.model.load_state_dict(state["model"])
    if trainer.original is not None:
        trainer.original.load_state_dict(state["original"])
    for optimizer, saved in zip(trainer.optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    if trainer.engine.scaler is not None:
        trainer.engine.scaler.load_state_dict(state["scaler"])
    trainer.pool.add(trainer.model.classifier)  # the live classifier; the rest is overwritten
    trainer.pool.load_state_dict(state["pool"])
    trainer.pool_is_current = state["pool_is_current"]
    trainer.steps_done = state["steps_done"]
    _set_own_random_state(state["random"])


def check_resumable(trainer: MaskingTrainer, state: dict[str, Any]) -> None:
    """Refuse a state that does not belong to a trainer like this one.

    Args:
        trainer: Is looked at only.
        state: Of :func:`training_state`.

    Raises:
        ValueError: If the settings differ, the shapes of weights, which of them are trained, or
            the weights of a classifier that is to stay as it is. The message names what differs.

    Source:
        Own.
    """
    check_settings(state["settings"], trainer.settings())
    saved, own = state["model"], trainer.model.state_dict()
    _check_alike("a model of the same architecture", _shapes(saved), _shapes(own))
    trained = _marked(state["trained"]), _marked(_trained(trainer))
    _check_alike("the same layers to be trained", *trained, absent="frozen")
    if trainer.joint is None:
        _check_frozen(saved, own)


def check_settings(saved: dict[str, str], own: dict[str, str]) -> None:
    """Refuse to go on with other settings than a training was begun with.

    Args:
        saved: Words by name.
        own: Likewise.

    Raises:
        ValueError: Naming every setting that differs, with both.

    Source:
        Own.

    Example:
        >>> check_settings({"lr": "0.1"}, {"lr": "0.2"})
        Traceback (most recent call last):
        ValueError: expected the settings that this training was begun with, but 1 differ:
          lr: was 0.1, is 0.2
        Make the trainer, the loader and the call of fit() as they were, or begin a new training.
    """
    names = [n for n in {**saved, **own} if saved.get(n) != own.get(n)]
    if names:
        lines = [f"  {n}: was {saved.get(n, 'absent')}, is {own.get(n, 'absent')}" for n in names]
        raise ValueError(
            "expected the settings that this training was begun with, but "
            + f"{len(names)} differ:\n"
            + "\n".join(lines)
            + "\nMake the trainer, the loader and the call of fit() as they were, or begin a new "
            "training."
        )


def loader_settings(loading: Loading) -> dict[str, str]:
    """Name what decides which images are in which batch, in words.

    Args:
        loading: Of a loader of any kind.

    Source:
        Own.

    Example:
        >>> from captum_masking.training.epochs import Loading
        >>> loader_settings(Loading([(torch.zeros(1, 3, 8, 8), torch.zeros(1))]))
        {'batch_size': 'None', 'num_workers': 'None'}
    """
    loader = loading.loader
    batch_size = str(getattr(loader, "batch_size", None))
    if not loading.is_planned:  # where several workers take turns in giving batches
        return {"batch_size": batch_size, "num_workers": str(getattr(loader, "num_workers", None))}
    images, sampler = str(len(loader.dataset)), type(loader.sampler).__name__
    return {"batch_size": batch_size, "images": images, "sampler": sampler}


def random_state() -> dict[str, Any]:
    """Return the states of all random numbers of this process that a training may draw.

    Source:
        Own.

    Example:
        >>> state, first = random_state(), torch.rand(())
        >>> set_random_state(state)
        >>> torch.rand(()) == first
        tensor(True)
    """
    kind, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": random.getstate(),
        "numpy": (str(kind), torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Set the random numbers of this process.

    Args:
        state: Of :func:`random_state`.

    Source:
        Own.
    """
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))


def _trained(trainer: MaskingTrainer) -> list[list[str]]:
    """Name the parameters of each optimizer."""
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    return [[names[p] for p in parameters_of(o)] for o in trainer.optimizers]


def _marked(trained: list[list[str]]) -> dict[str, str]:
    return {name: "trained" for names in trained for name in names}


def _shapes(tensors: dict[str, Tensor]) -> dict[str, str]:
    return {name: str(tuple(tensor.shape)) for name, tensor in tensors.items()}


def _check_alike(
    what: str, saved: dict[str, str], own: dict[str, str], *, absent: str = "absent"
) -> None:
    """Refuse tensors of which something else was said, by name."""
    names = [n for n in {**saved, **own} if saved.get(n) != own.get(n)]
    if names:
        raise ValueError(
            f"expected {what} as when this training was begun, but {len(names)} tensors differ:\n"
            + _listed([f"{n}: was {saved.get(n, absent)}, is {own.get(n, absent)}" for n in names])
            + "\nMake the model as it was, or begin a new training."
        )


def _check_frozen(saved: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    """Refuse to overwrite a classifier that is to stay as it is."""
    frozen = [name for name in own if name.startswith("classifier.")]
    names = [n for n in frozen if not torch.equal(saved[n].cpu(), own[n].cpu())]
    if names:
        raise ValueError(
            "expected the frozen classifier that this training was begun with, but "
            f"{len(names)} tensors have other values:\n{_listed(names)}\n"
            "Give that classifier, or begin a new training."
        )


def _listed(lines: list[str]) -> str:
    more = [f"and {len(lines) - _LISTED} more"] * (len(lines) > _LISTED)
    return "\n".join(f"  {line}" for line in lines[:_LISTED] + more)


def _set_own_random_state(states: list[dict[str, Any]]) -> None:
    if len(states) != world():
        warnings.warn(
            f"this training was begun in {len(states)} processes and goes on in {world()}: it "
            "will not be what it would have been, bit by bit.",
            stacklevel=3,
        )
    set_random_state(states[rank() % len(states)])
