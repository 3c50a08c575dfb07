"""Drawing points from regions."""

import jax
import jax.numpy as jnp


def sample_in_region(key: jax.Array, region: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One cell of each region, every cell of it equally likely.

    A random number per cell and an argmax over the region: branch-free, and exact for any shape of region
    (the sampler of sam2's training code works the same way).

    Args:
      key: PRNG key; regions draw independently.
      region: bool [..., H, W].

    Returns:
      xy: float32 [..., 2], (column, row) indices of the cell; (0, 0) where the region is empty.
      found: bool [...], False where the region is empty.
    """
    *lead, height, width = region.shape
    flat = region.reshape(*lead, height * width)
    # Raw bits, not float uniforms: 24-bit floats tie within large regions, and argmax then favours the first cell.
    noise = jax.random.bits(key, flat.shape, jnp.uint32) >> 1
    index = jnp.argmax(jnp.where(flat, noise.astype(jnp.int32), -1), axis=-1)
    xy = jnp.stack([index % width, index // width], axis=-1).astype(jnp.float32)
    return xy, jnp.any(flat, axis=-1)
