"""Synthetic data: scenes of shapes and of stick figures, generated from an index."""
