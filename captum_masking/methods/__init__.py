"""Other saliency methods, each as a Captum attribution, one file each.

Only ``CAStream`` and the members of an ``Ensemble`` need training. Shared arguments:

- ``forward_func``: a classifier, a ``MaskingModel`` or any callable that returns logits.
- ``layer``: the module whose feature map is read, or its name; ``"avgpool.input"`` reads the input
  of a module.
- ``score``: called as ``score(logits, classes)`` with ``(B, K)`` and ``(B,)``; returns the number
  ``(B,)`` that a method explains. Each method's default is that of its paper.
- ``infill``: what fills the holes, see :mod:`captum_masking.parts.infill`.
- ``seed``: seed of random numbers; torch's random state does not change.

Shared arguments of ``attribute``:

- ``inputs``: ``(B, C, *spatial)`` or vectors ``(B, F)``, floating point; or a tuple of such.
- ``target``: any form Captum takes; None is the predicted class. Or a callable that turns what the
  model returns into one score for each example, ``(B,)``; :mod:`captum_masking.methods.targets` has
  some for detectors and segmentation.
- ``additional_forward_args``: passed to ``forward_func``.
- ``perturbations_per_eval``: copies of each example per forward pass; limits the memory.
- ``show_progress``: whether to show a progress bar.

Maps are shaped like the inputs, with one value per position, repeated over channels.
"""

from typing import TYPE_CHECKING

from captum_masking._base import lazily

if TYPE_CHECKING:
    from captum_masking.methods.attention import AttentionRollout, TransformerRelevance
    from captum_masking.methods.attribution_mask import AttributionMask
    from captum_masking.methods.ca_stream import CAStream
    from captum_masking.methods.ensemble import Ensemble
    from captum_masking.methods.extremal import ExtremalPerturbation
    from captum_masking.methods.opti_cam import OptiCAM
    from captum_masking.methods.rise import Rise
    from captum_masking.methods.score_cam import ScoreCAM

__all__ = [
    "AttentionRollout",
    "AttributionMask",
    "CAStream",
    "Ensemble",
    "ExtremalPerturbation",
    "OptiCAM",
    "Rise",
    "ScoreCAM",
    "TransformerRelevance",
]

# The command line lists them without torch.
_HOMES = {
    "AttentionRollout": "attention",
    "AttributionMask": "attribution_mask",
    "CAStream": "ca_stream",
    "Ensemble": "ensemble",
    "ExtremalPerturbation": "extremal",
    "OptiCAM": "opti_cam",
    "Rise": "rise",
    "ScoreCAM": "score_cam",
    "TransformerRelevance": "attention",
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
