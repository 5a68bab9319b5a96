"""Train a masker, by default jointly with its classifier."""
