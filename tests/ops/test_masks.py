import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from segjax.ops.masks import make_content_mask, mask_iou, sample_in_region

REGION = np.zeros((4, 6), bool)
REGION[0, 0] = REGION[3, 5] = REGION[1, 2:5] = REGION[2, 1] = True


def test_iou_of_two_rectangles():
    a = np.zeros((4, 4), bool)
    b = np.zeros((4, 4), bool)
    a[:2], b[1:3, :2] = True, True  # 8 and 4 cells, 2 in common
    assert mask_iou(a, b) == np.float32(2 / 10)
    assert mask_iou(a, a) == 1
    assert mask_iou(a, ~a) == 0


def test_iou_of_empty_masks_is_zero_and_never_nan():
    empty, full = np.zeros((3, 3), bool), np.ones((3, 3), bool)
    assert mask_iou(empty, empty) == 0 and mask_iou(empty, full) == 0


def test_iou_broadcasts_and_takes_integers():
    masks = np.random.default_rng(0).integers(0, 2, (2, 3, 5, 5))
    truth = masks[:, :1]
    iou = mask_iou(masks, truth)
    assert iou.shape == (2, 3) and iou.dtype == jnp.float32
    expected = (masks & truth).sum((-2, -1)) / (masks | truth).sum((-2, -1))
    np.testing.assert_allclose(iou, expected, rtol=1e-6)


def test_iou_of_half_precision_inputs_counts_exactly():
    """Half precision cannot represent 2049 cells."""
    mask = jnp.ones((1, 2049), jnp.bfloat16)
    assert mask_iou(mask, mask) == 1
    assert mask_iou(mask, mask.at[0, 0].set(0)) == np.float32(2048 / 2049)


def test_content_is_in_the_top_left_corner():
    masks = np.asarray(make_content_mask(jnp.array([[2, 3], [4, 1], [9, 9]]), (4, 5)))
    assert masks.shape == (3, 4, 5)
    assert masks.sum((1, 2)).tolist() == [6, 4, 20]
    assert masks[0, :2, :3].all() and masks[1, :, 0].all()


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
    """Ties between random numbers would favor the first cells."""
    xy, _ = jax.jit(sample_in_region)(jax.random.key(2), np.ones((200, 128, 128), bool))
    assert 0.4 < (np.asarray(xy)[:, 1] >= 64).mean() < 0.6
