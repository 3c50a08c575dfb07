"""Keypoints of COCO annotations."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from segjax.data.sources.annotations.values import describe, parse_numbers
from segjax.data.sources.raw import SkipCounts


def read_keypoints(
    annotation: Mapping[str, Any], count: int, name: str, counts: SkipCounts
) -> np.ndarray:
    """Reads the keypoints of an annotation.

    COCO names pixels. As in detectron2, a keypoint is the middle of its pixel.

    Args:
      annotation: an entry of "annotations".
      count: expected number of keypoints.
      name: of the annotation in the report.
      counts: counts the keypoints that are malformed, which become unlabeled.

    Returns:
      float32 [count, 3], x, y and visibility, or (0, 0, 0) for unlabeled keypoints.
    """
    flat = annotation.get("keypoints") or [0] * 3 * count
    numbers = parse_numbers(flat, 3 * count)
    if numbers is None:
        reason = f"keypoints are not {count} times x, y, visibility: they count as unlabeled"
        counts.add_change(reason, f"{name}, {describe(flat)}")
        numbers = [0.0] * 3 * count
    keypoints = np.array(numbers, np.float32).reshape(count, 3)
    return np.where(keypoints[:, 2:] > 0, keypoints + np.float32([0.5, 0.5, 0]), 0)
