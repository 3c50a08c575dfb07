"""A SAM whose masks are objects, to test the automatic mask generator.

A SAM with random weights predicts noise over the complete image, so all of its boxes are the same.
"""

import jax.numpy as jnp

from segjax.models.sam.build import SIZES
from segjax.models.sam.sam import Sam
from segjax.ops.resize import resize_bilinear


class Blobs(Sam):
    """SAM whose decoder predicts ragged discs around each click, with different predicted IoUs."""

    def decode(self, embedding, prompts):
        side = embedding.shape[1] * 4
        cells = jnp.arange(side) + 0.5
        click = (prompts.points[:, :, 0] + 0.5) * (side / self.canvas)
        x, y = cells - click[..., 0, None], cells - click[..., 1, None]
        distance = jnp.hypot(y[..., :, None], x[..., None, :])[:, :, None]
        ragged = resize_bilinear(embedding.mean(-1), (side, side))[:, None, None]
        kind = click.sum(-1)[..., None] + jnp.arange(4.0)
        radius = (2 + 3 * jnp.sin(kind) ** 2)[..., None, None]
        return (radius - distance) * (1 + jnp.cos(3 * radius)) + 4 * ragged, 0.45 + 0.55 * jnp.sin(
            5 * kind
        )


def blobs(size: str) -> Blobs:
    """Builds one of the sizes of `build_sam`."""
    return Blobs(**SIZES[size])
