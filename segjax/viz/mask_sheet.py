"""Sheet of images with their objects and the masks that a method found."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from segjax.viz.drawing import draw_masks
from segjax.viz.sheets import lay_out_panels

_SIDE = 320


def draw_mask_sheet(
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    captions: Sequence[str],
) -> np.ndarray:
    """Draws one row per image: its objects, and the masks that were found.

    Args:
      images: uint8 [H, W, 3] of each image.
      truths: objects of each image, bool [G, H, W].
      masks: masks of each image, bool [K, H, W].
      captions: text below the masks of each image.

    Returns:
      uint8 [h, w, 3].
    """
    rows = []
    for image, truth, found, caption in zip(images, truths, masks, captions, strict=True):
        scale = _SIDE / max(image.shape[:2])
        size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
        left, right = (
            Image.fromarray(draw_masks(image, one) if len(one) else image).resize(size)
            for one in (truth, found)
        )
        rows.append([(left, f"{len(truth)} object{'s' * (len(truth) != 1)}"), (right, caption)])
    return lay_out_panels(rows, ["objects", "masks found"], _SIDE)
