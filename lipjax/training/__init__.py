"""The training recipe and its loop.  Sees all floors below, and nothing of `evaluation`."""
