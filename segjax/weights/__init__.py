"""Weights: reading and writing checkpoints, and moving arrays between libraries."""
