"""Counts and scores of the BSDS edge benchmark: ODS, OIS, AP and R50."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from segjax.evaluation.zero_shot.edge_matching import compute_reach, match_edges

_STEPS = 100  # between two thresholds, for ODS
_RECALLS = np.arange(0, 1.0001, 0.01)


def list_thresholds(count: int = 99) -> np.ndarray:
    """Returns thresholds spread evenly between 0 and 1: 0.01 to 0.99 for the benchmark's 99."""
    return np.linspace(1 / (count + 1), 1 - 1 / (count + 1), count)


def count_matches(
    edges: np.ndarray, boundaries: Sequence[np.ndarray], thresholds: np.ndarray
) -> np.ndarray:
    """Counts matched pixels of one image at every threshold.

    At a threshold, the edges are thinned and matched with each annotator's boundaries. A predicted
    pixel is right if any annotator drew it; each annotator's pixels count for recall.

    Args:
      edges: float [H, W], 0..1.
      boundaries: bool [H, W] of each annotator.
      thresholds: [T], see `list_thresholds`.

    Returns:
      int64 [T, 4]: found annotated pixels, annotated pixels, right predicted pixels, predicted
      pixels.

    Raises:
      ValueError: no annotator, another size, or values outside of 0..1.
    """
    from skimage.morphology import thin

    if not len(boundaries):
        raise ValueError("the ground truth has no annotator")
    for truth in boundaries:
        if truth.shape != edges.shape:
            raise ValueError(
                f"edges are {edges.shape}, ground truth {truth.shape}; expected one size"
            )
    if not (np.isfinite(edges).all() and edges.min() >= 0 and edges.max() <= 1):
        raise ValueError("edges have values outside of 0..1")
    reach = compute_reach(edges.shape)
    annotated = sum(int(np.count_nonzero(truth)) for truth in boundaries)
    counts = np.zeros((len(thresholds), 4), np.int64)
    for row, threshold in enumerate(thresholds):
        thinned = thin(edges >= threshold)
        right, found = np.zeros(edges.shape, bool), 0
        for truth in boundaries:
            hits, theirs = match_edges(thinned, truth, reach)
            right |= hits
            found += int(np.count_nonzero(theirs))
        counts[row] = found, annotated, np.count_nonzero(right), np.count_nonzero(thinned)
    return counts


@dataclasses.dataclass(frozen=True)
class EdgeScores:
    """Scores of the benchmark.

    Attributes:
      ods: F of the best threshold for the whole data set (optimal data set scale).
      ois: F of the best threshold of each image (optimal image scale).
      ap: area under the curve of precision over recall, as the benchmark sums it.
      r50: recall at a precision of 0.5.
      threshold: of ODS.
      recall: [T], over the data set.
      precision: [T].
    """

    ods: float
    ois: float
    ap: float
    r50: float
    threshold: float
    recall: np.ndarray
    precision: np.ndarray


def score_edges(counts: Sequence[np.ndarray], thresholds: np.ndarray) -> EdgeScores:
    """Computes the scores of a data set, exactly as the benchmark's evaluation does.

    ODS interpolates recall and precision between neighboring thresholds in 100 steps. OIS takes
    each image's best threshold without interpolation. AP adds the precision at 101 recalls and
    divides by 100; recalls that no threshold reaches count 0.

    Args:
      counts: of each image, see `count_matches`.
      thresholds: [T].
    """
    total = np.sum(counts, axis=0)
    recall, precision, f = _compute_rates(total)
    best, threshold = float(f[0]), float(thresholds[0])
    share = np.linspace(0, 1, _STEPS)
    for j in range(1, len(thresholds)):
        mix = lambda values, j=j: values[j] * share + values[j - 1] * (1 - share)
        values = _compute_f(mix(recall), mix(precision))
        if values.max() > best:
            best, threshold = float(values.max()), float(mix(thresholds)[values.argmax()])
    # Best threshold of each image
    chosen = sum(image[_compute_rates(image)[2].argmax()] for image in counts)
    ois = float(_compute_rates(chosen[None])[2][0])
    # Area under the curve
    unique, index = np.unique(recall, return_index=True)
    inside = _RECALLS[(unique[0] <= _RECALLS) & (unique[-1] >= _RECALLS)]
    ap = float(np.interp(inside, unique, precision[index]).sum() / 100)
    unique, index = np.unique(precision, return_index=True)
    r50 = float(np.interp(max(unique[0], 0.5), unique, recall[index]))
    return EdgeScores(best, ois, ap, r50, threshold, recall, precision)


def _compute_rates(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns recall, precision and F [T] of counts [T, 4]. Without pixels they are 0."""
    found, annotated, right, predicted = counts.T
    recall, precision = found / np.maximum(annotated, 1), right / np.maximum(predicted, 1)
    return recall, precision, _compute_f(recall, precision)


def _compute_f(recall: np.ndarray, precision: np.ndarray) -> np.ndarray:
    total = recall + precision
    return 2 * recall * precision / np.where(total > 0, total, 1)
