"""The ideas of the paper, one file each: what is swapped by passing an object."""
