"""Nearest-neighbor classification: a measure of features that trains nothing.

The weighted vote of DINO (arXiv 2104.14294, section 4.1), after Wu et al. 2018 (arXiv 1805.01978).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

K, TEMPERATURE = 20, 0.07  # DINO's


def compute_neighbor_votes(
    features: np.ndarray,
    bank: np.ndarray,
    labels: np.ndarray,
    *,
    classes: int,
    k: int = K,
    temperature: float = TEMPERATURE,
    rows: int = 1024,
    columns: int = 8192,
) -> np.ndarray:
    """Computes the votes of the k nearest neighbors, by cosine similarity.

    A neighbor of similarity s has a vote of exp(s / temperature). Of equally near neighbors the
    first one in the bank counts. The result is exact: blocks of `rows` x `columns` similarities
    only bound the memory.

    Args:
      features: float [N, D], images to classify.
      bank: float [M, D], images of known class.
      labels: int [M], classes 0..classes-1 of the bank.
      classes: number of classes.
      k: number of neighbors. A smaller bank votes as a whole.
      temperature: temperature of the votes.
      rows: features per block.
      columns: bank entries per block.

    Returns:
      float32 [N, classes], votes up to a factor per row. The largest one is the prediction.

    Raises:
      ValueError: The bank is empty, or k is below 1.

    Example:
      >>> bank, labels = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 1])
      >>> votes = compute_neighbor_votes(np.array([[2.0, 1.0]]), bank, labels, classes=2)
      >>> int(votes[0].argmax())
      0
    """
    if k < 1 or not len(bank):
        raise ValueError(
            f"{k} nearest neighbors of {len(bank)} images; expected at least one of each"
        )
    # The bank in equal pieces, the last one padded with label -1
    k, columns = min(k, len(bank)), min(columns, len(bank))
    pieces = -(-len(bank) // columns)
    padding = pieces * columns - len(bank)
    bank = jnp.asarray(np.pad(_normalize(bank), [(0, padding), (0, 0)]))
    bank = bank.reshape(pieces, columns, -1)
    labels = np.pad(np.asarray(labels, np.int32), (0, padding), constant_values=-1)
    labels = jnp.asarray(labels).reshape(pieces, -1)

    vote = functools.partial(_compute_votes, classes=classes, k=k, temperature=temperature)
    rows = max(1, min(rows, len(features)))
    votes = []
    for start in range(0, len(features), rows):
        piece = _normalize(features[start : start + rows])
        # Padding lets the last piece use the same program.
        padded = np.pad(piece, [(0, rows - len(piece)), (0, 0)])
        votes.append(np.asarray(vote(padded, bank, labels))[: len(piece)])
    return np.concatenate(votes) if votes else np.zeros((0, classes), np.float32)


def _normalize(features: np.ndarray) -> np.ndarray:
    """Scales rows to unit length."""
    features = np.asarray(features, np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


@functools.partial(jax.jit, static_argnames=("classes", "k", "temperature"))
def _compute_votes(features, bank, labels, *, classes, k, temperature):
    """Computes the votes of unit vectors.

    Args:
      features: float32 [N, D].
      bank: float32 [pieces, M, D].
      labels: int32 [pieces, M], -1 for padding.
      classes: number of classes.
      k: number of neighbors.
      temperature: temperature of the votes.
    """

    # A scan over the bank keeps one block of similarities in memory.
    def merge_nearest(best, piece):
        """Merges the k nearest so far with those of one piece of the bank."""
        vectors, piece_labels = piece
        similarity = jnp.matmul(features, vectors.T, precision="highest")
        similarity = jnp.where(piece_labels >= 0, similarity, -jnp.inf)
        both = jnp.concatenate([best[0], similarity], axis=1)
        piece_labels = jnp.broadcast_to(piece_labels, similarity.shape)
        candidates = jnp.concatenate([best[1], piece_labels], axis=1)
        top, index = jax.lax.top_k(both, k)  # of equals the first, so the earlier in the bank
        return (top, jnp.take_along_axis(candidates, index, axis=1)), None

    start = (jnp.full((len(features), k), -jnp.inf), jnp.full((len(features), k), -1, jnp.int32))
    (similarity, neighbors), _ = jax.lax.scan(merge_nearest, start, (bank, labels))
    # Subtracting the largest similarity keeps exp finite at any temperature.
    weights = jnp.exp((similarity - similarity[:, :1]) / temperature)
    return jnp.einsum("nk,nkc->nc", weights, jax.nn.one_hot(neighbors, classes))
