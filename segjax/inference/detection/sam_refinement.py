"""Replaces the masks of a detector by masks that a SAM predicts from its boxes.

The result is sharper than 28 x 28 cells can be (Segment Anything, section 7.4 and appendix D.4).
"""

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import AxisType

from segjax.inference.detection.postprocess import ImageDetections
from segjax.inference.loading import load_with_config
from segjax.inference.numbers import check_numbers
from segjax.inference.sam.predictor import SamPredictor
from segjax.masks import encode_mask

REFINE_IF = ("always", "surer")
BYTES_AT_ONCE = 2**28  # memory of the full-size masks that the host holds at a time


def refine_masks(
    predictor: SamPredictor,
    image: np.ndarray,
    detections: ImageDetections,
    *,
    min_iou: float = 0.0,
    only_if_surer: bool = False,
) -> ImageDetections:
    """Replaces the masks of the detections by the masks of a SAM.

    As in the paper's instance segmentation, each box is a prompt, and then a second prompt together
    with the most confident of the three masks of the first. Boxes, labels and scores do not change.
    The paper replaces every mask, which is the default.

    Args:
      predictor: a SAM. Its image becomes `image`.
      image: uint8 [H, W, 3], the image of the detections.
      detections: detections in pixels of the image.
      min_iou: masks are replaced only if the SAM predicts at least this IoU for its own.
      only_if_surer: masks are replaced only if the SAM's predicted IoU is at least
        `ImageDetections.mask_iou`.

    Returns:
      The detections. `mask_iou` of a replaced mask is the SAM's predicted IoU. An empty mask of the
      SAM replaces none.

    Raises:
      ValueError: The image has another size than the detections, or `SamPredictor.set_image`
        rejects it.
    """
    check_numbers(min_iou=min_iou)
    predictor.set_image(image)
    hw = detections.hw
    if predictor.original_size != hw:
        raise ValueError(
            f"the image has {predictor.original_size} pixels, but the detections belong to an "
            f"image of {hw}"
        )
    # Masks and expected IoU before the refinement. Without a mask head every mask is empty.
    masks = [_encode_empty_mask(hw)] * len(detections.boxes)
    if detections.masks is not None:
        masks = list(detections.masks)
    mask_iou = np.zeros(len(masks), np.float32)
    if detections.mask_iou is not None:
        mask_iou = detections.mask_iou.copy()
    required = np.maximum(min_iou, mask_iou * only_if_surer)

    # Three full-size masks per box must fit into the memory.
    at_once = max(1, BYTES_AT_ONCE // (3 * hw[0] * hw[1]))
    for start in range(0, len(masks), at_once):
        # First round: three masks per box. Second round: the box with the most confident of them.
        boxes = detections.boxes[start : start + at_once]
        _, iou, low_res = predictor.predict_batch(boxes=boxes)
        best = low_res[np.arange(len(boxes)), iou.argmax(axis=1)]
        predicted, iou, _ = predictor.predict_batch(
            boxes=boxes, mask_input=best, multimask_output=False
        )
        for index, (mask, own_iou) in enumerate(
            zip(predicted[:, 0], iou[:, 0], strict=True), start
        ):
            if own_iou >= required[index] and mask.any():
                masks[index], mask_iou[index] = encode_mask(mask), own_iou
    return detections._replace(masks=masks, mask_iou=mask_iou)


def make_mask_refiner(
    checkpoint: str, refine_if: str = "always"
) -> Callable[[np.ndarray, ImageDetections], ImageDetections]:
    """Returns `refine_masks` with the SAM of a checkpoint, as a function of (image, detections).

    The SAM runs on one local device, whatever mesh is set: processes may have different numbers of
    images.

    Args:
      checkpoint: run or file of a SAM, as `segjax.load` takes it.
      refine_if: "always" replaces every mask, as in the paper. "surer" replaces a mask only if the
        SAM predicts at least the IoU that the detector expects of its own.

    Raises:
      ValueError: Unknown `refine_if`, or a checkpoint that is not a SAM.
    """
    if refine_if not in REFINE_IF:
        raise ValueError(f"refine_if is {refine_if!r}; expected one of {', '.join(REFINE_IF)}")
    model, variables, _ = load_with_config(checkpoint, family="sam")
    predictor = SamPredictor(model, variables)
    alone = jax.make_mesh((1,), ("alone",), (AxisType.Auto,), devices=jax.local_devices()[:1])

    def refine(image: np.ndarray, detections: ImageDetections) -> ImageDetections:
        with jax.set_mesh(alone):
            return refine_masks(predictor, image, detections, only_if_surer=refine_if == "surer")

    return refine


def _encode_empty_mask(hw: tuple[int, int]) -> str:
    return encode_mask(np.zeros(hw, bool))
