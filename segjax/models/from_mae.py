"""A masked autoencoder's encoder as SAM's image encoder (SAM, appendix A) or ViTDet's backbone (arXiv 2203.16527)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from segjax.ops.positions import resize_bicubic, sincos_positions


def encoder_from_mae(
    encoder: Mapping[str, Any], grid: tuple[int, int], expected: Mapping[str, Any], positions: np.ndarray | None = None
) -> dict[str, Any]:
    """The parameters of an encoder like SAM's that a MAE has something to say of.

    Blocks and the patches' projection are taken as they are; a projection of other patches (MAE's H has 14 pixels,
    SAM's 16) and the positions are resized bicubically; relative positions start at zero. The class token and the
    last norm have no place there, and what follows the trunk none in MAE. With every block global and the same grid,
    the blocks then compute what MAE's do on the same tokens.

    Args:
      encoder: "encoder" of a MAE's parameters, nested dicts of arrays.
      grid: (h, w) of the patches that the MAE was trained on.
      positions: [h, w, width], where they were trained (fine-tuning does that); None: MAE's own, which are computed.
      expected: "image_encoder" of a SAM's parameters, "backbone" of a ViTDet's: nested dicts of anything with a shape.

    Returns:
      {"patch_embed", "pos_embed", "trunk"}, float32.

    Raises:
      ValueError: another width or depth.
    """
    blocks, wanted = encoder["trunk"], expected["trunk"]
    size = lambda tree, trunk: (tree["patch_embed"]["kernel"].shape[-1], len(trunk))
    if size(encoder, blocks) != size(expected, wanted):
        said = lambda width, depth: f"of width {width} and depth {depth}"
        raise ValueError(
            f"the MAE's encoder is {said(*size(encoder, blocks))}, the model's {said(*size(expected, wanted))}; choose "
            "sizes that go together, such as mae_tiny and sam_tiny, or mae_vit_b and sam_vit_b or vitdet_vit_b"
        )
    kernel = np.asarray(encoder["patch_embed"]["kernel"], np.float32)
    width = kernel.shape[-1]
    positions = sincos_positions(grid, width) if positions is None else positions
    positions = resize_bicubic(positions, expected["pos_embed"].shape[1:3])
    tables = lambda block: {name: np.zeros(x.shape, np.float32) for name, x in block.items() if "rel_pos" in name}
    return {
        "patch_embed": {
            "kernel": resize_bicubic(kernel, expected["patch_embed"]["kernel"].shape[:2]),
            "bias": encoder["patch_embed"]["bias"],
        },
        "pos_embed": positions[None],
        "trunk": {name: {**blocks[name], **tables(wanted[name])} for name in wanted},
    }
