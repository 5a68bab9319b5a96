"""The ideas of the paper, one file each; swap any of them by passing another object.

- ``masking``: a mask splits an image into masked-in and masked-out; 1 is evidence
- ``infill``, ``inpainting``: fixed or learned content of the masked holes
- ``sampler``: mask logits to mask, soft or binary
- ``masker``, ``gate``, ``other_maskers``: features of the classifier to mask logits
- ``evidence``, ``questions``: the class and the area of a mask
- ``objective``: what the judge should recognize in masked-in and masked-out images
- ``regularizer``: small and smooth masks
- ``pool``: the judge, which is the current classifier or one of its past states
"""
