"""Rows of the benchmark: every method of Captum that applies to the classifier."""

from __future__ import annotations

from torch import Tensor, nn

from captum_masking.benchmark.alone import one_by_one
from captum_masking.benchmark.captum_options import fit, words
from captum_masking.benchmark.captum_recipes import RECIPES, Recipe
from captum_masking.benchmark.captum_subject import Subject
from captum_masking.benchmark.lending import Lender, quiet
from captum_masking.benchmark.method import Explain, Method

FAMILY = "captum"


def captum_methods(
    classifier: nn.Module, layer: str, example: Tensor
) -> tuple[dict[str, Method], dict[str, str]]:
    """Make a row of each method of Captum that applies.

    Each works on a copy of its own; the classifier is not changed. Those that change the gradient
    of ReLU get a copy in which each ReLU6 is a ReLU and a cap, with the same outputs.

    Args:
        classifier: An eager module.
        layer: Whose maps Grad-CAM weights, usually the deepest.
        example: Inputs ``(B, C, H, W)`` to try on; real images at best. Two are used.

    Returns:
        ``(methods, left_out)``: rows by the name of Captum's class, and why others are missing.

    Raises:
        ValueError: If there is no such layer.

    Source:
        Captum 0.9; settings and what each needs are in ``captum_recipes.py``.

    Example:
        >>> import torch
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.SiLU(), nn.Flatten(), nn.Linear(64, 2))
        >>> methods, left_out = captum_methods(network, "1", torch.rand(2, 3, 4, 4))
        >>> methods["Occlusion"].maps(torch.rand(2, 3, 4, 4), torch.tensor([0, 1])).shape
        torch.Size([2, 1, 4, 4])
        >>> left_out["GuidedBackprop"]
        'the classifier has no ReLU, whose gradient it would change'
    """
    subject = Subject(classifier, layer, example[:2])
    reasons = {name: _why_not(recipe, subject) for name, recipe in RECIPES.items()}
    methods = {
        name: Method(_explain(recipe, subject), FAMILY, words(recipe.options))
        for name, recipe in RECIPES.items()
        if not reasons[name]
    }
    return methods, {name: reason for name, reason in reasons.items() if reason}


def _why_not(recipe: Recipe, subject: Subject) -> str:
    return next((reason for no in recipe.obstacles if (reason := no(subject))), "")


def _explain(recipe: Recipe, subject: Subject) -> Explain:
    lender = Lender(recipe.network(subject))

    def explain(inputs: Tensor, target: Tensor) -> Tensor:
        images = inputs.detach().clone().requires_grad_()
        with lender.lent() as network, quiet():
            method = recipe.build(network, network.get_submodule(subject.layer))
            values = method.attribute(images, target=target, **fit(recipe.options, images))
        return recipe.reduce(values.detach(), inputs.shape[2:])

    return one_by_one(explain) if recipe.alone else explain
