"""Samples single prompts from a ground-truth mask or from the error region of a prediction.

See Segment Anything (arXiv 2304.02643), appendix A, "Training algorithm".
"""

import jax
import jax.numpy as jnp

from segjax.ops.boxes import clip_boxes
from segjax.ops.masks import sample_in_region

BACKGROUND, FOREGROUND, PADDING = 0, 1, -1
BOX_NOISES = ("normal", "uniform", "outward", "none")
WHEN_PERFECT = ("object", "background")


def sample_point(key: jax.Array, region: jax.Array, stride: int) -> tuple[jax.Array, jax.Array]:
    """Samples a canvas pixel uniformly from a region given on a coarser grid.

        region = jnp.zeros((16, 16), bool).at[3, 5].set(True)
        point, exists = sample_point(jax.random.key(0), region, stride=4)  # x 20..23, y 12..15

    Args:
      key: Typed PRNG key.
      region: bool [..., H, W], cells of stride x stride canvas pixels.
      stride: Canvas pixels per cell.

    Returns:
      Points float32 [..., 2], (x, y) pixel indices on the canvas, and bool [...], False where the
      region is empty.
    """
    cell_key, pixel_key = jax.random.split(key)
    cell, exists = sample_in_region(cell_key, region)
    return cell * stride + jax.random.randint(pixel_key, cell.shape, 0, stride), exists


def sample_correction(
    key: jax.Array,
    prediction: jax.Array,
    ground_truth: jax.Array,
    content: jax.Array,
    stride: int,
    truth_rate: float = 0.0,
    when_perfect: str = "object",
) -> tuple[jax.Array, jax.Array]:
    """Samples the next click, uniformly from the error region between prediction and ground truth.

    The click is foreground on a false negative and background on a false positive. If the
    prediction is perfect there is no error region. The click then falls on the object or beside
    it, where its label is correct, and trains the model to keep its prediction.

    Args:
      key: Typed PRNG key.
      prediction: bool [..., H, W], cells of stride x stride canvas pixels.
      ground_truth: bool [..., H, W], the same cells.
      content: bool, broadcastable to [..., H, W]. False on padding, where nobody clicks.
      stride: Canvas pixels per cell.
      truth_rate: Probability that the click is sampled from the ground truth instead of the error
        region (0.1 in the code of SAM 2).
      when_perfect: Location of the click without an error region: "object", or "background" (the
        code of SAM 2).

    Returns:
      Points float32 [..., 2] in canvas pixels, and labels int32 [...]: 1, 0, or -1 where there is
      nothing to click on.

    Raises:
      ValueError: Unknown `when_perfect`.
    """
    if when_perfect not in WHEN_PERFECT:
        raise ValueError(
            f"when_perfect {when_perfect!r} is unknown; choose one of {', '.join(WHEN_PERFECT)}"
        )
    error_key, object_key, choice_key = jax.random.split(key, 3)

    # Error region
    region = (prediction ^ ground_truth) & content
    if when_perfect == "background":
        region |= ~region.any((-2, -1), keepdims=True) & content & ~ground_truth
    in_error, has_error = sample_point(error_key, region, stride)
    in_object, has_object = sample_point(object_key, ground_truth, stride)
    use_error = has_error
    if truth_rate > 0:
        use_error &= ~(jax.random.bernoulli(choice_key, truth_rate, has_error.shape) & has_object)
    point = jnp.where(use_error[..., None], in_error, in_object)

    # The label is that of the ground truth under the click
    cell = (point // stride).astype(jnp.int32)
    flat = ground_truth.reshape(*ground_truth.shape[:-2], -1)
    on_object = jnp.take_along_axis(
        flat, (cell[..., 1] * ground_truth.shape[-1] + cell[..., 0])[..., None], -1
    )[..., 0]
    label = jnp.where(on_object, FOREGROUND, BACKGROUND)
    return point, jnp.where(use_error | has_object, label, PADDING).astype(jnp.int32)


def jitter_box(
    key: jax.Array, boxes: jax.Array, size: jax.Array, noise: str = "normal", cap: float = 20.0
) -> jax.Array:
    """Adds noise to boxes, as a user would draw them.

        boxes = jnp.array([[10.0, 10.0, 50.0, 30.0]])
        jitter_box(jax.random.key(0), boxes, size=jnp.array([[64, 64]]))  # [1, 4]

    Args:
      key: Typed PRNG key.
      boxes: float32 [..., 4], x1 y1 x2 y2 in canvas pixels.
      size: [..., 2], (height, width) of the image on the canvas. Boxes are clipped to it.
      noise: "normal": standard deviation of a tenth of the side, clipped to `cap` (the paper).
        "uniform": at most min(a tenth of the side, cap) (the code of SAM 2). "outward": each side
        moves outward by 0 to `cap`, whatever the size of the box (MedSAM). "none".
      cap: Largest shift of a coordinate, in pixels.

    Returns:
      float32 [..., 4], x1 y1 x2 y2 in canvas pixels.

    Raises:
      ValueError: Unknown `noise`.
    """
    if noise not in BOX_NOISES:
        raise ValueError(f"box noise {noise!r} is unknown; choose one of {', '.join(BOX_NOISES)}")
    side = boxes[..., 2:] - boxes[..., :2]
    scale = 0.1 * jnp.concatenate([side, side], axis=-1)
    if noise == "normal":
        boxes = boxes + jnp.clip(scale * jax.random.normal(key, boxes.shape), -cap, cap)
    elif noise == "uniform":
        boxes = boxes + jnp.minimum(scale, cap) * jax.random.uniform(key, boxes.shape, minval=-1.0)
    elif noise == "outward":
        outward = jnp.array([-1.0, -1.0, 1.0, 1.0])
        boxes = boxes + outward * cap * jax.random.uniform(key, boxes.shape)
    return clip_boxes(boxes, size)
