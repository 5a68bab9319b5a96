"""Pictures with boxes: your own from a CSV or folders, and digits on textures for the demo."""

from captum_masking.data.boxed import BoxedImages
from captum_masking.data.digits import DigitsOnTextures

__all__ = ["BoxedImages", "DigitsOnTextures"]
