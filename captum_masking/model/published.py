"""Load checkpoints of the paper's code without running pickled code."""

from __future__ import annotations

import pickle
import re
from argparse import Namespace
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captum_masking.model.files import CheckpointError
from captum_masking.model.model import MaskingModel
from captum_masking.parts.masker import Masker, linear, nearest
from captum_masking.parts.sampler import GumbelSigmoid, Sigmoid

__all__ = ["load_published"]

#: The modules of torchvision's ResNet-50 that the published layers 0 to 4 are read from.
_LAYERS = ("maxpool", "layer1", "layer2", "layer3", "layer4")
_CHANNELS = (64, 256, 512, 1024, 2048)  # of each of them
_UPSAMPLERS = {"nearest": nearest, "bilinear": linear}
_UPSAMPLE_KEYS = ("final_upsample_mode", "upsample")
_MASKER_KEYS = ("state_dict_masker", "state_dict_decoder")  # the second in older files
_WIDTH = 64  # channels of every reduced map, and of a class embedding
_TEMPERATURE = 0.1  # published default, and where a learned one starts
_WAY_OUT = (
    "give a checkpoint of the published code, such as ca.chk (folders of model.save(folder) are "
    "read by MaskingModel.load)"
)


def load_published(file: str | Path, *, map_location: Any = "cpu") -> MaskingModel:
    """Load a model with its classifier from a checkpoint of the published code, in eval mode.

    Tensors, plain values and ``argparse.Namespace`` are read, and whatever you allowed with
    ``torch.serialization.add_safe_globals``. Any other pickled object is refused before it runs.

    The names and shapes of the weights determine the layers, and whether the masker takes a class
    or an area; ``masker_use_layers`` must agree. The final upsampling is that of the training; the
    published reader looks under another key and falls back to the nearest cell. The keys of a
    Gumbel head's temperature and soft variant, and of the class embedding, are not known to us: any
    key with ``tau``, the value ``"soft"`` of any key with ``gumbel``, and the only other matrix are
    used.

    Args:
        file: Written by the published training code.
        map_location: Device of the weights, as in ``torch.load``.

    Raises:
        CheckpointError: If the file is not such a checkpoint or holds other pickled objects.

    Source:
        Phang et al. 2020; the mask is sampled at a quarter of the image's size, then upsampled.

    Example:
        >>> load_published("no-such.chk")
        Traceback (most recent call last):
        captum_masking.model.files.CheckpointError: cannot load no-such.chk: there is no file ...
    """
    try:
        content = _read(Path(file), map_location)
        args = _read_args(content.get("args"))
        weights = _state(content, "state_dict_classifier")
        masker, layers, tau = _build_masker(_state(content, *_MASKER_KEYS), args)
        upsample, sampler = _find_upsampler(args), _build_sampler(args, tau)
        classifier = _build_classifier(weights)  # last, since it is large
        model = MaskingModel(
            classifier,
            [_LAYERS[layer] for layer in layers],
            masker=masker,
            sampler=sampler,
            stride=4,  # the size of ResNet-50's finest maps, whichever of them are read
            upsample=upsample,
            upsample_first=False,
        )
    except (ValueError, RuntimeError) as error:  # load_state_dict raises RuntimeError
        raise CheckpointError(file, str(error), _WAY_OUT) from error
    model.classifier_trained = True
    return model.to(next(classifier.parameters()).device).eval()


def _read(file: Path, map_location: Any) -> Mapping[str, Any]:
    if not file.is_file():
        raise ValueError(f"there is {'a folder' if file.is_dir() else 'no file'} of that name")
    try:
        with _allowed_namespace():
            content = torch.load(file, map_location=map_location, weights_only=True)
    except Exception as error:  # unpicklers raise nearly anything
        raise ValueError(_explain(error)) from error
    if not isinstance(content, Mapping):
        raise ValueError(f"expected a dict in it, but it holds a {type(content).__name__}")
    return content


def _allowed_namespace() -> AbstractContextManager[Any]:
    """Allow ``argparse.Namespace`` for one call, unless it was allowed before and stays so."""
    known: Any = torch.serialization
    if not hasattr(known, "safe_globals") or Namespace in known.get_safe_globals():
        return nullcontext()
    context: AbstractContextManager[Any] = known.safe_globals([Namespace])
    return context


def _explain(error: Exception) -> str:
    """Turn an error of ``torch.load`` into a reason that names the pickled object."""
    found = re.search(r"(?:GLOBAL|Unsupported class) ([\w.]+)", str(error))
    if found is None:
        # Torch's own message advises to load unsafely.
        detail = "" if isinstance(error, pickle.UnpicklingError) else f": {error}"
        return f"torch.load cannot read it ({type(error).__name__}{detail:.200})"
    return (
        f"it holds a pickled {found[1]}, and only tensors, plain values and, from torch 2.5 on, "
        "argparse.Namespace are read, since anything else can run code"
    )


def _read_args(args: Any) -> Mapping[str, Any]:
    if isinstance(args, Namespace):
        return vars(args)
    if args is not None and not isinstance(args, Mapping):
        raise ValueError(f"expected a dict or a Namespace as args, but got {args!r}")
    return args or {}


def _state(content: Mapping[str, Any], *keys: str) -> dict[str, Tensor]:
    """Return the first state dict found, without the prefix of data parallelism."""
    state = next((content[key] for key in keys if key in content), None)
    if state is None:
        raise ValueError(f"it has no {' or '.join(keys)}, only {_few(content)}")
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"expected its {keys[0]} to map names to tensors")
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def _build_classifier(weights: dict[str, Tensor]) -> nn.Module:
    from torchvision.models import resnet50

    head = weights.get("fc.weight")
    if head is None or head.dim() != 2:
        raise ValueError("its classifier has no matrix fc.weight, as a ResNet-50 has")
    return _build(lambda: resnet50(weights=None, num_classes=len(head)), weights, "classifier")


def _build_masker(
    state: dict[str, Tensor], args: Mapping[str, Any]
) -> tuple[nn.Module, list[int], float | None]:
    """Return the masker, the published indices of its layers, and its learned tau if it has one."""
    layers = _find_layers(state, args)
    raw = [0] if layers[0] == 0 and len(layers) > 1 else []
    appended = _count_appended(state, layers[-1])
    if appended and raw:
        raise ValueError("a masker that takes a class or an area cannot read layer 0 as well")
    weights, rest = _rename(state, layers)
    embedding = _take(rest, lambda value: value.dim() == 2) if appended == _WIDTH else None
    tau = _take(rest, lambda value: value.numel() == 1)
    if rest:
        raise ValueError(f"its masker has weights of unknown use, {_few(rest)}")
    if embedding is not None:
        weights["embedding.weight"] = embedding

    def make() -> nn.Module:
        return Masker(
            [_CHANNELS[layer] for layer in layers],
            width=_WIDTH,
            raw=raw,
            classes=0 if embedding is None else len(embedding),
            sized=appended == 1,
        )

    return _build(make, weights, "masker"), layers, None if tau is None else tau.item()


def _find_layers(state: dict[str, Tensor], args: Mapping[str, Any]) -> list[int]:
    """Infer the layers from the weights; layer 0 has none, but counts in the last convolution."""
    reduced = sorted({int(match[1]) for match in map(_REDUCE.match, state) if match})
    final = state.get("final.0.weight")
    if final is None or final.dim() != 4 or not reduced or reduced[-1] >= len(_LAYERS):
        raise ValueError(f"expected a masker with conv1x1_0 to 4 and final.0, got {_few(state)}")
    layers = reduced if final.shape[1] == _WIDTH * len(reduced) else [0, *reduced]
    if len(set(layers)) < len(layers) or final.shape[1] != _WIDTH * len(layers):
        raise ValueError(
            f"its last convolution reads {final.shape[1]} channels, but the layers {reduced} "
            f"with a 1x1 convolution give {_WIDTH} each"
        )
    given = _parse_layers(args.get("masker_use_layers"))
    if given is not None and given != layers:  # another order would concatenate differently
        raise ValueError(f"its args say that layers {given} are read, but its weights {layers}")
    return layers


_REDUCE = re.compile(r"conv1x1_(\d+)\.")


def _parse_layers(given: Any) -> list[int] | None:
    words = given.split(",") if isinstance(given, str) else given
    try:
        return [int(word) for word in words]
    except (TypeError, ValueError):
        return None


def _count_appended(state: dict[str, Tensor], layer: int) -> int:
    """Count the channels appended to a map: 0, 1 for an area, or those of a class embedding."""
    weight = state.get(f"conv1x1_{layer}.0.weight")
    if weight is None or weight.dim() != 4:
        raise ValueError(f"its masker has no convolution conv1x1_{layer}.0.weight")
    appended = weight.shape[1] - _CHANNELS[layer]
    if appended == _WIDTH + 1:
        raise ValueError("its masker takes a class and an area, in an unknown order")
    if appended not in (0, 1, _WIDTH):
        raise ValueError(
            f"its masker reads {weight.shape[1]} channels from layer {layer}, but ResNet-50 has "
            f"{_CHANNELS[layer]} there"
        )
    return appended


def _rename(
    state: dict[str, Tensor], layers: list[int]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split the published weights into those of our masker, under our names, and the rest."""
    places = {f"conv1x1_{layer}": f"reduce.{i}" for i, layer in enumerate(layers)}
    places["final.0"] = "final"
    weights, rest = {}, {}
    for name, value in state.items():
        place = next((p for p in places if name.startswith(f"{p}.")), None)
        if place is None:
            rest[name] = value
        else:
            weights[places[place] + name.removeprefix(place)] = value
    return weights, rest


def _take(rest: dict[str, Tensor], fits: Callable[[Tensor], bool]) -> Tensor | None:
    names = [name for name, value in rest.items() if fits(value)]
    return rest.pop(names[0]) if len(names) == 1 else None


def _build(make: Callable[[], nn.Module], weights: dict[str, Tensor], name: str) -> nn.Module:
    """Make a network from the file's weights, without extra memory or random numbers."""
    with torch.device("meta"):
        network = make()
    wanted = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in weights.items()}
    # Very old files have no batch counts; torch then starts from 0.
    counted = {key for key in wanted if key.endswith("num_batches_tracked")}
    differing = sorted(
        k for k in (wanted | given).keys() - counted if wanted.get(k) != given.get(k)
    )
    if differing:
        first = differing[0]
        raise ValueError(
            f"{len(differing)} weights of its {name} differ in name or shape from the published "
            f"architecture's, first {first!r}: expected {wanted.get(first, 'none')}, got "
            f"{given.get(first, 'none')}"
        )
    floats = {key: value if key in counted else value.float() for key, value in weights.items()}
    # Tensors of a file may share memory; trained parameters must not.
    own = {k: v.detach().clone(memory_format=torch.contiguous_format) for k, v in floats.items()}
    network.load_state_dict(own, strict=False, assign=True)
    return network


def _build_sampler(args: Mapping[str, Any], learned_tau: float | None) -> nn.Module:
    if not any(args[key] for key in args if str(key).endswith("apply_gumbel")):
        return Sigmoid()
    numbers = [args[key] for key in args if "tau" in str(key).split("_")]
    tau = next((float(n) for n in numbers if isinstance(n, int | float)), _TEMPERATURE)
    learnable = tau < 0 or learned_tau is not None  # published: -1 has it learned
    modes = [args[key] for key in args if "gumbel" in str(key)]
    return GumbelSigmoid(
        learned_tau or (_TEMPERATURE if learnable else tau),
        hard="soft" not in modes,
        learnable=learnable,
    )


def _find_upsampler(args: Mapping[str, Any]) -> Callable[..., Tensor]:
    modes = {str(args[key]) for key in _UPSAMPLE_KEYS if args.get(key)} or {"nearest"}
    if len(modes) > 1 or not modes <= _UPSAMPLERS.keys():
        raise ValueError(
            f"expected one final upsampling of {list(_UPSAMPLERS)} in its args, got {modes}"
        )
    return _UPSAMPLERS[modes.pop()]


def _few(names: Mapping[Any, Any]) -> str:
    return f"{list(names)[:4]}{' and more' if len(names) > 4 else ''}"
