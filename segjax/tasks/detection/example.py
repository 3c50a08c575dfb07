"""Builds the function that makes detection examples, from the settings and the model.

You can skip this; the examples are made in `segjax.data.examples.detection`.
"""

from collections.abc import Mapping
from typing import Any

from segjax.data.examples.detection import MASK_SIDE, DetectionExample
from segjax.models.detection.mask_rcnn import MaskRcnn


def build_detection_example(
    model: MaskRcnn,
    data: Mapping[str, Any],
    canvas: tuple[int, int],
    *,
    train: bool,
    needs_loss: bool,
    keypoint_pairs: tuple[tuple[int, int], ...],
) -> DetectionExample:
    """Returns the function that makes an example of a record.

    Args:
      model: the detector, which decides the size of images and the targets.
      data: `config.data` as a dict.
      canvas: (height, width) in pixels.
      train: True for training, with augmentation.
      needs_loss: True if the examples need the targets of the loss.
      keypoint_pairs: indices of the keypoints that a mirrored image swaps.
    """
    return DetectionExample(
        canvas,
        data["max_objects"],
        short_side=model.preprocessing.short_side,
        long_side=model.preprocessing.long_side,
        resize=model.preprocessing.resize,
        augment={name: value for name, value in data["augment"].items() if value},
        train=train,
        mask_side=MASK_SIDE if needs_loss and model.mask_head else 0,
        min_visible=data["min_visible"],
        # Without a loss, the evaluation split may have other classes than the model.
        classes=model.classes if needs_loss else 0,
        keypoints=model.keypoints if needs_loss else 0,
        keypoint_pairs=keypoint_pairs,
        percentiles=tuple(data["percentiles"]) or None,
    )
