"""A classifier and the masker that explains it, in one module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captum_masking.checks import check_inputs
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
        masker: Called as ``masker(features, grid)``, returns mask logits ``(B, 1, *grid)``; None
            builds the paper's :class:`~captum_masking.masker.Masker`.
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
        masker: nn.Module | None = None,
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
        if layers is None or masker is None:
            example = _dry_run_inputs(classifier) if example_inputs is None else example_inputs
            layers = find_layers(classifier, example) if layers is None else layers
            masker = _build_masker(Taps(classifier, layers), example) if masker is None else masker
        self.layers = Taps(classifier, layers).layers  # refuses a layer that does not exist
        self.masker = masker

    def forward(self, inputs: Tensor, *extra: Any) -> Tensor:
        """Return the classifier's logits for ``inputs``, unchanged."""
        return self.classifier(inputs, *extra)

    def mask(self, inputs: Tensor, *extra: Any) -> Tensor:
        """Return the mask ``(B, 1, *spatial)`` of inputs ``(B, C, *spatial)``; 1 is evidence."""
        return self.explain(inputs, *extra)[1]

    def explain(self, inputs: Tensor, *extra: Any) -> tuple[Tensor, Tensor]:
        """Return ``(logits, mask)`` from one forward pass of the classifier."""
        logits, features = self.read(inputs, *extra)
        return logits, self.decode(features, inputs.shape[2:])

    def read(self, inputs: Tensor, *extra: Any) -> tuple[Tensor, list[Tensor]]:
        """Return ``(logits, features)`` from one forward pass of the classifier."""
        check_inputs(inputs)
        return Taps(self.classifier, self.layers)(inputs, *extra)

    def decode(self, features: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Turn tapped features into a mask ``(B, 1, *size)``; gradients stop at the features."""
        mask_logits = self.masker([maps.detach() for maps in features], self._grid(features, size))
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

    def extra_repr(self) -> str:
        """Say which layers are read."""
        return f"layers={self.layers}, stride={self.stride}"

    def _grid(self, features: Sequence[Tensor], size: Sequence[int]) -> tuple[int, ...]:
        if self.stride is not None:
            return tuple(-(-side // self.stride) for side in size)
        return max(
            (tuple(maps.shape[2:]) for maps in features), key=lambda g: torch.Size(g).numel()
        )


def _build_masker(taps: Taps, example: Tensor) -> Masker:
    with eval_mode(taps.classifier), torch.no_grad():
        _, features = taps(example)
    for name, maps in zip(taps.layers, features, strict=True):
        _check_feature_map(name, maps, example)
    masker = Masker([maps.shape[1] for maps in features], dims=example.dim() - 2)
    return masker.to(features[0])


def _check_feature_map(name: str, maps: object, example: Tensor) -> None:
    if not isinstance(maps, Tensor) or maps.dim() != example.dim():
        got = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
        raise ValueError(
            f"a tapped layer must give a map of shape (B, channels, *spatial) with "
            f"{example.dim() - 2} spatial dimensions, but {name!r} gave {got}; tap another layer."
        )


def _dry_run_inputs(classifier: nn.Module) -> Tensor:
    """Zeros that the classifier accepts, shaped for its first convolution."""
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
