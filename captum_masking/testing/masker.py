"""What a model, its trainer and its checkpoints ask of a masker, as a list of checks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from captum_masking.testing import decoding
from captum_masking.testing.report import Check, named, run_all


def masker_checks() -> Iterator[tuple[str, Check]]:
    """List the checks of a masker, as pairs of a name and a function.

    Each is called as ``check(masker, channels, dims=2)`` like :func:`check_masker`. In a test of
    your own::

        @pytest.mark.parametrize("name, check", masker_checks())
        def test_my_masker(name, check):
            check(MyMasker([8, 16]), [8, 16])

    Source:
        Own.

    Example:
        >>> [name for name, check in masker_checks()][0]
        'logits_have_one_channel_and_the_shape_of_the_grid'
    """
    return named(decoding.CHECKS)


def check_masker(
    masker: nn.Module, channels: Sequence[int] | None = None, *, dims: int | None = None
) -> None:
    """Run every check on a masker, and report all that fail. The masker is not changed.

    Args:
        masker: Called as ``masker(features, grid)``, and with ``target`` or ``area`` if its
            ``asks`` says so.
        channels: Of each feature map that it reads; None takes those in ``masker.settings``.
        dims: Spatial dimensions; None takes those in ``masker.settings``, or 2.

    Raises:
        AssertionError: If a check fails, naming each that does.
        ValueError: If there is no telling the channels.

    Source:
        Own, after scikit-learn's ``check_estimator``.

    Example:
        >>> from captum_masking.masker import Masker
        >>> check_masker(Masker([5, 3], width=4))
    """
    settings = getattr(masker, "settings", {})
    channels = settings.get("channels") if channels is None else channels
    if channels is None:
        raise ValueError(
            f"{type(masker).__name__} does not say which feature maps it reads; pass channels, "
            "such as check_masker(masker, [8, 16])."
        )
    dims = settings.get("dims", 2) if dims is None else dims
    run_all(decoding.CHECKS, masker, channels, dims=dims)
