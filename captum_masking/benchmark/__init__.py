"""Methods side by side on the same images: quality, cost and memory in one table."""

from captum_masking.benchmark.libraries import default_methods
from captum_masking.benchmark.methods import Method, as_method, trivial_methods
from captum_masking.benchmark.report import markdown, text_table
from captum_masking.benchmark.result import Column, Cost, Interval, Result, Row
from captum_masking.benchmark.run import benchmark

__all__ = [
    "Column",
    "Cost",
    "Interval",
    "Method",
    "Result",
    "Row",
    "as_method",
    "benchmark",
    "default_methods",
    "markdown",
    "text_table",
    "trivial_methods",
]
