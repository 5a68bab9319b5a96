"""Promises about the page of ``captum-masking serve``, read in a browser and without one."""

import io
import os
import shutil
import struct
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.data import chelsea, coffee

from captum_masking import zoo
from captum_masking.cli.main import main
from captum_masking.cli.serve import Ask, Explainer, serving

NAME, OURS = "efficientnet-lite0", "MaskingSaliency"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)


def as_file(pixels, kind="PNG"):
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, kind)
    return held.getvalue()


@pytest.fixture(scope="module")
def explainer():
    return Explainer({NAME: zoo.load(NAME)})


@pytest.fixture(scope="module")
def cat(explainer):
    return explainer.read(as_file(chelsea()))


def test_the_page_shows_what_explain_says(explainer, cat):
    found = zoo.explain(*explainer.models[NAME], chelsea())
    answer = explainer.answer(cat, Ask(NAME, OURS))
    assert answer.names[answer.ask.target] == found.name == "Egyptian cat"
    shares = [dict(seen)[found.target] for seen in answer.seen]
    assert shares == pytest.approx([found.clean, found.masked_in, found.masked_out], abs=1e-5)
    assert float(answer.mask.mean()) == pytest.approx(found.area, abs=1e-5)
    for shown, panel in zip(answer.images, found.panels, strict=True):
        np.testing.assert_allclose(shown, panel.pixels, atol=1e-5)


def test_an_area_keeps_so_much_of_the_picture_and_leaves_the_map(explainer, cat):
    whole = explainer.answer(cat, Ask(NAME, OURS))
    cut = explainer.answer(cat, whole.ask._replace(area=0.2), before=whole)
    assert cut.mask is whole.mask
    np.testing.assert_array_equal(cut.images[1], whole.images[1])
    kept = np.isclose(cut.images[2], cut.images[0]).all(2).mean()
    assert 0.12 < kept < 0.21  # edges are smooth, and count for neither side
    everything = explainer.answer(cat, whole.ask._replace(area=1.0), before=cut)
    np.testing.assert_allclose(everything.images[2], whole.images[0])


def test_another_class_or_method_has_another_map(explainer, cat):
    first = explainer.answer(cat, Ask(NAME, OURS))
    second = first.seen[0][1][0]
    other = explainer.answer(cat, Ask(NAME, OURS, second), before=first)
    assert other.ask.target == second and not other.mask.equal(first.mask)
    cam = explainer.answer(cat, Ask(NAME, "LayerGradCam"), before=first)
    assert cam.ask.target == first.ask.target and not cam.mask.equal(first.mask)


def test_a_class_that_is_asked_for_is_shown_however_improbable(explainer, cat):
    answer = explainer.answer(cat, Ask(NAME, OURS, target=0))
    assert all(seen[-1][0] == 0 for seen in answer.seen)


def test_two_who_ask_at_once_get_what_each_would_get_alone(explainer, cat):
    cup = explainer.read(as_file(coffee()))
    asks = [(cat, Ask(NAME, OURS)), (cup, Ask(NAME, "LayerGradCam"))] * 2
    alone = [explainer.answer(*ask) for ask in asks]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda ask: explainer.answer(*ask), asks))
    for one, other in zip(alone, together, strict=True):
        assert one.mask.equal(other.mask) and one.seen == other.seen


def bomb(side=30_000):
    """Claim a picture of many pixels in a file of a few bytes."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b""))
    packed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"words", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (bomb(), "over 50 megapixels"),
        (bomb(8_000), "over 50 megapixels"),
        (bytes(21 * 2**20), "larger than 20 MB"),
        (as_file(chelsea())[:2000], "cannot be read"),
    ],
    ids=["text", "program", "bomb", "many pixels", "many bytes", "cut off"],
)
def test_what_cannot_be_shown_is_refused_in_a_sentence(explainer, data, words):
    with pytest.raises(ValueError, match=words):
        explainer.read(data)


def test_without_gradio_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["serve"]) == 1
    assert "pip install 'captum-masking[app]'" in capsys.readouterr().err


def test_a_classifier_without_a_masker_is_explained_by_other_methods(explainer):
    assert OURS in explainer.methods(NAME)
    assert explainer.methods("my_module:build")[0] == "PerInput"


# ---- In a browser


@pytest.fixture
def address(explainer, monkeypatch):
    pytest.importorskip("gradio", reason="pages need gradio: pip install 'captum-masking[app]'")
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED"):
        monkeypatch.setenv(name, "")  # so that what is set is taken back
    with serving(explainer) as address:
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        yield address
    assert not folder.exists()


@pytest.fixture
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if not CHROMIUM:
        pytest.skip("needs chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


def opened(browser, address, asked_for):
    page = browser.new_context().new_page()
    page.set_default_timeout(120_000)
    page.on("request", lambda request: asked_for.append(request.url))
    page.goto(address)
    return page


def drop(page, name, data):
    page.set_input_files("input[type=file]", {"name": name, "mimeType": "", "buffer": data})


def picture(page, number, other_than=""):
    """Wait until a picture of the four is there, and another than before."""
    script = """([n, before]) => {
        const image = document.querySelectorAll('#view img')[n];
        return image && image.src !== before && image.src}"""
    return page.wait_for_function(script, arg=[number, other_than]).json_value()


def test_a_visitor_drops_a_picture_clicks_a_class_and_slides_the_area(browser, address):
    asked_for = []
    page = opened(browser, address, asked_for)
    assert address.startswith("http://127.0.0.1:")
    drop(page, "cat.png", as_file(chelsea()))
    whole, over, inside = (picture(page, n) for n in range(3))
    assert "Egyptian cat" in page.locator("#view .asked").first.inner_text()
    # Somebody else comes, with another picture.
    guest = opened(browser, address, asked_for)
    drop(guest, "cup.png", as_file(coffee()))
    cup = picture(guest, 0)
    assert "espresso" in guest.locator("#view .asked").first.inner_text()
    # The first visitor asks for another class, and then for an area.
    page.locator("#classes label").nth(1).click()
    other = picture(page, 1, other_than=over)
    inside = picture(page, 2)
    page.locator("#area input[type=range]").focus()
    page.keyboard.press("End")
    page.wait_for_function("() => document.querySelector('#view').innerText.includes('100%')")
    assert picture(page, 2, other_than=inside) == whole == picture(page, 0)
    assert picture(page, 1) == other
    assert picture(guest, 0) == cup != whole
    # A file that is no picture.
    drop(page, "notes.txt", b"words")
    page.get_by_text("This is not a picture").wait_for()
    assert "Traceback" not in page.content()
    outside = [url for url in asked_for if not url.startswith((address, "data:", "blob:"))]
    assert not outside
