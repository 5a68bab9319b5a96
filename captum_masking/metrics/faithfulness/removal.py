"""Deletion and insertion: how soon does the target go, or come, in the order of the map?"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from captum_masking._captum_compat import TargetType
from captum_masking.infill import Blur, Infill, Mean, gaussian_blur
from captum_masking.metrics.faithfulness.asking import Classifier
from captum_masking.metrics.faithfulness.curve import deletion_curve, insertion_curve
from captum_masking.metrics.faithfulness.means import MeanScore


class RiseBlur:
    """The image to start from in RISE's insertion: blurred by a kernel cut short.

    Args:
        sigma_px: Standard deviation of the Gaussian in pixels, > 0.
        taps: Length of the kernel, odd; its weights sum to one.

    Raises:
        ValueError: If an argument leaves its range.

    Source:
        Petsiuk et al. 2018 (RISE), with the 5 x 5 kernel of sigma 5 of the batched version in
        CA-Stream (Torres et al. 2024). A whole Gaussian is `Blur`.

    Example:
        >>> import torch
        >>> RiseBlur(sigma_px=0.6, taps=3)(torch.ones(1, 1, 3), hole=torch.ones(1, 1, 3))
        tensor([[[0.8336, 1.0000, 0.8336]]])
    """

    def __init__(self, *, sigma_px: float = 5.0, taps: int = 5) -> None:
        if not 0 < sigma_px < float("inf") or taps < 1 or taps % 2 == 0:
            raise ValueError(
                f"sigma_px must be positive and taps odd, but got {sigma_px} and {taps}; an odd "
                "kernel has a middle, for example taps=5."
            )
        self.sigma_px, self.taps = sigma_px, taps

    def __call__(self, inputs: Tensor, hole: Tensor) -> Tensor:
        """Return the images, blurred."""
        return gaussian_blur(inputs, self.sigma_px, self.taps // 2)

    def __repr__(self) -> str:
        return f"RiseBlur(sigma_px={self.sigma_px}, taps={self.taps})"


#: The protocol of RISE, for ``deletion(..., **RISE_DELETION)`` or ``Deletion(**RISE_DELETION)``:
#: steps of eight rows (1,792 pixels at 224 x 224, 28 steps), replaced by the mean color.
RISE_DELETION: dict[str, Any] = {"step_px": None, "infill": Mean()}

#: The protocol of RISE for `insertion`: the same steps, from a blurred image.
RISE_INSERTION: dict[str, Any] = {"step_px": None, "infill": RiseBlur()}


def deletion(
    classifier: Classifier,
    inputs: Tensor,
    masks: Tensor,
    target: TargetType,
    *,
    step_px: int | None = None,
    infill: Infill = Mean(),
    every_step: bool = False,
    batch_size: int = 32,
) -> Tensor:
    """Return the area under the deletion curve of each image; lower is better.

    Args:
        classifier: As in `deletion_curve`.
        inputs: As in `deletion_curve`.
        masks: As in `deletion_curve`.
        target: As in `deletion_curve`.
        step_px: As in `deletion_curve`.
        infill: As in `deletion_curve`.
        every_step: As in `deletion_curve`.
        batch_size: As in `deletion_curve`.

    Returns:
        Float32 ``(B,)`` in [0, 1] on the device of ``inputs``. A constant map, and one with NaN
        or infinity, takes the image away from top to bottom.

    Raises:
        ValueError: As `deletion_curve` does.
        TypeError: As `deletion_curve` does.
        TargetError: As `deletion_curve` does.

    Source:
        Petsiuk et al. 2018 (RISE). There a shorter last step counts as a whole one; at 224 x 224
        there is none.

    Example:
        >>> import torch
        >>> inputs = torch.tensor([[[[2.0, 0.0]]]])  # 0.8808, 0.5, 0.5
        >>> deletion(torch.nn.Flatten(), inputs, inputs, target=0, step_px=1)
        tensor([0.5952])
    """
    options: dict[str, Any] = {"step_px": step_px, "infill": infill, "every_step": every_step}
    return deletion_curve(classifier, inputs, masks, target, batch_size=batch_size, **options).auc


def insertion(
    classifier: Classifier,
    inputs: Tensor,
    masks: Tensor,
    target: TargetType,
    *,
    step_px: int | None = None,
    infill: Infill = Blur(sigma_px=5.0),
    every_step: bool = False,
    batch_size: int = 32,
) -> Tensor:
    """Return the area under the insertion curve of each image; higher is better.

    Args:
        classifier: As in `deletion_curve`.
        inputs: As in `deletion_curve`.
        masks: As in `deletion_curve`.
        target: As in `deletion_curve`.
        step_px: As in `deletion_curve`.
        infill: Gives the image to start from.
        every_step: As in `deletion_curve`.
        batch_size: As in `deletion_curve`.

    Returns:
        Float32 ``(B,)`` in [0, 1] on the device of ``inputs``. A constant map, and one with NaN
        or infinity, restores the image from top to bottom.

    Raises:
        ValueError: As `deletion_curve` does.
        TypeError: As `deletion_curve` does.
        TargetError: As `deletion_curve` does.

    Source:
        Petsiuk et al. 2018 (RISE), as in `deletion`.

    Example:
        >>> import torch
        >>> inputs = torch.tensor([[[[2.0, 0.0]]]])  # 0.5, 0.8808, 0.8808
        >>> insertion(torch.nn.Flatten(), inputs, inputs, target=0, step_px=1, infill=Mean())
        tensor([0.7856])
    """
    options: dict[str, Any] = {"step_px": step_px, "infill": infill, "every_step": every_step}
    return insertion_curve(classifier, inputs, masks, target, batch_size=batch_size, **options).auc


class Deletion(MeanScore):
    """Mean over images of `deletion`.

    Args:
        step_px: As in `deletion_curve`.
        infill: As in `deletion_curve`.
        every_step: As in `deletion_curve`.
        batch_size: As in `deletion_curve`.
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Petsiuk et al. 2018 (RISE); ``Deletion(**RISE_DELETION)`` is its protocol.

    Example:
        >>> import torch
        >>> metric, inputs = Deletion(step_px=1), torch.tensor([[[[2.0, 0.0]]]])
        >>> metric.update(torch.nn.Flatten(), inputs, inputs, target=0)
        >>> metric.compute()
        tensor(0.5952)
    """

    higher_is_better = False
    score = staticmethod(deletion)
    options = ("step_px", "infill", "every_step", "batch_size")

    def __init__(
        self,
        *,
        step_px: int | None = None,
        infill: Infill = Mean(),
        every_step: bool = False,
        batch_size: int = 32,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.step_px, self.infill = step_px, infill
        self.every_step, self.batch_size = every_step, batch_size


class Insertion(MeanScore):
    """Mean over images of `insertion`.

    Args:
        step_px: As in `deletion_curve`.
        infill: Gives the image to start from.
        every_step: As in `deletion_curve`.
        batch_size: As in `deletion_curve`.
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Petsiuk et al. 2018 (RISE); ``Insertion(**RISE_INSERTION)`` is its protocol.

    Example:
        >>> import torch
        >>> metric, inputs = Insertion(step_px=1, infill=Mean()), torch.tensor([[[[2.0, 0.0]]]])
        >>> metric.update(torch.nn.Flatten(), inputs, inputs, target=0)
        >>> metric.compute()
        tensor(0.7856)
    """

    higher_is_better = True
    score = staticmethod(insertion)
    options = ("step_px", "infill", "every_step", "batch_size")

    def __init__(
        self,
        *,
        step_px: int | None = None,
        infill: Infill = Blur(sigma_px=5.0),
        every_step: bool = False,
        batch_size: int = 32,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.step_px, self.infill = step_px, infill
        self.every_step, self.batch_size = every_step, batch_size
