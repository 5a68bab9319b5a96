"""Promises about the names of classes: how they are read, and how data are numbered by them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from captum_masking._base.text import as_class_names, check_class_names, number_classes


def digits(first, last):
    return [str(number) for number in range(first, last + 1)]


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (None, ()),
        (["a", "b"], ("a", "b")),
        ({1: "b", 0: "a"}, ("a", "b")),
        ({"10": "k", "0": "a"}, ("a", *[""] * 9, "k")),  # a gap is a class without a name
        ({"dog": 1, "cat": 0}, ("cat", "dog")),  # class_to_idx
        ({"1": 0, "10": 1, "2": 2}, ("1", "10", "2")),
        ({0: 7, 1: 3}, ("7", "3")),
        (np.array(["a", "b"]), ("a", "b")),
        (torch.tensor([4, 2]), ("4", "2")),
        ([b"a", None, 3, np.str_("d")], ("a", "", "3", "d")),
        (["two\nlines", "bad \udcff"], ("two lines", "bad \\udcff")),
    ],
)
def test_names_are_read_as_networks_carry_them(given, names):
    found = as_class_names(given)
    assert found == names and all(type(name) is str for name in found)
    json.dumps(found).encode()


def test_names_are_read_from_files(tmp_path):
    (tmp_path / "names.txt").write_text("cat\ndog\n\n", encoding="utf-8-sig")
    (tmp_path / "config.json").write_text('{"id2label": {"1": "dog", "0": "cat"}, "width": 3}')
    assert as_class_names(tmp_path / "names.txt") == ("cat", "dog")
    assert as_class_names(str(tmp_path / "config.json")) == ("cat", "dog")


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ("cat,dog", ValueError, "no file 'cat,dog'"),
        ({"cat", "dog"}, TypeError, "a name for each output.*got set"),
        (7, TypeError, "got int"),
        ({-1: "a", 0: "b"}, ValueError, "got {-1: 'a'"),
        ({"1": "a", 1: "b"}, ValueError, "got {'1': 'a', 1: 'b'}"),
        ([["a", "b"]], TypeError, "one of them is"),
    ],
)
def test_names_in_no_order_are_refused(given, error, words):
    with pytest.raises(error, match=words):
        as_class_names(given)


def test_another_number_of_names_than_outputs_is_refused():
    with pytest.raises(ValueError, match="11 names for 12 outputs"):
        check_class_names(digits(1, 11), 12)


@pytest.mark.parametrize(
    ("found", "names", "outputs", "labels", "rule"),
    [
        (digits(1, 12), (), 12, range(12), "'1' is class 0, '2' is class 1"),
        (digits(0, 11), (), 12, range(12), "'11' is class 11"),
        (digits(4, 8), (), 12, range(4, 9), "'4' is class 4"),
        (digits(5, 12), (), 12, range(4, 12), "'12' is class 11"),
        (["2019", "2021"], (), 2, range(2), "'2021' is class 1"),
        (["01", "02"], (), 2, range(2), "'01' is class 0"),
        (digits(1, 3), (), None, range(3), "'3' is class 2"),
        (digits(4, 8), (), None, range(4, 9), "'8' is class 8"),
        (["281"], [f"name {n}" for n in range(1000)], 1000, [281], "'281' is class 281"),
        (["c1", "c10", "c2"], (), 3, range(3), "order of text: 'c1' is class 0, 'c10' is class 1"),
        (["n01440764", "n01443537"], ["tench", "goldfish"], 2, range(2), "order of text"),
        (["cat", "dog"], (), 2, range(2), ""),
        (["Egyptian_cat", "goldfish"], ["goldfish", "egyptian cat", "x"], 3, [1, 0], ""),
        (digits(1, 3), ["03", "02", "01"], 3, [2, 1, 0], ""),
        (["caf\u00e9"], ["tea", "cafe\u0301"], 2, [1], ""),  # as macOS writes folders
    ],
)
def test_classes_are_numbered_as_the_network_numbers_its_outputs(
    found, names, outputs, labels, rule
):
    numbered, by_number, said = number_classes(found, names, outputs)
    assert numbered == list(labels)
    assert rule in said and bool(rule) == bool(said)
    if not names:
        assert [by_number[label] for label in numbered] == found


@pytest.mark.parametrize(
    ("found", "names", "outputs", "words"),
    [
        (
            ["cat", "dog"],
            (),
            3,
            "2 classes .'cat', 'dog'. are not the network's 3, and their order",
        ),
        (["a", "b", "c"], (), 2, "3 classes .* network's 2"),
        (digits(0, 13), (), 12, "14 classes named by numbers .* do not fit .* 12 outputs"),
        (["01", "1"], (), 4, "do not fit"),
        (["bird", "cat"], ["cat", "dog"], 2, "1 of 2 do not: 'bird'; rename.*class_names"),
        (["n01440764"], ["tench", "goldfish"], 2, "1 of 1 do not: 'n01440764'"),
        (["Cat", "cat"], ["cat", "dog"], 2, "'Cat', 'cat' fit 0"),
        (["crane"], ["crane", "crane"], 2, "'crane' fit 0, 1"),
        (digits(0, 2), digits(1, 3), 3, "1 of 3 do not: '0'"),
    ],
)
def test_classes_of_which_nothing_says_which_is_which_are_refused(found, names, outputs, words):
    with pytest.raises(ValueError, match=words):
        number_classes(found, names, outputs)
