"""Checks that settings, data and model of the detection task fit each other.

You can skip this; the losses are in `segjax.tasks.detection.loss`.
"""

import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from segjax.data.records import has_box_only
from segjax.data.splits import describe_categories, list_stuff
from segjax.models.detection.mask_rcnn import MaskRcnn
from segjax.tasks.detection.loss import SampleCounts
from segjax.tasks.usable_objects import check_records, judge_flags

logger = logging.getLogger(__name__)

# Records that are searched for a mask
_RECORDS_WITHOUT_MASKS = 1000
NO_BOX = (
    "after augmentation, no box with a side of one pixel or more is left; look at them with "
    "`segjax show --config`"
)


def check_settings(data: Mapping[str, Any], samples: SampleCounts) -> None:
    """Raises ValueError for samples without objects and for settings that contradict each other.

    Args:
      data: `config.data` as a dict.
      samples: `config.samples`.
    """
    if not samples.objects:
        raise ValueError(
            f"config.samples has {samples.regions} regions per image and positive_regions="
            f"{samples.positive_regions}, which leaves no positive region; expected at least one"
        )
    if data["by_orientation"] and data["augment"]["quarter_turns"]:
        raise ValueError(
            "config.data.by_orientation groups landscape and portrait images on canvases of their "
            "own, and config.data.augment.quarter_turns rotates them afterwards: set one to False"
        )


def check_boxes(source: Sequence[Mapping[str, Any]], data: Mapping[str, Any]) -> None:
    """Raises an error unless the training data has an object that is not a crowd.

    Args:
      source: training records.
      data: `config.data` as a dict.

    Raises:
      NoUsableObjectError: as `check_records`.
    """
    check_records(source, functools.partial(judge_flags, needs_mask=False), data)


def warn_without_masks(source: Sequence[Mapping[str, Any]], data: Mapping[str, Any]) -> None:
    """Logs a warning if a mask head has nothing to learn in the first training records.

    Args:
      source: training records.
      data: `config.data` as a dict.
    """
    for index in range(min(len(source), _RECORDS_WITHOUT_MASKS)):
        if not has_box_only(source[index]["objects"]).all():
            return
    logger.warning(
        "the objects of %s have boxes and no masks, so the mask head learns nothing: set "
        "config.model.mask_convs=0, as Faster R-CNN has it",
        data["source"],
    )


def check_classes(
    data: Mapping[str, Any], model: MaskRcnn, *, split: str, needs_loss: bool
) -> None:
    """Raises ValueError if the loss is undefined for the number of classes.

    Args:
      data: `config.data` as a dict.
      model: the detector.
      split: "train" or "eval".
      needs_loss: True if the loss is measured on the evaluation split.
    """
    classes = len(describe_categories(data)["category_ids"])
    if classes == model.classes:
        return
    # Without a loss, evaluation matches labels and classes by name or id.
    if split == "eval" and needs_loss:
        reason = f"{classes} classes, the model {model.classes}"
        raise ValueError(describe_missing_loss(data, reason))
    if split == "train":
        raise ValueError(
            f"{data['source']!r} has {classes} classes, the model {model.classes}; set "
            f"config.model.classes={classes}, or 0 for the number that the data has. Weights of a "
            "detector of other classes can still be loaded: config.init_from='detector:PATH' draws "
            "the last layers of its heads anew"
        )


def check_stuff(data: Mapping[str, Any], model: MaskRcnn) -> None:
    """Raises ValueError if the data does not have the classes of stuff that a model learns.

    Args:
      data: `config.data` as a dict.
      model: the detector.
    """
    head = model.semantic_head
    if head is None:
        return
    names = list_stuff(data)
    if len(names) != head.classes:
        raise ValueError(
            f"{data['source']!r} has {len(names)} classes of stuff, the model {head.classes}; set "
            f"config.model.stuff={len(names)}"
        )
    if data["copy_paste"]:
        raise ValueError(
            "config.data.copy_paste moves objects without the map of stuff below them; set it to "
            "0, or config.model.stuff=0"
        )


def describe_missing_loss(data: Mapping[str, Any], reason: str) -> str:
    """Returns the error message for an evaluation split on which the loss is undefined."""
    return (
        f"{data['source']!r} has {reason}, so that the training loss cannot be measured there; set "
        "config.eval.loss=False"
    )


def get_keypoint_names(data: Mapping[str, Any], model: MaskRcnn) -> tuple[str, ...]:
    """Returns the names of the model's keypoints, empty if it has none.

    Raises:
      ValueError: The data has another number of keypoints than the model.
    """
    names = describe_categories(data)["keypoint_names"]
    if model.keypoints and len(names) != model.keypoints:
        raise ValueError(
            f"{data['source']!r} has {len(names)} keypoints, the model {model.keypoints}; set "
            f"config.model.keypoints={len(names)} or prepare the data with its keypoints"
        )
    return names if model.keypoints else ()
