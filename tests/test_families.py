"""One line for each family of classifiers; each inherits every promise below."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache

import pytest
import torch
from networks import assert_same, everything, mixed_modes
from test_encoder import SkipInit
from torch import Tensor, nn

from captum_masking import MaskingModel, MaskingSaliency, MaskingTrainer
from captum_masking.model.taps import logits_of

CLASSES = 5


def torchvision(name: str, **options) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        models = pytest.importorskip("torchvision.models")
        return getattr(models, name)(weights=None, num_classes=CLASSES, **options)

    return make


def torchvision_vgg() -> nn.Module:
    network = torchvision("vgg11_bn")()
    network.avgpool, network.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(512, CLASSES)
    return network  # without the head's 120 million weights


def torchvision_vit() -> nn.Module:
    models = pytest.importorskip("torchvision.models")
    sizes = {"num_layers": 3, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
    return models.VisionTransformer(image_size=48, patch_size=8, num_classes=CLASSES, **sizes)


def torchvision_maxvit() -> nn.Module:
    models = pytest.importorskip("torchvision.models")
    sizes = {"stem_channels": 8, "block_channels": [8, 16], "block_layers": [1, 1]}
    sizes |= {"head_dim": 4, "stochastic_depth_prob": 0.0, "partition_size": 2}
    return models.MaxVit(input_size=(64, 64), num_classes=CLASSES, **sizes)


def torchvision_swin() -> nn.Module:
    swin = pytest.importorskip("torchvision.models.swin_transformer")
    sizes = {"embed_dim": 8, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 2]}
    return swin.SwinTransformer([4, 4], window_size=[4, 4], num_classes=CLASSES, **sizes)


def timm(name: str, **options) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        return pytest.importorskip("timm").create_model(name, num_classes=CLASSES, **options)

    return make


def transformers(name: str, **config) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        library = pytest.importorskip("transformers")
        settings = getattr(library, f"{name}Config")(num_labels=CLASSES, **config)
        return getattr(library, f"{name}ForImageClassification")(settings)

    return make


TINY_VIT = {"depth": 6, "embed_dim": 16, "num_heads": 2}
TINY_SWIN = {"embed_dim": 8, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 2, 2), "window_size": 4}
HF_VIT = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}

# How to make it, the size of its inputs, and the grids of the two layers that are found.
FAMILIES: dict[str, tuple[Callable[[], nn.Module], tuple[int, int], list[tuple[int, int]]]] = {
    # torchvision
    "resnet18": (torchvision("resnet18"), (64, 96), [(4, 6), (2, 3)]),
    "resnext50_32x4d": (torchvision("resnext50_32x4d"), (64, 64), [(4, 4), (2, 2)]),
    "densenet121": (torchvision("densenet121"), (64, 64), [(4, 4), (2, 2)]),
    "vgg11_bn": (torchvision_vgg, (64, 64), [(4, 4), (2, 2)]),
    "mobilenet_v2": (torchvision("mobilenet_v2"), (64, 96), [(4, 6), (2, 3)]),
    "mobilenet_v3_small": (torchvision("mobilenet_v3_small"), (64, 64), [(4, 4), (2, 2)]),
    "efficientnet_b0": (torchvision("efficientnet_b0"), (64, 64), [(4, 4), (2, 2)]),
    "convnext_tiny": (torchvision("convnext_tiny"), (64, 96), [(4, 6), (2, 3)]),
    "regnet_y_400mf": (torchvision("regnet_y_400mf"), (64, 64), [(4, 4), (2, 2)]),
    "shufflenet_v2_x0_5": (torchvision("shufflenet_v2_x0_5"), (64, 64), [(4, 4), (2, 2)]),
    "squeezenet1_1": (torchvision("squeezenet1_1"), (64, 64), [(7, 7), (3, 3)]),
    "inception_v3": (torchvision("inception_v3", init_weights=False), (107, 107), [(5, 5), (2, 2)]),
    "googlenet": (torchvision("googlenet", init_weights=False), (64, 64), [(4, 4), (2, 2)]),
    "vit": (torchvision_vit, (48, 48), [(6, 6), (6, 6)]),
    "swin": (torchvision_swin, (64, 96), [(4, 6), (2, 3)]),
    "maxvit": (torchvision_maxvit, (64, 64), [(16, 16), (8, 8)]),
    # timm
    "timm resnet10t": (timm("resnet10t"), (64, 96), [(4, 6), (2, 3)]),
    "timm convnext_atto": (timm("convnext_atto"), (64, 64), [(4, 4), (2, 2)]),
    "timm vit_tiny_patch16_224": (
        timm("vit_tiny_patch16_224", img_size=(64, 96), **TINY_VIT),
        (64, 96),
        [(4, 6), (4, 6)],
    ),
    "timm vit_medium_patch16_reg4_gap_256": (
        timm("vit_medium_patch16_reg4_gap_256", img_size=64, **TINY_VIT),
        (64, 64),
        [(4, 4), (4, 4)],
    ),
    "timm vit_small_patch14_reg4_dinov2": (
        timm("vit_small_patch14_reg4_dinov2", img_size=42, **TINY_VIT),
        (42, 42),
        [(3, 3), (3, 3)],
    ),
    "timm deit_tiny_distilled_patch16_224": (
        timm("deit_tiny_distilled_patch16_224", img_size=(48, 32), **TINY_VIT),
        (48, 32),
        [(3, 2), (3, 2)],
    ),
    "timm swin_tiny_patch4_window7_224": (
        timm("swin_tiny_patch4_window7_224", img_size=(64, 96), **TINY_SWIN),
        (64, 96),
        [(4, 6), (2, 3)],
    ),
    # Hugging Face
    "ViTForImageClassification": (
        transformers("ViT", image_size=(32, 48), patch_size=8, num_hidden_layers=6, **HF_VIT),
        (32, 48),
        [(4, 6), (4, 6)],
    ),
    "ResNetForImageClassification": (
        transformers("ResNet", embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1] * 4),
        (64, 96),
        [(4, 6), (2, 3)],
    ),
    "SwinForImageClassification": (
        transformers(
            "Swin",
            **{"image_size": 64, "embed_dim": 8, "window_size": 2, "depths": [1, 1, 2, 1]},
            num_heads=[1, 2, 2, 2],
        ),
        (64, 64),
        [(4, 4), (2, 2)],
    ),
}


def initialize(network: nn.Module) -> None:
    """Fast, and heads that start at zero say something."""
    random = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        if parameter.dim() > 1:
            limit = (3 / parameter[0].numel()) ** 0.5
            parameter.data.uniform_(-limit, limit, generator=random)
        else:
            parameter.data.fill_(0.0 if name.endswith("bias") else 1.0)


@cache
def built(name: str) -> tuple[nn.Module, MaskingModel]:
    """Make a family's classifier and its model, once for all tests; both are left as they were."""
    make, size, _ = FAMILIES[name]
    with torch.random.fork_rng(), SkipInit():
        torch.manual_seed(0)
        classifier = make().eval()
    initialize(classifier)
    with torch.random.fork_rng():
        model = MaskingModel(classifier, example_inputs=torch.randn(1, 3, *size))
    return classifier, model.eval()


@pytest.fixture(params=FAMILIES)
def family(request) -> tuple[str, nn.Module, MaskingModel, Tensor]:
    name = request.param
    classifier, model = built(name)
    return name, classifier, model, torch.randn(2, 3, *FAMILIES[name][1])


def test_its_layers_are_found_and_read_as_grids(family):
    name, _, model, inputs = family
    with torch.no_grad():
        _, features = model.read((inputs,))
    assert [tuple(maps.shape[2:]) for maps in features.maps] == FAMILIES[name][2]
    assert all(len(maps) == 2 and maps.is_floating_point() for maps in features.maps)


def test_its_logits_are_those_of_the_bare_classifier_bit_by_bit(family):
    _, classifier, model, inputs = family
    with torch.no_grad():
        expected = logits_of(classifier(inputs))
        assert torch.equal(model(inputs), expected)
        assert torch.equal(model.explain(inputs)[0], expected)


def test_each_image_gets_a_mask_of_its_own_size_in_a_batch_as_alone(family):
    _, _, model, inputs = family
    with torch.no_grad():
        mask = model.mask(inputs)
        alone = torch.cat([model.mask(image[None]) for image in inputs])
    assert mask.shape == (2, 1, *inputs.shape[2:]) and 0 <= mask.min() <= mask.max() <= 1
    torch.testing.assert_close(mask, alone, atol=1e-4, rtol=0)
    assert not torch.equal(mask[0], mask[1])


def test_it_is_explained_and_its_masker_trained_with_no_trace_on_the_classifier(family):
    _, classifier, model, inputs = family
    masker = copy.deepcopy(model.masker)
    fresh = MaskingModel(classifier, model.layers, masker=masker, layouts=model.layouts)
    trainer = MaskingTrainer(fresh, train_classifier=False)
    try:
        mixed_modes(classifier)
        before, random = everything(classifier), torch.get_rng_state()
        attribution = MaskingSaliency(fresh).attribute(inputs, target=1)
        assert torch.equal(torch.get_rng_state(), random)
        trainer.step(inputs, torch.tensor([0, 1]))
        assert_same(before, everything(classifier))
    finally:
        classifier.eval().requires_grad_(True)
    assert attribution.shape == inputs.shape
    pairs = zip(masker.parameters(), model.masker.parameters(), strict=True)
    assert not any(torch.equal(after, before) for after, before in pairs)
