"""Carries a masked autoencoder's encoder over to other models: blocks, projection and positions."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from segjax.ops.positions import resize_bicubic


class PretrainedEncoder(NamedTuple):
    """Encoder of a MAE, or of a plain ViT of the same build, as it was read.

    Attributes:
      arrays: "patch_embed" and "trunk", and "cls_token" and the last norm if they were requested.
        Nested dicts.
      grid: (h, w), patches of the images that it was trained on.
      patch: side of a patch in pixels.
      positions: [1 + h * w, width], the class token's first. A MAE's own are computed. Fine-tuning
        trains them.
    """

    arrays: Mapping[str, Any]
    grid: tuple[int, int]
    patch: int
    positions: np.ndarray


def check_sizes(
    encoder: Mapping[str, Any], expected: Mapping[str, Any], *, model: str, pairs: str
) -> None:
    """Raises ValueError for two encoders of different width or depth.

    Args:
      encoder: arrays of the pretrained encoder, "patch_embed" and "trunk".
      expected: the same of the new model, of anything with a shape.
      model: name of the new model for the message.
      pairs: sizes that go together, for the message.
    """

    def size(tree: Mapping[str, Any]) -> tuple[int, int]:
        return tree["patch_embed"]["kernel"].shape[-1], len(tree["trunk"])

    (width, depth), (expected_width, expected_depth) = size(encoder), size(expected)
    if (width, depth) != (expected_width, expected_depth):
        raise ValueError(
            f"the MAE's encoder is of width {width} and depth {depth}, the {model}'s of width "
            f"{expected_width} and depth {expected_depth}; choose sizes that go together, such as "
            f"{pairs}"
        )


def resize_stem(
    encoder: PretrainedEncoder, patch: int, grid: tuple[int, int]
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Resizes the patch projection and the positions bicubically.

    Args:
      encoder: pretrained encoder.
      patch: new side of a patch in pixels.
      grid: (h, w), new number of patches.

    Returns:
      stem: {"kernel" [patch, patch, 3, width], "bias" [width]}, float32.
      class_position: [width], the class token's position.
      positions: [h, w, width], the patches' positions.
    """
    # Row 0 of the positions is the class token's
    embed, positions = encoder.arrays["patch_embed"], encoder.positions
    kernel = resize_bicubic(np.asarray(embed["kernel"], np.float32), (patch, patch))
    return (
        {"kernel": kernel, "bias": embed["bias"]},
        positions[0],
        resize_bicubic(positions[1:].reshape(*encoder.grid, -1), grid),
    )


def build_windowed_encoder(
    encoder: PretrainedEncoder, expected: Mapping[str, Any], model: str
) -> dict[str, Any]:
    """Returns parameters of SAM's image encoder or of ViTDet's backbone from a MAE.

    Blocks are copied. The patch projection (14 pixels in MAE's ViT-H, 16 in SAM's) and the
    positions are resized bicubically. Relative positions start at zero. The class token and the
    last norm have no counterpart. With all blocks global and the same grid, the blocks then compute
    the same as MAE's on the same tokens. (SAM, arXiv 2304.02643, appendix A.)

    Args:
      encoder: pretrained encoder.
      expected: "image_encoder" of a SAM's parameters or "backbone" of a ViTDet's, of anything with
        a shape.
      model: name of the new model for messages.

    Returns:
      {"patch_embed", "pos_embed", "trunk"}, float32.

    Raises:
      ValueError: another width or depth.
    """
    pairs = "mae_tiny and sam_tiny, or mae_vit_b and sam_vit_b or vitdet_vit_b"
    check_sizes(encoder.arrays, expected, model=model, pairs=pairs)
    patch, grid = expected["patch_embed"]["kernel"].shape[0], expected["pos_embed"].shape[1:3]
    stem, _, positions = resize_stem(encoder, patch, grid)

    # Blocks of the MAE, with relative positions of zeros
    trunk = {}
    for name, block in expected["trunk"].items():
        relative_positions = {
            key: np.zeros(array.shape, np.float32)
            for key, array in block.items()
            if "rel_pos" in key
        }
        trunk[name] = {**encoder.arrays["trunk"][name], **relative_positions}
    return {"patch_embed": stem, "pos_embed": positions[None], "trunk": trunk}


def build_classifier_encoder(
    encoder: PretrainedEncoder, expected: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the arrays of a classifier's encoder from a MAE.

    All of them come from the MAE, except the norm behind the mean of the patches ("fc_norm").

    Args:
      encoder: pretrained encoder.
      expected: arrays of the classifier's encoder, of anything with a shape.

    Raises:
      ValueError: another width or depth.
    """
    pairs = "mae_tiny and vit_tiny or mae_vit_b and vit_b"
    check_sizes(encoder.arrays, expected, model="classifier", pairs=pairs)
    side = round((expected["pos_embed"].shape[0] - 1) ** 0.5)
    patch = expected["patch_embed"]["kernel"].shape[0]
    stem, class_position, positions = resize_stem(encoder, patch, (side, side))
    table = np.concatenate([class_position[None], positions.reshape(-1, len(class_position))])
    return {**encoder.arrays, "patch_embed": stem, "pos_embed": table}
