"""Masks of a detector's boxes drawn by a SAM, sharper than 28 x 28 cells can be (SAM, section 7.4 and appendix D.4)."""

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import AxisType

from segjax.inference.detection.postprocess import Found
from segjax.inference.loading import load_with_config
from segjax.inference.sam.predictor import SamPredictor
from segjax.masks import encode_mask

REFINE_IF = ("always", "surer")
BYTES_AT_ONCE = 2**28  # of full-size masks that the host holds at a time


def refined(
    predictor: SamPredictor,
    image: np.ndarray,
    found: Found,
    *,
    least_iou: float = 0.0,
    if_surer: bool = False,
) -> Found:
    """What was found, with the SAM's masks in place of the detector's; the paper replaces all of them.

    As the paper segments instances: each box is a prompt, and then once more together with the most confident of the
    three masks that it gave. The box itself, the class and the score stay the detector's.

    Args:
      predictor: its image becomes this one. image: as `SamPredictor.set_image` takes it, the one of `found`.
      least_iou: a mask is replaced where the SAM expects its own to have an IoU of at least that, and has a pixel at
        all. if_surer: and only where that is no less than the detector's probabilities promise, `Found.mask_iou`.

    Returns:
      Those objects; `mask_iou` of a mask that was replaced is the SAM's estimate.

    Raises:
      ValueError: an image of another size than that of `found`; as `SamPredictor.set_image`.
    """
    predictor.set_image(image)
    if predictor.original_size != found.hw:
        raise ValueError(
            f"the image has {predictor.original_size} pixels, but objects were found in one of {found.hw}"
        )
    masks = (
        list(found.masks) if found.masks is not None else [_nothing(found.hw)] * len(found.boxes)
    )
    own = np.zeros(len(masks), np.float32) if found.mask_iou is None else found.mask_iou
    least, mask_iou = np.maximum(least_iou, own * if_surer), own.copy()
    at_once = max(1, BYTES_AT_ONCE // (3 * found.hw[0] * found.hw[1]))
    for start in range(0, len(masks), at_once):
        boxes = found.boxes[start : start + at_once]
        _, iou, low_res = predictor.predict_batch(boxes=boxes)
        best = low_res[np.arange(len(boxes)), iou.argmax(axis=1)]
        drawn, iou, _ = predictor.predict_batch(
            boxes=boxes, mask_input=best, multimask_output=False
        )
        for place, (mask, sure) in enumerate(zip(drawn[:, 0], iou[:, 0], strict=True), start):
            if sure >= least[place] and mask.any():
                masks[place], mask_iou[place] = encode_mask(mask), sure
    return found._replace(masks=masks, mask_iou=mask_iou)


def refiner(checkpoint: str, refine_if: str = "always") -> Callable[[np.ndarray, Found], Found]:
    """`refined` by the SAM of a run or a file, a function of (image, found).

    It runs on one of this process's devices, whatever mesh is set: processes may have different numbers of pictures.

    refine_if: "always", as in the paper, or "surer".

    Raises ValueError for another `refine_if`, and as `segjax.load`.
    """
    if refine_if not in REFINE_IF:
        raise ValueError(f"refine_if is {refine_if!r}; expected one of {', '.join(REFINE_IF)}")
    model, variables, _ = load_with_config(checkpoint, only="SAM")
    predictor = SamPredictor(model, variables)
    alone = jax.make_mesh((1,), ("alone",), (AxisType.Auto,), devices=jax.local_devices()[:1])

    def refine(image: np.ndarray, found: Found) -> Found:
        with jax.set_mesh(alone):
            return refined(predictor, image, found, if_surer=refine_if == "surer")

    return refine


def _nothing(hw: tuple[int, int]) -> str:
    return encode_mask(np.zeros(hw, bool))
