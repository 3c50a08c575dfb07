import numpy as np
import pytest

from segjax.ops.positions import cubic_weights, make_sincos_positions, resize_bicubic


def test_the_first_half_of_the_channels_encodes_the_column():
    table = make_sincos_positions((3, 5), 16)
    assert table.shape == (3, 5, 16) and table.dtype == np.float32
    assert (table[:, :, :8] == table[:1, :, :8]).all() and (
        table[:, :, 8:] == table[:, :1, 8:]
    ).all()
    assert np.ptp(table[0, :, 0]) > 1 and np.ptp(table[:, 0, 8]) > 0.9


def test_exponents_are_divided_by_a_quarter_of_the_width():
    """Checks patch (2, 3) of width 16: frequencies 1 to 1/1000, sines first, column first."""
    column = 3 * np.array([1, 0.1, 0.01, 0.001])
    row = column * 2 / 3
    want = np.concatenate([np.sin(column), np.cos(column), np.sin(row), np.cos(row)])
    np.testing.assert_allclose(make_sincos_positions((4, 4), 16)[2, 3], want, atol=1e-6)


def test_a_width_that_is_no_multiple_of_four_is_an_error():
    with pytest.raises(ValueError, match="width of 18 .* multiple of 4"):
        make_sincos_positions((2, 2), 18)


def test_bicubic_weights_equal_torchs():
    """Checks the kernel with a = -0.75 at a quarter of a cell: 27, 231, 69, -15 over 256."""
    weights = cubic_weights(8, 16)
    t = 0.25
    a = -0.75
    near = lambda d: (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = lambda d: a * (d**3 - 5 * d**2 + 8 * d - 4)
    np.testing.assert_allclose(
        weights[9, 3:7], [far(1 + t), near(t), near(1 - t), far(2 - t)], atol=1e-12
    )
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(
        weights[0, 0], far(1.75) + near(0.75) + near(0.25), atol=1e-12
    )  # edges are repeated


def test_resizing_covers_both_axes_and_keeps_axes_that_fit():
    table = np.random.default_rng(0).standard_normal((4, 6, 3)).astype(np.float32)
    resized = resize_bicubic(table, (8, 3))
    want = np.einsum("ab,cd,bdk->ack", cubic_weights(4, 8), cubic_weights(6, 3), table)
    np.testing.assert_allclose(resized, want, atol=1e-6)
    np.testing.assert_array_equal(resize_bicubic(table, (4, 6)), table)
