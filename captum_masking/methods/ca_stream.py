"""CA-Stream: attention of a learned class token that replaces pooling."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from captum_masking._base.borrow import evaluated, given_back, seeded, unfrozen, unwrapped
from captum_masking._base.captum import TensorOrTupleOfTensorsGeneric, as_tuple, log_usage
from captum_masking._base.checks import check_number_of_inputs
from captum_masking._base.files import plain
from captum_masking.methods.base import Asked, Relative, Target, network_of, normalized
from captum_masking.model.files import CheckpointError, check_classifier, fingerprint, read, write
from captum_masking.model.layers import dry_run_inputs, find_layers, layouts_of, pooling
from captum_masking.model.layouts import ChannelsFirst, Layout, first_tensor
from captum_masking.model.model import MaskingModel
from captum_masking.model.taps import Taps, check_tappable, hooked, like_weights, tap_of
from captum_masking.parts.sampler import Sigmoid
from captum_masking.training.classifier import FineTune
from captum_masking.training.trainer import MaskingTrainer

_FILE, _WAY_OUT = "stream.safetensors", "pass a folder written by CAStream.save(folder)"


class Stream(nn.Module):
    r"""A class token that attends to maps of several depths in turn.

    .. math:: a_l = \text{softmax}\left(\frac{F_l\, q_l}{\sqrt{d_l}}\right), \quad
        v_l = F_l^\top a_l, \quad q_{l+1} = W_l v_l + b_l

    It starts as average pooling: the last attention is uniform, and the last projection, if any, is
    the identity.

    Args:
        channels: Of each map, :math:`d_l`.
        project: Whether to project the last pooled vector too.

    Example:
        >>> maps = torch.tensor([[[0.0, 2.0]]]), torch.tensor([[[1.0, 5.0]]])  # (B, d, cells)
        >>> Stream([1, 1])(maps)[0].detach()  # untrained, the mean of the last map
        tensor([[3.]])
    """

    def __init__(self, channels: Sequence[int], *, project: bool = False) -> None:
        super().__init__()
        self.token = nn.Parameter(1 + torch.randn(channels[0]))
        self.steps = nn.ModuleList(nn.Linear(*each) for each in pairwise(channels))
        self.project = nn.Linear(channels[-1], channels[-1]) if project else nn.Identity()
        for last in [*self.steps[-1].parameters()] if len(channels) > 1 else [self.token]:
            nn.init.zeros_(last)
        if isinstance(self.project, nn.Linear):
            nn.init.eye_(self.project.weight)
            nn.init.zeros_(self.project.bias)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the token ``(B, d)`` after the last map, and that map's scores ``(B, 1, *grid)``.

        Args:
            maps: ``(B, d, *grid)`` each.
        """
        query = self.token.expand(len(maps[0]), -1)
        for each, step in zip(maps, [*self.steps, self.project], strict=True):
            cells = each.to(self.token.dtype).flatten(2)  # (B, d, p)
            scores = torch.einsum("bd,bdp->bp", query, cells) / math.sqrt(cells.shape[1])
            pooled = torch.einsum("bp,bdp->bd", scores.softmax(1), cells)
            query = step(pooled)
        return query, scores.reshape(len(scores), 1, *maps[-1].shape[2:])


class Streamed(nn.Module):
    """A classifier with a stream in place of its pooling.

    No gradient reaches the classifier's weights, so there is no graph before the pooling unless an
    input or a tapped layer needs it.
    """

    def __init__(
        self,
        classifier: nn.Module,
        layers: Sequence[str],
        layouts: Sequence[Layout],
        pool: str,
        stream: Stream,
    ) -> None:
        super().__init__()
        self.classifier, self.stream = classifier, stream
        self.layers, self.layouts, self.pool = tuple(layers), tuple(layouts), pool
        self.attention = nn.Identity()  # outputs the last scores, for taps

    def forward(self, inputs: Tensor, *extra: Any) -> Any:
        """Run the classifier with the stream's vector in place of the pooled one."""
        names, maps, pooled = [*self.layers, self.pool], {}, []
        size = inputs.shape[2:]

        def keep(name: str, passed: Any) -> Any:
            output = first_tensor(passed)
            if name != self.pool:
                maps[name] = output
                return None
            found = [lay(maps[n], size) for n, lay in zip(self.layers, self.layouts, strict=True)]
            vector, scores = self.stream(found)
            self.attention(scores)
            pooled.append(name)
            return vector.to(output.dtype).reshape(output.shape)

        found = [tap_of(self.classifier, name) for name in names]
        before = {name for name, (_, is_input) in zip(names, found, strict=True) if is_input}
        with (
            unfrozen(self.classifier, False) if torch.is_grad_enabled() else nullcontext(),
            hooked([module for module, _ in found], names, keep, before),
        ):
            answer = self.classifier(like_weights(inputs, self.classifier), *extra)
        if len(pooled) != 1:
            raise RuntimeError(
                f"expected {self.pool!r} to run once in a pass, as it did before, but it ran "
                f"{len(pooled)} times; pass the plain module, which is not compiled or traced."
            )
        return answer

    def train(self, mode: bool = True) -> Streamed:
        """Set the mode of the stream; a frozen classifier stays in eval mode."""
        super().train(mode)
        self.classifier.eval()
        return self


class _AsMask(nn.Module):
    """The attention as a masker, to measure its masks during training."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))  # never trained; the trainer needs a weight

    def forward(self, maps: Sequence[Tensor], grid: Any, question: Any) -> Tensor:
        scores = maps[-1].flatten(1)
        spread = scores.std(1, keepdim=True, correction=0).clamp(min=1e-6)
        return (self.gain * (scores - scores.mean(1, keepdim=True)) / spread).view_as(maps[-1])


class _Looked(Asked):
    """A network with a stream, whose attention is kept during the clean pass."""

    def _begin(self) -> None:
        seen: list[Tensor] = []
        attention = cast(Streamed, self.function).attention
        with hooked([attention], ["attention"], lambda _, scores: seen.append(scores)):
            super()._begin()
        self.scores = seen[0]


class CAStream(Relative):
    """Replace a classifier's pooling by the attention of a learned class token, and show it.

    The token (:class:`Stream`) attends to the maps of a frozen classifier at several depths. What
    it pools last replaces the average of the last map, so :attr:`network` classifies by attention;
    the scores of that attention, before the softmax, are the map. It has to be trained, which
    leaves the classifier bit-identical: ``CAStream(classifier).trainer()`` is a
    :class:`~captum_masking.MaskingTrainer`. Untrained, it averages and its map is empty.

    There is one map for all classes; ``target`` is checked and changes nothing. For one class, use
    a class activation map of :attr:`network`, such as Captum's ``LayerGradCam``. Without
    ``project``, Grad-CAM of the last map is that of the classifier itself.

    Args:
        forward_func: A classifier in which a module pools the last map to a vector; not copied.
        layers: Layers whose maps the token attends to, the pooled one last. None takes the last map
            of each of the four deepest resolutions, and the pooled one.
        pool: The module whose output is replaced, or ``"<name>.input"`` to replace an input; None
            finds the module that pools the last map.
        project: Whether to add a linear layer before the classifier's own, as in the authors' code;
            with False, only the attention lowers the loss.
        example_inputs: ``(B, C, *spatial)``, for a dry run; None makes zeros.
        additional_forward_args: Further arguments of the classifier in the dry run.
        seed: Seed of the initial weights.

    Attributes:
        network: The classifier with attention in place of pooling; its ``stream`` has all trained
            weights.

    Source:
        Torres, Zhang, Sicre, Ayache & Avrithis 2024 (arXiv 2404.14996), from the formulas of their
        poster and the settings of their code, which for ResNet-50 are ``project=True`` and
        ``layers=["maxpool", "layer1", "layer2", "layer3", "layer4"]``. Differs: the stream starts
        where the classifier is, not at random; AdamW and a cosine for a few epochs, not SGD for 90.

    Example:
        >>> classifier = nn.Sequential(
        ...     nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 8, 3, 2), nn.ReLU(),
        ...     nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
        ... )
        >>> method = CAStream(classifier)
        >>> batches = [(torch.rand(4, 1, 16, 16), torch.tensor([0, 1, 0, 1]))]
        >>> records = method.trainer(lr=1e-2).fit(batches, epochs=2, show_progress=False)
        >>> method.attribute(torch.rand(2, 1, 16, 16)).shape
        torch.Size([2, 1, 16, 16])
    """

    def __init__(
        self,
        forward_func: nn.Module,
        layers: Sequence[str] | None = None,
        *,
        pool: str | None = None,
        project: bool = False,
        example_inputs: Tensor | None = None,
        additional_forward_args: Any = (),
        seed: int = 0,
    ) -> None:
        classifier = network_of(unwrapped(forward_func))
        check_tappable(classifier)
        extra = as_tuple(additional_forward_args)
        if example_inputs is None:
            example_inputs = dry_run_inputs(classifier, *extra)
        example = like_weights(example_inputs, classifier)
        found = pooling(classifier, example, *extra)
        if pool is None:
            if found is None:
                raise ValueError(
                    "expected a classifier in which one module pools the last map to a vector, but "
                    "found none; where a function does, name what takes the vector, such as "
                    "pool='fc.input'."
                )
            pool = found[1]
        if layers is None:
            names = find_layers(classifier, example, count=4, extra=extra)
            layers = list(dict.fromkeys([*names, found[0] if found else names[-1]]))
        with evaluated(classifier) as lent, torch.no_grad():
            *tapped, output = map(first_tensor, Taps(lent, [*layers, pool])(example, *extra)[1])
            layouts = layouts_of(Taps(lent, layers), tapped, (example,), *extra)
        pairs = zip(layouts, tapped, strict=True)
        channels = [lay(each, example.shape[2:]).shape[1] for lay, each in pairs]
        if output[0].numel() != channels[-1]:
            raise ValueError(
                f"expected {pool!r} to give the vector to which {layers[-1]!r}, the last of the "
                f"layers, is pooled, of {channels[-1]} channels, but got {tuple(output.shape)}; "
                "name the layer that is pooled last."
            )
        weights = next(classifier.parameters(), example)
        with seeded(torch.zeros(()), seed):
            stream = Stream(channels, project=project)
        stream.to(weights.device, torch.promote_types(weights.dtype, torch.float32))
        self.network = Streamed(classifier, layers, layouts, pool, stream)
        super().__init__(self.network)

    @log_usage(part_of_slo=True)
    def attribute(
        self,
        inputs: TensorOrTupleOfTensorsGeneric,
        target: Target = None,
        additional_forward_args: Any = None,
    ) -> TensorOrTupleOfTensorsGeneric:
        """Return the token's last attention; arguments are those of :mod:`captum_masking.methods`.

        Returns:
            Its scores, enlarged linearly and scaled to [0, 1] per image, shaped like ``inputs``;
            zeros for a uniform attention.
        """
        check_number_of_inputs(as_tuple(inputs), 1)

        def find(asked: _Looked) -> list[Tensor]:
            return [normalized(asked.scores, asked.inputs[0].shape[2:])]

        return self._explained(inputs, target, additional_forward_args, find, ask=_Looked)

    def trainer(
        self,
        *,
        lr: float = 1e-3,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW,
        **settings: Any,
    ) -> MaskingTrainer:
        """Return a trainer of the stream: cross entropy of labels, with the classifier frozen.

        Number labels like the classifier's outputs; this is not checked. In the records, ``clean``
        is the accuracy with attention; on validation images, masks of the attention are measured
        too.

        Args:
            lr: Peak learning rate.
            optimizer: Called as ``optimizer(parameters, lr=lr)``.
            **settings: Settings of :class:`~captum_masking.MaskingTrainer`, such as
                ``accelerator``.
        """
        layouts = [ChannelsFirst()]
        model = MaskingModel(
            self.network, ["attention"], masker=_AsMask(), sampler=Sigmoid(), layouts=layouts
        )
        how = FineTune(lr=lr, optimizer=optimizer, stay=0.0, classifier_first=1.0, masker_first=0.0)
        with given_back(self.network):
            self.network.classifier.requires_grad_(False)
            return MaskingTrainer(model, train_classifier=how, **settings)

    def save(self, folder: str | Path, *, notes: Mapping[str, Any] | None = None) -> None:
        """Write the stream without the classifier to a folder; ``notes`` are JSON values."""
        network = self.network
        config = {
            "layers": list(network.layers),
            "pool": network.pool,
            "project": isinstance(network.stream.project, nn.Linear),
            "classifier": {
                "class": type(network.classifier).__name__,
                "saved": False,
                "fingerprint": fingerprint(network.classifier),
            },
            "notes": notes or {},
        }
        write(Path(folder) / _FILE, plain(config), network.stream.state_dict())

    @classmethod
    def load(cls, folder: str | Path, classifier: nn.Module, **dry_run: Any) -> CAStream:
        """Load a saved stream for the classifier that it was trained with.

        Args:
            classifier: With other weights, a warning is issued.
            **dry_run: ``example_inputs`` and ``additional_forward_args``, if needed.

        Raises:
            CheckpointError: If the folder holds no stream, was altered, or does not fit.
        """
        config, weights = read(Path(folder) / _FILE, _WAY_OUT)
        try:
            made = cls(
                classifier,
                config["layers"],
                pool=config["pool"],
                project=config["project"],
                **dry_run,
            )
            made.network.stream.load_state_dict(weights)
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(folder, f"it does not fit this classifier ({error})") from error
        check_classifier(folder, config["classifier"], weights, made.network.classifier)
        return made
