"""Attention by the kernel of TPUs that jax ships: splash attention, made for masks; here every query sees all keys.

It takes q and k of any width and v of another, in float32 or bfloat16, and has a backward pass. jax's flash_attention
wants one width for all three, of 128 or less or a multiple of that: SAM's 192 channels would be padded, and v's 64 to
four times their size.
"""

import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

BLOCK = 128  # what the kernel cuts sequences into is a multiple of it
FEW_AT_ONCE = 512  # queries and keys whose scores the kernel holds at a time
KEYS_AT_ONCE = {
    "forward": 2**20,
    "backward": 2**19,
}  # bytes of k in the fast memory, which has 16 MiB for a kernel


def takes(queries: int, keys: int) -> bool:
    """Whether the kernel takes sequences of such lengths."""
    return queries > 0 and keys > 0 and queries % BLOCK == 0 and keys % BLOCK == 0


def splash_attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Softmax attention on a TPU, on the chips of the mesh that is set (`jax.set_mesh`), if one is.

    The compiler cannot split a kernel among chips by itself. The batch lies over all axes of the mesh
    (segjax/training/sharding.py), so that each chip attends to its own examples; a batch that the chips do not divide
    is attended to by each of them as a whole.

    Args:
      q: [B, Tq, heads, C], already scaled. k: [B, Tk, heads, C]. v: [B, Tk, heads, Cv]. See `takes` for Tq and Tk.

    Returns:
      [B, Tq, heads, Cv].
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return _on_one_chip(q, k, v)
    spec = PartitionSpec(mesh.axis_names) if q.shape[0] % mesh.size == 0 else PartitionSpec()
    # The kernel does not say over which axes its results differ, which is what check_vma would check.
    return jax.shard_map(_on_one_chip, in_specs=spec, out_specs=spec, check_vma=False)(q, k, v)


def _on_one_chip(q, k, v):
    # Imported here: it is work that other implementations do not need.
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    # To the kernel every head of every example is a head: it has no axis for the batch.
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
    lead, queries, keys = q.shape[:2], q.shape[2], k.shape[2]
    mask = splash.MultiHeadMask([splash.FullMask((queries, keys))] * math.prod(lead))
    width = (
        -(-q.shape[-1] // BLOCK) * BLOCK * q.dtype.itemsize
    )  # bytes of a key as it lies in the memory
    kernel = splash.make_splash_mha_single_device(
        mask, block_sizes=_block_sizes(queries, keys, width)
    )
    out = kernel(*(x.reshape(-1, *x.shape[2:]) for x in (q, k, v)))
    return jnp.swapaxes(out.reshape(*lead, *out.shape[1:]), 1, 2)


def _block_sizes(queries, keys, key_bytes):
    """Large blocks: a block of keys is read once for each block of queries, unless it holds all keys.

    One kernel makes all gradients, which spares two of seven products; it writes q's once for each block of keys.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import BlockSizes

    forward, backward = (_block(keys, size // key_bytes) for size in KEYS_AT_ONCE.values())
    return BlockSizes(
        block_q=_block(queries, FEW_AT_ONCE),
        block_kv=forward,
        block_kv_compute=_block(forward, FEW_AT_ONCE),
        block_q_dkv=_block(queries, FEW_AT_ONCE),
        block_kv_dkv=backward,
        block_kv_dkv_compute=_block(backward, FEW_AT_ONCE),
        use_fused_bwd_kernel=True,
    )


def _block(length: int, most: int) -> int:
    """The longest block up to `most` that divides a length, both multiples of BLOCK."""
    return max(
        (size for size in range(BLOCK, most + 1, BLOCK) if length % size == 0), default=BLOCK
    )
