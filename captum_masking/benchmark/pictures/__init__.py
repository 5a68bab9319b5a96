"""A benchmark in two pictures: the same images under all methods, and cost against quality."""

from captum_masking.benchmark.pictures.cost_quality import draw_cost_quality
from captum_masking.benchmark.pictures.montage import Sample, as_jpeg, draw_montage
from captum_masking.benchmark.pictures.style import family_colors

__all__ = ["Sample", "as_jpeg", "draw_cost_quality", "draw_montage", "family_colors"]
