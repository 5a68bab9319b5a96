"""A classifier and the masker that explains it, in one module."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from html import escape
from pathlib import Path
from threading import get_ident
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from captum_masking._base.borrow import eval_mode, evaluated, plain_tensors, unfrozen, unwrapped
from captum_masking._base.captum import (
    TO_LOGITS,
    Inputs,
    ToLogits,
    as_they_are,
    as_tuple,
    find_to_logits,
    two_classes,
    unpacked,
)
from captum_masking._base.checks import channels_in_words, check_area, check_inputs, with_rows
from captum_masking._base.files import plain
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
    pooled_map,
    varied,
)
from captum_masking.model.layouts import Layout, first_tensor
from captum_masking.model.taps import (
    ONCE,
    Taps,
    Untapped,
    check_tappable,
    cuts_in_words,
    like_weights,
    logits_of,
    tappable,
)
from captum_masking.parts.evidence import Features, Trace, evidence, head_of, is_product
from captum_masking.parts.gate import GatedMasker
from captum_masking.parts.masker import Masker, Question, linear
from captum_masking.parts.other_maskers import MultiInputMasker, StandaloneMasker, VectorMasker
from captum_masking.parts.sampler import Sigmoid

__all__ = ["MaskingModel"]


class MaskingModel(nn.Module):
    """A classifier with a masker on its feature maps.

    ``model(inputs)`` returns the classifier's output unchanged, ``model.mask(inputs)`` the mask,
    and ``model.explain(inputs)`` logits and mask from one forward pass. No gradient of the mask
    reaches the classifier through its features.

    Args:
        classifier: A module that maps ``(B, C, *spatial)``, or vectors ``(B, F)`` with masks ``(B,
            F)``, to logits ``(B, classes)``. It is not copied. A function, or a compiled, traced,
            scripted or exported module, needs ``example_inputs`` or a masker with its own encoder.
        layers: Names of the modules that the masker reads, or ``"<name>.input"`` for a module's
            input; None finds them with :func:`~captum_masking.model.layers.find_layers`.
        target_aware: Whether the mask depends on the target, with a
            :class:`~captum_masking.parts.gate.GatedMasker`. None means yes if the classifier pools
            its last map before one linear layer; evidence for a class is then a product.
        masker: A module called as ``masker(features, grid, question)`` that returns mask logits
            ``(B, 1, *grid)``, or a function that makes one, called as ``masker(channels,
            dims=dims)`` with the channels of the maps. The default is one of
            :mod:`captum_masking.parts.other_maskers` for vectors, for several inputs, or if no
            layer can be read.
        sampler: Maps mask logits to the mask; None is :class:`Sigmoid(lean=-2.0, sharpness=1.5)
            <captum_masking.parts.sampler.Sigmoid>`, and ``Sigmoid()`` for a masker that takes an
            area.
        stride: Input pixels per cell of the mask's grid; None takes the grid of the finest map.
        upsample: Called as ``upsample(maps, size)`` to enlarge the mask to the input's size.
        upsample_first: Whether to upsample the mask logits before the sampler, which keeps edges
            sharp; False upsamples the sampled mask.
        example_inputs: Inputs for the dry run; None makes zeros for the classifier's first
            convolution. With a tuple, ``mask`` and ``explain`` take tuples of inputs and return one
            mask each.
        additional_forward_args: Further arguments of the classifier in the dry run.
        layouts: One of :mod:`~captum_masking.model.layouts` per layer, which turns its output into
            a map; None finds them in the dry run or in each call.
        to_logits: Turns the classifier's output into logits, such as
            :func:`~captum_masking.model.taps.log_probabilities`; None detects it, and warns if the
            output is probabilities. One score becomes the logits of two classes.

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
        target_aware: bool | None = None,
        masker: nn.Module | Callable[..., nn.Module] = Masker,
        sampler: nn.Module | None = None,
        stride: int | None = None,
        upsample: Callable[[Tensor, Sequence[int]], Tensor] = linear,
        upsample_first: bool = True,
        example_inputs: Inputs | None = None,
        additional_forward_args: tuple[Any, ...] = (),
        layouts: Sequence[Layout] | None = None,
        to_logits: ToLogits | None = None,
    ) -> None:
        super().__init__()
        classifier = unwrapped(classifier)
        if isinstance(classifier, MaskingModel):
            raise TypeError(
                "classifier is a MaskingModel already; pass model.classifier for a new masker."
            )
        if target_aware and isinstance(masker, nn.Module):
            _check_takes_target(masker)
        layers = [layers] if isinstance(layers, str) else layers
        own = _reads_inputs(masker) or (layers is not None and not len(layers))
        own = own or (example_inputs is not None and not tappable(classifier))
        if not own:
            check_tappable(classifier)
        self.classifier = classifier if tappable(classifier) else Untapped(classifier)
        self.stride = stride
        self.upsample = upsample
        self.upsample_first = upsample_first
        self.to_logits = to_logits
        self.sampler = Sigmoid(lean=-2.0, sharpness=1.5) if sampler is None else sampler
        self.classifier_trained = False  # set by joint training: then its weights are saved too
        self.layers: tuple[str, ...] = Taps(self.classifier, () if own else layers or ()).layers
        self.layouts: tuple[Layout, ...] | None = None if layouts is None else tuple(layouts)
        self.takes_vectors = _takes_vectors(masker)
        finds_layers = layers is None and not own
        if finds_layers or not isinstance(masker, nn.Module):
            example = () if example_inputs is None else as_tuple(example_inputs)
            extra = as_tuple(additional_forward_args)
            masker = self._complete(masker, example, extra, finds_layers, target_aware)
        self.masker = masker
        if sampler is None and self.sized:
            self.sampler = Sigmoid()  # a lean would miss the size that is asked for

    def _complete(
        self,
        masker: nn.Module | Callable[..., nn.Module],
        example: tuple[Tensor, ...],
        extra: tuple[Any, ...],
        finds_layers: bool,
        target_aware: bool | None,
    ) -> nn.Module:
        """Find the layers if asked, and return the masker for their maps in a dry run."""
        guessed, default = not example, masker is Masker
        example = example or (dry_run_inputs(self.classifier, *extra),)
        example = tuple(like_weights(tensor, self.classifier) for tensor in example)
        if target_aware and default:
            masker = GatedMasker
        if finds_layers:
            self.layers = _layers_for(self.classifier, example, extra, guessed=guessed)
            if default and (read := _with_evidence(self.classifier, self.layers, example, extra)):
                self.layers = read
                # Images put together, from which a gate learns, have no arguments besides.
                follows = not extra if target_aware is None else target_aware
                masker = _OF_TARGET if follows else _OF_PREDICTION
        maps = self.dry_run(example, extra)
        if target_aware:
            _check_target_aware(example, has_maps=bool(self.layers))
        if isinstance(masker, nn.Module):
            return masker
        return _make_masker(masker, maps, example, own=not self.layers)

    def forward(self, inputs: Tensor, *extra: Any) -> Tensor:
        """Return the classifier's output for ``inputs``, unchanged."""
        answer = logits_of(self.classifier(inputs, *extra))
        if _WATCHED:
            _WATCHED.get(get_ident(), []).append(((inputs, *extra), answer))
        return answer

    def logits_of(self, answer: Any) -> Tensor:
        """Turn an output of the classifier into logits ``(B, classes)``."""
        return two_classes((self.to_logits or as_they_are)(logits_of(answer)))

    def mask(self, inputs: Inputs, *extra: Any, **question: Any) -> Any:
        """Return the mask ``(B, 1, *spatial)`` of inputs ``(B, C, *spatial)``; 1 is evidence."""
        return self.explain(inputs, *extra, **question)[1]

    def explain(self, inputs: Inputs, *extra: Any, **question: Any) -> tuple[Tensor, Any]:
        """Return ``(logits, mask)`` from one forward pass; ``question`` as for :meth:`question`."""
        logits, features = self.read(as_tuple(inputs), *extra)
        return logits, unpacked(self.decode(features, self.question(logits, **question)))

    # ---- In two steps, on tuples of inputs: read the classifier, decode the mask.

    def read(self, inputs: tuple[Tensor, ...], *extra: Any) -> tuple[Tensor, Features]:
        """Return ``(logits, features)`` from one forward pass of the classifier."""
        for tensor in inputs:
            check_inputs(tensor, vectors=self.takes_vectors or len(inputs) > 1)
        inputs = tuple(like_weights(tensor, self.classifier) for tensor in inputs)
        sizes = tuple(tensor.shape[2:] for tensor in inputs)
        traced = self.layers[-1] if self.reads_evidence else None
        taps = Taps(self.classifier, self.layers)
        in_words = channels_in_words(self.classifier, inputs[0]), cuts_in_words(self.classifier)
        with in_words[0], in_words[1], plain_tensors(traced) as plain:
            output, tapped = taps(*plain(inputs), *plain(extra), traced=traced)
            answer = with_rows(logits_of(output), inputs[0])
            if traced is not None and not answer.requires_grad:
                # A network that sets the grad mode, or looks whether its parameters ask for it.
                with torch.enable_grad(), unfrozen(self.classifier):
                    output, tapped = taps(*plain(inputs), *plain(extra), traced=traced)
                    answer = logits_of(output)
            if self.to_logits is None:
                ask = lambda *others: logits_of(self.classifier(*others, *extra))  # noqa: E731
                self.to_logits = find_to_logits(self.classifier, answer, inputs, ask)
            with torch.set_grad_enabled(traced is not None or torch.is_grad_enabled()):
                logits = self.logits_of(answer)
        if not self.layers:
            return logits, Features(inputs, sizes)
        layouts = self.layouts or layouts_of(taps, tapped, inputs, *extra)
        outputs, size = [first_tensor(maps) for maps in tapped], unpacked(sizes)
        maps = tuple(lay(out, size) for lay, out in zip(layouts, outputs, strict=True))
        for name, each in zip(self.layers, maps, strict=True):
            if len(each) != len(inputs[0]):
                got = f"{name!r} gave {len(each)} for {len(inputs[0])}"
                raise RuntimeError(f"expected one map per example, but {got}: {ONCE}")
        if traced is None:
            return logits, Features(maps, sizes)
        head = head_of(self.classifier, maps[-1])
        trace = Trace(logits, outputs[-1], lambda tensor: layouts[-1](tensor, size), head)
        logits = logits if torch.is_grad_enabled() else logits.detach()
        return logits, Features(maps, sizes, trace)

    def question(
        self, logits: Tensor, *, target: Tensor | None = None, area: float | Tensor | None = None
    ) -> Question:
        """Make the question for the masker.

        Args:
            logits: ``(B, classes)``.
            target: Classes ``(B,)``; None takes the predicted ones.
            area: Fraction of the image, in (0, 1), one for all or ``(B,)``; None is one half.
        """
        if target is None and self.target_aware:
            target = logits.argmax(1)
        if area is not None or self.sized:
            check_area(area, sized=self.sized, examples=len(logits))
            fraction = torch.as_tensor(0.5 if area is None else area, device=logits.device)
            area = fraction.expand(logits.shape[0])
        return Question(target, area=area)

    def decode(self, features: Features, question: Question) -> tuple[Tensor, ...]:
        """Return the mask of each input, ``(B, 1, *spatial)``; gradients stop at the features."""
        if self.reads_evidence:
            target = question.target if self.target_aware else None
            question = replace(question, evidence=evidence(features, target))
        grids = tuple(self._grid(features.maps, size) for size in features.sizes)
        maps = self.for_masker(features.maps)
        mask_logits = as_tuple(self.masker(maps, unpacked(grids), question))
        pairs = zip(mask_logits, features.sizes, strict=True)
        return tuple(self._mask(logits, size) for logits, size in pairs)

    def for_masker(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Detach maps, and cast them to the masker's dtype."""
        weights = next(self.masker.parameters(), maps[0])
        autocast = torch.is_autocast_enabled(maps[0].device.type)
        return [each.detach().to(each.dtype if autocast else weights.dtype) for each in maps]

    def _grid(self, maps: Sequence[Tensor], size: torch.Size) -> tuple[int, ...]:
        stride = self.stride or getattr(self.masker, "stride", None)
        grids = [tuple(each.shape[2:]) for each in maps if each.dim() - 2 == len(size)]
        if stride is None and self.layers and grids:
            return max(grids, key=lambda grid: torch.Size(grid).numel())
        return tuple(-(-side // (stride or 8)) for side in size)

    def _mask(self, mask_logits: Tensor, size: Sequence[int]) -> Tensor:
        if torch.is_autocast_enabled(mask_logits.device.type):
            mask_logits = mask_logits.float()  # half precision has too few steps near 0 and 1
        if not size:  # vectors: one logit for each element already
            return self.sampler(mask_logits)
        if self.upsample_first:
            return self.sampler(self.upsample(mask_logits, size))
        return self.upsample(self.sampler(mask_logits), size)

    def dry_run(self, example: tuple[Tensor, ...], extra: tuple[Any, ...]) -> list[Tensor]:
        """Set the layouts of the layers, and return their maps."""
        self.takes_vectors = len(example) == 1 and example[0].dim() == 2
        with evaluated(self) as model, torch.no_grad():
            if self.layers and self.layouts is None:
                taps = Taps(model.classifier, self.layers)
                model.layouts = layouts_of(taps, taps(*example, *extra)[1], example, *extra)
                self.layouts = model.layouts
            return list(model.read(example, *extra)[1].maps)

    # ---- Properties of the masker.

    @property
    def target_aware(self) -> bool:
        """Whether the mask depends on the target."""
        return getattr(self.masker, "target_aware", False)

    @property
    def sized(self) -> bool:
        """Whether the mask depends on the area asked for."""
        return getattr(self.masker, "sized", False)

    @property
    def reads_evidence(self) -> bool:
        """Whether the masker reads the classifier's evidence for the target."""
        return getattr(getattr(self, "masker", None), "reads_evidence", False)

    @property
    def inputs_taken(self) -> int:
        """The number of inputs that are explained together."""
        return getattr(self.masker, "inputs_taken", 1)

    # ---- Files and printing.

    def save(self, folder: str | Path, *, notes: Mapping[str, Any] | None = None) -> None:
        """Write the masker and, if it was trained jointly, the classifier to a folder.

        Other files in the folder stay. :meth:`load` needs your own masker or sampler again.
        ``notes`` are JSON values to keep in the file, such as the class names.
        """
        kept = ("masker.", "sampler.", *(("classifier.",) if self.classifier_trained else ()))
        config = {
            "layers": list(self.layers),
            "layouts": [describe(layout) for layout in self.layouts or ()],
            "stride": self.stride,
            "upsample": _name_of(self.upsample),
            "upsample_first": self.upsample_first,
            "to_logits": None if self.to_logits is None else _name_of(self.to_logits),
            "masker": describe(self.masker),
            "sampler": describe(self.sampler),
            "classifier": {
                "class": type(self.classifier).__name__,
                "saved": self.classifier_trained,
                "fingerprint": fingerprint(self.classifier),
            },
            "target_aware": self.target_aware,
            "notes": notes or {},
        }
        weights = {n: tensor for n, tensor in self.state_dict().items() if n.startswith(kept)}
        write_model(folder, plain(config), weights)  # so that no setting can fail to be written

    @classmethod
    def load(
        cls,
        folder: str | Path,
        classifier: nn.Module,
        *,
        masker: nn.Module | None = None,
        sampler: nn.Module | None = None,
        to_logits: ToLogits | None = None,
    ) -> MaskingModel:
        """Load a saved model with its classifier, in eval mode.

        Args:
            classifier: The architecture that the model was trained with. If it was trained jointly,
                its weights are loaded; if not, it must be the same classifier, and other weights
                trigger a warning.
            masker, sampler, to_logits: Needed if the saved one is not part of this package.

        Raises:
            CheckpointError: If the folder is not a saved model, was altered, or does not fit.
        """
        config, weights = read_model(folder)
        masker = rebuild("masker", config["masker"], folder) if masker is None else masker
        sampler = rebuild("sampler", config["sampler"], folder) if sampler is None else sampler
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
                to_logits=to_logits or _to_logits(config, folder),
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
        """Describe the model in one line."""
        parts = {
            "layers": self.layers,
            "masker": _name_of(self.masker),
            "sampler": _name_of(self.sampler),
            "stride": self.stride,
            "upsample": _name_of(self.upsample),
            "upsample_first": self.upsample_first,
        }
        listed = ", ".join(f"{name}={value}" for name, value in parts.items())
        return f"MaskingModel({type(self.classifier).__name__}, {listed})"

    def _repr_html_(self) -> str:
        """Say in a notebook what the model is made of, and which class its map is for."""
        rows = {
            "classifier": _in_words(self.classifier),
            "layers read": ", ".join(self.layers) or "none: the masker reads the input",
            "masker": _in_words(self.masker),
            "sampler": repr(self.sampler),
            "map for": "the target" if self.target_aware else "one map for all classes",
        }
        cells = (f"<tr><th>{name}</th><td>{escape(text)}</td></tr>" for name, text in rows.items())
        return f"<b>MaskingModel</b><table>{''.join(cells)}</table>"

    def extra_repr(self) -> str:
        """List the layers that are read."""
        return f"layers={self.layers}, stride={self.stride}"


def _in_words(module: nn.Module) -> str:
    count = sum(each.numel() for each in module.parameters())
    return f"{type(module).__name__}, {count:,} parameters"


def _to_logits(config: Mapping[str, Any], folder: str | Path) -> ToLogits | None:
    name = config.get("to_logits")  # older models do not say: found out at the first call
    if name is None:
        return None
    if name not in TO_LOGITS:
        raise CheckpointError(folder, f"its to_logits is {name}; pass it as to_logits=...")
    return TO_LOGITS[name]


# ---- Models inside wrappers

_WATCHED: dict[int, list[tuple[tuple[Any, ...], Tensor]]] = {}  # calls, by thread


def eager(function: Any) -> Any:
    """Unwrap a module from data parallelism or compilation."""
    inside = getattr(unwrapped(function), "_orig_mod", None)
    return unwrapped(function) if inside is None else eager(inside)


def plain_model(model: Any) -> MaskingModel:
    """Return a masking model, also from inside a wrapper."""
    inside = eager(model)
    if isinstance(inside, MaskingModel):
        return inside
    cure = "make one, MaskingModel(classifier)"
    if isinstance(inside, nn.Module) and (held := models_in(inside)):
        names = [name for name, part in inside.named_modules() if id(part) in held]
        cure = f"pass its .{names[0]}"
    raise TypeError(f"model must be a MaskingModel, but got {type(inside).__name__}; {cure}.")


def models_in(function: Any, depth: int = 3) -> dict[int, MaskingModel]:
    """Find the models that a wrapper, method, partial or function may call, by ``id``."""
    if isinstance(function, nn.Module):
        return {id(part): part for part in function.modules() if isinstance(part, MaskingModel)}
    if not depth or isinstance(function, (type, ModuleType)):
        return {}
    if isinstance(function, FunctionType):
        names = inspect.getclosurevars(function)
        held = [*names.nonlocals.values(), *names.globals.values()]
    else:
        held = [getattr(function, name, None) for name in ("__self__", "func")]
        held += getattr(function, "__dict__", {}).values()
    return {key: model for each in held for key, model in models_in(each, depth - 1).items()}


def forwards_to(
    function: Callable[..., Any], model: MaskingModel, arguments: Sequence[Any]
) -> bool:
    """Whether a function only calls a model with its arguments and returns the output."""
    calls: list[tuple[tuple[Any, ...], Tensor]] = []
    _WATCHED[get_ident()] = calls
    try:
        in_words = channels_in_words(model, arguments[0])
        with eval_mode(function), eval_mode(model), torch.no_grad(), in_words:
            answer = logits_of(function(*arguments))
    except NotImplementedError as error:
        name = type(function).__name__
        raise TypeError(f"{name} has no forward; pass the MaskingModel inside it.") from error
    finally:
        del _WATCHED[get_ident()]
    if len(calls) != 1 or len(calls[0][0]) != len(arguments):
        return False
    pairs = zip((*arguments, answer), (*calls[0][0], calls[0][1]), strict=True)
    tensors = [(a, b) for a, b in pairs if a is not b]
    return all(a.shape == b.shape and torch.equal(a, b) for a, b in tensors)


def _layers_for(
    classifier: nn.Module, example: tuple[Tensor, ...], extra: tuple[Any, ...], *, guessed: bool
) -> tuple[str, ...]:
    """Find layers to read; without any, the masker reads the example inputs."""
    try:
        if len(example) > 1:
            return tuple(find_joint_layers(classifier, example, extra=extra))
        return tuple(find_layers(classifier, example[0], extra=extra))
    except NoMapsError as error:
        if guessed:
            raise
        if error.repeated:
            warnings.warn(f"{error} The masker now gets its own encoder.", stacklevel=4)
        return ()


#: Maskers that read the evidence for a class besides features.
_OF_TARGET = partial(GatedMasker, evidence=True)
_OF_PREDICTION = partial(Masker, evidence=True, target_aware=False)


def _with_evidence(
    classifier: nn.Module, layers: tuple[str, ...], example: tuple[Tensor, ...], extra: Any
) -> tuple[str, ...]:
    """Return the layers with the pooled map, if evidence is a product there."""
    if len(example) > 1 or example[0].dim() == 2 or not layers:
        return ()
    layers = (*layers[:-1], pooled_map(classifier, example[0], *extra) or layers[-1])
    probe = varied(example[0])
    with evaluated(classifier) as network, suppress(Exception), torch.no_grad():
        answer, tapped = (taps := Taps(network, layers))(probe, *extra)
        deepest, size = first_tensor(tapped[-1]), probe.shape[2:]
        layout = layouts_of(taps, tapped, (probe,), *extra)[-1]
        head = head_of(network, layout(deepest, size))
        logits = two_classes(logits_of(answer))
        trace = Trace(logits, deepest, lambda maps: layout(maps, size), head)
        return layers if is_product(trace) and trace.logits.any() else ()  # a new head may be 0
    return ()


def _make_masker(
    make: Callable[..., nn.Module], maps: list[Tensor], example: tuple[Tensor, ...], *, own: bool
) -> nn.Module:
    """Build a masker for the maps of a dry run; the default ``Masker`` adapts."""
    channels, default = [each.shape[1] for each in maps], make is Masker
    dims = example[0].dim() - 2
    if len(example) > 1:
        inputs = [(tensor.dim() - 2, tensor.shape[1]) for tensor in example]
        masker = (MultiInputMasker if default else make)(channels, inputs=inputs, own=own)
    elif default and own:
        masker = StandaloneMasker(channels, dims=dims)
    elif default and not dims:
        masker = VectorMasker(channels, elements=example[0].shape[1])
    else:
        masker = make(channels, dims=dims)
    half = maps[0].element_size() < 4  # too few steps to learn in
    return masker.to(maps[0].device, torch.float32 if half else maps[0].dtype)


def _check_takes_target(masker: nn.Module) -> None:
    if not getattr(masker, "target_aware", False):
        raise ValueError(
            f"target_aware=True needs a masker that takes the class, but {_name_of(masker)} "
            "does not; omit masker=..., or pass Masker(..., evidence=True)."
        )


def _check_target_aware(example: tuple[Tensor, ...], *, has_maps: bool) -> None:
    """Refuse classifiers without maps, or with several inputs."""
    if len(example) > 1 or not has_maps or example[0].dim() == 2:
        what = "several inputs" if len(example) > 1 else "no feature maps to read"
        raise ValueError(
            f"target_aware=True needs one input and a layer with feature maps of it, but this "
            f"classifier has {what}; use MaskingSaliency(classifier), which optimizes a mask for "
            "each input."
        )


def _reads_inputs(masker: object) -> bool:
    return bool(getattr(getattr(masker, "func", masker), "reads_inputs", False))


def _takes_vectors(masker: object) -> bool:
    return isinstance(masker, VectorMasker) or getattr(masker, "settings", {}).get("dims") == 0


def _name_of(part: object) -> str:
    """Return the name and the settings of a part."""
    settings = getattr(part, "settings", None)
    name = getattr(part, "__name__", type(part).__name__)
    if settings is None:
        return name
    return f"{name}({', '.join(f'{key}={value}' for key, value in settings.items())})"
