"""Promises about checkpoints of a training: what comes back, and what no fault breaks."""

from __future__ import annotations

import errno
import json
import os
import pickle
import random
import signal
import string
import struct
import tempfile
import time
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError
from test_checkpoint import killed_before
from torch import Tensor, nn

from captum_masking.model import files
from captum_masking.model.files import CheckpointError
from captum_masking.training.checkpoint import Checkpoints, read_state, write_state

pytest.importorskip("hypothesis")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a process to be copied")
DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn),
    *(torch.complex128, torch.complex64, torch.int64, torch.int32, torch.int16, torch.int8),
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool),
)


def bits(value):
    """A value as something that is equal only if every bit and every type is."""
    if isinstance(value, Tensor):
        raw = value.detach().resolve_conj().cpu().contiguous().reshape(-1).view(torch.uint8)
        return Tensor, value.dtype, tuple(value.shape), raw.numpy().tobytes()
    if isinstance(value, dict):
        return dict, [(type(key), key, bits(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [bits(item) for item in value]
    return type(value), struct.pack("d", value) if isinstance(value, float) else value


def state_of(step: int) -> dict:
    """What a small training could look like after some steps; tensors of 400 kB."""
    weights = torch.full((100_000,), float(step))
    optimizer = {"state": {0: {"step": torch.tensor(float(step))}}, "betas": (0.9, 0.999)}
    return {"step": step, "trainer": {"weights": weights, "optimizer": optimizer}, "best": None}


@pytest.fixture
def file(tmp_path) -> Path:
    """A small checkpoint that has a bit of everything."""
    state = {"a": [1, (2.5, float("nan"))], 7: {"w": torch.arange(5.0)}, "é": None, "b": True}
    write_state(state, tmp_path / "small")
    return tmp_path / "small"


# What comes back


@st.composite
def tensors(draw) -> Tensor:
    dtype, shape = draw(st.sampled_from(DTYPES)), draw(st.lists(st.integers(0, 3), max_size=3))
    count = int(np.prod(shape)) * dtype.itemsize
    raw = torch.tensor(list(draw(st.binary(min_size=count, max_size=count))), dtype=torch.uint8)
    return (raw % 2 == 0 if dtype == torch.bool else raw.view(dtype)).reshape(shape)


def containers(items):
    keys = st.integers() | st.text(max_size=5)
    lists = st.lists(items, max_size=4)
    return lists | lists.map(tuple) | st.dictionaries(keys, items, max_size=4)


text = st.text(st.characters() | st.characters(categories=["Cs"]), max_size=8)
plain = st.none() | st.booleans() | st.integers() | st.floats() | text
states = st.recursive(plain | tensors(), containers, max_leaves=10)


@settings(max_examples=50, deadline=None)
@given(states)
def test_any_state_comes_back_to_the_bit(state):
    with tempfile.TemporaryDirectory() as parent:
        file = Path(parent, "state")
        write_state(state, file)
        assert bits(read_state(file)) == bits(state)


@pytest.mark.parametrize(
    "value",
    [0.1, -0.0, 5e-324, 1.7976931348623157e308, float("inf"), float("-inf"), float("nan")]
    + [2**53 + 1, -(2**200), 10**5000, True, "\ud800", "", (), [], {}, [[()]], {"tuple": [1]}],
    ids=map(str, range(20)),
)
def test_values_that_are_easily_lost_come_back(value, tmp_path):
    write_state({"value": value}, tmp_path / "state")
    assert bits(read_state(tmp_path / "state")) == bits({"value": value})


def test_tensors_of_every_kind_of_memory_come_back(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    state = {
        "transposed": base.T,
        "every other": base[:, ::2],
        "expanded": torch.ones(1).expand(3, 2),
        "conjugate": torch.tensor([1 + 2j]).conj(),
        "parameter": nn.Parameter(torch.ones(2)),
        "views of one memory": [base[0], base[1:], base],
        "empty": [torch.empty(0), torch.empty(0, 3)],
        "number": torch.tensor(3),
    }
    write_state(state, tmp_path / "state")
    read = read_state(tmp_path / "state")
    assert bits(read) == bits(state)
    assert not read["parameter"].requires_grad and type(read["parameter"]) is Tensor


def test_one_tensor_in_two_places_is_stored_once_and_is_one_again(tmp_path):
    shared = torch.zeros(1000)
    write_state({"a": shared, "b": [shared]}, tmp_path / "state")
    assert (tmp_path / "state").stat().st_size < 1.5 * 4000
    read = read_state(tmp_path / "state")
    assert read["a"] is read["b"][0]


def test_what_was_read_does_not_hang_on_the_file(file):
    read = read_state(file)
    file.write_bytes(b"")  # a window on the file would now crash the process
    assert torch.equal(read[7]["w"], torch.arange(5.0))


def test_kinds_of_dicts_and_numbers_come_back_as_the_plain_kind(tmp_path):
    state = {"weights": OrderedDict(w=1), "size": torch.Size([2, 3]), "lr": np.float64(0.1)}
    write_state(state, tmp_path / "state")
    plain_state = {"weights": {"w": 1}, "size": (2, 3), "lr": 0.1}
    assert bits(read_state(tmp_path / "state")) == bits(plain_state)


def test_an_optimizer_goes_on_as_if_never_stopped(tmp_path):
    def made():
        torch.manual_seed(0)
        network = nn.Linear(3, 2)
        return network, torch.optim.AdamW(network.parameters(), amsgrad=True)

    def train(network, optimizer, steps):
        for step in steps:
            optimizer.zero_grad()
            network(torch.full((4, 3), float(step))).square().mean().backward()
            optimizer.step()

    (network, optimizer), (again, its_optimizer) = made(), made()
    train(network, optimizer, range(5))
    parts = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
    write_state(parts | {"python": random.getstate()}, tmp_path / "state")
    train(network, optimizer, range(5, 10))
    read = read_state(tmp_path / "state")
    again.load_state_dict(read["network"])
    its_optimizer.load_state_dict(read["optimizer"])
    random.setstate(read["python"])
    train(again, its_optimizer, range(5, 10))
    assert bits(again.state_dict()) == bits(network.state_dict())
    assert bits(its_optimizer.state_dict()) == bits(optimizer.state_dict())


# What is refused at writing


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"callbacks": [{"x": {1, 2}}]}, r'state\["callbacks"\]\[0\]\["x"\] is a set'),
        ({"a": (None, Path("x"))}, r'state\["a"\]\[1\] is a pathlib'),
        ({3: np.zeros(2)}, r"state\[3\] is a numpy.ndarray; .*torch.from_numpy"),
        ([np.float32(1)], r"state\[0\] is a numpy.float32"),
        ({"a": {None: 1}}, r'state\["a"\] has the key None, a NoneType'),
        ({True: 1}, "state has the key True, a bool"),
        ({"f": len}, r'state\["f"\] is a builtin_function'),
        ([torch.eye(2).to_sparse()], r"state\[0\] is one of torch.sparse_coo"),
        ([torch.empty(2, device="meta")], r"state\[0\] is one of .* on meta"),
    ],
)
def test_what_cannot_be_written_is_refused_by_its_place(state, words, tmp_path):
    with pytest.raises(TypeError, match=words):
        write_state(state, tmp_path / "state")
    assert not os.listdir(tmp_path)


def test_a_state_that_contains_itself_is_refused(tmp_path):
    state: dict = {}
    state["me"] = [state]
    with pytest.raises(ValueError, match="does one contain itself"):
        write_state(state, tmp_path / "state")
    assert not os.listdir(tmp_path)


# What is refused at reading


def test_one_flipped_bit_anywhere_is_refused(file):
    whole = file.read_bytes()
    for offset in range(len(whole)):
        for bit in range(8) if offset % 16 == 0 else [offset % 8]:
            flipped = bytearray(whole)
            flipped[offset] ^= 1 << bit
            file.write_bytes(flipped)
            with pytest.raises(CheckpointError, match="small: (it|captum_masking did not)"):
                read_state(file)
    file.write_bytes(whole)
    read_state(file)


def test_the_case_of_a_digit_counts_as_well(tmp_path):
    # "1e-05" and "1E-05" are one number, but a bit apart: only the bytes tell.
    write_state({"lr": 1e-05}, tmp_path / "state")
    raw = (tmp_path / "state").read_bytes()
    (tmp_path / "state").write_bytes(raw.replace(b"1e-05", b"1E-05"))
    with pytest.raises(CheckpointError, match="was altered"):
        read_state(tmp_path / "state")


def test_every_truncation_is_refused(file):
    whole = file.read_bytes()
    for length in range(0, len(whole), 3):
        file.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="small: it is truncated, .*; give a whole"):
            read_state(file)


def test_a_missing_file_is_named(file):
    file.unlink()
    with pytest.raises(CheckpointError, match="small: it does not exist; give a whole"):
        read_state(file)
    file.mkdir()
    with pytest.raises(CheckpointError, match="small: it is a folder; give a whole"):
        read_state(file)


def test_the_halves_of_two_checkpoints_are_not_mixed(file, tmp_path):
    write_state({"a": [2, (2.5, float("nan"))], 7: {"w": torch.ones(5)}}, tmp_path / "other")
    weights = torch.ones(5).numpy().tobytes()
    assert (tmp_path / "other").read_bytes().endswith(weights)
    file.write_bytes(file.read_bytes()[: -len(weights)] + weights)
    with pytest.raises(CheckpointError, match="small: it was altered"):
        read_state(file)


class Malicious:
    """Unpickled, it makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("write", [pickle.dump, torch.save], ids=["pickle", "torch.save"])
def test_a_pickle_in_place_of_a_file_is_refused_and_never_run(file, write, tmp_path):
    marker = tmp_path / "marker"
    with file.open("wb") as stream:
        write(Malicious(marker), stream)
    with pytest.raises(CheckpointError, match="small: it is .*something else"):
        read_state(file)
    assert not marker.exists()


def forge_format(file: Path, number: int) -> None:
    """Have a file be of another format, with the checksum that belongs to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_FORMAT", number)
        write_state({"step": 1}, file)


def test_a_newer_format_is_refused_as_such(file):
    forge_format(file, 3)
    with pytest.raises(CheckpointError, match="format is 3, this version reads 2; update"):
        read_state(file)


@pytest.mark.parametrize(
    "state",
    [
        {"tensor": "nowhere"},
        {"tensor": [1]},
        {"tensor": 'state[7]["w"]', "dtype": "save", "shape": [5]},
        {"tensor": 'state[7]["w"]', "dtype": "float64", "shape": [5]},
        {"eval": "1"},
        {"tuple": 1},
        {"tuple": [], "list": []},
        {"dict": [[[], 1]]},
        {"dict": [[1]]},
        {"int": "0xg"},
        {"int": 5},
        {"float": "00"},
        {"float": [1]},
        {},
    ],
    ids=str,
)
def test_nonsense_with_the_right_checksum_is_refused_in_words(file, state):
    files.write(file, state, {'state[7]["w"]': torch.arange(5.0)})
    with pytest.raises(CheckpointError, match="small: its state cannot be read"):
        read_state(file)


def test_brackets_without_end_are_refused(file):
    file.write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="small: it is truncated"):
        read_state(file)


# The checkpoints of one training


def test_the_last_few_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run", keep=2)
    assert checkpoints.steps() == []
    for step in (0, 9, 10, 123):  # in the order of numbers, not of letters
        written = checkpoints.save({"step": step}, step)
        assert written == tmp_path / "run" / f"step-{step:08d}.safetensors"
        assert checkpoints.latest() == {"step": step}
    assert checkpoints.steps() == [10, 123]
    names = [f"step-{step:08d}.safetensors" for step in (10, 123)]
    assert sorted(os.listdir(tmp_path / "run")) == names


def test_steps_beyond_eight_digits_stay_in_order(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (99_999_998, 99_999_999, 100_000_000):
        checkpoints.save(step, step)
    assert checkpoints.steps() == [99_999_999, 100_000_000] and checkpoints.latest() == 100_000_000


def test_they_are_due_every_so_many_steps_or_never():
    checkpoints = Checkpoints("run", every=3)
    assert [step for step in range(10) if checkpoints.due(step)] == [3, 6, 9]
    assert not any(Checkpoints("run").due(step) for step in range(10))


def test_it_prints_as_it_was_made():
    checkpoints = Checkpoints("run", every=3, keep=2)
    assert repr(checkpoints) == "Checkpoints(folder='run', every=3, keep=2)"
    assert repr(eval(repr(checkpoints))) == repr(checkpoints)


@pytest.mark.parametrize(
    "wrong, error",
    [
        ({"keep": 0}, ValueError),
        ({"every": 0}, ValueError),
        ({"every": 1.5}, TypeError),
        ({"keep": True}, TypeError),
    ],
)
def test_wrong_numbers_are_refused(wrong, error):
    with pytest.raises(error, match="must be a whole number >= 1"):
        Checkpoints("run", **wrong)
    with pytest.raises(ValueError, match="step must be a whole number >= 0"):
        Checkpoints("run").save({}, -1)


def test_the_same_step_is_replaced(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    for state in ("first", "second"):
        checkpoints.save(state, 5)
    assert checkpoints.latest() == "second" and os.listdir(tmp_path) == [
        "step-00000005.safetensors"
    ]


def test_later_ones_neither_count_nor_go(tmp_path):
    # A training that goes on from step 10, as step 20 is damaged: 11 must not go in favor of 20.
    checkpoints = Checkpoints(tmp_path, keep=1)
    Checkpoints(tmp_path, keep=9).save("old", 20)
    for step in (10, 11):
        checkpoints.save(step, step)
        assert checkpoints.steps() == [step, 20]
    checkpoints.save("new", 20)
    assert checkpoints.steps() == [20] and checkpoints.latest() == "new"


def test_a_damaged_one_is_skipped_with_its_name_and_the_reason(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2, 3):
        checkpoints.save(state_of(step), step)
    (tmp_path / "step-00000002.safetensors").write_bytes(b"")
    (tmp_path / "step-00000003.safetensors").write_bytes(b"damaged")
    assert checkpoints.steps() == [1, 2, 3]
    with pytest.warns(UserWarning) as said:
        assert bits(checkpoints.latest()) == bits(state_of(1))
    assert [str(one.message)[:31] for one in said] == ["skipping a damaged checkpoint: "] * 2
    assert "step-00000003.safetensors: it is truncated, was altered or" in str(said[0].message)
    assert "step-00000002.safetensors: it is truncated, was altered or" in str(said[1].message)


@pytest.mark.filterwarnings("ignore:skipping a damaged:UserWarning")
def test_without_a_readable_one_there_is_no_latest(tmp_path):
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(CheckpointError, match="holds no checkpoint that can be read; give"):
            Checkpoints(folder).latest()
    Checkpoints(tmp_path).save({}, 1).write_text("{}")
    with pytest.raises(CheckpointError, match="holds no checkpoint that can be read; give"):
        Checkpoints(tmp_path).latest()


def test_a_folder_of_something_else_is_refused_and_left(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / "step-two").mkdir()
    with pytest.raises(FileExistsError, match="holds 'step-two' and 1 more; give another"):
        Checkpoints(tmp_path)
    with pytest.raises(FileExistsError, match="is a file; give a folder"):
        Checkpoints(tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_checkpoints_of_the_older_version_are_refused_as_such(tmp_path):
    (tmp_path / "step-00000012").mkdir()
    with pytest.raises(FileExistsError, match="older version .*finish that training with that"):
        Checkpoints(tmp_path)


def test_hidden_files_are_left_alone(tmp_path):
    (tmp_path / ".directory").write_text("icons")
    (tmp_path / ".notes").write_text("mine")
    Checkpoints(tmp_path, keep=1).save({}, 1)
    kept = [".directory", ".notes", "step-00000001.safetensors"]
    assert sorted(os.listdir(tmp_path)) == kept


# Faults


def test_what_killed_saves_left_is_ignored_and_cleared_at_the_next(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save("one", 1)
    names = ("-7-step-00000001.safetensors", "-7-step-00000002.safetensors", "Ab3dEf")
    for name in names:  # the last as safetensors names its own
        (tmp_path / f".tmp{name}").write_text("half")
    assert Checkpoints(tmp_path).steps() == [1] and Checkpoints(tmp_path).latest() == "one"
    checkpoints.save("two", 2)
    names = [f"step-{step:08d}.safetensors" for step in (1, 2)]
    assert sorted(os.listdir(tmp_path)) == names


@needs_fork
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("again", [False, True], ids=["a new step", "the same step"])
def test_a_save_killed_before_any_file_operation_loses_nothing(tmp_path, again):
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(-1, 0)
    call, died, seen = 0, True, []
    while died:
        before, step = checkpoints.latest(), 0 if again else call + 1
        died = killed_before(call, lambda: checkpoints.save(call, step))  # noqa: B023
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # nothing is damaged either
            seen.append(checkpoints.latest())
        assert seen[-1] in (before, call)
        call += 1
    assert call > 5 and seen[0] == -1 and seen[-1] == call - 1
    assert len(os.listdir(tmp_path)) == 1


@needs_fork
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_training_killed_at_random_moments_always_has_a_state_to_go_on_from(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(state_of(0), 0)
    step = 0
    for _ in range(25):
        heard, told = os.pipe()
        process = os.fork()
        if process == 0:
            while True:  # a training that does nothing but save
                step += 1
                checkpoints.save(state_of(step), step)
                os.write(told, b".")
        os.close(told)
        assert os.read(heard, 1) == b"."  # one save at least, however busy the machine
        os.close(heard)
        time.sleep(random.uniform(0, 0.03))  # then any moment of those that follow
        os.kill(process, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            state = Checkpoints(tmp_path, keep=2).latest()
        assert state["step"] >= step
        step = state["step"]
        assert bits(state) == bits(state_of(step))
    assert step > 10
    checkpoints.save(state_of(step), step)
    assert sorted(os.listdir(tmp_path)) == [f"step-{s:08d}.safetensors" for s in (step - 1, step)]


def half_written(tensors, file, **_):
    Path(file).write_bytes(b"half")
    raise SafetensorError("Error while serializing: I/O error: No space left (os error 28)")


@pytest.fixture
def run(tmp_path) -> Checkpoints:
    checkpoints = Checkpoints(tmp_path / "run", keep=1)
    checkpoints.save(state_of(1), 1)
    return checkpoints


def assert_intact(run: Checkpoints) -> None:
    assert os.listdir(run.folder) == ["step-00000001.safetensors"]
    assert bits(run.latest()) == bits(state_of(1))


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("where", ["tensors", "sync"])
def test_a_full_disk_is_one_error_in_words_and_costs_nothing(run, where, step, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    owner, function, fault = {
        "tensors": (safetensors.torch, "save_file", half_written),
        "sync": (os, "fsync", full),
    }[where]
    with monkeypatch.context() as patch:
        patch.setattr(owner, function, fault)
        words = rf"could not save .*step-0000000{step}.\w+: No space left .* MiB free.*free some"
        with pytest.raises(OSError, match=words) as caught:
            run.save(state_of(2), step)
    assert caught.value.errno == errno.ENOSPC
    assert_intact(run)
    run.save(state_of(2), step)  # once there is space
    assert bits(run.latest()) == bits(state_of(2)) and len(run.steps()) == 1


@needs_fork
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_files_that_the_system_really_cuts_off_cost_nothing(run):
    # No disk is full here, but a limit on the size of files has the system fail just as it does.
    import resource

    process = os.fork()
    if process == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            run.save(state_of(2), 2)
        except OSError as error:
            os._exit(error.errno)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == errno.EFBIG
    assert_intact(run)


def test_a_folder_on_a_read_only_disk_is_an_error_in_words(run, monkeypatch):
    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        for function in ("mkdir", "replace"):
            patch.setattr(os, function, read_only)
        with pytest.raises(OSError, match="could not save .*: Read-only file system"):
            run.save(state_of(2), 2)
    assert_intact(run)


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 0)() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_an_error_in_words(run):
    run.folder.chmod(0o555)
    try:
        with pytest.raises(PermissionError, match="could not save .*: Permission denied"):
            run.save(state_of(2), 2)
    finally:
        run.folder.chmod(0o755)
    assert_intact(run)


def test_a_file_in_place_of_a_parent_is_an_error_in_words(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="could not save .*: Not a directory"):
        Checkpoints(tmp_path / "file" / "run").save({}, 1)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_save_is_raised_on_and_leaves_nothing(run, interruption, monkeypatch):
    def interrupt(*_):
        raise interruption

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupt)
        with pytest.raises(interruption):
            run.save(state_of(2), 2)
    assert_intact(run)


def test_a_state_that_cannot_be_written_costs_nothing(run):
    with pytest.raises(TypeError, match=r'state\["x"\]'):
        run.save({"x": object()}, 1)
    assert_intact(run)


def test_an_old_checkpoint_that_cannot_be_removed_does_not_fail_the_save(run, monkeypatch):
    def refuse(path, missing_ok=False):
        if path.exists():
            raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        run.save(state_of(2), 2)
    assert run.steps() == [1, 2]
    run.save(state_of(3), 3)
    assert os.listdir(run.folder) == ["step-00000003.safetensors"]


def test_names_in_the_files_say_where_a_tensor_belongs(tmp_path):
    key = string.printable + "é"
    write_state({"trainer": {key: [torch.ones(1)]}}, tmp_path / "state")
    names = list(safetensors.torch.load_file(tmp_path / "state"))
    assert names == [f'state["trainer"][{json.dumps(key)}][0]']
