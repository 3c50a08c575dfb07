"""Greedy non-maximum suppression by a loop, as a reference for tests."""

import numpy as np


def greedy(boxes, scores, threshold):
    """Returns the indices of the boxes that greedy suppression keeps, best first."""
    boxes, left, kept = np.asarray(boxes), np.argsort(-np.asarray(scores), kind="stable"), []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        left = left[overlap(boxes[best], boxes[left]) <= threshold]
    return kept


def overlap(box, others):
    """Computes the IoU of a box with each of `others` [N, 4], 0 if both are empty."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = np.maximum(sides, 0).prod(1)
    union = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1) - shared
    return shared / np.where(union, union, 1)
