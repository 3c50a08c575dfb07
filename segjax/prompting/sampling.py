"""Drawing single prompts from a truth mask or from the error of a prediction (SAM, appendix A)."""

import jax
import jax.numpy as jnp

from segjax.ops.boxes import clip_boxes
from segjax.ops.points import sample_in_region

BACKGROUND, FOREGROUND, PADDING = 0, 1, -1
BOX_NOISES = ("normal", "uniform", "none")
WHEN_PERFECT = ("object", "background")


def point_in(key: jax.Array, region: jax.Array, stride: int) -> tuple[jax.Array, jax.Array]:
    """A canvas pixel drawn uniformly from a region given on a coarser grid.

    Args:
      region: bool [..., H, W], cells of stride x stride canvas pixels.

    Returns:
      float32 [..., 2], (x, y) pixel indices on the canvas, and bool [...], False where the region is empty.
    """
    cell_key, pixel_key = jax.random.split(key)
    cell, found = sample_in_region(cell_key, region)
    return cell * stride + jax.random.randint(pixel_key, cell.shape, 0, stride), found


def correction(
    key: jax.Array,
    prediction: jax.Array,
    truth: jax.Array,
    content: jax.Array,
    stride: int,
    truth_rate: float = 0.0,
    when_perfect: str = "object",
) -> tuple[jax.Array, jax.Array]:
    """The next click: uniform over the error region, foreground on a false negative, background on a false positive.

    A perfect prediction has no error; the click then falls on the object or off it, which is true and teaches to keep
    the answer.

    Args:
      prediction, truth: bool [..., H, W], cells of stride canvas pixels.
      content: bool broadcastable to them, False on padding: nobody clicks outside the picture.
      truth_rate: probability of clicking into the truth mask instead of the error (sam2's code has 0.1).
      when_perfect: where to click when there is no error: "object", or "background" (sam2's code).

    Returns:
      points float32 [..., 2] in canvas pixels and labels int32 [...]: 1, 0, or -1 where there is nothing to click on.
    """
    if when_perfect not in WHEN_PERFECT:
        raise ValueError(
            f"when_perfect {when_perfect!r} is unknown; choose one of {', '.join(WHEN_PERFECT)}"
        )
    error_key, truth_key, choice_key = jax.random.split(key, 3)
    region = (prediction ^ truth) & content
    if when_perfect == "background":
        region |= ~region.any((-2, -1), keepdims=True) & content & ~truth
    error, wrong = point_in(error_key, region, stride)
    inside, exists = point_in(truth_key, truth, stride)
    use_error = wrong
    if truth_rate > 0:
        use_error &= ~(jax.random.bernoulli(choice_key, truth_rate, wrong.shape) & exists)
    point = jnp.where(use_error[..., None], error, inside)
    cell = (point // stride).astype(jnp.int32)
    flat = truth.reshape(*truth.shape[:-2], -1)
    on_object = jnp.take_along_axis(
        flat, (cell[..., 1] * truth.shape[-1] + cell[..., 0])[..., None], -1
    )[..., 0]
    label = jnp.where(on_object, FOREGROUND, BACKGROUND)
    return point, jnp.where(use_error | exists, label, PADDING).astype(jnp.int32)


def noisy_box(
    key: jax.Array, boxes: jax.Array, size: jax.Array, noise: str = "normal", cap: float = 20.0
) -> jax.Array:
    """Boxes as a hurried person draws them.

    Args:
      boxes: float32 [..., 4], canvas pixels.
      size: [..., 2], (height, width) of the picture's content, which the result does not leave.
      noise: "normal": each coordinate moves by a normal deviate of a tenth of the side, at most `cap` pixels (paper);
        "uniform": uniformly by at most min(a tenth of the side, cap) (sam2's code); "none".
    """
    if noise not in BOX_NOISES:
        raise ValueError(f"box noise {noise!r} is unknown; choose one of {', '.join(BOX_NOISES)}")
    side = boxes[..., 2:] - boxes[..., :2]
    scale = 0.1 * jnp.concatenate([side, side], axis=-1)
    if noise == "normal":
        boxes = boxes + jnp.clip(scale * jax.random.normal(key, boxes.shape), -cap, cap)
    elif noise == "uniform":
        boxes = boxes + jnp.minimum(scale, cap) * jax.random.uniform(key, boxes.shape, minval=-1.0)
    return clip_boxes(boxes, size)
