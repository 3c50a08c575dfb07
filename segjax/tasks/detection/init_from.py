"""Starts a detector from other models: `config.init_from = "mae:PATH"`, "resnet:", "detector:"."""

import logging
from collections.abc import Mapping
from typing import Any

from segjax.models.detection.fpn import VitBackbone
from segjax.models.detection.heads import STAGES
from segjax.models.detection.layers import number_names
from segjax.models.detection.mask_rcnn import MaskRcnn
from segjax.tasks.init_from import copy_as_float32, load_windowed_encoder
from segjax.weights.adapters.merge import merge_adapters
from segjax.weights.checkpoint import Checkpoint, read_checkpoint
from segjax.weights.tables.detectron2 import DETECTRON2_DETECTORS
from segjax.weights.tables.torchvision import TORCHVISION_DETECTORS, TORCHVISION_RESNETS
from segjax.weights.tree import (
    CheckpointError,
    check_parameters,
    flatten,
    match_collections,
    unflatten,
)

logger = logging.getLogger(__name__)

_CASCADE = tuple(number_names("box_head", len(STAGES)))
# Layers with as many outputs as there are classes or keypoints. The boxes of a cascade are the same
# for all classes.
PREDICTORS = (
    "box_head/scores",
    "box_head/deltas",
    *(f"{head}/scores" for head in _CASCADE),
    "mask_head/logits",
    "keypoint_head/upscale",
)
OPTIONAL_HEADS = ("box_head", *_CASCADE, "mask_head", "keypoint_head")


def load_detector_start(
    kind: str, path: str, model: MaskRcnn, expected: Mapping[str, Any]
) -> dict[str, Any]:
    """Loads a detector's backbone, or nearly all of it from a detector of other classes.

    Args:
      kind: "mae" for a ViTDet from a MAE, see `segjax.tasks.init_from.read_encoder`. "resnet" for
        torchvision's ResNet classifiers, without their last layer. "detector" for a detector of
        other classes, see `load_other_classes`.
      path: checkpoint.
      model: detector to start.
      expected: its {"params", "constants"}, of anything with a shape.

    Returns:
      {"params": {"backbone": ...}, "constants": ...}, frozen arrays among the constants.

    Raises:
      CheckpointError: not such a model, or an array is missing or of another shape.
      ValueError: an unknown kind, or a detector that cannot start from it.
    """
    if kind == "detector":
        return load_other_classes(path, expected)
    is_vit = isinstance(model.backbone, VitBackbone)
    if kind == "mae" and is_vit:
        backbone = load_windowed_encoder(
            path,
            heads=model.backbone.trunk["heads"],
            expected=expected["params"]["backbone"],
            model="ViTDet",
            fresh="the pyramid and the heads are fresh",
        )
        return {"params": {"backbone": backbone}}
    if kind != "resnet" or is_vit:
        raise ValueError(
            f"a detector on {'vit' if is_vit else model.backbone.size} cannot start from "
            f"'{kind}:{path}': a ResNet starts from torchvision's classifiers, 'resnet:PATH', a "
            "ViT from a MAE, 'mae:PATH', and both from their own checkpoints or, with other "
            "classes, from another detector's, 'detector:PATH'"
        )
    return load_resnet(path, model, expected)


def load_resnet(path: str, model: MaskRcnn, expected: Mapping[str, Any]) -> dict[str, Any]:
    """Loads a detector's ResNet from torchvision's classifier; arguments as `load_detector_start`.

    Raises:
      CheckpointError: not such a classifier, or one of another depth.
      ValueError: the detector's norms or strides differ from those of torchvision's ResNets.
    """
    backbone = model.backbone
    if backbone.stride_in_1x1 or "bn" not in backbone.norm or backbone.epsilon == 0:
        raise ValueError(
            "torchvision's ResNets have batch norms of epsilon 1e-5 and strides in 3x3 "
            f"convolutions; the model has norm {backbone.norm!r}, norm_epsilon "
            f"{backbone.epsilon}, stride_in_1x1 {backbone.stride_in_1x1}. Set norm to 'frozen_bn' "
            "or 'bn', norm_epsilon to 1e-5 and conventions to 'torchvision' or 'detectron2_rgb'"
        )
    checkpoint = read_checkpoint(path)
    if checkpoint.table is not TORCHVISION_RESNETS:
        raise CheckpointError(
            f"{checkpoint.source} is no ResNet of torchvision's; expected layer1.0.conv1.weight "
            "and so on"
        )
    wanted = {
        name: {"backbone": tree["backbone"]}
        for name, tree in expected.items()
        if "backbone" in tree
    }
    loaded, rest = TORCHVISION_RESNETS.load_part(
        checkpoint.arrays, wanted, format=checkpoint.format, source=checkpoint.source
    )
    if deeper := [key for key in rest if not key.startswith("fc.")]:
        raise CheckpointError(
            f"{checkpoint.source} is of another depth than {backbone.size}: it has {deeper[0]} too"
        )
    logger.info("%s from %s; the pyramid and the heads are fresh", backbone.size, path)
    return copy_as_float32(loaded)


def load_other_classes(path: str, expected: Mapping[str, Any]) -> dict[str, Any]:
    """Loads a detector of other classes, without the last layers of the heads.

    A head that only one of the two detectors has is left out: for masks, for keypoints, or the box
    heads of a cascade.

    Args:
      path: a run's folder or a file of ours, torchvision's or detectron2's.
      expected: {"params", "constants"} of the model, of anything with a shape.

    Returns:
      {"params", "constants"} without the arrays that are to be drawn.

    Raises:
      CheckpointError: no detector, or one that differs in more than its classes.
    """
    checkpoint = read_checkpoint(path)
    tables = (None, TORCHVISION_DETECTORS, DETECTRON2_DETECTORS)
    if checkpoint.table not in tables or not _has_module(checkpoint, "rpn"):
        raise CheckpointError(
            f"{checkpoint.source} holds no detector; expected one of ours or a Mask R-CNN's file"
        )
    # Layers that depend on the classes, and heads that the checkpoint does not have
    absent_heads = [head for head in OPTIONAL_HEADS if not _has_module(checkpoint, head)]
    left_out = (*PREDICTORS, *absent_heads)
    wanted = _drop_modules(flatten(expected), left_out)
    # Checkpoints of ours are compared array by array
    if checkpoint.table is None:
        unknown_heads = [
            head for head in OPTIONAL_HEADS if not any(_is_in(path, (head,)) for path in wanted)
        ]
        arrays = merge_adapters(checkpoint.arrays, source=checkpoint.source)
        stored = flatten(match_collections(arrays, expected))
        loaded = _drop_modules(stored, (*left_out, *unknown_heads))
        hint = "; it may differ in its classes alone"
        check_parameters(wanted, loaded, source=checkpoint.source, kind="arrays", hint=hint)
    else:
        part, _ = checkpoint.table.load_part(
            checkpoint.arrays,
            unflatten(wanted),
            format=checkpoint.format,
            source=checkpoint.source,
        )
        loaded = flatten(part)
    drawn = {"/".join(path.split("/")[1:3]) for path in flatten(expected) if path not in wanted}
    logger.info(
        "the detector in %s, but for its classes; fresh are %s", path, ", ".join(sorted(drawn))
    )
    return copy_as_float32(unflatten(loaded))


def _drop_modules(arrays: Mapping[str, Any], modules: tuple[str, ...]) -> dict[str, Any]:
    return {path: array for path, array in arrays.items() if not _is_in(path, modules)}


def _is_in(path: str, modules: tuple[str, ...]) -> bool:
    """Tells whether an array "params/module/..." lies in one of the modules."""
    inside = path.partition("/")[2]
    return any(inside.startswith(f"{module}/") for module in modules)


def _has_module(checkpoint: Checkpoint, module: str) -> bool:
    """Tells whether a checkpoint has arrays of a module of ours, such as "mask_head"."""
    if checkpoint.table is None:
        return any(module in checkpoint.arrays.get(kind, {}) for kind in ("params", "constants"))
    layers = {"rpn": "logits", "mask_head": "upscale", "keypoint_head": "upscale"}
    path = f"params/{module}/{layers.get(module, 'scores')}/kernel"
    try:
        keys, _ = checkpoint.table.published_keys(path, checkpoint.format)
    except CheckpointError:  # this library has no names for such a head
        return False
    return keys[0] in checkpoint.table.normalize_keys(checkpoint.arrays, checkpoint.format)
