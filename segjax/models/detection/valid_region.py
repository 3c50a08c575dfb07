"""The part of a canvas that a detector computes, so that further padding has no influence."""

import dataclasses
import inspect
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.ops.masks import make_content_mask


@dataclasses.dataclass(frozen=True)
class ValidRegion:
    """Images on a canvas, each with its sides rounded up to the network's divisor.

    Published detectors pad an image to a multiple of 32 pixels, and that padding takes part in
    their features. A larger canvas adds padding that must not. In a valid region:

    * convolutions and pooling see zeros outside, as they do beyond the edge of a canvas,
    * group norms take their statistics inside,
    * no anchor outside is proposed or sampled,
    * RoIAlign takes the edge of the region for that of the map.

    All values inside are then those of the image alone on its smallest canvas.

    Attributes:
      canvas: (H, W) in pixels.
      extent: int32 [B, 2], (height, width) of each image's region, at the top left.
    """

    canvas: tuple[int, int]
    extent: jax.Array

    def cells(self, grid: tuple[int, int]) -> jax.Array:
        """Counts the valid cells of a map on each axis.

        Args:
          grid: (h, w) of the map.

        Returns:
          int32 [B, 2], (height, width) in cells.
        """
        # Strides are powers of two, and incomplete cells at the end of a map count as cells.
        strides = [
            2 ** math.ceil(math.log2(side / cells))
            for side, cells in zip(self.canvas, grid, strict=True)
        ]
        return -(-self.extent // jnp.array(strides, jnp.int32))

    def mask(self, grid: tuple[int, int]) -> jax.Array:
        """Marks the valid cells of a map, bool [B, h, w]."""
        return make_content_mask(self.cells(grid), grid)

    def blank(self, x: jax.Array) -> jax.Array:
        """Sets the cells of a map [B, h, w, C] outside of the region to 0."""
        return jnp.where(self.mask(x.shape[1:3])[..., None], x, 0)

    def extend(self, x: jax.Array) -> jax.Array:
        """Repeats the last valid row and column of a map [B, h, w, C] in the cells beyond them."""
        last = self.cells(x.shape[1:3]) - 1
        rows, columns = (
            jnp.minimum(jnp.arange(side), last[:, axis, None])
            for axis, side in enumerate(x.shape[1:3])
        )
        x = jnp.take_along_axis(x, rows[:, :, None, None], axis=1)
        return jnp.take_along_axis(x, columns[:, None, :, None], axis=2)


def find_valid_region(canvas: tuple[int, int], sizes: jax.Array, divisor: int) -> ValidRegion:
    """Returns the valid region of images on a canvas.

    Args:
      canvas: (H, W) in pixels, multiples of `divisor`.
      sizes: int [B, 2], (height, width) of the contents.
      divisor: pixels that divide the sides of regions.
    """
    # An image without pixels, as in an empty slot of a batch, has a region too.
    extent = jnp.maximum(-(-jnp.asarray(sizes, jnp.int32) // divisor), 1) * divisor
    return ValidRegion(tuple(canvas), extent)


def blank_outside(x: jax.Array, region: ValidRegion | None) -> jax.Array:
    """Applies `ValidRegion.blank`. Without a region all cells are valid."""
    return x if region is None else region.blank(x)


def find_canvas(levels: tuple[jax.Array, ...]) -> tuple[int, int]:
    """Returns (H, W) of the canvas of a pyramid, whose first level P2 has a stride of 4."""
    return tuple(4 * side for side in levels[0].shape[1:3])


def takes_region(backbone: nn.Module) -> bool:
    """Tests if a backbone has the argument `region` and so ignores what lies outside of it."""
    return "region" in inspect.signature(type(backbone).__call__).parameters
