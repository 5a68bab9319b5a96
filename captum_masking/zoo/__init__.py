"""Trained maskers that ship with the package."""
