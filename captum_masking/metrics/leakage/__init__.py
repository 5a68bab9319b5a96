"""How much do masks give the class away by themselves, and how much of it by their shape?

A masker that is trained along with its judge can learn to write the class into the mask: the judge
then reads the mask, not the image. So somebody else tries to read it.
"""

from captum_masking.metrics.leakage.audit import leakage
from captum_masking.metrics.leakage.reader import Reader, read_by_ridge
from captum_masking.metrics.leakage.result import Leakage

__all__ = ["Leakage", "Reader", "leakage", "read_by_ridge"]
