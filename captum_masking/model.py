"""A classifier and the masker that explains it, in one module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captum_masking.building import (
    check_target_aware,
    layers_for,
    make_masker,
    name_of,
    reads_inputs,
    takes_vectors,
    told_the_class,
)
from captum_masking.checks import channels_in_words, check_area, check_inputs
from captum_masking.dry_run import dry_run_inputs
from captum_masking.encoder import Taps, check_tappable, layouts_of, tappable
from captum_masking.evidence import Traced, evidence
from captum_masking.inputs import Inputs, one_or_several, size_of
from captum_masking.joint import JointMasker
from captum_masking.masker import Masker, linear
from captum_masking.modes import eval_mode, plain_tensors, unwrapped
from captum_masking.outputs import logits_of
from captum_masking.own_encoder import Untapped
from captum_masking.sampler import Sigmoid
from captum_masking.tokens import Layout, first_tensor


class MaskingModel(nn.Module):
    """A classifier with a masker on its feature maps.

    ``model(inputs)`` gives the classifier's logits unchanged, ``model.mask(inputs)`` the mask and
    ``model.explain(inputs)`` both, from one forward pass of the classifier. No gradient of the
    mask reaches the classifier through its features. The logits are a tensor, as Captum asks, also
    where the classifier returns a tuple, a dict or an object with ``.logits``: see
    :func:`~captum_masking.outputs.logits_of`.

    Args:
        classifier: Any module that maps ``(B, C, *spatial)`` to logits ``(B, classes)`` and makes
            feature maps on the way: channels first or last, or one token for each patch; or one
            that maps vectors ``(B, F)``, whose masks are ``(B, F)``. It is used, not copied. A
            function, or a compiled, traced, scripted or exported module, needs
            ``example_inputs`` or a masker that has an encoder of its own.
        layers: Names of the modules whose outputs the masker reads; None finds the last map at
            each of the two deepest resolutions in one dry run.
        target_aware: Whether the mask is to answer for the class that is asked for. The masker, if
            ``masker`` is left as it is, is then a
            :class:`~captum_masking.gated_masker.GatedMasker`.
        masker: A module called as ``masker(features, grid)`` that returns mask logits
            ``(B, 1, *grid)``; or a function that makes one, called as
            ``masker(channels, dims=dims)`` with the channels of the tapped maps. One with an
            attribute ``asks`` is also told ``target`` or ``area``, as
            :class:`~captum_masking.masker.Masker` explains. One with ``reads_inputs = True`` is
            given the inputs themselves. The default becomes
            :class:`~captum_masking.element_masker.ElementMasker` for vectors, and
            :class:`~captum_masking.own_encoder.OwnEncoder` where there is nothing to tap.
        sampler: Maps mask logits to the mask; None is
            :class:`~captum_masking.sampler.Sigmoid`.
        stride: The mask is predicted on a grid of one cell per ``stride`` input pixels; None
            takes the finest tapped map as the grid.
        upsample: Called as ``upsample(maps, size)`` to bring the mask to the input's size.
        upsample_first: Whether the mask logits are upsampled, before the sampler, which keeps the
            edges of the mask sharp; False upsamples the sampled mask.
        example_inputs: Inputs for the dry run; None makes zeros shaped for the classifier's
            first convolution. A tuple of several, for a classifier that takes several: ``mask`` and
            ``explain`` are then given tuples of inputs and give one mask for each.
        additional_forward_args: What the classifier takes after its inputs, for the dry run alone.
        layouts: How the output of each layer becomes a map ``(B, channels, *grid)``, as in
            :mod:`~captum_masking.tokens`; None tells from the dry run or, where none is needed,
            from the first inputs.

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
        target_aware: bool = False,
        masker: nn.Module | Callable[..., nn.Module] = Masker,
        sampler: nn.Module | None = None,
        stride: int | None = None,
        upsample: Callable[[Tensor, Sequence[int]], Tensor] = linear,
        upsample_first: bool = True,
        example_inputs: Inputs | None = None,
        additional_forward_args: tuple[Any, ...] = (),
        layouts: Sequence[Layout] | None = None,
    ) -> None:
        super().__init__()
        classifier = unwrapped(classifier)
        if target_aware:
            masker = told_the_class(masker)
        own = reads_inputs(masker) or (layers is not None and not len(layers))
        own = own or (example_inputs is not None and not tappable(classifier))
        if not own:
            check_tappable(classifier)
        self.classifier = classifier if tappable(classifier) else Untapped(classifier)
        self.stride = stride
        self.upsample = upsample
        self.upsample_first = upsample_first
        self.sampler = Sigmoid() if sampler is None else sampler
        self.classifier_trained = False  # set by joint training: then its weights are saved too
        self.layers: tuple[str, ...] = Taps(self.classifier, () if own else layers or ()).layers
        self.layouts: tuple[Layout, ...] | None = None if layouts is None else tuple(layouts)
        self._takes_vectors = takes_vectors(masker)
        if not isinstance(masker, nn.Module) or (layers is None and not own):
            example, extra = one_or_several(example_inputs), additional_forward_args
            example = dry_run_inputs(self.classifier) if example is None else example
            if layers is None and not own:
                guessed = example_inputs is None
                self.layers = layers_for(self.classifier, example, extra, guessed=guessed)
            features = self._dry_run(example, extra)
            if target_aware:
                check_target_aware(features, example, taps=bool(self.layers))
            if not isinstance(masker, nn.Module):
                masker = make_masker(masker, features, example, taps=bool(self.layers))
        self.masker = masker

    def forward(self, inputs: Tensor, *extra: Any) -> Tensor:
        """Return the classifier's logits for ``inputs``, unchanged; ``classifier`` gives all."""
        return logits_of(self.classifier(inputs, *extra))

    def mask(self, inputs: Inputs, *extra: Any, **question: Any) -> Any:
        """Return the mask ``(B, 1, *spatial)`` of inputs ``(B, C, *spatial)``; 1 is evidence."""
        return self.explain(inputs, *extra, **question)[1]

    def explain(self, inputs: Inputs, *extra: Any, **question: Any) -> tuple[Tensor, Any]:
        """Return ``(logits, mask)`` from one forward pass; ``question`` is for :meth:`ask`."""
        inputs = one_or_several(inputs)
        logits, features = self.read(inputs, *extra)
        return logits, self.decode(features, size_of(inputs), **self.ask(logits, **question))

    @property
    def target_aware(self) -> bool:
        """Whether the mask depends on the class that is asked for."""
        return "target" in self._asks

    @property
    def _asks(self) -> tuple[str, ...]:
        return getattr(getattr(self, "masker", None), "asks", ())

    @property
    def inputs_taken(self) -> int:
        """How many inputs are explained together: one, unless the masker was built for several."""
        return len(self.masker.heads) if isinstance(self.masker, JointMasker) else 1

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
        asks = self._asks
        asked: dict[str, Tensor] = {}
        if "target" in asks:
            asked["target"] = logits.argmax(1) if target is None else target
        if area is not None or "area" in asks:
            check_area(area, asks, examples=len(logits))
            fraction = torch.as_tensor(0.5 if area is None else area, device=logits.device)
            asked["area"] = fraction.expand(logits.shape[0])
        return asked

    def read(self, inputs: Inputs, *extra: Any) -> tuple[Tensor, list[Tensor]]:
        """Return ``(logits, features)`` from one forward pass of the classifier.

        Features are maps ``(B, channels, *grid)``, whatever the layout of the layers' outputs; the
        inputs themselves, for a masker with an encoder of its own.
        """
        inputs = one_or_several(inputs)
        tensors = inputs if isinstance(inputs, tuple) else (inputs,)
        for tensor in tensors:
            check_inputs(tensor, vectors=self._takes_vectors or len(tensors) > 1)
        taps = Taps(self.classifier, self.layers)
        traced = self.layers[-1] if "evidence" in self._asks else None
        with channels_in_words(self.classifier, tensors[0]), plain_tensors(traced) as plain:
            output, tapped = taps(*plain(tensors), *plain(extra), traced=traced)
        if not self.layers:
            return logits_of(output), list(tensors)
        if self.layouts is None:  # no dry run was made: a loaded model, or layers and masker given
            self.layouts = layouts_of(taps, tapped, inputs, *extra)
        features = [
            layout(first_tensor(maps), size_of(inputs))
            for layout, maps in zip(self.layouts, tapped, strict=True)
        ]
        logits = logits_of(output)
        if traced is None:
            return logits, features
        source, layout, size = first_tensor(tapped[-1]), self.layouts[-1], size_of(inputs)
        features = Traced(
            features, logits=logits, source=source, layout=lambda maps: layout(maps, size)
        )
        return logits if torch.is_grad_enabled() else logits.detach(), features

    def decode(self, features: Sequence[Tensor], size: Sequence[Any], **asked: Tensor) -> Any:
        """Turn tapped features into a mask ``(B, 1, *size)``; gradients stop at the features.

        For several inputs, ``size`` is a tuple of sizes and so are the masks. Vectors have the
        size ``()`` and masks ``(B, F)``.
        """
        several = len(size) > 0 and isinstance(size[0], tuple)
        grid = (
            tuple(self._grid(features, each) for each in size)
            if several
            else self._grid(features, size)
        )
        if "evidence" in self._asks:
            asked["evidence"] = evidence(features, asked["target"])  # type: ignore[arg-type]
        mask_logits = self.masker([maps.detach() for maps in features], grid, **asked)
        if several:
            return tuple(self._mask(*pair) for pair in zip(mask_logits, size, strict=True))
        return self._mask(mask_logits, size)

    def _mask(self, mask_logits: Tensor, size: Sequence[int]) -> Tensor:
        if torch.is_autocast_enabled(mask_logits.device.type):
            mask_logits = mask_logits.float()  # half precision has too few steps near 0 and 1
        if not size:  # vectors: one logit for each element already
            return self.sampler(mask_logits)
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

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Share it on the Hugging Face Hub; see :func:`~captum_masking.hub.push_to_hub`."""
        from captum_masking.hub import push_to_hub

        return push_to_hub(self, repo_id, **options)

    @staticmethod
    def from_pretrained(repo_id: str, classifier: nn.Module, **options: Any) -> MaskingModel:
        """Fetch a shared model; see :func:`~captum_masking.hub.from_pretrained`."""
        from captum_masking.hub import from_pretrained

        return from_pretrained(repo_id, classifier, **options)

    @staticmethod
    def load_published(file: str | Path) -> MaskingModel:
        """Read the paper's own checkpoint; see :func:`~captum_masking.published.load_published`."""
        from captum_masking.published import load_published

        return load_published(file)

    def heatmap_module(self) -> nn.Module:
        """Return a plain module, ``inputs -> (logits, mask)``, to be exported, traced, deployed.

        See :class:`~captum_masking.export.HeatmapModule`.
        """
        from captum_masking.export import HeatmapModule

        return HeatmapModule(self)

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

    def _dry_run(self, example: Inputs, extra: tuple[Any, ...]) -> list[Tensor]:
        self._takes_vectors = isinstance(example, Tensor) and example.dim() == 2
        with eval_mode(self.classifier), torch.no_grad():
            return self.read(example, *extra)[1]

    def _grid(self, features: Sequence[Tensor], size: Sequence[int]) -> tuple[int, ...]:
        stride = self.stride or getattr(self.masker, "stride", None)
        grids = [tuple(maps.shape[2:]) for maps in features if maps.dim() - 2 == len(size)]
        if stride is None and self.layers and grids:
            return max(grids, key=lambda grid: torch.Size(grid).numel())
        return tuple(-(-side // (stride or 8)) for side in size)
