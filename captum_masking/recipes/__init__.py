"""Every set-up of the study as one short function: a classifier in, a trainer out.

Printing what comes out prints the whole recipe. `ROWS` gives each a name for ``captum-masking
study``.
"""

from captum_masking.recipes.published import (
    ca,
    ca_as_published,
    dabkowski_gal,
    fix,
    published_fine_tune,
    published_model,
    zolna,
    zolna_f,
    zolna_fl,
    zolna_l,
    zolna_l100,
    zolna_l1000,
)
from captum_masking.recipes.rows import ROWS, Row, Setting, select
from captum_masking.recipes.variants import (
    deepest,
    frozen,
    gumbel,
    joint,
    joint_throughout,
    learned_infill,
    masked_in_only,
    masked_out_only,
    only,
    told_class,
    told_size,
    unet,
    with_infill,
    with_regularizer,
)

__all__ = [
    "ROWS",
    "Row",
    "Setting",
    "ca",
    "ca_as_published",
    "dabkowski_gal",
    "deepest",
    "fix",
    "frozen",
    "gumbel",
    "joint",
    "joint_throughout",
    "learned_infill",
    "masked_in_only",
    "masked_out_only",
    "only",
    "published_fine_tune",
    "published_model",
    "select",
    "told_class",
    "told_size",
    "unet",
    "with_infill",
    "with_regularizer",
    "zolna",
    "zolna_f",
    "zolna_fl",
    "zolna_l",
    "zolna_l100",
    "zolna_l1000",
]
