import jax.numpy as jnp
import numpy as np

from segjax.ops.masks import content_mask, mask_iou


def test_iou_by_hand():
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
    """2049 cells cannot be counted in half precision."""
    mask = jnp.ones((1, 2049), jnp.bfloat16)
    assert mask_iou(mask, mask) == 1
    assert mask_iou(mask, mask.at[0, 0].set(0)) == np.float32(2048 / 2049)


def test_content_is_the_top_left_corner():
    masks = np.asarray(content_mask(jnp.array([[2, 3], [4, 1], [9, 9]]), (4, 5)))
    assert masks.shape == (3, 4, 5)
    assert masks.sum((1, 2)).tolist() == [6, 4, 20]
    assert masks[0, :2, :3].all() and masks[1, :, 0].all()
