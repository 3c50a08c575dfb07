"""Records of automatic mask generation: one dict per mask, with the keys of segment-anything."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segjax.inference.sam.candidates import MaskCandidates
from segjax.masks import decode_mask, decode_rle, parse_run_lengths

OUTPUT_MODES = ("binary_mask", "uncompressed_rle", "coco_rle")


def make_record(candidates: MaskCandidates, index: int, output_mode: str) -> dict[str, Any]:
    """Returns the record of one candidate, see `SamAutomaticMaskGenerator.generate`.

    Args:
      candidates: The candidates.
      index: Index of the candidate.
      output_mode: One of `OUTPUT_MODES`.
    """
    height, width = candidates.hw
    rle = candidates.rle[index]
    if output_mode == "binary_mask":
        segmentation = decode_mask(rle, height, width)
    else:
        counts = rle if output_mode == "coco_rle" else parse_run_lengths(rle).tolist()
        segmentation = {"size": [height, width], "counts": counts}
    # Boxes hold the last column and row, so width and height are one more than the difference.
    x1, y1, x2, y2 = (int(edge) for edge in candidates.box[index])
    left, top, right, bottom = candidates.crops[candidates.crop[index]].box
    return {
        "segmentation": segmentation,
        "area": int(candidates.area[index]),
        "bbox": [x1, y1, x2 - x1 + 1, y2 - y1 + 1],
        "predicted_iou": float(candidates.predicted_iou[index]),
        "point_coords": [candidates.point[index].tolist()],
        "stability_score": float(candidates.stability[index]),
        "crop_box": [left, top, right - left, bottom - top],
    }


def decode_record_mask(segmentation: np.ndarray | Mapping[str, Any]) -> np.ndarray:
    """Decodes a record's segmentation, in any `output_mode`, to a mask bool [H, W].

    Raises:
      RecordError: run lengths that do not fit their size.
    """
    if isinstance(segmentation, np.ndarray):
        return segmentation
    return decode_rle(segmentation, "segmentation")


def make_label_map(records: Sequence[Mapping[str, Any]], hw: tuple[int, int]) -> np.ndarray:
    """Combines records into one label per pixel.

    Where masks overlap, the smallest one is visible, because parts lie on top of wholes.

    Example:
      >>> records = [{"segmentation": np.ones((2, 3), bool), "area": 6}]
      >>> make_label_map(records, (2, 3))
      array([[1, 1, 1],
             [1, 1, 1]], dtype=int32)

    Args:
      records: Records of one image, from `SamAutomaticMaskGenerator`, with any `output_mode`.
      hw: (height, width) of the image.

    Returns:
      int32 [H, W]. It is i + 1 where record i is visible and 0 where no mask is.

    Raises:
      ValueError: The masks have another size.
    """
    labels = np.zeros(hw, np.int32)
    # Largest first, so that smaller masks overwrite larger ones.
    for index in sorted(range(len(records)), key=lambda index: -records[index]["area"]):
        mask = decode_record_mask(records[index]["segmentation"])
        if mask.shape != labels.shape:
            raise ValueError(
                f"hw is {tuple(hw)}, but the masks are {mask.shape}; expected (height, width)"
            )
        labels[mask] = index + 1
    return labels
