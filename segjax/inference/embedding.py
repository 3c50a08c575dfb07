"""Pictures of any size to image embeddings."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from segjax.data.transforms import pad_to_canvas, resize_longest_side
from segjax.models.sam.sam import Sam


def embed(model: Sam, variables: Mapping[str, Any], pictures: Sequence[np.ndarray]) -> jax.Array:
    """uint8 [H, W, 3] each, of any sizes -> [B, h, w, D]: fitted to the canvas as SAM does, in one call."""
    contents = [resize_longest_side(np.ascontiguousarray(picture), model.canvas) for picture in pictures]
    canvases = np.stack([pad_to_canvas(content, model.canvas) for content in contents])
    sizes = np.array([content.shape[:2] for content in contents], np.int32)
    return _encode(model, variables, canvases, sizes)


@functools.partial(jax.jit, static_argnums=0)
def _encode(model: Sam, variables: Mapping[str, Any], images: jax.Array, sizes: jax.Array) -> jax.Array:
    return model.apply(variables, images, sizes, method="encode_image")
