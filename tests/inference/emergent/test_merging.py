"""Attention merging and recursive cuts on planted maps with known results."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from segjax.inference.emergent.merging import (
    aggregate_attention,
    compare_distributions,
    label_pixels,
    make_heat_map,
    merge_attention,
)
from segjax.inference.emergent.recursive_cut import (
    compute_affinity,
    pool_segments,
    recursive_ncut,
)


def plant_quadrants(side, blur=0.1):
    """Attention [n, n] that is uniform over the quadrant of the query, and over all by `blur`."""
    rows, columns = np.divmod(np.arange(side * side), side)
    quadrant = (rows >= side // 2) * 2 + (columns >= side // 2)
    same = quadrant[:, None] == quadrant
    maps = (1 - blur) * same / same.sum(1, keepdims=True) + blur / side**2
    return maps.astype(np.float32), quadrant.reshape(side, side)


def test_distance_has_the_closed_form():
    maps, quadrants = plant_quadrants(16)
    found = compare_distributions(maps, maps)
    different = quadrants.reshape(-1, 1) != quadrants.reshape(-1)
    np.testing.assert_allclose(found, np.where(different, 0.9 * np.log(37), 0), atol=2e-5)
    zeros = compare_distributions(jnp.eye(4), jnp.eye(4))
    assert np.isfinite(zeros).all() and (np.diag(zeros) == 0).all()


@pytest.mark.parametrize("tau, segments", [(0.9, 4), (3.3, 1)])
def test_quadrants_become_segments(tau, segments):
    maps, quadrants = plant_quadrants(64)
    attention = aggregate_attention([maps[None]])
    proposals, alive = merge_attention(attention, jnp.full(3, tau))
    assert int(alive.sum()) == segments and len(alive) == 256
    if segments == 4:
        labels = np.asarray(label_pixels(proposals, alive, (64, 64)))
        for label in np.unique(labels):
            assert len(np.unique(quadrants[labels == label])) == 1
    # One layer with one head is the layer itself
    np.testing.assert_allclose(attention.reshape(4096, 4096), maps, atol=1e-9)


def test_resolutions_are_averaged():
    fine, quadrants = plant_quadrants(64)
    maps = [fine[None]]
    for side in (32, 16, 8):
        block = 64 // side
        parts = fine.reshape(side, block, side, block, side, block, side, block)
        coarse = parts.sum((5, 7)).mean((1, 3)).reshape(side**2, side**2)
        maps.append(np.stack([coarse, coarse]))
    attention = aggregate_attention(maps)
    np.testing.assert_allclose(attention.sum((2, 3)), 1, atol=1e-5)
    proposals, alive = merge_attention(attention, jnp.full(3, 0.9))
    assert int(alive.sum()) == 4
    labels = np.asarray(label_pixels(proposals, alive, (64, 64)))
    pairs = set(zip(labels.reshape(-1).tolist(), quadrants.reshape(-1).tolist(), strict=True))
    assert len(pairs) == 4


def merge_reference(maps, thresholds):
    """Greedy merging as a loop over lists, on a grid where every cell is an anchor."""
    near = np.asarray(compare_distributions(maps, maps)) < thresholds[0]
    now = near @ maps / near.sum(1, keepdims=True)
    for tau in thresholds[1:]:
        near = np.asarray(compare_distributions(now, now)) < tau
        done, merged = np.zeros(len(now), bool), []
        for index in range(len(now)):
            if not done[index]:
                merged.append(now[near[index]].mean(0))
                done |= near[index]
        now = np.stack(merged)
    return now


@pytest.mark.parametrize("seed", range(3))
def test_merging_equals_a_loop(seed):
    logits = 2 * np.random.default_rng(seed).normal(size=(36, 36))
    maps = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    maps = maps.astype(np.float32)
    thresholds = np.float32([1.8, 0.4, 0.35])
    proposals, alive = merge_attention(jnp.asarray(maps.reshape(6, 6, 6, 6)), thresholds)
    want = merge_reference(maps, thresholds)
    assert 1 < len(want) < 36
    np.testing.assert_allclose(proposals[alive].reshape(-1, 36), want, atol=1e-6)


def test_bad_attention():
    with pytest.raises(ValueError, match=r"attention map 0 is \(2, 9, 8\); expected \[heads, 9, 9"):
        aggregate_attention([np.ones((2, 9, 8))], 9, [(3, 3)])
    with pytest.raises(ValueError, match="does not divide"):
        aggregate_attention([np.ones((2, 9, 9))], 64)
    with pytest.raises(ValueError, match="no attention map"):
        aggregate_attention([])


@pytest.mark.parametrize("clusters, noise", list(itertools.product((2, 4, 6), (0.0, 0.05))))
def test_planted_clusters_are_found(clusters, noise):
    rng = np.random.default_rng(clusters)
    owner = np.repeat(np.arange(clusters), rng.integers(5, 60, clusters))
    features = np.eye(clusters)[owner] + noise * rng.normal(size=(len(owner), clusters))
    labels, segments = recursive_ncut(compute_affinity(jnp.asarray(features)), 0.5, 16)
    assert int(segments) == clusters
    pairs = set(zip(owner.tolist(), np.asarray(labels).tolist(), strict=True))
    assert len(pairs) == clusters
    pooled = pool_segments(features, labels, 16)
    np.testing.assert_allclose(pooled[labels[0]], features[owner == 0].mean(0), atol=1e-5)
    assert not pooled[clusters:].any()


@pytest.mark.parametrize("nodes", [1, 2, 30])
def test_graphs_without_a_cut_stay_whole(nodes):
    for affinity in (np.ones((nodes, nodes)), compute_affinity(np.ones((nodes, 4)))):
        labels, segments = recursive_ncut(jnp.asarray(affinity, jnp.float32))
        assert int(segments) == 1 and not labels.any()


def test_isolated_nodes_and_the_limit_of_segments():
    labels, segments = recursive_ncut(jnp.eye(5))
    assert int(segments) == 5 and sorted(labels.tolist()) == [0, 1, 2, 3, 4]
    labels, segments = recursive_ncut(jnp.eye(5), 0.5, 3)
    assert int(segments) == 3 and set(labels.tolist()) == {0, 1, 2}


def test_heat_map_of_a_word():
    maps = np.zeros((2, 16, 3), np.float32)
    maps[:, 5, 1] = 1
    heat = np.asarray(make_heat_map([maps], [1], 8))
    assert heat.max() == 1 and heat[2:4, 2:4].min() > 0.5 and heat[6:, 6:].max() < 0.1
    assert not make_heat_map([maps], [0], 8).any()
