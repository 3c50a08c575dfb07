"""Options of all detectors by name: the keys of `config.model`, their defaults, and the sizes."""

from typing import Any, NamedTuple


class Option(NamedTuple):
    """An option of `build_mask_rcnn`.

    Attributes:
      default: value that the sizes below replace.
      comment: description for `segjax config`.
    """

    default: Any
    comment: str


# Configs of runs hold all of these, so none is ever removed. The defaults are a Mask R-CNN on a
# ResNet-50.
OPTIONS: dict[str, Option] = dict(
    conventions=Option("torchvision", "Rules to follow: torchvision, detectron2, detectron2_rgb."),
    classes=Option(80, "Number of classes without the background. 0: taken from the data."),
    dtype=Option("float32", "Type of the computation. Parameters and boxes stay float32."),
    # Images
    canvas=Option(1344, "Longest side of canvases in pixels, a multiple of 32."),
    short_side=Option(800, "Images are resized until the shorter side has this many pixels ..."),
    long_side=Option(1333, "... or the longer side has this many."),
    # Backbone
    backbone=Option("resnet50", "ResNet by name, or vit."),
    norm=Option("frozen_bn", "Norm of a ResNet: none, frozen_bn, bn, gn."),
    norm_epsilon=Option(1e-5, "Epsilon of the norms of a ResNet and of its pyramid."),
    freeze_at=Option(0, "Last frozen stage of a ResNet, 1 (the stem) to 5. 0 freezes nothing."),
    width=Option(768, "Channels of a ViT."),
    depth=Option(12, "Blocks of a ViT."),
    heads=Option(12, "Attention heads of a ViT."),
    window=Option(14, "Side of a ViT's attention windows in tokens."),
    global_blocks=Option((), "Indices of a ViT's blocks with global attention."),
    patch=Option(16, "Side of a ViT's patches in pixels."),
    positions=Option(14, "Side of the grid of a ViT's learned positions."),
    drop_path=Option(0.0, "Stochastic depth of a ViT's last block."),
    remat=Option("none", "Rematerialization of a ViT's blocks: none, full, dots."),
    scan=Option(False, "Run a ViT's equal blocks as one scan, which compiles faster."),
    attention=Option("xla", "Attention kernel of a ViT."),
    # Feature pyramid
    features=Option(256, "Channels of the feature pyramid."),
    pyramid_norm=Option("none", "Norm of a ResNet's pyramid: none, bn, gn, ln."),
    # Region proposals
    anchor_sizes=Option((32, 64, 128, 256, 512), "Side of the anchors of P2 to P6 in pixels."),
    anchor_ratios=Option((0.5, 1.0, 2.0), "Heights of anchors divided by widths."),
    rpn_convs=Option(1, "Convolutions of the region proposal network."),
    proposals_before=Option(
        (), "Proposals per level before suppression, (train, eval). (): usual."
    ),
    proposals_after=Option((), "Proposals per image after suppression, (train, eval). (): usual."),
    # Regions
    pooling=Option("roi_align", "Pooling of regions, see segjax.ops.roi.pooling."),
    canonical_size=Option(224.0, "Side in pixels of a box that is pooled from P4."),
    # Box heads
    box_stages=Option(1, "Number of box heads. More than 1 is a cascade."),
    box_convs=Option(0, "Convolutions of a box head."),
    box_fcs=Option(2, "Fully connected layers of a box head."),
    box_width=Option(1024, "Features of these layers."),
    agnostic_boxes=Option(False, "Predict one box for all classes. A cascade needs it."),
    head_norm=Option("none", "Norm of the box and mask heads' convolutions: none, bn, gn, ln."),
    head_epsilon=Option(1e-5, "Epsilon of this norm."),
    # Mask and keypoint head
    mask_convs=Option(4, "Convolutions of the mask head. 0: no masks."),
    mask_width=Option(256, "Channels of the mask head."),
    agnostic_masks=Option(False, "Predict one mask for all classes."),
    keypoints=Option(0, "Number of keypoints. 0: no keypoint head."),
    keypoint_convs=Option(8, "Convolutions of the keypoint head."),
    keypoint_width=Option(512, "Channels of the keypoint head."),
    # Semantic branch
    stuff=Option(0, "Classes of stuff of the semantic branch (Panoptic FPN). 0: no branch."),
    stuff_width=Option(128, "Channels of the semantic branch."),
    # Detections
    score_threshold=Option(0.05, "Minimum score of a detection."),
    nms_threshold=Option(0.5, "IoU above which a box suppresses others of its class."),
    detections=Option(100, "Maximum number of detections per image."),
    candidates=Option(1000, "Number of the best scores that enter suppression, per image."),
)

# torchvision's published files of the first generation hold statistics for an epsilon of 0. Its
# classifiers, and everything that is trained from them, need the usual 1e-5.
_TORCHVISION = dict(conventions="torchvision", classes=90, norm_epsilon=0.0)
# "Benchmarking detection transfer learning" (arXiv 2111.11429) as in torchvision: norms everywhere.
_SECOND_GENERATION = dict(
    norm="bn",
    norm_epsilon=1e-5,
    pyramid_norm="bn",
    head_norm="bn",
    rpn_convs=2,
    box_convs=4,
    box_fcs=1,
)
_DETECTRON2 = dict(conventions="detectron2", classes=80)
_PERSON = dict(classes=1, keypoints=17, mask_convs=0)
# arXiv 2203.16527, appendix: SAM's trunks, heads with LayerNorm, images of 1024 x 1024.
_VITDET = dict(
    conventions="detectron2_rgb",
    classes=80,
    backbone="vit",
    canvas=1024,
    short_side=1024,
    long_side=1024,
    head_norm="ln",
    head_epsilon=1e-6,
    rpn_convs=2,
    box_convs=4,
    box_fcs=1,
)
# Cascade R-CNN as in detectron2.
_CASCADE = dict(box_stages=3, agnostic_boxes=True)

SIZES: dict[str, dict[str, Any]] = {
    # torchvision's names, and the 90 category numbers of COCO, of which some are unused.
    "maskrcnn_resnet50_fpn": _TORCHVISION,
    "maskrcnn_resnet50_fpn_v2": _TORCHVISION | _SECOND_GENERATION,
    "fasterrcnn_resnet50_fpn": _TORCHVISION | dict(mask_convs=0),
    "fasterrcnn_resnet50_fpn_v2": _TORCHVISION | _SECOND_GENERATION | dict(mask_convs=0),
    "keypointrcnn_resnet50_fpn": _TORCHVISION | _PERSON,
    # torchvision publishes no weights for this one.
    "maskrcnn_resnet101_fpn": _TORCHVISION | dict(backbone="resnet101", norm_epsilon=1e-5),
    # detectron2's model zoo, for any schedule, and the 80 categories of COCO.
    "mask_rcnn_R_50_FPN": _DETECTRON2,
    "mask_rcnn_R_101_FPN": _DETECTRON2 | dict(backbone="resnet101"),
    "faster_rcnn_R_50_FPN": _DETECTRON2 | dict(mask_convs=0),
    "faster_rcnn_R_101_FPN": _DETECTRON2 | dict(mask_convs=0, backbone="resnet101"),
    "keypoint_rcnn_R_50_FPN": _DETECTRON2 | _PERSON,
    "cascade_mask_rcnn_R_50_FPN": _DETECTRON2 | _CASCADE | dict(proposals_after=(2000, 1000)),
    "vitdet_vit_b": _VITDET
    | dict(width=768, depth=12, heads=12, global_blocks=(2, 5, 8, 11), drop_path=0.1),
    "vitdet_vit_l": _VITDET
    | dict(width=1024, depth=24, heads=16, global_blocks=(5, 11, 17, 23), drop_path=0.4),
    "vitdet_vit_h": _VITDET
    | dict(width=1280, depth=32, heads=16, global_blocks=(7, 15, 23, 31), drop_path=0.5),
    # Ours, to train from scratch on a CPU: group norms, and heads of a quarter of the width.
    "maskrcnn_tiny": dict(
        conventions="detectron2_rgb",
        classes=80,
        norm="gn",
        pyramid_norm="gn",
        head_norm="gn",
        backbone="resnet18",
        canvas=256,
        short_side=256,
        long_side=256,
        features=64,
        box_width=256,
        mask_width=64,
        anchor_sizes=(16, 32, 64, 128, 256),
        canonical_size=112.0,
        proposals_before=(500, 250),
        proposals_after=(250, 100),
    ),
    # For tests and debug variants: every kind of layer, compiled in a second.
    "maskrcnn_debug": dict(
        conventions="torchvision",
        classes=3,
        backbone="resnet_debug",
        canvas=64,
        short_side=64,
        long_side=64,
        features=16,
        anchor_sizes=(8, 16, 32, 64, 128),
        canonical_size=56.0,
        box_width=32,
        mask_convs=2,
        mask_width=16,
        keypoints=2,
        keypoint_convs=1,
        keypoint_width=16,
        head_norm="none",
        detections=8,
        candidates=32,
        proposals_before=(32, 32),
        proposals_after=(16, 16),
    ),
}
SIZES |= {
    f"cascade_{name}": SIZES[name] | _CASCADE
    for name in ("vitdet_vit_b", "vitdet_vit_l", "vitdet_vit_h")
}
