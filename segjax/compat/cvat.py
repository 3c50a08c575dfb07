"""Auto-annotation function of CVAT: a detector's objects, or everything that a SAM finds.

CVAT's command line imports this module and calls `create`:

    cvat-cli task auto-annotate 7 --function-module segjax.compat.cvat \\
        -p checkpoint=str:maskrcnn_resnet50_fpn

Needs the extra `cvat`. The labels of the task and of the function are matched by name.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from segjax.inference.detection.detector import Detector
from segjax.inference.loading import load_with_config
from segjax.inference.sam.automatic import SamAutomaticMaskGenerator
from segjax.inference.saved_options import read_saved_percentiles, read_saved_thresholds
from segjax.models.detection.mask_rcnn import MaskRcnn
from segjax.models.sam.sam import Sam

_TOLERANCE = 1.0  # pixels between a contour and its polygon


def create(checkpoint: str = "sam_tiny_demo", label: str = "object") -> "CvatFunction":
    """Loads a model as an auto-annotation function.

    Args:
      checkpoint: name, file or run of a SAM or a Mask R-CNN, as for `segjax.load`.
      label: label of everything that a SAM finds. A detector has its own classes.

    Raises:
      ValueError: a model of another family, or cvat-sdk is missing.
    """
    network, variables, saved = load_with_config(checkpoint)
    if isinstance(network, MaskRcnn):
        return CvatFunction(Detector.load(checkpoint))
    if not isinstance(network, Sam):
        raise ValueError(
            f"{checkpoint} is a {type(network).__name__}; expected a SAM or a Mask R-CNN"
        )
    # Segment-everything with the thresholds that the checkpoint recommends
    names = {"pred_iou": "pred_iou_thresh", "stability": "stability_score_thresh"}
    options = {names[key]: value for key, value in read_saved_thresholds(saved).items()}
    percentiles = read_saved_percentiles(saved)
    generator = SamAutomaticMaskGenerator(network, variables, percentiles=percentiles, **options)
    return CvatFunction(generator, label)


class CvatFunction:
    """Detection function of cvat-sdk.

    Args:
      model: finds the objects.
      label: label of the objects of a SAM.

    Attributes:
      spec: labels, as cvat-sdk's `DetectionFunctionSpec`.

    Raises:
      ValueError: cvat-sdk is missing.
    """

    def __init__(self, model: Detector | SamAutomaticMaskGenerator, label: str = "object") -> None:
        try:
            import cvat_sdk.auto_annotation as cvat
        except ImportError as error:
            raise ValueError(
                f"CVAT needs the extra 'cvat' ({error.name} is missing): pip install 'segjax[cvat]'"
            ) from None
        self.model = model
        names = model.names if isinstance(model, Detector) else [label]
        labels = [cvat.label_spec(name, index) for index, name in enumerate(names)]
        self.spec = cvat.DetectionFunctionSpec(labels=labels)

    def detect(self, context: Any, image: Any) -> list[Any]:
        """Finds the objects of an image.

        Args:
          context: "conf_threshold", the lowest score or None, and "conv_mask_to_poly".
          image: Pillow's image of the frame.

        Returns:
          cvat-sdk's shapes: masks, polygons if the context asks for them, or rectangles of a
          detector without masks. A mask of several parts becomes a group of polygons. Holes are
          filled in polygons.
        """
        import cvat_sdk.auto_annotation as cvat
        from cvat_sdk.masks import encode_mask

        shapes: list[Any] = []
        group = 0
        for found in self._find(np.asarray(image.convert("RGB"))):
            if context.conf_threshold is not None and found.score < context.conf_threshold:
                continue
            # A mask, unless the model has none or CVAT asks for polygons
            if found.mask is None:
                shapes.append(cvat.rectangle(found.label, found.box))
            elif not context.conv_mask_to_poly:
                shapes.append(cvat.mask(found.label, encode_mask(found.mask)))
            else:
                polygons = trace_polygons(found.mask)
                group += len(polygons) > 1
                options = {"group": group} if len(polygons) > 1 else {}
                shapes += [cvat.polygon(found.label, points, **options) for points in polygons]
        return shapes

    def _find(self, image: np.ndarray) -> list["_Found"]:
        """Returns the objects of an image, without empty masks."""
        if isinstance(self.model, SamAutomaticMaskGenerator):
            records = self.model.generate(image)
            rows = [_Found(0, one["predicted_iou"], None, one["segmentation"]) for one in records]
        else:
            one = self.model([image])[0]
            masks = one.get("masks", [None] * len(one["boxes"]))
            # A detector's labels begin at 1, and CVAT's ids at 0
            columns = one["labels"] - 1, one["scores"], one["boxes"], masks
            rows = [
                _Found(int(label), float(score), [float(x) for x in box], mask)
                for label, score, box, mask in zip(*columns, strict=True)
            ]
        return [row for row in rows if row.mask is None or row.mask.any()]


class _Found(NamedTuple):
    """An object: index of its label, score, box (x1 y1 x2 y2) or None, and bool [H, W] or None."""

    label: int
    score: float
    box: Sequence[float] | None
    mask: np.ndarray | None


def trace_polygons(mask: np.ndarray) -> list[list[float]]:
    """Returns the outlines of a mask's parts, each x1 y1 x2 y2 ... in pixels. Holes are filled.

    Args:
      mask: bool [H, W].
    """
    from scipy.ndimage import binary_fill_holes
    from skimage.measure import approximate_polygon, find_contours

    # A border closes the outlines of parts that touch the image's border
    padded = np.pad(binary_fill_holes(mask), 1).astype(np.float32)
    limit = np.array(mask.shape)
    polygons = []
    for contour in find_contours(padded, 0.5):
        # Centers of padded pixels -> corners of the image's pixels
        points = np.clip(approximate_polygon(contour, _TOLERANCE)[:-1] - 0.5, 0, limit)
        if len(points) >= 3:
            polygons.append([float(x) for x in points[:, ::-1].reshape(-1)])
    return polygons
