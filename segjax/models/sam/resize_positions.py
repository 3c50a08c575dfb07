"""Resizing of SAM's learned position tables to a canvas of another size."""

import jax
import jax.numpy as jnp

from segjax.ops.resize import resize_bilinear, resize_table


def resize_position_tables(variables: dict, expected: dict) -> dict:
    """Resizes the position tables of a SAM to another canvas. Other arrays stay the same objects.

    The encoder resizes its tables in the same way for an image of another size (`ImageEncoder`,
    `lookup_relative_positions`). The new model therefore computes on the new canvas exactly
    what the old model would.

    Args:
      variables: {"params", "constants"} of a SAM.
      expected: The same tree with the shapes for the new canvas.

    Returns:
      Variables with these tables resized:

      pos_embed: [1, h, w, D], bilinearly.
      rel_pos_h, rel_pos_w: [2 * size - 1, C] of global blocks, linearly. Tables of windows stay.
    """

    def resize_table_of(path, array, want):
        name = path[-1].key
        if array.shape == want.shape or not (name == "pos_embed" or name.startswith("rel_pos")):
            return array
        if name.startswith("rel_pos"):
            return resize_table(jnp.asarray(array), want.shape[0])
        return jnp.moveaxis(
            resize_bilinear(jnp.moveaxis(jnp.asarray(array), -1, 1), want.shape[1:3]), 1, -1
        )

    return jax.tree_util.tree_map_with_path(resize_table_of, variables, expected)
