import jax
import numpy as np
import pytest

from segjax.ops.patches import count_visible, draw_mask_noise, split_patches

GRID = (14, 14)


def masks(strategy, visible=49, count=200):
    keys = jax.random.split(jax.random.key(0), count)
    noise = jax.jit(jax.vmap(lambda key: draw_mask_noise(key, GRID, strategy)))(keys)
    return np.asarray(split_patches(noise, visible)[2]).reshape(-1, *GRID)


@pytest.mark.parametrize(
    "patches, ratio, kept", [(196, 0.75, 49), (256, 0.75, 64), (196, 0.6, 78), (10, 0.75, 2)]
)
def test_the_number_of_visible_patches_is_rounded_down(patches, ratio, kept):
    assert count_visible(patches, ratio) == int(patches * (1 - ratio)) == kept


@pytest.mark.parametrize("ratio", [0, 1, -0.5, 1.5, 0.999, 1e-20, float("nan")])
def test_ratios_without_visible_or_masked_patches_are_errors(ratio):
    with pytest.raises(ValueError, match=f"mask_ratio {ratio}.*strictly between 0 and 1"):
        count_visible(196, ratio)


def test_restore_undoes_the_sort_by_noise():
    noise = np.array([[0.3, 0.1, 0.9, 0.2], [0.5, 0.6, 0.1, 0.7]])
    seen, restore, masked = split_patches(noise, 2)
    assert seen.tolist() == [[1, 3], [2, 0]]
    assert masked.tolist() == [[True, False, True, False], [False, True, False, True]]
    in_order = np.take_along_axis(noise, np.argsort(noise, 1), 1)
    np.testing.assert_array_equal(np.take_along_axis(in_order, np.asarray(restore), 1), noise)


@pytest.mark.parametrize("strategy", ["random", "block", "grid"])
def test_every_image_has_the_same_number_masked_and_every_patch_is_equally_likely(strategy):
    drawn = masks(strategy)
    assert (drawn.sum((1, 2)) == 147).all() and len(np.unique(drawn, axis=0)) == (
        4 if strategy == "grid" else 200
    )
    if strategy != "block":  # rectangles cover the middle more often than the border
        assert np.abs(drawn.mean(0) - 0.75).max() < 5 * (0.75 * 0.25 / 200) ** 0.5


def count_borders(drawn):
    """Counts neighboring patches of which exactly one is masked, per image."""
    return (
        (drawn[:, 1:] != drawn[:, :-1]).sum((1, 2))
        + (drawn[:, :, 1:] != drawn[:, :, :-1]).sum((1, 2))
    ).mean()


def test_blocks_are_connected_and_the_grid_is_regular():
    random, block, grid = (masks(strategy) for strategy in ("random", "block", "grid"))
    assert count_borders(block) < 0.5 * count_borders(random) < count_borders(grid)
    cells = ~grid.reshape(-1, 7, 2, 7, 2)
    assert (cells.sum((2, 4)) == 1).all()  # one of every two by two is visible
    assert (cells == cells[:, :1, :, :1]).all()  # and the same one everywhere


def test_an_unknown_strategy_is_an_error():
    with pytest.raises(ValueError, match="'blok' is unknown; choose one of random, block, grid"):
        draw_mask_noise(jax.random.key(0), GRID, "blok")
