"""Weights and batches that cost no time to make: seeded noise, and round objects."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

_NOISE = 2**20  # numbers that are drawn; larger arrays repeat them
_OBJECTS = 8  # of an image of a detector, which has room for more


def draw_variables(model: Any, init: Callable) -> dict[str, Any]:
    """Draws variables of a model with standard deviation 0.02, and scales and variances of 1.

    Speed does not depend on them, except that arrays of zeros would need less power.

    Args:
      model: The module.
      init: `init(model, key)`, which is only traced, for names and shapes.
    """
    noise = (0.02 * np.random.default_rng(0).standard_normal(_NOISE)).astype(np.float32)
    shapes = jax.eval_shape(lambda key: init(model, key), jax.random.key(0))

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if path[-1].key in ("scale", "variance"):
            return np.ones(leaf.shape, leaf.dtype)
        return np.resize(noise, leaf.shape).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def draw_images(batch: int, height: int, width: int) -> np.ndarray:
    """Draws uint8 images [B, H, W, 3] of noise."""
    return np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), np.uint8)


def draw_batch(shapes: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, np.ndarray]:
    """Draws a training batch of images with round objects.

    Args:
      shapes: `Task.batch_shapes`.
    """
    rng = np.random.default_rng(0)
    batch = {name: np.zeros(shape.shape, shape.dtype) for name, shape in shapes.items()}
    if "embedding" in batch:
        batch["embedding"][...] = rng.standard_normal(shapes["embedding"].shape)
    hw = (1024, 1024)
    if "image" in batch:
        images, *hw, _ = shapes["image"].shape
        batch["image"] = draw_images(images, *hw)
    for name in ("size", "original"):
        if name in batch:
            batch[name][...] = hw
    batch["weight"][...] = 1
    if "boxes" not in batch:
        return batch
    # Boxes of a sixteenth to a quarter of the canvas
    count, slots = shapes["boxes"].shape[:2]
    side = rng.uniform(min(hw) / 16, min(hw) / 4, (count, slots, 1))
    corner = rng.uniform(0, np.array(hw[::-1]) - side, (count, slots, 2))
    batch["boxes"][...] = np.concatenate([corner, corner + side], axis=-1)
    batch["valid"][...] = True
    if "categories" in batch:
        return batch | _fill_boxes(batch, rng)
    return batch | _place_discs(batch, hw)


def _fill_boxes(batch: Mapping[str, np.ndarray], rng: np.random.Generator) -> dict[str, Any]:
    """Returns masks in the cells of each box, and labels, of a detector's batch."""
    valid = batch["valid"].copy()
    valid[:, _OBJECTS:] = False
    masks = np.broadcast_to(_draw_disc(batch["masks"].shape[-1]), batch["masks"].shape)
    filled = {
        "valid": valid,
        "has_mask": valid,
        "boxes": batch["boxes"] * valid[..., None],
        "masks": masks * valid[..., None, None],
        "categories": rng.integers(0, 5, valid.shape),
    }
    return {name: values.astype(batch[name].dtype) for name, values in filled.items()}


def _place_discs(batch: Mapping[str, np.ndarray], hw: tuple[int, int]) -> dict[str, np.ndarray]:
    """Returns masks on the grid of the canvas, and their areas, of a SAM's batch."""
    masks, boxes = batch["masks"].copy(), batch["boxes"]
    stride = hw[0] / masks.shape[-2]
    for index in np.ndindex(boxes.shape[:2]):
        left, top, right, bottom = (boxes[index] / stride).astype(int)
        side = max(1, min(right - left, bottom - top))
        masks[index][top : top + side, left : left + side] = _draw_disc(side)
    area = math.pi / 4 * (boxes[..., 2] - boxes[..., 0]) ** 2
    return {"masks": masks, "area": area.astype(np.float32)}


def _draw_disc(side: int) -> np.ndarray:
    """Draws a disc that fills a square, uint8 [side, side]."""
    cells = np.arange(side) + 0.5 - side / 2
    return (np.hypot(*np.meshgrid(cells, cells)) <= side / 2).astype(np.uint8)
