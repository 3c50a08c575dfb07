"""What pictures are called by those nearest to them: a measure of features that trains nothing.

The weighted vote of DINO (arXiv 2104.14294, section 4.1), after Wu et al. 2018 (arXiv 1805.01978).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

K, TEMPERATURE = 20, 0.07  # DINO's


def neighbour_votes(
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
    """Votes float32 [N, classes] of the k nearest of a bank, by cosine; the largest names the picture.

    A neighbour of similarity s has a vote of exp(s / temperature). Of equally near ones the first in the bank counts.
    Exact, in pieces of the device's memory: `rows` pictures against `columns` of the bank at a time.

    Args:
      features: float [N, D]. bank: float [M, D]. labels: int [M], the classes 0 .. classes - 1 of the bank.
      k: neighbours; all of a smaller bank.

    Raises:
      ValueError: an empty bank, or k below 1.
    """
    if k < 1 or not len(bank):
        raise ValueError(
            f"{k} nearest neighbours of {len(bank)} pictures; expected at least one of each"
        )
    k, columns = min(k, len(bank)), min(columns, len(bank))
    pieces = -(-len(bank) // columns)
    padding = pieces * columns - len(bank)
    bank = jnp.asarray(np.pad(_unit(bank), [(0, padding), (0, 0)])).reshape(pieces, columns, -1)
    labels = jnp.asarray(
        np.pad(np.asarray(labels, np.int32), (0, padding), constant_values=-1)
    ).reshape(pieces, -1)
    vote = functools.partial(_votes, classes=classes, k=k, temperature=temperature)
    rows = max(1, min(rows, len(features)))
    votes = []
    for start in range(0, len(features), rows):
        piece = _unit(features[start : start + rows])
        padded = np.pad(
            piece, [(0, rows - len(piece)), (0, 0)]
        )  # one program for the last piece too
        votes.append(np.asarray(vote(padded, bank, labels))[: len(piece)])
    return np.concatenate(votes) if votes else np.zeros((0, classes), np.float32)


def _unit(features: np.ndarray) -> np.ndarray:
    features = np.asarray(features, np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


@functools.partial(jax.jit, static_argnames=("classes", "k", "temperature"))
def _votes(features, bank, labels, *, classes, k, temperature):
    """Of unit vectors [N, D]; bank [pieces, M, D], labels [pieces, M], -1 for padding."""

    def nearer(best, piece):
        vectors, names = piece
        similarity = jnp.where(
            names >= 0, jnp.matmul(features, vectors.T, precision="highest"), -jnp.inf
        )
        both = jnp.concatenate([best[0], similarity], axis=1)
        names = jnp.concatenate([best[1], jnp.broadcast_to(names, similarity.shape)], axis=1)
        top, places = jax.lax.top_k(both, k)  # of equals the first, so the earlier in the bank
        return (top, jnp.take_along_axis(names, places, axis=1)), None

    start = (jnp.full((len(features), k), -jnp.inf), jnp.full((len(features), k), -1, jnp.int32))
    (similarity, names), _ = jax.lax.scan(nearer, start, (bank, labels))
    # exp(s / T) itself would do in float32 (T = .07: e^14); less the nearest's it does for any temperature.
    weights = jnp.exp((similarity - similarity[:, :1]) / temperature)
    return jnp.einsum("nk,nkc->nc", weights, jax.nn.one_hot(names, classes))
