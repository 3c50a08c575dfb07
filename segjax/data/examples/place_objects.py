"""A record's picture and objects under a `Placement`: what training examples are made of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from segjax.data.loader import SettingsError
from segjax.data.records import Record
from segjax.images.placement import Placement
from segjax.images.transforms import ImageError, decode_image
from segjax.masks import compute_mask_box, decode_mask, encode_mask


def decode_record_image(record: Mapping, percentiles: tuple[float, float] | None = None) -> np.ndarray:
    """The picture of a record, uint8 [H, W, 3]; see `decode_image`. Raises ImageError, also for another size."""
    image = decode_image(
        record["image"], name=f"image {record['image_id']!r}", percentiles=percentiles
    )
    if image.shape[:2] != (record["height"], record["width"]):
        raise ImageError(
            f"image {record['image_id']!r} has {image.shape[0]} x {image.shape[1]} pixels, but its record "
            f"(and with it the masks) says {record['height']} x {record['width']}"
        )
    return image


def crop_object(
    mask: np.ndarray, placement: Placement, side: int, drawn: np.ndarray | None = None
) -> tuple[np.ndarray, float, np.ndarray] | None:
    """What of an object is left in the window, in a form that does not depend on the size of the canvas.

    The box is that of the mask's own pixels, carried over and clipped, so it need not lie on whole pixels of the
    canvas; the mask inside it comes from the stored pixels in one step. (Boxes and masks of the resized picture's
    pixels would be off by up to half a pixel, a lot where pictures are shrunk to a tenth.)

    Args:
      mask: bool [H, W] of the source.
      side: S, of the grid of mask cells that is laid over the box.
      drawn: [4], the annotator's own box in the source, by which COCO measures: taken instead while all of the mask is
        left, and else where it is the tighter one.

    Returns:
      box float64 [4], x1 y1 x2 y2 in the content's frame; the share of the mask's pixels that are left; cells uint8
      {0, 1} [S, S], 1 where at least half is inside. None where no pixel is left.
    """
    mask = placement.orient(mask)
    left, top, right, bottom = placement.window
    x, y = math.floor(left), math.floor(top)
    kept = mask[y : math.ceil(bottom), x : math.ceil(right)]
    count, total = np.count_nonzero(kept), np.count_nonzero(mask)
    if not count:
        return None
    scale = np.divide(placement.resized, placement.rotated)[::-1]
    box = _overlap(compute_mask_box(kept).astype(np.float64) + (x, y, x, y), placement.window)
    if drawn is not None:
        shown = (placement.transform_boxes(drawn).reshape(2, 2) / scale + (left, top)).reshape(4)
        other = _overlap(shown, placement.window if count == total else box)
        box = other if (other[:2] < other[2:]).all() else box
    on_canvas = ((box.reshape(2, 2) - (left, top)) * scale).reshape(4)
    return on_canvas, count / total, rasterize_mask_in_box(mask, box, side)


def _overlap(box: np.ndarray, other: Sequence[float]) -> np.ndarray:
    return np.concatenate([np.maximum(box[:2], other[:2]), np.minimum(box[2:], other[2:])])


def rasterize_mask_in_box(mask: np.ndarray, box: Sequence[float], side: int) -> np.ndarray:
    """A grid of side x side cells over a box (x1 y1 x2 y2 in pixels of the mask): uint8 1 where half a cell is inside.

    Pixels are squares, wholly inside or out, as the run lengths have them.
    """
    x, y = math.floor(box[0]), math.floor(box[1])
    part = np.ascontiguousarray(
        mask[y : math.ceil(box[3]), x : math.ceil(box[2])], np.uint8
    ) * np.uint8(255)
    window = (box[0] - x, box[1] - y, box[2] - x, box[3] - y)
    cells = Image.fromarray(part).resize((side, side), Image.Resampling.BOX, box=window)
    return (np.asarray(cells) >= 128).astype(np.uint8)


def place_keypoints(
    keypoints: np.ndarray, placement: Placement, pairs: Sequence[tuple[int, int]]
) -> np.ndarray:
    """Keypoints [..., K, 3] (x, y, visibility) in the content's frame, float32; outside of it they are (0, 0, 0).

    Where the picture is mirrored, what was the left hand is a right hand: the two of each pair are exchanged.
    """
    visibility = np.asarray(keypoints)[..., 2]
    points = placement.transform_points(keypoints[..., :2])
    inside = np.all((points >= 0) & (points <= placement.size[::-1]), axis=-1) & (visibility > 0)
    placed = np.where(
        inside[..., None], np.concatenate([points, visibility[..., None]], -1), 0
    ).astype(np.float32)
    return placed[..., mirror_order(placed.shape[-2], pairs), :] if placement.is_mirrored else placed


def mirror_order(count: int, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """int [count]: which keypoint takes each one's place in a mirror."""
    order = np.arange(count)
    for one, other in pairs:
        order[[one, other]] = other, one
    return order


def find_left_right_pairs(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Indices of the names that differ in "left" and "right" alone, such as left_knee and right_knee."""
    return tuple(
        (index, names.index(name.replace("left", "right")))
        for index, name in enumerate(names)
        if "left" in name and name.replace("left", "right") in names
    )


def place_record(
    record: Record,
    image: np.ndarray,
    placement: Placement,
    pairs: Sequence[tuple[int, int]] = (),
    min_visible: float = 0.0,
) -> Record:
    """The record of what a placement shows: picture [h, w, 3], masks, boxes, areas and keypoints; the rest is kept.

    Objects of which no pixel is left are dropped, and those of which less than a share `min_visible` is.
    """
    objects, kept, masks = record["objects"], [], []
    shrunk = np.prod(placement.resized) / np.prod(placement.rotated)
    for index in np.flatnonzero(placement.overlaps_window(objects["box"])):
        mask = decode_mask(objects["rle"][index], record["height"], record["width"])
        least = min_visible * shrunk * np.count_nonzero(mask)
        mask = placement.apply_mask(mask)
        if np.count_nonzero(mask) >= max(1, least):
            kept.append(index)
            masks.append(mask)
    if "keypoints" in objects:
        objects = objects | {"keypoints": place_keypoints(objects["keypoints"], placement, pairs)}
    return replace_masks(record | {"image": placement.apply(image), "objects": objects}, kept, masks)


def replace_masks(record: Record, kept: Sequence[int], masks: Sequence[np.ndarray]) -> Record:
    """The record with the objects of these indices alone and new masks bool [h, w], none of them empty.

    Boxes and areas are the masks'; what annotators drew is of other masks and left out.
    """
    objects = record["objects"]
    rows = {
        name: value[list(kept)]
        for name, value in objects.items()
        if name not in ("rle", "annotated_box")
    }
    rows["box"] = np.array([compute_mask_box(mask) for mask in masks], np.float32).reshape(-1, 4)
    rows["area"] = np.array([np.count_nonzero(mask) for mask in masks], np.float32)
    rows["rle"] = [encode_mask(mask) for mask in masks]
    height, width = record["image"].shape[:2]
    return record | {"height": height, "width": width, "objects": rows}


def get_keypoints(record: Mapping, count: int) -> np.ndarray:
    """Keypoints float32 [G, count, 3] of a record; one without any has them all unlabelled.

    Raises SettingsError for another number of them.
    """
    objects = record["objects"]
    keypoints = objects.get("keypoints", np.zeros((len(objects["rle"]), count, 3), np.float32))
    if len(keypoints) and keypoints.shape[1] != count:
        raise SettingsError(
            f"image {record['image_id']!r} has {keypoints.shape[1]} keypoints an object; expected {count}: set the "
            "example's (and the model's) number of keypoints to that of the data"
        )
    return keypoints.reshape(len(keypoints), count, 3)
