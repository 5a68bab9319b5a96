"""A classifier with its masker, and everything that reads foreign networks."""
