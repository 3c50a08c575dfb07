"""Masks measured at full size, tile by tile, equal plain interpolation of the whole mask."""

import jax.numpy as jnp
import numpy as np
import pytest

from segjax.inference.sam import stability_score
from segjax.inference.sam.postprocess import compute_image_weights
from segjax.inference.sam.stability_score import extract_box, make_axis_weights, measure_masks
from segjax.models.sam.build import build_sam

MODEL, HW, OFFSET = (
    build_sam("sam_debug"),
    (75, 100),
    1.0,
)  # 16 x 16 mask cells, of which 12 rows hold image
CELLS = np.arange(MODEL.mask_side)


def blob(x, y, radius):
    return (radius - np.hypot(CELLS[:, None] - y, CELLS - x)).astype(np.float32)


MASKS = {
    "in one tile": blob(2, 2, 1.6),
    "over four": blob(5, 5, 3),
    "two islands": np.maximum(blob(1, 9, 1.2), blob(14, 2, 1.5)),
    "noise": np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32),
    "nothing": np.full((16, 16), -5, np.float32),
    "everything": np.full((16, 16), 5, np.float32),
    "only its looser version": blob(8, 6, -0.5),
    "at the very thresholds": np.where(blob(8, 6, 3) > 0, np.float32(OFFSET), np.float32(-OFFSET)),
}


@pytest.mark.parametrize("tile", [32, 128])
def test_measurements_by_tiles_equal_those_of_the_whole_mask(tile, monkeypatch):
    monkeypatch.setattr(stability_score, "TILE", tile)
    logits = jnp.zeros((1, len(MASKS), 4, 16, 16)).at[0, :, 2].set(np.stack(list(MASKS.values())))
    index = np.stack([np.arange(len(MASKS)), np.full(len(MASKS), 1)], axis=-1)
    measurements = measure_masks(logits, index, *make_axis_weights(MODEL, HW), np.float32(OFFSET))
    down, across = (
        compute_image_weights(16, 64, content, size) for content, size in ((48, 75), (64, 100))
    )
    for index, (name, low_res) in enumerate(MASKS.items()):
        full = down @ low_res @ across.T
        inner, outer, inside = (full > threshold for threshold in (OFFSET, -OFFSET, 0))
        expected = inner.sum() / outer.sum() if outer.any() else 0
        assert measurements.stability[index] == pytest.approx(expected, abs=1e-6), name
        assert measurements.areas[index] == inside.sum(), name
        box = np.zeros(4, int)
        if inside.any():
            (x1, x2), (y1, y2) = (np.flatnonzero(inside.any(axis))[[0, -1]] for axis in (0, 1))
            box = np.array([x1, y1, x2, y2])
            np.testing.assert_array_equal(
                extract_box(np.asarray(measurements.tiles[index]), box),
                inside[y1 : y2 + 1, x1 : x2 + 1],
            )
        assert measurements.boxes[index].tolist() == box.tolist(), name


def test_tiles_far_from_a_mask_are_not_computed(monkeypatch):
    """Poisons the weights of tiles that no cell above the lower threshold reaches."""
    monkeypatch.setattr(stability_score, "TILE", 32)
    rows, columns = make_axis_weights(MODEL, HW)
    assert rows.shape == (3, 32, 16) and columns.shape == (4, 32, 16)
    poisoned = columns.at[-1].set(jnp.where(columns[-1] > 0, jnp.inf, 0.0))
    logits = jnp.zeros((1, 1, 4, 16, 16)).at[0, 0, 1].set(MASKS["in one tile"])
    measurements = measure_masks(logits, np.zeros((1, 2), int), rows, poisoned, np.float32(OFFSET))
    assert (
        measurements.areas[0]
        == measure_masks(logits, np.zeros((1, 2), int), rows, columns, np.float32(OFFSET)).areas[0]
        > 0
    )
