"""Which detector another library's arrays belong to, and under whose conventions it runs."""

from collections.abc import Mapping
from typing import Any

from segjax.models.build import variable_shapes
from segjax.models.detection.layers import number_names
from segjax.models.detection.mask_rcnn import MaskRcnn
from segjax.models.family import Family
from segjax.weights.checkpoint import Checkpoint
from segjax.weights.tree import CheckpointError


def recognize_detector(family: Family, checkpoint: Checkpoint) -> dict[str, Any]:
    """Recognizes a detector and its number of classes by its arrays.

    Args:
      family: whose sizes are searched.
      checkpoint: torchvision's or detectron2's arrays.

    Returns:
      Options of `build_model`, {} for none of the sizes and for a classifier's ResNet.
    """
    for name in family.sizes:
        model = family.build(name)
        if _has_same_arrays(model, checkpoint):
            return {"name": name, "classes": _count_classes(model, checkpoint)}
    return {}


def check_conventions(
    family: Family,
    model: MaskRcnn,
    checkpoint: Checkpoint,
    name: str,
    overrides: Mapping[str, Any],
) -> None:
    """Raises CheckpointError if the file and the model follow different libraries' conventions.

    Args:
      family: whose sizes the message suggests.
      model: detector that the arrays are loaded into.
      checkpoint: arrays and their format.
      name: of the detector.
      overrides: attributes that the caller chose. They do not matter.
    """
    del overrides
    if checkpoint.table is None or checkpoint.format == model.library:
        return
    fitting = [size for size in family.sizes if family.build(size).library == checkpoint.format]
    if fitting:
        raise CheckpointError(
            f"{checkpoint.source} has the names of {checkpoint.format}, and {name} follows "
            f"{model.library}'s conventions, under which such weights find little; name one "
            f"of {', '.join(fitting)}"
        )


def _has_same_arrays(model: MaskRcnn, checkpoint: Checkpoint) -> bool:
    expected, table, format = variable_shapes(model), checkpoint.table, checkpoint.format
    if model.library != format or not table.matches(expected):
        return False
    shapes = table.published_shapes(expected, format)
    return shapes.keys() == table.normalize_keys(checkpoint.arrays, format).keys()


def _count_classes(model: MaskRcnn, checkpoint: Checkpoint) -> int:
    """Returns the number of classes without the background, from the scores' biases."""
    head = number_names("box_head", len(model.box_heads))[0]
    (scores,), _ = checkpoint.table.published_keys(f"params/{head}/scores/bias", checkpoint.format)
    return len(checkpoint.arrays[scores]) - 1
