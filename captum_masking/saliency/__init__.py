"""Captum's face."""
