"""What to randomize: the layers of a network, of a classifier alone, of a masker alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from captum_masking.model import MaskingModel

#: By the name of each layer, from the input to the output: a module, with all that is in it, or
#: several modules, each with what it owns directly.
Layers = Mapping[str, nn.Module | Sequence[nn.Module]]


def layers_of(
    module: nn.Module, *, depth: int | None = None, prefix: str = ""
) -> dict[str, tuple[nn.Module, ...]]:
    """List the layers of a module: the modules that own parameters, as they were registered.

    Args:
        module: From its input to its output, if it was built in that order.
        depth: Take all modules that share the first ``depth`` parts of their name as one layer: 1
            gives the stages of a ResNet. None leaves each on its own.
        prefix: Put before each name, with a dot.

    Returns:
        Modules by name, as ``module.named_modules()`` has it.

    Raises:
        ValueError: If no module owns a parameter, or ``depth`` is below 1.

    Source:
        Adebayo et al. 2018 randomize blocks; Phang et al. 2020 modules at a depth of at most 2.

    Example:
        >>> network = nn.Sequential(nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)), nn.ReLU())
        >>> list(layers_of(network)), list(layers_of(network, depth=1))
        (['0.0', '0.1'], ['0'])
    """
    if depth is not None and depth < 1:
        raise ValueError(f"depth must be 1 or more parts of a name, or None, but got {depth}.")
    layers: dict[str, tuple[nn.Module, ...]] = {}
    for name, part in module.named_modules(prefix=prefix):
        if next(part.parameters(recurse=False), None) is not None:
            kept = prefix.count(".") + bool(prefix)
            name = name if depth is None else ".".join(name.split(".")[: kept + depth])
            layers[name] = (*layers.get(name, ()), part)
    if not layers:
        raise ValueError(
            f"expected a module with parameters to randomize, but {type(module).__name__} has "
            "none; name the layers of the network that the map depends on."
        )
    return layers


def classifier_layers(
    model: MaskingModel, *, depth: int | None = None
) -> dict[str, tuple[nn.Module, ...]]:
    """List the layers of a model's classifier: the map may change because what it reads changes.

    Args:
        model: Its masker and sampler are left out.
        depth: As in `layers_of`.

    Returns:
        As `layers_of`, names beginning with ``classifier``.

    Raises:
        ValueError: As `layers_of` does.

    Source:
        Phang et al. 2020 randomize the classifier and not the masker.

    Example:
        >>> classifier = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
        >>> list(classifier_layers(MaskingModel(classifier)))
        ['classifier.0', 'classifier.2']
    """
    return layers_of(model.classifier, depth=depth, prefix="classifier")


def masker_layers(
    model: MaskingModel, *, depth: int | None = None
) -> dict[str, tuple[nn.Module, ...]]:
    """List the layers of a model's masker: the map may change because its reader changes.

    Args:
        model: Its classifier and sampler are left out.
        depth: As in `layers_of`.

    Returns:
        As `layers_of`, names beginning with ``masker``.

    Raises:
        ValueError: As `layers_of` does.

    Source:
        Own.

    Example:
        >>> classifier = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
        >>> list(masker_layers(MaskingModel(classifier), depth=1))
        ['masker.reduce', 'masker.final']
    """
    return layers_of(model.masker, depth=depth, prefix="masker")
