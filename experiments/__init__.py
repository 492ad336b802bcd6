"""Trainings whose results stand in the docs: what was run, at which scale, and the tables made of it."""
