"""Promises about the commands: what they write, and one clear line for each bad input."""

import csv
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import captum
import numpy as np
import pytest
from PIL import Image
from torch import nn

import captum_masking
from captum_masking import zoo
from captum_masking.benchmark.run import benchmark as compare
from captum_masking.cli.benchmark import read_images
from captum_masking.cli.command import Options, Terminated
from captum_masking.cli.evaluate import match_labels
from captum_masking.cli.main import app, main
from captum_masking.data import BoxedImages
from captum_masking.model.files import read_model

CLASSIFIER = """
import torch
from torch import nn


def small():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
    )
    network.class_names = ["dark", "bright"]
    return network


def peaked():  # its masker is told no class: a gate draws other questions in each process
    network = small()
    network[5] = nn.AdaptiveMaxPool2d(1)
    return network


class Levels(nn.Module):  # knows dark pictures from bright ones, and calls bright ones 0
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1))

    def forward(self, inputs):
        level = inputs.mean((1, 2, 3)) + 0 * self.body(inputs).mean()
        return 9 * torch.stack([level, -level], dim=1)


def not_a_network():
    return 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A user's folder: a classifier, twelve dark and bright pictures, a CSV with boxes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "my_classifiers", raising=False)
    (tmp_path / "my_classifiers.py").write_text(CLASSIFIER)
    rows = []
    for index in range(12):
        pixels = np.full((20, 30, 3), 60 if index % 2 == 0 else 160, dtype=np.uint8)
        pixels[5:15, 10:20] += 40
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
        rows.append([f"{index}.png", index % 2, 1 / 3, 0.25, 2 / 3, 0.75])
    write_csv(tmp_path / "data.csv", rows)
    return tmp_path


def write_csv(file, rows, header=("file", "label", "x0", "y0", "x1", "y1")):
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])


def parse(command, *words):
    """Read a command line as the command does; wrong usage is an error."""
    return Options(**app.commands[command].make_context(command, list(words)).params)


def content(model):
    return Path(model, "model.safetensors").read_bytes()


def train(*more):
    common = ["--classifier", "my_classifiers:small", "--image-size", "32", "--batch-size", "4"]
    return main(["train", "--data", "data.csv", "--out", "model", "--epochs", "1", *common, *more])


def test_train_evaluate_explain(folder, capsys):
    assert train("--val", "data.csv") == 0
    assert "the classifier before and after: barrier" in capsys.readouterr().out
    assert (folder / "model-log.csv").read_text().startswith("epoch,")
    assert main(["evaluate", "--model", "model", "--data", "data.csv", "--json", "out.json"]) == 0
    figures = json.loads((folder / "out.json").read_text())
    assert figures["images"] == figures["boxed_images"] == 12
    assert 0 <= figures["localization_error"] <= 1
    assert figures["localization_error_whole_frame"] == 1.0  # boxes of a sixth of the frame
    assert main(["explain", "3.png", "--model", "model", "--target", "dark", "--out", "maps"]) == 0
    assert (folder / "maps" / "3-explained.png").stat().st_size > 1000
    printed = capsys.readouterr().out
    assert "LE, centered square" in printed and "dark" in printed


def test_train_frozen_saves_the_masker_alone(folder):
    assert train("--frozen") == 0
    config, _ = read_model(folder / "model")
    assert config["classifier"]["saved"] is False
    assert config["notes"]["class_names"] == ["dark", "bright"]


def test_train_goes_on_from_a_saved_model(folder):
    assert train("--frozen") == 0
    (folder / "model").rename(folder / "first")
    before = (folder / "first/model.safetensors").read_bytes()
    assert train("--start", "first") == 0
    config, _ = read_model(folder / "model")
    assert config["classifier"]["saved"] is True  # joint at once, though there is but one epoch
    assert (folder / "first/model.safetensors").read_bytes() == before


def test_train_takes_a_folder_per_class(folder):
    for index in range(12):
        kind = folder / "tree" / ("bright" if index % 2 else "dark")
        kind.mkdir(parents=True, exist_ok=True)
        (folder / f"{index}.png").rename(kind / f"{index}.png")
    arguments = "train --data tree --classifier my_classifiers:small --out m --epochs 1"
    assert main([*arguments.split(), "--image-size", "32", "--batch-size", "4"]) == 0


def test_validation_folders_are_numbered_as_the_training_folders(folder):
    classifier = nn.Sequential(nn.Flatten(), nn.LazyLinear(2))
    training = in_folders(folder, "training", ["bright", "dark"])
    validation = in_folders(folder, "validation", ["Dark"])
    preprocess = match_labels(training, classifier, zoo.Preprocess(image_size=8))
    match_labels(validation, classifier, preprocess)
    assert training.labels == [0, 1] and validation.labels == [1]


def in_folders(folder, name, classes):
    """Put a picture into a folder for each class."""
    for kind in classes:
        (folder / name / kind).mkdir(parents=True)
        shutil.copy(folder / "0.png", folder / name / kind)
    return BoxedImages(folder / name, class_names=())


@pytest.mark.parametrize("command", ["evaluate", "benchmark"])
def test_class_folders_are_numbered_as_the_classifier_numbers_its_logits(folder, command):
    """The folders' order is another: bright comes first, and is the classifier's class 1."""
    for name, first in (("dark", 0), ("bright", 1)):
        (folder / "sorted" / name).mkdir(parents=True)
        for index in range(first, 12, 2):
            shutil.copy(folder / f"{index}.png", folder / "sorted" / name)
    assert train("--frozen") == 0
    arguments = ["--model", "model", "--data", "sorted"]
    if command == "evaluate":
        figures = []
        for data in ("data.csv", "sorted"):
            assert main(["evaluate", *arguments[:2], "--data", data, "--json", "x.json"]) == 0
            figures.append(json.loads((folder / "x.json").read_text())["clean"])
        assert figures[0] == figures[1]
    else:
        parsed = parse("benchmark", *arguments, "--out", "o")
        model, preprocess = zoo.load("model")
        read = read_images(parsed, model.classifier, preprocess)
        assert sorted(read.labels) == [0] * 6 + [1] * 6
        assert read.labels[0] == 1  # a bright one


def test_labels_that_the_classifier_does_not_know_end_every_command(folder, capsys):
    for index in range(24):
        (folder / "tree" / str(index % 2)).mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / f"{index % 12}.png", folder / "tree" / str(index % 2) / f"{index}.png")
    for names in ("01", "10"):
        (folder / f"{names}.txt").write_text("\n".join(names))
    common = ["train", "--data", "tree", "--classifier", "my_classifiers:Levels", "--frozen"]
    common += ["--epochs", "1", "--image-size", "32"]
    known = ["--data", "tree", "--class-names", "10.txt"]
    told = "the classifier is right for 0 of"
    for words in ([], ["--val", "tree"], ["--class-names", "01.txt"]):
        assert main([*common, "--out", "wrong", *words]) == 1
        assert told in capsys.readouterr().err and not (folder / "wrong").exists()
    assert main([*common, "--out", "wrong", "--untrained"]) == 0
    assert main([*common, "--out", "model", "--class-names", "10.txt", "--val", "tree"]) == 0
    assert "'0' is class 0, '1' is class 1" in capsys.readouterr().err
    quick = ["--methods", "masking*", "--cost-seconds", "0.01", "--out"]
    for words in (["evaluate", "--json"], ["benchmark", *quick]):
        assert main([*words, words[0] + "-a", "--model", "wrong", "--data", "tree"]) == 1
        assert told in capsys.readouterr().err and not (folder / f"{words[0]}-a").exists()
        assert main([*words, words[0] + "-b", "--model", "wrong", *known]) == 0
        assert main([*words, words[0] + "-c", "--model", "model", "--data", "tree"]) == 0


def test_a_destination_that_is_taken_is_refused_before_training(folder, capsys):
    (folder / "model").mkdir()
    (folder / "model" / "thesis.txt").write_text("years of work")
    assert train() == 1
    assert "is not a saved model" in capsys.readouterr().err
    assert not (folder / "model-log.csv").exists()  # no epoch was trained for nothing


def test_train_from_scratch_makes_an_output_per_class(folder):
    arguments = "train --data data.csv --classifier torchvision:squeezenet1_1 --from-scratch"
    arguments += " --out model --epochs 1 --image-size 64 --batch-size 6"
    assert main(arguments.split()) == 0
    assert main(["explain", "3.png", "--model", "model", "--out", "maps"]) == 0


def test_the_same_seed_trains_the_same_model(folder):
    assert train("--out", "a") == train("--out", "b") == 0
    assert content("a") == content("b")


def no_picture(folder):
    (folder / "0.png").write_text("not a picture")


def missing_column(folder):
    write_csv(folder / "data.csv", [["0.png", 1]], header=("file", "species"))


def label_out_of_range(folder):
    write_csv(folder / "data.csv", [["0.png", 7, 0, 0, 1, 1]])


def box_outside(folder):
    write_csv(folder / "data.csv", [["0.png", 1, 0, 0, 1.5, 1]])


def missing_picture(folder):
    write_csv(folder / "data.csv", [["nowhere.png", 1, 0, 0, 1, 1]])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (no_picture, "0.png"),
        (missing_column, "label"),
        (label_out_of_range, "labels must lie in 0..1"),
        (box_outside, "1.5"),
        (missing_picture, "nowhere.png"),
    ],
)
def test_bad_data_is_one_line_and_leaves_nothing_behind(folder, capsys, spoil, words):
    spoil(folder)
    before = sorted(path.name for path in folder.iterdir())
    assert train() == 1
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("captum-masking: error:") and words in line
    after = sorted(path.name for path in folder.iterdir() if path.name != "__pycache__")
    assert after == before


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("vgg", "torchvision:NAME or package.module:function"),
        ("torchvision:resnet19", "no classifier 'resnet19'"),
        ("my_classifiers:missing", "package.module:function"),
        ("no_such_module:small", "package.module:function"),
        ("my_classifiers:not_a_network", "must return a torch.nn.Module"),
    ],
)
def test_a_wrong_classifier_is_one_line(folder, capsys, spec, words):
    assert main(["train", "--data", "data.csv", "--classifier", spec, "--out", "model"]) == 1
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("explain data.csv --out maps", "expected a picture, but data.csv cannot be read as one"),
        ("explain nowhere.png --out maps", "there is no picture nowhere.png"),
        ("explain 0.png --model nowhere --out maps", "it has no model.safetensors"),
        ("evaluate --model . --data data.csv --json x.json", "it has no model.safetensors"),
    ],
)
def test_bad_arguments_are_one_line_and_leave_nothing_behind(folder, capsys, arguments, words):
    assert main(arguments.split()) == 1
    assert words in capsys.readouterr().err
    assert not (folder / "maps").exists() and not (folder / "x.json").exists()


def explain(*words):
    return main(["explain", *map(str, words), "--model", "model", "--out", "maps"])


def explained_in(folder):
    return sorted(file.name for file in (folder / "maps").iterdir())


def test_one_broken_picture_is_named_and_the_others_are_explained(folder, capsys):
    assert train("--frozen") == 0
    (folder / "broken.jpg").write_text("no picture")
    capsys.readouterr()
    assert explain("0.png", "broken.jpg", "1.png", "gone.png", "--json") == 1
    document, said = printed_json(capsys)
    assert [each["picture"] for each in document["pictures"]] == ["0.png", "1.png"]
    assert set(document["failed"]) == {"broken.jpg", "gone.png"}
    assert "2 of 4 pictures could not be explained: broken.jpg, gone.png" in said
    assert explained_in(folder) == ["0-explained.png", "1-explained.png"]


def test_pictures_of_one_stem_never_overwrite_each_other_in_one_run_or_in_several(folder):
    assert train("--frozen") == 0
    for place in ("a/x.png", "b/x.png", "b/x.bmp"):
        (folder / place).parent.mkdir(exist_ok=True)
        Image.open(folder / "0.png").save(folder / place)
    assert explain("a/x.png", "b") == 0
    assert explained_in(folder) == ["x-2-explained.png", "x-3-explained.png", "x-explained.png"]
    before = {name: (folder / "maps" / name).stat().st_mtime_ns for name in explained_in(folder)}
    assert explain("b/x.png") == 0  # alone, it still has the third name
    changed = [n for n, t in before.items() if (folder / "maps" / n).stat().st_mtime_ns != t]
    assert changed == ["x-3-explained.png"] and len(explained_in(folder)) == 3


def test_only_the_very_same_map_is_skipped(folder, capsys):
    assert train("--frozen") == 0

    def drawn(*words):
        capsys.readouterr()
        assert explain("0.png", "1.png", "--skip-existing", "--json", *words) == 0
        document, _ = printed_json(capsys)
        return [each["picture"] for each in document["pictures"]], document["skipped"]

    assert drawn() == (["0.png", "1.png"], [])
    assert drawn() == ([], ["0.png", "1.png"])
    Image.open(folder / "2.png").rotate(90).save(folder / "0.png")
    assert drawn() == (["0.png"], ["1.png"])  # another picture
    assert drawn("--target", "dark") == (["0.png", "1.png"], [])  # another question
    assert drawn("--target", "dark") == ([], ["0.png", "1.png"])


@pytest.mark.parametrize("name", ["x" * 245, "\N{CAT FACE}" * 60, os.fsdecode(b"caf\xe9")])
def test_a_name_of_any_length_and_letters_gets_a_map(folder, monkeypatch, name):
    assert train("--frozen") == 0
    os.rename(folder / "0.png", folder / f"{name}.png")
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert explain(f"{name}.png", "--skip-existing") == 0
    assert explain(f"{name}.png", "--skip-existing") == 0
    assert len(explained_in(folder)) == 1


def test_a_map_that_was_cut_short_is_drawn_again_and_what_another_wrote_is_left(folder):
    assert train("--frozen") == 0
    assert explain("0.png") == 0
    place = folder / "maps/0-explained.png"
    whole = place.read_bytes()
    place.write_bytes(whole[: len(whole) // 2])
    assert explain("0.png", "--skip-existing") == 0
    assert place.read_bytes() == whole
    sizes = b"IHDR" + b"\0\1\0\0" * 2 + b"\1\0\0\0\0"  # 65536 x 65536: Pillow does not open it
    check = zlib.crc32(sizes).to_bytes(4, "big")
    huge = b"\x89PNG\r\n\x1a\n\0\0\0\x0d" + sizes + check + b"\0\0\0\0IDAT\x35\xaf\x06\x1e"
    place.write_bytes(huge)
    assert explain("0.png") == 0
    assert place.read_bytes() == huge and len(explained_in(folder)) == 2


def test_a_folder_is_explained_with_the_folders_in_it_but_for_what_was_written_there(folder):
    assert train("--frozen") == 0
    (folder / "photos/deep").mkdir(parents=True)
    shutil.copy(folder / "0.png", folder / "photos/a.PNG")
    shutil.copy(folder / "0.png", folder / "photos/deep/b.png")
    for _ in range(2):
        command = ["explain", "photos", "--model", "model", "--out", "photos", "--batch-size", "1"]
        assert main(command) == 0
        assert len(list((folder / "photos").rglob("*.*"))) == 4
    (folder / "empty").mkdir()
    assert explain("empty") == 1


def test_ctrl_c_keeps_what_is_drawn(folder, monkeypatch):
    from captum_masking.cli import explain as command

    assert train("--frozen") == 0
    montage = command.montage

    def interrupted(rows, file, **more):
        if file.name.startswith("2"):
            raise KeyboardInterrupt
        montage(rows, file, **more)

    monkeypatch.setattr(command, "montage", interrupted)
    assert explain("0.png", "1.png", "2.png", "3.png") == 130
    assert explained_in(folder) == ["0-explained.png", "1-explained.png"]


def test_pictures_are_read_while_others_are_explained_and_none_is_kept(folder, monkeypatch):
    from captum_masking.zoo import Preprocess

    assert train("--frozen") == 0
    read, waiting = Preprocess.ready, []

    def counted(preprocess, file):
        waiting.append(len(list(folder.glob("maps/*.png"))))
        return read(preprocess, file)

    monkeypatch.setattr(Preprocess, "ready", counted)
    assert explain(*(f"{index}.png" for index in range(6)), "--batch-size", "2") == 0
    assert waiting == [0, 0, 2, 2, 4, 4]  # pictures written before each was read


def test_a_range_is_kept_with_the_model_and_may_be_given_anew(folder, capsys):
    for index in range(12):
        gray = np.asarray(Image.open(folder / f"{index}.png").convert("L"), np.int32)
        Image.fromarray(gray * 8 - 1000).save(folder / f"{index}.tif")
    rows = [[f"{index}.tif", index % 2] for index in range(12)]
    write_csv(folder / "data.csv", rows, header=("file", "label"))
    assert train("--frozen") == 1
    assert re.search(r"--range -?\d+ -?\d+", capsys.readouterr().err)
    assert train("--frozen", "--range", "-1000", "1040") == 0
    assert explain("0.tif") == 0
    assert main(["evaluate", "--model", "model", "--data", "data.csv"]) == 0
    assert main(["explain", "0.tif", "--out", "maps"]) == 1  # the shipped one knows of no range
    assert explain("0.tif", "--range", "5", "1") == 1


def test_another_method_explains_by_the_same_panels(folder, capsys):
    train("--frozen")
    capsys.readouterr()
    drawn = {}
    for method in ("MaskingSaliency", "saliency", "LayerGradCam"):  # in any case of letters
        assert explain("3.png", "--method", method, "--target", "dark", "--json") == 0
        (found,) = json.loads(capsys.readouterr().out)["pictures"]
        assert found["name"] == "dark" and 0 <= found["masked_in"] <= 1
        drawn[method] = (folder / "maps/3-explained.png").read_bytes()
        assert explain("3.png", "--method", method, "--target", "dark", "--skip-existing") == 0
        assert "skipped, explained before: 1" in capsys.readouterr().out
    assert len(set(drawn.values())) == 3


def test_another_method_needs_no_masker(folder, capsys):
    words = ["explain", "3.png", "--model", "my_classifiers:small", "--out", "maps"]
    assert main([*words, "--method", "Occlusion"]) == 0
    assert explained_in(folder) == ["3-explained.png"]
    assert main(words) == 1
    assert "it has no model.safetensors" in capsys.readouterr().err


def test_a_method_that_does_not_apply_says_why(folder, capsys):
    (folder / "smooth.py").write_text(CLASSIFIER.replace("nn.ReLU", "nn.SiLU"))
    words = ["explain", "3.png", "--model", "smooth:small", "--out", "maps"]
    assert main([*words, "--method", "GuidedBackprop"]) == 1
    said = capsys.readouterr().err
    assert "--method: GuidedBackprop does not apply to this classifier: the classifier has" in said


def test_the_shipped_masker_explains_a_photograph(folder, capsys):
    pytest.importorskip("efficientnet_lite_pytorch")
    data = pytest.importorskip("skimage.data")
    Image.fromarray(data.chelsea()).save(folder / "chelsea.png")
    assert main(["explain", "chelsea.png", "--out", "maps"]) == 0
    assert "Egyptian cat" in capsys.readouterr().out
    assert (folder / "maps" / "chelsea-explained.png").exists()


def test_the_shipped_masker_answers_for_the_class_that_is_asked_for(folder, capsys):
    pytest.importorskip("efficientnet_lite_pytorch")
    data = pytest.importorskip("skimage.data")
    pictures = np.concatenate([data.chelsea()[:300, :400], data.coffee()[50:350, 100:500]], axis=1)
    Image.fromarray(pictures).save(folder / "both.png")
    found = {}
    for target in ("Egyptian cat", "espresso", "goldfish"):
        assert main(["explain", "both.png", "--target", target, "--out", "maps", "--json"]) == 0
        (found[target],) = json.loads(capsys.readouterr().out)["pictures"]
    assert found["goldfish"]["area"] < 0.2 * min(
        found[name]["area"] for name in ("Egyptian cat", "espresso")
    )


def test_the_demo_runs(folder, capsys, monkeypatch):
    pytest.importorskip("sklearn")
    pytest.importorskip("efficientnet_lite_pytorch")
    monkeypatch.setitem(compare.__kwdefaults__, "cost_seconds", 0.01)  # of each method
    sizes = ["--images", "128", "--epochs", "1", "--held-out", "20"]
    assert main(["demo", "--out", "out", *sizes]) == 0
    printed = capsys.readouterr().out
    for method in ("centered square", "IntegratedGradients", "MaskingSaliency"):
        assert method in printed
    written = {path.name for path in (folder / "out").iterdir()}
    assert written == {"digits.png", "photographs.png", "benchmark"}
    assert (folder / "out" / "benchmark" / "report.html").exists()


def benchmark(*more):
    common = ["--model", "model", "--data", "data.csv", "--out", "bench"]
    return main(["benchmark", *common, "--batch-size", "4", "--cost-seconds", "0.01", *more])


def test_benchmark_writes_a_report_of_the_methods_asked_for(folder, capsys):
    assert train("--frozen") == 0
    assert (
        benchmark("--methods", "masking*,saliency", "--measures", "all", "--curve-images", "4") == 0
    )
    assert "centered square" in capsys.readouterr().out
    found = json.loads((folder / "bench" / "result.json").read_text())
    assert [row["name"] for row in found["rows"]][4:] == ["MaskingSaliency", "Saliency"]
    assert str(folder) not in json.dumps(found["setting"])
    page = (folder / "bench" / "report.html").read_text()
    assert "<script" not in page and "MaskingSaliency" in page


def test_a_method_that_fails_is_named_and_its_benchmark_ends_with_an_error(
    folder, capsys, monkeypatch
):
    def fails(*_, **__):
        raise ValueError("not today")

    assert train("--frozen") == 0
    monkeypatch.setattr(captum.attr.Saliency, "attribute", fails)
    capsys.readouterr()
    assert benchmark("--methods", "masking*,saliency", "--json") == 1
    document, said = printed_json(capsys)
    assert list(document["failed"]) == ["Saliency"] and "not today" in said
    assert main(["benchmark", "--model", "m", "--data", "d", "--out", "o", "--cost-seconds", "0"])


def test_two_models_are_two_rows_of_one_benchmark_and_json_prints_it(folder, capsys):
    assert train("--frozen") == 0
    (folder / "model").rename(folder / "first")
    assert train() == 0
    (folder / "model").rename(folder / "second")
    rows = ["--methods", "masking*", "--cost-seconds", "0.01"]
    models = ["--model", "first", "--model", "second"]
    capsys.readouterr()
    command = ["benchmark", "--data", "data.csv", "--out", "bench", *models, *rows, "--json"]
    assert main(command) == 0
    document, said = printed_json(capsys)
    assert "centered square" in said and document["report"].endswith("report.html")
    found = json.loads((folder / "bench" / "result.json").read_text())
    assert found["rows"] == document["rows"]
    names = [row["name"] for row in found["rows"]]
    assert names[4:] == ["MaskingSaliency (first)", "MaskingSaliency (second)"]


def test_two_models_of_one_name_are_refused_rather_than_mixed_up(folder, capsys):
    assert train("--frozen") == 0
    assert benchmark("--model", "model") == 1
    assert "different names" in capsys.readouterr().err


def test_pixel_masks_named_in_the_csv_bring_their_columns(folder):
    pixels = np.full((20, 30), 2, dtype=np.uint8)
    pixels[5:15, 10:20], pixels[5, 10] = 1, 3
    Image.fromarray(pixels).save(folder / "trimap.png")
    rows = [[f"{index}.png", index % 2, "trimap.png"] for index in range(4)]
    assert train("--frozen") == 0
    write_csv(folder / "data.csv", rows, header=("file", "label", "trimap"))
    assert benchmark("--methods", "masking*") == 0
    found = json.loads((folder / "bench" / "result.json").read_text())
    assert "mask_iou_at_best" in found["rows"][-1]["values"]
    assert any("no boxes" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--methods", "nothing"], "unknown method 'nothing'"),
        (["--data", "none.csv"], "does not exist"),
        (["--model", "none"], "none"),
    ],
)
def test_a_benchmark_that_cannot_be_run_says_why(folder, capsys, more, words):
    assert train("--frozen") == 0
    options = {"--data": "data.csv", "--model": "model", "--out": "bench", more[0]: more[1]}
    assert main(["benchmark", *(word for pair in options.items() for word in pair)]) == 1
    assert words in capsys.readouterr().err
    assert not (folder / "bench").exists()


def test_a_csv_that_names_missing_pictures_is_refused_before_anything_runs(folder, capsys):
    assert train("--frozen") == 0
    write_csv(folder / "data.csv", [["gone.png", 0]], header=("file", "label"))
    assert benchmark() == 1
    assert "gone.png" in capsys.readouterr().err and not (folder / "bench").exists()


# What a program reads.


def printed_json(capsys):
    """Return the one JSON document on standard output, and what standard error holds."""
    said = capsys.readouterr()
    return json.loads(said.out), said.err


def test_explain_json_is_one_document_and_the_words_go_to_standard_error(folder, capsys):
    assert train("--frozen") == 0
    capsys.readouterr()
    assert main(["explain", "3.png", "4.png", "--model", "model", "--out", "maps", "--json"]) == 0
    document, said = printed_json(capsys)
    first, second = document["pictures"]
    assert first["picture"] == "3.png" and (folder / first["explained"]).exists()
    assert {"target", "name", "clean", "masked_in", "masked_out", "area"} <= set(second)
    assert 0 <= first["area"] <= 1 and "masked-in" in said


def test_evaluate_json_without_a_file_is_the_document_and_with_one_the_file(folder, capsys):
    assert train("--frozen") == 0
    capsys.readouterr()
    command = ["evaluate", "--model", "model", "--data", "data.csv"]
    assert main([*command, "--json"]) == 0
    document, said = printed_json(capsys)
    assert document["images"] == 12 and "accuracy, clean" in said
    assert main([*command, "--json", "f.json"]) == 0
    assert "accuracy, clean" in capsys.readouterr().out
    assert json.loads((folder / "f.json").read_text()) == document
    assert main(command) == 0 and "accuracy, clean" in capsys.readouterr().out


def test_train_json_holds_the_last_epoch_and_where_things_are(folder, capsys):
    assert train("--frozen", "--val", "data.csv", "--json") == 0
    document, said = printed_json(capsys)
    assert document["model"] == "model" and document["ended_early"] is None
    assert document["last_epoch"]["epoch"] == 1 and 0 <= document["last_epoch"]["val_area"] <= 1
    assert "epoch 1/1" in said


def test_study_json_is_what_the_table_file_holds(folder, capsys):
    common = "--classifier my_classifiers:small --image-size 32 --batch-size 4 --epochs 1"
    command = f"study --data data.csv --val data.csv --rows frozen --out study --json {common}"
    assert main(command.split()) == 0
    document, said = printed_json(capsys)
    assert document == json.loads((folder / "study" / "table.json").read_text())
    assert [row["row"] for row in document["rows"]] == ["frozen"] and "[1/1] frozen" in said


def test_a_failure_with_json_prints_no_document(folder, capsys):
    assert main(["evaluate", "--model", "nowhere", "--data", "data.csv", "--json"]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("captum-masking: error:")


# What a person reads.


def examples(command):
    """List the example commands of a command's help, each as its words."""
    text = app.commands[command].epilog.partition("examples:\n")[2].replace("\\\n", " ")
    return [shlex.split(line.split("|")[0].split(">")[0]) for line in text.splitlines()]


@pytest.mark.parametrize("command", app.commands)
def test_help_ends_with_examples_that_the_command_takes(capsys, command):
    assert main([command, "--help"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"Usage: captum-masking {command} [OPTIONS]")
    assert said.rstrip().endswith(app.commands[command].epilog.splitlines()[-1].strip())
    assert 2 <= len(examples(command)) <= 4
    for words in examples(command):
        parse(*words[words.index(command) :])


def test_help_names_the_commands_and_the_exit_statuses(capsys):
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    order = [said.index(f"\n  {name} ") for name in app.commands]
    assert order == sorted(order) and len(order) == 7
    assert "exit status:" in said and "130  ended by Ctrl-C" in said


def test_the_version_is_the_packages(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"captum-masking {captum_masking.__version__}\n"


# Exit statuses.


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ([], "Missing command"),
        (["nothing"], "'nothing'"),
        (["train"], "'--data'"),
        (["explain", "a.png", "--out"], "--out"),
        (["explain", "a.png", "--method", "Sal", "--out", "o"], "'Sal' is not one of"),
        (["evaluate", "--what"], "--what"),
        (["train", "--epochs", "0"], "'--epochs': 0 is not in the range x>=1"),
        (["benchmark", "--limit", "0"], "'--limit': 0 is not in the range x>=1"),
        (["study", "--seeds", "0"], "'--seeds': 0 is not in the range x>=1"),
    ],
)
def test_wrong_usage_is_status_2_and_names_the_option(capsys, words, wrong):
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "Error:" in said and wrong in said


@pytest.mark.parametrize(
    ("raised", "status", "line"),
    [
        (KeyboardInterrupt(), 130, "captum-masking: interrupted"),
        (Terminated(), 143, "captum-masking: terminated"),
        (ValueError("no\nsuch"), 1, "captum-masking: error: no such"),
        (OSError("disk"), 1, "captum-masking: error: disk"),
    ],
)
def test_each_end_has_its_status_and_one_line(monkeypatch, capsys, raised, status, line):
    def run(arguments):
        raise raised

    monkeypatch.setattr("captum_masking.cli.evaluate.run", run)
    assert main(["evaluate", "--model", "m", "--data", "d"]) == status
    assert capsys.readouterr().err == line + "\n"


def captum_masking_of(*words, **environment):
    """Run the command in a process of its own; return what it prints."""
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "captum_masking", *words],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment,
        capture_output=True,
        text=True,
    )


COMPLETE = {"_CAPTUM_MASKING_COMPLETE": "bash_complete", "COMP_CWORD": "2"}


@pytest.mark.parametrize(
    ("words", "environment"),
    [
        (["--help"], {}),
        (["train", "--help"], {}),
        ([], {**COMPLETE, "COMP_WORDS": "captum-masking train --ep"}),
    ],
    ids=["help", "help of a command", "completion"],
)
def test_help_and_completion_wait_for_no_library(words, environment):
    done = captum_masking_of(*words, **environment)
    assert "--epochs" in done.stdout or "evaluate" in done.stdout
    loaded = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "click" in loaded
    assert not loaded & {"torch", "captum", "numpy", "matplotlib", "PIL", "accelerate"}


def test_no_command_waits_for_a_library_that_it_may_not_need():
    commands = ("train", "evaluate", "explain", "benchmark", "study", "demo", "serve")
    late = {"torchmetrics", "torchvision", "torch._dynamo", "scipy", "transformers", "accelerate"}
    late |= {"pytorch_grad_cam", "gradio", "pandas", "skimage", "sklearn"}
    imports = "".join(f"import captum_masking.cli.{name}\n" for name in commands)
    code = f"import sys\n{imports}assert not {late} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


# Completion, colors.


def test_bash_completes_commands_and_options():
    done = captum_masking_of(**COMPLETE, COMP_WORDS="captum-masking train --ep")
    assert done.stdout == "plain,--epochs\n"
    done = captum_masking_of(**{**COMPLETE, "COMP_CWORD": "1"}, COMP_WORDS="captum-masking e")
    assert done.stdout.split() == ["plain,explain", "plain,evaluate"]


def test_bash_completes_methods():
    words = {**COMPLETE, "COMP_CWORD": "3"}
    done = captum_masking_of(**words, COMP_WORDS="captum-masking explain --method Layer")
    assert done.stdout == "plain,LayerGradCam\n"
    assert "torch" not in done.stderr
    given = "captum-masking benchmark --methods Occlusion,ri"
    assert captum_masking_of(**words, COMP_WORDS=given).stdout == "plain,Occlusion,Rise\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_a_script_for_completion(capsys, monkeypatch, shell):
    monkeypatch.setenv("_CAPTUM_MASKING_COMPLETE", f"{shell}_source")
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 0 and "captum-masking" in capsys.readouterr().out


def test_no_command_colors_what_it_says(folder, capsys, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    assert train("--frozen") == 0
    assert main(["evaluate", "--model", "model", "--data", "data.csv"]) == 0
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
