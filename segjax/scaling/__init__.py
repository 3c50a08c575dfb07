"""Scaling: steps compiled for absent TPU slices, counted, and compared with chips' rates."""
