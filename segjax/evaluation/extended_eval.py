"""pycocotools' evaluation, extended by Boundary IoU (arXiv 2103.16562) and by LVIS's categories."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy import ndimage

from segjax.masks import decode_rle, encode_mask


class ExtendedEval(COCOeval):
    """pycocotools' evaluation, extended by Boundary IoU and by LVIS's federated categories."""

    def __init__(self, ground_truth: COCO, results: COCO, kind: str):
        super().__init__(ground_truth, results, "segm" if kind == "boundary" else kind)
        self.boundary, self.federated, self.dilation_ratio = kind == "boundary", False, 0.0

    def _prepare(self) -> None:
        super()._prepare()
        if self.federated:
            # Keep only detections of categories that the image lists or rules out.
            negative = {
                image: set(entry["neg_category_ids"]) for image, entry in self.cocoGt.imgs.items()
            }
            listed = {key for key, rows in self._gts.items() if rows}
            for image, category in list(self._dts):
                if (image, category) not in listed and category not in negative[image]:
                    del self._dts[image, category]

    def computeIoU(self, imgId, catId):
        """Returns the IoU [D, G]. Boundaries of crowds mean nothing, so their mask IoU counts."""
        mask_iou = super().computeIoU(imgId, catId)
        if not self.boundary or len(mask_iou) == 0:
            return mask_iou
        gts, rows = self._gts[imgId, catId], self._gts[imgId, catId] + self._dts[imgId, catId]
        # pycocotools computes the boundary IoU from boundaries in place of the masks.
        masks = [row["segmentation"] for row in rows]
        for row in rows:
            row["segmentation"] = extract_boundary(row["segmentation"], self.dilation_ratio)
        boundary_iou = super().computeIoU(imgId, catId)
        for row, mask in zip(rows, masks, strict=True):
            row["segmentation"] = mask
        crowd = [bool(gt["iscrowd"]) for gt in gts]
        return np.where(crowd, mask_iou, np.minimum(mask_iou, boundary_iou))

    def evaluateImg(self, imgId, catId, aRng, maxDet):
        """Evaluates one image and category, ignoring false positives of unexhaustive categories."""
        matches = super().evaluateImg(imgId, catId, aRng, maxDet)
        if (
            matches is not None
            and self.federated
            and catId in self.cocoGt.imgs[imgId]["not_exhaustive_category_ids"]
        ):
            matches["dtIgnore"] = matches["dtIgnore"] | (matches["dtMatches"] == 0)
        return matches


def extract_boundary(rle: Mapping[str, Any], dilation_ratio: float) -> dict[str, Any]:
    """Extracts the mask pixels within a distance of the outline (Boundary IoU, section 3).

    The distance is `dilation_ratio` times the image diagonal, rounded, at least 1 pixel. It counts
    steps to any of the eight neighbors. The edge of the image is an outline too.

    Args:
      rle: run-length encoding {"size": [H, W], "counts": str or bytes} of a mask.
      dilation_ratio: width of the boundary as a share of the image diagonal.

    Returns:
      Run-length encoding of the boundary.

    Example:
      >>> rle = {"size": [40, 40], "counts": encode_mask(np.ones((40, 40), bool))}
      >>> boundary = extract_boundary(rle, 0.02)   # one pixel wide: 0.02 * 56.6 is 1.1
      >>> int(decode_mask(boundary["counts"], 40, 40).sum())
      156
    """
    mask = decode_rle(rle).view(np.uint8)
    distance = max(1, round(dilation_ratio * math.hypot(*mask.shape)))
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows):
        # Erosion of the bounding box alone: masks are small in large images.
        part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        part -= ndimage.minimum_filter(part, 2 * distance + 1, mode="constant", cval=0)
    return {"size": list(rle["size"]), "counts": encode_mask(mask)}
