"""The sizes of Mask R-CNN, published and small, in one table."""

import jax
import jax.numpy as jnp

from segjax.models.detection.mask_rcnn import MaskRcnn
from segjax.models.sizes import sized

# torchvision's published files of the first generation hold statistics for an epsilon of 0; its classifiers, and all
# that is trained from these, need the usual 1e-5.
_TORCHVISION = dict(conventions="torchvision", classes=90, norm_epsilon=0.0)
# Of "Benchmarking detection transfer learning" (arXiv 2111.11429), as torchvision has it: norms everywhere.
_SECOND = dict(
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
# arXiv 2203.16527, appendix: SAM's trunks, heads with LayerNorm, pictures of 1024 x 1024.
_VITDET = dict(
    conventions="detectron2_rgb",
    classes=80,
    backbone="vit",
    canvas=1024,
    short_side=1024,
    long_side=1024,
)
_VITDET |= dict(head_norm="ln", head_epsilon=1e-6, rpn_convs=2, box_convs=4, box_fcs=1)
# Cascade R-CNN as detectron2 has it.
_CASCADE = dict(box_stages=3, agnostic_boxes=True)
_SMALL = dict(
    conventions="detectron2_rgb", classes=80, norm="gn", pyramid_norm="gn", head_norm="gn"
)

SIZES = {
    # torchvision's names, and COCO's 90 categories with holes.
    "maskrcnn_resnet50_fpn": _TORCHVISION,
    "maskrcnn_resnet50_fpn_v2": _TORCHVISION | _SECOND,
    "fasterrcnn_resnet50_fpn": _TORCHVISION | dict(mask_convs=0),
    "fasterrcnn_resnet50_fpn_v2": _TORCHVISION | _SECOND | dict(mask_convs=0),
    "keypointrcnn_resnet50_fpn": _TORCHVISION | _PERSON,
    # torchvision publishes no weights of it.
    "maskrcnn_resnet101_fpn": _TORCHVISION | dict(backbone="resnet101", norm_epsilon=1e-5),
    # detectron2's model zoo, whatever the schedule, and COCO's 80 categories.
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
    # Ours, to train from nothing on a CPU: group norms, and heads of a quarter of the width.
    "maskrcnn_tiny": _SMALL
    | dict(
        backbone="resnet18",
        canvas=256,
        short_side=256,
        long_side=256,
        features=64,
        box_width=256,
        mask_width=64,
    )
    | dict(
        anchor_sizes=(16, 32, 64, 128, 256),
        canonical_size=112.0,
        proposals_before=(500, 250),
        proposals_after=(250, 100),
    ),
    # For tests and debug variants: all kinds of layer, in a second.
    "maskrcnn_debug": dict(
        conventions="torchvision", classes=3, backbone="resnet_debug", canvas=64, short_side=64
    )
    | dict(
        long_side=64,
        features=16,
        anchor_sizes=(8, 16, 32, 64, 128),
        canonical_size=56.0,
        box_width=32,
        mask_convs=2,
        mask_width=16,
    )
    | dict(keypoints=2, keypoint_convs=1, keypoint_width=16, head_norm="none")
    | dict(detections=8, candidates=32, proposals_before=(32, 32), proposals_after=(16, 16)),
}
SIZES |= {
    f"cascade_{name}": SIZES[name] | _CASCADE
    for name in ("vitdet_vit_b", "vitdet_vit_l", "vitdet_vit_h")
}


def build_mask_rcnn(name: str, **overrides) -> MaskRcnn:
    """A detector by name, with any attribute of `MaskRcnn` replaced; `dtype` may be a string.

    Raises:
      ValueError: unknown size, attribute or conventions, naming the nearest ones; a cascade that cannot be.
    """
    model = sized(MaskRcnn, SIZES, name, overrides)
    model.rules, model.stages  # noqa: B018 - what is wrong is said here, not when the model first runs
    return model


def init_mask_rcnn(model: MaskRcnn, key: jax.Array) -> dict:
    """Fresh variables {"params", "constants"} of a detector; traceable, so `jax.eval_shape` gives the shapes alone."""
    side = model.canvas if model.backbone == "vit" else 2 * model.divisor
    return {"constants": {}} | model.init(key, jnp.zeros((1, side, side, 3)))
