"""Which classifier judges the mask: ``add(classifier)`` at each step, ``draw() -> classifier``."""

from captum_masking.pool.contract import Pool
from captum_masking.pool.past import DrawnUnused, FirstAndLast, History, LiveJudge
from captum_masking.pool.single import Fixed, Latest

__all__ = ["DrawnUnused", "FirstAndLast", "Fixed", "History", "Latest", "LiveJudge", "Pool"]
