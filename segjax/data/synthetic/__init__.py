"""Synthetic data: scenes of shapes, stick figures and captions, drawn from an index."""
