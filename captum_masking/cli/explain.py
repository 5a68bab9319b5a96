"""Draw maps of pictures or sounds, masked in and masked out, while they are being read."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from tqdm import tqdm

from captum_masking._base.files import sha256
from captum_masking.benchmark.libraries import NAMES, default_methods
from captum_masking.benchmark.methods import Method
from captum_masking.cli.command import Options
from captum_masking.data.audio import write_sound
from captum_masking.data.images import say_left_out, sort_out
from captum_masking.data.pictures import SUFFIXES
from captum_masking.model.model import MaskingModel
from captum_masking.viz import montage
from captum_masking.zoo import SHIPPED, Preprocess, explain_batch, load, load_classifier
from captum_masking.zoo.sound import is_of_sounds, load_sounds

_ENDING, _HEARD = "-explained.png", "-explained.wav"
# A PNG notes which picture it explains, and a digest of all that its map depends on.
_PICTURE, _BASIS = "captum-masking picture", "captum-masking basis"


def run(options: Options) -> dict[str, Any]:
    """Explain the pictures batch by batch; report those that cannot be read."""
    masked = options.method == NAMES[0]
    name = options.model or SHIPPED
    model, preprocess = _loaded(name, options, masked=masked)
    given = (_files(Path(each), preprocess.suffixes) for each in options.pictures)
    files = list(dict.fromkeys(file for listed in given for file in listed))
    target = None if options.target is None else preprocess.number(options.target)
    maps = None if masked else Maps(options.method, model)
    made_by = [model] if masked else [model.classifier, options.method]
    basis = sha256(*made_by, preprocess, target)
    found: list[dict[str, Any]] = []
    skipped: list[Path] = []
    failed: dict[str, str] = {}
    with tqdm(total=len(files), unit="picture", disable=None if len(files) > 1 else True) as bar:
        for first in range(0, len(files), options.batch_size):
            pictures = {}
            for file in files[first : first + options.batch_size]:
                try:
                    place = _place(options.out, file)
                    there = _notes_in(place, is_whole=True) if options.skip_existing else {}
                    if there and _notes(file, basis).items() <= there.items():
                        skipped.append(file)
                    else:
                        pictures[file] = preprocess.ready(file)
                except (OSError, ValueError) as error:
                    failed[str(file)] = str(error)
                    tqdm.write(f"captum-masking: error: {error}", file=sys.stderr)
            explained = explain_batch(model, preprocess, list(pictures.values()), target, maps)
            for file, each in zip(pictures, explained, strict=False):  # none, if none can be read
                place = _place(options.out, file)
                figures = {"picture": file, "explained": place, **each._asdict()}
                del figures["panels"]
                if (sound := figures.pop("heard")) is not None:
                    figures["heard"] = place.with_suffix(".wav")
                    write_sound(figures["heard"], sound, preprocess.sample_rate)
                montage([each.panels], place, notes=_notes(file, basis))
                tqdm.write(f"{file}: {each} -> {place}")
                found.append(figures)
            bar.update(min(options.batch_size, len(files) - first))
            sys.stdout.flush()
    if skipped:
        print(f"skipped, explained before: {len(skipped)}")
    if failed and len(files) > 1:
        words = f"{len(failed)} of {len(files)} pictures could not be explained: "
        print(f"captum-masking: error: {words}{', '.join(failed)}", file=sys.stderr)
    return {"model": name, "pictures": found, "skipped": skipped, "failed": failed}


def of_classifier(spec: str) -> tuple[MaskingModel, Preprocess]:
    """Load a classifier for methods that need no masker."""
    classifier, preprocess = load_classifier(spec)
    return MaskingModel(classifier), preprocess  # its masker is not used


class Maps:
    """The maps of another method than the masker; chosen at the first pictures."""

    def __init__(self, method: str, model: MaskingModel) -> None:
        self.method, self.model = method, model
        self.row: Method | None = None

    def __call__(self, inputs: Tensor, target: Tensor) -> Tensor:
        """Return maps ``(B, 1, H, W)``."""
        if self.row is None:
            found, left_out = default_methods(self.model, inputs[:1], names=[self.method])
            if not found:
                reason = "; ".join(left_out.values())
                raise ValueError(
                    f"--method: {self.method} does not apply to this classifier: {reason}."
                )
            self.row = found[self.method]
        return self.row.maps(inputs, target)


def _loaded(name: str, options: Options, *, masked: bool) -> tuple[MaskingModel, Any]:
    """Load a model of pictures or of sounds, and its preprocessing."""
    if is_of_sounds(name):
        if options.range:
            raise ValueError(f"--range applies to pictures, but {name} explains sounds; omit it.")
        return load_sounds(name)
    model, preprocess = of_classifier(name) if not masked and ":" in name else load(name)
    return model, replace(preprocess, value_range=options.range or preprocess.value_range)


def _files(given: Path, suffixes: Sequence[str]) -> list[Path]:
    """List a picture, or all pictures under a folder."""
    if not given.is_dir():
        return [given]
    inside = [entry for entry in given.rglob("*") if entry.is_symlink() or not entry.is_dir()]
    seen = (e for e in inside if not any(p[0] == "." for p in e.relative_to(given).parts[:-1]))
    listed, left_out = sort_out(seen, suffixes)
    chosen = [file for file in listed if not file.name.endswith((_ENDING, _HEARD))]
    left_out[_ENDING if suffixes is SUFFIXES else _HEARD] += len(listed) - len(chosen)
    say_left_out(given, left_out, suffixes)
    if not chosen:
        kinds = "pictures" if suffixes is SUFFIXES else f"sounds ({' '.join(suffixes)})"
        raise ValueError(f"expected {kinds} in {given}, but found none; give another folder.")
    return chosen


def _place(out: Path, file: Path) -> Path:
    """Name the file of a picture's map, with a number if the name is taken."""
    stem = file.stem.encode(errors="surrogateescape")[:200].decode(errors="ignore")  # a file's name
    places = (out / f"{stem}{f'-{n}' if n > 1 else ''}{_ENDING}" for n in count(1))
    who = sha256(str(file.resolve()))
    return next(p for p in places if not p.exists() or _notes_in(p).get(_PICTURE) == who)


def _notes(file: Path, basis: str) -> dict[str, str]:
    return {_PICTURE: sha256(str(file.resolve())), _BASIS: sha256(file, basis)}


def _notes_in(place: Path, *, is_whole: bool = False) -> dict[Any, Any]:
    try:
        with Image.open(place) as picture:
            if is_whole:
                picture.load()
            return picture.info
    except Exception:  # missing, incomplete, or not ours
        return {}
