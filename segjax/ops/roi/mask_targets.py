"""Mask targets of proposals: the ground-truth mask inside the proposal (Mask R-CNN, section 3.1).

Full masks of 100 objects at 800 x 1344 pixels take 107 MB per image. Cropped to the objects' boxes
at 112 x 112 they take 1.25 MB and fit into a batch (`compute_cropped_mask_targets`, as in
tensorflow/tpu). The published PyTorch models use full masks or polygons (`compute_mask_targets`).
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
    """Computes targets from masks that are cropped to their objects' boxes.

    Everything outside of an object's box is background.

    Example:
      >>> box = jnp.array([[0, 0, 8, 8]])
      >>> compute_cropped_mask_targets(jnp.ones((1, 4, 4)), box, box, jnp.array([0]), size=2).sum()
      Array(4., dtype=float32)

    Args:
      crops: [G, S, S], bool or float 0 to 1, the mask in its object's box, stretched to a square.
      boxes: [G, 4], boxes of the objects.
      proposals: [R, 4], in the same frame.
      matched: int [R], index of the object of each proposal.
      size: side of a target in cells.
      samples: sampling points per cell and axis. Their mean decides.

    Returns:
      float32 [R, size, size], 1 if the mean is at least 0.5, else 0. All 0 for a degenerate box or
      proposal.
    """
    proposals, boxes = jax.lax.stop_gradient(
        (jnp.asarray(proposals, jnp.float32), jnp.asarray(boxes, jnp.float32))
    )
    boxes = boxes[matched]
    fraction = (jnp.arange(size * samples, dtype=jnp.float32) + 0.5) / (size * samples)

    def weights(axis, cells):
        """Returns the weights of the cells of a crop in a target, [R, size, cells]."""
        low, extent = (
            proposals[:, axis, None],
            (proposals[:, axis + 2] - proposals[:, axis])[:, None],
        )
        first, length = boxes[:, axis, None], (boxes[:, axis + 2] - boxes[:, axis])[:, None]
        usable = (extent > 0) & (length > 0)
        position = (low + fraction * extent - first) / jnp.where(usable, length, 1) * cells - 0.5
        of_samples = jnp.where(usable[..., None], linear_weights_at(position, cells), 0)
        return of_samples.reshape(-1, size, samples, cells).mean(axis=2)

    # Rows x mask x columns, the mean of the samples of each cell
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
    """Computes targets from full masks by RoIAlign, as the published models do.

    There are as many sampling points as pixels.

    Example:
      >>> masks = jnp.zeros((1, 8, 8)).at[:, :, :4].set(1)  # the left half
      >>> box = jnp.array([[0, 0, 8, 8]])
      >>> compute_mask_targets(masks, box, jnp.array([0]), size=2)[0].tolist()
      [[1.0, 0.0], [1.0, 0.0]]

    Args:
      masks: [G, H, W], bool or float 0 to 1.
      proposals: [R, 4], pixels of the masks.
      matched: int [R], index of the mask of each proposal.
      size: side of a target in cells.
      convention: "detectron2" is aligned and binary, 1 if the mean is at least 0.5. "torchvision"
        is half a pixel off to the right and down, and returns the mean itself.

    Returns:
      float32 [R, size, size].

    Raises:
      ValueError: an unknown convention.
    """
    if convention not in CONVENTIONS:
        raise ValueError(
            f"mask targets have no convention {convention!r}; choose one of "
            f"{', '.join(CONVENTIONS)}"
        )
    hard, shape, masks = convention == "detectron2", masks.shape[1:], jnp.asarray(masks)
    proposals = jax.lax.stop_gradient(jnp.asarray(proposals, jnp.float32))
    grid = Grid((size, size), 0, hard, 2 * math.ceil(max(shape) / size))

    def target(region):
        """Computes the target of one (proposal, index of its mask)."""
        box, mask = region
        axes = place_regions(box[None], jnp.float32(1), shape, grid)
        rows, columns = (
            compute_bin_weights(axis, size, length)[0]
            for axis, length in zip(axes, shape, strict=True)
        )
        mean = jnp.linalg.multi_dot(
            [rows, masks[mask].astype(jnp.float32), columns.T], precision="highest"
        )
        return (mean >= 0.5).astype(jnp.float32) if hard else mean

    # One proposal at a time: the float copies of all masks would not fit into memory.
    return jax.lax.map(target, (proposals, matched))
