"""A classifier with its masker, and all that touches somebody else's network."""
