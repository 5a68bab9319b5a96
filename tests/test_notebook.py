"""Promises about what a notebook shows when a cell ends with an object of ours."""

import io
import xml.etree.ElementTree as ElementTree

import torch
import tqdm.auto
from matplotlib import pyplot
from networks import cnn
from PIL import Image

from captum_masking import MaskingModel, MaskingTrainer
from captum_masking.training import records
from captum_masking.viz import compare


def parsed(html):
    return ElementTree.fromstring(f"<body>{html}</body>")  # an error, if a tag is left open


def test_what_a_training_returns_is_a_table_with_curves(model, images, labels):
    trainer = MaskingTrainer(model, train_classifier=False)
    batches = [(images, labels)]
    found = trainer.fit(
        batches, epochs=2, validation=batches, show_progress=False, check_accuracy=False
    )
    assert found == trainer.records
    page = parsed(found._repr_html_())
    heading, *rows = page.findall("./table/tr")
    names = [cell.text for cell in heading]
    assert names == list(found[0])
    for row, record in zip(rows, found, strict=True):
        assert [float(cell.text) for cell in row] == [float(f"{record[n]:.4g}") for n in names]
    assert page.find("./{http://www.w3.org/2000/svg}svg") is not None
    assert not pyplot.get_fignums()


def test_a_training_that_measured_nothing_is_shown_too():
    assert parsed(records.EpochRecords()._repr_html_()).find("./table/tr") is not None


def test_a_model_says_what_it_is_made_of():
    classifier = cnn()
    shown = MaskingModel(classifier)._repr_html_()
    rows = {row[0].text: row[1].text for row in parsed(shown).findall("./table/tr")}
    count = sum(parameter.numel() for parameter in classifier.parameters())
    assert rows["classifier"] == f"Sequential, {count:,} parameters"
    assert rows["map for"] == "the target"
    other = MaskingModel(classifier, target_aware=False)._repr_html_()
    assert "one map for all classes" in other


def test_a_comparison_is_a_picture_also_before_pyplot_was_imported():
    figure = compare(torch.rand(3, 8, 8), {"map": torch.rand(1, 8, 8)})
    assert Image.open(io.BytesIO(figure._repr_png_())).format == "PNG"
    assert not pyplot.get_fignums()  # or a notebook would show it again when the cell ends


def test_progress_is_shown_by_the_bar_that_suits_the_notebook():
    assert records.tqdm is tqdm.auto.tqdm
