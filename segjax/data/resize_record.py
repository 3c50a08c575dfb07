"""Shrinking a record, picture and masks together, so that prepared data of huge photographs stays small."""

import numpy as np
from PIL import Image

from segjax.data.records import Record
from segjax.data.sources.raw import Skipped
from segjax.images.encoding import encode_picture
from segjax.images.transforms import opened, resized
from segjax.masks import decode_mask, encode_mask, mask_box


def shrink_to_short_side(record: Record, short_side: int, skipped: Skipped) -> Record:
    """The record with its shorter side at most `short_side` px, aspect kept; unchanged if it already is.

    The picture is filtered bilinearly with antialiasing and encoded as it was, see `encode_picture`; a mask pixel is
    set where half its area or more was. Boxes and areas follow the new masks; annotated areas scale. Objects that
    vanish are counted in `skipped`.
    """
    if short_side < 1:
        raise ValueError(f"short_side is {short_side}; expected at least 1 px")
    height, width = record["height"], record["width"]
    if min(height, width) <= short_side:
        return record
    scale = short_side / min(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    objects, kept = record["objects"], []
    boxes, rles = [], []
    for index, rle in enumerate(objects["rle"]):
        mask = _shrink_mask(decode_mask(rle, height, width), size)
        if not mask.any():
            skipped.object("object vanishes at this short_side", f"{record['image_id']}, object {objects['id'][index]}")
            continue
        kept.append(index)
        boxes.append(mask_box(mask))
        rles.append(encode_mask(mask))
    shrunk = {name: value[kept] for name, value in objects.items() if name != "rle"}
    ratio = np.array([size[1] / width, size[0] / height], np.float32)
    shrunk["area"] = (shrunk["area"] * ratio.prod()).astype(np.float32)
    shrunk["box"] = np.array(boxes, np.float32).reshape(-1, 4)
    if "keypoints" in shrunk:
        shrunk["keypoints"] = np.concatenate([shrunk["keypoints"][..., :2] * ratio, shrunk["keypoints"][..., 2:]], -1)
    if "annotated_box" in shrunk:
        shrunk["annotated_box"] = shrunk["annotated_box"] * np.tile(ratio, 2)
    image = _shrink_picture(record["image"], size, f"image {record['image_id']!r}")
    return record | {"image": image, "height": size[0], "width": size[1], "objects": shrunk | {"rle": rles}}


def _shrink_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    soft = Image.fromarray(mask.astype(np.float32)).resize(size[::-1], Image.Resampling.BOX)
    return np.asarray(soft) >= 0.5


def _shrink_picture(image: bytes, size: tuple[int, int], name: str) -> bytes:
    with opened(image, name) as picture:
        small = resized(picture, (0, 0, picture.height, picture.width), size, Image.Resampling.BILINEAR, reduced=True)
        return encode_picture(small, picture.format)
