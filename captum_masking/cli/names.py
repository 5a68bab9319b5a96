"""The names of methods, for completion and help: to list them no library is imported."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from captum_masking import methods

#: What is predicted by a masker, what is optimized for each input, and other methods of ours.
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

#: Of every row that a benchmark may have.
METHODS = (*OURS, *CAPTUM, *(f"pytorch-grad-cam {name}" for name in CAMS))


def complete(context: click.Context, option: click.Parameter, word: str) -> list[CompletionItem]:
    """Complete the last of several names with commas between."""
    *before, last = word.split(",")
    found = (name for name in METHODS if name.lower().startswith(last.lower()))
    return [CompletionItem(",".join([*before, name])) for name in found]
