"""Files that are whole or not there, JSON that any program reads, and tables."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from captum_masking._base.files import dumps, replacing, sha256, write_json, write_text
from captum_masking._base.text import describe, table


def test_a_file_is_replaced_whole_and_its_folder_made(tmp_path):
    file = tmp_path / "new" / "a.txt"
    for text in ("first", "zweitens: ü"):
        write_text(file, text)
        assert file.read_text(encoding="utf-8") == text
    assert os.listdir(file.parent) == ["a.txt"]


@pytest.mark.parametrize("shared", [False, True])
def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path, shared):
    file = tmp_path / "a.txt"
    file.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(file, shared=shared) as staged:
        assert staged.suffix == ".txt" and staged.parent == tmp_path
        staged.write_text("half")
        raise KeyboardInterrupt
    assert file.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_what_a_killed_process_left_is_overwritten(tmp_path):
    with replacing(tmp_path / "a.txt") as staged:
        pass_on = staged
        staged.write_text("half of it, by a process that was killed")
    pass_on.write_text("half")
    with replacing(tmp_path / "a.txt") as staged:
        staged.write_text("whole")
    assert os.listdir(tmp_path) == ["a.txt"] and (tmp_path / "a.txt").read_text() == "whole"


def test_what_is_not_json_becomes_null_or_text(tmp_path):
    document = {"a": float("nan"), "b": [float("inf"), Path("x/y")], 3: (1, True, None, "t")}
    expected = {"a": None, "b": [None, "x/y"], "3": [1, True, None, "t"]}
    assert json.loads(dumps(document)) == expected
    write_json(tmp_path / "a.json", document, indent=1)
    assert json.loads((tmp_path / "a.json").read_text()) == expected
    assert dumps([np.float32(0.5), np.int64(3), np.float64("nan")]) == "[0.5, 3, null]"


def test_a_hash_tells_contents_apart(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * (3 << 20))
    layer = nn.Linear(2, 2)
    contents = [tmp_path / "a", b"x", "x", torch.zeros(2), torch.zeros(3), layer]
    hashes = [sha256(content) for content in contents]
    assert len(set(hashes)) == len(contents) and hashes == [sha256(each) for each in contents]
    with torch.no_grad():
        layer.bias.add_(1)
    assert sha256(layer) != hashes[-1]
    assert sha256("a", "b") != sha256("b", "a")


def test_a_table_is_aligned_left_in_its_first_column_and_right_in_the_others():
    rows = [["centered", "41.3"], ["ours", "9.0"]]
    lines = ["method      LE", "--------  ----", "centered  41.3", "ours       9.0"]
    assert table(["method", "LE"], rows).splitlines() == lines


def test_an_evaluation_is_described_by_what_was_measured():
    lines = ["figure            value", "---------------  ------", "images                2"]
    assert describe({"images": 2, "clean": 0.5}).splitlines() == [
        *lines,
        "accuracy, clean  50.0 %",
    ]
