"""Vectors of objects in an image: by crops, or by masked attention in one pass over the image."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segjax.images.decoding import decode_image
from segjax.images.squares import crop_square, make_square
from segjax.inference.clip.clip import Clip, normalize_rows

_encode_masks = jax.jit(
    lambda model, variables, images, masks: model.apply(
        variables, images, masks=masks, method="encode_image"
    ),
    static_argnums=0,
)


def encode_crops(
    clip: Clip,
    image: Any,
    boxes: np.ndarray,
    masks: Sequence[np.ndarray],
    *,
    expand: float | Sequence[float] = 1.0,
    hide: bool | Sequence[bool] = True,
    masked_attention: bool = False,
) -> np.ndarray:
    """Computes a vector for each object from a crop of its own.

    Args:
      clip: the CLIP.
      image: uint8 [H, W, 3].
      boxes: [G, 4], x1 y1 x2 y2 in pixels.
      masks: G masks, bool [H, W].
      expand: factor by which the square around a box is scaled, one or one per object.
      hide: fill everything but the object with CLIP's mean color, which is 0 for the network. One
        or one per object.
      masked_attention: in the last block, the class token sees the patches of the mask alone (SAM,
        appendix D.5).

    Returns:
      float32 [G, E], of length 1.

    Raises:
      ImageError: not an image.
    """
    pixels = decode_image(image)
    count, model = len(boxes), clip.model
    expand, hide = np.broadcast_to(expand, count), np.broadcast_to(hide, count)
    color = tuple(round(255 * value) for value in model.mean)
    options = dict(interpolation=model.interpolation)
    crops = np.zeros((count, model.canvas, model.canvas, 3), np.uint8)
    tokens = np.zeros((count, 1, 1 + model.grid[0] * model.grid[1]), bool)
    for i, (box, mask) in enumerate(zip(boxes, masks, strict=True)):
        crops[i] = crop_square(
            pixels,
            box,
            model.canvas,
            expand=expand[i],
            mask=mask if hide[i] else None,
            color=color,
            **options,
        )
        if masked_attention:
            stacked = np.repeat(mask[..., None].astype(np.uint8) * 255, 3, axis=2)
            cropped = crop_square(stacked, box, model.canvas, expand=expand[i], **options)
            tokens[i, 0, 1:] = cover_patches(cropped[..., 0] > 0, model.patch).reshape(-1)
    if not masked_attention:
        return clip.encode_image(list(crops)) if count else np.zeros((0, model.embedding), "f4")
    # A mask without any patch sees all of them
    tokens |= ~tokens.any(axis=-1, keepdims=True)
    encode = lambda images, masks: _encode_masks(model, clip.variables, images, masks)[:, 0]
    return clip.encode_rows(encode, zip(crops, tokens, strict=True))


def encode_masks(
    clip: Clip, image: Any, masks: Sequence[np.ndarray], count: int = 64
) -> np.ndarray:
    """Computes a vector for each mask in one pass over the image, by masked attention.

    In the last block the class token is computed once per mask, and sees the patches that the mask
    touches. Small objects share their patches with what is around them; `encode_crops` looks
    closer.

    Args:
      clip: the CLIP.
      image: uint8 [H, W, 3]. It is squashed to the canvas, so that no mask is cut off.
      masks: masks, bool [H, W].
      count: masks in one call. Fewer are padded, so one program serves all.

    Returns:
      float32 [len(masks), E], of length 1.
    """
    model = clip.model
    square = make_square(image, model.canvas, resize="squash", interpolation=model.interpolation)
    tokens = np.zeros((len(masks), 1 + model.grid[0] * model.grid[1]), bool)
    for i, mask in enumerate(masks):
        tokens[i, 1:] = cover_grid(np.asarray(mask, bool), model.grid).reshape(-1)
    tokens |= ~tokens.any(axis=-1, keepdims=True)
    found = []
    for start in range(0, len(masks), count):
        part = tokens[start : start + count]
        padded = np.ones((1, count, tokens.shape[1]), bool)
        padded[0, : len(part)] = part
        vectors = _encode_masks(
            model, clip.variables, jnp.asarray(square[None]), jnp.asarray(padded)
        )
        found.append(np.asarray(vectors)[0, : len(part)])
    return normalize_rows(np.concatenate(found) if found else np.zeros((0, model.embedding)))


def cover_patches(mask: np.ndarray, patch: int) -> np.ndarray:
    """Returns bool [h, w], the patches of which a mask bool [h * patch, w * patch] has a pixel."""
    h, w = mask.shape[0] // patch, mask.shape[1] // patch
    return mask.reshape(h, patch, w, patch).any(axis=(1, 3))


def cover_grid(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Returns bool [h, w], the cells of a grid over a mask of any size that it has a pixel in."""
    rows, columns = (
        np.arange(size) * cells // size for size, cells in zip(mask.shape, grid, strict=True)
    )
    covered = np.zeros(grid, bool)
    y, x = np.nonzero(mask)
    covered[rows[y], columns[x]] = True
    return covered
