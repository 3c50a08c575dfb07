"""SAM's learned positions for a canvas of another size."""

import jax
import jax.numpy as jnp

from segjax.ops.resize import resize_bilinear, resize_table


def resize_position_tables(variables: dict, expected: dict) -> dict:
    """Variables whose position tables fit another canvas; every other array is the same one.

    They are resized as the encoder itself does for a picture of another size (`ImageEncoder`, `lookup_relative_positions`), so
    the new model answers as the old one would on the new canvas.

    Args:
      variables: {"params", "constants"} of a SAM. expected: the same tree of shapes for the new canvas.

    Returns:
      Variables with pos_embed [1, h, w, D] resized bilinearly and the rel_pos_h, rel_pos_w [2 * size - 1, C] of global
      blocks linearly; the tables of windows stay.
    """

    def fitted(path, array, want):
        name = path[-1].key
        if array.shape == want.shape or not (name == "pos_embed" or name.startswith("rel_pos")):
            return array
        if name.startswith("rel_pos"):
            return resize_table(jnp.asarray(array), want.shape[0])
        return jnp.moveaxis(
            resize_bilinear(jnp.moveaxis(jnp.asarray(array), -1, 1), want.shape[1:3]), 1, -1
        )

    return jax.tree_util.tree_map_with_path(fitted, variables, expected)
