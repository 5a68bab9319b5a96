"""Rows for the methods of Captum, pytorch-grad-cam and this package."""

from __future__ import annotations

import copy
import math
import sys
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from io import StringIO
from typing import Any

import torch
from captum import attr
from captum.attr import Attribution
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from captum_masking import methods as relatives
from captum_masking.benchmark.methods import (
    Explain,
    Method,
    Reduce,
    as_method,
    mean_of_channels,
    of_layer,
    of_pixels,
    one_by_one,
)
from captum_masking.benchmark.result import digest
from captum_masking.model.layers import find_layers, pooled_map
from captum_masking.model.model import MaskingModel
from captum_masking.model.taps import Taps, tap_of
from captum_masking.saliency.saliency import MaskingSaliency

#: Rows by name, and the reasons why others do not apply.
Rows = tuple[dict[str, Method], dict[str, str]]

# ---- Copies of the classifier, on which methods work.


def twin(classifier: nn.Module) -> nn.Module:
    """Copy a classifier in eval mode without in-place parts; share and freeze its parameters."""
    shared: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach(), requires_grad=False)
        for parameter in classifier.parameters()
    }
    network = copy.deepcopy(classifier, shared).eval()
    for part in network.modules():
        if getattr(part, "inplace", False):
            part.inplace = False  # type: ignore[assignment]
    return network


def module_at(network: nn.Module, layer: str) -> nn.Module:
    """Return the module of a twin whose output is read; a module's input gets one, ``.input``."""
    module, before = tap_of(network, layer)
    if not before:
        return module
    path, _, name = layer.removesuffix(".input").rpartition(".")
    given = nn.Sequential(OrderedDict(input=nn.Identity(), module=module))
    setattr(network.get_submodule(path), name, given)
    return given[0]


# ---- Obstacles: each returns why a method does not apply to a classifier, or "".

Obstacle = Callable[[nn.Module, str, Tensor], str]

# Share of the change in the logit. With a rule for every part, only rounding is missing.
_MOST_UNEXPLAINED = 0.05


def no_map(classifier: nn.Module, layer: str, example: Tensor) -> str:
    with torch.no_grad():
        _, (maps,) = Taps(twin(classifier), [layer])(example[:1])
    if isinstance(maps, Tensor) and maps.dim() == 4:
        return ""
    given = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
    return f"layer {layer!r} gives {given}, but maps (B, channels, H, W) are needed"


def no_relu(classifier: nn.Module, layer: str, example: Tensor) -> str:
    calls, functions = _rectifiers(twin(classifier), example)
    if calls[nn.ReLU6]:
        return f"{calls[nn.ReLU6]} activations are nn.ReLU6, whose gradient it does not change"
    if functions:
        return (
            f"{functions} of {calls[nn.ReLU] + functions} ReLUs are calls of a function, whose "
            "gradient it cannot change; make them modules, nn.ReLU()"
        )
    return "" if calls[nn.ReLU] else "the classifier has no ReLU, whose gradient it would change"


def no_sum(classifier: nn.Module, layer: str, example: Tensor) -> str:
    try:
        share = _unexplained(twin(classifier), example.detach().clone())
    except Exception as error:  # whatever a foreign library raises
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    if share <= _MOST_UNEXPLAINED:
        return ""
    return (
        f"its values miss {share:.0%} of the change in the logit that they should sum to: it has "
        "no rule for some part of the classifier, such as an activation other than ReLU"
    )


class _Rectified(TorchFunctionMode):
    """Counts calls of ReLU functions, also those by ``nn.ReLU``."""

    calls = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.calls += getattr(func, "__name__", "") in ("relu", "relu_", "relu6")
        return func(*args, **(kwargs or {}))


def _rectifiers(network: nn.Module, example: Tensor) -> tuple[Counter[type], int]:
    """Count the ReLUs of a pass: modules by class, and plain functions."""
    calls: Counter[type] = Counter()
    for part in network.modules():
        kind = next((kind for kind in (nn.ReLU, nn.ReLU6) if isinstance(part, kind)), None)
        if kind is not None:
            part.register_forward_hook(lambda *_, kind=kind: calls.update([kind]))
    with torch.no_grad(), _Rectified() as seen:
        network(example)
    return calls, seen.calls - calls[nn.ReLU]


def _unexplained(network: nn.Module, inputs: Tensor) -> float:
    """Return the share of the change in the predicted classes' logits that DeepLift misses."""
    with torch.no_grad():
        logits, of_zeros = network(inputs), network(torch.zeros_like(inputs))
    target = logits.argmax(1)
    with warnings.catch_warnings(action="ignore"):
        values = attr.DeepLift(network).attribute(inputs.requires_grad_(), 0, target)
    change = (logits - of_zeros).gather(1, target[:, None])[:, 0]
    missing = change - values.detach().flatten(1).sum(1)
    return float(missing.abs().sum() / change.abs().sum().clamp(min=1e-12))


# ---- Options of Captum's methods that depend on the image.


@dataclass(frozen=True)
class Sevenths:
    """A window over all channels with sides in sevenths of the frame, rounded up."""

    count: int

    def __call__(self, inputs: Tensor) -> tuple[int, int, int]:
        height, width = (min(side, self.count * math.ceil(side / 7)) for side in inputs.shape[2:])
        return inputs.shape[1], height, width


@dataclass(frozen=True)
class Patches:
    """A grid of patches, numbered in reading order."""

    across: int

    def __call__(self, inputs: Tensor) -> Tensor:
        rows, columns = (
            torch.arange(side, device=inputs.device) * min(self.across, side) // side
            for side in inputs.shape[2:]
        )
        return (rows[:, None] * (columns[-1] + 1) + columns)[None, None]


@dataclass(frozen=True)
class OfRange:
    """A share of the image's range of values, as Smilkov et al. 2017 measure noise."""

    share: float

    def __call__(self, inputs: Tensor) -> float:
        return self.share * float(inputs.detach().max() - inputs.detach().min())


@dataclass(frozen=True)
class ZeroAndNoise:
    """Two baselines: the mean color, zero, and noise with the image's mean and spread."""

    def __call__(self, inputs: Tensor) -> Tensor:
        spread, mean = torch.std_mean(inputs.detach())
        return torch.cat([torch.zeros_like(inputs), torch.randn_like(inputs) * spread + mean])


# ---- Methods of other libraries: one row each, on twins of the classifier.


@dataclass(frozen=True)
class Recipe:
    """A recipe of a row; ``run(network, layer, images, target)`` returns ``(B, 1, H, W)``."""

    run: Callable[[nn.Module, nn.Module, Tensor, Tensor], Tensor]
    settings: str = ""
    obstacles: Sequence[Obstacle] = ()
    alone: bool = False  # one image at a time, since the batch would change its map
    slow: bool = False  # a hundred or more forward passes per image
    is_mask: bool = False
    reads: bool = False  # whether it reads a layer's feature map

    def explain(self, classifier: nn.Module, layer: str) -> Explain:
        kept: list[nn.Module] = []  # never a twin with the hooks of a failed call

        def explain(inputs: Tensor, target: Tensor) -> Tensor:
            images = inputs.detach().clone().requires_grad_()
            network = kept.pop() if kept else twin(classifier)
            read = module_at(network, layer) if layer else network
            with warnings.catch_warnings(action="ignore"), torch.enable_grad():
                maps = self.run(network, read, images, target)
            kept.append(network)
            return maps

        return one_by_one(explain) if self.alone else explain


def _captum(
    build: Callable[[nn.Module, nn.Module], Attribution],
    reduce: Reduce = of_pixels,
    obstacles: Sequence[Obstacle] = (),
    alone: bool = False,
    **options: Any,
) -> Recipe:
    """Make a row of ``build(network, layer).attribute(**options)``; callables get the images."""

    def run(network: nn.Module, layer: nn.Module, images: Tensor, target: Tensor) -> Tensor:
        given = {name: v(images) if callable(v) else v for name, v in options.items()}
        values = build(network, layer).attribute(images, target=target, **given)
        return reduce(values.detach(), images.shape[2:])

    settings = ", ".join(f"{option}={value!r}" for option, value in options.items())
    return Recipe(run, settings, obstacles, alone, reads=no_map in obstacles)


def _of(kind: Callable[[nn.Module], Attribution]) -> Callable[[nn.Module, nn.Module], Attribution]:
    return lambda network, layer: kind(network)


#: By the names of Captum's classes. Baseline 0 is the mean color of normalized images.
RECIPES = {
    "Saliency": _captum(_of(attr.Saliency)),
    "InputXGradient": _captum(_of(attr.InputXGradient)),
    "GuidedBackprop": _captum(_of(attr.GuidedBackprop), obstacles=[no_relu]),
    "Deconvolution": _captum(_of(attr.Deconvolution), obstacles=[no_relu]),
    "IntegratedGradients": _captum(  # batches within bound the memory
        _of(attr.IntegratedGradients), baselines=0, n_steps=50, internal_batch_size=16
    ),
    "GradientShap": _captum(  # 0.02 of the range is the 0.09 of Captum's examples on ImageNet
        _of(attr.GradientShap),
        baselines=ZeroAndNoise(),
        n_samples=5,
        stdevs=OfRange(0.02),
        alone=True,
    ),
    "DeepLift": _captum(_of(attr.DeepLift), obstacles=[no_sum], baselines=0),
    "LayerGradCam": _captum(attr.LayerGradCam, of_layer, [no_map], relu_attributions=True),
    "GuidedGradCam": _captum(
        attr.GuidedGradCam, obstacles=[no_relu, no_map], interpolate_mode="bilinear"
    ),
    "Occlusion": _captum(  # 36 windows of 64 pixels on 224
        _of(attr.Occlusion),
        baselines=0,
        sliding_window_shapes=Sevenths(2),
        strides=Sevenths(1),
        perturbations_per_eval=8,
    ),
    "FeatureAblation": _captum(
        _of(attr.FeatureAblation), baselines=0, feature_mask=Patches(7), perturbations_per_eval=8
    ),
    "NoiseTunnel": _captum(  # Smilkov et al. 2017: noise of 10 to 20 % of the range
        lambda network, layer: attr.NoiseTunnel(attr.Saliency(network)),
        nt_type="smoothgrad",
        nt_samples=10,
        stdevs=OfRange(0.15),
        alone=True,
    ),
}


def captum_methods(
    classifier: nn.Module, layer: str, example: Tensor, names: Collection[str] | None = None
) -> Rows:
    """Make a row of each method of Captum that applies; the first two examples are tried."""
    return _rows(RECIPES, "captum", classifier, layer, example, names)


def _rows(
    table: Mapping[str, Recipe],
    family: str,
    classifier: nn.Module,
    layer: str,
    example: Tensor,
    names: Collection[str] | None,
) -> Rows:
    methods, left_out = {}, {}
    for name, recipe in table.items():
        if names is not None and name not in names:
            continue
        reasons = (no(classifier, layer, example[:2]) for no in recipe.obstacles)
        if reason := next(filter(None, reasons), ""):
            left_out[name] = reason
        else:
            read = layer if recipe.reads else ""
            settings = ", ".join(filter(None, [recipe.settings, f"layer={layer!r}" * bool(read)]))
            explain = recipe.explain(classifier, read)
            methods[name] = Method(explain, family, settings, recipe.is_mask)
    return methods, left_out


# ---- Methods of this package that need no training.


def _relative(
    build: Callable[..., Attribution],
    quick: Callable[..., Attribution] | None = None,
    reads: bool = False,
    slow: bool = True,
    is_mask: bool = False,
) -> Recipe:
    """Make a row of ``build(network)`` or ``build(network, layer)``, with its defaults.

    Slow ones show a progress bar. ``quick`` is tried first, to see whether the method applies.
    """

    def run(network: nn.Module, layer: nn.Module, images: Tensor, target: Tensor) -> Tensor:
        bar = {"show_progress": sys.stderr.isatty()} if slow else {}
        method = build(network, layer) if reads else build(network)
        return mean_of_channels(method.attribute(images, target=target, **bar), images.shape[2:])

    def refuses(classifier: nn.Module, layer: str, example: Tensor) -> str:
        network = twin(classifier)
        read = [module_at(network, layer)] if reads else []
        try:
            quick(network, *read).attribute(example[:1], target=0)  # type: ignore[misc]
        except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            return " ".join(str(error).split()).rstrip(".")
        return ""

    obstacles = [refuses] * (quick is not None)
    return Recipe(run, obstacles=obstacles, slow=slow, is_mask=is_mask, reads=reads)


_one_step = partial(relatives.OptiCAM, steps=1)  # refuses the same classifiers


def untrained(classifier: nn.Module, layer: str, example: Tensor) -> str:
    return (
        "it needs training: method = CAStream(classifier); method.trainer().fit(loader); then "
        "add as_method(method)"
    )


def one_masker(classifier: nn.Module, layer: str, example: Tensor) -> str:
    return "it needs several trained maskers: add as_method(Ensemble(models))"


#: Masks optimized for each input, and the classes of :mod:`captum_masking.methods` by their names.
RELATIVES = {
    "PerInput": _relative(MaskingSaliency, is_mask=True),
    "CAStream": replace(_relative(relatives.CAStream, slow=False), obstacles=[untrained]),
    "Ensemble": replace(_relative(relatives.Ensemble, slow=False), obstacles=[one_masker]),
    "OptiCAM": _relative(relatives.OptiCAM, _one_step, reads=True),
    "ScoreCAM": _relative(relatives.ScoreCAM, _one_step, reads=True),
    "ExtremalPerturbation": _relative(relatives.ExtremalPerturbation, is_mask=True),
    "Rise": _relative(relatives.Rise),
    "AttentionRollout": _relative(
        relatives.AttentionRollout, quick=relatives.AttentionRollout, slow=False
    ),
    "TransformerRelevance": _relative(
        relatives.TransformerRelevance, quick=relatives.TransformerRelevance, slow=False
    ),
}
# The others need only a classifier, and find the layer that they read.
RELATIVES |= {
    name: _relative(getattr(relatives, name)) for name in relatives.__all__ if name not in RELATIVES
}


def relative_methods(
    classifier: nn.Module, layer: str, example: Tensor, names: Collection[str] | None = None
) -> Rows:
    """Make a row of each method of this package that applies to a classifier as it is."""
    return _rows(RELATIVES, "captum_masking", classifier, layer, example, names)


_CAM = "pytorch-grad-cam"


def _cam(
    name: str, make: Callable[..., Any] | None = None, alone: bool = False, slow: bool = False
) -> Recipe:
    """Make a row of a class of pytorch-grad-cam, with its defaults: no smoothing."""

    def run(network: nn.Module, layer: nn.Module, images: Tensor, target: Tensor) -> Tensor:
        output = import_module("pytorch_grad_cam.utils.model_targets").ClassifierOutputTarget
        kind = make or getattr(import_module("pytorch_grad_cam"), name)
        # The slow ones draw a progress bar per image. The twin's parameters need no gradients, so
        # the images must.
        with redirect_stderr(StringIO()), torch.enable_grad():
            cam = kind(model=network, target_layers=[layer])
            try:  # not as a context manager: that swallows an IndexError
                maps = cam(input_tensor=images, targets=[output(i) for i in target.tolist()])
            finally:
                cam.activations_and_grads.release()
        return torch.from_numpy(maps)[:, None].to(images.device)

    return Recipe(run, alone=alone, slow=slow)


def _ablation_cam(model: nn.Module, target_layers: list[nn.Module]) -> Any:
    """Make an AblationCAM that works on layers with several inputs."""
    package = import_module("pytorch_grad_cam")

    class StandIn(package.AblationLayer):  # type: ignore[name-defined]
        def __call__(self, inputs: Tensor, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(inputs)

    return package.AblationCAM(model, target_layers, ablation_layer=StandIn())


#: By the names of the package's classes.
CAMS = {
    "GradCAM": _cam("GradCAM"),
    "HiResCAM": _cam("HiResCAM"),
    "GradCAMPlusPlus": _cam("GradCAMPlusPlus"),
    "XGradCAM": _cam("XGradCAM"),
    "LayerCAM": _cam("LayerCAM"),
    # The sign of a first component depends on rounding, and so on the batch.
    "EigenCAM": _cam("EigenCAM", alone=True),
    "EigenGradCAM": _cam("EigenGradCAM", alone=True),
    "ScoreCAM": _cam("ScoreCAM", slow=True),
    "AblationCAM": _cam("AblationCAM", _ablation_cam, slow=True),
}

#: Names of rows with a hundred or more forward passes per image.
SLOW = frozenset(
    name
    for table, prefix in ((CAMS, f"{_CAM} "), (RELATIVES, ""))
    for name in (prefix + name for name, recipe in table.items() if recipe.slow)
)


def cam_methods(
    classifier: nn.Module, layer: str, example: Tensor, names: Collection[str] | None = None
) -> Rows:
    """Make a row of each method of pytorch-grad-cam that applies, those in `SLOW` last."""
    chosen = {n: r for n, r in CAMS.items() if names is None or f"{_CAM} {n}" in names}
    if not chosen:
        return {}, {}
    if reason := no_map(classifier, layer, example):
        return {}, {_CAM: reason}
    try:
        import_module("pytorch_grad_cam")
    except ImportError as error:
        return {}, {_CAM: f"it cannot be imported ({error}); pip install grad-cam"}
    settings = f"layer={layer!r}"
    rows = {n: Method(r.explain(classifier, layer), _CAM, settings) for n, r in chosen.items()}
    return {f"{_CAM} {name}": row for name, row in rows.items()}, {}


# ---- The default rows: ours, Captum's that apply, and CAMs.

#: Every possible row.
NAMES = ("MaskingSaliency", *RELATIVES, *RECIPES, *(f"{_CAM} {name}" for name in CAMS))


def default_methods(
    model: nn.Module,
    example: Tensor,
    *,
    slow: bool = False,
    names: Collection[str] | None = None,
) -> Rows:
    """Return the methods that apply to a classifier, and why others do not, by name.

    Layer methods read the map that the classifier pools. If a masker's deepest map is another one,
    that is a variant (``Method.variants``).

    Args:
        model: A ``MaskingModel``, whose own masks are the first row; or a classifier.
        example: Images ``(B, C, H, W)`` to try methods on.
        slow: Whether to include methods with hundreds of forward passes per image.
        names: Only these methods, slow or not; None takes all.

    Example:
        >>> head = nn.Sequential(nn.Flatten(), nn.LazyLinear(9))
        >>> classifier = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), head)
        >>> default_methods(classifier, torch.rand(1, 3, 32, 32))[0]["LayerGradCam"].family
        'captum'
    """
    found: dict[str, Method] = {}
    classifier, read = model, tuple[str, ...]()
    if isinstance(model, MaskingModel):
        classifier, read = model.classifier, model.layers
        found = {"MaskingSaliency": ours_of(model)}
    deepest = (read or find_layers(classifier, example[:1]))[-1]
    layers = list(dict.fromkeys([pooled_map(classifier, example[:1]) or deepest, deepest]))
    makers = (relative_methods, captum_methods, cam_methods)
    tried = [make(classifier, n, example, names) for make in makers for n in layers]
    for name, row in ((name, row) for rows, _ in tried for name, row in rows.items()):
        first = found.setdefault(name, row)
        if row.settings != first.settings:  # it reads another layer
            found[name] = replace(first, variants=(*first.variants, row))
    if names is None and not slow:
        names = found.keys() - SLOW
    chosen = {name: row for name, row in found.items() if names is None or name in names}
    return chosen, {n: why for _, no in tried[::-1] for n, why in no.items() if n not in found}


def in_words(left_out: Mapping[str, str]) -> list[str]:
    return [f"{name} does not apply: {reason}" for name, reason in left_out.items()]


def ours_of(model: MaskingModel, settings: str = "") -> Method:
    if not settings:
        read = ", ".join(model.layers)
        settings = f"masker on {read}, {model.sampler}, weights {digest(model)}"
    return replace(as_method(MaskingSaliency(model)), family="ours", settings=settings)
