"""What the mask of a proposal should be: its object's mask, seen through the proposal (Mask R-CNN, section 3.1).

Whole masks of 100 objects at 800 x 1344 are 107 MB an image. Cut to their objects' own boxes at 112 x 112 they are 1.25
MB, and so come with the batch (`compute_cropped_mask_targets`; tensorflow/tpu does it like that). The published PyTorch models
take theirs from whole masks or polygons (`compute_mask_targets`).
"""

import math

import jax
import jax.numpy as jnp

from segjax.ops.resize import linear_weights_at
from segjax.ops.roi.samples import Grid, compute_bin_weights, place_regions

CONVENTIONS = ("detectron2", "torchvision")


def compute_cropped_mask_targets(
    crops: jax.Array,
    boxes: jax.Array,
    proposals: jax.Array,
    matched: jax.Array,
    size: int = 28,
    *,
    samples: int = 4,
) -> jax.Array:
    """Targets from masks that are cut to their objects' boxes; what is outside of the box is background.

    Args:
      crops: [G, S, S], bool or numbers 0 to 1: the mask in its object's box, stretched to a square.
      boxes: [G, 4], the objects' boxes. proposals: [R, 4], in the same frame.
      matched: int [R], the object of each proposal.
      size: of a target.
      samples: on a side of one of its cells, whose mean decides.

    Returns:
      float32 [R, size, size], 1 where the mean is at least 1/2, else 0; all 0 for a box or a proposal without extent.
    """
    proposals, boxes = jax.lax.stop_gradient(
        (jnp.asarray(proposals, jnp.float32), jnp.asarray(boxes, jnp.float32))
    )
    boxes = boxes[matched]
    place = (jnp.arange(size * samples, dtype=jnp.float32) + 0.5) / (size * samples)

    def weights(axis, cells):
        low, extent = (
            proposals[:, axis, None],
            (proposals[:, axis + 2] - proposals[:, axis])[:, None],
        )
        first, length = boxes[:, axis, None], (boxes[:, axis + 2] - boxes[:, axis])[:, None]
        usable = (extent > 0) & (length > 0)
        position = (low + place * extent - first) / jnp.where(usable, length, 1) * cells - 0.5
        of_samples = jnp.where(usable[..., None], linear_weights_at(position, cells), 0)
        return of_samples.reshape(-1, size, samples, cells).mean(axis=2)

    masks = jnp.asarray(crops)[matched].astype(jnp.float32)
    rows, columns = weights(1, crops.shape[1]), weights(0, crops.shape[2])
    means = jnp.einsum("rpy,ryx,rqx->rpq", rows, masks, columns, precision="highest")
    return (means >= 0.5).astype(jnp.float32)


def compute_mask_targets(
    masks: jax.Array,
    proposals: jax.Array,
    matched: jax.Array,
    size: int = 28,
    *,
    convention: str = "detectron2",
) -> jax.Array:
    """Targets from whole masks, as the published models make them: RoIAlign of the mask, as many samples as pixels.

    Args:
      masks: [G, H, W], bool or numbers 0 to 1. proposals: [R, 4], in their pixels.
      matched: int [R], the mask of each proposal.
      size: of a target.
      convention: "detectron2": aligned, and hard, 1 where the mean is at least 1/2, else 0. "torchvision": half a pixel
        to the right and down, and soft, the mean itself.

    Returns:
      float32 [R, size, size].

    Raises:
      ValueError: an unknown convention.
    """
    if convention not in CONVENTIONS:
        raise ValueError(
            f"mask targets know no convention {convention!r}; choose one of {', '.join(CONVENTIONS)}"
        )
    hard, shape, masks = convention == "detectron2", masks.shape[1:], jnp.asarray(masks)
    proposals = jax.lax.stop_gradient(jnp.asarray(proposals, jnp.float32))
    grid = Grid((size, size), 0, hard, 2 * math.ceil(max(shape) / size))

    def target(region):
        box, mask = region
        axes = place_regions(box[None], jnp.float32(1), shape, grid)
        rows, columns = (
            compute_bin_weights(axis, size, length)[0] for axis, length in zip(axes, shape, strict=True)
        )
        mean = jnp.linalg.multi_dot(
            [rows, masks[mask].astype(jnp.float32), columns.T], precision="highest"
        )
        return (mean >= 0.5).astype(jnp.float32) if hard else mean

    return jax.lax.map(target, (proposals, matched))
