"""Checkpoints of a run: saved in the background with checksums, verified when restored."""

from segjax.training.checkpoints.manager import Checkpoints

__all__ = ["Checkpoints"]
