"""The ways to pool regions beside each other. Each has tests of its own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models.build import build_model
from segjax.ops.roi.max_pool import round_to_cells
from segjax.ops.roi.pooling import POOLINGS, pool_regions

ROWS = np.random.default_rng(0)
SCALES = (0.25, 0.125)
LEVELS = [
    ROWS.normal(size=(16, 24, 3)).astype(np.float32),
    ROWS.normal(size=(8, 12, 3)).astype(np.float32),
]
BOXES = np.array(
    [[5.3, 6.1, 41.7, 30.2], [16, 8, 64, 48], [70, 20, 120, 80], [0, 0, 0, 0]], np.float32
)
LEVEL = np.array([0, 1, 1, 0])


@pytest.fixture(scope="module")
def pooled():
    """Returns regions and the gradient of their weighted sum, by the name of the way."""
    weights = ROWS.normal(size=(4, 7, 7, 3)).astype(np.float32)

    @jax.jit
    def all_ways(levels):
        found = {}
        for pooling in POOLINGS:
            take = functools.partial(
                pool_regions, boxes=BOXES, level=LEVEL, size=7, scales=SCALES, pooling=pooling
            )
            regions, back = jax.vjp(take, levels)
            found[pooling] = regions, back(jnp.asarray(weights))[0]
        # Only the edges of the second box lie on edges of cells.
        return found, pool_regions(
            levels, round_to_cells(BOXES, jnp.asarray(SCALES)[LEVEL]), LEVEL, 7, SCALES
        )

    return all_ways([jnp.asarray(level) for level in LEVELS])


def test_all_have_one_shape_and_a_gradient_of_their_own_neighborhood(pooled):
    for pooling, (found, gradient) in pooled[0].items():
        assert found.shape == (4, 7, 7, 3) and np.isfinite(found).all()
        assert [each.shape for each in gradient] == [level.shape for level in LEVELS]
        # Only the first and the empty box read the fine map: cells 1..11 by 1..8, or the corner.
        fine = np.abs(gradient[0]).sum(-1) > 0
        assert fine[2:8, 2:10].any() and not fine[10:].any() and not fine[:, 13:].any(), pooling
        assert np.abs(gradient[1]).any()


def test_implementations_of_one_rule_agree_and_other_rules_do_not(pooled):
    pooled = pooled[0]
    exact = pooled["roi_align"]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), exact, pooled["roi_align_matmul"]
    )
    for other in ("quantised", "roi_pool"):
        assert np.abs(exact[0][0] - pooled[other][0][0]).max() > 0.1, other


def test_quantized_regions_equal_those_of_rounded_boxes(pooled):
    pooled, of_rounded = pooled
    np.testing.assert_allclose(pooled["quantised"][0], of_rounded, atol=1e-6)
    np.testing.assert_allclose(pooled["quantised"][0][1], pooled["roi_align"][0][1], atol=1e-6)


@pytest.mark.parametrize("samples", [0, 2])
def test_a_valid_part_of_the_levels_counts_as_the_levels(samples):
    """Cells outside are huge, which no result may show."""
    valid = np.array([[12, 16], [6, 8]])
    inside = [level[:h, :w] for level, (h, w) in zip(LEVELS, valid, strict=True)]
    padded = [np.full_like(level, 1e9) for level in LEVELS]
    for level, part in zip(padded, inside, strict=True):
        level[: part.shape[0], : part.shape[1]] = part
    # Boxes in the part, of which two reach its edges, or one of less than a cell there
    boxes = np.float32([[5.3, 6.1, 41.7, 30.2], [30, 20, 64, 48], [63.5, 47, 64, 48], [0] * 4])

    @jax.jit
    def pool_both(inside, padded):
        options = dict(size=7, scales=SCALES, samples=samples, aligned=samples == 0)
        pairs = {}
        for pooling in POOLINGS:
            take = functools.partial(pool_regions, pooling=pooling, **options)
            cropped = take(inside, boxes=boxes, level=LEVEL)
            whole = take(padded, boxes=boxes, level=LEVEL, extents=jnp.asarray(valid))
            pairs[pooling] = cropped, whole
        return pairs

    for pooling, (cropped, whole) in pool_both(inside, padded).items():
        np.testing.assert_allclose(whole, cropped, atol=1e-5, err_msg=pooling)


def test_a_detector_pools_by_the_name():
    levels = tuple(
        jax.ShapeDtypeStruct((2, 16 // 2**n, 16 // 2**n, 16), jnp.float32) for n in range(4)
    )
    boxes = jax.ShapeDtypeStruct((2, 5, 4), jnp.float32)
    for pooling in ("quantised", "roi_pool"):
        model = build_model("maskrcnn_debug", pooling=pooling)
        take = lambda levels, boxes, model=model: model.apply(
            {}, levels, boxes, 7, method="pool_regions"
        )
        assert jax.eval_shape(take, levels, boxes).shape == (2, 5, 7, 7, 16)
    model = build_model("maskrcnn_debug", pooling="roi_warp")
    with pytest.raises(
        ValueError,
        match="'roi_warp' is unknown; choose one of roi_align, roi_align_matmul, quantised",
    ):
        jax.eval_shape(
            lambda levels, boxes: model.apply({}, levels, boxes, 7, method="pool_regions"),
            levels,
            boxes,
        )
