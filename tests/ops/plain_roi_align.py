"""RoIAlign and RoIPool as loops over bins and samples in float64, references for tests."""

import math

import numpy as np


def roi_align(features, boxes, size, scale, samples, aligned):
    """Pools features [h, w, C] in boxes [R, 4] to float64 [R, down, across, C]."""
    pooled = np.zeros((len(boxes), *size, features.shape[2]))
    for region, box in enumerate(np.asarray(boxes, float)):
        x1, y1, x2, y2 = box * scale - 0.5 * aligned
        height, width = y2 - y1, x2 - x1
        if not aligned:
            height, width = max(height, 1), max(width, 1)
        bin_y, bin_x = height / size[0], width / size[1]
        down, across = samples or math.ceil(bin_y), samples or math.ceil(bin_x)
        for p, q in np.ndindex(*size):
            values = [
                bilinear(
                    features,
                    y1 + (p + (i + 0.5) / down) * bin_y,
                    x1 + (q + (j + 0.5) / across) * bin_x,
                )
                for i, j in np.ndindex(max(down, 0), max(across, 0))
            ]
            pooled[region, p, q] = sum(values) / max(down * across, 1)
    return pooled


def bilinear(features, y, x):
    height, width = features.shape[:2]
    if y < -1 or y > height or x < -1 or x > width:
        return np.zeros(features.shape[2])
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    y, x = y - top, x - left
    above = (1 - x) * features[top, left] + x * features[top, right]
    below = (1 - x) * features[bottom, left] + x * features[bottom, right]
    return (1 - y) * above + y * below


def roi_pool(features, boxes, size, scale):
    """Pools the maxima of features [h, w, C] in boxes [R, 4] to float64 [R, down, across, C]."""
    height, width, channels = features.shape
    pooled = np.zeros((len(boxes), *size, channels))
    for region, box in enumerate(np.asarray(boxes, float)):
        x1, y1, x2, y2 = (
            math.floor(abs(side) + 0.5) * (1 if side >= 0 else -1) for side in box * scale
        )
        bin_y, bin_x = max(y2 - y1 + 1, 1) / size[0], max(x2 - x1 + 1, 1) / size[1]
        for p, q in np.ndindex(*size):
            top, bottom = edges(y1, bin_y, p, height)
            left, right = edges(x1, bin_x, q, width)
            if top < bottom and left < right:
                pooled[region, p, q] = features[top:bottom, left:right].max((0, 1))
    return pooled


def edges(low, bin, place, length):
    first, last = low + math.floor(place * bin), low + math.ceil((place + 1) * bin)
    return min(max(first, 0), length), min(max(last, 0), length)
