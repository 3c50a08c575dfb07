"""Features and attention of the patches of an image, from the ViT of any model."""

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from segjax.images.decoding import decode_image
from segjax.images.resizing import PillowResize
from segjax.models.build import family_of_model
from segjax.models.vit.recording import record_blocks

KINDS = ("keys", "queries", "values", "tokens")


class PatchFeatures(NamedTuple):
    """Features of the patches of one image, n = h * w of them, row by row.

    Attributes:
      grid: (h, w).
      hw: (H, W) of the image in pixels.
      features: float32 [n, D]. Heads are concatenated.
      attention: float32 [heads, n, n], rows scaled to sum 1 over the patches.
      token_attention: float32 [heads, n], from the class token to the patches. None for a model
        without a class token.
    """

    grid: tuple[int, int]
    hw: tuple[int, int]
    features: np.ndarray
    attention: np.ndarray
    token_attention: np.ndarray | None


def extract_features(
    model: nn.Module,
    variables: Mapping[str, Any],
    image: Any,
    *,
    kind: str = "keys",
    block: int = -1,
    size: int | None = None,
) -> PatchFeatures:
    """Runs the ViT of a model on an image and returns features of its patches.

    The image is resized so that its longer side has `size` pixels and both sides are multiples of
    the patch.

    Example:
      model, variables = segjax.load("dino_vit_s_16", "dino_deitsmall16_pretrain.pth")
      found = extract_features(model, variables, image, size=480)
      mask, _ = token_cut(found.features, found.grid)

    Args:
      model: a SAM, a MAE, a CLIP or a DINO.
      variables: its variables.
      image: uint8 [H, W, 3].
      kind: "keys", "queries" or "values" of a block's attention, or "tokens", the output of the
        last block.
      block: index of the block. -1 is the last one. It needs global attention.
      size: longer side of the resized image in pixels. None: the model's canvas.

    Raises:
      ValueError: unknown kind, a model without a ViT, a block with windows, or a size that the
        model does not take.
    """
    if kind not in KINDS:
        raise ValueError(f"features are {kind!r}; choose one of {', '.join(KINDS)}")
    pixels = decode_image(image)
    hw = pixels.shape[:2]
    family = family_of_model(model)
    if family.fit_encoder is None:
        raise ValueError(
            f"a {family.title} gives no features of patches; load a SAM, a MAE, a CLIP or a DINO"
        )
    canvas = model.canvas if isinstance(model.canvas, int) else max(model.canvas)
    patch = model.patch
    fitted = fit_patches(hw, canvas if size is None else size, patch)
    if fitted != hw:
        pixels = PillowResize().resize(pixels, fitted, (0, 0), fitted)
    # Run the network once, with a record of one block
    encoder = family.fit_encoder(model, fitted)
    tokens, record = _record(encoder, variables, pixels[None], block)
    grid = (fitted[0] // patch, fitted[1] // patch)
    count = math.prod(grid)
    # Tokens before the patches are the class token and registers
    flat = lambda x: np.asarray(x[0], np.float32).reshape(-1, *x.shape[-2:])[-count:]
    if kind == "tokens":
        features = np.asarray(tokens[0], np.float32).reshape(-1, tokens.shape[-1])[-count:]
    else:
        features = flat(getattr(record, kind[0])).reshape(count, -1)
    weights = np.asarray(record.weights[0], np.float32)
    prefix = weights.shape[-1] - count
    between = weights[:, prefix:, prefix:]
    between = between / np.maximum(between.sum(axis=-1, keepdims=True), 1e-12)
    from_token = weights[:, 0, prefix:] if prefix else None
    return PatchFeatures(grid, hw, features, between, from_token)


def fit_patches(hw: tuple[int, int], size: int, patch: int) -> tuple[int, int]:
    """Returns the size in pixels at which an image consists of whole patches.

    Args:
      hw: (height, width) of the image.
      size: longer side of the result, before rounding.
      patch: side of a patch.

    Raises:
      ValueError: `size` is smaller than a patch.
    """
    if size < patch:
        raise ValueError(f"size is {size} pixels; expected at least a patch of {patch}")
    scale = size / max(hw)
    height, width = (max(1, round(side * scale / patch)) * patch for side in hw)
    return height, width


@functools.partial(jax.jit, static_argnums=(0, 3))
def _record(encoder: nn.Module, variables: Any, images: jax.Array, block: int) -> Any:
    """Returns the tokens and the record of one block."""
    tokens, (record,) = record_blocks(encoder, variables, images, blocks=(block,))
    return tokens, record
