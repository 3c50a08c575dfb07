"""Nearest-neighbor votes against plain NumPy."""

import numpy as np
import pytest

from segjax.evaluation.nearest_neighbors import compute_neighbor_votes


def compute_plain_votes(features, bank, labels, classes, k, temperature):
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    similarity = unit(features.astype(np.float64)) @ unit(bank.astype(np.float64)).T
    votes = np.zeros((len(features), classes))
    for row, near in enumerate(np.argsort(-similarity, axis=1, kind="stable")[:, :k]):
        for index in near:
            votes[row, labels[index]] += np.exp(
                (similarity[row, index] - similarity[row, near[0]]) / temperature
            )
    return votes


@pytest.mark.parametrize("rows, columns", [(1024, 8192), (5, 7), (16, 64)])
def test_blocks_of_any_size_equal_numpy(rows, columns):
    rng = np.random.default_rng(0)
    features, bank = (
        rng.standard_normal((13, 6)).astype(np.float32),
        rng.standard_normal((50, 6)).astype(np.float32),
    )
    labels = rng.integers(0, 4, 50)
    votes = compute_neighbor_votes(
        features, bank, labels, classes=4, k=5, rows=rows, columns=columns
    )
    np.testing.assert_allclose(
        votes, compute_plain_votes(features, bank, labels, 4, 5, 0.07), rtol=1e-4, atol=1e-5
    )


def test_one_near_neighbour_outvotes_many_far_ones_at_a_low_temperature():
    bank = np.array([[1.0, 0.0], [0.6, 0.8], [0.6, -0.8]])
    labels = np.array([0, 1, 1])
    predict = lambda temperature: compute_neighbor_votes(
        np.array([[9.0, 0.0]]), bank, labels, classes=2, k=3, temperature=temperature
    ).argmax()
    assert predict(0.07) == 0 and predict(10.0) == 1  # 1 against 2 exp(-0.4 / T)


def test_ties_go_to_the_first_and_a_small_bank_votes_as_a_whole():
    bank, features = np.ones((5, 3)), np.ones((1, 3))
    labels = np.array([3, 1, 0, 2, 2])
    assert compute_neighbor_votes(features, bank, labels, classes=4, k=1, columns=2).tolist() == [
        [0, 0, 0, 1]
    ]
    assert compute_neighbor_votes(features, bank, labels, classes=4, k=20, columns=2).tolist() == [
        [1, 1, 2, 1]
    ]
    assert compute_neighbor_votes(features[:0], bank, labels, classes=4).shape == (0, 4)


def test_an_empty_bank_raises():
    with pytest.raises(ValueError, match="20 nearest neighbors of 0 images"):
        compute_neighbor_votes(np.ones((1, 2)), np.ones((0, 2)), np.ones(0, int), classes=2)
