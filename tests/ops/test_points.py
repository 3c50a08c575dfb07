import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from segjax.ops.points import sample_in_region

REGION = np.zeros((4, 6), bool)
REGION[0, 0] = REGION[3, 5] = REGION[1, 2:5] = REGION[2, 1] = True


def test_every_cell_of_the_region_is_equally_likely_and_no_other():
    draws = 6000
    xy, found = jax.jit(sample_in_region)(jax.random.key(1), np.broadcast_to(REGION, (draws, 4, 6)))
    assert found.all() and xy.dtype == jnp.float32
    x, y = np.asarray(xy, int).T
    counts = np.zeros((4, 6), int)
    np.add.at(counts, (y, x), 1)
    assert (counts[~REGION] == 0).all()
    assert scipy.stats.chisquare(counts[REGION]).pvalue > 0.001


def test_regions_draw_independently():
    xy, _ = sample_in_region(jax.random.key(0), np.ones((2, 3000, 2, 2), bool))
    first, second = (
        np.asarray(xy[0] @ jnp.array([1, 2]), int),
        np.asarray(xy[1] @ jnp.array([1, 2]), int),
    )
    table = np.zeros((4, 4))
    np.add.at(table, (first, second), 1)
    assert scipy.stats.chi2_contingency(table).pvalue > 0.001


def test_empty_region():
    regions = np.stack([REGION, np.zeros_like(REGION)])
    xy, found = sample_in_region(jax.random.key(0), regions)
    assert found.tolist() == [True, False]
    assert xy[1].tolist() == [0, 0]


def test_single_cell():
    region = np.zeros((5, 7), bool)
    region[4, 2] = True
    xy, found = sample_in_region(jax.random.key(0), region)
    assert xy.tolist() == [2, 4] and found


def test_last_cells_of_a_large_region_are_reached():
    """Ties between the cells' random numbers would favour the first ones."""
    xy, _ = jax.jit(sample_in_region)(jax.random.key(2), np.ones((200, 128, 128), bool))
    assert 0.4 < (np.asarray(xy)[:, 1] >= 64).mean() < 0.6
