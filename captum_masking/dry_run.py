"""Run a classifier once to see what its layers give: nothing is kept, nothing stays behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from captum_masking.modes import eval_mode
from captum_masking.outputs import logits_of
from captum_masking.tokens import Layout, Vectors, first_tensor, layout_of, undecided

# Sizes at which a dry run is tried: ImageNet's, Inception's, then those of small data sets.
_DRY_RUN_SIZES = (224, 299, 64, 32, 28)

# Their outputs repeat or blur a map that another module has made; the maker is tapped instead.
_NOT_TAPPED = ("Pool", "Dropout", "Identity", "Flatten", "Upsample", "Pad", "Softmax", "Merging")


class Found(NamedTuple):
    """A feature map found in a dry run.

    Source:
        Own.
    """

    name: str
    module: nn.Module
    layout: Layout
    grid: tuple[int, ...]


def dry_run_inputs(classifier: nn.Module) -> Tensor:
    """Make zeros that the classifier accepts, shaped for its first convolution.

    Tried first is the size that a network was built for, where it says so, as vision
    transformers do.

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
    usual = [(side,) * dims for side in (_DRY_RUN_SIZES if dims < 3 else (32, 16))]
    for size in [*_stated_sizes(classifier, dims), *usual]:
        example = torch.zeros(1, first.in_channels, *size).to(first.weight)
        try:
            with eval_mode(classifier), torch.no_grad():
                classifier(example)
            return example
        except (RuntimeError, ValueError, AssertionError) as error:
            failure = error
    raise ValueError(
        f"expected the classifier to accept zeros of shape (1, {first.in_channels}, side, ...) "
        f"for a side in {_DRY_RUN_SIZES}, but it raised {failure!r}; pass example_inputs=..., "
        "one batch as the classifier takes it."
    ) from failure


def _stated_sizes(classifier: nn.Module, dims: int) -> list[tuple[int, ...]]:
    """List the input sizes that a network or its patch embedding was built for."""
    stated = []
    for part in [getattr(classifier, "config", None), *classifier.modules()]:
        for name in ("img_size", "image_size"):
            size = getattr(part, name, None)
            size = (size,) * dims if isinstance(size, int) else size
            if isinstance(size, (tuple, list)) and len(size) == dims:
                stated.append(tuple(size))
    return stated[:1]


def feature_maps(classifier: nn.Module, example: Tensor, *extra: Any) -> list[Found]:
    """List the feature maps of one dry run, in the order in which the modules ran.

    Args:
        classifier: Run once in eval mode, without gradient; once more where shapes do not tell
            channels from space.
        example: Inputs of shape ``(B, C, *spatial)``; of vectors ``(B, F)`` the hidden vectors are
            listed, which have no grid.
        *extra: Further arguments of the classifier.

    Returns:
        One entry for each module that ran exactly once and gave a map of more than one cell.

    Source:
        Own.

    Example:
        >>> feature_maps(nn.Sequential(nn.Conv2d(1, 4, 3, 2)), torch.zeros(1, 1, 9, 9))[0].grid
        (4, 4)
    """
    size = example.shape[2:]
    calls, answer = record(classifier, example, *extra)
    if not size:
        return _hidden_vectors(classifier, calls, answer, len(example))
    narrower: dict[str, Tensor] = {}
    if any(undecided(output, size) for output in calls.values()):
        with suppress(Exception):  # a network of a fixed size says no
            narrower, _ = record(classifier, example[..., : max(1, size[-1] * 3 // 4)], *extra)
    return _maps(classifier, calls, narrower, example)


def feature_maps_of_each(
    classifier: nn.Module, inputs: Sequence[Tensor], *extra: Any
) -> list[list[Found]]:
    """List for each of several inputs the feature maps that depend on it.

    Args:
        classifier: Run once on the inputs, and once with each of them spoiled by NaN.
        inputs: All that are to be explained.
        *extra: Further arguments of the classifier.

    Returns:
        As :func:`feature_maps`, for each input.

    Source:
        Own.

    Example:
        >>> pair = [torch.zeros(1, 3), torch.zeros(1, 4)]
        >>> network = nn.Bilinear(3, 4, 2)
        >>> feature_maps_of_each(network, pair)
        [[], []]
    """
    calls, answer = record(classifier, *inputs, *extra)
    listed = []
    for index, tensor in enumerate(inputs):
        reached, _ = record(classifier, *spoiled(inputs, index), *extra)
        spoilt = {name: out for name, out in calls.items() if not reached[name].isfinite().all()}
        if tensor.dim() == 2:
            listed.append(_hidden_vectors(classifier, spoilt, answer, len(tensor)))
        else:
            listed.append(_maps(classifier, spoilt, {}, tensor))
    return listed


def spoiled(inputs: Sequence[Tensor], index: int) -> list[Tensor]:
    """Copy inputs with one of them made NaN, which spoils all that depends on it.

    Args:
        inputs: Any.
        index: Of the one to spoil.

    Source:
        Own.

    Example:
        >>> spoiled([torch.zeros(1), torch.zeros(1)], index=1)
        [tensor([0.]), tensor([nan])]
    """
    return [torch.full_like(x, torch.nan) if i == index else x for i, x in enumerate(inputs)]


def _maps(
    classifier: nn.Module, calls: dict[str, Tensor], narrower: dict[str, Tensor], example: Tensor
) -> list[Found]:
    modules, size = dict(classifier.named_modules()), example.shape[2:]
    grids: list[tuple[int, ...]] = []
    found = []
    for name, output in calls.items():
        if len(output) != len(example) or output.dim() < 3:
            continue
        shape = narrower[name].shape if name in narrower else None
        layout = layout_of(output, size, module=modules[name], grids=grids, narrower=shape)
        if layout is None:
            continue
        grid = tuple(layout(output, size).shape[2:])
        if isinstance(modules[name], nn.modules.conv._ConvNd):
            grids.append(grid)
        if max(grid) > 1 and not any(word in type(modules[name]).__name__ for word in _NOT_TAPPED):
            found.append(Found(name, modules[name], layout, grid))
    return found


@contextmanager
def hooked(
    modules: Sequence[nn.Module], names: Sequence[str], keep: Callable[[str, Any], Any]
) -> Iterator[None]:
    """Call ``keep(name, output)`` after each forward; always remove the hooks.

    What it returns, unless None, takes the place of the output.

    Args:
        modules: To watch.
        names: One for each module.
        keep: Called with a module's name and its output.

    Raises:
        TypeError: If a module is scripted or traced.

    Source:
        Own.
    """
    handles = []
    try:
        for module, name in zip(modules, names, strict=True):
            if isinstance(module, torch.jit.ScriptModule):
                raise TypeError(
                    f"expected plain modules to tap, but {name!r} is scripted or traced and "
                    "takes no hooks; pass the eager classifier."
                )
            hook = lambda _module, _args, output, name=name: keep(name, output)  # noqa: E731
            handles.append(module.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hidden_vectors(
    classifier: nn.Module, calls: dict[str, Tensor], answer: Any, batch: int
) -> list[Found]:
    """List the hidden vectors of a dry run, each after its activation; the logits are none."""
    modules, logits = dict(classifier.named_modules()), logits_of(answer)
    last = next((name for name, out in reversed(calls.items()) if out.shape == logits.shape), None)
    found: list[Found] = []
    for name, output in calls.items():
        kind, is_vector = type(modules[name]).__name__, output.dim() == 2 and len(output) == batch
        if not is_vector or output.shape[1] < 2 or any(word in kind for word in _NOT_TAPPED):
            continue
        if name == last or output.data_ptr() == logits.data_ptr():
            continue  # the logits, or what is scaled to be the logits
        before = calls[found[-1].name] if found else None
        activation = not any(True for _ in modules[name].parameters())
        if before is not None and (
            before.data_ptr() == output.data_ptr() or (activation and before.shape == output.shape)
        ):
            found.pop()  # the same vector, inside or before its activation
        found.append(Found(name, modules[name], Vectors(), ()))
    return found


def record(classifier: nn.Module, *inputs: Any) -> tuple[dict[str, Tensor], Any]:
    """Run a classifier in eval mode and keep what its modules give.

    Args:
        classifier: Run once.
        *inputs: All that it takes.

    Returns:
        The output, where it is a tensor, of each module that ran exactly once, by name and in the
        order in which they ran; and the classifier's answer.

    Source:
        Own.

    Example:
        >>> list(record(nn.Sequential(nn.ReLU(), nn.Tanh()), torch.zeros(1, 2))[0])
        ['0', '1']
    """
    named = [(name, module) for name, module in classifier.named_modules() if name]
    calls: list[tuple[str, Any]] = []

    def keep(name: str, output: Any) -> None:
        calls.append((name, first_tensor(output)))

    names, modules = [name for name, _ in named], [module for _, module in named]
    with eval_mode(classifier), torch.no_grad(), hooked(modules, names, keep):
        answer = classifier(*inputs)
    ran = Counter(name for name, _ in calls)
    once = {
        name: out for name, out in calls if ran[name] == 1 and isinstance(out, Tensor) and out.dim()
    }
    return once, answer
