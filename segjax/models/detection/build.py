"""Composition of detectors by name.

Configs and saved runs describe a detector by a flat list of options, such as `box_width` or
`proposals_after` (`segjax.models.detection.sizes.OPTIONS`). This file turns them into the parts of
a `MaskRcnn`.
"""

import dataclasses
from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict

from segjax.models.detection.conventions import Conventions, find_conventions
from segjax.models.detection.fpn import FeaturePyramid, SimplePyramid, VitBackbone
from segjax.models.detection.heads import (
    BoxHead,
    KeypointHead,
    MaskHead,
    SemanticHead,
    cascade_stages,
)
from segjax.models.detection.layers import number_names
from segjax.models.detection.mask_rcnn import MaskRcnn
from segjax.models.detection.postprocess import DetectionSelection
from segjax.models.detection.preprocessing import Preprocessing
from segjax.models.detection.resnet import RESNETS, ResNet
from segjax.models.detection.rpn import RpnHead
from segjax.models.detection.sizes import OPTIONS, SIZES
from segjax.models.sizes import parse_dtype, resolve_options


def build_mask_rcnn(name: str, **overrides: Any) -> MaskRcnn:
    """Builds a detector by name, with any option replaced.

    Example:
      >>> build_mask_rcnn("maskrcnn_tiny", classes=5, mask_convs=0).classes
      5

    Args:
      name: a key of `SIZES`.
      **overrides: options to replace, keys of `OPTIONS`. `dtype` may be a string.

    Raises:
      ValueError: unknown size, option, backbone or conventions, with the nearest names, or a
        cascade whose heads predict a box per class.
    """
    # Flat options, and the rules of a library for everything that options leave open
    options = SimpleNamespace(**mask_rcnn_options(name, **overrides))
    options.dtype = parse_dtype(options.dtype)
    rules = find_conventions(options.conventions)
    backbone, pyramid = _build_trunk(options, rules)
    box_heads, mask_head, keypoint_head = _build_heads(options, rules)
    return MaskRcnn(
        backbone=backbone,
        pyramid=pyramid,
        rpn=RpnHead(len(options.anchor_ratios), options.rpn_convs, options.dtype),
        box_heads=box_heads,
        mask_head=mask_head,
        keypoint_head=keypoint_head,
        semantic_head=SemanticHead(options.stuff, options.stuff_width, options.dtype)
        if options.stuff
        else None,
        library=rules.library,
        preprocessing=Preprocessing(
            canvas=options.canvas,
            short_side=options.short_side,
            long_side=options.long_side,
            resize=rules.resize,
            pixels=rules.pixels,
        ),
        anchor_generator=dataclasses.replace(
            rules.anchors, sizes=options.anchor_sizes, ratios=options.anchor_ratios
        ),
        proposal_selection=dataclasses.replace(
            rules.proposals,
            # () leaves the numbers to the library.
            before=options.proposals_before or rules.proposals.before,
            after=options.proposals_after or rules.proposals.after,
        ),
        roi_pooling=dataclasses.replace(
            rules.roi_pooling,
            pooling=options.pooling,
            canonical_size=options.canonical_size,
        ),
        detection_selection=DetectionSelection(
            score_threshold=options.score_threshold,
            nms_threshold=options.nms_threshold,
            count=options.detections,
            candidates=options.candidates,
            min_side=rules.min_detection_side,
        ),
        loss_rules=rules.losses,
        output_rules=rules.outputs,
    )


def mask_rcnn_options(name: str, **overrides: Any) -> dict[str, Any]:
    """Returns all options of a detector, as `config.model` holds them.

    Args:
      name: a key of `SIZES`.
      **overrides: options to replace.

    Raises:
      ValueError: unknown size or option, with the nearest ones.
    """
    chosen = resolve_options("Mask R-CNN", OPTIONS, SIZES, name, overrides)
    options = {key: option.default for key, option in OPTIONS.items()} | chosen
    return options | {"dtype": parse_dtype(options["dtype"]).name}


def init_mask_rcnn(model: MaskRcnn, key: jax.Array) -> dict[str, Any]:
    """Draws fresh variables {"params", "constants"} of a detector.

    Traceable, so `jax.eval_shape` gives the shapes alone.
    """
    # The relative positions of a ViT have the size of the canvas. A ResNet takes any image.
    side = model.canvas if isinstance(model.backbone, VitBackbone) else 2 * model.divisor
    return {"constants": {}} | model.init(key, jnp.zeros((1, side, side, 3)))


def _build_trunk(options: SimpleNamespace, rules: Conventions) -> tuple[nn.Module, nn.Module]:
    """Builds the backbone and the feature pyramid on it."""
    if options.backbone == "vit":
        trunk = dict(
            depth=options.depth,
            heads=options.heads,
            window=options.window,
            global_blocks=options.global_blocks,
            grid=(options.canvas // options.patch,) * 2,
            drop_path=options.drop_path,
            remat=options.remat,
            scan=options.scan,
            impl=options.attention,
        )
        backbone = VitBackbone(
            FrozenDict(trunk),
            options.width,
            options.patch,
            grid=(options.positions,) * 2,
            dtype=options.dtype,
        )
        name = "simple_pyramid"  # as it is called in checkpoints
        return backbone, SimplePyramid(options.features, options.dtype, name=name)
    if options.backbone not in RESNETS:
        raise ValueError(
            f"backbone {options.backbone!r} is unknown; choose one of {', '.join(RESNETS)} or vit"
        )
    if options.freeze_at not in range(6):
        raise ValueError(
            f"freeze_at is {options.freeze_at}; expected 0 (nothing), 1 (the stem) or the last of "
            "the stages 2 to 5 to freeze"
        )
    backbone = ResNet(
        options.backbone,
        stride_in_1x1=rules.stride_in_1x1,
        norm=options.norm,
        epsilon=options.norm_epsilon,
        freeze_at=options.freeze_at,
        dtype=options.dtype,
    )
    pyramid = FeaturePyramid(
        options.features, options.pyramid_norm, options.norm_epsilon, options.dtype
    )
    return backbone, pyramid


def _build_heads(
    options: SimpleNamespace, rules: Conventions
) -> tuple[tuple[BoxHead, ...], MaskHead | None, KeypointHead | None]:
    """Builds the box heads, the mask head and the keypoint head."""
    shared = dict(
        norm=options.head_norm,
        epsilon=options.head_epsilon,
        background_rows=rules.background_rows,
        dtype=options.dtype,
    )
    stages = cascade_stages(options.box_stages, options.agnostic_boxes)
    box_heads = tuple(
        BoxHead(
            options.classes,
            convs=options.box_convs,
            conv_width=options.features,
            fcs=options.box_fcs,
            width=options.box_width,
            agnostic=options.agnostic_boxes,
            name=name,
            **shared,
        )
        for name in number_names("box_head", len(stages))
    )
    mask_head = keypoint_head = None
    if options.mask_convs:
        mask_head = MaskHead(
            options.classes,
            convs=options.mask_convs,
            width=options.mask_width,
            agnostic=options.agnostic_masks,
            **shared,
        )
    if options.keypoints:
        keypoint_head = KeypointHead(
            options.keypoints, options.keypoint_convs, options.keypoint_width, options.dtype
        )
    return box_heads, mask_head, keypoint_head
