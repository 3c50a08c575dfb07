import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.ops.resize import depth_to_space, resize_bilinear, resize_table, space_to_depth

RNG = np.random.default_rng(0)


def resize_by_loop(x, shape):
    """Computes PyTorch's interpolate(align_corners=False), a pixel at a time in float64."""
    height, width = x.shape
    out = np.zeros(shape)
    for i in range(shape[0]):
        for j in range(shape[1]):
            y = max((i + 0.5) * height / shape[0] - 0.5, 0)
            z = max((j + 0.5) * width / shape[1] - 0.5, 0)
            y0, z0 = int(y), int(z)
            y1, z1 = min(y0 + 1, height - 1), min(z0 + 1, width - 1)
            fy, fz = y - y0, z - z0
            out[i, j] = (1 - fy) * ((1 - fz) * x[y0, z0] + fz * x[y0, z1]) + fy * (
                (1 - fz) * x[y1, z0] + fz * x[y1, z1]
            )
    return out


def test_doubling_matches_hand_computed_values():
    """PyTorch doubles [0, 1] to 0, 0.25, 0.75, 1: half-pixel centers, edges held."""
    np.testing.assert_allclose(
        resize_bilinear(jnp.array([[0.0, 1.0]]), (1, 4)), [[0, 0.25, 0.75, 1]], atol=1e-7
    )


def test_shrinking_does_not_average():
    """Two samples of 0..7 lie between 1 and 2, and 5 and 6. Antialiasing would mix in more."""
    x = jnp.array([[0.0, 10, 0, 0, 0, 0, 6, 0]])
    np.testing.assert_allclose(resize_bilinear(x, (1, 2)), [[5.0, 3.0]], atol=1e-6)


@pytest.mark.parametrize("shape", [(9, 14), (3, 2), (1, 1), (5, 7), (12, 3)])
def test_any_size_equals_the_loop(shape):
    x = RNG.standard_normal((2, 5, 7)).astype(np.float32)
    out = resize_bilinear(x, shape)
    for ours, image in zip(out, x, strict=True):
        np.testing.assert_allclose(
            ours, resize_by_loop(image, shape), atol=3e-6
        )  # positions are float32, as PyTorch's


def test_same_size_is_the_identity_and_type_is_kept():
    x = jnp.asarray(RNG.standard_normal((4, 4)), jnp.bfloat16)
    assert jnp.array_equal(resize_bilinear(x, (4, 4)), x)
    assert resize_bilinear(x, (8, 8)).dtype == jnp.bfloat16


def test_the_gradient_is_the_transpose():
    x, y = RNG.standard_normal((3, 4)), RNG.standard_normal((7, 5))
    pulled = jax.vjp(lambda x: resize_bilinear(x, (7, 5)), jnp.asarray(x, jnp.float32))[1](
        jnp.asarray(y, jnp.float32)
    )
    np.testing.assert_allclose(
        (pulled[0] * x).sum(), (resize_bilinear(jnp.asarray(x), (7, 5)) * y).sum(), rtol=1e-4
    )


def test_table_is_resized_along_its_first_axis():
    table = RNG.standard_normal((7, 3)).astype(np.float32)
    out = resize_table(table, 5)
    for channel in range(3):
        np.testing.assert_allclose(
            out[:, channel], resize_by_loop(table[:, channel][None], (1, 5))[0], atol=1e-6
        )
    assert resize_table(table, 7) is table


def test_depth_to_space_inverts_space_to_depth():
    x = RNG.standard_normal((2, 3, 6, 4, 5)).astype(np.float32)
    blocks = space_to_depth(x, 2)
    assert blocks.shape == (2, 3, 3, 2, 20)
    np.testing.assert_array_equal(depth_to_space(blocks, 2), x)
    # Channels in (row, column, channel) order.
    np.testing.assert_array_equal(blocks[0, 0, 1, 1], x[0, 0, 2:4, 2:4].reshape(-1))


def test_space_to_depth_then_product_is_a_strided_convolution():
    x = RNG.standard_normal((2, 6, 4, 3)).astype(np.float32)
    kernel = RNG.standard_normal((2, 2, 3, 5)).astype(np.float32)
    expected = jax.lax.conv_general_dilated(
        x, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(space_to_depth(x, 2) @ kernel.reshape(-1, 5), expected, atol=1e-5)


def test_product_then_depth_to_space_is_a_transposed_convolution():
    x = RNG.standard_normal((1, 3, 2, 4)).astype(np.float32)
    kernel = RNG.standard_normal((4, 2, 2, 5)).astype(np.float32)
    expected = np.zeros((6, 4, 5))
    for i in range(3):
        for j in range(2):
            expected[2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = np.einsum(
                "c,cyxd->yxd", x[0, i, j], kernel
            )
    np.testing.assert_allclose(depth_to_space(x @ kernel.reshape(4, -1), 2)[0], expected, atol=1e-5)


def test_a_block_that_does_not_divide_the_map_is_an_error():
    with pytest.raises(ValueError, match="5x4 does not divide into blocks of 2"):
        space_to_depth(jnp.zeros((5, 4, 1)), 2)
