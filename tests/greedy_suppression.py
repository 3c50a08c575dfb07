"""Greedy non-maximum suppression written out plainly: the oracle of whoever suppresses boxes."""

import numpy as np


def greedy(boxes, scores, threshold):
    """Returns indices of the kept boxes, best first; each drops boxes that overlap it too much."""
    boxes, left, kept = np.asarray(boxes), np.argsort(-np.asarray(scores), kind="stable"), []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        left = left[overlap(boxes[best], boxes[left]) <= threshold]
    return kept


def overlap(box, others):
    """IoU of a box with each of some others [N, 4]; 0 of two empty ones."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = np.maximum(sides, 0).prod(1)
    union = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1) - shared
    return shared / np.where(union, union, 1)
