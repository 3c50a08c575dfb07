import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.ops import boxes as ops
from segjax.ops.boxes import MAX_LOG_SCALE, box_area, clip_boxes

box_iou, box_ioa = jax.jit(ops.box_iou), jax.jit(ops.box_ioa)
encode_boxes = jax.jit(ops.encode_boxes, static_argnums=2)
decode_boxes = jax.jit(ops.decode_boxes, static_argnums=2)

UNIT = np.array([[0, 0, 1, 1]], np.float32)
# The unit box, its left half, its bottom half, two of its quarters, and itself moved by half a
# side.
PARTS = [
    [0, 0, 1, 1],
    [0, 0, 0.5, 1],
    [0, 0.5, 1, 1],
    [0, 0, 0.5, 0.5],
    [0.5, 0.5, 1, 1],
    [0.5, 0.5, 1.5, 1.5],
]


def random_boxes(rng, count, size=100):
    corner = rng.uniform(0, size, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(0.5, size, (count, 2))], 1).astype(
        np.float32
    )


def test_area():
    boxes = jnp.array([[1.0, 2, 4, 6], [0, 0, 1, 1], [2, 2, 2, 5], [5, 0, 1, 3], [5, 5, 1, 1]])
    np.testing.assert_array_equal(
        box_area(boxes), [12, 1, 0, 0, 0]
    )  # inverted in one or both directions: none


def test_clip_to_height_and_width():
    boxes = jnp.array([[[-3.0, -4, 30, 20], [1, 2, 3, 4]], [[8.0, 8, 9, 9], [40, 50, 60, 70]]])
    sizes = jnp.array([[[10, 20]], [[30, 50]]])  # (height, width), one a row of boxes
    clipped = clip_boxes(boxes, jnp.broadcast_to(sizes, (2, 2, 2)))
    np.testing.assert_array_equal(clipped[0], [[0, 0, 20, 10], [1, 2, 3, 4]])
    np.testing.assert_array_equal(clipped[1], [[8, 8, 9, 9], [40, 30, 50, 30]])
    assert clipped.dtype == jnp.float32


def test_overlaps_by_hand():
    np.testing.assert_allclose(
        box_iou(UNIT, np.array(PARTS))[0], [1, 0.5, 0.5, 0.25, 0.25, 0.25 / 1.75], rtol=1e-6
    )
    np.testing.assert_allclose(box_ioa(UNIT, np.array(PARTS))[0], [1, 1, 1, 1, 1, 0.25], rtol=1e-6)


def test_degenerate_boxes_overlap_nothing():
    nothing = np.array([[3, 3, 3, 3], [5, 5, 2, 9], [0, 0, 0, 0]], np.float32)
    for overlap in (box_iou, box_ioa):
        np.testing.assert_array_equal(overlap(nothing, nothing), np.zeros((3, 3)))
        assert overlap(np.zeros((0, 4), np.float32), UNIT).shape == (0, 1)


def test_overlaps_of_half_precision_boxes_are_computed_in_float32():
    """The area of this box overflows a float16."""
    boxes = np.array([[0, 0, 1000, 1000], [0, 0, 1000, 500]], np.float16)
    np.testing.assert_allclose(box_iou(boxes, boxes), [[1, 0.5], [0.5, 1]])
    assert box_iou(boxes, boxes).dtype == jnp.float32


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (5, 5, 10, 10), (10, 10, 5, 5)])
def test_decoding_inverts_encoding(weights):
    rng = np.random.default_rng(0)
    boxes, anchors = random_boxes(rng, 50), random_boxes(rng, 50)
    np.testing.assert_allclose(
        decode_boxes(encode_boxes(boxes, anchors, weights), anchors, weights),
        boxes,
        rtol=1e-5,
        atol=1e-3,
    )


def test_encoding_by_hand():
    """Twice as wide, half as high, moved by a quarter of the width right and half the height up."""
    anchor, box = np.array([[10, 20, 18, 40]]), np.array([[8, 15, 24, 25]])
    np.testing.assert_allclose(
        encode_boxes(box, anchor, (10, 10, 5, 5)),
        [[2.5, -5, 5 * np.log(2), 5 * np.log(0.5)]],
        rtol=1e-6,
    )


def test_one_anchor_decodes_a_box_per_class():
    anchors = random_boxes(np.random.default_rng(1), 3)
    boxes = decode_boxes(np.zeros((3, 7, 4), np.float32), anchors[:, None])
    np.testing.assert_allclose(boxes, np.repeat(anchors[:, None], 7, 1), rtol=1e-5)


def test_sides_grow_up_to_a_limit_and_shrink_without_one():
    assert pytest.approx(4.135166556742356) == MAX_LOG_SCALE
    deltas = np.array([[0, 0, 1e4, 1e4], [0, 0, 5, -100]], np.float32)
    boxes = np.asarray(decode_boxes(deltas, np.tile(UNIT, (2, 1))))
    np.testing.assert_allclose(boxes[:, 2] - boxes[:, 0], [62.5, 62.5], rtol=1e-5)
    np.testing.assert_allclose(boxes[:, 3] - boxes[:, 1], [62.5, 0], rtol=1e-5, atol=1e-6)


def test_bfloat16_deltas_are_decoded_in_float32():
    anchors = np.array([[1000.3, 500.2, 1030.7, 520.9]], np.float32)
    boxes = decode_boxes(jnp.zeros((1, 4), jnp.bfloat16), anchors)
    assert boxes.dtype == jnp.float32
    np.testing.assert_allclose(boxes, anchors, rtol=1e-6)


def test_padding_has_finite_numbers_and_gradients():
    padding, boxes = np.zeros((1, 4), np.float32), np.array([[1, 2, 3, 5]], np.float32)
    box, anchor = np.stack([padding, boxes, padding]), np.stack([boxes, padding, padding])
    assert np.isfinite(encode_boxes(box, anchor)).all()
    gradient = jax.jit(jax.grad(lambda box, anchor: encode_boxes(box, anchor).sum(), (0, 1)))(
        box, anchor
    )
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.float16, jnp.bfloat16])
def test_areas_do_not_overflow_the_type_of_the_boxes(dtype):
    side = {np.int8: 120, np.uint8: 250, np.int32: 100_000, np.float16: 1000}.get(dtype, 2.0**60)
    area = box_area(np.array([[0, 0, side, side], [side, 0, 0, side]], dtype))
    assert area.dtype == np.float32
    np.testing.assert_allclose(area, [np.float32(side) ** 2, 0], rtol=1e-6)
    if dtype == np.int8:
        np.testing.assert_allclose(box_area(np.int8([[-100, -100, 100, 100]])), [40_000])
