"""Fused attention kernels: cuDNN's on NVIDIA GPUs, splash attention on TPUs."""

import math

import jax
import jax.numpy as jnp

from segjax.models.attention.relative_positions import fold_relative_scores
from segjax.models.attention.tpu import splash_attention


def attend_cudnn(q, k, v, key_valid, scale, relative, causal):
    """Computes attention by cuDNN's fused kernel.

    cuDNN expects [B, T, heads, C], with the same C for q, k and v, a multiple of 8. Narrower arrays
    are padded with zeros.
    """
    if relative is not None:
        q, k, scale = *fold_relative_scores(q * scale, k, relative), 1.0
    lead = jnp.broadcast_shapes(q.shape[:-3], k.shape[:-3])
    width = -(-max(q.shape[-1], v.shape[-1]) // 8) * 8

    def pad_channels(x):
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, width - x.shape[-1])])
        return jnp.broadcast_to(x, (*lead, *x.shape[-3:])).reshape(-1, *x.shape[-3:])

    # The mask broadcasts over heads and queries
    mask = None
    if key_valid is not None:
        mask = jnp.broadcast_to(key_valid, (*lead, k.shape[-3])).reshape(-1, 1, 1, k.shape[-3])
    out = jax.nn.dot_product_attention(
        pad_channels(q),
        pad_channels(k),
        pad_channels(v),
        mask=mask,
        is_causal=causal,
        scale=scale,
        implementation="cudnn",
    )
    return out.reshape(*lead, *out.shape[-3:])[..., : v.shape[-1]]


def attend_pallas(q, k, v, scale, relative):
    """Computes attention by the fused kernel of TPUs, which has no scale and one leading axis.

    The batch, which devices share, comes first on that axis.
    """
    q = q * scale
    if relative is not None:
        q, k = fold_relative_scores(q, k, relative)
    lead = jnp.broadcast_shapes(q.shape[:-3], k.shape[:-3])
    flat = lambda x, own: jnp.broadcast_to(x, (*lead, *own)).reshape(math.prod(lead), *own)
    q, k, v = (flat(x, x.shape[-3:]) for x in (q, k, v))
    return splash_attention(q, k, v).reshape(*lead, *q.shape[-3:-1], v.shape[-1])
