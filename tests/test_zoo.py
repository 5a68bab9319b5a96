"""Promises about the front door: a shipped masker in one line, its pictures and its classes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from captum_masking import MaskingModel, MaskingSaliency, zoo


@pytest.fixture(scope="module")
def photographs():
    pytest.importorskip("efficientnet_lite_pytorch")
    data = pytest.importorskip("skimage.data")
    return {"cat": data.chelsea(), "cup": data.coffee()}


def test_the_shipped_classifier_recognizes_the_cat(photographs):
    classifier, preprocess = zoo.load_classifier("efficientnet-lite0")
    with torch.no_grad():
        logits = classifier(preprocess(photographs["cat"])[None])
    assert preprocess.name(int(logits.argmax())) in ("Egyptian cat", "tabby", "tiger cat")


def test_a_new_masker_reads_the_layers_that_the_shipped_one_reads(photographs):
    classifier, _ = zoo.load_classifier("efficientnet-lite0")
    shipped, _ = zoo.efficientnet_lite0()
    assert MaskingModel(classifier).layers == shipped.layers
    assert shipped.layers == ("_blocks.10", "_avg_pooling.input")


def test_the_shipped_model_answers_for_the_target(photographs):
    model, preprocess = zoo.efficientnet_lite0()
    inputs = preprocess(photographs["cat"])[None]
    cat, fish = (
        MaskingSaliency(model).attribute(inputs, target=preprocess.number(name))
        for name in ("Egyptian cat", "goldfish")
    )
    assert fish.mean() < 0.2 * cat.mean()


def test_an_explanation_is_of_the_class_asked_for_or_of_the_predicted_one(photographs):
    model, preprocess = zoo.efficientnet_lite0()
    predicted = zoo.explain(model, preprocess, photographs["cup"])
    assert predicted.name == "espresso" and predicted.masked_out < predicted.masked_in
    asked = zoo.explain(model, preprocess, photographs["cup"], target="goldfish")
    assert asked == zoo.explain(model, preprocess, photographs["cup"], target=1)._replace(
        panels=asked.panels
    )
    assert asked.name == "goldfish" and asked.clean < 0.01
    assert [panel.pixels.shape for panel in predicted.panels] == [(341, 512, 3)] * 4
    statistics = [buffer.clone() for buffer in model.train().buffers()]
    again = zoo.explain(model, preprocess, photographs["cup"])
    assert again._replace(panels=()) == predicted._replace(panels=())
    assert all(map(torch.equal, model.buffers(), statistics))


# Preprocessing.


def test_pictures_are_squashed_and_normalized_to_the_classifiers_scale():
    preprocess = zoo.Preprocess(mean=[0.5] * 3, std=[0.25] * 3, image_size=4)
    inputs = preprocess(np.full((8, 6, 3), 255, dtype=np.uint8))
    torch.testing.assert_close(inputs, torch.full((3, 4, 4), 2.0))


def test_a_file_an_image_and_an_array_give_the_same_input(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    image.save(tmp_path / "a.png")
    preprocess = zoo.Preprocess(image_size=16)
    first, *others = map(preprocess, (tmp_path / "a.png", str(tmp_path / "a.png"), image, pixels))
    assert all(torch.equal(first, other) for other in others)


def test_gray_pictures_are_read_as_color():
    gray = np.full((8, 8), 128, dtype=np.uint8)
    inputs = zoo.Preprocess(mean=[0.0] * 3, std=[1.0] * 3, image_size=4)(gray)
    torch.testing.assert_close(inputs, torch.full((3, 4, 4), 128 / 255))


def test_a_missing_picture_is_named():
    with pytest.raises(FileNotFoundError, match=r"there is no picture nowhere\.png"):
        zoo.Preprocess()("nowhere.png")


def test_a_class_is_found_by_number_name_or_part():
    number = zoo.Preprocess(class_names=["tabby", "tiger cat", "Egyptian cat"]).number
    assert number(2) == number("2") == number("egyptian") == 2
    with pytest.raises(ValueError, match="fits 2 .1 tiger cat, 2 Egyptian cat."):
        number("cat")
    with pytest.raises(ValueError, match="fits 0"):
        number("dog")


@pytest.mark.parametrize("target", [-1, "-1", 3, "7", 1.0, [1], b"tabby"])
def test_a_target_that_is_no_class_is_refused(target):
    preprocess = zoo.Preprocess(class_names=["tabby", "tiger cat", "Egyptian cat"])
    with pytest.raises((TypeError, ValueError), match="target must be"):
        preprocess.number(target)
    assert zoo.Preprocess().number(3) == 3


def test_digits_are_the_name_of_a_class_before_they_are_its_number(recwarn):
    number = zoo.Preprocess(class_names=["1", "02", "3", "four"]).number
    assert number("four") == 3 and number(2) == number(np.int64(2)) == 2
    assert number("0") == 0 and not recwarn.list  # no class is called so
    with pytest.warns(UserWarning, match="'2' means .* number 1; for number 2 .*, '3'"):
        assert number("2") == 1


def test_a_class_is_named_also_without_a_name_and_among_equals():
    name = zoo.Preprocess(class_names={0: "crane", 1: "crane", 3: "tench"}).name
    assert [name(number) for number in (0, 2, 3, 4, -1)] == [
        "crane (0)",
        "class 2",
        "tench",
        "class 4",
        "class -1",
    ]


def test_another_number_of_names_than_classes_is_refused(photographs):
    model, preprocess = zoo.efficientnet_lite0()
    short = replace(preprocess, class_names=preprocess.class_names[1:])
    with pytest.raises(ValueError, match="999 names for 1000 outputs"):
        zoo.explain(model, short, photographs["cat"])


def test_notes_give_the_same_preprocessing_back():
    preprocess = zoo.Preprocess("torchvision:resnet18", image_size=64, class_names=["a", "b"])
    assert zoo.Preprocess(**preprocess.notes()) == preprocess
