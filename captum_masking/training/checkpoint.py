"""Checkpoints of a training, to continue exactly: networks, optimizers, pool, random states."""

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
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from captum_masking._base.checks import check_count
from captum_masking._base.files import sha256
from captum_masking._base.processes import any_of, from_main, gathered, rank, world
from captum_masking.model.files import CheckpointError, read, unfinished, write
from captum_masking.training.callbacks import Callback, as_made
from captum_masking.training.update import parameters_of

if TYPE_CHECKING:
    from captum_masking.training.epochs import Loading
    from captum_masking.training.trainer import MaskingTrainer

__all__ = ["Checkpoints", "load_training_state", "training_state"]


_NAME = re.compile(r"step-(\d{8,})\.safetensors")


class Checkpoints(Callback):
    """Save a training to files ``step-00000123.safetensors``: ``fit(..., callbacks=[...])``.

    Old checkpoints are removed only after a new one is complete, so a process can be killed at any
    moment. Ctrl-C and SIGTERM wait for the current step and save it.

    Args:
        folder: Created at the first save; must hold only checkpoints and hidden files.
        every: Steps from one checkpoint to the next; None saves after every epoch.
        keep: Number of checkpoints to keep; later ones than the saved one do not count.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     checkpoints = Checkpoints(folder, keep=2)
        ...     for step in (10, 20, 30):
        ...         _ = checkpoints.save({"step": step}, step)
        ...     checkpoints.steps(), checkpoints.latest()
        ([20, 30], {'step': 30})
    """

    def __init__(self, folder: str | Path, *, every: int | None = None, keep: int = 3) -> None:
        check_count("keep", keep)
        if every is not None:
            check_count("every", every)
        self.folder, self.every, self.keep = Path(folder), every, keep
        _check_folder(self.folder)
        self.signals = Signals()
        self.is_due = False  # as soon as no gradients are waiting
        self.saved: int | None = None  # step of the last one, of the running training

    in_checkpoint = False

    @contextmanager
    def around(self, trainer: MaskingTrainer) -> Iterator[None]:
        self.signals = Signals()
        with self.signals.postponed():
            yield
            self.signals.act()

    def on_start(self, trainer: MaskingTrainer) -> None:
        if trainer.is_main:
            check_writable(self.folder)

    def on_step(self, trainer: MaskingTrainer, record: Any) -> None:
        self.is_due |= self.due(trainer.steps_done)
        self._save_if_due(trainer)

    def on_epoch(self, trainer: MaskingTrainer, record: Any) -> None:
        self.is_due |= self.every is None
        self._save_if_due(trainer)

    def on_end(self, trainer: MaskingTrainer, records: Any) -> None:
        self._save_state(trainer)

    def save_if_interrupted(self, trainer: MaskingTrainer) -> None:
        """Save if a signal has come, which may have ended the loader's processes, too."""
        if self.signals.caught is not None:
            self._save_if_due(trainer)

    def _save_if_due(self, trainer: MaskingTrainer) -> None:
        if trainer.engine.between_updates:
            return  # gradients that are being accumulated are not part of a state
        is_stopped = self._is_stopped(trainer)
        if self.is_due or is_stopped:
            self._save_state(trainer)
        self.signals.act()

    def _is_stopped(self, trainer: MaskingTrainer) -> bool:
        """Whether a signal has come, here or in another process: all save, and all stop."""
        if not any_of(self.signals.caught is not None, trainer.device):
            return False
        everywhere = gathered(self.signals.caught)  # asked of all, also of the one that knows
        self.signals.caught = self.signals.caught or next(filter(None, everywhere))
        return True

    def _save_state(self, trainer: MaskingTrainer) -> None:
        self.is_due = False
        if self.saved == trainer.steps_done:
            return
        state = trainer.state_dict()
        if trainer.is_main:
            self.save(state, trainer.steps_done)
        from_main(None)  # nobody goes on, and perhaps dies, before it is written
        self.saved = trainer.steps_done

    def due(self, step: int) -> bool:
        return self.every is not None and step > 0 and step % self.every == 0

    def save(self, state: Any, step: int) -> Path:
        """Write a checkpoint, then remove the oldest ones beyond ``keep``; return its file."""
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
        """List the steps of the checkpoints in ascending order."""
        return sorted(self._found())

    def latest(self) -> Any:
        """Return the newest state that can be read (else a CheckpointError); warn of newer ones."""
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

    __repr__ = as_made

    def _found(self) -> dict[int, Path]:
        paths = self.folder.iterdir() if self.folder.is_dir() else ()
        matches = [(path, _NAME.fullmatch(path.name)) for path in paths]
        return {int(match[1]): path for path, match in matches if match}


def _remove(file: Path) -> None:
    with suppress(OSError):  # one that cannot be removed must not fail a save
        file.unlink()


def check_no_checkpoints(checkpoints: Checkpoints) -> None:
    steps = checkpoints.steps()
    if steps:
        raise FileExistsError(
            f"{checkpoints.folder} holds checkpoints up to step {steps[-1]}; go on from there with "
            f"fit(..., resume={str(checkpoints.folder)!r}), or give another folder."
        )


def check_writable(folder: Path) -> None:
    """Make a folder, and check that it can be written to, before a training begins."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(
            error.errno,
            f"checkpoints cannot be written to {folder}: {error.strerror}; give a folder that can "
            "be written to",
        ) from error


def _check_folder(folder: Path) -> None:
    """Check that a folder holds nothing else, before a training rather than after it."""
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


# ---- One state as one file: nested values as JSON, and tensors by name, to the bit
#
# JSON has lists, finite numbers and objects with text as keys. All else becomes an object of one
# entry that says what it is: {"tuple": [...]}, {"dict": [[key, value], ...]}, {"int": "0x1..."},
# {"float": "7ff8..."}, {"tensor": name, ...}.

_WAY_OUT = "give a whole checkpoint, such as the one before it, or start the training again"
_NONSENSE = (LookupError, TypeError, ValueError, AttributeError, RuntimeError, struct.error)
_DEEPEST = 100  # nested containers: far more than a state has, far less than Python's stack
_EXACT = 2**53  # what every reader of JSON keeps exactly
#: What safetensors has known from its first version; others are stored as their bytes.
_NATIVE = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8),
}


def write_state(state: Any, file: Path) -> None:
    packer = _Packer()
    packed = packer.pack(state, "state")
    write(file, packed, packer.tensors)


def read_state(file: Path) -> Any:
    """Return a state, tensors on the CPU and without gradient."""
    packed, tensors = read(file, _WAY_OUT)
    try:
        return _unpacked(packed, tensors)
    except _NONSENSE as error:
        raise CheckpointError(file, f"its state cannot be read ({error!r})", _WAY_OUT) from error


class _Packer:
    """Makes JSON of one state; ``tensors`` has its tensors, by the place of each."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.names: dict[int, str] = {}  # of tensors by identity: one in two places is stored once

    def pack(self, value: Any, path: str, depth: int = 0) -> Any:
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
            "expected None, bool, int, float, str, tensors, and lists, tuples and dicts of them in "
            f"a state, but {path} is a {_kind(value)}; convert it, such as an array by "
            "torch.from_numpy and a path by str."
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
            self.tensors[name] = _dense(tensor, path)
        if tensor.dtype in _NATIVE:
            return {"tensor": name}
        kind = str(tensor.dtype).removeprefix("torch.")
        return {"tensor": name, "dtype": kind, "shape": list(tensor.shape)}


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


def _kind(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpacked(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        tensor = tensors[value["tensor"]]
        if "dtype" not in value:
            return tensor
        return tensor.view(getattr(torch, value["dtype"])).reshape(value["shape"])
    ((tag, content),) = value.items()
    return _UNTAG[tag](_unpacked(content, tensors))


_UNTAG: dict[str, Any] = {
    "tuple": tuple,
    "dict": dict,
    "int": lambda digits: int(digits, 16),
    "float": lambda digits: struct.unpack(">d", bytes.fromhex(digits))[0],
}


# ---- A trainer between two updates, as plain containers of tensors and numbers

_LISTED = 4  # tensors that an error names; the others it counts


def training_state(trainer: MaskingTrainer) -> dict[str, Any]:
    """Copy the state of a training between two updates, for a loop of your own.

    In a training over several processes all of them must call this.

    Example:
        >>> from captum_masking import MaskingModel, MaskingTrainer
        >>> classifier = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten())
        >>> model = MaskingModel(classifier, ["0"], example_inputs=torch.zeros(1, 1, 8, 8))
        >>> sorted(training_state(MaskingTrainer(model)))[:4]
        ['model', 'optimizers', 'original', 'pool']
    """
    engine = trainer.engine
    if engine.between_updates:
        raise RuntimeError(
            f"a state is taken between updates, but gradients of {engine.batches} of "
            f"{engine.accumulate} batches are waiting; take it after a step that completes an "
            "update."
        )
    state = {
        "settings": _settings(trainer),
        "model": trainer.model.state_dict(),
        "trained": _trained(trainer),
        "original": {} if trainer.original is None else trainer.original.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "scaler": {} if engine.scaler is None else engine.scaler.state_dict(),
        "pool": trainer.pool.state_dict(),
        "pool_is_current": trainer.pool_is_current,
        "steps_done": trainer.steps_done,
        "random": gathered(random_state()),
        "torch": str(torch.__version__),
    }
    return copy.deepcopy(state)


def load_training_state(trainer: MaskingTrainer, state: dict[str, Any]) -> None:
    """Restore a trainer and all random states from the state of an equal one.

    A ValueError names what differs, such as settings or a frozen classifier; nothing has changed.
    """
    check_resumable(trainer, state)
    if state["torch"] != str(torch.__version__):
        _warn_of_other_bits(f"under torch {state['torch']}", f"under {torch.__version__}")
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
    states = state["random"]
    if len(states) != world():
        _warn_of_other_bits(f"in {len(states)} processes", f"in {world()}")
    set_random_state(states[rank() % len(states)])


def _warn_of_other_bits(was: str, now: str) -> None:
    warnings.warn(
        f"this training was begun {was} and goes on {now}: it will not be what it would have been, "
        "bit by bit.",
        stacklevel=3,
    )


def random_state() -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": random.getstate(),
        "numpy": (str(kind), torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest),
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))


def check_resumable(trainer: MaskingTrainer, state: dict[str, Any]) -> None:
    """Check that a state is of a training like this one; the trainer is not changed."""
    check_settings(state["settings"], _settings(trainer))
    saved, own = state["model"], trainer.model.state_dict()
    shapes = [{n: str(tuple(t.shape)) for n, t in each.items()} for each in (saved, own)]
    other = _differences(*shapes)
    _refuse_tensors("a model of the same architecture", other, "Make the model as it was")
    names = state["trained"], _trained(trainer)
    marked = [dict.fromkeys(chain(*each), "trained") for each in names]
    trained = _differences(*marked, absent="frozen")
    _refuse_tensors("the same layers to be trained", trained, "Make the model as it was")
    if trainer.joint is None:  # then the classifier would be overwritten
        frozen = [name for name in own if name.startswith("classifier.")]
        others = [n for n in frozen if not torch.equal(saved[n].cpu(), own[n].cpu())]
        _refuse_tensors("the frozen classifier", others, "Give that classifier")


def check_settings(saved: Mapping[str, str], own: Mapping[str, str]) -> None:
    lines, expected = _differences(saved, own), "the settings that this training was begun with"
    way_out = "Make the trainer, the loader and the call of fit() as they were"
    _refuse(expected, str(len(lines)), lines, way_out)


def _refuse_tensors(what: str, differing: list[str], way_out: str) -> None:
    left = len(differing) - _LISTED
    lines = [*differing[:_LISTED], *[f"and {left} more"] * (left > 0)]
    _refuse(f"{what} as when this training was begun", f"{len(differing)} tensors", lines, way_out)


def _refuse(expected: str, number: str, lines: list[str], way_out: str) -> None:
    if lines:
        listed = "\n".join(f"  {line}" for line in lines)
        raise ValueError(
            f"expected {expected}, but {number} differ:\n{listed}\n{way_out}, or begin a new "
            "training."
        )


def _differences(
    saved: Mapping[str, str], own: Mapping[str, str], *, absent: str = "absent"
) -> list[str]:
    names = [n for n in {**saved, **own} if saved.get(n) != own.get(n)]
    return [f"{n}: was {saved.get(n, absent)}, is {own.get(n, absent)}" for n in names]


def _settings(trainer: MaskingTrainer) -> dict[str, str]:
    return {**trainer.settings(), "upsample": setting(trainer.model.upsample)}


def _trained(trainer: MaskingTrainer) -> list[list[str]]:
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    return [[names[p] for p in parameters_of(o)] for o in trainer.optimizers]


def loader_settings(loading: Loading) -> dict[str, str]:
    """Name what decides which images are in which batch."""
    loader = loading.loader
    batch_size = str(getattr(loader, "batch_size", None))
    if not loading.is_planned:  # where several workers take turns in giving batches
        return {"batch_size": batch_size, "num_workers": str(getattr(loader, "num_workers", None))}
    images, sampler = str(len(loader.dataset)), type(loader.sampler).__name__
    return {"batch_size": batch_size, "images": images, "sampler": sampler}


def setting(part: Any) -> str:
    """Print a part as another process would: a local function by a hash of its code."""
    text = str(part)
    found: dict[int, FunctionType] = {}
    if "<lambda>" in text or "<locals>" in text:
        _find_functions(part, found, set())
    hashes = {f"{address:x}": f" {sha256(_code(f))[:8]}" for address, f in found.items()}
    return re.sub(r" at 0x([0-9a-f]+)", lambda match: hashes.get(match[1], ""), text)


def _find_functions(part: Any, found: dict[int, FunctionType], seen: set[int]) -> None:
    if id(part) in seen or isinstance(part, (type, Tensor)):
        return
    seen.add(id(part))
    inside: Any = getattr(part, "__dict__", {})
    if isinstance(part, FunctionType):
        if "<" in part.__qualname__:  # <lambda>, <locals>
            found[id(part)] = part
    elif isinstance(part, partial):
        inside = [part.func, part.args, part.keywords]
    elif isinstance(part, (dict, list, tuple)):
        inside = part
    for each in inside.values() if isinstance(inside, Mapping) else inside:
        _find_functions(each, found, seen)


def _code(function: FunctionType) -> str:
    """Return all that decides what a function does, but for globals; names of values do not."""
    cells = [c.cell_contents for c in function.__closure__ or () if c.cell_contents is not function]
    values = [function.__defaults__, function.__kwdefaults__, *cells]
    return "\n".join([_instructions(function.__code__), *map(setting, values)])


def _instructions(code: CodeType) -> str:
    constants = [
        _instructions(each)
        if isinstance(each, CodeType)
        else repr(sorted(map(repr, each)) if isinstance(each, frozenset) else each)
        for each in code.co_consts
    ]
    return repr((code.co_code, code.co_names, constants))


# ---- What stops a training: Ctrl-C and SIGTERM wait for the step to end, errors get a way out

_MEMORY = (
    "The step did not fit into memory. Lower the batch size of the loader first; to keep the size "
    "of an update, accelerate's gradient_accumulation_steps. Then: smaller images, "
    "mixed_precision='bf16', or train_classifier=False."
)
#: What is in the name or message of an error that torch raises, and what helps.
_WAYS_OUT = {
    "MemoryError": _MEMORY,  # and OutOfMemoryError
    "allocate memory": _MEMORY,
    "DataLoader worker": (
        "A loader process died, often for want of memory (also /dev/shm). Use fewer num_workers; "
        "with num_workers=0 the error of the data set itself is shown."
    ),
    "more than 1 value per channel": (
        "Batch norm cannot learn from one value: this batch has one example, of one cell at the "
        "deepest layer. DataLoader(..., drop_last=True) leaves such a last batch out."
    ),
}


@contextmanager
def causes_in_words() -> Iterator[None]:
    """Add the way out to errors that torch raises during a training."""
    try:
        yield
    except (RuntimeError, MemoryError, ValueError) as error:
        words = f"{type(error).__name__}: {error}"
        way_out = next((text for sign, text in _WAYS_OUT.items() if sign in words), None)
        if way_out is not None:
            error.add_note(way_out)
        raise


@contextmanager
def lost_workers_in_words() -> Iterator[None]:
    """Report a loader's process that died as such, not as the connection that broke with it."""
    try:
        yield
    except (ConnectionError, EOFError) as error:
        raise RuntimeError("a DataLoader worker process exited unexpectedly") from error


class Signals:
    """Which signal has come, if any, within :meth:`postponed`; a second one acts at once."""

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
        except RuntimeError:
            self.act()  # Ctrl-C reaches a loader's processes too, and their death is no other error
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
