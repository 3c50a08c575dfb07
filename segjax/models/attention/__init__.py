"""Attention of all models: implementations, relative positions, windows and dense variants."""

from segjax.models.attention.dispatch import IMPLEMENTATIONS, KERNEL_PLATFORM, attention
from segjax.models.attention.relative_positions import (
    RelativeScores,
    compute_relative_scores,
    fold_relative_scores,
    lookup_relative_positions,
)
from segjax.models.attention.windows import partition_windows, unpartition_windows

__all__ = [
    "IMPLEMENTATIONS",
    "KERNEL_PLATFORM",
    "RelativeScores",
    "attention",
    "compute_relative_scores",
    "fold_relative_scores",
    "lookup_relative_positions",
    "partition_windows",
    "unpartition_windows",
]
