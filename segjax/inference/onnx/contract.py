"""SAM as segment-anything's ONNX models define it, in JAX and with static shapes.

`segjax.inference.onnx.graphs` adds the parts whose shapes change from call to call: the number of
points and the sizes of images.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from segjax.models.sam.prompt_encoder import Prompts
from segjax.models.sam.sam import Sam

EMPTY = -1000.0  # label of an unused slot, to which nothing attends
NOT_A_POINT = -1  # segment-anything's padding point, which is a token of its own
POINT_WEIGHT = 1000  # of the rule that selects the single mask
POINT_THRESHOLD = 2.5


def make_plain(model: Sam) -> Sam:
    """Returns the model without options of training and of devices, in float32.

    Parameters and results stay the same, up to the rounding of a smaller type.
    """
    return model.clone(
        dtype=jnp.float32, attention="xla", remat="none", scan=False, prompts_at_once=0
    )


def make_decoder(
    model: Sam, variables: Mapping[str, Any], *, single_mask: bool
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Returns the mask decoder as a function of the arrays of segment-anything's ONNX model.

    Args:
      model: The SAM.
      variables: Its variables, which become constants.
      single_mask: Return one mask instead of four, see `select_single_mask`.

    Returns:
      A function of five float32 arrays: image_embeddings [1, D, h, w], point_coords [1, N, 2],
      point_labels [1, N], mask_input [1, 1, 4h, 4w] and has_mask_input [1]. It returns
      low_res_masks [1, M, 4h, 4w] and iou_predictions [1, M].
    """

    def decode(image_embeddings, point_coords, point_labels, mask_input, has_mask_input):
        prompts = Prompts(masks=mask_input, has_mask=has_mask_input[:, None] > 0)
        logits, iou = model.apply(
            variables, image_embeddings, point_coords, point_labels, prompts, method=_decode
        )
        if single_mask:
            logits, iou = select_single_mask(logits, iou, point_labels)
        return logits, iou

    return decode


def make_encoder(model: Sam, variables: Mapping[str, Any]) -> Callable[..., jax.Array]:
    """Returns the image encoder, with channels first in its output.

    Returns:
      A function of pixels float32 [1, H, W, 3], values 0..255, and sizes int32 [1, 2], the height
      and width of the content. It returns image embeddings float32 [1, D, h, w].
    """
    encode = functools.partial(model.apply, variables, method="encode_image")
    return lambda pixels, sizes: jnp.moveaxis(encode(pixels, sizes), -1, 1)


def _decode(
    model: Sam, embeddings: jax.Array, points: jax.Array, labels: jax.Array, prompts: Prompts
) -> tuple[jax.Array, jax.Array]:
    """Decodes one prompt whose tokens are given by segment-anything's labels.

    `Sam.decode` adds "not a point" by itself and has boxes apart from points. Here every token
    comes from the caller's list, as in segment-anything's ONNX model.
    """
    encoder = model.prompt_encoder
    embedding = jnp.moveaxis(embeddings, 1, -1)
    grid = embedding.shape[1:3]
    canvas = (grid[0] * model.patch, grid[1] * model.patch)
    # A token is the encoding of its position plus the embedding of its kind
    label = labels[..., None]
    extent = jnp.asarray(canvas[::-1], jnp.float32)
    tokens = encoder.encode_positions((points + 0.5) / extent)
    tokens = jnp.where(label == NOT_A_POINT, encoder.not_a_point, tokens)
    kinds = (encoder.background, encoder.foreground, encoder.top_left, encoder.bottom_right)
    for index, kind in enumerate(kinds):
        tokens = tokens + jnp.where(label == index, kind, jnp.zeros_like(kind))
    valid = labels != EMPTY
    # Masks are encoded as everywhere in segjax
    _, _, dense = encoder(prompts, canvas, grid)
    logits, iou = model.mask_decoder(
        embedding, encoder.encode_image_grid(grid), tokens[:, None], valid[:, None], dense
    )
    return logits[:, 0], iou[:, 0]


def select_single_mask(
    logits: jax.Array, iou: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Selects one mask by the predicted IoU plus (n - 2.5) * 1000 for mask 0.

    n is the number of points, with padding points and corners of the box. Mask 0 is the one for
    several prompts. It wins for n >= 3, and the best of the three others wins for n <= 2.

    Args:
      logits: [1, 4, 4h, 4w].
      iou: [1, 4].
      labels: [1, N]. `EMPTY` labels do not count.

    Returns:
      [1, 1, 4h, 4w] and [1, 1].
    """
    points = jnp.sum(labels != EMPTY, axis=1, keepdims=True).astype(jnp.float32)
    first = jnp.arange(iou.shape[1]) == 0
    score = iou + (points - POINT_THRESHOLD) * POINT_WEIGHT * first
    # A sum over masks, of which one is selected: exact, and simple in every runtime
    best = jnp.argmax(score, axis=1)[:, None] == jnp.arange(iou.shape[1])
    selected = jnp.sum(logits * best[..., None, None], axis=1, keepdims=True)
    return selected, jnp.sum(iou * best, axis=1, keepdims=True)
