"""What any model takes over of a masked autoencoder's encoder: blocks, the patches' projection, and positions."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from segjax.ops.positions import resize_bicubic


class TakenEncoder(NamedTuple):
    """A MAE's encoder, or that of a plain ViT of the same build, as it was read.

    arrays: "patch_embed" and "trunk", and "cls_token" and the last norm where they were asked for; nested dicts.
    grid: (h, w) of the patches that it was trained on. patch: their side in pixels.
    positions: [1 + h * w, width], the class token's first; MAE's own are computed, fine-tuning trains them.
    """

    arrays: Mapping[str, Any]
    grid: tuple[int, int]
    patch: int
    positions: np.ndarray


def check_sizes(
    encoder: Mapping[str, Any], expected: Mapping[str, Any], *, model: str, pairs: str
) -> None:
    """Raises ValueError for two encoders ("patch_embed" and "trunk") of another width or depth.

    model: how the message calls the one that is expected. pairs: sizes that go together.
    """
    size = lambda tree: (tree["patch_embed"]["kernel"].shape[-1], len(tree["trunk"]))
    if size(encoder) != size(expected):
        said = lambda width, depth: f"of width {width} and depth {depth}"
        raise ValueError(
            f"the MAE's encoder is {said(*size(encoder))}, the {model}'s {said(*size(expected))}; choose sizes that go "
            f"together, such as {pairs}"
        )


def resized_stem(
    taken: TakenEncoder, patch: int, grid: tuple[int, int]
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """The projection of patches of other pixels and the positions of another grid, bicubically; float32.

    Returns:
      {"kernel" [patch, patch, 3, width], "bias"}, the class token's position [width], the patches' [h, w, width].
    """
    embed, (first, rest) = taken.arrays["patch_embed"], (taken.positions[0], taken.positions[1:])
    kernel = resize_bicubic(np.asarray(embed["kernel"], np.float32), (patch, patch))
    return (
        {"kernel": kernel, "bias": embed["bias"]},
        first,
        resize_bicubic(rest.reshape(*taken.grid, -1), grid),
    )


def windowed_encoder(
    taken: TakenEncoder, expected: Mapping[str, Any], model: str
) -> dict[str, Any]:
    """The parameters of SAM's image encoder (SAM, appendix A) or ViTDet's backbone that a MAE has something to say of.

    Blocks and the patches' projection are taken as they are; a projection of other patches (MAE's H has 14 pixels,
    SAM's 16) and the positions are resized bicubically; relative positions start at zero. The class token and the
    last norm have no place there, and what follows the trunk none in MAE. With every block global and the same grid,
    the blocks then compute what MAE's do on the same tokens.

    Args:
      expected: "image_encoder" of a SAM's parameters, "backbone" of a ViTDet's: nested dicts of anything with a shape.
      model: how messages call it.

    Returns:
      {"patch_embed", "pos_embed", "trunk"}, float32.

    Raises:
      ValueError: another width or depth.
    """
    pairs = "mae_tiny and sam_tiny, or mae_vit_b and sam_vit_b or vitdet_vit_b"
    check_sizes(taken.arrays, expected, model=model, pairs=pairs)
    patch, grid = expected["patch_embed"]["kernel"].shape[0], expected["pos_embed"].shape[1:3]
    stem, _, positions = resized_stem(taken, patch, grid)
    blocks, wanted = taken.arrays["trunk"], expected["trunk"]
    tables = lambda block: {
        name: np.zeros(x.shape, np.float32) for name, x in block.items() if "rel_pos" in name
    }
    return {
        "patch_embed": stem,
        "pos_embed": positions[None],
        "trunk": {name: {**blocks[name], **tables(wanted[name])} for name in wanted},
    }
