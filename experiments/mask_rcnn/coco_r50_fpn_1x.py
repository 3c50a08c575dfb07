"""Mask R-CNN with a ResNet-50 and a feature pyramid on COCO, by detectron2's schedule "1x"; for accelerators.

    segjax prepare coco path/to/coco --out data/coco
    segjax train --config=experiments/mask_rcnn/coco_r50_fpn_1x.py --workdir=runs/coco
    segjax train --config=experiments/mask_rcnn/coco_r50_fpn_1x.py:3x --workdir=runs/coco-3x
    segjax train --config=experiments/mask_rcnn/coco_r50_fpn_1x.py:cascade --workdir=runs/coco-cascade

The backbone is that of torchvision's classifier, resnet50-0676ba61.pth. detectron2's model zoo has box AP 38.6 and mask
AP 35.2 on val2017 for 1x, 41.0 and 37.2 for 3x, from other weights of the same network; with a cascade of three box
heads (configs/Misc/cascade_mask_rcnn_R_50_FPN) 42.1 and 36.4, or 44.3 and 38.5. Nobody has trained this here.
"""

import ml_collections

from segjax.tasks.detection.config import apply_1x_recipe, as_variant, detection_config

VARIANTS = ("3x", "cascade", "3x,cascade", "cascade,3x")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config, asked = detection_config(), variant.split(",")
    name = "cascade_mask_rcnn_R_50_FPN" if "cascade" in asked else "mask_rcnn_R_50_FPN"
    config.model = ml_collections.ConfigDict(dict(name=name), convert_dict=True)
    config.data.source = "data/coco"
    config.init_from = "resnet:resnet50-0676ba61.pth"
    apply_1x_recipe(config)
    if "3x" in asked:
        config.total_steps = 270_000
        config.optimizer.boundaries = (210_000, 250_000)
    return as_variant(config, variant, known=VARIANTS)
