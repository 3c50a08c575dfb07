"""Attention on TPUs by splash attention, a fused kernel that comes with jax.

The kernel accepts q and k of any width and v of another, in float32 or bfloat16, and has a backward
pass. jax's flash_attention needs one width for all three, up to 128 or a multiple of it: it would
pad SAM's 192 channels of q and k, and the 64 of v to four times their size.
"""

import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

BLOCK = 128  # the kernel's blocks of queries and keys are multiples of it
SCORE_BLOCK = 512  # largest number of queries, and of keys, whose scores are computed at a time
# Bytes of a block of k. The fast memory has 16 MiB for a kernel.
KEY_BLOCK_BYTES = {"forward": 2**20, "backward": 2**19}


def supports_lengths(queries: int, keys: int) -> bool:
    """Tells whether the kernel accepts sequences of these lengths."""
    return queries > 0 and keys > 0 and queries % BLOCK == 0 and keys % BLOCK == 0


def splash_attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Computes softmax attention on TPUs, on all chips of the current mesh (`jax.set_mesh`).

    The compiler cannot split a kernel among chips. The batch is sharded over all axes of the mesh
    (see `segjax.training.sharding`), so each chip computes the attention of its own examples. If
    the number of chips does not divide the batch, each chip computes all of it.

    Args:
      q: [B, Tq, heads, C], already scaled. See `supports_lengths` for Tq and Tk.
      k: [B, Tk, heads, C].
      v: [B, Tk, heads, Cv].

    Returns:
      [B, Tq, heads, Cv].
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return _on_one_chip(q, k, v)
    spec = PartitionSpec(mesh.axis_names) if q.shape[0] % mesh.size == 0 else PartitionSpec()
    # The kernel does not state the axes over which its results differ, which check_vma needs.
    return jax.shard_map(_on_one_chip, in_specs=spec, out_specs=spec, check_vma=False)(q, k, v)


def _on_one_chip(q, k, v):
    # Imported here, because the import takes time and other implementations do not need it.
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    # The kernel has no batch axis: every head of every example is a head.
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
    lead, queries, keys = q.shape[:2], q.shape[2], k.shape[2]
    mask = splash.MultiHeadMask([splash.FullMask((queries, keys))] * math.prod(lead))
    key_bytes = -(-q.shape[-1] // BLOCK) * BLOCK * q.dtype.itemsize  # in memory, padded
    kernel = splash.make_splash_mha_single_device(
        mask, block_sizes=_block_sizes(queries, keys, key_bytes)
    )
    out = kernel(*(x.reshape(-1, *x.shape[2:]) for x in (q, k, v)))
    return jnp.swapaxes(out.reshape(*lead, *out.shape[1:]), 1, 2)


def _block_sizes(queries, keys, key_bytes):
    """Chooses large blocks, because each block of keys is read once for each block of queries.

    One kernel computes all gradients, which saves two of seven products. It writes the gradient of
    q once for each block of keys.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import BlockSizes

    forward, backward = (_block(keys, size // key_bytes) for size in KEY_BLOCK_BYTES.values())
    return BlockSizes(
        block_q=_block(queries, SCORE_BLOCK),
        block_kv=forward,
        block_kv_compute=_block(forward, SCORE_BLOCK),
        block_q_dkv=_block(queries, SCORE_BLOCK),
        block_kv_dkv=backward,
        block_kv_dkv_compute=_block(backward, SCORE_BLOCK),
        use_fused_bwd_kernel=True,
    )


def _block(length: int, largest: int) -> int:
    """Returns the largest multiple of BLOCK, up to `largest`, that divides a length."""
    return max(
        (size for size in range(BLOCK, largest + 1, BLOCK) if length % size == 0), default=BLOCK
    )
