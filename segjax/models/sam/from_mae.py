"""A masked autoencoder's encoder as SAM's image encoder (SAM, appendix A; ViTDet, arXiv 2203.16527)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from segjax.models.from_mae import TakenEncoder, check_sizes, resized_stem


def sam_encoder(taken: TakenEncoder, expected: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of SAM's image encoder that a MAE has something to say of.

    Blocks and the patches' projection are taken as they are; a projection of other patches (MAE's H has 14 pixels,
    SAM's 16) and the positions are resized bicubically; relative positions start at zero. The class token and the
    last norm have no place in SAM, and its neck none in MAE. With every block global and the same grid, the blocks
    then compute what MAE's do on the same tokens.

    Args:
      expected: "image_encoder" of a SAM's parameters, nested dicts of anything with a shape.

    Returns:
      {"patch_embed", "pos_embed", "trunk"}, float32.

    Raises:
      ValueError: another width or depth, or a SAM whose encoder is no plain stack of such blocks.
    """
    check_sizes(taken.arrays, expected, model="SAM", pairs="mae_tiny and sam_tiny or mae_vit_b and sam_vit_b")
    patch, grid = expected["patch_embed"]["kernel"].shape[0], expected["pos_embed"].shape[1:3]
    stem, _, positions = resized_stem(taken, patch, grid)
    blocks, wanted = taken.arrays["trunk"], expected["trunk"]
    tables = lambda block: {name: np.zeros(x.shape, np.float32) for name, x in block.items() if "rel_pos" in name}
    return {
        "patch_embed": stem,
        "pos_embed": positions[None],
        "trunk": {name: {**blocks[name], **tables(wanted[name])} for name in wanted},
    }
