"""Shrinking records, so that prepared data is smaller and faster to read."""

import numpy as np
from PIL import Image

from segjax.data.records import Record
from segjax.data.sources.raw import SkipCounts
from segjax.images.encoding import encode_image, encode_png
from segjax.images.opening import has_eight_bits, open_image
from segjax.images.stored import read_pixels
from segjax.images.transforms import crop_and_resize
from segjax.masks import compute_mask_box, decode_mask, encode_mask


def shrink_to_short_side(record: Record, short_side: int, skipped: SkipCounts) -> Record:
    """Shrinks a record until its shorter side has at most `short_side` pixels.

    The aspect ratio is kept. The image is resized with an antialiased bilinear filter and encoded
    in its own format (see `encode_image`). A mask pixel is set if at least half of its area was
    inside. Boxes follow the new masks. Areas and annotated boxes are scaled. A record that is
    small enough is returned as it is.

    Args:
      record: see `segjax.data.records`, with encoded bytes as its image.
      short_side: in pixels.
      skipped: counts the objects that vanish.

    Raises:
      ValueError: `short_side` is below 1.
      ImageError: the image cannot be decoded.
    """
    if short_side < 1:
        raise ValueError(f"short_side is {short_side}; expected at least 1 px")
    height, width = record["height"], record["width"]
    if min(height, width) <= short_side:
        return record
    scale = short_side / min(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    # Masks
    objects, rows = record["objects"], []
    boxes, rles = [], []
    for index, rle in enumerate(objects["rle"]):
        mask = _shrink_mask(decode_mask(rle, height, width), size)
        if not mask.any():
            skipped.add_object(
                "object vanishes at this short_side",
                f"{record['image_id']}, object {objects['id'][index]}",
            )
            continue
        rows.append(index)
        boxes.append(compute_mask_box(mask))
        rles.append(encode_mask(mask))
    # Other fields of the objects that are left
    shrunk = {name: value[rows] for name, value in objects.items() if name != "rle"}
    ratio = np.array([size[1] / width, size[0] / height], np.float32)
    shrunk["area"] = (shrunk["area"] * ratio.prod()).astype(np.float32)
    shrunk["box"] = np.array(boxes, np.float32).reshape(-1, 4)
    if "keypoints" in shrunk:
        shrunk["keypoints"] = np.concatenate(
            [shrunk["keypoints"][..., :2] * ratio, shrunk["keypoints"][..., 2:]], -1
        )
    if "annotated_box" in shrunk:
        shrunk["annotated_box"] = shrunk["annotated_box"] * np.tile(ratio, 2)
    return record | {
        "image": _shrink_image(record["image"], size, f"image {record['image_id']!r}"),
        "height": size[0],
        "width": size[1],
        "objects": shrunk | {"rle": rles},
    }


def _shrink_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes a mask to `size` = (h, w). A pixel is set if at least half of its area was."""
    soft = Image.fromarray(mask.astype(np.float32)).resize(size[::-1], Image.Resampling.BOX)
    return np.asarray(soft) >= 0.5


def _shrink_image(image: bytes, size: tuple[int, int], name: str) -> bytes:
    """Resizes encoded bytes to `size` = (h, w) and encodes the result in the same format."""
    with open_image(image, name) as opened:
        if has_eight_bits(opened):
            whole = (0, 0, opened.height, opened.width)
            filtering = Image.Resampling.BILINEAR
            small = crop_and_resize(opened, whole, size, filtering, reduced=True)
            return encode_image(small, opened.format)
    # Pillow resizes 16 bits one channel at a time.
    pixels = read_pixels(image, name=name)
    channels = [
        np.asarray(Image.fromarray(channel).resize(size[::-1], Image.Resampling.BILINEAR))
        for channel in np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
    ]
    return encode_png(np.stack(channels, axis=-1))
