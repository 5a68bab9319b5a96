"""A page on which to drop a picture, and look at its map."""

from __future__ import annotations

import base64
import io
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from captum_masking._base.checks import needed
from captum_masking._base.text import check_class_names
from captum_masking.benchmark.libraries import SLOW
from captum_masking.cli.command import Options
from captum_masking.cli.explain import Maps, of_classifier
from captum_masking.cli.names import CAMS, METHODS
from captum_masking.data.pictures import SUFFIXES
from captum_masking.metrics.maps import most_salient
from captum_masking.model.model import MaskingModel
from captum_masking.zoo import (
    SHIPPED,
    Explanation,
    Preprocess,
    load,
    masks_of,
    probabilities_of,
)
from captum_masking.zoo.sound import is_of_sounds

_MEGABYTES, _MEGAPIXELS = 20, 50  # of an upload, at most
_CLASSES, _BARS = 5, 3  # to choose from; under each picture
_TITLES = ("Picture", "Map", "Masked in", "Masked out")

#: A picture as each model takes it, and as it is drawn.
Picture = dict[str, tuple[Tensor, Image.Image]]


def run(options: Options) -> None:
    """Serve the page until Ctrl-C."""
    _gradio()  # before models are loaded
    names = options.model or (SHIPPED,)
    explainer = Explainer({name: _loaded(name) for name in names})
    with serving(explainer, options.host, options.port) as address:
        print(f"The page is at {address}; Ctrl-C ends it.", flush=True)
        threading.Event().wait()


def _loaded(name: str) -> tuple[MaskingModel, Preprocess]:
    if is_of_sounds(name):
        raise ValueError(f"serve shows pictures, but {name} explains sounds; use explain.")
    return of_classifier(name) if ":" in name else load(name)


# ---- What is shown, without a browser


class Ask(NamedTuple):
    """What is asked of a picture; ``area`` is the share that is kept, and 0 the map as it is."""

    model: str
    method: str
    target: int | None = None
    area: float = 0.0


@dataclass(frozen=True)
class Answer:
    """What is shown of a picture: four images ``(H, W, 3)`` with the classes seen in each."""

    picture: Picture
    ask: Ask
    mask: Tensor
    images: tuple[np.ndarray, ...]
    seen: tuple[list[tuple[int, float]], ...]
    names: dict[int, str]


class Explainer:
    """Turns a picture into all that the page shows, for one person after the other."""

    def __init__(self, models: dict[str, tuple[MaskingModel, Preprocess]]) -> None:
        self.models = models
        self.maps: dict[tuple[str, str], Maps] = {}
        self.lock = threading.Lock()  # one at a time: memory stays that of one picture

    def methods(self, model: str) -> list[str]:
        """List the methods that answer in seconds; a classifier without a masker has none."""
        left_out = SLOW - {"PerInput"}
        if find_spec("pytorch_grad_cam") is None:
            left_out |= {f"pytorch-grad-cam {name}" for name in CAMS}
        return [n for n in METHODS if n not in left_out and not (n == METHODS[0] and ":" in model)]

    def read(self, data: bytes) -> Picture:
        """Read an upload; one that is too large, or no picture, is refused before it is decoded."""
        if len(data) > _MEGABYTES * 2**20:
            raise ValueError(f"The file is larger than {_MEGABYTES} MB; scale the picture down.")
        known = Image.registered_extensions()
        formats = sorted({known[suffix] for suffix in SUFFIXES if suffix in known})
        try:
            with Image.open(io.BytesIO(data), formats=formats) as opened:
                width, height = opened.size
        except Image.DecompressionBombError:
            width = height = 10**6
        except Exception as error:  # decoders raise nearly anything on a damaged file
            raise ValueError("This is not a picture; drop a JPEG, PNG or WebP file.") from error
        if width * height > _MEGAPIXELS * 1e6:
            raise ValueError(f"The picture has over {_MEGAPIXELS} megapixels; scale it down.")
        try:
            with self.lock:
                each = self.models.items()
                return {name: preprocess.ready(io.BytesIO(data)) for name, (_, preprocess) in each}
        except ValueError as error:
            reason = error.__cause__ or error
            raise ValueError(f"The picture cannot be read ({reason}); save it anew.") from error

    def answer(self, picture: Picture, ask: Ask, before: Answer | None = None) -> Answer:
        """Explain a picture; the map of the answer ``before`` serves again if it fits."""
        model, preprocess = self.models[ask.model]
        inputs, small = picture[ask.model]
        with self.lock:
            if before and before.picture is picture and before.ask[:3] == ask[:3]:
                mask = before.mask
            else:
                maps = None if ask.method == METHODS[0] else self._maps(ask)
                mask = masks_of(model, inputs[None], ask.target, maps).detach()
            shown = most_salient(mask, ask.area) if ask.area else mask
            rows = probabilities_of(model, inputs[None], shown)[:, 0]
        check_class_names(preprocess.class_names, rows.shape[1])
        target = int(rows[0].argmax()) if ask.target is None else ask.target
        found = Explanation(target, "", 0.0, 0.0, 0.0, 0.0)
        drawn = [
            [panel.pixels for panel in preprocess.shown(found, small, each, "").panels]
            for each in ((mask,) if shown is mask else (mask, shown))
        ]
        seen = tuple(_best(row, target) for row in rows)
        names = {n: preprocess.name(n) for n in {number for each in seen for number, _ in each}}
        ask = ask._replace(target=target)
        return Answer(picture, ask, mask, (*drawn[0][:2], *drawn[-1][2:]), seen, names)

    def _maps(self, ask: Ask) -> Maps:
        key = (ask.model, ask.method)
        return self.maps.setdefault(key, Maps(ask.method, self.models[ask.model][0]))


def _best(row: Tensor, target: int) -> list[tuple[int, float]]:
    """Return the most probable classes, and at the end the target where it is not among them."""
    numbers = row.topk(min(_CLASSES, len(row))).indices.tolist()
    return [(n, float(row[n])) for n in dict.fromkeys([*numbers, target])]


# ---- The page


_STYLE = """
#view {padding: 0}
.cm {display: grid; gap: 14px;
  grid-template-columns: repeat(auto-fit, minmax(min(240px, 44%), 1fr))}
.cm figure {margin: 0; min-width: 0}
.cm img {width: 100%; border-radius: 8px; display: block}
.cm h3 {margin: 8px 0 4px; font-size: 15px; font-weight: 700}
.cm p {margin: 0; font-size: 13px; opacity: .75}
.cm .bar {position: relative; display: flex; justify-content: space-between; gap: 6px;
  font-size: 13px; line-height: 24px; padding: 0 6px; margin-top: 3px; border-radius: 4px;
  background: var(--background-fill-secondary); overflow: hidden}
.cm .bar i {position: absolute; inset: 0 auto 0 0; background: #f9b35a; opacity: .35}
.cm .bar span {position: relative; white-space: nowrap; overflow: hidden; text-overflow: ellipsis}
.cm .bar span:last-child {flex: none}
.cm .asked {font-weight: 700} .cm .asked i {background: #e8590c; opacity: .45}
.cm-note {padding: 28px; text-align: center; border-radius: 8px;
  color: var(--body-text-color-subdued); background: var(--background-fill-secondary)}
.cm-error {color: #d92d20; font-weight: 700}
footer {display: none !important}
"""
_WAITING = '<div class="cm-note">The map appears here.</div>'
# The browser is told to ask nobody else, whatever a script on the page may try.
_POLICY = (
    b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'; "
    b"base-uri 'self'; form-action 'self'"
)


def as_html(answer: Answer) -> str:
    """Write the four pictures, each with its classes; they are in the text, not in files."""
    one, two, three, four = answer.images
    whole, inside, outside = (_bars(each, answer) for each in answer.seen)
    target = escape(answer.names[answer.ask.target or 0])
    kept = f"the most salient {answer.ask.area:.0%}" if answer.ask.area else "as the map has it"
    about = f"<p>Evidence for <b>{target}</b>, by {escape(answer.ask.method)}; "
    about += f"mean {answer.mask.mean():.0%}.</p>"
    note = f"<p>{kept}</p>"
    under = (whole, about, note + inside, note + outside)
    figures = (
        f'<figure><img alt="{title}" src="{_as_url(pixels)}"><h3>{title}</h3>{text}</figure>'
        for title, pixels, text in zip(_TITLES, (one, two, three, four), under, strict=True)
    )
    return f'<div class="cm">{"".join(figures)}</div>'


def _bars(seen: Sequence[tuple[int, float]], answer: Answer) -> str:
    target = answer.ask.target
    rows = [each for n, each in enumerate(seen) if n < _BARS or each[0] == target]
    return "".join(
        f'<div class="bar{" asked" * (number == target)}"><i style="width:{share:.1%}"></i>'
        f"<span>{escape(answer.names[number])}</span><span>{share:.1%}</span></div>"
        for number, share in rows
    )


def _as_url(pixels: np.ndarray) -> str:
    held = io.BytesIO()
    Image.fromarray((255 * pixels.clip(0, 1)).round().astype(np.uint8)).save(held, "PNG")
    return f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}"


class _Handlers:
    """What the page does after an upload or a choice: returns what its parts show then."""

    def __init__(self, gradio: Any, explainer: Explainer) -> None:
        self.gradio, self.explainer = gradio, explainer

    def drop(self, data: bytes | None, *asked: Any) -> tuple[Any, ...]:
        """Explain an upload, and empty the field; or say what is wrong with it."""
        if data is None:
            return (self.gradio.skip(),) * 5
        name, by, _, percent = asked
        try:
            return None, *self._shown(self.explainer.read(data), None, name, by, None, percent)
        except (ValueError, RuntimeError, OSError) as error:
            hidden = self.gradio.Radio(visible=False)
            return None, None, hidden, self.gradio.skip(), _said(error)

    def again(self, before: Answer | None, *asked: Any) -> tuple[Any, ...]:
        """Explain the same picture for another choice."""
        if before is None:
            return (self.gradio.skip(),) * 4
        name, by, number, percent = asked
        number = number if name == before.ask.model else None
        try:
            return self._shown(before.picture, before, name, by, number, percent)
        except (ValueError, RuntimeError) as error:
            return (*(self.gradio.skip(),) * 3, _said(error))

    def _shown(
        self,
        picture: Picture,
        before: Answer | None,
        name: str,
        by: str,
        number: int | None,
        percent: float,
    ) -> tuple[Any, ...]:
        methods = self.explainer.methods(name)
        by = by if by in methods else methods[0]
        found = self.explainer.answer(picture, Ask(name, by, number, percent / 100), before)
        choices = [(f"{found.names[n]} · {share:.1%}", n) for n, share in found.seen[0]]
        radio = self.gradio.Radio(choices, value=found.ask.target, visible=True)
        return found, radio, self.gradio.Dropdown(methods, value=by), as_html(found)


def _layout(gradio: Any, explainer: Explainer) -> Any:
    """Lay out the page: what is chosen above, what is shown below."""
    models, handlers = list(explainer.models), _Handlers(gradio, explainer)
    methods = explainer.methods(models[0])
    title = "captum-masking"
    with gradio.Blocks(title=title, analytics_enabled=False, delete_cache=(60, 60)) as page:
        gradio.Markdown(
            "# Where is the evidence?\nDrop a picture: the map marks what the "
            "classifier's answer rests on. The picture stays on this machine."
        )
        answer = gradio.State(time_to_live=3600)
        with gradio.Row(equal_height=True):
            file = gradio.File(label="Drop a picture", type="binary", height=130, elem_id="drop")
            with gradio.Column():
                model = gradio.Dropdown(models, label="Model", visible=len(models) > 1)
                method = gradio.Dropdown(methods, value=methods[0], label="Method")
                label = "Keep the most salient % (0: as the map has it)"
                area = gradio.Slider(0, 100, 0, step=1, label=label, elem_id="area")
        classes = gradio.Radio([], label="Map for the class", visible=False, elem_id="classes")
        view = gradio.HTML(_WAITING, elem_id="view")

        asked, shown = [model, method, classes, area], [answer, classes, method, view]
        how = {
            "api_visibility": "private",
            "concurrency_id": "one",
            "concurrency_limit": 1,
            "show_progress": "minimal",
            "show_progress_on": view,
        }
        file.upload(handlers.drop, [file, *asked], [file, *shown], **how)
        for each in (model, method, classes):
            each.input(handlers.again, [answer, *asked], shown, **how)
        area.input(handlers.again, [answer, *asked], shown, trigger_mode="always_last", **how)
    return page.queue(max_size=32)


def _said(error: Exception) -> str:
    return f'<div class="cm-note cm-error" role="alert">{escape(str(error))}</div>'


def _gradio() -> Any:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    return needed("gradio", by="pages", run="'captum-masking[app]'")


@contextmanager
def serving(
    explainer: Explainer, host: str = "127.0.0.1", port: int | None = None
) -> Iterator[str]:
    """Serve the page on another thread; give its address. Uploads are gone at the end."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        gradio = _gradio()
        page = _layout(gradio, explainer)
        # Of the fonts that come with gradio the half-bold one lacks letters.
        font = (gradio.themes.LocalFont("Source Sans Pro", weights=(400, 700)), "sans-serif")
        try:
            _, address, _ = page.launch(
                server_name=host,
                server_port=port,
                share=False,
                inbrowser=False,
                quiet=True,
                prevent_thread_lock=True,
                ssr_mode=False,
                enable_monitoring=False,
                pwa=False,
                max_file_size=_MEGABYTES * 2**20,
                state_session_capacity=64,
                footer_links=[],
                css=_STYLE,
                theme=gradio.themes.Default(font=font),
                app_kwargs={"middleware": _guards(host)},
            )
            yield address
        finally:
            page.close(verbose=False)


def _guards(host: str) -> list[Any]:
    """Refuse names that only a foreign page would ask by, and requests to anywhere else."""
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    local = host in ("127.0.0.1", "localhost")
    names = ["127.0.0.1", "localhost"] if local else ["*"]
    return [Middleware(TrustedHostMiddleware, allowed_hosts=names), Middleware(_Policy)]


class _Policy:
    """Adds the policy on what the browser may load to each response."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    (b"content-security-policy", _POLICY),
                ]
            await send(message)

        await self.app(scope, receive, guarded)
