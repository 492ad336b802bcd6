"""Flax layers over `ops`: everything that is true of a layer is said in its own file."""
