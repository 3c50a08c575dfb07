"""Matching of predicted to annotated edge pixels, as in the BSDS benchmark.

Pixels are matched one to one within a small distance, so that the sum of distances is least. A
pixel may stay alone at a cost that exceeds any distance. The benchmark's own code solves this in
C++ with additional random edges; here SciPy solves it exactly.
"""

import numpy as np

TOLERANCE = 0.0075  # largest distance, as a share of the image's diagonal
_OUTLIER = 100  # cost of a pixel without a partner, in largest distances
_SCALE = 100  # distances are rounded to this fraction of a pixel


def compute_reach(hw: tuple[int, int], tolerance: float = TOLERANCE) -> float:
    """Returns the largest distance of matched pixels, in pixels. 4.337 for 481 x 321."""
    return tolerance * float(np.hypot(*hw))


def match_edges(
    edges: np.ndarray, truth: np.ndarray, reach: float
) -> tuple[np.ndarray, np.ndarray]:
    """Matches the pixels of two edge maps.

    Example:
      >>> line = np.eye(8, dtype=bool)
      >>> [hits.sum() for hits in match_edges(line, np.roll(line, 1, axis=0), reach=1.5)]
      [8, 8]

    Args:
      edges: bool [H, W], predicted pixels, thinned.
      truth: bool [H, W], annotated pixels.
      reach: largest distance in pixels.

    Returns:
      bool [H, W], the predicted pixels with a partner, and the annotated ones.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching
    from scipy.spatial import cKDTree

    rows, columns = np.argwhere(edges), np.argwhere(truth)
    hits = np.zeros(edges.shape, bool), np.zeros(truth.shape, bool)
    if not len(rows) or not len(columns):
        return hits
    # Candidates, also those at distance 0
    near = cKDTree(rows).sparse_distance_matrix(cKDTree(columns), reach, output_type="coo_matrix")
    if not near.nnz:
        return hits
    own, i = np.unique(near.row, return_inverse=True)
    theirs, j = np.unique(near.col, return_inverse=True)
    n, m = len(own), len(theirs)

    # Each pixel has an outlier of its own. A pair of outliers costs almost nothing, wherever the
    # pixels themselves are a pair, so that a full matching exists. Weights must be above 0.
    alone = np.ceil(_OUTLIER * reach * _SCALE)
    weights = np.concatenate(
        [
            np.rint(near.data * _SCALE) + 1,
            np.full(n, alone),
            np.full(m, alone),
            np.ones(len(i)),
        ]
    )
    left = np.concatenate([i, np.arange(n), n + np.arange(m), n + j])
    right = np.concatenate([j, m + np.arange(n), np.arange(m), m + i])
    graph = csr_matrix((weights, (left, right)), shape=(n + m, n + m))
    a, b = min_weight_full_bipartite_matching(graph)
    pairs = (a < n) & (b < m)
    hits[0][tuple(rows[own[a[pairs]]].T)] = True
    hits[1][tuple(columns[theirs[b[pairs]]].T)] = True
    return hits
