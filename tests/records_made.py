"""Records made by hand, for tests that need some."""

import numpy as np

from segjax.masks import compute_mask_box, encode_mask


def block(hw, y1, x1, y2, x2):
    """Returns a mask bool [*hw] with one rectangle."""
    mask = np.zeros(hw, bool)
    mask[y1:y2, x1:x2] = True
    return mask


def record_of(masks, image=None, crowd=None, category=None, image_id="image", **optional):
    """Makes a record with one object per mask [H, W], and a black image by default."""
    masks = np.asarray(masks, bool)
    height, width = masks.shape[1:]
    return {
        "image": np.zeros((height, width, 3), np.uint8) if image is None else image,
        "image_id": image_id,
        "height": height,
        "width": width,
        "objects": {
            "id": np.arange(len(masks)),
            "box": np.array([compute_mask_box(mask) for mask in masks], np.float32).reshape(-1, 4),
            "category": np.zeros(len(masks), np.int32)
            if category is None
            else np.array(category, np.int32),
            "crowd": np.zeros(len(masks), bool) if crowd is None else np.array(crowd, bool),
            "area": masks.sum((1, 2)).astype(np.float32),
            "rle": [encode_mask(mask) for mask in masks],
        }
        | optional,
    }
