"""A detector's start from one of other classes: everything but the layers that have an output for each of them."""

import logging
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from segjax.models.detection.box_head import STAGES
from segjax.models.detection.convolution import numbered
from segjax.weights.checkpoint import Checkpoint, read_checkpoint
from segjax.weights.detectron2_table import DETECTRON2_DETECTORS
from segjax.weights.torchvision_table import TORCHVISION_DETECTORS
from segjax.weights.tree import CheckpointError, check_parameters, flatten, placed, unflatten

logger = logging.getLogger(__name__)

_CASCADE = tuple(numbered("box_head", len(STAGES)))
# As many outputs as there are classes, or keypoints; a cascade's boxes are the same for all classes.
PREDICTORS = ("box_head/scores", "box_head/deltas", *(f"{head}/scores" for head in _CASCADE))
PREDICTORS += ("mask_head/logits", "keypoint_head/upscale")
OPTIONAL_HEADS = ("box_head", *_CASCADE, "mask_head", "keypoint_head")


def detector_of_other_classes(path: str, expected: Mapping[str, Any]) -> dict[str, Any]:
    """Backbone, pyramid, proposals and heads of a detector, without the heads' last layers.

    A head that only one of the two has is left out too: for masks, for keypoints, or the box heads of a cascade.

    Args:
      path: a run's folder or a file of ours, torchvision's or detectron2's.
      expected: {"params", "constants"} of the model, of anything with a shape.

    Returns:
      {"params", "constants"} without what is to be drawn.

    Raises:
      CheckpointError: no detector, or one that differs in more than its classes.
    """
    checkpoint = read_checkpoint(path)
    if checkpoint.table not in (None, TORCHVISION_DETECTORS, DETECTRON2_DETECTORS) or not _has(checkpoint, "rpn"):
        raise CheckpointError(f"{checkpoint.source} holds no detector; expected one of ours or a Mask R-CNN's file")
    left_out = (*PREDICTORS, *(head for head in OPTIONAL_HEADS if not _has(checkpoint, head)))
    kept = lambda arrays: {key: array for key, array in flatten(arrays).items() if not _is_of(key, left_out)}
    wanted = kept(expected)
    if checkpoint.table is None:
        unknown = tuple(head for head in OPTIONAL_HEADS if not any(_is_of(key, (head,)) for key in wanted))
        have = {key: x for key, x in kept(placed(checkpoint.arrays, expected)).items() if not _is_of(key, unknown)}
        hint = "; it may differ in its classes alone"
        check_parameters(wanted, have, source=checkpoint.source, kind="arrays", hint=hint)
    else:
        source, family = checkpoint.source, checkpoint.family
        found, _ = checkpoint.table.part_of(checkpoint.arrays, unflatten(wanted), family=family, source=source)
        have = flatten(found)
    fresh = sorted({"/".join(key.split("/")[1:3]) for key in flatten(expected) if key not in wanted})
    logger.info("the detector in %s, but for its classes; fresh are %s", path, ", ".join(fresh))
    return jax.tree.map(lambda x: np.array(x, np.float32, order="C"), unflatten(have))


def _is_of(path: str, modules: tuple[str, ...]) -> bool:
    """Whether an array "params/module/..." lies in one of the modules."""
    inside = path.partition("/")[2]
    return any(inside.startswith(f"{module}/") for module in modules)


def _has(checkpoint: Checkpoint, module: str) -> bool:
    if checkpoint.table is None:
        return any(module in checkpoint.arrays.get(kind, {}) for kind in ("params", "constants"))
    layer = {"rpn": "logits", "mask_head": "upscale", "keypoint_head": "upscale"}.get(module, "scores")
    try:
        keys, _ = checkpoint.table.published_names(f"params/{module}/{layer}/kernel", checkpoint.family)
    except CheckpointError:  # there is no such head under the names of this library
        return False
    return keys[0] in checkpoint.table.respelt(checkpoint.arrays, checkpoint.family)
