"""Train a masker, and by default its classifier with it."""
