"""Greedy non-maximum suppression written out plainly: the oracle of whoever suppresses boxes."""

import numpy as np


def greedy(boxes, scores, threshold):
    """Places of the boxes that stay, best first: each drops what overlaps it by more than the threshold."""
    left, kept = list(np.argsort(-np.asarray(scores), kind="stable")), []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [other for other in left if overlap(boxes[best], boxes[other]) <= threshold]
    return kept


def overlap(a, b):
    """IoU of two boxes; 0 of two empty ones."""
    width, height = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = max(width, 0) * max(height, 0)
    union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared
    return shared / union if union else 0
