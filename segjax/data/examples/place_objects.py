"""Images, masks, boxes and keypoints of a record under a `Placement`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from segjax.data.fetch import SettingsError
from segjax.data.records import Record
from segjax.images.decoding import ImageError, decode_image
from segjax.images.placement import Placement
from segjax.masks import compute_mask_box, decode_mask, encode_mask


def decode_record_image(
    record: Mapping, percentiles: tuple[float, float] | None = None
) -> np.ndarray:
    """Decodes the image of a record and checks its size.

    Args:
      record: see `segjax.data.records`.
      percentiles: see `decode_image`.

    Returns:
      uint8 [H, W, 3].

    Raises:
      ImageError: the image cannot be decoded, or its size is not that of the record.
    """
    image = decode_image(
        record["image"], name=f"image {record['image_id']!r}", percentiles=percentiles
    )
    if image.shape[:2] != (record["height"], record["width"]):
        raise ImageError(
            f"image {record['image_id']!r} has {image.shape[0]} x {image.shape[1]} pixels, but its "
            f"record (and so its masks) has {record['height']} x {record['width']}"
        )
    return image


def crop_object(
    mask: np.ndarray, placement: Placement, side: int, annotated_box: np.ndarray | None = None
) -> tuple[np.ndarray, float, np.ndarray] | None:
    """Crops an object to the window of a placement.

    The result does not depend on the resolution of the canvas. The box is that of the stored mask
    pixels, mapped and clipped, so it need not lie on whole canvas pixels. The mask cells come from
    the stored pixels in one step. Boxes of resized masks would be off by up to half a pixel, which
    is a lot for an image that shrinks to a tenth.

    Args:
      mask: bool [H, W] of the source.
      placement: of the source on the canvas.
      side: S, cells along each side of the box.
      annotated_box: [4], x1 y1 x2 y2 in the source, by which COCO measures. It replaces the box
        of the mask if all of the mask is in the window. Otherwise the tighter edges are used.

    Returns:
      None if no pixel is in the window. Otherwise a triple of:
        the box, float64 [4], x1 y1 x2 y2 in the frame of the content,
        the share of the mask that is in the window,
        the mask cells, uint8 {0, 1} [S, S], 1 if at least half of the cell is inside.
    """
    mask = placement.orient(mask)
    # Pixels in the window
    left, top, right, bottom = placement.window
    x, y = math.floor(left), math.floor(top)
    inside = mask[y : math.ceil(bottom), x : math.ceil(right)]
    count, total = np.count_nonzero(inside), np.count_nonzero(mask)
    if not count:
        return None
    # Box, in the frame of the rotated source
    scale = np.divide(placement.resized, placement.rotated)[::-1]
    box = _intersect(compute_mask_box(inside).astype(np.float64) + (x, y, x, y), placement.window)
    if annotated_box is not None:
        on_content = placement.transform_boxes(annotated_box).reshape(2, 2)
        annotated = (on_content / scale + (left, top)).reshape(4)
        annotated = _intersect(annotated, placement.window if count == total else box)
        box = annotated if (annotated[:2] < annotated[2:]).all() else box
    on_canvas = ((box.reshape(2, 2) - (left, top)) * scale).reshape(4)
    return on_canvas, count / total, rasterize_mask_in_box(mask, box, side)


def _intersect(box: np.ndarray, other: Sequence[float]) -> np.ndarray:
    """Returns the intersection of two boxes [4]."""
    return np.concatenate([np.maximum(box[:2], other[:2]), np.minimum(box[2:], other[2:])])


def rasterize_mask_in_box(mask: np.ndarray, box: Sequence[float], side: int) -> np.ndarray:
    """Rasterizes a mask into a grid of cells over a box.

    Pixels are squares that are completely inside or outside.

    Args:
      mask: bool [H, W].
      box: x1 y1 x2 y2 in pixels of the mask.
      side: S, cells along each side.

    Returns:
      uint8 {0, 1} [S, S], 1 if at least half of the cell is inside.
    """
    x, y = math.floor(box[0]), math.floor(box[1])
    part = np.ascontiguousarray(
        mask[y : math.ceil(box[3]), x : math.ceil(box[2])], np.uint8
    ) * np.uint8(255)
    window = (box[0] - x, box[1] - y, box[2] - x, box[3] - y)
    # A box filter computes the covered area of each cell.
    cells = Image.fromarray(part).resize((side, side), Image.Resampling.BOX, box=window)
    return (np.asarray(cells) >= 128).astype(np.uint8)


def place_keypoints(
    keypoints: np.ndarray, placement: Placement, pairs: Sequence[tuple[int, int]]
) -> np.ndarray:
    """Maps keypoints to the frame of the content.

    Keypoints outside of it become (0, 0, 0). If the image is mirrored, the two keypoints of each
    pair are exchanged: the left hand becomes a right hand.

    Args:
      keypoints: [..., K, 3], x, y, visibility in the source.
      placement: of the source on the canvas.
      pairs: (left, right) indices.

    Returns:
      float32 [..., K, 3].
    """
    visibility = np.asarray(keypoints)[..., 2]
    points = placement.transform_points(keypoints[..., :2])
    inside = np.all((points >= 0) & (points <= placement.size[::-1]), axis=-1) & (visibility > 0)
    placed = np.where(inside[..., None], np.concatenate([points, visibility[..., None]], -1), 0)
    placed = placed.astype(np.float32)
    return (
        placed[..., mirror_order(placed.shape[-2], pairs), :] if placement.is_mirrored else placed
    )


def mirror_order(count: int, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """Returns the order of keypoints in a mirrored image, int [count]."""
    order = np.arange(count)
    for one, other in pairs:
        order[[one, other]] = other, one
    return order


def find_left_right_pairs(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Finds the pairs of names that differ only in "left" and "right".

    Args:
      names: of all keypoints, such as left_knee and right_knee.

    Returns:
      Pairs of (left, right) indices.
    """
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
    """Makes the record of the content under a placement.

    Objects outside the window are dropped.

    Args:
      record: see `segjax.data.records`.
      image: its decoded image, uint8 [H, W, 3].
      placement: of the image on the canvas.
      pairs: (left, right) indices of keypoints.
      min_visible: objects are dropped if a smaller share of them remains.

    Returns:
      A record with an image [h, w, 3] and new masks, boxes, areas and keypoints.
    """
    objects, indices, masks = record["objects"], [], []
    area_scale = np.prod(placement.resized) / np.prod(placement.rotated)
    # Decoding masks is expensive, so objects outside the window are skipped by their boxes.
    for index in np.flatnonzero(placement.overlaps_window(objects["box"])):
        mask = decode_mask(objects["rle"][index], record["height"], record["width"])
        least = min_visible * area_scale * np.count_nonzero(mask)
        mask = placement.apply_mask(mask)
        if np.count_nonzero(mask) >= max(1, least):
            indices.append(index)
            masks.append(mask)
    if "keypoints" in objects:
        objects = objects | {"keypoints": place_keypoints(objects["keypoints"], placement, pairs)}
    placed = record | {"image": placement.apply(image), "objects": objects}
    return replace_masks(placed, indices, masks)


def replace_masks(record: Record, indices: Sequence[int], masks: Sequence[np.ndarray]) -> Record:
    """Replaces the objects of a record by some of them with new masks.

    Boxes and areas follow the masks. Annotated boxes belong to the old masks and are left out.

    Args:
      record: with its image as an array [h, w, 3].
      indices: of the objects to keep.
      masks: their masks bool [h, w], none of them empty.
    """
    objects = record["objects"]
    rows = {
        name: value[list(indices)]
        for name, value in objects.items()
        if name not in ("rle", "annotated_box")
    }
    rows["box"] = np.array([compute_mask_box(mask) for mask in masks], np.float32).reshape(-1, 4)
    rows["area"] = np.array([np.count_nonzero(mask) for mask in masks], np.float32)
    rows["rle"] = [encode_mask(mask) for mask in masks]
    height, width = record["image"].shape[:2]
    return record | {"height": height, "width": width, "objects": rows}


def get_keypoints(record: Mapping, count: int) -> np.ndarray:
    """Returns the keypoints of a record. If it has none, all are unlabeled.

    Args:
      record: see `segjax.data.records`.
      count: expected number of keypoints per object.

    Returns:
      float32 [G, count, 3].

    Raises:
      SettingsError: there is another number of keypoints.
    """
    objects = record["objects"]
    keypoints = objects.get("keypoints", np.zeros((len(objects["rle"]), count, 3), np.float32))
    if len(keypoints) and keypoints.shape[1] != count:
        raise SettingsError(
            f"image {record['image_id']!r} has {keypoints.shape[1]} keypoints per object; "
            f"expected {count}: set the number of keypoints of the example (and of the model) to "
            "that of the data"
        )
    return keypoints.reshape(len(keypoints), count, 3)
