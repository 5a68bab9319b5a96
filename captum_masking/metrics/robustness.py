"""Any attribution method as a function of images, whose models are given back as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import captum.metrics
import torch
from torch import Generator, Tensor, nn

from captum_masking._base.borrow import eval_mode, given_back, module_of
from captum_masking._base.captum import TargetType
from captum_masking._base.checks import check_logits
from captum_masking._base.target import class_indices
from captum_masking.metrics.answers import Classifier, MeanScore, answers, check_question
from captum_masking.metrics.maps import is_finite
from captum_masking.parts.infill import Infill, Mean
from captum_masking.parts.masking import fill

#: Called as ``attribute(inputs, target=target)``: the ``attribute`` method of any Captum
#: ``Attribution`` (or the object itself), or a function. Returns maps shaped like ``inputs``,
#: ``(B, 1, H, W)`` or ``(B, H, W)``.
Attribute = Callable[..., Any]


class Explained:
    """Images, their classes, and a method that explains them.

    Args:
        classifier: Whose answer is explained.
        inputs: ``(B, C, H, W)``.
        attribute: The method.
        target: Any form Captum takes.
        batch_size: Images shown to the classifier at a time.
    """

    def __init__(
        self,
        classifier: Classifier,
        inputs: Tensor,
        attribute: Attribute,
        target: Any,
        batch_size: int,
    ) -> None:
        check_question(classifier, inputs, batch_size)
        method = getattr(attribute, "attribute", attribute)
        if not callable(method):
            raise TypeError(
                f"attribute must be a Captum Attribution, its attribute method, or a function "
                f"called as attribute(inputs, target=target), but got {type(attribute).__name__}."
            )
        self.method, self.classifier = method, classifier
        self.inputs = inputs.detach().clone(memory_format=torch.contiguous_format)
        output = answers(classifier, self.inputs.split(batch_size))
        check_logits(output[:, None] if output.dim() == 1 else output)
        # A classifier with one score per image has no classes to choose from.
        self.takes_target = output[0].numel() > 1
        classes = class_indices(output, target)
        self.classes = classes if self.takes_target else torch.zeros_like(classes)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the images and their classes, some at a time."""
        return zip(self.inputs.split(batch_size), self.classes.split(batch_size), strict=True)

    def logits(self, images: Tensor) -> Tensor:
        """Return the classifier's logits or scores, ``(n, classes)``."""
        return self.classifier(images).reshape(len(images), -1)

    def __call__(self, images: Any, target: Tensor) -> Any:
        """Return the maps of images, shaped like them; those with NaN or infinity as zeros."""
        if isinstance(images, tuple):  # as Captum asks for the maps of the unchanged images
            return (self(images[0], target),)
        asked = target.expand(len(images)) if self.takes_target else None
        with torch.enable_grad():
            maps = self.method(images.clone().requires_grad_(), target=asked)
        maps = maps[0] if isinstance(maps, tuple) else maps
        maps = _like(maps, images).detach().to(images)
        finite = is_finite(maps).reshape(-1, 1, 1, 1)
        return maps.where(finite, 0).contiguous()


def _like(maps: Any, images: Tensor) -> Tensor:
    if isinstance(maps, Tensor):
        wide = maps[:, None] if maps.dim() == 3 else maps
        if wide.shape in (images.shape, images[:, :1].shape):
            return wide.expand_as(images)
    got = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
    raise ValueError(
        f"attribute must return maps of shape {tuple(images.shape)}, as the inputs, or with one "
        f"channel or none, but returned {got}; resample them to the size of the inputs inside."
    )


def owner_of(attribute: Any) -> Any:
    """Return the object whose method explains, such as a Captum ``Attribution``, or None."""
    return getattr(getattr(attribute, "attribute", attribute), "__self__", None)


@contextmanager
def borrowed(classifier: Classifier, attribute: Any) -> Iterator[None]:
    """Hold the classifier and the method's model in eval mode, then give all back.

    Gradients that the body leaves on parameters are dropped, and those from before put back.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        for function in (classifier, attribute, getattr(owner_of(attribute), "forward_func", None)):
            if function is not None:
                stack.enter_context(given_back(function))
                stack.enter_context(eval_mode(function))
                stack.enter_context(gradients_given_back(module_of(function)))
        yield


@contextmanager
def gradients_given_back(module: nn.Module | None) -> Iterator[None]:
    """Drop the gradients that the body leaves on parameters, and put back those from before."""
    gradients = [(p, p.grad) for p in module.parameters()] if module else []
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in reversed(gradients):
            parameter.grad = gradient


# ---- Small changes to images, for metrics that ask what a change does to the answer or to the map.

#: Called as ``perturbation(inputs, generator)``: draws one change from the generator, which is on
#: the CPU, and returns images ``(B, C, H, W)`` with this same change made to each. So the value
#: of an image depends neither on the others of its batch nor on the device.
Perturbation = Callable[[Tensor, Generator], Tensor]


class SquareRemoval:
    """A square at a random place is infilled.

    Args:
        side: Of the square, as a fraction of the image's shorter side, in (0, 1]; one pixel at
            least.
        infill: What fills the square.

    Raises:
        ValueError: If ``side`` leaves its range.

    Source:
        Yeh et al. 2019 remove squares from photographs; the side is our own choice.

    Example:
        >>> changed = SquareRemoval(side=0.5)(torch.ones(1, 1, 4, 4), torch.Generator())
        >>> changed.sum()
        tensor(12.)
    """

    def __init__(self, *, side: float = 0.25, infill: Infill = Mean()) -> None:
        if not 0 < side <= 1:
            raise ValueError(
                f"side must be a fraction of the image's shorter side in (0, 1], but got {side}."
            )
        self.side, self.infill = side, infill

    def __call__(self, inputs: Tensor, generator: Generator) -> Tensor:
        """Return the images without the square."""
        size = inputs.shape[2:]
        side = max(1, round(self.side * min(size)))
        y, x = (int(torch.randint(n - side + 1, (), generator=generator)) for n in size)
        hole = torch.zeros_like(inputs[:, :1])
        hole[..., y : y + side, x : x + side] = 1
        return fill(inputs, hole, self.infill)

    def __repr__(self) -> str:
        return f"SquareRemoval(side={self.side}, infill={self.infill!r})"


class UniformNoise:
    """Every pixel and channel moves by up to a radius: a ball in the maximum norm.

    Args:
        radius: In normalised units, >= 0.

    Raises:
        ValueError: If ``radius`` is negative.

    Source:
        Yeh et al. 2019, max-sensitivity; the radius is Captum's default.

    Example:
        >>> changed = UniformNoise(radius=0.5)(torch.zeros(1, 1, 64, 64), torch.Generator())
        >>> bool(0.45 < changed.max() <= 0.5)
        True
    """

    def __init__(self, *, radius: float = 0.02) -> None:
        if not radius >= 0:
            raise ValueError(f"radius must be 0 or more, but got {radius}; 0.02 is Captum's.")
        self.radius = radius

    def __call__(self, inputs: Tensor, generator: Generator) -> Tensor:
        """Return the images, moved."""
        drawn = torch.rand(inputs.shape[1:], generator=generator) * 2 - 1
        return inputs + self.radius * drawn.to(inputs)

    def __repr__(self) -> str:
        return f"UniformNoise(radius={self.radius})"


class NormalNoise:
    """Gaussian noise on every pixel and channel.

    Args:
        std: Standard deviation in normalised units, >= 0.

    Raises:
        ValueError: If ``std`` is negative.

    Source:
        Yeh et al. 2019, the noisy perturbation of infidelity; the deviation is our own choice.

    Example:
        >>> changed = NormalNoise(std=3.0)(torch.zeros(1, 1, 64, 64), torch.Generator())
        >>> bool(2.9 < changed.std() < 3.1)
        True
    """

    def __init__(self, *, std: float = 0.1) -> None:
        if not std >= 0:
            raise ValueError(f"std must be 0 or more, but got {std}; 1 is the spread of the data.")
        self.std = std

    def __call__(self, inputs: Tensor, generator: Generator) -> Tensor:
        """Return the images, noisy."""
        drawn = torch.randn(inputs.shape[1:], generator=generator)
        return inputs + self.std * drawn.to(inputs)

    def __repr__(self) -> str:
        return f"NormalNoise(std={self.std})"


class Same:
    """Captum's ``perturb_func``: for each of several samples, one change to all images.

    Args:
        perturbation: Makes the changes.
        images: Number of images in the batch, each repeated by Captum for every sample.
        seed: Of the changes.
    """

    def __init__(self, perturbation: Perturbation, images: int, seed: int) -> None:
        self.perturbation, self.images = perturbation, images
        self.generator = Generator().manual_seed(seed)

    def __call__(self, repeated: Tensor) -> Tensor:
        """Return images ``(B * samples, C, H, W)``, image by image, changed."""
        blocks = repeated.reshape(self.images, -1, *repeated.shape[1:]).unbind(1)
        return torch.stack([self.perturbation(x, self.generator) for x in blocks], 1).flatten(0, 1)


# ---- Captum's infidelity and max-sensitivity: what small changes do to the answer and to the map.


def infidelity(
    classifier: Classifier,
    inputs: Tensor,
    attribute: Attribute,
    target: TargetType,
    *,
    perturbation: Perturbation = SquareRemoval(),
    samples: int = 10,  # Captum's default
    normalize: bool = True,
    multiplies_by_inputs: bool | None = None,
    seed: int = 0,
    batch_size: int = 32,
) -> Tensor:
    """Return how badly the map foretells what changes to the image do to the target's logit.

    The mean over changes I of ``(sum(I * map) - (f(x) - f(x - I)))^2``; lower is better, 0 is
    perfect.

    Changes are drawn from a generator of their own: the same for every image, every method and
    every call with this seed; torch's global random numbers move only if the method draws from
    them. All models are held in eval mode, and given back with the modes, flags and gradients
    that they had; so are those of a Captum ``Attribution``.

    Args:
        classifier: Called as ``classifier(inputs)``; returns logits ``(B, classes)``, or one
            score per image.
        inputs: ``(B, C, H, W)``, floating point.
        attribute: Any Captum ``Attribution``, its ``attribute`` method, or a function called as
            ``attribute(inputs, target=target)``. Maps with NaN or infinity count as zeros.
        target: Any form Captum takes; None is the class predicted for the whole image. The
            method gets the indices ``(n,)`` of its images.
        perturbation: Makes the changes: `SquareRemoval`, `NormalNoise`, `UniformNoise`.
        samples: Changes per image, >= 1.
        normalize: Scale each map by the one number that suits it best, so that maps in other
            units than logits, such as masks, can be compared.
        multiplies_by_inputs: Whether the map says what pixels add to the logit, as in Integrated
            Gradients, rather than how fast it grows with them. Then I is taken as a fraction of
            the input: 1 where a pixel is replaced by zero. None asks the Captum method, and is
            False for a function; True suits masks.
        seed: Of the changes.
        batch_size: Images shown to the classifier, and to the method, at a time.

    Returns:
        Float32 ``(B,)``, >= 0, in squared logits, on the device of ``inputs``. A map of zeros
        scores the mean square of the changes in logit.

    Raises:
        ValueError: If inputs are not finite, maps have another shape, or an argument leaves its
            range.
        TypeError: If the classifier or ``attribute`` is not callable, or inputs are not floating
            point.
        TargetError: If the target does not name one class for each image.

    Source:
        Yeh et al. 2019, infidelity, computed by Captum.

    Example:
        >>> from captum.attr import InputXGradient
        >>> linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        >>> inputs = torch.rand(2, 1, 4, 4)  # the map of a linear model foretells everything
        >>> bool((infidelity(linear, inputs, InputXGradient(linear), target=1) < 1e-5).all())
        True
    """
    _check_samples(samples)
    with borrowed(classifier, attribute):
        said = Explained(classifier, inputs, attribute, target, batch_size)
        share = _multiplies(attribute) if multiplies_by_inputs is None else multiplies_by_inputs
        as_captum_asks = captum.metrics.infidelity_perturb_func_decorator(share)
        values = [
            captum.metrics.infidelity(
                said.logits,
                as_captum_asks(Same(perturbation, len(images), seed)),
                images,
                said(images, classes),
                target=classes,
                n_perturb_samples=samples,
                max_examples_per_batch=_at_once(images, samples, batch_size),
                normalize=normalize,
            )
            for images, classes in said.batches(batch_size)
        ]
    # Captum's sum of three terms can end a rounding error below zero.
    return torch.cat(values).clamp(min=0).float()


def max_sensitivity(
    classifier: Classifier,
    inputs: Tensor,
    attribute: Attribute,
    target: TargetType,
    *,
    perturbation: Perturbation = UniformNoise(),
    samples: int = 10,  # Captum's default
    seed: int = 0,
    batch_size: int = 32,
) -> Tensor:
    """Return how much the map can change when the image hardly does; lower is better.

    The greatest over changes of ``|map(x) - map(changed x)| / |map(x)|``, Euclidean norms. The
    target stays that of the unchanged image.

    Changes are drawn, and models given back, as in `infidelity`.

    Args:
        classifier: As in `infidelity`; says what the target is.
        inputs: As in `infidelity`.
        attribute: As in `infidelity`.
        target: As in `infidelity`.
        perturbation: Makes the changes, as in `infidelity`.
        samples: Changes per image, >= 1.
        seed: Of the changes.
        batch_size: Images handed to the method at a time.

    Returns:
        Float32 ``(B,)``, >= 0, on the device of ``inputs``; 0 for a map that never changes. Where
        the map of the image itself is zero it is not divided by its norm.

    Raises:
        ValueError: As `infidelity` does.
        TypeError: As `infidelity` does.
        TargetError: As `infidelity` does.

    Source:
        Yeh et al. 2019, max-sensitivity, computed by Captum.

    Example:
        >>> from captum.attr import Saliency
        >>> linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        >>> inputs = torch.rand(2, 1, 4, 4)  # the gradient of a linear model is the same anywhere
        >>> max_sensitivity(linear, inputs, Saliency(linear), target=1)
        tensor([0., 0.])
    """
    _check_samples(samples)
    with borrowed(classifier, attribute):
        said = Explained(classifier, inputs, attribute, target, batch_size)
        values = [
            captum.metrics.sensitivity_max(
                said,
                images,
                Same(perturbation, len(images), seed),
                n_perturb_samples=samples,
                max_examples_per_batch=_at_once(images, samples, batch_size),
                target=classes,
            )
            for images, classes in said.batches(batch_size)
        ]
    return torch.cat(values).float()


def _at_once(images: Tensor, samples: int, batch_size: int) -> int:
    """Return how many images Captum may show at a time; it warns beyond these bounds."""
    return min(max(batch_size, len(images)), len(images) * samples)


def _multiplies(attribute: Attribute) -> bool:
    return bool(getattr(owner_of(attribute), "multiplies_by_inputs", False))


def _check_samples(samples: int) -> None:
    if samples < 1:
        raise ValueError(f"samples must be 1 or more changes per image, but got {samples}.")


class MethodMean(MeanScore):
    """Mean over images of a function of an attribution method in place of its maps.

    Args:
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Own.

    Example:
        >>> issubclass(Infidelity, MethodMean)
        True
    """

    plot_upper_bound = None

    def update(  # type: ignore[override]
        self,
        classifier: Classifier,
        inputs: Tensor,
        attribute: Attribute,
        target: TargetType = None,
    ) -> None:
        """Score a batch; the arguments are those of the function that this is the mean of."""
        super().update(classifier, inputs, attribute, target)  # type: ignore[arg-type]


class Infidelity(MethodMean):
    """Mean over images of `infidelity`.

    Args:
        perturbation: As in `infidelity`.
        samples: As in `infidelity`.
        normalize: As in `infidelity`.
        multiplies_by_inputs: As in `infidelity`.
        seed: As in `infidelity`.
        batch_size: As in `infidelity`.
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Yeh et al. 2019, infidelity.

    Example:
        >>> from captum.attr import InputXGradient
        >>> linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        >>> metric = Infidelity()
        >>> metric.update(linear, torch.rand(2, 1, 4, 4), InputXGradient(linear), target=1)
        >>> bool(metric.compute() < 1e-5)
        True
    """

    higher_is_better = False
    score = staticmethod(infidelity)
    options = (
        "perturbation",
        "samples",
        "normalize",
        "multiplies_by_inputs",
        "seed",
        "batch_size",
    )

    def __init__(
        self,
        *,
        perturbation: Perturbation = SquareRemoval(),
        samples: int = 10,
        normalize: bool = True,
        multiplies_by_inputs: bool | None = None,
        seed: int = 0,
        batch_size: int = 32,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.perturbation, self.samples, self.normalize = perturbation, samples, normalize
        self.multiplies_by_inputs = multiplies_by_inputs
        self.seed, self.batch_size = seed, batch_size


class MaxSensitivity(MethodMean):
    """Mean over images of `max_sensitivity`.

    Args:
        perturbation: As in `max_sensitivity`.
        samples: As in `max_sensitivity`.
        seed: As in `max_sensitivity`.
        batch_size: As in `max_sensitivity`.
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Yeh et al. 2019, max-sensitivity.

    Example:
        >>> from captum.attr import Saliency
        >>> linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        >>> metric = MaxSensitivity()
        >>> metric.update(linear, torch.rand(2, 1, 4, 4), Saliency(linear), target=1)
        >>> metric.compute()
        tensor(0.)
    """

    higher_is_better = False
    score = staticmethod(max_sensitivity)
    options = ("perturbation", "samples", "seed", "batch_size")

    def __init__(
        self,
        *,
        perturbation: Perturbation = UniformNoise(),
        samples: int = 10,
        seed: int = 0,
        batch_size: int = 32,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.perturbation, self.samples = perturbation, samples
        self.seed, self.batch_size = seed, batch_size
