"""The two halves of a SAM as a session runs them, each compiled once: pictures to embeddings, prompts to masks."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from segjax.data.transforms import fitted_size, pad_to_canvas, resize_longest_side
from segjax.inference.upscale import image_weights
from segjax.models.sam.prompt_encoder import Prompts
from segjax.models.sam.sam import Sam


def embed(model: Sam, variables: Mapping[str, Any], pictures: Sequence[np.ndarray]) -> jax.Array:
    """uint8 [H, W, 3] each, of any sizes -> [B, h, w, D]: fitted to the canvas as SAM does, in one call."""
    contents = [resize_longest_side(np.ascontiguousarray(picture), model.canvas) for picture in pictures]
    canvases = np.stack([pad_to_canvas(content, model.canvas) for content in contents])
    sizes = np.array([content.shape[:2] for content in contents], np.int32)
    return _encode(model, variables, canvases, sizes)


@functools.partial(jax.jit, static_argnums=0)
def decode(
    model: Sam, variables: Mapping[str, Any], embedding: jax.Array, prompts: Prompts
) -> tuple[jax.Array, jax.Array]:
    """Logits [P, 4, 4h, 4w] and predicted IoUs [P, 4] of prompts [1, P, ..] on one embedding [1, h, w, D]."""
    logits, iou = model.apply(variables, embedding, prompts, method="decode")
    return logits[0], iou[0]


def to_picture(model: Sam, hw: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """The matrices [H, 4h] and [W, 4w] that bring logits of the mask grid to a picture of size `hw`."""
    rows, columns = (
        image_weights(model.mask_side, model.canvas, content, size)
        for content, size in zip(fitted_size(hw, model.canvas), hw, strict=True)
    )
    return rows, columns


@functools.partial(jax.jit, static_argnums=0)
def _encode(model: Sam, variables: Mapping[str, Any], images: jax.Array, sizes: jax.Array) -> jax.Array:
    return model.apply(variables, images, sizes, method="encode_image")
