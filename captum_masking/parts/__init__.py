"""The ideas of the paper, one file each; any of them is swapped by passing another object.

- ``masking``: a mask splits an image into masked-in and masked-out; 1 is evidence
- ``infill``, ``inpainting``: what is painted where the mask leaves a hole, given or learned
- ``sampler``: mask logits to mask, soft or binary
- ``masker``, ``gate``, ``other_maskers``: features of the classifier to mask logits
- ``evidence``, ``questions``: for which class, and of which size, a mask is
- ``objective``: what the judge should recognize in either half
- ``regularizer``: small and smooth masks
- ``pool``: which classifier judges, the live one or one of its past states
"""
