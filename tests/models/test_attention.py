import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models import attention as attention_module
from segjax.models.attention import explicit, fold_relative_scores, lookup_relative_positions

RNG = np.random.default_rng(0)
# Compiled whole: operations one by one would be hundreds of programs.
compiled = jax.jit(attention_module.attention, static_argnames=("impl", "scale", "causal"))
compute_relative_scores = jax.jit(attention_module.compute_relative_scores, static_argnums=3)
partition_windows = jax.jit(attention_module.partition_windows, static_argnums=1)
unpartition_windows = jax.jit(attention_module.unpartition_windows, static_argnums=1)


def attention(*inputs, **options):
    return np.asarray(compiled(*inputs, **options))


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def oracle(q, k, v, scale=None, bias=0.0):
    """Computes softmax attention in float64 NumPy.

    Args:
      q: [T, heads, C].
      k: [S, heads, C].
      v: [S, heads, C].
      bias: [heads, T, S].
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = scale * np.einsum("qhc,khc->hqk", q.astype(np.float64), k) + bias
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("hqk,khc->qhc", weights / weights.sum(-1, keepdims=True), v)


@pytest.mark.parametrize("impl", ["xla", "chunked"])
@pytest.mark.parametrize(
    "length", [5, 300]
)  # below and above one chunk of queries, not a multiple of it
def test_attention_is_the_formula(impl, length):
    q, k, v = normal(2, length, 3, 8), normal(2, 7, 3, 8), normal(2, 7, 3, 4)
    out = attention(q, k, v, impl=impl)
    for i in range(2):
        np.testing.assert_allclose(out[i], oracle(q[i], k[i], v[i]), atol=1e-5)


@pytest.mark.parametrize("impl", ["xla", "chunked"])
@pytest.mark.parametrize("length", [5, 300])
def test_a_causal_mask_hides_later_keys(impl, length):
    q, k, v = (normal(1, length, 2, 8) for _ in range(3))
    bias = np.where(np.tri(length, dtype=bool), 0.0, -np.inf)
    out = attention(q, k, v, causal=True, impl=impl)
    np.testing.assert_allclose(out[0], oracle(q[0], k[0], v[0], bias=bias), atol=1e-5)
    with pytest.raises(ValueError, match="5 queries and 4 keys"):
        attention(q[:, :5], k[:, :4], v[:, :4], causal=True, impl=impl)


@pytest.mark.parametrize("impl", ["xla", "chunked"])
def test_invalid_keys_are_as_if_removed(impl):
    q, k, v = normal(1, 200, 2, 8), normal(1, 9, 2, 8), normal(1, 9, 2, 8)
    valid = np.array([[True, False, True, True, False, False, True, False, True]])
    out = attention(q, k, v, key_valid=valid, impl=impl)
    np.testing.assert_allclose(out[0], oracle(q[0], k[0, valid[0]], v[0, valid[0]]), atol=1e-5)
    changed = np.where(valid[..., None, None], v, 1e6).astype(np.float32)
    np.testing.assert_array_equal(out, attention(q, k, changed, key_valid=valid, impl=impl))


@pytest.mark.parametrize("impl", ["xla", "chunked"])
def test_leading_axes_broadcast(impl):
    """Attends from an image [B, 1, ...] to tokens [B, P, ...], and the other way round."""
    image, tokens = normal(2, 1, 150, 2, 4), normal(2, 3, 6, 2, 4)
    valid = RNG.random((2, 3, 6)) < 0.7
    valid[..., 0] = True
    to_image = attention(tokens, image, image, impl=impl)
    to_tokens = attention(image, tokens, tokens, key_valid=valid, impl=impl)
    assert to_image.shape == (2, 3, 6, 2, 4) and to_tokens.shape == (2, 3, 150, 2, 4)
    for b in range(2):
        for p in range(3):
            own = tokens[b, p, valid[b, p]]
            np.testing.assert_allclose(
                to_image[b, p], oracle(tokens[b, p], image[b, 0], image[b, 0]), atol=1e-5
            )
            np.testing.assert_allclose(to_tokens[b, p], oracle(image[b, 0], own, own), atol=1e-5)


def test_chunked_gradients_are_those_of_xla():
    """Covers 260 queries in three chunks, and a grid of 2 x 4 keys."""
    inputs = [
        normal(1, 260, 2, 4),
        normal(1, 8, 2, 4),
        normal(1, 8, 2, 4),
        normal(1, 260, 2, 2),
        normal(1, 260, 2, 4),
    ]
    loss = lambda impl: (
        lambda q, k, v, *relative: jnp.sum(jnp.sin(compiled(q, k, v, relative=relative, impl=impl)))
    )
    plain, chunked = (
        jax.jit(jax.grad(loss(impl), range(5)))(*inputs) for impl in ("xla", "chunked")
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-5), plain, chunked
    )


def test_half_precision_scores_and_softmax_run_in_float32():
    """Uses 256 equal keys, most of which a sum in bfloat16 would lose."""
    q, k = np.zeros((1, 1, 4), jnp.bfloat16), np.zeros((512, 1, 4), jnp.bfloat16)
    out = attention(q, k, np.ones((512, 1, 4), jnp.bfloat16))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), 1.0, atol=0.01)


def test_unknown_implementation():
    with pytest.raises(ValueError, match="flash.*xla, chunked, cudnn, pallas"):
        attention(normal(1, 1, 4), normal(1, 1, 4), normal(1, 1, 4), impl="flash")


def test_relative_positions_index_the_distance():
    table = np.arange(5, dtype=np.float32)[:, None]  # distances -2 .. 2
    rows = np.asarray(lookup_relative_positions(table, 3))[..., 0]
    np.testing.assert_array_equal(rows, [[2, 1, 0], [3, 2, 1], [4, 3, 2]])


def test_relative_positions_resize_the_table_to_another_grid():
    """Resizes 7 rows (a grid of 4) to 3 (a grid of 2) by half-pixel linear interpolation."""
    table = np.arange(7, dtype=np.float32)[:, None]
    rows = np.asarray(lookup_relative_positions(table, 2))[..., 0]
    place = [(i + 0.5) * 7 / 3 - 0.5 for i in range(3)]  # of a linear table the value is the place
    np.testing.assert_allclose(rows, [[place[1], place[0]], [place[2], place[1]]], atol=1e-6)


def positioned(h, w, heads=2, channels=8):
    """Returns q, k, v [1, h*w, heads, C], tables of both axes, and their bias by loops."""
    q, k, v = (normal(1, h * w, heads, channels) for _ in range(3))
    table_h, table_w = normal(2 * h - 1, channels), normal(2 * w - 1, channels)
    bias = np.zeros((heads, h * w, h * w))
    for i in range(h * w):
        for j in range(h * w):
            by_row = table_h[i // w - j // w + h - 1]
            by_column = table_w[i % w - j % w + w - 1]
            bias[:, i, j] = q[0, i].astype(np.float64) @ (by_row.astype(np.float64) + by_column)
    return (q, k, v), (table_h, table_w), bias


@pytest.mark.parametrize("impl", ["xla", "chunked"])
@pytest.mark.parametrize(
    "grid", [(3, 4), (13, 21)]
)  # in one piece, and 273 queries in three chunks
def test_relative_positions_equal_the_bias(impl, grid):
    (q, k, v), tables, bias = positioned(*grid)
    out = attention(q, k, v, relative=compute_relative_scores(q, *tables, grid), impl=impl)
    np.testing.assert_allclose(out[0], oracle(q[0], k[0], v[0], bias=bias), atol=3e-5)


def test_folded_relative_positions_equal_the_bias():
    """Checks the inputs of the fused kernel, which cannot run on CPUs."""
    (q, k, v), tables, bias = positioned(3, 4)
    relative = compute_relative_scores(q, *tables, (3, 4))
    folded_q, folded_k = fold_relative_scores(q * 8**-0.5, k, relative)
    assert folded_q.shape == folded_k.shape == (1, 12, 2, 8 + 3 + 4)
    out = attention(folded_q, folded_k, v, scale=1.0)
    np.testing.assert_allclose(out[0], oracle(q[0], k[0], v[0], bias=bias), atol=2e-5)


def test_many_short_sequences_go_in_groups_of_heads(monkeypatch):
    """Splits 30 sequences of 9 tokens and 3 heads into groups of 6 of the 90."""
    monkeypatch.setattr(explicit, "SCORES_PER_GROUP", 6 * 81)
    q, k, v = normal(5, 6, 9, 3, 4), normal(5, 6, 9, 3, 4), normal(5, 6, 9, 3, 4)
    np.testing.assert_allclose(attention(q, k, v, impl="chunked"), attention(q, k, v), atol=1e-6)


def test_tables_of_numpy_work_inside_jit():
    """Loaded weights are NumPy arrays, which a jitted function may close over."""
    q = normal(1, 4, 1, 8)
    table = normal(3, 8)
    inside = jax.jit(lambda q: attention_module.compute_relative_scores(q, table, table, (2, 2)))(q)
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6)
    jax.tree.map(close, inside, compute_relative_scores(q, table, table, (2, 2)))


@pytest.mark.parametrize(
    "grid, window, count", [((6, 6), 3, 4), ((5, 7), 3, 6), ((4, 4), 14, 1), ((64, 64), 14, 25)]
)
def test_windows_partition_and_merge(grid, window, count):
    x = normal(2, *grid, 3)
    windows = partition_windows(x, window)
    assert windows.shape == (2, count, window, window, 3)
    np.testing.assert_array_equal(unpartition_windows(windows, grid), x)


def test_windows_are_row_major_and_padded_with_zeros_at_the_end():
    x = np.arange(1, 16, dtype=np.float32).reshape(1, 3, 5, 1)
    windows = np.asarray(partition_windows(x, 2))[0, ..., 0]
    np.testing.assert_array_equal(windows[1], [[3, 4], [8, 9]])
    np.testing.assert_array_equal(windows[2], [[5, 0], [10, 0]])
    np.testing.assert_array_equal(windows[5], [[15, 0], [0, 0]])


def test_devices_that_share_a_batch_keep_their_rows():
    """Chunked attention of 4 examples on 4 devices needs no communication."""
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    shape = jax.ShapeDtypeStruct((4, 300, 2, 8), jnp.float32, sharding=rows)
    program = jax.jit(lambda q, k, v: compiled(q, k, v, impl="chunked"), out_shardings=rows).lower(
        *[shape] * 3
    )
    text = program.compile().as_text()
    assert (
        "all-gather" not in text and "all-to-all" not in text and "collective-permute" not in text
    )


def test_an_empty_batch_is_empty():
    assert attention(*[normal(0, 8, 2, 8)] * 3, impl="chunked").shape == (0, 8, 2, 8)


def test_relative_scores_of_half_precision_are_float32():
    q, table = normal(1, 4, 2, 8).astype(jnp.bfloat16), normal(3, 8)
    relative = compute_relative_scores(q, table, table, (2, 2))
    assert [part.dtype for part in relative] == [jnp.float32] * 2
    assert fold_relative_scores(q, q, relative)[0].dtype == jnp.bfloat16
