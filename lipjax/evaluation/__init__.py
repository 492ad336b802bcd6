"""Certification of whole splits, and what is shown of it.  Sees all floors below, and nothing of `training`."""
