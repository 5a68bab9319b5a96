"""The names of methods, for completion and help, without importing their libraries."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from captum_masking import methods

#: The masker, masks optimized per input, and the other methods of this package.
OURS = ("MaskingSaliency", "PerInput", *methods.__all__)

CAPTUM = (
    *("Saliency", "InputXGradient", "GuidedBackprop", "Deconvolution", "IntegratedGradients"),
    *("GradientShap", "DeepLift", "LayerGradCam", "GuidedGradCam", "Occlusion"),
    *("FeatureAblation", "NoiseTunnel"),
)
CAMS = (
    *("GradCAM", "HiResCAM", "GradCAMPlusPlus", "XGradCAM", "LayerCAM", "EigenCAM"),
    *("EigenGradCAM", "ScoreCAM", "AblationCAM"),
)

#: Every possible row of a benchmark.
METHODS = (*OURS, *CAPTUM, *(f"pytorch-grad-cam {name}" for name in CAMS))


def complete(context: click.Context, option: click.Parameter, word: str) -> list[CompletionItem]:
    """Complete the last of several comma-separated names."""
    *before, last = word.split(",")
    found = (name for name in METHODS if name.lower().startswith(last.lower()))
    return [CompletionItem(",".join([*before, name])) for name in found]
