"""What a result says, laid out as Markdown and for the shell."""

from captum_masking.benchmark.markdown.page import markdown, text_table

__all__ = ["markdown", "text_table"]
