"""Classes of pixels from named masks: every mask votes for its classes."""

from collections.abc import Sequence

import numpy as np


def vote_classes(
    masks: Sequence[np.ndarray],
    scores: np.ndarray,
    probabilities: np.ndarray,
    hw: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Computes the class of each pixel as the vote of the masks on it.

    The vote for class c in a pixel is the sum over its masks of score * probability of c. A pixel
    without a mask gets the class of the nearest pixel that has one.

    Example:
      >>> masks = [np.array([[True, True, False]]), np.array([[False, True, False]])]
      >>> classes, _ = vote_classes(masks, [0.5, 0.9], np.array([[1, 0], [0, 1]]), (1, 3))
      >>> classes
      array([[0, 1, 1]], dtype=int32)

    Args:
      masks: N masks, bool [H, W].
      scores: [N], quality of the masks, such as predicted IoU.
      probabilities: [N, K], of the classes for each mask.
      hw: (H, W).

    Returns:
      classes: int32 [H, W], indices of classes. -1 if there is no mask at all.
      share: float32 [H, W], share of the class in the votes of the pixel. 0 without a mask.
    """
    votes = np.zeros((*hw, probabilities.shape[1]), np.float32)
    for mask, score, chances in zip(masks, scores, probabilities, strict=True):
        votes[mask] += np.float32(score) * chances.astype(np.float32)
    total = votes.sum(axis=-1)
    covered = total > 0
    if not covered.any():
        return np.full(hw, -1, np.int32), np.zeros(hw, np.float32)
    classes = votes.argmax(axis=-1).astype(np.int32)
    share = votes.max(axis=-1) / np.where(covered, total, 1)
    if not covered.all():
        from scipy.ndimage import distance_transform_edt

        rows, columns = distance_transform_edt(
            ~covered, return_distances=False, return_indices=True
        )
        classes = classes[rows, columns]
    return classes, share
