"""One row of the benchmark: anything that maps images and classes to maps."""

from __future__ import annotations

import copy
import math
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import dataclass, field
from importlib import import_module
from io import StringIO
from typing import Any, Protocol

import numpy as np
import torch
from captum import attr
from captum.attr import Attribution, DeepLift, LayerAttribution
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from captum_masking._base.borrow import (
    eval_mode,
    given_back,
    gradients_given_back,
    module_of,
)
from captum_masking.benchmark.result import digest
from captum_masking.metrics.boxes import centered_square
from captum_masking.metrics.maps import min_max
from captum_masking.model.layers import find_layers
from captum_masking.model.model import MaskingModel
from captum_masking.model.taps import Taps
from captum_masking.saliency.saliency import MaskingSaliency

#: Maps images ``(B, C, H, W)`` and classes ``(B,)`` to maps ``(B, 1, H, W)``, ``(B, H, W)``, or
#: attributions shaped as the images.
Explain = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Method:
    """How a row makes its maps.

    Args:
        explain: Called as ``explain(inputs, target)``; may take gradients, and leave them.
        family: Of which library or kind it is; rows are sorted and colored by it.
        settings: What it was set to, in words, for the report.
        is_mask: Whether values are shares in [0, 1] that are used as they are; any other map is
            scaled so that its least value becomes 0 and its greatest 1.
        module: What it runs, to be held in eval mode and given back as it was; None if that is
            the benchmark's own copy.

    Source:
        Own.

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
        plane = one_channel(maps.detach())
        scaled = plane.float() if self.is_mask else min_max(plane)
        _check_range(scaled)
        return scaled.to(inputs.device)


def as_method(given: Attribution | Explain | Method) -> Method:
    """Take a Captum ``Attribution``, a callable or a :class:`Method` for a row.

    Attributions shaped as the images become one channel by the sum of absolute values; those of a
    layer by the positive part of their sum, enlarged to the images. What a callable returns in
    one channel is taken as it is.

    Args:
        given: The ``Attribution`` is called as ``given.attribute(inputs, target=target)``.

    Returns:
        The row. A :class:`~captum_masking.MaskingSaliency` is a mask, used as it is.

    Raises:
        TypeError: If it cannot be called.

    Source:
        Own; the reduction of layers is that of Grad-CAM (Selvaraju et al. 2017).

    Example:
        >>> from captum.attr import Saliency
        >>> as_method(Saliency(lambda inputs: inputs.flatten(1))).settings
        'Saliency'
    """
    if isinstance(given, Method):
        return given
    if isinstance(given, Attribution):
        return _of_attribution(given)
    name = type(given).__name__
    if not callable(given):
        raise TypeError(
            f"a method must be a Captum Attribution or a callable as method(inputs, target), but "
            f"got {name}; wrap it in a lambda."
        )
    return Method(given, settings=getattr(given, "__name__", name), module=module_of(given))


def _of_attribution(given: Attribution) -> Method:
    name, module = type(given).__name__, module_of(given.forward_func)
    if isinstance(given, LayerAttribution):
        return Method(lambda x, t: of_layer(given, x, t), settings=name, module=module)
    if isinstance(given, MaskingSaliency):
        explain = lambda x, t: given.attribute(x, target=t)[:, :1]  # noqa: E731
        return Method(explain, settings=name, is_mask=True, module=module)
    return Method(lambda x, t: absolute(given, x, t), settings=name, module=module)


def absolute(attribution: Attribution, inputs: Tensor, target: Tensor) -> Tensor:
    """Return the sum over channels of absolute attributions, ``(B, 1, H, W)``."""
    with quiet():
        return attribution.attribute(inputs, target=target).abs().sum(1, keepdim=True)


def of_layer(attribution: LayerAttribution, inputs: Tensor, target: Tensor) -> Tensor:
    """Return the positive part of a layer's attributions, summed and enlarged, ``(B, 1, H, W)``."""
    with quiet():
        coarse = attribution.attribute(inputs, target=target).sum(1, keepdim=True).clamp(min=0)
    return LayerAttribution.interpolate(coarse, tuple(inputs.shape[2:]), "bilinear")


def one_channel(maps: Tensor) -> Tensor:
    """Return maps as ``(B, 1, H, W)``: several channels by the sum of their absolute values."""
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


# ---- Nothing that a method does to a module outlives it, also after an exception.

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@contextmanager
def untouched(*modules: nn.Module, seed: int) -> Iterator[None]:
    """Hold modules in eval mode; then give back modes, flags, gradients, hooks and RNG.

    Args:
        modules: That the body runs.
        seed: Random numbers in the body start from it, so that a run that was interrupted draws
            what an uninterrupted one would have drawn.

    Source:
        Own; Captum's DeepLift leaves its hooks behind when it raises.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> with untouched(layer, seed=0):
        ...     _ = layer.register_forward_hook(print)
        >>> len(layer._forward_hooks)
        0
    """
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng())
        torch.manual_seed(seed)
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for module in modules:
            stack.enter_context(given_back(module))
            stack.enter_context(eval_mode(module))
            stack.enter_context(gradients_given_back(module))
            stack.enter_context(_hooks_given_back(module))
        yield


@contextmanager
def _hooks_given_back(module: nn.Module) -> Iterator[None]:
    tables = [getattr(part, name) for part in module.modules() for name in _HOOKS]
    before = [set(table) for table in tables]
    try:
        yield
    finally:
        for table, known in zip(tables, before, strict=True):
            for key in set(table) - known:
                del table[key]


# ---- One image at a time, for methods that would give an image another map in another batch.


def one_by_one(explain: Explain) -> Explain:
    """Explain each image on its own, from the same seed; random states are given back.

    Args:
        explain: Called as ``explain(inputs, target)`` with one image and one class.

    Returns:
        The same for any batch.

    Source:
        Own.

    Example:
        >>> noise = one_by_one(lambda inputs, target: torch.rand_like(inputs))
        >>> one, other = noise(torch.zeros(2, 3, 4, 4), torch.tensor([0, 1]))
        >>> torch.equal(one, other)
        True
    """

    def each(inputs: Tensor, target: Tensor) -> Tensor:
        pairs = zip(inputs, target, strict=True)
        return torch.cat([_alone(explain, image, label) for image, label in pairs])

    return each


def _alone(explain: Explain, image: Tensor, label: Tensor) -> Tensor:
    with seeded(image):
        return explain(image[None], label[None])


@contextmanager
def seeded(inputs: Tensor, seed: int = 0) -> Iterator[None]:
    """Start torch and NumPy from a seed, then give them their random state back.

    Args:
        inputs: With those on a GPU, the GPUs' random states are given back, too.
        seed: Of both.

    Source:
        Own; Captum's GradientShap draws from both.

    Example:
        >>> with seeded(torch.zeros(1)):
        ...     one = torch.rand(1)
        >>> with seeded(torch.zeros(1)):
        ...     one == torch.rand(1)
        tensor([True])
    """
    state = np.random.get_state()
    devices = range(torch.cuda.device_count()) if inputs.is_cuda else ()
    with torch.random.fork_rng(devices):
        try:
            torch.manual_seed(seed)
            np.random.seed(seed)
            yield
        finally:
            np.random.set_state(state)


# ---- What a method gets to touch, on loan: a copy of the classifier, and silence.


def borrowed(classifier: nn.Module) -> nn.Module:
    """Copy a classifier for methods that hook it, replace its parts or leave gradients behind.

    Args:
        classifier: An eager module; it is not changed.

    Returns:
        A copy in eval mode, with nothing in place. Its parameters share memory with the
        classifier's, so that it costs none, but ask for no gradient.

    Source:
        Own.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> twin = borrowed(layer)
        >>> twin.weight.requires_grad, twin.weight.data_ptr() == layer.weight.data_ptr()
        (False, True)
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
    """Lends the same copy again and again; one in whose hands a call failed is thrown away.

    A method that raises may leave hooks, stored activations or a replaced part behind.

    Args:
        classifier: Copied by :func:`borrowed`, which keeps its hooks.

    Source:
        Own.

    Example:
        >>> lender = Lender(nn.Linear(1, 1))
        >>> with lender.lent() as one:
        ...     pass
        >>> with lender.lent() as other:
        ...     one is other
        True
    """

    def __init__(self, classifier: nn.Module) -> None:
        self.classifier = classifier
        self._network: nn.Module | None = None

    @contextmanager
    def lent(self) -> Iterator[nn.Module]:
        """Hold a copy; it is kept for the next time only if nothing is raised."""
        network, self._network = self._network or borrowed(self.classifier), None
        yield network
        self._network = network

    def __repr__(self) -> str:
        return f"Lender(classifier={self.classifier!r})"


def why_no_map(classifier: nn.Module, layer: str, example: Tensor) -> str:
    """Say why a layer cannot be weighted as class activation maps are, or nothing.

    Args:
        classifier: An eager module; it is not changed.
        layer: A name as in ``classifier.named_modules()``.
        example: Inputs ``(B, C, H, W)``.

    Returns:
        One line; empty if the layer gives maps ``(B, channels, h, w)``.

    Raises:
        ValueError: If there is no such layer, with the nearest names.

    Source:
        Own.

    Example:
        >>> why_no_map(nn.Sequential(nn.Flatten()), "0", torch.zeros(1, 3, 2, 2))
        "layer '0' gives (1, 12), but maps (B, channels, H, W) are needed"
    """
    with torch.no_grad():
        _, (maps,) = Taps(borrowed(classifier), [layer])(example[:1])
    if isinstance(maps, Tensor) and maps.dim() == 4:
        return ""
    given = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
    return f"layer {layer!r} gives {given}, but maps (B, channels, H, W) are needed"


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back warnings: Captum says at every call that it sets hooks.

    Source:
        Own.

    Example:
        >>> with quiet():
        ...     warnings.warn("I set hooks", stacklevel=1)
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# ---- Baselines that know nothing of the classifier: what beats none of them has found nothing.

_SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))


def trivial_methods() -> dict[str, Method]:
    """Make the four baselines: the whole frame, a centred square, noise and edges.

    Returns:
        Methods by name, of the family ``"trivial"``.

    Source:
        Phang et al. 2020, baselines "max" and "center"; noise and edges are those of sanity
        checks (Adebayo et al. 2018).

    Example:
        >>> list(trivial_methods())
        ['whole frame', 'centred square', 'random', 'edge detector']
    """
    return {
        "whole frame": Method(whole_frame, "trivial", "1, but 0 in the last pixel", is_mask=True),
        "centred square": Method(centred_square, "trivial", "half of the area", is_mask=True),
        "random": Method(random, "trivial", "uniform noise, seeded by the image"),
        "edge detector": Method(edges, "trivial", "Sobel, 3 x 3, norm over channels"),
    }


def whole_frame(inputs: Tensor, target: Tensor) -> Tensor:
    """Return masks of ones with a zero in the last pixel: a constant mask would have no box.

    Source:
        Phang et al. 2020, baseline "max".

    Example:
        >>> whole_frame(torch.zeros(1, 3, 2, 2), torch.tensor([0]))
        tensor([[[[1., 1.],
                  [1., 0.]]]])
    """
    masks = torch.ones_like(inputs[:, :1])
    masks[..., -1, -1] = 0
    return masks


def centred_square(inputs: Tensor, target: Tensor) -> Tensor:
    """Return masks of the box of :func:`~captum_masking.metrics.centered_square`.

    Source:
        Dabkowski & Gal 2017, baseline "centre box", half of the area.

    Example:
        >>> int(centred_square(torch.zeros(1, 3, 224, 224), torch.tensor([0])).sum()) == 158**2
        True
    """
    masks = torch.zeros_like(inputs[:, :1])
    height, width = inputs.shape[2:]
    x0, y0, x1, y1 = (int(end) for end in centered_square(height, width))
    masks[..., y0:y1, x0:x1] = 1
    return masks


def random(inputs: Tensor, target: Tensor) -> Tensor:
    """Return uniform noise in [0, 1): the same for the same image in any batch, and on any device.

    Source:
        Own.

    Example:
        >>> random(torch.zeros(2, 3, 8, 8), torch.tensor([0, 1])).shape
        torch.Size([2, 1, 8, 8])
    """
    return torch.stack([_noise(image) for image in inputs]).to(inputs.device)


def edges(inputs: Tensor, target: Tensor) -> Tensor:
    """Return the length of the gradient of all channels, by Sobel's filters, edges replicated.

    Source:
        Sobel & Feldman 1968.

    Example:
        >>> edges(torch.tensor([[[[0.0, 0.0, 1.0, 1.0]]]]), torch.tensor([0]))
        tensor([[[[0., 4., 4., 0.]]]])
    """
    across = torch.tensor(_SOBEL, dtype=inputs.dtype, device=inputs.device)
    filters = torch.stack([across, across.T])[:, None]  # (2, 1, 3, 3)
    planes = inputs.flatten(0, 1)[:, None]  # (B * C, 1, H, W)
    slopes = functional.conv2d(functional.pad(planes, (1, 1, 1, 1), "replicate"), filters)
    return slopes.reshape(len(inputs), -1, *inputs.shape[2:]).norm(dim=1, keepdim=True)


def _noise(image: Tensor) -> Tensor:
    content = image.detach().cpu().float().contiguous().numpy().tobytes()
    generator = torch.Generator().manual_seed(zlib.crc32(content))
    return torch.rand(1, *image.shape[1:], generator=generator)


# ---- A classifier taken apart so that Captum can change how its rectifiers pass gradients back.

# What Captum's DeepLift has rules for and networks use; none of them has weights or a state.
_RULED = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.MaxPool2d)
_RECTIFIERS = ("relu", "relu_", "relu6")


class Cap(nn.Module):
    """Cut at 6: what ReLU6 does after ReLU.

    Source:
        Own.

    Example:
        >>> Cap()(torch.tensor([1.0, 7.0]))
        tensor([1., 6.])
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``min(inputs, 6)``."""
        return inputs.clamp(max=6)


class RectifiedCap(nn.Module):
    """Cut at 6, with the gradient of ``6 - ReLU(6 - inputs)``, for which DeepLift has a rule.

    The value is that of :class:`Cap`, bit for bit, which the formula misses by its rounding.

    Source:
        Own.

    Example:
        >>> RectifiedCap()(torch.tensor([1.0, 7.0]))
        tensor([1., 6.])
    """

    def __init__(self) -> None:
        super().__init__()
        self.rectifier = nn.ReLU()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``min(inputs, 6)``."""
        formula = 6 - self.rectifier(6 - inputs)
        return inputs.detach().clamp(max=6) + (formula - formula.detach())


class PerCall(nn.Module):
    """A module that a forward pass calls several times, as one module for each call.

    Args:
        parts: In the order of the calls; the classifier's next pass begins with the first again.

    Source:
        Own; Captum's DeepLift asks for it.

    Example:
        >>> PerCall([nn.ReLU(), nn.ReLU()])(torch.tensor([-1.0, 1.0]))
        tensor([0., 1.])
    """

    def __init__(self, parts: Iterable[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.calls = 0

    def forward(self, inputs: Tensor) -> Tensor:
        """Run the part whose turn it is."""
        part = self.parts[self.calls % len(self.parts)]
        self.calls += 1
        outputs: Tensor = part(inputs)
        return outputs


def split_relu6(
    classifier: nn.Module, example: Tensor, cap: Callable[[], nn.Module] = Cap
) -> nn.Module:
    """Copy a classifier, with each ReLU6 as a ReLU and a cap, and each call as its own module.

    Captum's GuidedBackprop, Deconvolution and DeepLift change the gradients of ``nn.ReLU`` only:
    they pass an ``nn.ReLU6`` by in silence.  DeepLift raises on modules that run twice.

    Args:
        classifier: An eager module; it is not changed.
        example: Inputs ``(B, C, H, W)`` on which calls are counted.
        cap: Makes what cuts at 6.

    Returns:
        The copy, of the kind that ``borrowed`` makes; its outputs are the classifier's in eval
        mode, bit for bit.

    Source:
        Own.

    Example:
        >>> split_relu6(nn.Sequential(nn.ReLU6()), torch.zeros(1, 1))
        Sequential(
          (0): Sequential(
            (0): ReLU()
            (1): Cap()
          )
        )
    """
    network = borrowed(classifier)
    calls = _count_calls(network, example)
    apart: dict[nn.Module, nn.Module] = {}  # a module may stand in several places
    for parent in list(network.modules()):
        for name, part in list(parent._modules.items()):
            if part is not None and type(part) in _RULED:
                apart.setdefault(part, _taken_apart(part, calls[part], cap))
                setattr(parent, name, apart[part])
    network.register_forward_pre_hook(_begin)
    return network


def count_rectifiers(network: nn.Module, example: Tensor) -> tuple[int, int]:
    """Count how often a forward pass rectifies: by a module ``nn.ReLU``, and by a mere function.

    Args:
        network: As made by :func:`split_relu6`, or one without ReLU6.
        example: Inputs ``(B, C, H, W)``.

    Returns:
        ``(modules, functions)``; the functions are beyond the reach of hooks.

    Source:
        Own.

    Example:
        >>> count_rectifiers(nn.Sequential(nn.ReLU(), nn.GELU()), torch.zeros(1, 1))
        (1, 0)
    """
    with _Rectified() as seen:
        calls = _count_calls(network, example)
    modules = sum(count for part, count in calls.items() if isinstance(part, nn.ReLU))
    return modules, seen.calls - modules


class _Rectified(TorchFunctionMode):
    """Counts calls of functions that rectify; an ``nn.ReLU`` makes one, too."""

    calls = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.calls += getattr(func, "__name__", "") in _RECTIFIERS
        return func(*args, **(kwargs or {}))


def _count_calls(network: nn.Module, example: Tensor) -> Counter[nn.Module]:
    calls: Counter[nn.Module] = Counter()
    handles = [
        part.register_forward_hook(lambda part, _inputs, _outputs: calls.update([part]))
        for part in network.modules()
    ]
    try:
        with eval_mode(network), torch.no_grad():
            network(example)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _taken_apart(part: nn.Module, calls: int, cap: Callable[[], nn.Module]) -> nn.Module:
    def make() -> nn.Module:
        if isinstance(part, nn.ReLU6):
            return nn.Sequential(nn.ReLU(), cap())
        return copy.deepcopy(part)

    return make() if calls < 2 else PerCall(make() for _ in range(calls))


def _begin(network: nn.Module, _inputs: Any) -> None:
    """Let the next pass begin with the first part, also if the last one broke off."""
    for part in network.modules():
        if isinstance(part, PerCall):
            part.calls = 0


# ---- A classifier about to be explained by Captum: its forms, and what stands in a method's way.

# Of the change in the logit. Where every part has a rule, rounding is all that is missing.
_MOST_UNEXPLAINED = 0.05


@dataclass(frozen=True, eq=False)
class Subject:
    """The forms in which methods need a classifier, and what speaks against them.

    Args:
        classifier: An eager module; it is not changed.
        layer: Whose maps are weighted.
        example: Inputs ``(B, C, H, W)`` to try on; real images at best.

    Source:
        Own.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.SiLU(), nn.Flatten(), nn.Linear(64, 2))
        >>> subject = Subject(network, "1", torch.rand(2, 3, 4, 4))
        >>> subject.no_map(), subject.no_relu()
        ('', 'the classifier has no ReLU, whose gradient it would change')
    """

    classifier: nn.Module
    layer: str
    example: Tensor

    def plain(self) -> nn.Module:
        """Return the classifier as it is."""
        return self.classifier

    def split(self) -> nn.Module:
        """Return a copy in which Captum finds every ReLU."""
        return split_relu6(self.classifier, self.example)

    def split_with_rules(self) -> nn.Module:
        """Return a copy in which DeepLift finds every ReLU, and has a rule for the 6 of ReLU6."""
        return split_relu6(self.classifier, self.example, RectifiedCap)

    def no_map(self) -> str:
        """Say why there are no maps to weight, or nothing."""
        return why_no_map(self.classifier, self.layer, self.example)

    def no_relu(self) -> str:
        """Say why changing the gradient of ``nn.ReLU`` would not do, or nothing."""
        modules, functions = count_rectifiers(self.split(), self.example)
        if functions:
            return (
                f"{functions} of {modules + functions} ReLUs are calls of a function, whose "
                "gradient it cannot change; make them modules, nn.ReLU()"
            )
        return "" if modules else "the classifier has no ReLU, whose gradient it would change"

    def no_sum(self) -> str:
        """Say why DeepLift fails, or nothing: its values have to sum to the change in the logit.

        Where they do not, the network bends in a place that DeepLift has no rule for, such as a
        SiLU, and what comes out is mere gradient there.
        """
        network = borrowed(self.split_with_rules())
        try:
            share = _unexplained(network, self.example.detach().clone())
        except Exception as error:  # whatever a foreign library raises
            return f"{type(error).__name__}: {' '.join(str(error).split())}"
        if share <= _MOST_UNEXPLAINED:
            return ""
        return (
            f"its values miss {share:.0%} of the change in the logit to which they should sum: it "
            "has no rule for some part of the classifier, such as an activation other than ReLU"
        )


def _unexplained(network: nn.Module, inputs: Tensor) -> float:
    """Return the share of the change in the logits of the classes found that DeepLift misses."""
    with torch.no_grad():
        logits, of_zeros = network(inputs), network(torch.zeros_like(inputs))
    target = logits.argmax(1)
    with quiet():
        values = DeepLift(network).attribute(inputs.requires_grad_(), 0, target)
    change = (logits - of_zeros).gather(1, target[:, None])[:, 0]
    missing = change - values.detach().flatten(1).sum(1)
    return float(missing.abs().sum() / change.abs().sum().clamp(min=1e-12))


# ---- Settings of Captum's methods that depend on the image, each printed as what it is.


class Fitted(Protocol):
    """What turns inputs ``(B, C, H, W)`` into the value of a setting."""

    def __call__(self, inputs: Tensor) -> Any:
        """Return the value for these inputs."""


@dataclass(frozen=True)
class Sevenths:
    """A window over all channels whose sides are so many sevenths of the frame, rounded up.

    Args:
        count: 2 is 64 of 224 pixels.

    Source:
        Own.

    Example:
        >>> Sevenths(2)(torch.zeros(1, 3, 224, 8))
        (3, 64, 4)
    """

    count: int

    def __call__(self, inputs: Tensor) -> tuple[int, int, int]:
        """Return ``(C, height, width)``."""
        height, width = (min(side, self.count * math.ceil(side / 7)) for side in inputs.shape[2:])
        return inputs.shape[1], height, width


@dataclass(frozen=True)
class Patches:
    """A grid of patches, numbered in reading order.

    Args:
        across: Patches along each side; fewer where there are fewer pixels.

    Source:
        Own.

    Example:
        >>> Patches(2)(torch.zeros(1, 3, 2, 4))
        tensor([[[[0, 0, 1, 1],
                  [2, 2, 3, 3]]]])
    """

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
    """A share of the distance from the least to the greatest value of the image.

    Args:
        share: In (0, 1].

    Source:
        Smilkov et al. 2017 measure the noise of SmoothGrad so.

    Example:
        >>> OfRange(0.25)(torch.tensor([[[[-1.0, 3.0]]]]))
        1.0
    """

    share: float

    def __call__(self, inputs: Tensor) -> float:
        """Return the share for the one image that is given."""
        return self.share * float(inputs.max() - inputs.min())


@dataclass(frozen=True)
class ZeroAndNoise:
    """Two baselines: zero, the mean color, and noise with the image's own mean and spread.

    Source:
        Own; Lundberg & Lee 2017 leave the distribution open.

    Example:
        >>> ZeroAndNoise()(torch.ones(1, 3, 2, 2)).mean((1, 2, 3))
        tensor([0., 1.])
    """

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return ``(2, C, H, W)`` for the one image that is given."""
        spread, mean = torch.std_mean(inputs.detach())
        return torch.cat([torch.zeros_like(inputs), torch.randn_like(inputs) * spread + mean])


def fit(options: Mapping[str, Any], inputs: Tensor) -> dict[str, Any]:
    """Return the options with those that depend on the inputs worked out.

    Source:
        Own.

    Example:
        >>> fit({"n_samples": 5, "strides": Sevenths(1)}, torch.zeros(1, 3, 224, 224))
        {'n_samples': 5, 'strides': (3, 32, 32)}
    """
    return {name: value(inputs) if callable(value) else value for name, value in options.items()}


def words(options: Mapping[str, Any]) -> str:
    """Print options for the report.

    Source:
        Own.

    Example:
        >>> words({"n_samples": 5, "strides": Sevenths(1)})
        'n_samples=5, strides=Sevenths(count=1)'
    """
    return ", ".join(f"{name}={value!r}" for name, value in options.items())


# ---- The table of Captum's methods: what each is built of, its settings, and what it needs.


def absolute_captum_recipes(attributions: Tensor, size: torch.Size) -> Tensor:
    """Return the sum over channels of absolute values."""
    return attributions.abs().sum(1, keepdim=True)


def enlarged(attributions: Tensor, size: torch.Size) -> Tensor:
    """Return a layer's maps ``(B, 1, h, w)`` at the size of the images."""
    return attr.LayerAttribution.interpolate(attributions, tuple(size), "bilinear")


@dataclass(frozen=True)
class Recipe:
    """How a row comes about.

    Args:
        build: Called as ``build(network, layer)`` with a copy and one of its modules; returns
            Captum's object.
        options: Passed to its ``attribute``; callables are given the inputs first.
        reduce: Called as ``reduce(attributions, size)``; returns maps ``(B, 1, H, W)``.
        network: Which form of the classifier is copied.
        obstacles: Each says in one line why it does not apply, or nothing.
        alone: Whether it draws random numbers: then each image is explained on its own, from the
            same seed, so that its map does not depend on its batch.

    Source:
        Own.

    Example:
        >>> RECIPES["IntegratedGradients"].options["n_steps"]
        50
    """

    build: Callable[[nn.Module, nn.Module], Any]
    options: dict[str, Any] = field(default_factory=dict)
    reduce: Callable[[Tensor, torch.Size], Tensor] = absolute_captum_recipes
    network: Callable[[Subject], nn.Module] = Subject.plain
    obstacles: Sequence[Callable[[Subject], str]] = ()
    alone: bool = False


def _of(kind: Callable[[nn.Module], Any]) -> Callable[[nn.Module, nn.Module], Any]:
    return lambda network, layer: kind(network)


#: By the names of Captum's classes. Baseline 0 is the mean color of normalized images.
RECIPES = {
    "Saliency": Recipe(_of(attr.Saliency)),
    "InputXGradient": Recipe(_of(attr.InputXGradient)),
    "GuidedBackprop": Recipe(
        _of(attr.GuidedBackprop), network=Subject.split, obstacles=[Subject.no_relu]
    ),
    "Deconvolution": Recipe(
        _of(attr.Deconvolution), network=Subject.split, obstacles=[Subject.no_relu]
    ),
    "IntegratedGradients": Recipe(  # batches within bound the memory
        _of(attr.IntegratedGradients),
        {"baselines": 0, "n_steps": 50, "internal_batch_size": 16},
    ),
    "GradientShap": Recipe(  # 0.02 of the range is the 0.09 of Captum's examples on ImageNet
        _of(attr.GradientShap),
        {"baselines": ZeroAndNoise(), "n_samples": 5, "stdevs": OfRange(0.02)},
        alone=True,
    ),
    "DeepLift": Recipe(
        _of(attr.DeepLift),
        {"baselines": 0},
        network=Subject.split_with_rules,
        obstacles=[Subject.no_sum],
    ),
    "LayerGradCam": Recipe(
        attr.LayerGradCam,
        {"relu_attributions": True},
        reduce=enlarged,
        obstacles=[Subject.no_map],
    ),
    "GuidedGradCam": Recipe(
        attr.GuidedGradCam,
        {"interpolate_mode": "bilinear"},
        network=Subject.split,
        obstacles=[Subject.no_relu, Subject.no_map],
    ),
    "Occlusion": Recipe(  # 36 windows of 64 pixels on 224
        _of(attr.Occlusion),
        {
            "baselines": 0,
            "sliding_window_shapes": Sevenths(2),
            "strides": Sevenths(1),
            "perturbations_per_eval": 8,
        },
    ),
    "FeatureAblation": Recipe(
        _of(attr.FeatureAblation),
        {"baselines": 0, "feature_mask": Patches(7), "perturbations_per_eval": 8},
    ),
    "NoiseTunnel": Recipe(  # Smilkov et al. 2017: noise of 10 to 20 % of the range
        lambda network, layer: attr.NoiseTunnel(attr.Saliency(network)),
        {"nt_type": "smoothgrad", "nt_samples": 10, "stdevs": OfRange(0.15)},
        alone=True,
    ),
}


# ---- Rows of the benchmark: every method of Captum that applies to the classifier.

FAMILY = "captum"


def captum_methods(
    classifier: nn.Module, layer: str, example: Tensor
) -> tuple[dict[str, Method], dict[str, str]]:
    """Make a row of each method of Captum that applies.

    Each works on a copy of its own; the classifier is not changed. Those that change the gradient
    of ReLU get a copy in which each ReLU6 is a ReLU and a cap, with the same outputs.

    Args:
        classifier: An eager module.
        layer: Whose maps Grad-CAM weights, usually the deepest.
        example: Inputs ``(B, C, H, W)`` to try on; real images at best. Two are used.

    Returns:
        ``(methods, left_out)``: rows by the name of Captum's class, and why others are missing.

    Raises:
        ValueError: If there is no such layer.

    Source:
        Captum 0.9; settings and what each needs are in ``captum_recipes.py``.

    Example:
        >>> import torch
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.SiLU(), nn.Flatten(), nn.Linear(64, 2))
        >>> methods, left_out = captum_methods(network, "1", torch.rand(2, 3, 4, 4))
        >>> methods["Occlusion"].maps(torch.rand(2, 3, 4, 4), torch.tensor([0, 1])).shape
        torch.Size([2, 1, 4, 4])
        >>> left_out["GuidedBackprop"]
        'the classifier has no ReLU, whose gradient it would change'
    """
    subject = Subject(classifier, layer, example[:2])
    reasons = {name: _why_not(recipe, subject) for name, recipe in RECIPES.items()}
    methods = {
        name: Method(_explain(recipe, subject), FAMILY, words(recipe.options))
        for name, recipe in RECIPES.items()
        if not reasons[name]
    }
    return methods, {name: reason for name, reason in reasons.items() if reason}


def _why_not(recipe: Recipe, subject: Subject) -> str:
    return next((reason for no in recipe.obstacles if (reason := no(subject))), "")


def _explain(recipe: Recipe, subject: Subject) -> Explain:
    lender = Lender(recipe.network(subject))

    def explain(inputs: Tensor, target: Tensor) -> Tensor:
        images = inputs.detach().clone().requires_grad_()
        with lender.lent() as network, quiet():
            method = recipe.build(network, network.get_submodule(subject.layer))
            values = method.attribute(images, target=target, **fit(recipe.options, images))
        return recipe.reduce(values.detach(), inputs.shape[2:])

    return one_by_one(explain) if recipe.alone else explain


# ---- Rows of the benchmark: the class activation maps of the package pytorch-grad-cam.

FAMILY_cam_methods = "pytorch-grad-cam"

_WEIGHTED = ("GradCAM", "HiResCAM", "GradCAMPlusPlus", "XGradCAM", "LayerCAM")
# The sign of a first component hangs on rounding, and so on the batch that an image comes in.
_COMPONENT = ("EigenCAM", "EigenGradCAM")
_FORWARD_PER_CHANNEL = ("ScoreCAM", "AblationCAM")

#: Names of rows that take one forward pass for each channel of the layer.
SLOW = frozenset(f"{FAMILY_cam_methods} {name}" for name in _FORWARD_PER_CHANNEL)


def cam_methods(
    classifier: nn.Module, layer: str, example: Tensor
) -> tuple[dict[str, Method], dict[str, str]]:
    """Make a row of each method of pytorch-grad-cam that applies.

    Each works on a copy of its own, with the package's defaults: no smoothing.

    Args:
        classifier: An eager module; it is not changed.
        layer: Whose maps are weighted, usually the deepest.
        example: Inputs ``(B, C, H, W)``.

    Returns:
        ``(methods, left_out)``: rows by name, those in :data:`SLOW` last, and why others are
        missing.

    Raises:
        ValueError: If there is no such layer.

    Source:
        pytorch-grad-cam 1.5 (Gildenblat et al. 2021), which scales its maps itself.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten())
        >>> methods, left_out = cam_methods(network, "1", torch.zeros(1, 3, 4, 4))
        >>> methods, list(left_out)
        ({}, ['pytorch-grad-cam'])
    """
    reason = why_no_map(classifier, layer, example) or _why_not_installed()
    if reason:
        return {}, {FAMILY_cam_methods: reason}
    package = import_module("pytorch_grad_cam")
    names = (*_WEIGHTED, *_COMPONENT, *_FORWARD_PER_CHANNEL)
    kinds = {**{name: getattr(package, name) for name in names}, "AblationCAM": _ablation_cam}
    explain = {name: _explain_cam_methods(kind, classifier, layer) for name, kind in kinds.items()}
    explain.update({name: one_by_one(explain[name]) for name in _COMPONENT})
    rows = {
        f"{FAMILY_cam_methods} {n}": Method(explain[n], FAMILY_cam_methods, f"layer={layer!r}")
        for n in names
    }
    return rows, {}


def _why_not_installed() -> str:
    try:
        import_module("pytorch_grad_cam")
    except ImportError as error:
        return f"it cannot be imported ({error}); pip install grad-cam"
    return ""


def _explain_cam_methods(kind: Callable[..., Any], classifier: nn.Module, layer: str) -> Explain:
    targets = import_module("pytorch_grad_cam.utils.model_targets")
    lender = Lender(classifier)

    def explain(inputs: Tensor, target: Tensor) -> Tensor:
        # Gradients reach the layer from the inputs: the parameters of the copy ask for none.
        images = inputs.detach().clone().requires_grad_()
        wanted = [targets.ClassifierOutputTarget(index) for index in target.tolist()]
        # The slow ones draw a progress bar for each image.
        with lender.lent() as network, quiet(), redirect_stderr(StringIO()), torch.enable_grad():
            maps = _run(kind, network, layer, images, wanted)
        return torch.from_numpy(maps)[:, None].to(inputs.device)

    return explain


def _run(
    kind: Callable[..., Any], network: nn.Module, layer: str, images: Tensor, wanted: list[Any]
) -> Any:
    """Return maps ``(B, H, W)``. Not as a context manager: that swallows an ``IndexError``."""
    cam = kind(model=network, target_layers=[network.get_submodule(layer)])
    try:
        return cam(input_tensor=images, targets=wanted)
    finally:
        cam.activations_and_grads.release()


def _ablation_cam(model: nn.Module, target_layers: list[nn.Module]) -> Any:
    """Make an AblationCAM for layers that take more than one tensor: its stand-in takes just one.

    The stand-in is also its own: the package's default is shared by all objects.
    """
    package = import_module("pytorch_grad_cam")

    class StandIn(package.AblationLayer):  # type: ignore[name-defined]
        def __call__(self, inputs: Tensor, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(inputs)

    return package.AblationCAM(model, target_layers, ablation_layer=StandIn())


# ---- The rows of a benchmark if nobody names any: all of Captum that applies, CAMs, and ours.


def default_methods(
    model: nn.Module, example: Tensor, *, slow: bool = False
) -> tuple[dict[str, Method], dict[str, str]]:
    """Make every method that applies to a classifier.

    Args:
        model: A ``MaskingModel``, whose own masks are the first row; or a classifier.
        example: Images ``(B, C, H, W)`` to try methods on.
        slow: Also those that take hundreds of forward passes an image.

    Returns:
        ``(methods, left_out)``: rows by name, and why others do not apply. Layer methods read
        the deepest map, which is the last that a ``MaskingModel`` reads.

    Source:
        Own.

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
    """Say of each method that does not apply why, a sentence each.

    Source:
        Own.

    Example:
        >>> in_words({"DeepLift": "it raises"})
        ['DeepLift is left out: it raises']
    """
    return [f"{name} is left out: {reason}" for name, reason in left_out.items()]


def ours_of(model: MaskingModel, settings: str = "") -> Method:
    """Make the row of a trained model's own masks.

    Source:
        Phang et al. 2020.
    """
    saliency = MaskingSaliency(model)
    return Method(
        lambda inputs, target: saliency.attribute(inputs, target=target)[:, :1],
        family="ours",
        settings=settings or f"masker on {', '.join(model.layers)}, weights {digest(model)}",
        is_mask=True,
        module=model,
    )
