"""Attention of all models: one function, several implementations.

The implementation is an explicit argument, because a program may be compiled for other devices
than those of the machine that compiles it.
"""

import jax
import jax.numpy as jnp

from segjax.models.attention.explicit import attend_at_once, attend_chunked
from segjax.models.attention.kernels import attend_cudnn, attend_pallas
from segjax.models.attention.relative_positions import RelativeScores
from segjax.models.attention.tpu import supports_lengths

IMPLEMENTATIONS = ("xla", "chunked", "cudnn", "pallas")
# implementation -> the only platform that runs it
KERNEL_PLATFORM = {"cudnn": "gpu", "pallas": "tpu"}


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    key_valid: jax.Array | None = None,
    scale: float | None = None,
    causal: bool = False,
    relative: RelativeScores | None = None,
    impl: str = "xla",
) -> jax.Array:
    """Computes multi-head softmax attention, softmax(scale * q k^T + relative) v.

    Scores and softmax are float32.

    Example:
      >>> q = k = v = jnp.ones((2, 5, 4, 8))          # 2 images, 5 tokens, 4 heads, 8 channels
      >>> attention(q, k, v).shape
      (2, 5, 4, 8)

    Args:
      q: [..., Tq, heads, C]. Leading axes broadcast against those of k and v.
      k: [..., Tk, heads, C].
      v: [..., Tk, heads, Cv]. Cv may differ from C.
      key_valid: bool [..., Tk]. Invalid keys are ignored. Each query needs at least one valid key.
      scale: factor of the products of q and k. None: C ** -0.5.
      causal: a query sees the keys up to its own index. Needs Tq = Tk.
      relative: scores of each query for the rows and for the columns of a grid of h*w = Tk keys,
        see `compute_relative_scores`. They are added to the scaled products.
      impl: implementation.
        "xla" computes all scores at once.
        "chunked" computes the scores of a few heads and queries at a time, and is fastest on CPUs.
        "cudnn" is the fused kernel of NVIDIA GPUs, for half precision.
        "pallas" is the fused kernel of TPUs if Tq and Tk are multiples of 128 and there is no
        mask. Else, for example in windows of 14 x 14, it is "xla".

    Returns:
      [..., Tq, heads, Cv].

    Raises:
      ValueError: unknown implementation, or a causal mask of another number of keys.
    """
    if causal and q.shape[-3] != k.shape[-3]:
        raise ValueError(
            f"a causal mask needs as many keys as queries; got {q.shape[-3]} queries and "
            f"{k.shape[-3]} keys"
        )
    # Fused kernels
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if impl == "cudnn":
        return attend_cudnn(q, k, v, key_valid, scale, relative, causal)
    if impl not in IMPLEMENTATIONS:
        raise ValueError(
            f"attention impl {impl!r} is unknown; choose one of {', '.join(IMPLEMENTATIONS)}"
        )
    masked = causal or key_valid is not None
    if impl == "pallas" and not masked and supports_lengths(q.shape[-3], k.shape[-3]):
        return attend_pallas(q, k, v, scale, relative)

    # Heads before tokens: queries [..., heads, Tq, C], keys [..., heads, C, Tk]
    lead = jnp.broadcast_shapes(q.shape[:-3], k.shape[:-3])
    names = ("q", "by_row", "by_column")[: 3 if relative is not None else 1]
    per_query = {
        name: jnp.swapaxes(x, -2, -3) for name, x in zip(names, (q, *(relative or ())), strict=True)
    }
    if causal:
        per_query["position"] = jnp.arange(q.shape[-3])[:, None]
    per_key = [jnp.moveaxis(k, -3, -1), jnp.swapaxes(v, -2, -3)]
    valid = None if key_valid is None else key_valid[..., None, None, :]
    if impl == "chunked":
        out = attend_chunked(per_query, per_key, valid, scale, (*lead, q.shape[-2]))
    else:
        out = attend_at_once(per_query, per_key, valid, scale)
    return jnp.swapaxes(out, -2, -3)
