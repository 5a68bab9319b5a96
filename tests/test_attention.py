"""Attention rollout and transformer relevance: worked by hand, by loops, and on real libraries."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from networks import HEADS, PATCH, WIDTH, ViT, assert_same, cnn, everything, mixed_modes
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from captum_masking import MaskingModel
from captum_masking.methods import AttentionRollout, TransformerRelevance
from captum_masking.model.attention import Attention
from captum_masking.model.layouts import Tokens

BOTH = pytest.mark.parametrize("method", [AttentionRollout, TransformerRelevance])


# ---- Attention, written in every way there is


def by_method(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v


def by_function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = nn.functional.softmax(q @ k.mT / q.shape[-1] ** 0.5, dim=3, dtype=torch.float32)
    weights *= 1  # in place, as some do
    return weights.to(v.dtype) @ v


def heads_as_rows(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    weights = torch.softmax(torch.bmm(q, k.mT) / q.shape[-1] ** 0.5, dim=-1)
    return torch.bmm(weights, v).unflatten(0, (-1, HEADS))


WAYS = [scaled_dot_product_attention, by_method, by_function, heads_as_rows]


class Recorder:
    """Attention written out, which keeps what it sees: the oracle's eyes."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        exps = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).exp()
        self.weights.append(exps / exps.sum(-1, keepdim=True))
        return self.weights[-1] @ v


def read(network: ViT, inputs: Tensor, target: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return each layer's weights and the gradients of a logit, by autograd of plain formulas."""
    twin = copy.deepcopy(network).eval()
    twin.attend = recorder = Recorder()
    logit = twin(inputs)[:, target].sum()
    return recorder.weights, list(torch.autograd.grad(logit, recorder.weights))


class Seen:
    """A layout that keeps the values of all tokens, ``(B, N)``."""

    def __init__(self, prefix: int, stride: int) -> None:
        self.tokens, self.prefix = Tokens(prefix, (stride, stride)), prefix

    def __call__(self, row: Tensor, size: tuple[int, ...]) -> Tensor:
        self.row = row[..., 0]
        return self.tokens(row, size)


def values(method, network, inputs, target=0, *, prefix=1, stride=PATCH, **options) -> Tensor:
    """Return the values of all tokens, ``(B, N)``."""
    layout = Seen(prefix, stride)
    method(network, layout=layout, **options).attribute(inputs, target=target)
    return layout.row


@pytest.fixture
def pictures() -> Tensor:
    return torch.randn(3, 3, 8, 12, generator=torch.Generator().manual_seed(1))


# ---- Worked by hand


def test_one_layers_rollout_is_half_of_the_class_tokens_attention(pictures):
    network = ViT(1)
    (weights,), _ = read(network, pictures, 0)
    expected = weights.mean(1)[:, 0] / 2
    expected[:, 0] += 0.5
    torch.testing.assert_close(values(AttentionRollout, network, pictures), expected)


def test_one_layers_relevance_is_attention_times_its_positive_gradient(pictures):
    network = ViT(1)
    (weights,), (slopes,) = read(network, pictures, 2)
    expected = (weights * slopes).clamp(min=0).mean(1)[:, 0]
    found = values(TransformerRelevance, network, pictures, 2)
    torch.testing.assert_close(found, expected)
    assert (found[:, 1:].amax(1) > 0).all()


class ByHand(nn.Module):
    """One head over a class token and two patches: all that is multiplied stands here.

    A pixel is a patch. The class token asks with 1, and a patch is known by log 2 times its pixel,
    so that pixels 0 and 1 weigh 1 and 2, and the class token itself, known by 0, weighs 1. Values
    are the pixel and, in the second class's place, its negative.
    """

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.ones_(self.patches.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        pixels = self.patches(inputs).flatten(2).mT  # (B, 2, 1)
        tokens = torch.cat([torch.zeros_like(pixels[:, :1]), pixels], dim=1)
        query, key = torch.ones_like(tokens), tokens * torch.tensor(2.0).log()
        value = torch.cat([tokens, -tokens], dim=-1)  # (B, 3, 2)
        return scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])[:, 0, 0]


def test_a_transformer_of_one_layer_worked_by_hand():
    picture = torch.tensor([[[[1.0, 0.0]]]])  # weights 1/4 (class token), 2/4 and 1/4
    rollout = AttentionRollout(ByHand(), layout=Tokens(1, (1, 1))).attribute(picture)
    torch.testing.assert_close(rollout, torch.tensor([[[[0.25, 0.125]]]]))  # half of them
    relevance = TransformerRelevance(ByHand())  # the gradient of a weight is the value: 1 and 0
    torch.testing.assert_close(
        relevance.attribute(picture, target=0), torch.tensor([[[[0.5, 0.0]]]])
    )
    torch.testing.assert_close(relevance.attribute(picture, target=1), torch.zeros(1, 1, 1, 2))


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_uniform_attention_rolls_out_to_the_closed_form(pictures, layers):
    network = ViT(layers)
    for block in network.blocks:
        nn.init.zeros_(block.qkv.weight), nn.init.zeros_(block.qkv.bias)
    found = values(AttentionRollout, network, pictures)
    count = 1 + 2 * 3
    share = (1 - 0.5**layers) / count
    torch.testing.assert_close(found[:, 1:], torch.full((3, 6), share))
    torch.testing.assert_close(found[:, 0], torch.full((3,), share + 0.5**layers))


def test_attention_to_oneself_alone_carries_nothing_to_the_class_token(pictures):
    def own(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product_attention(q, k, v, torch.eye(q.shape[2], dtype=torch.bool))

    for method in (AttentionRollout, TransformerRelevance):
        maps = method(ViT(3, attend=own)).attribute(pictures, target=0)
        assert torch.equal(maps, torch.zeros_like(pictures))


# ---- Slow loops written from the formulas


def slow_rollout(weights: list[Tensor], fuse: Callable = torch.mean) -> Tensor:
    """Multiply whole matrices, one example at a time; return R, ``(B, N, N)``."""
    rolled = []
    for example in range(len(weights[0])):
        product = torch.eye(weights[0].shape[-1])
        for layer in weights:
            rows = fuse(layer[example], 0) + torch.eye(layer.shape[-1])
            product = torch.stack([row / row.sum() for row in rows]) @ product
        rolled.append(product)
    return torch.stack(rolled)


def slow_relevance(weights: list[Tensor], slopes: list[Tensor]) -> Tensor:
    relevances = []
    for example in range(len(weights[0])):
        relevance = torch.eye(weights[0].shape[-1])
        for layer, slope in zip(weights, slopes, strict=True):
            pairs = zip(layer[example], slope[example], strict=True)
            heads = [(a * g).clamp(min=0) for a, g in pairs]
            relevance = relevance + sum(heads) / len(heads) @ relevance
        relevances.append(relevance - torch.eye(len(relevance)))
    return torch.stack(relevances)


def patches_mean(tokens: Tensor) -> Tensor:
    return tokens[:, -6:].mean(1)


def rows_of(kind: str, extra: int, patches: int = 6) -> Tensor:
    """Say which tokens are read, and with what share."""
    shares = torch.zeros(extra + patches)
    if kind in ("class token", "both"):
        shares[0] = 1.0
    if kind == "two class tokens":
        shares[:2] = 0.5
    if kind in ("patches", "both"):
        shares[extra:] = 1 / patches
    return shares / shares.sum()


KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "class token": lambda tokens: tokens[:, 0],
    "two class tokens": lambda tokens: tokens[:, 0] + 2 * tokens[:, 1],
    "patches": patches_mean,
    "both": lambda tokens: tokens[:, 0] - patches_mean(tokens),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("extra", [2, 5])
@pytest.mark.parametrize("layers", [1, 3])
def test_maps_are_those_of_slow_loops_whatever_tokens_are_read(pictures, kind, extra, layers):
    network = ViT(layers, extra=extra, pool=KINDS[kind])
    weights, slopes = read(network, pictures, 1)
    for method, slow in (
        (AttentionRollout, slow_rollout(weights)),
        (TransformerRelevance, slow_relevance(weights, slopes)),
    ):
        expected = rows_of(kind, extra) @ slow
        found = values(method, network, pictures, 1, prefix=extra)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
        grid = expected[:, extra:].reshape(3, 1, 2, 3)
        enlarged = nn.functional.interpolate(grid, (8, 12), mode="bilinear").expand(-1, 3, -1, -1)
        maps = method(network).attribute(pictures, target=1)  # finds out about tokens itself
        torch.testing.assert_close(maps, enlarged, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("fuse", [torch.amax, torch.amin])
def test_heads_may_be_fused_by_their_greatest_or_least(pictures, fuse):
    network = ViT(3)
    weights, _ = read(network, pictures, 0)
    found = values(AttentionRollout, network, pictures, fuse=fuse)
    torch.testing.assert_close(found, slow_rollout(weights, fuse)[:, 0], atol=1e-6, rtol=1e-4)


def test_the_lowest_weights_are_left_out_of_each_example_by_itself(pictures):
    network = ViT(2)
    weights, _ = read(network, pictures, 0)

    def kept(heads: Tensor, axis: int) -> Tensor:
        fused = heads.mean(axis)
        limit = fused[:, 1:].flatten().sort().values[int(0.5 * 42) - 1]
        fused[:, 1:][fused[:, 1:] <= limit] = 0
        return fused

    found = values(AttentionRollout, network, pictures, discard=0.5)
    torch.testing.assert_close(found, slow_rollout(weights, kept)[:, 0], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_rolled_out_row_adds_to_one(pictures, kind):
    for options in ({}, {"fuse": torch.amax}, {"discard": 0.9}):
        network = ViT(4, extra=3, pool=KINDS[kind])
        row = values(AttentionRollout, network, pictures, prefix=3, **options)
        torch.testing.assert_close(row.sum(1), torch.ones(3))
        assert (row >= 0).all()


# ---- What the two say


@BOTH
def test_a_masked_token_has_no_share(pictures, method):
    seen = torch.ones(7, 7, dtype=torch.bool)
    seen[:, 4] = False
    seen[4, 4] = True  # or its own row would have no weights at all

    for mask in (seen, torch.zeros(7, 7).masked_fill(~seen, -torch.inf)):
        attend = lambda q, k, v, mask=mask: scaled_dot_product_attention(q, k, v, mask)  # noqa: E731
        row = values(method, ViT(3, attend=attend), pictures)
        assert (row[:, 4] == 0).all() and (row[:, [1, 2, 3, 5, 6]] > 0).any(1).all()


def test_a_token_whose_value_is_zero_is_attended_to_but_has_no_relevance(pictures):
    def mute(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        v = v.clone()
        v[:, :, 4] = 0
        return scaled_dot_product_attention(q, k, v)

    network = ViT(3, attend=mute)
    assert (values(TransformerRelevance, network, pictures)[:, 4] == 0).all()
    assert (values(AttentionRollout, network, pictures)[:, 4] > 0).all()


def test_relevance_grows_with_the_score_and_differs_between_targets(pictures):
    network = ViT(1)
    relevance = TransformerRelevance(network)
    first, other = (relevance.attribute(pictures, target=t) for t in (0, 1))
    assert not torch.allclose(first, other)
    with torch.no_grad():
        network.head.weight.mul_(3)
    torch.testing.assert_close(relevance.attribute(pictures, target=0), 3 * first)


def test_a_score_that_does_not_depend_on_attention_has_no_relevance(pictures):
    network = ViT(2, pool=KINDS["patches"])
    nn.init.zeros_(network.head.weight)
    found = TransformerRelevance(network).attribute(pictures, target=0)
    assert torch.equal(found, torch.zeros_like(pictures))
    row = values(AttentionRollout, network, pictures, prefix=1)
    torch.testing.assert_close(row.sum(1), torch.ones(3))  # there is attention all the same


@pytest.mark.filterwarnings("default:the target is not the predicted class")
def test_rollout_says_once_that_it_does_not_depend_on_the_target(pictures):
    network = ViT(2)
    predicted = network.eval()(pictures).argmax(1)
    rollout = AttentionRollout(network)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = rollout.attribute(pictures)
        rollout.attribute(pictures, target=predicted)
    with pytest.warns(UserWarning, match="does not depend.*TransformerRelevance") as said:
        for _ in range(2):
            assert torch.equal(rollout.attribute(pictures, target=(predicted + 1) % 4), expected)
    assert len(said) == 1 and said[0].filename == __file__
    with pytest.raises(AssertionError, match=r"0\.\.3"):
        rollout.attribute(pictures, target=7)


# ---- Every way of writing attention


@BOTH
@pytest.mark.parametrize("way", WAYS)
def test_plain_and_fused_attention_agree(pictures, method, way):
    network = ViT(3, attend=way)
    weights, slopes = read(network, pictures, 1)
    slow = slow_rollout(weights) if method is AttentionRollout else slow_relevance(weights, slopes)
    row = values(method, network, pictures, 1)
    torch.testing.assert_close(row, slow[:, 0], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("options", [{"is_causal": True}, {"scale": 0.1}, {"enable_gqa": True}])
def test_the_fused_functions_options_are_kept(pictures, options):
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if "enable_gqa" in options:
            k, v = k[:, :1], v[:, :1]
        return scaled_dot_product_attention(q, k, v, **options)

    network = ViT(2, attend=attend).eval()
    seen = Attention(network, len(pictures), lambda weights: None)
    with torch.no_grad():
        expected = network(pictures)
    with seen:
        found = network(pictures)
    torch.testing.assert_close(found, expected)


class ByTorch(nn.Module):
    """PyTorch's own layers, with a fast path of their own."""

    def __init__(self, need_weights: bool | None = None, batch_first: bool = True) -> None:
        super().__init__()
        options = {"batch_first": batch_first}
        self.need_weights, self.batch_first = need_weights, batch_first
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.patches = nn.Conv2d(3, WIDTH, PATCH, PATCH)
            layer = nn.TransformerEncoderLayer(WIDTH, HEADS, WIDTH, 0.1, norm_first=True, **options)
            self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.head = nn.Linear(WIDTH, 3)
            for one in self.layers.layers:
                nn.init.normal_(one.self_attn.in_proj_weight)

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.patches(inputs).flatten(2).mT
        tokens = tokens if self.batch_first else tokens.transpose(0, 1)
        if self.need_weights is None:
            tokens = self.layers(tokens)
        else:
            for layer in self.layers.layers:
                x = layer.norm1(tokens)
                x, _ = layer.self_attn(x, x, x, need_weights=self.need_weights)
                tokens = tokens + x
                tokens = tokens + layer._ff_block(layer.norm2(tokens))
        return self.head(tokens.mean(1 if self.batch_first else 0))


@BOTH
@pytest.mark.parametrize("batch_first", [True, False])
def test_pytorchs_layers_agree_with_and_without_their_fast_path(pictures, method, batch_first):
    """The oracle calls the layers so that they return their weights, and runs slow loops."""
    network = ByTorch(batch_first=batch_first).eval()
    weights: list[Tensor] = []
    tokens = network.patches(pictures).flatten(2).mT
    for layer in network.layers.layers:
        x = layer.norm1(tokens)
        attention = layer.self_attn
        q, k, v = nn.functional.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(
            3, -1
        )
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (q, k, v))
        weights.append((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1))
        tokens = tokens + attention.out_proj((weights[-1] @ v).transpose(1, 2).flatten(2))
        tokens = tokens + layer._ff_block(layer.norm2(tokens))
    slopes = torch.autograd.grad(network.head(tokens.mean(1))[:, 1].sum(), weights)
    slow = slow_rollout(weights) if method is AttentionRollout else slow_relevance(weights, slopes)
    for need_weights in (None, False, True):
        network.need_weights = need_weights
        row = values(method, network, pictures, 1, prefix=0)
        torch.testing.assert_close(row, slow.mean(1), atol=1e-6, rtol=1e-4)


class Pooled(nn.Module):
    """Patches, pooled by the attention of one query that is learned; that may not be asked."""

    def __init__(self, asked: bool = True) -> None:
        super().__init__()
        self.body, self.asked = ViT(2, extra=0, pool=lambda tokens: tokens), asked
        self.body.head = nn.Identity()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.query, self.head = nn.Parameter(torch.randn(WIDTH)), nn.Linear(WIDTH, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.body(inputs)[:, None]  # (B, 1, N, C): one head
        query = self.query.expand(len(inputs), 1, 1, -1)
        pooled = self.body.attend(query, tokens, tokens)[:, 0, 0]
        return self.head(pooled if self.asked else tokens[:, 0].mean(1))


@pytest.mark.parametrize("asked", [True, False])
def test_tokens_may_be_pooled_by_attention(pictures, asked):
    network = Pooled(asked).eval()
    network.body.attend = recorder = Recorder()
    logit = network(pictures)[:, 1].sum()
    weights = recorder.weights if asked else recorder.weights[:2]
    slopes = torch.autograd.grad(logit, weights)
    network.body.attend = scaled_dot_product_attention
    found = {
        method: values(method, network, pictures, 1, prefix=0)
        for method in (AttentionRollout, TransformerRelevance)
    }
    rolled, relevance = slow_rollout(weights[:2]), slow_relevance(weights[:2], slopes[:2])
    if asked:
        rolled = weights[2][:, 0] @ rolled
        pooling = (weights[2] * slopes[2]).clamp(min=0)[:, 0]
        relevance = pooling @ (relevance + torch.eye(6))
    torch.testing.assert_close(found[AttentionRollout], rolled.mean(1), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(found[TransformerRelevance], relevance.mean(1), atol=1e-6, rtol=1e-4)


# ---- Libraries


def torchvisions() -> nn.Module:
    vision = pytest.importorskip("torchvision.models.vision_transformer")
    network = vision.VisionTransformer(32, 16, 2, HEADS, WIDTH, 16, num_classes=3)
    nn.init.normal_(network.heads.head.weight)  # made as zeros
    return network


def timms(name: str, **options) -> nn.Module:
    timm = pytest.importorskip("timm")
    sizes = {"embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 3, "img_size": (32, 48)}
    return timm.create_model(name, **{**sizes, **options})


def faces(family: str, image_size: Any = (32, 48)) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "num_labels": 3}
    sizes |= {"intermediate_size": 24, "image_size": image_size, "patch_size": 16}
    kind = "ForImageClassification" + "WithTeacher" * (family == "DeiT")
    config = getattr(transformers, f"{family}Config")(**sizes)
    make = getattr(transformers, f"{family}{kind}")
    return make._from_config(config, attn_implementation="sdpa")


def of_timm(network: nn.Module, inputs: Tensor) -> tuple[list[Tensor], Tensor]:
    """Return the weights of each layer and the logits, with its switch for fused attention off."""
    weights: list[Tensor] = []
    places = [part for name, part in network.named_modules() if name.endswith("attn_drop")]
    switched = [part for part in network.modules() if getattr(part, "fused_attn", False)]
    hooks = [
        part.register_forward_hook(lambda _, taken, given: weights.append(given)) for part in places
    ]
    for part in switched:
        part.fused_attn = False
    logits = network(inputs)
    for part in switched:
        part.fused_attn = True
    for hook in hooks:
        hook.remove()
    return weights, logits


def of_faces(network: nn.Module, inputs: Tensor) -> tuple[list[Tensor], Tensor]:
    """Return the weights that a network of Hugging Face gives out itself."""
    network.set_attn_implementation("eager")
    answer = network(inputs, output_attentions=True)
    network.set_attn_implementation("sdpa")
    return list(answer.attentions), answer.logits


def of_torchvision(network: nn.Module, inputs: Tensor) -> tuple[list[Tensor], Tensor]:
    """Return what the layers answer when they are asked for weights of each head."""
    weights: list[Tensor] = []

    def ask(_: nn.Module, taken: tuple, options: dict) -> tuple[tuple, dict]:
        return taken, {"need_weights": True, "average_attn_weights": False}

    hooks = []
    for layer in network.encoder.layers:
        hooks.append(layer.self_attention.register_forward_pre_hook(ask, with_kwargs=True))
        hooks.append(
            layer.self_attention.register_forward_hook(lambda _, x, out: weights.append(out[1]))
        )
    logits = network(inputs)
    for hook in hooks:
        hook.remove()
    return weights, logits


TIMM, POOLED = "vit_tiny_patch16_224", {"class_token": False, "patch_size": 8}
LIBRARIES: dict[str, tuple[Callable[[], nn.Module], Callable, str, int]] = {
    "torchvision": (torchvisions, of_torchvision, "class token", 1),
    "timm": (lambda: timms(TIMM), of_timm, "class token", 1),
    "timm, patches": (lambda: timms(TIMM, global_pool="avg"), of_timm, "patches", 1),
    "timm, registers": (lambda: timms(TIMM, reg_tokens=4), of_timm, "class token", 5),
    "timm, distilled": (
        lambda: timms("deit_tiny_distilled_patch16_224"),
        of_timm,
        "two class tokens",
        2,
    ),
    "timm, BEiT": (lambda: timms("beit_base_patch16_224"), of_timm, "patches", 1),
    "ViT": (lambda: faces("ViT"), of_faces, "class token", 1),
    "DeiT": (lambda: faces("DeiT"), of_faces, "two class tokens", 2),
    "BEiT": (lambda: faces("Beit"), of_faces, "patches", 1),
    "DINOv2": (lambda: faces("Dinov2WithRegisters", 32), of_faces, "both", 5),
}


@pytest.mark.parametrize("name", LIBRARIES)
def test_libraries_fused_attention_is_read_as_they_give_it_out_themselves(name):
    torch.manual_seed(0)
    make, own_weights, kind, prefix = LIBRARIES[name]
    network = make().eval()
    inputs = torch.randn(2, 3, *((32, 32) if name == "torchvision" else (32, 48)))
    before = everything(network)
    found = {
        method: values(method, network, inputs, 1, prefix=prefix, stride=16)
        for method in (AttentionRollout, TransformerRelevance)
    }
    assert_same(everything(network), before)
    weights, logits = own_weights(network, inputs)
    shares = rows_of(kind, prefix, patches=weights[0].shape[-1] - prefix)
    rolled = shares @ slow_rollout([each.detach() for each in weights])
    torch.testing.assert_close(found[AttentionRollout], rolled, atol=1e-6, rtol=1e-4)
    if name != "torchvision":  # which gives out a view, by which its answer has no gradient
        slopes = torch.autograd.grad(logits[:, 1].sum(), weights)
        relevance = shares @ slow_relevance(weights, slopes)
        torch.testing.assert_close(found[TransformerRelevance], relevance, atol=1e-6, rtol=1e-4)


@BOTH
@pytest.mark.parametrize("pool", ["token", "avg", "map"])
def test_timms_plain_and_fused_attention_agree(method, pool):
    network = timms(TIMM, global_pool=pool, class_token=pool == "token").eval()
    inputs = torch.randn(2, 3, 32, 48)
    expected = method(network).attribute(inputs, target=1)
    switched = [part for part in network.modules() if hasattr(part, "fused_attn")]
    assert len(switched) == 2 + (pool == "map")
    for part in switched:
        part.fused_attn = False
    torch.testing.assert_close(method(network).attribute(inputs, target=1), expected)


@BOTH
def test_a_head_that_a_library_runs_but_does_not_ask_is_left_out(method):
    """The image classifier of SigLIP pools by attention, and answers by the mean of patches."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
    sizes |= {"intermediate_size": 24, "image_size": 32, "patch_size": 16}
    config = transformers.SiglipConfig(vision_config=sizes)
    network = transformers.SiglipForImageClassification(config).eval()
    row = values(method, network, torch.randn(2, 3, 32, 32), 1, prefix=0, stride=16)
    assert row.shape == (2, 4) and (row > 0).all()


@pytest.mark.parametrize("count", [3, 6, 20])  # fewer than patches, as many, and more
def test_detection_tokens_after_the_patches_are_no_part_of_the_map(count):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "num_labels": 3}
    sizes |= {"intermediate_size": 24, "image_size": [32, 48], "patch_size": 16}
    torch.manual_seed(0)
    config = transformers.YolosConfig(**sizes, num_detection_tokens=count)
    make = transformers.YolosForObjectDetection._from_config
    network = make(config, attn_implementation="sdpa").eval()
    inputs = torch.randn(2, 3, 32, 48)
    weights, logits = of_faces(network, inputs)
    slopes = torch.autograd.grad(logits[:, 1, 2].sum(), weights)
    for method, slow in (
        (AttentionRollout, slow_rollout(weights)),
        (TransformerRelevance, slow_relevance(weights, slopes)),
    ):
        grid = slow[:, 1 + 6 + 1, 1:7].reshape(2, 1, 2, 3)  # the second one's row, over patches
        expected = nn.functional.interpolate(grid, (32, 48), mode="bilinear").expand(-1, 3, -1, -1)
        found = method(network).attribute(inputs, target=lambda answer: answer.logits[:, 1, 2])
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


# ---- Whatever is around the network


@BOTH
def test_a_network_may_come_in_any_callable_that_runs_it_in_python(pictures, method):
    network = ViT(2).eval()
    expected = method(network).attribute(pictures, target=1)
    compiled = torch.compile(network, backend="eager")
    compiled(pictures)

    @torch.no_grad()
    def without_gradients(inputs: Tensor) -> Tensor:
        return network(inputs)

    for function in (
        network.forward,
        lambda inputs: network(inputs),
        lambda inputs: {"logits": network(inputs)},
        nn.DataParallel(network),
        compiled,
        without_gradients,
        MaskingModel(network),
    ):
        found = method(function).attribute(pictures, target=1)
        torch.testing.assert_close(found, expected)
    with torch.inference_mode():
        torch.testing.assert_close(method(network).attribute(pictures, target=1), expected)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions_give_the_map(pictures, method, dtype):
    network = ViT(2)
    expected = method(network).attribute(pictures, target=1)
    found = method(network.to(dtype)).attribute(pictures.to(dtype), target=1)
    assert found.dtype == dtype
    tolerance = 1e-5 if dtype is torch.float64 else 0.03 * float(expected.max())
    torch.testing.assert_close(found.float(), expected, atol=tolerance, rtol=0)


@BOTH
def test_patches_cut_by_a_linear_layer_are_laid_out_by_the_aspect_of_the_image(pictures, method):
    network = ViT(2, extra=2)

    class ByLinear(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            folded = nn.functional.unfold(inputs, PATCH, stride=PATCH)
            weight, bias = network.patches.weight.flatten(1), network.patches.bias
            patches = nn.functional.linear(folded.mT, weight, bias)
            extra = network.extra.expand(len(inputs), -1, -1)
            tokens = torch.cat([extra, patches], dim=1)
            for block in network.blocks:
                tokens = block(tokens, network.attend)
            return network.head(tokens[:, 0])

    expected = method(network).attribute(pictures, target=1)
    torch.testing.assert_close(method(ByLinear()).attribute(pictures, target=1), expected)


# ---- No trace


class Breaks(nn.Module):
    """Raises in the middle of a network, after its first layer has attended."""

    def forward(self, tokens: Tensor) -> Tensor:
        raise ArithmeticError("the network broke")


@BOTH
def test_nothing_is_left_behind_also_after_an_exception(pictures, method):
    network = mixed_modes(ViT(3))
    network.head.weight.grad = torch.ones_like(network.head.weight)
    before, places = everything(network), dict(vars(torch.nn.functional))
    method(network).attribute(pictures, target=1)
    network.blocks[1].mlp[1] = Breaks()
    with pytest.raises(ArithmeticError):
        method(network).attribute(pictures, target=1)
    network.blocks[1].mlp[1] = nn.GELU()
    with pytest.raises(AssertionError, match="target"):
        method(network).attribute(pictures, target=99)
    assert_same(everything(network), {**before, "modes": everything(network)["modes"]})
    assert dict(vars(torch.nn.functional)) == places
    assert torch.overrides._get_current_function_mode() is None and torch.is_grad_enabled()


@BOTH
def test_threads_see_the_attention_of_their_own_pass(method):
    networks = [ViT(3, seed=seed).eval() for seed in range(2)]
    pictures = torch.randn(12, 1, 3, 8, 12)
    job = lambda i: method(networks[i % 2]).attribute(pictures[i], target=1)  # noqa: E731
    plain = lambda i: networks[i % 2](pictures[i]).detach()  # noqa: E731
    expected = [(job(i), plain(i)) for i in range(12)]
    with ThreadPoolExecutor(4) as pool:
        maps, logits = pool.map(job, range(12)), pool.map(plain, range(12))
        assert_same(list(zip(maps, logits, strict=True)), expected)


def test_rollout_keeps_of_the_graph_what_comes_after_the_last_layer(pictures):
    """Tensors that a backward pass would need are freed layer by layer."""
    alive = []
    for layers in (2, 6):
        network = ViT(layers).eval()
        seen = Attention(network, len(pictures), lambda weights: None)
        with seen, seen.only_the_end():
            network(pictures)
        alive.append(len(seen._saved))
    assert alive[0] == alive[1] > 0


# ---- What cannot be read is refused in words


def refused(network: Any, inputs: Tensor, error: type = RuntimeError, **options: Any) -> str:
    texts = []
    for method in (AttentionRollout, TransformerRelevance):
        with pytest.raises(error) as caught:
            method(network, **options).attribute(inputs, target=1)
        texts.append(str(caught.value))
    assert texts[0] == texts[1]
    return texts[0]


def test_a_network_without_attention_is_sent_to_a_method_that_needs_none(images):
    text = refused(cnn(), images)
    assert "Sequential" in text and "none of these ran" in text and "MaskingSaliency" in text


def test_a_traced_network_hides_its_attention_and_is_asked_for_in_python(pictures):
    traced = torch.jit.trace(ViT(1).eval(), pictures, check_trace=False)
    assert "plain module" in refused(traced, pictures)


def windows(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    cut = [x.unflatten(2, (-1, 2)).transpose(1, 2).flatten(0, 1) for x in (q, k, v)]
    out = scaled_dot_product_attention(*cut)
    return out.unflatten(0, (len(q), -1)).transpose(1, 2).flatten(2, 3)


def fewer_keys(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return scaled_dot_product_attention(q, k[:, :, ::2], v[:, :, ::2])


@pytest.mark.parametrize(
    "attend, got", [(windows, r"\(9, 2, 2, 2\)"), (fewer_keys, r"\(3, 2, 6, 3\) after 6 x 3")]
)
def test_attention_among_some_tokens_only_is_refused(pictures, attend, got):
    text = refused(ViT(2, attend=attend, extra=0, pool=KINDS["patches"]), pictures)
    assert re.search(got, text) and "windows" in text and "MaskingSaliency" in text


@pytest.mark.parametrize("views", ["one after the other", "as one batch"])
def test_a_network_that_looks_at_several_views_is_refused(pictures, views):
    network = ViT(2)

    def function(inputs: Tensor) -> Tensor:
        if views == "as one batch":
            return sum(network(torch.cat([inputs, inputs.flip(3)])).chunk(2))
        return network(inputs) + network(inputs.flip(3))

    assert "mirrored copy" in refused(function, pictures) or views == "as one batch"


def test_tokens_that_are_no_grid_are_asked_for(pictures):
    class Filled(ViT):
        """Puts the patches into a longer sequence without a torch.cat."""

        def forward(self, inputs: Tensor) -> Tensor:
            tokens = nn.functional.pad(self.patches(inputs).flatten(2).mT, (0, 0, 30, 0))
            for block in self.blocks:
                tokens = block(tokens, self.attend)
            return self.head(tokens[:, 0])

    network = Filled(2)  # more extra tokens than any usual network has
    text = refused(network, pictures, ValueError)
    assert "36 tokens of Filled" in text and "2 x 3" in text and "layout=Tokens" in text
    found = AttentionRollout(network, layout=Tokens(30, (PATCH, PATCH))).attribute(pictures)
    assert found.isfinite().all() and found.std() > 0


def test_an_answer_that_gradients_do_not_reach_is_refused(pictures):
    network = ViT(2, pool=lambda tokens: tokens[:, 0].detach())
    assert "gradients are cut" in refused(network, pictures)


@BOTH
def test_one_input_is_explained_and_others_are_passed_on(pictures, method):
    network, scale = ViT(1).eval(), torch.tensor([1.0, 2.0, 3.0])
    function = lambda inputs, scale: network(inputs) * scale[:, None]  # noqa: E731
    factor = scale[:, None, None, None] if method is TransformerRelevance else 1
    expected = factor * method(network).attribute(pictures, 1)
    torch.testing.assert_close(method(function).attribute(pictures, 1, scale), expected)
    with pytest.raises(TypeError, match="one tensor.*additional_forward_args"):
        method(function).attribute((pictures, scale[:, None]), 1)


@pytest.mark.parametrize("discard", [-0.1, 1, 1.5])
def test_a_share_to_discard_that_is_none_is_refused(discard):
    with pytest.raises(ValueError, match="discard must be a share"):
        AttentionRollout(ViT(1), discard=discard)
