"""The rows of a benchmark: anything that maps images and classes to maps."""

from __future__ import annotations

import copy
import math
import random
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass, field, replace
from importlib import import_module
from io import StringIO
from typing import Any

import numpy as np
import torch
from captum import attr
from captum.attr import Attribution, LayerAttribution
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from captum_masking._base.borrow import module_of
from captum_masking.benchmark.result import TRIVIAL, digest
from captum_masking.metrics.boxes import centered_square
from captum_masking.metrics.maps import min_max
from captum_masking.model.layers import find_layers
from captum_masking.model.model import MaskingModel
from captum_masking.model.taps import Taps
from captum_masking.saliency.saliency import MaskingSaliency

#: Maps images ``(B, C, H, W)`` and classes ``(B,)`` to maps ``(B, 1, H, W)``, ``(B, H, W)``, or
#: attributions shaped as the images.
Explain = Callable[[Tensor, Tensor], Tensor]

#: Maps attributions and the size of the images to maps ``(B, 1, H, W)``.
Reduce = Callable[[Tensor, torch.Size], Tensor]

#: Rows by name, and by name why others do not apply.
Rows = tuple[dict[str, "Method"], dict[str, str]]


@dataclass(frozen=True)
class Method:
    """How a row makes its maps.

    Args:
        explain: Called as ``explain(inputs, target)``; may take gradients, and leave them.
        family: Of which library or kind it is; rows are sorted and colored by it.
        settings: Its options as text, for the report.
        is_mask: Whether values are shares in [0, 1] that are used as they are; any other map is
            scaled so that its least value becomes 0 and its greatest 1.
        module: What it runs, to be held in eval mode and given back as it was; None if that is
            the benchmark's own copy.

    Example:
        >>> import torch
        >>> method = Method(lambda inputs, target: inputs[:, :1], settings="the red channel")
        >>> method.maps(torch.tensor([[[[2.0, 4.0]]]]), torch.tensor([0]))
        tensor([[[[0., 1.]]]])
    """

    explain: Explain
    family: str = "yours"
    settings: str = ""
    is_mask: bool = False
    module: nn.Module | None = None

    def maps(self, inputs: Tensor, target: Tensor) -> Tensor:
        """Return maps ``(B, 1, H, W)`` in [0, 1], detached; NaN all over where a value is NaN.

        Raises:
            TypeError: If the method does not return a tensor.
            ValueError: If its maps do not fit the images, or a mask leaves [0, 1].
        """
        maps = self.explain(inputs, target)
        _check_shape(maps, inputs)
        plane = _one_channel(maps.detach())
        scaled = plane.float() if self.is_mask else min_max(plane)
        _check_range(scaled)
        return scaled.to(inputs.device)


def as_method(given: Attribution | Explain | Method) -> Method:
    """Make a row of a Captum ``Attribution``, a callable or a :class:`Method`.

    Attributions shaped as the images become one channel by the sum of absolute values; those of a
    layer by the positive part of their sum, enlarged to the images. A :class:`MaskingSaliency` is
    a mask, used as it is, and what a callable returns in one channel likewise.

    Raises:
        TypeError: If it cannot be called.

    Example:
        >>> from captum.attr import Saliency
        >>> as_method(Saliency(lambda inputs: inputs.flatten(1))).settings
        'Saliency'
    """
    if isinstance(given, Method):
        return given
    name = type(given).__name__
    if isinstance(given, Attribution):
        reduce, is_mask = of_layer if isinstance(given, LayerAttribution) else of_pixels, False
        if isinstance(given, MaskingSaliency):
            reduce, is_mask = _first_channel, True
        explain = _attributed(given, reduce, warn=is_mask)
        return Method(explain, settings=name, is_mask=is_mask, module=module_of(given.forward_func))
    if not callable(given):
        raise TypeError(
            f"a method must be a Captum Attribution or a callable as method(inputs, target), but "
            f"got {name}; wrap it in a lambda."
        )
    return Method(given, settings=getattr(given, "__name__", name), module=module_of(given))


def _attributed(attribution: Attribution, reduce: Reduce, *, warn: bool) -> Explain:
    def explain(inputs: Tensor, target: Tensor) -> Tensor:
        with nullcontext() if warn else _quiet():
            return reduce(attribution.attribute(inputs, target=target), inputs.shape[2:])

    return explain


def of_pixels(attributions: Tensor, size: torch.Size) -> Tensor:
    """Return the sum over channels of absolute values, ``(B, 1, H, W)``."""
    return attributions.abs().sum(1, keepdim=True)


def of_layer(attributions: Tensor, size: torch.Size) -> Tensor:
    """Return the positive part of a layer's sum over channels, enlarged, as in Grad-CAM."""
    coarse = attributions.sum(1, keepdim=True).clamp(min=0)
    return LayerAttribution.interpolate(coarse, tuple(size), "bilinear")


def _first_channel(attributions: Tensor, size: torch.Size) -> Tensor:
    return attributions[:, :1]


def _one_channel(maps: Tensor) -> Tensor:
    if maps.dim() == 3:
        return maps[:, None]
    return maps if maps.shape[1] == 1 else maps.abs().sum(1, keepdim=True)


def _check_shape(maps: Tensor, inputs: Tensor) -> None:
    if not isinstance(maps, Tensor):
        raise TypeError(f"expected the method to return a tensor, but got {type(maps).__name__}.")
    count, channels, height, width = inputs.shape
    fitting = [(count, c, height, width) for c in (1, channels)] + [(count, height, width)]
    if tuple(maps.shape) not in fitting:
        raise ValueError(
            f"expected maps of shape {fitting[0]} for images of shape {tuple(inputs.shape)}, but "
            f"got {tuple(maps.shape)}; enlarge them, for example by "
            "LayerAttribution.interpolate(maps, inputs.shape[2:], 'bilinear')."
        )


def _check_range(masks: Tensor) -> None:
    if bool(((masks < 0) | (masks > 1)).any()):
        raise ValueError(
            f"expected masks in [0, 1], but got values from {masks.min():.3g} to "
            f"{masks.max():.3g}; leave is_mask False to have each map scaled."
        )


# ---- What a method runs with: its own copy of the classifier, silence, and random numbers.


@contextmanager
def random_states(device: torch.device, seed: int | None = None) -> Iterator[None]:
    """Give back the random states of torch, NumPy and Python; with a seed, start from it."""
    python, numpy = random.getstate(), np.random.get_state()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        if device.type != "cpu":
            count = getattr(torch, device.type).device_count()
            stack.enter_context(torch.random.fork_rng(range(count), device_type=device.type))
        stack.callback(random.setstate, python)
        stack.callback(np.random.set_state, numpy)
        if seed is not None:
            torch.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
        yield


def one_by_one(explain: Explain) -> Explain:
    """Explain each image on its own, from the same seed, so that its batch does not matter."""

    def alone(image: Tensor, label: Tensor) -> Tensor:
        with random_states(image.device, seed=0):
            return explain(image[None], label[None])

    def each(inputs: Tensor, target: Tensor) -> Tensor:
        return torch.cat([alone(*pair) for pair in zip(inputs, target, strict=True)])

    return each


def twin(classifier: nn.Module) -> nn.Module:
    """Copy a classifier in eval mode, with nothing in place, for methods that hook or change it.

    Its parameters share memory with the classifier's, but ask for no gradient.
    """
    shared: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach(), requires_grad=False)
        for parameter in classifier.parameters()
    }
    network = copy.deepcopy(classifier, shared).eval()
    for part in network.modules():
        if getattr(part, "inplace", False):
            part.inplace = False  # type: ignore[assignment]
    return network


class Lender:
    """Lends the same twin again and again; one in whose hands a call failed is thrown away.

    A method that raises may leave hooks, stored activations or a replaced part behind.
    """

    def __init__(self, classifier: nn.Module) -> None:
        self.classifier = classifier
        self._network: nn.Module | None = None

    @contextmanager
    def lent(self) -> Iterator[nn.Module]:
        """Hold a twin without warnings; it is kept for the next time only if nothing is raised."""
        network, self._network = self._network or twin(self.classifier), None
        with _quiet():
            yield network
        self._network = network


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back warnings: Captum warns at every call that it sets hooks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# ---- Baselines that know nothing of the classifier: what beats none of them has found nothing.

_SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))


def trivial_methods() -> dict[str, Method]:
    """Return the four baselines by name: the whole frame, a centered square, noise and edges.

    Source:
        Phang et al. 2020, baselines "max" and "center"; noise and edges are those of sanity
        checks (Adebayo et al. 2018).

    Example:
        >>> list(trivial_methods())
        ['whole frame', 'centred square', 'random', 'edge detector']
    """
    return {
        "whole frame": Method(_whole_frame, TRIVIAL, "1, but 0 in the last pixel", is_mask=True),
        "centred square": Method(_centered_square, TRIVIAL, "half of the area", is_mask=True),
        "random": Method(_noise, TRIVIAL, "uniform noise, seeded by the image"),
        "edge detector": Method(_edges, TRIVIAL, "Sobel, 3 x 3, norm over channels"),
    }


def _whole_frame(inputs: Tensor, target: Tensor) -> Tensor:
    masks = torch.ones_like(inputs[:, :1])
    masks[..., -1, -1] = 0  # a constant mask would have no box
    return masks


def _centered_square(inputs: Tensor, target: Tensor) -> Tensor:
    masks = torch.zeros_like(inputs[:, :1])
    x0, y0, x1, y1 = (int(end) for end in centered_square(*inputs.shape[2:]))
    masks[..., y0:y1, x0:x1] = 1
    return masks


def _noise(inputs: Tensor, target: Tensor) -> Tensor:
    """Return noise in [0, 1): the same for the same image in any batch, and on any device."""
    return torch.stack([_noise_of(image) for image in inputs]).to(inputs.device)


def _noise_of(image: Tensor) -> Tensor:
    content = image.detach().cpu().float().contiguous().numpy().tobytes()
    generator = torch.Generator().manual_seed(zlib.crc32(content))
    return torch.rand(1, *image.shape[1:], generator=generator)


def _edges(inputs: Tensor, target: Tensor) -> Tensor:
    """Return the length of the gradient of all channels, by Sobel's filters, edges replicated."""
    across = torch.tensor(_SOBEL, dtype=inputs.dtype, device=inputs.device)
    filters = torch.stack([across, across.T])[:, None]  # (2, 1, 3, 3)
    planes = inputs.flatten(0, 1)[:, None]  # (B * C, 1, H, W)
    slopes = functional.conv2d(functional.pad(planes, (1, 1, 1, 1), "replicate"), filters)
    return slopes.reshape(len(inputs), -1, *inputs.shape[2:]).norm(dim=1, keepdim=True)


# ---- Obstacles: each returns in one line why a method does not apply to a classifier, or nothing.

Obstacle = Callable[[nn.Module, str, Tensor], str]

# Of the change in the logit. Where every part has a rule, rounding is all that is missing.
_MOST_UNEXPLAINED = 0.05


def no_map(classifier: nn.Module, layer: str, example: Tensor) -> str:
    """Class activation maps need a layer with maps ``(B, channels, h, w)``."""
    with torch.no_grad():
        _, (maps,) = Taps(twin(classifier), [layer])(example[:1])
    if isinstance(maps, Tensor) and maps.dim() == 4:
        return ""
    given = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
    return f"layer {layer!r} gives {given}, but maps (B, channels, H, W) are needed"


def no_relu(classifier: nn.Module, layer: str, example: Tensor) -> str:
    """Captum's guided methods change the gradient of modules ``nn.ReLU`` only, in silence."""
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
    """DeepLift's values have to sum to the change in the logit, which they miss without a rule."""
    try:
        share = _unexplained(twin(classifier), example.detach().clone())
    except Exception as error:  # whatever a foreign library raises
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    if share <= _MOST_UNEXPLAINED:
        return ""
    return (
        f"its values miss {share:.0%} of the change in the logit to which they should sum: it "
        "has no rule for some part of the classifier, such as an activation other than ReLU"
    )


class _Rectified(TorchFunctionMode):
    """Counts calls of functions that rectify; an ``nn.ReLU`` makes one, too."""

    calls = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.calls += getattr(func, "__name__", "") in ("relu", "relu_", "relu6")
        return func(*args, **(kwargs or {}))


def _rectifiers(network: nn.Module, example: Tensor) -> tuple[Counter[type], int]:
    """Count how often a pass rectifies: by modules, by their class, and by mere functions."""
    calls: Counter[type] = Counter()
    for part in network.modules():
        kind = next((kind for kind in (nn.ReLU, nn.ReLU6) if isinstance(part, kind)), None)
        if kind is not None:
            part.register_forward_hook(lambda *_, kind=kind: calls.update([kind]))
    with torch.no_grad(), _Rectified() as seen:
        network(example)
    return calls, seen.calls - calls[nn.ReLU]


def _unexplained(network: nn.Module, inputs: Tensor) -> float:
    """Return the share of the change in the logits of the classes found that DeepLift misses."""
    with torch.no_grad():
        logits, of_zeros = network(inputs), network(torch.zeros_like(inputs))
    target = logits.argmax(1)
    with _quiet():
        values = attr.DeepLift(network).attribute(inputs.requires_grad_(), 0, target)
    change = (logits - of_zeros).gather(1, target[:, None])[:, 0]
    missing = change - values.detach().flatten(1).sum(1)
    return float(missing.abs().sum() / change.abs().sum().clamp(min=1e-12))


# ---- Options of Captum's methods that depend on the image, each printed as what it is.


@dataclass(frozen=True)
class Sevenths:
    """A window over all channels whose sides are so many sevenths of the frame, rounded up."""

    count: int

    def __call__(self, inputs: Tensor) -> tuple[int, int, int]:
        """Return ``(C, height, width)``."""
        height, width = (min(side, self.count * math.ceil(side / 7)) for side in inputs.shape[2:])
        return inputs.shape[1], height, width


@dataclass(frozen=True)
class Patches:
    """A grid of patches, so many along each side, numbered in reading order."""

    across: int

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the number of each pixel's patch, ``(1, 1, H, W)``, without a gap."""
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
        """Return the share for the one image that is given."""
        return self.share * float(inputs.detach().max() - inputs.detach().min())


@dataclass(frozen=True)
class ZeroAndNoise:
    """Two baselines: zero, the mean color, and noise with the image's own mean and spread."""

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return ``(2, C, H, W)`` for the one image that is given."""
        spread, mean = torch.std_mean(inputs.detach())
        return torch.cat([torch.zeros_like(inputs), torch.randn_like(inputs) * spread + mean])


# ---- Captum's methods: one row each.

Build = Callable[[nn.Module, nn.Module], Attribution]


@dataclass(frozen=True)
class Recipe:
    """How a row of Captum comes about.

    Attributes:
        build: Called as ``build(network, layer)`` with a twin and one of its modules.
        options: Of ``attribute``; callables are given the inputs first.
        reduce: Makes a map of its attributions.
        obstacles: What may stand in its way.
        alone: Whether it draws random numbers: then each image is explained on its own.
    """

    build: Build
    options: dict[str, Any] = field(default_factory=dict)
    reduce: Reduce = of_pixels
    obstacles: Sequence[Obstacle] = ()
    alone: bool = False

    def explain(self, classifier: nn.Module, layer: str) -> Explain:
        """Return the row as a function of images and classes, on twins of the classifier."""
        lender = Lender(classifier)

        def explain(inputs: Tensor, target: Tensor) -> Tensor:
            images = inputs.detach().clone().requires_grad_()
            options = {n: v(images) if callable(v) else v for n, v in self.options.items()}
            with lender.lent() as network:
                method = self.build(network, network.get_submodule(layer))
                values = method.attribute(images, target=target, **options)
            return self.reduce(values.detach(), inputs.shape[2:])

        return one_by_one(explain) if self.alone else explain


def _of(kind: Callable[[nn.Module], Attribution]) -> Build:
    return lambda network, layer: kind(network)


def _smooth(network: nn.Module, layer: nn.Module) -> Attribution:
    return attr.NoiseTunnel(attr.Saliency(network))


_INTEGRATED = {"baselines": 0, "n_steps": 50, "internal_batch_size": 16}  # bounds the memory
# 0.02 of the range is the 0.09 of Captum's examples on ImageNet.
_SHAP = {"baselines": ZeroAndNoise(), "n_samples": 5, "stdevs": OfRange(0.02)}
# Smilkov et al. 2017: noise of 10 to 20 % of the range.
_SMOOTH = {"nt_type": "smoothgrad", "nt_samples": 10, "stdevs": OfRange(0.15)}
_BY_EIGHT = {"perturbations_per_eval": 8}
# 36 windows of 64 pixels on 224.
_WINDOWS = {"baselines": 0, "sliding_window_shapes": Sevenths(2), "strides": Sevenths(1)}
_PATCHES = {"baselines": 0, "feature_mask": Patches(7)}

#: By the names of Captum's classes. Baseline 0 is the mean color of normalized images.
RECIPES = {
    "Saliency": Recipe(_of(attr.Saliency)),
    "InputXGradient": Recipe(_of(attr.InputXGradient)),
    "GuidedBackprop": Recipe(_of(attr.GuidedBackprop), obstacles=[no_relu]),
    "Deconvolution": Recipe(_of(attr.Deconvolution), obstacles=[no_relu]),
    "IntegratedGradients": Recipe(_of(attr.IntegratedGradients), _INTEGRATED),
    "GradientShap": Recipe(_of(attr.GradientShap), _SHAP, alone=True),
    "DeepLift": Recipe(_of(attr.DeepLift), {"baselines": 0}, obstacles=[no_sum]),
    "LayerGradCam": Recipe(
        attr.LayerGradCam, {"relu_attributions": True}, of_layer, obstacles=[no_map]
    ),
    "GuidedGradCam": Recipe(
        attr.GuidedGradCam, {"interpolate_mode": "bilinear"}, obstacles=[no_relu, no_map]
    ),
    "Occlusion": Recipe(_of(attr.Occlusion), _WINDOWS | _BY_EIGHT),
    "FeatureAblation": Recipe(_of(attr.FeatureAblation), _PATCHES | _BY_EIGHT),
    "NoiseTunnel": Recipe(_smooth, _SMOOTH, alone=True),
}


def captum_methods(classifier: nn.Module, layer: str, example: Tensor) -> Rows:
    """Make a row of each method of Captum that applies; the classifier is not changed.

    Args:
        classifier: An eager module.
        layer: Whose maps Grad-CAM weights, usually the deepest.
        example: Inputs ``(B, C, H, W)`` to try on; real images at best. Two are used.
    """
    methods, left_out = {}, {}
    for name, recipe in RECIPES.items():
        reasons = (no(classifier, layer, example[:2]) for no in recipe.obstacles)
        if reason := next(filter(None, reasons), ""):
            left_out[name] = reason
            continue
        settings = ", ".join(f"{option}={value!r}" for option, value in recipe.options.items())
        methods[name] = Method(recipe.explain(classifier, layer), "captum", settings)
    return methods, left_out


# ---- The class activation maps of the package pytorch-grad-cam: one row each.

_CAM = "pytorch-grad-cam"


@dataclass(frozen=True)
class Cam:
    """How a row of pytorch-grad-cam comes about.

    Attributes:
        build: Called as ``build(package, network, layer)``; None takes the class of that name.
        alone: Whether each image is explained on its own.
        slow: Whether it takes one forward pass for each channel of the layer.
    """

    build: Callable[[Any, nn.Module, nn.Module], Any] | None = None
    alone: bool = False
    slow: bool = False

    def explain(self, name: str, classifier: nn.Module, layer: str) -> Explain:
        """Return the row as a function of images and classes, on twins of the classifier."""
        package, lender = import_module("pytorch_grad_cam"), Lender(classifier)
        output = import_module("pytorch_grad_cam.utils.model_targets").ClassifierOutputTarget

        def explain(inputs: Tensor, target: Tensor) -> Tensor:
            # Gradients reach the layer from the inputs: the parameters of the twin ask for none.
            images = inputs.detach().clone().requires_grad_()
            # The slow ones draw a progress bar for each image.
            with lender.lent() as network, redirect_stderr(StringIO()), torch.enable_grad():
                module = network.get_submodule(layer)
                if self.build is None:
                    cam = getattr(package, name)(model=network, target_layers=[module])
                else:
                    cam = self.build(package, network, module)
                try:  # not as a context manager: that swallows an IndexError
                    maps = cam(input_tensor=images, targets=[output(i) for i in target.tolist()])
                finally:
                    cam.activations_and_grads.release()
            return torch.from_numpy(maps)[:, None].to(inputs.device)

        return one_by_one(explain) if self.alone else explain


def _ablation_cam(package: Any, network: nn.Module, layer: nn.Module) -> Any:
    """Make an AblationCAM for layers that take more than one tensor: its stand-in takes just one.

    The stand-in is also its own: the package's default is shared by all objects.
    """

    class StandIn(package.AblationLayer):
        def __call__(self, inputs: Tensor, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(inputs)

    return package.AblationCAM(network, [layer], ablation_layer=StandIn())


#: By the names of the package's classes, with its defaults: no smoothing.
CAMS = {
    "GradCAM": Cam(),
    "HiResCAM": Cam(),
    "GradCAMPlusPlus": Cam(),
    "XGradCAM": Cam(),
    "LayerCAM": Cam(),
    # The sign of a first component hangs on rounding, and so on the batch that an image comes in.
    "EigenCAM": Cam(alone=True),
    "EigenGradCAM": Cam(alone=True),
    "ScoreCAM": Cam(slow=True),
    "AblationCAM": Cam(_ablation_cam, slow=True),
}

#: Names of rows that take one forward pass for each channel of the layer.
SLOW = frozenset(f"{_CAM} {name}" for name, cam in CAMS.items() if cam.slow)


def cam_methods(classifier: nn.Module, layer: str, example: Tensor) -> Rows:
    """Make a row of each method of pytorch-grad-cam that applies, those in `SLOW` last."""
    if reason := no_map(classifier, layer, example):
        return {}, {_CAM: reason}
    try:
        import_module("pytorch_grad_cam")
    except ImportError as error:
        return {}, {_CAM: f"it cannot be imported ({error}); pip install grad-cam"}
    rows = {
        f"{_CAM} {name}": Method(
            cam.explain(name, classifier, layer), _CAM, settings=f"layer={layer!r}"
        )
        for name, cam in CAMS.items()
    }
    return rows, {}


# ---- The rows of a benchmark if nobody names any: ours, all of Captum that applies, and CAMs.


def default_methods(model: nn.Module, example: Tensor, *, slow: bool = False) -> Rows:
    """Make every method that applies to a classifier.

    Layer methods read the deepest map, which is the last that a ``MaskingModel`` reads.

    Args:
        model: A ``MaskingModel``, whose own masks are the first row; or a classifier.
        example: Images ``(B, C, H, W)`` to try methods on.
        slow: Also those that take hundreds of forward passes an image.

    Returns:
        ``(methods, left_out)``: rows by name, and why others do not apply.

    Example:
        >>> import torch
        >>> classifier = nn.Sequential(
        ...     nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 8, 3, 2), nn.ReLU(),
        ...     nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
        ... )
        >>> methods, left_out = default_methods(classifier, torch.rand(1, 3, 32, 32))
        >>> methods["LayerGradCam"].family
        'captum'
    """
    ours: dict[str, Method] = {}
    if isinstance(model, MaskingModel):
        classifier, layer = model.classifier, model.layers[-1]
        ours = {"MaskingSaliency": ours_of(model)}
    else:
        classifier, layer = model, find_layers(model, example[:1])[-1]
    captum, no_captum = captum_methods(classifier, layer, example)
    cams, no_cams = cam_methods(classifier, layer, example)
    found = {**ours, **captum, **cams}
    chosen = {name: row for name, row in found.items() if slow or name not in SLOW}
    return chosen, {**no_captum, **no_cams}


def in_words(left_out: Mapping[str, str]) -> list[str]:
    """Return a sentence for each method that does not apply."""
    return [f"{name} is left out: {reason}" for name, reason in left_out.items()]


def ours_of(model: MaskingModel, settings: str = "") -> Method:
    """Make the row of a trained model's own masks."""
    settings = settings or f"masker on {', '.join(model.layers)}, weights {digest(model)}"
    return replace(as_method(MaskingSaliency(model)), family="ours", settings=settings)
