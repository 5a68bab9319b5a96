"""A classifier and the masker that explains it, in one module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captum_masking.checks import check_area, check_inputs
from captum_masking.encoder import Taps, check_tappable, find_layers
from captum_masking.masker import Masker, linear
from captum_masking.modes import eval_mode
from captum_masking.sampler import Sigmoid

# Sizes at which a dry run is tried: ImageNet's, Inception's, then those of small data sets.
_DRY_RUN_SIZES = (224, 299, 64, 32, 28)


class MaskingModel(nn.Module):
    """A classifier with a masker on its feature maps.

    ``model(inputs)`` gives the classifier's logits unchanged, ``model.mask(inputs)`` the mask and
    ``model.explain(inputs)`` both, from one forward pass of the classifier. No gradient of the
    mask reaches the classifier through its features.

    Args:
        classifier: Any module that maps ``(B, C, *spatial)`` to logits ``(B, classes)`` and makes
            feature maps on the way. It is used, not copied.
        layers: Names of the modules whose outputs the masker reads; None finds the last map at
            each of the two deepest resolutions in one dry run.
        masker: A module called as ``masker(features, grid)`` that returns mask logits
            ``(B, 1, *grid)``; or a function that makes one, called as
            ``masker(channels, dims=dims)`` with the channels of the tapped maps. One with an
            attribute ``asks`` is also told ``target`` or ``area``, as
            :class:`~captum_masking.masker.Masker` explains.
        sampler: Maps mask logits to the mask; None is
            :class:`~captum_masking.sampler.Sigmoid`.
        stride: The mask is predicted on a grid of one cell per ``stride`` input pixels; None
            takes the finest tapped map as the grid.
        upsample: Called as ``upsample(maps, size)`` to bring the mask to the input's size.
        upsample_first: Whether the mask logits are upsampled, before the sampler, which keeps the
            edges of the mask sharp; False upsamples the sampled mask.
        example_inputs: Inputs for the dry run; None makes zeros shaped for the classifier's
            first convolution.

    Raises:
        TypeError: If the classifier is not a plain eager module.
        ValueError: If a layer does not exist, or the dry run fails for want of an example.

    Source:
        Phang et al. 2020; published: ``stride=4, upsample=nearest, upsample_first=False``.

    Example:
        >>> classifier = nn.Sequential(
        ...     nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 8, 3, 2, 1), nn.ReLU(),
        ...     nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
        ... )
        >>> model = MaskingModel(classifier)
        >>> model.layers
        ('1', '3')
        >>> logits, mask = model.explain(torch.rand(2, 1, 30, 50))
        >>> logits.shape, mask.shape
        (torch.Size([2, 10]), torch.Size([2, 1, 30, 50]))
    """

    def __init__(
        self,
        classifier: nn.Module,
        layers: Sequence[str] | None = None,
        *,
        masker: nn.Module | Callable[..., nn.Module] = Masker,
        sampler: nn.Module | None = None,
        stride: int | None = None,
        upsample: Callable[[Tensor, Sequence[int]], Tensor] = linear,
        upsample_first: bool = True,
        example_inputs: Tensor | None = None,
    ) -> None:
        super().__init__()
        check_tappable(classifier)
        self.classifier = classifier
        self.stride = stride
        self.upsample = upsample
        self.upsample_first = upsample_first
        self.sampler = Sigmoid() if sampler is None else sampler
        self.classifier_trained = False  # set by joint training: then its weights are saved too
        if layers is None or not isinstance(masker, nn.Module):
            example = dry_run_inputs(classifier) if example_inputs is None else example_inputs
            layers = find_layers(classifier, example) if layers is None else layers
            if not isinstance(masker, nn.Module):
                masker = _build_masker(masker, Taps(classifier, layers), example)
        self.layers = Taps(classifier, layers).layers  # refuses a layer that does not exist
        self.masker = masker

    def forward(self, inputs: Tensor, *extra: Any) -> Tensor:
        """Return the classifier's logits for ``inputs``, unchanged."""
        return self.classifier(inputs, *extra)

    def mask(self, inputs: Tensor, *extra: Any, **question: Any) -> Tensor:
        """Return the mask ``(B, 1, *spatial)`` of inputs ``(B, C, *spatial)``; 1 is evidence."""
        return self.explain(inputs, *extra, **question)[1]

    def explain(self, inputs: Tensor, *extra: Any, **question: Any) -> tuple[Tensor, Tensor]:
        """Return ``(logits, mask)`` from one forward pass; ``question`` is for :meth:`ask`."""
        logits, features = self.read(inputs, *extra)
        return logits, self.decode(features, inputs.shape[2:], **self.ask(logits, **question))

    def ask(
        self,
        logits: Tensor,
        *,
        target: Tensor | None = None,
        area: float | Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Put together what the masker wants to be told; nothing, for most.

        Args:
            logits: ``(B, classes)``, of the inputs.
            target: Classes ``(B,)``; None is the predicted ones.
            area: Fraction of the image, in (0, 1), one for all or ``(B,)``; None is one half.

        Returns:
            ``target`` and ``area``, each ``(B,)``, where the masker asks for them.

        Raises:
            ValueError: If ``area`` is given and the masker does not take it, or lies outside
                (0, 1).
        """
        asks = getattr(self.masker, "asks", ())
        asked: dict[str, Tensor] = {}
        if "target" in asks:
            asked["target"] = logits.argmax(1) if target is None else target
        if area is not None or "area" in asks:
            check_area(area, asks)
            fraction = torch.as_tensor(0.5 if area is None else area, device=logits.device)
            asked["area"] = fraction.expand(len(logits))
        return asked

    def read(self, inputs: Tensor, *extra: Any) -> tuple[Tensor, list[Tensor]]:
        """Return ``(logits, features)`` from one forward pass of the classifier."""
        check_inputs(inputs)
        return Taps(self.classifier, self.layers)(inputs, *extra)

    def decode(self, features: Sequence[Tensor], size: Sequence[int], **asked: Tensor) -> Tensor:
        """Turn tapped features into a mask ``(B, 1, *size)``; gradients stop at the features."""
        grid = self._grid(features, size)
        mask_logits = self.masker([maps.detach() for maps in features], grid, **asked)
        if self.upsample_first:
            return self.sampler(self.upsample(mask_logits, size))
        return self.upsample(self.sampler(mask_logits), size)

    def save(self, folder: str | Path) -> None:
        """Write the model; see :func:`~captum_masking.checkpoint.save_model`."""
        from captum_masking.checkpoint import save_model

        save_model(self, folder)

    @staticmethod
    def load(folder: str | Path, classifier: nn.Module) -> MaskingModel:
        """Read a saved model; see :func:`~captum_masking.checkpoint.load_model`."""
        from captum_masking.checkpoint import load_model

        return load_model(folder, classifier)

    @staticmethod
    def load_published(file: str | Path) -> MaskingModel:
        """Read the paper's own checkpoint; see :func:`~captum_masking.published.load_published`."""
        from captum_masking.published import load_published

        return load_published(file)

    def recipe(self) -> str:
        """Say in one line what the model is made of, without its weights."""
        parts = {
            "layers": self.layers,
            "masker": name_of(self.masker),
            "sampler": name_of(self.sampler),
            "stride": self.stride,
            "upsample": name_of(self.upsample),
            "upsample_first": self.upsample_first,
        }
        listed = ", ".join(f"{name}={value}" for name, value in parts.items())
        return f"MaskingModel({type(self.classifier).__name__}, {listed})"

    def extra_repr(self) -> str:
        """Say which layers are read."""
        return f"layers={self.layers}, stride={self.stride}"

    def _grid(self, features: Sequence[Tensor], size: Sequence[int]) -> tuple[int, ...]:
        if self.stride is not None:
            return tuple(-(-side // self.stride) for side in size)
        return max(
            (tuple(maps.shape[2:]) for maps in features), key=lambda g: torch.Size(g).numel()
        )


def _build_masker(make: Callable[..., nn.Module], taps: Taps, example: Tensor) -> nn.Module:
    with eval_mode(taps.classifier), torch.no_grad():
        _, features = taps(example)
    for name, maps in zip(taps.layers, features, strict=True):
        _check_feature_map(name, maps, example)
    masker = make([maps.shape[1] for maps in features], dims=example.dim() - 2)
    return masker.to(features[0])


def name_of(part: object) -> str:
    """Name a part of a model with the settings it was built from.

    Source:
        Own.

    Example:
        >>> name_of(linear), name_of(Masker([3], width=4))[:31]
        ('linear', 'Masker(channels=[3], width=4, d')
    """
    settings = getattr(part, "settings", None)
    name = getattr(part, "__name__", type(part).__name__)
    if settings is None:
        return name
    return f"{name}({', '.join(f'{key}={value}' for key, value in settings.items())})"


def _check_feature_map(name: str, maps: object, example: Tensor) -> None:
    if not isinstance(maps, Tensor) or maps.dim() != example.dim():
        got = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
        raise ValueError(
            f"a tapped layer must give a map of shape (B, channels, *spatial) with "
            f"{example.dim() - 2} spatial dimensions, but {name!r} gave {got}; tap another layer."
        )


def dry_run_inputs(classifier: nn.Module) -> Tensor:
    """Make zeros that the classifier accepts, shaped for its first convolution.

    Raises:
        ValueError: If it has no convolution, or accepts none of the sizes that are tried.

    Source:
        Own.

    Example:
        >>> dry_run_inputs(nn.Conv2d(3, 8, 3)).shape
        torch.Size([1, 3, 224, 224])
    """
    convolutions = (m for m in classifier.modules() if isinstance(m, nn.modules.conv._ConvNd))
    first = next(convolutions, None)
    if first is None:
        raise ValueError(
            "expected a classifier with a convolution to guess its input shape from, but found "
            "none; pass example_inputs=..., one batch as the classifier takes it."
        )
    dims = len(first.kernel_size)
    for side in _DRY_RUN_SIZES if dims < 3 else (32, 16):
        example = torch.zeros(1, first.in_channels, *[side] * dims).to(first.weight)
        try:
            with eval_mode(classifier), torch.no_grad():
                classifier(example)
            return example
        except (RuntimeError, ValueError) as error:
            failure = error
    raise ValueError(
        f"expected the classifier to accept zeros of shape (1, {first.in_channels}, side, ...) "
        f"for a side in {_DRY_RUN_SIZES}, but it raised {failure!r}; pass example_inputs=..., "
        "one batch as the classifier takes it."
    ) from failure
