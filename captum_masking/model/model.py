"""What a model is built of where the user left it open: layers to read, and a masker for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captum_masking._base.borrow import eval_mode, plain_tensors, unwrapped
from captum_masking._base.checks import channels_in_words, check_area, check_inputs
from captum_masking._base.tuples import Inputs, one_or_several, size_of
from captum_masking.model.files import (
    UPSAMPLERS,
    CheckpointError,
    check_classifier,
    describe,
    fingerprint,
    read_model,
    rebuild,
    write_model,
)
from captum_masking.model.layers import (
    NoMapsError,
    dry_run_inputs,
    find_joint_layers,
    find_layers,
    layouts_of,
)
from captum_masking.model.layouts import Layout, first_tensor
from captum_masking.model.taps import Taps, Untapped, check_tappable, logits_of, tappable
from captum_masking.parts.evidence import Traced, evidence
from captum_masking.parts.gate import GatedMasker
from captum_masking.parts.masker import Masker, linear
from captum_masking.parts.other_maskers import ElementMasker, JointMasker, OwnEncoder
from captum_masking.parts.sampler import Sigmoid

__all__ = [
    "MaskingModel",
    "check_target_aware",
    "layers_for",
    "make_masker",
    "name_of",
    "reads_inputs",
    "takes_vectors",
    "told_the_class",
]


def layers_for(
    classifier: nn.Module, example: Inputs, extra: tuple[Any, ...], *, guessed: bool
) -> tuple[str, ...]:
    """Find layers to read; without any, an example that the user gave is read itself.

    Args:
        classifier: Run in eval mode, without gradient.
        example: One input, or several.
        extra: Further arguments of the classifier.
        guessed: Whether the example is our own: then there must be a layer.

    Raises:
        NoMapsError: If there is none, for a guessed example.

    Source:
        Own.

    Example:
        >>> import torch
        >>> layers_for(nn.Sequential(nn.Conv2d(1, 4, 3)), torch.zeros(1, 1, 8, 8), (), guessed=True)
        ('0',)
    """
    find: Callable[..., Any] = find_joint_layers if isinstance(example, tuple) else find_layers
    try:
        return tuple(find(classifier, example, extra=extra))
    except NoMapsError:
        if guessed:
            raise
        return ()


def make_masker(
    make: Callable[..., nn.Module], features: list[Tensor], example: Inputs, *, taps: bool
) -> nn.Module:
    """Build a masker for the features of a dry run; by default, one of their kind.

    Args:
        make: Called as ``make(channels, dims=dims)``. ``Masker``, the default, becomes what fits.
        features: Maps, vectors, or the inputs themselves.
        example: What they were made of.
        taps: Whether layers of the classifier are read.

    Source:
        Own.

    Example:
        >>> import torch
        >>> features, example = [torch.zeros(1, 4)], torch.zeros(1, 9)
        >>> type(make_masker(Masker, features, example, taps=True)).__name__
        'ElementMasker'
    """
    channels, default = [maps.shape[1] for maps in features], make is Masker
    if isinstance(example, tuple):
        inputs = [(tensor.dim() - 2, tensor.shape[1]) for tensor in example]
        masker = (JointMasker if default else make)(channels, inputs=inputs, own=not taps)
    elif default and not taps:
        masker = OwnEncoder(channels, dims=example.dim() - 2)
    elif default and example.dim() == 2:
        masker = ElementMasker(channels, elements=example.shape[1])
    else:
        masker = make(channels, dims=example.dim() - 2)
    return masker.to(features[0])


def told_the_class(masker: nn.Module | Callable[..., nn.Module]) -> Any:
    """Return the masker of a target-aware model: the default, told the evidence; or the user's own.

    Raises:
        ValueError: If a module is given that does not ask for the class.

    Source:
        Own; which default, and why, is in ``docs/targets.rst``.

    Example:
        >>> told_the_class(Masker)([3], dims=2).asks
        ('target', 'evidence')
    """
    if isinstance(masker, nn.Module) and "target" not in getattr(masker, "asks", ()):
        raise ValueError(
            f"target_aware=True needs a masker that asks for the class, but {name_of(masker)} does "
            "not; leave masker=... out, or give Masker(..., evidence=True)."
        )
    return GatedMasker if masker is Masker else masker


def check_target_aware(features: list[Tensor], example: Inputs, *, taps: bool) -> None:
    """Refuse classifiers whose evidence has no place: without maps, or of several inputs.

    Raises:
        ValueError: Saying what there is instead.

    Source:
        Own.

    Example:
        >>> import torch
        >>> maps = [torch.zeros(1, 4, 2, 2)]
        >>> check_target_aware(maps, torch.zeros(1, 3, 8, 8), taps=True)
    """
    if isinstance(example, tuple) or not taps or example.dim() == 2:
        what = "several inputs" if isinstance(example, tuple) else "no feature maps to read"
        raise ValueError(
            f"target_aware=True needs one input and a layer that gives feature maps of it, but "
            f"this classifier has {what}; MaskingSaliency(classifier), which optimises a mask for "
            "each input, follows the target there too."
        )


def reads_inputs(masker: object) -> bool:
    """Whether a masker, or what makes one, has an encoder of its own.

    Source:
        Own.

    Example:
        >>> reads_inputs(OwnEncoder), reads_inputs(Masker)
        (True, False)
    """
    return bool(getattr(getattr(masker, "func", masker), "reads_inputs", False))


def takes_vectors(masker: object) -> bool:
    """Whether a masker is made for inputs without space.

    Source:
        Own.

    Example:
        >>> takes_vectors(ElementMasker([3], elements=4)), takes_vectors(Masker([3]))
        (True, False)
    """
    return isinstance(masker, ElementMasker) or getattr(masker, "settings", {}).get("dims") == 0


def name_of(part: object) -> str:
    """Name a part of a model with the settings it was built from.

    Source:
        Own.

    Example:
        >>> from captum_masking.parts.masker import linear
        >>> name_of(linear), name_of(Masker([3], width=4))[:31]
        ('linear', 'Masker(channels=[3], width=4, d')
    """
    settings = getattr(part, "settings", None)
    name = getattr(part, "__name__", type(part).__name__)
    if settings is None:
        return name
    return f"{name}({', '.join(f'{key}={value}' for key, value in settings.items())})"


# ---- A classifier and the masker that explains it, in one module.


class MaskingModel(nn.Module):
    """A classifier with a masker on its feature maps.

    ``model(inputs)`` gives the classifier's logits unchanged, ``model.mask(inputs)`` the mask and
    ``model.explain(inputs)`` both, from one forward pass of the classifier. No gradient of the
    mask reaches the classifier through its features. The logits are a tensor, as Captum asks, also
    where the classifier returns a tuple, a dict or an object with ``.logits``: see
    :func:`~captum_masking.model.taps.logits_of`.

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
            :class:`~captum_masking.parts.gate.GatedMasker`.
        masker: A module called as ``masker(features, grid)`` that returns mask logits
            ``(B, 1, *grid)``; or a function that makes one, called as
            ``masker(channels, dims=dims)`` with the channels of the tapped maps. One with an
            attribute ``asks`` is also told ``target`` or ``area``, as
            :class:`~captum_masking.parts.masker.Masker` explains. One with ``reads_inputs = True``
            is
            given the inputs themselves. The default becomes
            :class:`~captum_masking.parts.other_maskers.ElementMasker` for vectors, and
            :class:`~captum_masking.parts.other_maskers.OwnEncoder` where there is nothing to tap.
        sampler: Maps mask logits to the mask; None is
            :class:`~captum_masking.parts.sampler.Sigmoid`.
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
            :mod:`~captum_masking.model.layouts`; None tells from the dry run or, where none is
            needed,
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

    def save(self, folder: str | Path, *, notes: Mapping[str, Any] | None = None) -> None:
        """Write the masker and, if it was trained along, the classifier to a folder.

        All of it is in ``model.safetensors``, which is replaced once the new one is whole; other
        files in the folder stay. A masker or sampler of your own is handed to :meth:`load` again.

        Args:
            folder: New, empty, or a saved model.
            notes: JSON-like facts to keep in the file, such as the class names.

        Raises:
            FileExistsError: If the folder holds something else.
            OSError: If it cannot be written, such as on a full disk.
        """
        kept = ("masker.", "sampler.", *(("classifier.",) if self.classifier_trained else ()))
        config = {
            "layers": list(self.layers),
            "layouts": [describe(layout) for layout in self.layouts or ()],
            "stride": self.stride,
            "upsample": name_of(self.upsample),
            "upsample_first": self.upsample_first,
            "masker": describe(self.masker),
            "sampler": describe(self.sampler),
            "classifier": {
                "class": type(self.classifier).__name__,
                "saved": self.classifier_trained,
                "fingerprint": fingerprint(self.classifier),
            },
            "target_aware": self.target_aware,
            "notes": dict(notes or {}),
        }
        weights = {n: tensor for n, tensor in self.state_dict().items() if n.startswith(kept)}
        write_model(folder, config, weights)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        classifier: nn.Module,
        *,
        masker: nn.Module | None = None,
        sampler: nn.Module | None = None,
    ) -> MaskingModel:
        """Rebuild a saved model around a classifier, in eval mode.

        Args:
            folder: Written by :meth:`save`.
            classifier: The architecture that the model was trained with. If it was trained along,
                its weights are loaded into it; if not, it must be the same classifier, and one
                with other weights is warned of.
            masker: Needed where the saved masker is not the package's own.
            sampler: Needed where the saved sampler is not the package's own.

        Raises:
            CheckpointError: If the folder is not a saved model, was altered, or does not fit the
                classifier, which is then unchanged.
        """
        config, weights = read_model(folder)
        masker = masker or rebuild("masker", config["masker"], folder)
        sampler = sampler or rebuild("sampler", config["sampler"], folder)
        layouts = [rebuild("layout", entry, folder) for entry in config["layouts"]]
        try:
            model = cls(
                classifier,
                config["layers"],
                layouts=layouts or None,
                masker=masker,
                sampler=sampler,
                stride=config["stride"],
                upsample=UPSAMPLERS[config["upsample"]],
                upsample_first=config["upsample_first"],
            )
            check_classifier(folder, config["classifier"], weights, model.classifier)
            missing, unexpected = model.load_state_dict(weights, strict=False)
        except CheckpointError:
            raise
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(folder, f"it does not fit this classifier ({error})") from error
        lost = [name for name in missing if not name.startswith("classifier.")] + unexpected
        if lost:
            raise CheckpointError(folder, f"its weights do not match its config ({lost[:4]})")
        model.classifier_trained = config["classifier"]["saved"]
        anchor = next(model.classifier.parameters(), None)
        return (model if anchor is None else model.to(anchor.device)).eval()

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
